package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/enforce"
)

// skips counts what the kernel leaves out of the programs: it counts anew where they are attached anew.
type skips struct {
	last  map[string]enforce.Skips // by hook
	total map[string]uint64
}

// add returns how many are new.
func (s *skips) add(now map[string]enforce.Skips) (fresh uint64) {
	if s.total == nil {
		s.total = map[string]uint64{}
	}
	for hook, is := range now {
		n := is.Times
		if before := s.last[hook]; is.Program == before.Program {
			n -= before.Times
		}
		s.total[hook] += n
		fresh += n
	}
	s.last = now
	return fresh
}

// tellSkips reports acts that passed because the kernel left out a program. One that did is not forgotten while the
// agent runs: it shows what the kernel may do at any time.
func (a *Agent) tellSkips(now map[string]enforce.Skips, err error) {
	const component = "kernel_skips"
	if err != nil {
		a.health.SetDegraded(component, err.Error())
		return
	}
	fresh := a.skips.add(now)
	if len(a.skips.total) == 0 {
		a.health.SetOK(component)
		return
	}
	var at []string
	for _, hook := range slices.Sorted(maps.Keys(a.skips.total)) {
		at = append(at, fmt.Sprintf("%s %d", hook, a.skips.total[hook]))
	}
	text := "the kernel left out programs, and what they would have judged passed: " + strings.Join(at, ", ") + "; see belay doctor, kernel.preemption"
	a.health.SetDegraded(component, text)
	if fresh > 0 {
		a.health.Counter("kernel_skipped").Add(fresh)
		a.note(text)
		a.log.Warn("the kernel left out programs", attr.Count, fresh)
	}
}
