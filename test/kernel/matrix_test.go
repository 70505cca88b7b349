package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// matrixOut names the variable with the file that TestMatrix appends its lines to. Those of
// several machines make docs/bypass-matrix.md; see TestMatrixPage.
const matrixOut = "BELAY_ATTACK_OUT"

// What the page says of an attack besides its own words.
const (
	onVolume  = ", on a volume"
	ownPolicy = ", under a policy of the container's own"
)

// untried: without a policy the attack does not win here, so with one nothing is shown.
const untried = "not tried"

// matrixCases lists every attack that the matrix has. A further family is one line here.
func matrixCases() []attackCase {
	return slices.Concat(attackCases, fileCases(), privilegeCases(), networkMatrix(), phaseCases(), moreCases(), hostCases(), sceneCases(), gapCases(), indirectCases(), openCases(), outsideCases())
}

// cell is one attack on one machine, and one line of the file.
type cell struct {
	ID      string `json:"id"` // of the technique
	Attack  string `json:"attack"`
	What    string `json:"what"`
	Rule    string `json:"rule"`
	Column  string `json:"column"` // kernel and backend
	Outcome string `json:"outcome"`
	Hook    string `json:"hook,omitempty"` // that wrote the record
	Why     string `json:"why,omitempty"`  // of each outcome but prevented and killed
}

// trial is what one run of an attack has shown.
type trial struct {
	won, untried bool
	said         string
	decision     verdict.Decision // of the first record of the rule; empty: there is none
	hook         string
}

// technique is what bin/attack says of an attack.
type technique struct{ id, about string }

func (c attackCase) what(known map[string]technique) (id, about string) {
	id, about = c.id, c.about
	if k, ok := known[c.name]; ok {
		id, about = k.id, k.about
	}
	if c.volume {
		about += onVolume
	}
	if c.bound {
		about += ownPolicy
	}
	return id, about
}

// techniques asks bin/attack for its list.
func techniques(t *testing.T) map[string]technique {
	t.Helper()
	out, err := exec.Command(bin("attack"), "list").Output()
	if err != nil {
		t.Fatalf("attack list: %v", err)
	}
	known := map[string]technique{}
	gap := regexp.MustCompile(`\s{2,}`)
	for i, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		f := gap.Split(line, 4)
		if len(f) != 4 {
			t.Fatalf("attack list, line %d: %q", i+1, line)
		}
		if i > 0 {
			known[f[0]] = technique{f[1], f[3]}
		}
	}
	return known
}

// column names this machine: the series of its kernel and the backend.
func column(t *testing.T, h *host) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	series := regexp.MustCompile(`^\d+\.\d+`).FindString(unix.ByteSliceToString(u.Release[:]))
	c := series + " " + string(h.kernel.Backend())
	if h.opts.SignalSyscalls {
		c += "+syscalls"
	}
	return c
}

// TestMatrix plays every attack twice, with no policy and under the one that is to stop it, and
// writes down what became of it. It holds no expectation: what the outcome is follows from what the
// attack did and from what the kernel recorded.
func TestMatrix(t *testing.T) {
	path := os.Getenv(matrixOut)
	testneed.Need(t, "attack-matrix", path != "", "make attack, which sets "+matrixOut)
	if os.Getenv("BELAY_TEST_SYSCALLS") != "" {
		withSyscalls(t, func(h *host) { matrix(t, h, path) })
		return
	}
	matrix(t, get(t), path)
}

func matrix(t *testing.T, h *host, path string) {
	t.Helper()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	known, cases, col := techniques(t), matrixCases(), column(t, h)
	for name := range known {
		if !slices.ContainsFunc(cases, func(c attackCase) bool { return c.name == name }) {
			t.Errorf("attack %s of tools/attack is played by no case", name)
		}
	}
	for _, c := range cases {
		t.Run(c.title()+" against "+c.rule.String(), func(t *testing.T) {
			l := cell{Attack: c.name, Rule: c.rule.String(), Column: col, Outcome: untried, Why: "this machine lacks what the attack needs"}
			l.ID, l.What = c.what(known)
			if l.ID == "" {
				t.Fatalf("neither bin/attack nor the case says which technique %s is", c.name)
			}
			defer func() { // also when a need skips the test
				if err := json.NewEncoder(out).Encode(l); err != nil {
					t.Error(err)
				}
			}()
			if c.needs != nil { // once for both tries
				c.needs(t)
				c.needs = nil
			}
			bare := h.try(t, c, false)
			var under trial
			if bare.won {
				under = h.try(t, c, true)
			}
			l.Outcome, l.Why, err = judge(bare, under, h.level(c.rule), c.silent)
			l.Hook = under.hook
			if err != nil {
				t.Error(err)
			}
			if l.Outcome == open && reasons[c.name] != "" {
				l.Why = reasons[c.name]
			}
			t.Logf("%s %s %s", l.Outcome, l.Hook, l.Why)
		})
	}
}

// judge says what became of an attack, and of each outcome but prevented and killed why. silent: the
// attack cannot tell whether it was refused, so that the record decides.
//
// Errors: an attack that was stopped and left no record, or that a policy keeps from being tried: the
// suite cannot tell what that was.
func judge(bare, under trial, level enforce.RuleLevel, silent bool) (outcome, why string, err error) {
	switch {
	case bare.untried:
		return untried, strings.TrimSpace(bare.said), nil
	case !bare.won:
		return untried, "with no policy it does not win either: " + strings.TrimSpace(bare.said), nil
	case under.untried:
		return untried, "under the policy: " + strings.TrimSpace(under.said), fmt.Errorf("under the policy it cannot be tried: %s", under.said)
	case under.won && (!silent || under.decision == ""):
		switch {
		case under.decision != "":
			return detected, "the act is done, and recorded", nil
		case level.Level == verdict.Unsupported && level.Note != "":
			return unsupported, level.Note, nil
		case level.Level == verdict.Unsupported:
			return unsupported, "the backend does not see the acts of " + level.Name, nil
		case level.Note != "":
			return open, level.Note, nil
		}
		return open, "", nil
	case under.decision == verdict.Denied:
		return prevented, "", nil
	case under.decision == verdict.Killed:
		return killed, "", nil
	}
	return untried, "stopped, and nothing recorded", fmt.Errorf("stopped with no record: %s", under.said)
}

func (h *host) level(rule verdict.Rule) enforce.RuleLevel {
	for _, l := range h.kernel.Levels() {
		if l.Rule == rule {
			return l
		}
	}
	return enforce.RuleLevel{Rule: rule, Name: rule.String()}
}

// try plays a case with no policy, or under its own.
func (h *host) try(t *testing.T, c attackCase, guarded bool) trial {
	t.Helper()
	if c.scene != nil {
		return c.scene(t, h, c, guarded)
	}
	h.enact(t, c.document(guarded))
	id := newID()
	if !guarded && c.policy == guardPolicy {
		id = h.loosened(t, "")
	}
	return h.seen(h.play(t, c, id), c.rule)
}

// document is the policy of a case, or one that asks for nothing.
func (c attackCase) document(guarded bool) string {
	if !guarded {
		return document("none", "audit", nothing)
	}
	return document("enforced", "enforce", c.policy)
}

// seen turns the end of an attack and the records of its container into a trial. All of the
// container's processes have ended.
func (h *host) seen(r result, rule verdict.Rule) trial {
	tr := trial{won: r.code == 0 || strings.Contains(r.out, "WON"), said: r.out}
	tr.untried = !tr.won && (r.code == 2 || r.code == 64)
	var ev *enforce.Event
	for i, end := 0, 500; i < end; i++ {
		var gone bool
		if ev, gone = h.first(r.id, rule); ev != nil && ev.Rule == rule {
			break
		}
		if gone && end == 500 {
			end = i + 50 // denials have a ring of their own, which may be read a little later
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the ring has no other signal
	}
	if ev != nil {
		tr.decision, tr.hook = ev.Decision, ev.Hook
	}
	return tr
}

// first returns a container's first record of a rule, or else of a script that user space is to judge,
// and whether the container's end was seen.
func (h *host) first(id string, rule verdict.Rule) (found *enforce.Event, gone bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ev := range h.events {
		switch {
		case string(ev.Container) != id:
		case ev.Type == enforce.EventGone:
			gone = true
		case ev.Rule == rule:
			return ev, gone
		case rule == verdict.RuleDrift && ev.Script && ev.Decision == verdict.Allowed && found == nil:
			found = ev
		}
	}
	return found, gone
}

func TestJudge(t *testing.T) {
	seen := func(d verdict.Decision) trial { return trial{decision: d} }
	won := trial{won: true}
	for _, tt := range []struct {
		name        string
		bare, under trial
		level       verdict.Level
		silent      bool
		want        string
		fails       bool
	}{
		{name: "zero", want: untried},
		{name: "cannot be tried", bare: trial{untried: true, said: "no x32"}, want: untried},
		{name: "loses by itself", bare: trial{said: "refused"}, under: seen(verdict.Denied), want: untried},
		{name: "denied", bare: won, under: seen(verdict.Denied), level: verdict.Prevent, want: prevented},
		{name: "killed", bare: won, under: seen(verdict.Killed), level: verdict.Prevent, want: killed},
		{name: "stopped by something else", bare: won, under: trial{}, level: verdict.Prevent, want: untried, fails: true},
		{name: "not tried under the policy", bare: won, under: trial{untried: true}, want: untried, fails: true},
		{name: "wins", bare: won, under: won, level: verdict.Prevent, want: open},
		{name: "wins where there is no rule", bare: won, under: won, level: verdict.Unsupported, want: unsupported},
		{name: "wins with a record", bare: won, under: trial{won: true, decision: verdict.Denied}, level: verdict.Prevent, want: detected},
		{name: "silent, with a record", bare: won, under: trial{won: true, decision: verdict.Denied}, silent: true, want: prevented},
		{name: "silent, without", bare: won, under: won, level: verdict.Prevent, silent: true, want: open},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, why, err := judge(tt.bare, tt.under, enforce.RuleLevel{Level: tt.level}, tt.silent)
			if got != tt.want || (err != nil) != tt.fails {
				t.Errorf("%s (%s), %v; want %s", got, why, err, tt.want)
			}
		})
	}
}

// readCells reads the files of several runs.
func readCells(paths []string) (cells []cell, err error) {
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			var c cell
			if err := json.Unmarshal([]byte(line), &c); err != nil {
				return nil, fmt.Errorf("%s: %w", p, err)
			}
			if c.ID == "" || c.Attack == "" || c.Rule == "" || c.Column == "" || c.Outcome == "" {
				return nil, fmt.Errorf("%s: a line lacks a field: %s", p, line)
			}
			cells = append(cells, c)
		}
	}
	if len(cells) == 0 && len(paths) > 0 {
		return nil, errors.New("no run has written a line")
	}
	return cells, nil
}
