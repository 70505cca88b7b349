package main

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

// topPicture is what `belay top` shows at a moment. Rates are of the last minute, or of the time
// since the start if that is shorter; counts are since the start.
type topPicture struct {
	Time       time.Time         `json:"time"`
	Host       string            `json:"host"`
	Enforcing  bool              `json:"enforcing"`
	Why        string            `json:"why,omitempty"` // why not
	Backend    string            `json:"backend"`
	Policies   int               `json:"policies"`
	Troubles   []string          `json:"troubles,omitempty"` // of parts of the agent
	Since      time.Time         `json:"since"`
	Decisions  float64           `json:"decisionsPerSecond"`
	Denied     float64           `json:"denialsPerSecond"` // denied and killed
	Total      topCounts         `json:"total"`
	Lost       uint64            `json:"recordsLost"`     // as records of losses say
	Seconds    []int             `json:"denialsBySecond"` // of the last minute, oldest first
	Watching   bool              `json:"watching"`        // what containers take is known
	Caps       []control.LoadCap `json:"caps,omitempty"`
	Containers []topContainer    `json:"containers"`
	Last       []*journal.Record `json:"lastDenials"` // newest first
}

// topCounts are decisions by outcome.
type topCounts struct {
	Allowed   uint64 `json:"allowed"`
	Denied    uint64 `json:"denied"` // denied and killed
	WouldDeny uint64 `json:"wouldDeny"`
}

// topContainer is one row.
type topContainer struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Image string `json:"image,omitempty"`
	Mode  string `json:"mode"`
	topCounts
	Minute uint64          `json:"deniedLastMinute"`
	Load   *control.LoadOf `json:"load,omitempty"`  // nil: not known
	Notes  bool            `json:"notes,omitempty"` // rules that do not hold: belay containers says which
}

// fill takes what the agent says of containers.
func (p *topPicture) fill(list []control.Container, load *control.LoadStatus) {
	p.Watching, p.Caps = load.Watching, load.Caps
	p.Containers = make([]topContainer, 0, len(list)) // none is [] in JSON
	of := map[string]*control.LoadOf{}
	for i := range load.Containers {
		of[load.Containers[i].ID] = &load.Containers[i]
	}
	for i := range list {
		c := &list[i]
		p.Containers = append(p.Containers, topContainer{
			ID: c.ID, Name: nameOf(*c), Image: shortImage(c.Image), Mode: c.Mode, Load: of[c.ID], Notes: len(c.Problems) > 0,
		})
	}
}

// topSort is what containers are ordered by.
type topSort int

const (
	byDenials topSort = iota
	byName
	byCPU
	byMemory
	topSorts // how many there are
)

var topSortNames = [...]string{"denials", "name", "processor", "memory"}

func (p *topPicture) order(by topSort) {
	amount := func(c *topContainer) float64 {
		switch {
		case by == byDenials:
			return float64(c.Minute)*1e9 + float64(c.Denied+c.WouldDeny)
		case c.Load == nil || by == byName:
			return 0
		case by == byCPU:
			return c.Load.CPUs
		}
		return float64(c.Load.MemoryBytes)
	}
	slices.SortStableFunc(p.Containers, func(a, b topContainer) int {
		return cmp.Or(cmp.Compare(amount(&b), amount(&a)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
}

const (
	minute   = 60
	topKept  = 50   // last denials
	topCount = 4096 // containers whose denials are counted apart
)

// tally counts records. A second is a slot of a ring, found by its number.
type tally struct {
	start  time.Time
	total  topCounts
	lost   uint64
	all    ring
	denied ring
	of     map[ident.ContainerID]*containerTally
	last   []*journal.Record
}

type containerTally struct {
	topCounts
	denied ring
}

// ring counts by second over the last minute.
type ring struct {
	at [minute]int64
	n  [minute]int
}

func (r *ring) add(sec int64) {
	i := ((sec % minute) + minute) % minute
	switch {
	case r.at[i] > sec:
		return // older than a minute
	case r.at[i] != sec:
		r.at[i], r.n[i] = sec, 0
	}
	r.n[i]++
}

// seconds returns the last minute before now, oldest first.
func (r *ring) seconds(now int64) []int {
	out := make([]int, minute)
	for k := range out {
		sec := now - minute + 1 + int64(k)
		if i := ((sec % minute) + minute) % minute; r.at[i] == sec {
			out[k] = r.n[i]
		}
	}
	return out
}

func sum(list []int) (n int) {
	for _, v := range list {
		n += v
	}
	return n
}

func newTally(start time.Time) *tally {
	return &tally{start: start, of: map[ident.ContainerID]*containerTally{}}
}

func (c *topCounts) add(d verdict.Decision) (denied bool) {
	switch d {
	case verdict.Denied, verdict.Killed:
		c.Denied++
		return true
	case verdict.WouldDeny:
		c.WouldDeny++
	case verdict.Allowed:
		c.Allowed++
	}
	return false
}

func (t *tally) add(r *journal.Record) {
	if r.Kind == journal.KindLoss {
		for _, n := range r.Lost {
			t.lost += n
		}
	}
	if r.Decision == "" {
		return
	}
	sec := r.Time.Unix()
	t.all.add(sec)
	denied := t.total.add(r.Decision)
	if denied {
		t.denied.add(sec)
	}
	if denied || r.Decision == verdict.WouldDeny {
		t.last = append(t.last, r)
		if len(t.last) > 2*topKept {
			t.last = slices.Clone(t.last[len(t.last)-topKept:])
		}
	}
	if r.Container == nil {
		return
	}
	c := t.of[r.Container.ID]
	if c == nil {
		if len(t.of) >= topCount {
			return // it is in the totals
		}
		c = new(containerTally)
		t.of[r.Container.ID] = c
	}
	if c.add(r.Decision) {
		c.denied.add(sec)
	}
}

// into puts what was counted into a picture, and forgets containers that are gone.
func (t *tally) into(p *topPicture) {
	now := p.Time.Unix()
	span := max(1, min(minute, p.Time.Sub(t.start).Seconds()))
	p.Since, p.Total, p.Lost = t.start, t.total, t.lost
	p.Seconds = t.denied.seconds(now)
	p.Decisions, p.Denied = float64(sum(t.all.seconds(now)))/span, float64(sum(p.Seconds))/span
	here := map[ident.ContainerID]bool{}
	for i := range p.Containers {
		c := &p.Containers[i]
		id := ident.ContainerID(c.ID)
		here[id] = true
		if of := t.of[id]; of != nil {
			c.topCounts, c.Minute = of.topCounts, uint64(sum(of.denied.seconds(now))) //nolint:gosec // not negative
		}
	}
	for id, c := range t.of {
		if !here[id] && sum(c.denied.seconds(now)) == 0 {
			delete(t.of, id)
		}
	}
	p.Last = []*journal.Record{}
	for i := len(t.last) - 1; i >= 0 && len(p.Last) < topKept; i-- {
		p.Last = append(p.Last, t.last[i])
	}
}

// spark draws numbers as a line of blocks, the greatest as a full one.
func spark(list []int) string {
	const blocks = "▁▂▃▄▅▆▇█"
	steps := []rune(blocks)
	most := 0
	for _, v := range list {
		most = max(most, v)
	}
	var b strings.Builder
	for _, v := range list {
		switch {
		case v == 0:
			b.WriteByte(' ')
		default:
			b.WriteRune(steps[(v*len(steps)-1)/most])
		}
	}
	return b.String()
}
