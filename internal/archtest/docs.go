package archtest

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Docs returns the pages that the project hands out: Markdown at the top of the tree and in docs, by path.
func Docs(tree fs.FS) (map[string]string, error) {
	out := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/adr/*.md"} {
		names, err := fs.Glob(tree, pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			raw, err := fs.ReadFile(tree, name)
			if err != nil {
				return nil, err
			}
			out[name] = string(raw)
		}
	}
	if len(out) < 10 {
		return nil, fmt.Errorf("found %d pages, which cannot be all", len(out))
	}
	return out, nil
}

var (
	docLink   = regexp.MustCompile(`\]\(<?([^)\s>]+)>?(?: "[^"]*")?\)`)
	docSource = regexp.MustCompile(`(?:src|href)="([^"]+)"`)
	inline    = regexp.MustCompile("`[^`\n]*`")
	heading   = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *#*$`)
	anchorTag = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
)

// DeadLinks returns what is wrong with the relative links of the pages, one sentence each: files that are
// not in the tree, headings that the page does not have.
func DeadLinks(tree fs.FS, pages map[string]string) []string {
	var wrong []string
	anchors := map[string][]string{}
	for page, text := range pages {
		anchors[page] = headingsOf(text)
	}
	for page, text := range pages {
		prose := inline.ReplaceAllString(withoutBlocks(text), "")
		for _, m := range append(docLink.FindAllStringSubmatch(prose, -1), docSource.FindAllStringSubmatch(prose, -1)...) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			to := page
			if file != "" {
				to = path.Join(path.Dir(page), file)
			}
			if _, err := fs.Stat(tree, to); err != nil {
				wrong = append(wrong, fmt.Sprintf("%s: link to %s, which is not there", page, m[1]))
				continue
			}
			if known, ok := anchors[to]; anchor != "" && ok && !slices.Contains(known, anchor) {
				wrong = append(wrong, fmt.Sprintf("%s: link to %s, and %s has no such heading", page, m[1], to))
			}
		}
	}
	slices.Sort(wrong)
	return wrong
}

// headingsOf are the names by which GitHub links to headings.
func headingsOf(text string) []string {
	var out []string
	text = withoutBlocks(text)
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		name := docLink.ReplaceAllString(strings.ReplaceAll(m[1], "`", ""), "]")
		name = strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', r >= 'a' && r <= 'z', r >= '0' && r <= '9', r > 127:
				return r
			}
			return -1
		}, strings.ToLower(name))
		for n, first := 1, name; slices.Contains(out, name); n++ {
			name = fmt.Sprintf("%s-%d", first, n)
		}
		out = append(out, name)
	}
	for _, m := range anchorTag.FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

// pipelineStep is a step that runs a shell: of GitHub (- run: …), GitLab (- …, also as a comment) or Jenkins (sh '…').
var pipelineStep = regexp.MustCompile(`^(?:(?:# )?- (?:run: )?|sh ')([a-z][a-z-]* .*?)'?$`)

// withoutBlocks is a page without its fenced blocks.
func withoutBlocks(text string) string {
	var out strings.Builder
	in := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			in = !in
			continue
		}
		if !in {
			out.WriteString(line)
		}
	}
	return out.String()
}

// Command is one call of a program in a fenced block, or in the prose, of a page.
type Command struct {
	Where string   // page:line
	Args  []string // without the program
}

// Understood fails for each call of a program that the pages of a tree tell to make and understands
// refuses, and if there are fewer than atLeast: then they were not found.
func Understood(tree fs.FS, program string, atLeast int, understands func(args []string) error) error {
	pages, err := Docs(tree)
	if err != nil {
		return err
	}
	all := Commands(pages, program)
	if len(all) < atLeast {
		return fmt.Errorf("found %d calls of %s", len(all), program)
	}
	var errs []error
	for _, c := range all {
		if err := understands(c.Args); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s %q: %w", c.Where, program, c.Args, err))
		}
	}
	return errors.Join(errs...)
}

// Commands returns how the pages' blocks of sh and console call a program, and the steps of pipelines in blocks
// of yaml and groovy. Only what is written after $ or # counts in console, where output stands too. In prose it
// is code that begins with the program.
func Commands(pages map[string]string, program string) []Command {
	var out []Command
	for page, text := range pages {
		fenced, lang, more := false, "", ""
		take := func(line int, code string) {
			for _, words := range callsIn(code) {
				if path.Base(words[0]) == program {
					out = append(out, Command{Where: fmt.Sprintf("%s:%d", page, line), Args: words[1:]})
				}
			}
		}
		for i, line := range strings.Split(text, "\n") {
			trimmed := strings.TrimSpace(line)
			if after, fence := strings.CutPrefix(trimmed, "```"); fence {
				if fenced = !fenced; fenced {
					lang = after
				}
				more = ""
				continue
			}
			switch {
			case !fenced:
				for _, code := range inline.FindAllString(line, -1) {
					if code = strings.Trim(code, "`"); strings.HasPrefix(code, program+" ") {
						take(i+1, code)
					}
				}
				continue
			case lang == "console" && more == "":
				prompt := strings.TrimPrefix(strings.TrimPrefix(trimmed, "$ "), "# ")
				if prompt == trimmed {
					continue
				}
				trimmed = prompt
			case lang == "yaml" || lang == "groovy":
				step := pipelineStep.FindStringSubmatch(trimmed)
				if step == nil {
					continue
				}
				trimmed = step[1]
			case lang != "sh" && lang != "console":
				continue
			}
			trimmed = more + trimmed
			if strings.HasSuffix(trimmed, `\`) {
				more = strings.TrimSuffix(trimmed, `\`)
				continue
			}
			more = ""
			take(i+1, trimmed)
		}
	}
	slices.SortFunc(out, func(a, b Command) int { return strings.Compare(a.Where, b.Where) })
	return out
}

// callsIn splits a line of shell into the words of each of its calls: enough of the shell for documentation.
func callsIn(line string) (calls [][]string) {
	var words []string
	var word strings.Builder
	quoted, begun := rune(0), false
	endWord := func() {
		if begun {
			words = append(words, word.String())
		}
		word.Reset()
		begun = false
	}
	endCall := func() {
		endWord()
		for len(words) > 0 && (words[0] == "sudo" || !strings.HasPrefix(words[0], "-") && strings.Contains(words[0], "=")) {
			words = words[1:]
		}
		if len(words) > 0 {
			calls = append(calls, words)
		}
		words = nil
	}
	for _, r := range line {
		switch {
		case quoted != 0 && r == quoted:
			quoted = 0
		case quoted != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quoted, begun = r, true
		case r == '#' && !begun:
			endCall()
			return calls
		case strings.ContainsRune("|&;()<>", r):
			endCall()
			if r == '<' || r == '>' {
				words = []string{"redirected"} // what follows is a file's name
			}
		case r == ' ' || r == '\t':
			endWord()
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	endCall()
	return calls
}
