package inuse

import (
	"errors"
	"fmt"
	"time"
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
		for _, w := range []struct {
			how How
			at  *time.Time
		}{{Executed, &f.Executed}, {Mapped, &f.Mapped}, {Opened, &f.Opened}} {
			if u.How&w.how != 0 {
				*w.at = l.At
			}
		}
		f.Listening = u.Listening
	}
}

// Note adds that a file was executed, which the kernel told.
func (s *Seen) Note(path string, at time.Time) {
	if len(path) > maxPath {
		s.Cut++
		return
	}
	path, ok := clean(path)
	if !ok {
		return
	}
	if s.Since.IsZero() || at.Before(s.Since) {
		s.Since = at
	}
	if at.After(s.Until) {
		s.Until = at
	}
	f := s.Files[path]
	if f == nil {
		if len(s.Files) >= maxFiles {
			s.Cut++
			return
		}
		if s.Files == nil {
			s.Files = map[string]*SeenFile{}
		}
		f = &SeenFile{}
		s.Files[path] = f
	}
	f.Executed = later(f.Executed, at)
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
