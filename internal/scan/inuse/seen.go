package inuse

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Seen gathers what looks at one container saw. It is not safe for concurrent use.
type Seen struct {
	Since time.Time `json:"since"` // of the first look
	Until time.Time `json:"until"` // of the last
	Looks int       `json:"looks"`
	// Sockets says that the last look saw all that the container listens on.
	Sockets bool                 `json:"sockets,omitempty"`
	Ports   Ports                `json:"ports,omitzero"`
	Files   map[string]*SeenFile `json:"files"`
	// Cut is what was left out of all looks, beyond a bound; Unread the processes of which
	// something could not be read.
	Cut    int `json:"cut,omitempty"`
	Unread int `json:"unread,omitempty"`
}

// SeenFile is when a file was last seen in use, and how.
type SeenFile struct {
	Executed  time.Time  `json:"executed,omitzero"`
	Mapped    time.Time  `json:"mapped,omitzero"`
	Opened    time.Time  `json:"opened,omitzero"`
	Listening []Endpoint `json:"listening,omitempty"` // at the last look
}

// Add adds a look. One at no process says nothing.
func (s *Seen) Add(l *Look) {
	if l.Processes == 0 {
		return
	}
	if s.Looks == 0 || l.At.Before(s.Since) {
		s.Since = l.At
	}
	if l.At.After(s.Until) {
		s.Until = l.At
	}
	s.Looks++
	s.Cut, s.Unread, s.Sockets = s.Cut+l.Cut, s.Unread+l.Unread, l.Sockets
	if s.Files == nil {
		s.Files = map[string]*SeenFile{}
	}
	for _, f := range s.Files {
		f.Listening = nil
	}
	for path, u := range l.Files {
		f := s.Files[path]
		if f == nil {
			if len(s.Files) >= maxFiles {
				s.Cut++
				continue
			}
			f = &SeenFile{}
			s.Files[path] = f
		}
		for _, how := range []How{Executed, Mapped, Opened} {
			if u.How&how != 0 {
				*f.time(how) = l.At
			}
		}
		f.Listening = u.Listening
	}
}

// maxScripts bounds what is remembered of opened scripts: what else is used has the rest.
const maxScripts = maxFiles / 2

// Noted returns by what path a file that the kernel told of is remembered: itself, and an opened script by
// what it lies in. ok is false for a script that no package is known by. script: if it is left out, nothing
// else is known less.
func Noted(path string, how How) (as string, script, ok bool) {
	if how != Opened || !inventory.IsScript(path) {
		return path, false, true
	}
	unit := inventory.ScriptUnit(path)
	return "/" + unit, true, unit != ""
}

// Note adds that a file, by its path of [Noted], was used, which the kernel told. It returns false for a
// script that there is no room for; of anything else that is counted in Cut.
func (s *Seen) Note(path string, how How, script bool, at time.Time) bool {
	if len(path) > maxPath {
		if !script {
			s.Cut++
		}
		return !script
	}
	path, ok := clean(path)
	if !ok {
		return true
	}
	if s.Since.IsZero() || at.Before(s.Since) {
		s.Since = at
	}
	if at.After(s.Until) {
		s.Until = at
	}
	f := s.Files[path]
	if f == nil {
		if script && len(s.Files) >= maxScripts {
			return false
		}
		if len(s.Files) >= maxFiles {
			s.Cut++
			return true
		}
		if s.Files == nil {
			s.Files = map[string]*SeenFile{}
		}
		f = &SeenFile{}
		s.Files[path] = f
	}
	t := f.time(how)
	*t = later(*t, at)
	return true
}

// time is when the file was last used in one way.
func (f *SeenFile) time(how How) *time.Time {
	switch how {
	case Mapped:
		return &f.Mapped
	case Opened:
		return &f.Opened
	}
	return &f.Executed
}

// DropScripts forgets opened scripts, and returns how many: without them nothing else is known less.
func (s *Seen) DropScripts() int {
	n := len(s.Files)
	maps.DeleteFunc(s.Files, func(path string, f *SeenFile) bool {
		return strings.HasSuffix(path, "/") || inventory.IsScript(path) && f.Executed.IsZero() && f.Mapped.IsZero()
	})
	return n - len(s.Files)
}

// Check fails for what came from elsewhere and is not within the bounds of a look.
func (s *Seen) Check() error {
	if len(s.Files) > maxFiles || len(s.Ports.List) > maxFiles {
		return fmt.Errorf("%d files and %d ports in use: too many", len(s.Files), len(s.Ports.List))
	}
	for path, f := range s.Files {
		if f == nil || len(path) > maxPath || len(f.Listening) > maxEndpoints {
			return errors.New("a file in use that is not within its bounds")
		}
	}
	return nil
}

// Whole reports whether looks left nothing out.
func (s *Seen) Whole() bool { return s.Cut == 0 && s.Unread == 0 }
