package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
)

// matrixPage is the page that `make attack` writes. It is also where the results of one machine are
// kept while another's are added.
const matrixPage = "../../docs/bypass-matrix.md"

// matrixLines names the variable with the files that TestMatrixPage adds to the page, parted by colons;
// "page" adds none and writes it all the same.
const matrixLines = "BELAY_ATTACK_LINES"

const matrixHead = `# Ways around the kernel's rules, and what became of them

Written by ` + "`make attack`" + ` ([CONTRIBUTING.md](../CONTRIBUTING.md)); a test compares the page with the list of attacks. Each line is one attack of
` + "`tools/attack`" + `, or one scene of ` + "`test/kernel/scenes_test.go`" + ` for what comes from outside a container. It is played in a real container twice: with no policy, where it must
win, and under a policy with the rule that is to stop it, in mode enforce. The ids are those of the [threat model](threat-model.md).

A cell says what was measured, from what the attack did and from what the kernel recorded: **prevented**, the act failed, and a record says by which hook;
**killed**, the task got SIGKILL before it could act, and a record says so; **detected**, the act was done, and recorded; **open**, it was done and not seen;
**unsupported**, the same where ` + "`belay status`" + ` says that the rule has no effect on such a host; **not tried**, it does not win with no policy either, or needs
what the machine lacks. "–": not played there yet. Numbers lead to the reasons below.

A column is a kernel and a backend. 6.1 and 6.12 are Debian's kernels in virtual machines, booted with ` + "`bpf` in `lsm=` for `lsm`" + `, and without for the other
two; 6.18 is a machine whose kernel has no trampolines. "+syscalls" is ` + "`--signal-syscalls`" + `.
`

// row is a line of the table: one attack against one rule.
type row struct {
	id, attack, what, rule string
	cells                  map[string]string // by column: outcome, hook
	why                    map[string]string // by column
}

func (r row) key() string { return r.attack + " | " + r.what + " | " + r.rule }

// page is what docs/bypass-matrix.md holds.
type page struct {
	columns []string
	rows    []row
}

// mark is a cell's text: "open [2]" or "prevented (file_open)".
func mark(outcome, hook string) string {
	if outcome == open {
		outcome = "**" + open + "**"
	}
	if hook != "" {
		outcome += " (" + hook + ")"
	}
	return outcome
}

// add enters what one machine has measured.
func (p *page) add(cells []cell) {
	for _, c := range cells {
		if !slices.Contains(p.columns, c.Column) {
			p.columns = append(p.columns, c.Column)
		}
		n := row{id: c.ID, attack: c.Attack, what: c.What, rule: c.Rule}
		i := slices.IndexFunc(p.rows, func(r row) bool { return r.key() == n.key() })
		if i < 0 {
			i = len(p.rows)
			n.cells, n.why = map[string]string{}, map[string]string{}
			p.rows = append(p.rows, n)
		}
		p.rows[i].id = c.ID
		p.rows[i].cells[c.Column] = mark(c.Outcome, c.Hook)
		p.rows[i].why[c.Column] = oneLine(c.Why)
	}
}

// maxReason bounds what an attack said; reasons of ours are shorter.
const maxReason = 600

// oneLine makes what an attack said fit a list, and free of what differs with each run.
func oneLine(why string) string {
	f := strings.Fields(scratch.ReplaceAllString(why, "/tmp/attack"))
	text := strings.Join(f, " ")
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	return strings.NewReplacer("|", "/", "\x00", "").Replace(text)
}

// keep drops rows that no case has any more, and makes those that no machine has played.
func (p *page) keep(cases []row) {
	p.rows = slices.DeleteFunc(p.rows, func(r row) bool {
		return !slices.ContainsFunc(cases, func(c row) bool { return c.key() == r.key() })
	})
	for _, c := range cases {
		if !slices.ContainsFunc(p.rows, func(r row) bool { return c.key() == r.key() }) {
			c.cells, c.why = map[string]string{}, map[string]string{}
			p.rows = append(p.rows, c)
		}
	}
}

func (p *page) render() string {
	slices.SortStableFunc(p.rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(idOrder(a.id), idOrder(b.id)), cmp.Compare(a.attack, b.attack), cmp.Compare(a.key(), b.key()))
	})
	slices.SortFunc(p.columns, func(a, b string) int { return cmp.Compare(columnOrder(a), columnOrder(b)) })
	var b strings.Builder
	b.WriteString(matrixHead + "\n| id | attack | what it does | rule | " + strings.Join(p.columns, " | ") + " |\n")
	b.WriteString("|---|---|---|---|" + strings.Repeat("---|", len(p.columns)) + "\n")
	var notes []string
	for _, r := range p.rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |", r.id, r.attack, r.what, r.rule)
		for _, col := range p.columns {
			text := r.cells[col]
			if text == "" {
				text = "–"
			}
			if why := r.why[col]; why != "" {
				i := slices.Index(notes, why)
				if i < 0 {
					i = len(notes)
					notes = append(notes, why)
				}
				text += fmt.Sprintf(" [%d]", i+1)
			}
			b.WriteString(" " + text + " |")
		}
		b.WriteByte('\n')
	}
	b.WriteString("\n## Reasons\n")
	for i, n := range notes {
		fmt.Fprintf(&b, "- [%d] %s\n", i+1, n)
	}
	b.WriteString("\n## What is not in the table\n| id | why |\n|---|---|\n")
	for _, id := range p.absent() {
		fmt.Fprintf(&b, "| %s | %s |\n", id, beyond[id])
	}
	return b.String()
}

// absent returns the techniques that no row is about.
func (p *page) absent() (ids []string) {
	for _, id := range catalogue {
		if !slices.ContainsFunc(p.rows, func(r row) bool { return r.id == id }) {
			ids = append(ids, id)
		}
	}
	return ids
}

// parsePage reads a page that render has written.
func parsePage(text string) (*page, error) {
	p := &page{}
	notes := map[string]string{}
	for line := range strings.Lines(text) {
		if n, why, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "- ["), "] "); ok && strings.HasPrefix(line, "- [") {
			notes[n] = why
		}
	}
	for line := range strings.Lines(text) {
		f := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		switch {
		case len(f) < 4 || strings.HasPrefix(f[0], "-"):
			continue
		case f[0] == "id":
			p.columns = f[4:]
			continue
		case len(f) != 4+len(p.columns):
			return nil, fmt.Errorf("a row of %d fields, want %d: %s", len(f), 4+len(p.columns), line)
		}
		r := row{id: f[0], attack: f[1], what: f[2], rule: f[3], cells: map[string]string{}, why: map[string]string{}}
		for i, col := range p.columns {
			text, n, ok := strings.Cut(strings.TrimSuffix(f[4+i], "]"), " [")
			if text != "–" {
				r.cells[col] = text
			}
			if ok {
				if notes[n] == "" {
					return nil, fmt.Errorf("no reason [%s]: %s", n, line)
				}
				r.why[col] = notes[n]
			}
		}
		p.rows = append(p.rows, r)
	}
	if len(p.rows) == 0 {
		return nil, errors.New("the page has no table")
	}
	return p, nil
}

// idOrder sorts ids as people count: E2 before E10.
func idOrder(id string) string { return fmt.Sprintf("%.1s%03s", id, strings.TrimLeft(id, "EFHINP")) }

// columnOrder sorts columns by kernel, then by backend.
func columnOrder(c string) string {
	series, backend, _ := strings.Cut(c, " ")
	major, minor, _ := strings.Cut(series, ".")
	n, err := strconv.Atoi(minor)
	if err != nil {
		return c
	}
	return fmt.Sprintf("%s.%03d %s", major, n, backend)
}

// faults says what a page must not have.
func (p *page) faults(cases []row) (out []string) {
	fault := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, c := range cases {
		if !slices.ContainsFunc(p.rows, func(r row) bool { return r.key() == c.key() }) {
			fault("no row for %s", c.key())
		}
	}
	for _, col := range []string{"6.1 lsm", "6.1 modret", "6.12 lsm", "6.12 modret", "6.18 signal", "6.18 signal+syscalls"} {
		if !slices.Contains(p.columns, col) {
			fault("no column %s: make attack plays it", col)
		}
	}
	for _, id := range p.absent() {
		if beyond[id] == "" {
			fault("%s has neither an attack nor a reason for having none", id)
		}
	}
	for _, r := range p.rows {
		if !slices.Contains(catalogue, r.id) {
			fault("%s is of %s, which is not in the list of techniques", r.attack, r.id)
		}
		if !slices.ContainsFunc(cases, func(c row) bool { return c.key() == r.key() }) {
			fault("a row of no case: %s", r.key())
		}
		for col, text := range r.cells {
			outcome, _, _ := strings.Cut(strings.Trim(text, "*"), " (")
			switch {
			case outcome == prevented || outcome == killed:
			case outcome != detected && outcome != open && outcome != unsupported && outcome != untried:
				fault("%s on %s: %q is no outcome", r.attack, col, text)
			case r.why[col] == "":
				fault("%s on %s is %s, and the page does not say why: enter it in reasons", r.attack, col, outcome)
			}
		}
	}
	return out
}

// caseRows are the rows that the page must have. What bin/attack says of an attack is in its source
// alone, so that a test without it takes it from the page.
func caseRows(p *page, known map[string]technique) (rows []row) {
	for _, c := range matrixCases() {
		id, what := c.what(known)
		r := row{id: id, attack: c.name, what: what, rule: c.rule.String()}
		if known == nil && c.id == "" {
			for _, have := range p.rows {
				if have.attack == r.attack && have.rule == r.rule && strings.HasSuffix(have.what, onVolume) == c.volume &&
					strings.HasSuffix(have.what, ownPolicy) == c.bound {
					r.id, r.what = have.id, have.what
				}
			}
		}
		rows = append(rows, r)
	}
	return rows
}

// The page has a row for each attack and says why of each that was not stopped.
func TestMatrixPage(t *testing.T) {
	_, err := os.Stat("../../go.mod")
	testneed.Need(t, "source", err == nil, "the source tree as go test has it: the page is below docs/")
	write := os.Getenv(matrixLines)
	var known map[string]technique
	if write != "" {
		known = techniques(t)
	}
	p := &page{}
	text, err := os.ReadFile(matrixPage)
	if err == nil {
		p, err = parsePage(string(text))
	}
	if err != nil && (write == "" || !errors.Is(err, os.ErrNotExist)) {
		t.Fatal(err)
	}
	if write != "" {
		if write != "page" {
			cells, err := readCells(filepath.SplitList(write))
			if err != nil {
				t.Fatal(err)
			}
			p.add(cells)
		}
		p.keep(caseRows(p, known))
		if err := os.WriteFile(matrixPage, []byte(p.render()), 0o644); err != nil {
			t.Fatal(err)
		}
		text = []byte(p.render())
	}
	for _, f := range p.faults(caseRows(p, known)) {
		t.Errorf("docs/bypass-matrix.md: %s", f)
	}
	if p.render() != string(text) {
		t.Error("docs/bypass-matrix.md is not as it is written: tools/ci/attack.sh page writes it anew")
	}
}

// What a page says comes back when it is read, and a page that hides something is found.
func TestMatrixPageKeeps(t *testing.T) {
	p := &page{}
	p.add([]cell{
		{ID: "E10", Attack: "e10-script", What: "a script", Rule: "exec.drift", Column: "6.12 lsm", Outcome: prevented, Hook: "bprm"},
		{ID: "E10", Attack: "e10-script", What: "a script", Rule: "exec.drift", Column: "6.1 lsm", Outcome: open, Why: "a | b\nc"},
		{ID: "E2", Attack: "e2-fd", What: "by fd", Rule: "exec.deny", Column: "6.12 lsm", Outcome: untried, Why: "cannot open /tmp/attack-123/x"},
	})
	first := p.render()
	q, err := parsePage(first)
	if err != nil {
		t.Fatal(err)
	}
	if second := q.render(); second != first {
		t.Errorf("read and written again:\n%s\nwas\n%s", second, first)
	}
	if q.rows[0].id != "E2" || q.columns[0] != "6.1 lsm" || q.rows[1].why["6.1 lsm"] != "a / b c" {
		t.Errorf("rows %+v", q.rows)
	}
	if f := q.faults(q.rows); slices.ContainsFunc(f, func(s string) bool { return strings.Contains(s, "e10-script") }) {
		t.Errorf("faults of a good row: %q", f)
	}
	q.rows[1].why = map[string]string{}
	if f := q.faults(q.rows[:1]); !slices.ContainsFunc(f, func(s string) bool { return strings.HasPrefix(s, "e10-script on 6.1 lsm is open") }) ||
		!slices.ContainsFunc(f, func(s string) bool { return strings.HasPrefix(s, "a row of no case: e10-script") }) {
		t.Errorf("faults %q", f)
	}
}
