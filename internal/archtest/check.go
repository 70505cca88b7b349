package archtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Import is one import of one file.
type Import struct {
	File string // below the module's root, with slashes
	Line int
	Path string // as written
}

func (i Import) test() bool { return strings.HasSuffix(i.File, "_test.go") }

// Check returns what is wrong with an import, one sentence each, in no more than one
// line a rule; an empty slice if nothing is.
func Check(i Import) []string {
	var wrong []string
	dir := path.Dir(i.File)
	if msg := checkRow(i, dir); msg != "" {
		wrong = append(wrong, msg)
	}
	for _, b := range Bans {
		if msg := checkBan(i, dir, b); msg != "" {
			wrong = append(wrong, msg)
		}
	}
	return wrong
}

func checkRow(i Import, dir string) string {
	from, ok := Find(dir)
	if !ok {
		return "" // reported once for the package, by CheckPackage
	}
	target, ours := strings.CutPrefix(i.Path, Module+"/")
	if !ours {
		if from.Row == RowVocabulary && !i.test() && strings.Contains(strings.Split(i.Path, "/")[0], ".") {
			return fmt.Sprintf("%s is vocabulary, which uses the standard library only, and imports %s", dir, i.Path)
		}
		return ""
	}
	if target == dir {
		return "" // an external test of its own package
	}
	to, ok := Find(target)
	switch {
	case !ok:
		return fmt.Sprintf("%s imports %s, which the table does not list", dir, target)
	case to.TestSupport:
		if i.test() || from.TestSupport || within(dir, "test") || within(dir, "tools") {
			return ""
		}
		return fmt.Sprintf("%s imports %s, which is for tests", dir, target)
	case to.Row > from.Row, to.Row == from.Row && from.TestSupport:
		return ""
	}
	return fmt.Sprintf("%s (row %s) imports %s (row %s): a package imports only rows below its own",
		dir, from.Row, target, to.Row)
}

func checkBan(i Import, dir string, b Ban) string {
	if !within(i.Path, b.Import) || (i.test() && !b.TestsToo) {
		return ""
	}
	// A standard library package bans only itself: log is not log/slog.
	if !strings.Contains(b.Import, ".") && i.Path != b.Import {
		return ""
	}
	if slices.ContainsFunc(b.Allowed, func(root string) bool { return within(dir, root) }) {
		return ""
	}
	where := "nowhere"
	if len(b.Allowed) > 0 {
		where = "only below " + strings.Join(b.Allowed, ", ")
	}
	return fmt.Sprintf("%s imports %s, allowed %s: %s", dir, i.Path, where, b.Why)
}

// CheckPackage returns what is wrong with a package's place and name.
func CheckPackage(dir, name string) []string {
	var wrong []string
	if _, ok := Find(dir); !ok {
		wrong = append(wrong, fmt.Sprintf(
			"%s is not in the table of internal/archtest/rows.go: add it to the row where it belongs, and to ARCHITECTURE.md", dir))
	}
	for _, part := range append(strings.Split(dir, "/"), strings.TrimSuffix(name, "_test")) {
		if slices.Contains(BadNames, part) {
			wrong = append(wrong, fmt.Sprintf("%s (package %s): %q says nothing; name a package by what it gives", dir, name, part))
			break
		}
	}
	return wrong
}
