package policy

import (
	"cmp"
	"path"
	"strconv"
	"strings"
)

// PathKind says which files a pattern names. The numbers are those of enum
// bl_path_kind in bpf/rules.h.
type PathKind uint8

// The kinds of path patterns.
const (
	PathExact PathKind = 0 // the file itself
	PathTree  PathKind = 1 // every file below the directory, at any depth
	PathChild PathKind = 2 // files directly in the directory
)

// String returns exact, tree or child.
func (k PathKind) String() string {
	switch k {
	case PathExact:
		return "exact"
	case PathTree:
		return "tree"
	case PathChild:
		return "child"
	}
	return "pathkind(" + strconv.Itoa(int(k)) + ")"
}

// Pattern is one path of exec.allow or exec.deny. Path is absolute and clean: the
// file of PathExact, else the directory.
type Pattern struct {
	Kind PathKind
	Path string
}

// String returns the pattern as it is written in a policy.
func (p Pattern) String() string {
	dir := p.Path
	if dir == "/" {
		dir = ""
	}
	switch p.Kind {
	case PathTree:
		return dir + "/**"
	case PathChild:
		return dir + "/*"
	}
	return p.Path
}

// Match reports whether the pattern names the file at file, an absolute clean path.
func (p Pattern) Match(file string) bool {
	switch p.Kind {
	case PathExact:
		return file == p.Path
	case PathTree:
		return below(p.Path, file)
	case PathChild:
		return file != "/" && path.Dir(file) == p.Path
	}
	return false
}

// below reports whether file lies under dir, at any depth.
func below(dir, file string) bool {
	if dir == "/" {
		return file != "/"
	}
	return len(file) > len(dir) && file[len(dir)] == '/' && file[:len(dir)] == dir
}

// Limits of Linux: PATH_MAX less its terminator, NAME_MAX (linux/limits.h).
const (
	maxPath = 4095
	maxName = 255
)

// parsePattern returns the pattern that s is, or what is wrong and how to mend it.
func parsePattern(s string) (p Pattern, msg, fix string) {
	p = Pattern{Kind: PathExact, Path: s}
	if dir, ok := strings.CutSuffix(s, "/**"); ok {
		p = Pattern{Kind: PathTree, Path: dir}
	} else if dir, ok := strings.CutSuffix(s, "/*"); ok {
		p = Pattern{Kind: PathChild, Path: dir}
	}
	if p.Kind != PathExact && p.Path == "" {
		p.Path = "/"
	}
	if strings.ContainsAny(p.Path, "*?") || globBrackets(p.Path) {
		return p, quote(s) + " is not a pattern that the kernel can judge",
			`write a file ("/usr/bin/wget"), a tree ("/opt/app/**") or one level ("/usr/local/bin/*")`
	}
	if msg, fix = checkPath(p.Path); msg != "" {
		return p, msg, fix
	}
	if p.Kind == PathExact && p.Path == "/" {
		return p, `"/" is a directory`, `write "/**" for every file`
	}
	return p, "", ""
}

// globBrackets reports whether s looks like a glob with a class or alternatives. One
// bracket alone is a name: /usr/bin/[ is a program.
func globBrackets(s string) bool {
	return strings.Contains(s, "[") && strings.Contains(s, "]") ||
		strings.Contains(s, "{") && strings.Contains(s, "}")
}

// checkPath says what keeps s from being an absolute, clean path.
func checkPath(s string) (msg, fix string) {
	switch {
	case !strings.HasPrefix(s, "/"):
		return quote(s) + " is not an absolute path", `start it with "/"`
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }):
		return quote(s) + " has a control character or a backslash", "write the path as ls shows it, without escapes"
	case path.Clean(s) != s:
		return quote(s) + " is not a clean path", "write " + strconv.Quote(short(path.Clean(s)))
	case len(s) > maxPath:
		return "the path is longer than " + strconv.Itoa(maxPath) + " bytes", "Linux has no such path"
	}
	for name := range strings.SplitSeq(s, "/") {
		if len(name) > maxName {
			return "a name in the path is longer than " + strconv.Itoa(maxName) + " bytes", "Linux has no such name"
		}
	}
	return "", ""
}

// checkHostPath says what keeps s from naming one file of the host.
func checkHostPath(s string) (msg, fix string) {
	if strings.ContainsAny(s, "*?") || globBrackets(s) {
		return quote(s) + " is a pattern; a helper is one file", "list each file of the host by its path"
	}
	if s == "/" {
		return `"/" is a directory`, "list each file of the host by its path"
	}
	return checkPath(s)
}

// usrmerge lists the directories that are symbolic links into /usr on most
// distributions and directories of their own on some (Alpine, older Debian).
var usrmerge = []string{"/bin", "/sbin", "/lib", "/lib64"}

// alias returns the other spelling of p under usrmerge, and false if there is none.
func (p Pattern) alias() (Pattern, bool) {
	for _, dir := range usrmerge {
		if p.Path == dir || strings.HasPrefix(p.Path, dir+"/") {
			return Pattern{p.Kind, "/usr" + p.Path}, true
		}
		if p.Path == "/usr"+dir || strings.HasPrefix(p.Path, "/usr"+dir+"/") {
			return Pattern{p.Kind, strings.TrimPrefix(p.Path, "/usr")}, true
		}
	}
	return Pattern{}, false
}

// withAliases returns the patterns of list and their other spellings, sorted, each
// once.
func withAliases(list []Pattern) []Pattern {
	out := make([]Pattern, 0, len(list))
	for _, p := range list {
		out = append(out, p)
		if a, ok := p.alias(); ok {
			out = append(out, a)
		}
	}
	return sortedSet(out, comparePatterns)
}

func comparePatterns(a, b Pattern) int {
	return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Kind, b.Kind))
}

// covers reports whether every file that b names is named by a.
func (p Pattern) covers(b Pattern) bool {
	switch {
	case p == b:
		return true
	case b.Kind == PathExact:
		return p.Match(b.Path)
	case p.Kind == PathTree:
		return b.Path == p.Path || below(p.Path, b.Path)
	}
	return false
}

// intersect returns patterns that name exactly the files named by a and by b. Two
// patterns either cover one another or share nothing, so the result needs no new
// pattern.
func intersect(a, b []Pattern) []Pattern {
	var out []Pattern
	for _, x := range a {
		for _, y := range b {
			switch {
			case y.covers(x):
				out = append(out, x)
			case x.covers(y):
				out = append(out, y)
			}
		}
	}
	return sortedSet(out, comparePatterns)
}

func patternStrings(ps []Pattern) []string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
	}
	return out
}
