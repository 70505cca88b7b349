package revision

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
)

const (
	suffix      = ".json"
	baseName    = "base.json"
	pendingName = "pending.json"
	fileMode    = 0o600
)

// Store is a history in a directory. Safe for concurrent use by one process.
type Store struct {
	dir string
	max struct {
		revisions int
		bytes     int64
	}

	// mu guards what follows.
	mu    sync.Mutex
	kept  []meta // by number; see prune.go for those between that are gone
	last  uint64 // number of the newest revision, also if it is damaged
	hash  string // of the newest; empty if it is damaged or there is none
	state map[string]State
	base  base
}

// State is what the history knows of one policy: what the newest revision made of it.
type State struct {
	Kind   string `json:"kind"`
	Digest string `json:"digest,omitempty"` // empty: deleted
	Number uint64 `json:"number"`           // the newest revision that changed it
}

// meta is a revision without its texts.
type meta struct {
	Revision
	size int64
	hash string
}

// Open reads the history of a directory, which it makes if there is none. A revision
// that is damaged is kept in the list and says so; it does not keep others from being
// read.
//
// Errors: *[fs.PathError] if the directory cannot be made or read.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, state: map[string]State{}, base: base{State: map[string]State{}}}
	s.max.revisions, s.max.bytes = MaxRevisions, MaxBytes
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the history of policies: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open the history of policies: %w", err)
	}
	if b, err := os.ReadFile(s.path(baseName)); err == nil {
		s.base = parseBase(b)
	}
	s.last, s.hash = s.base.Number, s.base.lastHash()
	for name, st := range s.base.State {
		s.state[name] = st
	}
	for _, e := range entries {
		if n, ok := numberOf(e.Name()); ok && !s.base.gone(n) {
			s.add(n)
		} else if ok || strings.HasPrefix(e.Name(), ".") {
			// Folded into the base already, or left by a write that was cut short.
			_ = os.Remove(s.path(e.Name()))
		}
	}
	return s, nil
}

// add reads revision n, newer than all before, into the index.
func (s *Store) add(n uint64) {
	r, size, hash, err := s.read(n)
	if err != nil {
		r = &Revision{Number: n, Damaged: err.Error()}
	}
	s.index(r, size, hash)
}

func (s *Store) index(r *Revision, size int64, hash string) {
	m := meta{Revision: *r, size: size, hash: hash}
	m.Changes = slices.Clone(r.Changes)
	for i := range m.Changes {
		c := &m.Changes[i]
		c.Before, c.After = "", ""
		if r.Number > s.state[c.Name].Number {
			s.state[c.Name] = State{Kind: c.Kind, Digest: c.AfterDigest, Number: r.Number}
		}
	}
	if s.kept = append(s.kept, m); r.Number > s.last {
		s.last, s.hash = r.Number, hash
	}
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

func fileOf(n uint64) string { return fmt.Sprintf("%020d%s", n, suffix) }

func numberOf(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && n > 0
}

func (s *Store) read(n uint64) (*Revision, int64, string, error) {
	b, err := os.ReadFile(s.path(fileOf(n)))
	if err != nil {
		return nil, 0, "", fmt.Errorf("revision %d: %w: %w", n, ErrDamaged, err)
	}
	r, hash, err := unseal(b, n)
	return r, int64(len(b)), hash, err
}

// Append gives r its number and its link, and keeps it. When it returns nil the
// revision is on the disk.
//
// Errors: those of [atomicfile.WriteFile]; there is no such revision then.
func (s *Store) Append(r *Revision) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Number, r.Prev = s.last+1, s.hash
	if r.Time.IsZero() {
		r.Time = time.Now().UTC()
	}
	file, hash, err := seal(r)
	if err != nil {
		return err
	}
	path := s.path(fileOf(r.Number))
	if err := atomicfile.WriteFile(path, file, fileMode); err != nil {
		os.Remove(path) // it may be in place and not durable
		return fmt.Errorf("keep revision %d of the policies: %w", r.Number, err)
	}
	s.index(r, int64(len(file)), hash)
	s.prune()
	return nil
}

// List returns the revisions that are kept, oldest first, without texts.
func (s *Store) List() []Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Revision, len(s.kept))
	for i, m := range s.kept {
		out[i] = m.Revision
		out[i].Changes = slices.Clone(m.Changes)
	}
	return out
}

// Head returns the number of the newest revision, 0 for none, and that of the newest
// which is no longer kept: older ones may be there, see [KeptEach].
func (s *Store) Head() (newest, forgotten uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.base.Number
}

// States returns what the history knows of each policy, by name.
func (s *Store) States() map[string]State {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]State, len(s.state))
	for name, st := range s.state {
		out[name] = st
	}
	return out
}

// Get returns a revision with its texts.
//
// Errors: [ErrNotFound], [ErrDamaged].
func (s *Store) Get(n uint64) (*Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.kept, func(m meta) bool { return m.Number == n }) {
		return nil, fmt.Errorf("%w: %d", ErrNotFound, n)
	}
	r, _, _, err := s.read(n)
	return r, err
}

// Newest returns the newest revision up to number limit that changed a policy.
//
// Errors: [ErrNotFound] if none did, or if that one may be among those that are no longer
// kept; [ErrDamaged].
func (s *Store) Newest(name string, limit uint64) (*Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range slices.Backward(s.kept) {
		if m.Number <= limit && m.Of(name) != nil {
			if m.Number != limit && s.base.State[name].Number > m.Number {
				break // the newest could be one of the gone
			}
			r, _, _, err := s.read(m.Number)
			return r, err
		}
	}
	return nil, fmt.Errorf("%w: none that is kept changed policy %s", ErrNotFound, name)
}

// Pending is a change that is being made: what to put back if it is not finished.
type Pending struct {
	Number uint64            `json:"number"` // that the revision will have
	Author Author            `json:"author"`
	Files  map[string]Backup `json:"files"` // by path
}

// Backup is one file before and after a change.
type Backup struct {
	Existed bool   `json:"existed"`
	Before  []byte `json:"before,omitempty"`
	Mode    uint32 `json:"mode,omitempty"`
	Gone    bool   `json:"gone,omitempty"`  // the change removes it
	After   string `json:"after,omitempty"` // hash of what the change writes
}

// Matches reports whether data, nil for no file, is what the change writes.
func (b *Backup) Matches(data []byte, exists bool) bool {
	if b.Gone {
		return !exists
	}
	return exists && hashOf(data) == b.After
}

// WillWrite notes what the change writes.
func (b *Backup) WillWrite(data []byte) { b.After = hashOf(data) }

// Begin notes a change that is going to be made.
func (s *Store) Begin(p *Pending) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Number = s.last + 1
	b, err := json.Marshal(p)
	if err == nil {
		err = atomicfile.WriteFile(s.path(pendingName), b, fileMode)
	}
	if err != nil {
		return fmt.Errorf("note the change of policies: %w", err)
	}
	return nil
}

// End forgets the change that Begin noted.
func (s *Store) End() error {
	err := os.Remove(s.path(pendingName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = atomicfile.SyncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("end the change of policies: %w", err)
	}
	return nil
}

// Unfinished returns the change that an agent began and did not finish; nil and true
// if there is none. One whose revision is there was finished. False: there is one and
// it cannot be read.
func (s *Store) Unfinished() (*Pending, bool) {
	b, err := os.ReadFile(s.path(pendingName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true
	}
	p := new(Pending)
	if err != nil || json.Unmarshal(b, p) != nil {
		return nil, false
	}
	if last, _ := s.Head(); p.Number <= last {
		return nil, true
	}
	return p, true
}
