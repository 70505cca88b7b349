package image

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// maxFaults bounds what is remembered of files that have, or are, what they should not,
// over all layers.
const maxFaults = 20_000

// tooManyFaults says that there are more.
var tooManyFaults = fmt.Sprintf("more than %d faults of files", maxFaults)

// fault remembers one. What is beyond the bound is said to be missing.
func (r *reader) fault(l *layer, name string, m inventory.Misconfiguration) {
	if r.faults++; r.faults > maxFaults {
		l.unsearched.add(name, tooManyFaults)
		return
	}
	m.Path = inventory.Cut(name)
	m.Where = inventory.Cut(cmp.Or(m.Where, name))
	l.faults[name] = append(l.faults[name], m)
}

// rights looks at what a file or directory lets others do. Links have no rights of their own,
// and devices are not looked at.
func (r *reader) rights(l *layer, name string, mode fs.FileMode, caps bool) {
	if r.skips(inventory.ScannerMisconfig) {
		return
	}
	if t := mode.Type(); t != 0 && t != fs.ModeDir {
		return
	}
	everybody := mode.Perm()&0o002 != 0
	if everybody && (!mode.IsDir() || mode&fs.ModeSticky == 0) {
		r.fault(l, name, inventory.Misconfiguration{ID: inventory.FileWorldWritable, Severity: inventory.SeverityLow})
	}
	if mode.IsDir() {
		return // setgid of a directory gives nobody rights
	}
	sev := inventory.SeverityMedium
	if everybody {
		sev = inventory.SeverityHigh
	}
	// Without the right to execute it for somebody, setgid is a mark of mandatory locks.
	switch program := mode.Perm()&0o111 != 0; {
	case mode&fs.ModeSetuid != 0 && program:
		r.fault(l, name, inventory.Misconfiguration{ID: inventory.FileSetuid, Severity: sev, Text: "who runs it has the rights of its owner: take the bit away, or set no-new-privileges"})
	case mode&fs.ModeSetgid != 0 && program:
		r.fault(l, name, inventory.Misconfiguration{ID: inventory.FileSetgid, Severity: sev, Text: "who runs it has the rights of its group: take the bit away, or set no-new-privileges"})
	}
	if caps {
		r.fault(l, name, inventory.Misconfiguration{ID: inventory.FileCapabilities, Severity: sev, Text: "who runs it has capabilities that the caller has not: take them away, or drop them from the container"})
	}
}

// mayBeSearched reports whether a file of that name is searched for secrets, whatever its size.
func (r *reader) mayBeSearched(name string) bool {
	if r.searcher == nil {
		return false
	}
	_, ok := r.searcher.Searches(name)
	return ok
}

// searches reports whether a file is searched. One that is too large is remembered.
func (r *reader) searches(l *layer, name string, size int64) bool {
	if r.searcher == nil || size == 0 {
		return false
	}
	limit, ok := r.searcher.Searches(name)
	if ok && size > limit {
		l.unsearched.add(name, fmt.Sprintf("a file of more than %d bytes", limit))
		return false
	}
	return ok
}

// search searches one file for secrets.
func (r *reader) search(l *layer, name string, c Content) {
	c.Reader = io.LimitReader(c.Reader, c.Size)
	list, err := r.searcher.Search(name, c)
	if err != nil {
		l.unsearched.add(name, err.Error())
	}
	for _, m := range list {
		r.fault(l, name, m)
	}
}

// shownFaults merges what layers have: visible is what a container sees, deleted what it does
// not, and who has the image does.
type shownFaults struct {
	visible map[string][]inventory.Misconfiguration
	deleted []inventory.Misconfiguration
}

// add lays the i-th layer over those below.
func (s *shownFaults) add(l *layer, i int) {
	for name, list := range s.visible {
		if !l.hides(name) {
			continue
		}
		delete(s.visible, name)
		for _, m := range list {
			// The same at the same place, as after a change of its owner, is there still.
			still := slices.ContainsFunc(l.faults[name], func(n inventory.Misconfiguration) bool { return n.ID == m.ID && n.Text == m.Text && n.Where == m.Where })
			if m.ID != inventory.FileSecret || still || len(s.deleted) >= maxFaults {
				continue
			}
			m.ID = inventory.FileSecretDeleted
			m.Text += fmt.Sprintf("; layer %d deletes or replaces the file, and layer %d still has it: make the image anew without it, and the secret too", i+1, m.Layer+1)
			s.deleted = append(s.deleted, m)
		}
	}
	for name, list := range l.faults {
		list = slices.Clone(list) // a layer may be in the image twice
		for j := range list {
			list[j].Layer = i
		}
		s.visible[name] = list
	}
}

// fillFaults puts them into the result: the worst first.
func (r *reader) fillFaults(s *shownFaults, own *owners) {
	list := s.deleted
	var writable *inventory.Misconfiguration
	for _, name := range slices.Sorted(maps.Keys(s.visible)) {
		for _, m := range s.visible[name] {
			switch m.ID {
			case inventory.FileWorldWritable:
				if writable == nil {
					writable = &m
				}
				writable.Count++
				continue
			case inventory.FileSetuid, inventory.FileSetgid, inventory.FileCapabilities:
				if m.Owner = own.of[own.key(name)]; m.Owner != "" && m.Severity == inventory.SeverityMedium {
					m.Severity = inventory.SeverityNegligible
				}
			}
			list = append(list, m)
		}
	}
	if writable != nil {
		writable.Text = "everybody in the container may change it: give it to the user who has to"
		if writable.Count > 1 {
			writable.Text = fmt.Sprintf("everybody in the container may change it and %d other files or folders: give them to the user who has to", writable.Count-1)
		}
		list = append(list, *writable)
	}
	slices.SortStableFunc(list, func(a, b inventory.Misconfiguration) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Where, b.Where))
	})
	room := inventory.MaxMisconfigurations - len(r.res.Misconfigurations)
	if len(list) > room {
		r.unsearched.add(list[room].Path, fmt.Sprintf("more than %d faults of files", room))
		list = list[:room]
	}
	r.res.Misconfigurations = append(r.res.Misconfigurations, list...)
	r.res.Unsearched = r.unsearched.sum()
}

// sum is all notes as one, nil if there are none.
func (n *notes) sum() *inventory.Note {
	if len(n.list) == 0 {
		return nil
	}
	out := n.list[0]
	for _, o := range n.list[1:] {
		out.Count += o.Count
	}
	return &out
}
