package factor

import (
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
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
	fileSuffix = ".factor"
	// maxUsers bounds the enrolments of a host.
	maxUsers = 4096
	// pendingFor is how long an enrolment waits for its first code.
	pendingFor = 10 * time.Minute
	// pendingTries is how many codes may be wrong before it has to be begun again.
	pendingTries = 5
)

// What the store refuses, for callers that branch on it.
var (
	ErrNotEnrolled = errors.New("no second factor is enrolled")
	ErrEnrolled    = errors.New("a second factor is enrolled already")
	ErrNotBegun    = errors.New("no enrolment waits for its first code")
	ErrWrong       = errors.New("the code is wrong")
	ErrUsed        = errors.New("the code was used before: wait for the next one")
	ErrFull        = errors.New("too many users are enrolled")
	// ErrUnreadable: there is an enrolment, and it cannot be read. Nobody has a second
	// factor by it, and it stands in the way of a new one until it is removed.
	ErrUnreadable = errors.New("the enrolment cannot be read")
)

// LockedError refuses without looking at the code.
type LockedError struct{ Until time.Time }

// Error says until when.
func (e *LockedError) Error() string {
	return "too many wrong codes: locked until " + e.Until.UTC().Format(time.RFC3339)
}

// Store keeps enrolments. Make one with [Open]. Safe for concurrent use.
type Store struct {
	dir string
	key *Key
	now func() time.Time

	// mu guards what follows. It is held over writes: an answer is given when what it
	// rests on is on the disk.
	mu      sync.Mutex
	records map[uint32]*record
	broken  map[uint32]error
	pending map[uint32]*pending
}

type pending struct {
	id     string
	secret []byte
	by     uint32
	until  time.Time
	tries  int
}

// Open reads all enrolments below dir, which is made if it is not there, with the key that
// [LoadKey] finds. Enrolments that were sealed with the key file, before there was a
// credential, are sealed anew, and the file goes. One that cannot be read is kept as such: see
// [Store.Unreadable]. now is the clock; nil: [time.Now].
//
// Errors: [ErrFull] if there are more enrolments than the bound: which of them hold must not
// depend on the order of a folder, so none does.
func Open(dir, credentials string, now func() time.Time) (*Store, error) {
	if now == nil {
		now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the second factor: %w", err)
	}
	key, err := LoadKey(dir, credentials)
	if err != nil {
		return nil, err
	}
	s := &Store{
		dir: dir, key: key, now: now, records: map[uint32]*record{}, broken: map[uint32]error{}, pending: map[uint32]*pending{},
	}
	return s, s.load()
}

func (s *Store) load() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("read enrolments: %w", err)
	}
	if err := s.countFiles(entries); err != nil {
		return err
	}
	var old *Key
	if s.key.Source == FromCredential {
		if old, err = loadKeyFile(s.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, e := range entries {
		uid, ok := uidOfFile(e.Name())
		if !ok {
			continue
		}
		r, err := s.read(uid, old)
		if err != nil {
			s.broken[uid] = err
			continue
		}
		s.records[uid] = r
	}
	if old != nil && len(s.broken) == 0 {
		if err := os.Remove(old.Path); err != nil {
			return fmt.Errorf("remove the key that a credential has replaced: %w", err)
		}
	}
	return nil
}

func (s *Store) countFiles(entries []fs.DirEntry) error {
	n := 0
	for _, e := range entries {
		if _, ok := uidOfFile(e.Name()); ok {
			n++
		}
	}
	if n > maxUsers {
		return fmt.Errorf("%w: %s has %d, and there may be %d; fix: move away those of users who are gone", ErrFull, s.dir, n, maxUsers)
	}
	return nil
}

// uidOfFile returns whose enrolment a file is.
func uidOfFile(name string) (uid uint32, ok bool) {
	digits, ok := strings.CutSuffix(name, fileSuffix)
	n, err := strconv.ParseUint(digits, 10, 32)
	return uint32(n), ok && err == nil && strconv.FormatUint(n, 10) == digits
}

func (s *Store) read(uid uint32, old *Key) (*record, error) {
	f, err := os.Open(s.path(uid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	r, err := s.key.open(uid, b)
	if errors.Is(err, errOtherKey) && old != nil {
		if r, err = old.open(uid, b); err == nil {
			err = s.write(r)
		}
	}
	return r, err
}

func (s *Store) path(uid uint32) string {
	return filepath.Join(s.dir, strconv.FormatUint(uint64(uid), 10)+fileSuffix)
}

func (s *Store) write(r *record) error {
	b, err := s.key.seal(r)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteFile(s.path(r.UID), b, 0o600); err != nil {
		return fmt.Errorf("keep the enrolment: %w", err)
	}
	return nil
}

// put writes a record and then takes it for what is. Callers hold mu.
func (s *Store) put(r *record) error {
	if err := s.write(r); err != nil {
		return err
	}
	s.records[r.UID] = r
	return nil
}

// get returns the record of a user. Callers hold mu.
func (s *Store) get(uid uint32) (*record, error) {
	if err := s.broken[uid]; err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	r := s.records[uid]
	if r == nil {
		return nil, ErrNotEnrolled
	}
	return r, nil
}

// KeyFrom says where the key is from and where it is.
func (s *Store) KeyFrom() (source, path string) { return s.key.Source, s.key.Path }

// Count returns the number of enrolled users.
func (s *Store) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}

// Unreadable returns the users whose enrolment cannot be read, and why.
func (s *Store) Unreadable() map[uint32]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.broken)
}

// State is what is known of one user's second factor; no secrets.
type State struct {
	UID         uint32
	Enrolled    time.Time // zero: not, or it cannot be read
	EnrolledBy  uint32
	Recovery    int // codes left
	Refused     int // codes since the last that was taken
	LockedUntil time.Time
	Unreadable  string // why it cannot be read
}

// State returns the state of one user.
func (s *Store) State(uid uint32) State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state(uid)
}

func (s *Store) state(uid uint32) State {
	st := State{UID: uid}
	if err := s.broken[uid]; err != nil {
		st.Unreadable = err.Error()
	}
	if r := s.records[uid]; r != nil {
		st.Enrolled, st.EnrolledBy, st.Recovery, st.Refused = r.Enrolled, r.EnrolledBy, len(r.Recovery), r.Refused
		if r.LockedUntil.After(s.now()) {
			st.LockedUntil = r.LockedUntil
		}
	}
	return st
}

// States returns the states of all, by uid.
func (s *Store) States() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	uids := slices.Collect(maps.Keys(s.records))
	uids = slices.AppendSeq(uids, maps.Keys(s.broken))
	slices.Sort(uids)
	out := make([]State, 0, len(uids))
	for _, uid := range uids {
		out = append(out, s.state(uid))
	}
	return out
}

// Begun is an enrolment that waits for its first code.
type Begun struct {
	ID     string // for Confirm
	Secret string // base32, for people and programs
	URI    string // otpauth://, for a QR code
	Until  time.Time
}

// Begin makes a secret for a user. Nothing is kept on disk and nothing is changed until
// [Store.Confirm]; an enrolment that was begun before is forgotten. account and issuer are
// what the authenticator shows.
//
// Errors: [ErrEnrolled], [ErrUnreadable], [ErrFull].
func (s *Store) Begin(uid, by uint32, issuer, account string) (Begun, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.get(uid); err == nil {
		return Begun{}, ErrEnrolled
	} else if !errors.Is(err, ErrNotEnrolled) {
		return Begun{}, err
	}
	now := s.now()
	maps.DeleteFunc(s.pending, func(_ uint32, p *pending) bool { return !now.Before(p.until) })
	if len(s.records)+len(s.broken)+len(s.pending) >= maxUsers {
		return Begun{}, ErrFull
	}
	p := &pending{id: hex.EncodeToString(random(8)), secret: random(secretBytes), by: by, until: now.Add(pendingFor)}
	s.pending[uid] = p
	secret := base32Text.EncodeToString(p.secret)
	return Begun{ID: p.id, Secret: secret, URI: keyURI(issuer, account, secret), Until: p.until}, nil
}

// Confirm makes a begun enrolment live with its first code, and returns recovery codes: they
// are kept as hashes, and cannot be shown again. The code is used up.
//
// Errors: [ErrNotBegun], [ErrWrong]; after [pendingTries] wrong ones it has to be begun anew.
func (s *Store) Confirm(uid, by uint32, id, code string) (recovery []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	p := s.pending[uid]
	if p == nil || !now.Before(p.until) || p.by != by || subtle.ConstantTimeCompare([]byte(p.id), []byte(id)) != 1 {
		return nil, ErrNotBegun
	}
	at, ok := matchStep(p.secret, code, now)
	if !ok || !isCode(code) {
		if p.tries++; p.tries >= pendingTries {
			delete(s.pending, uid)
		}
		return nil, ErrWrong
	}
	r := &record{UID: uid, Secret: p.secret, Enrolled: now.UTC().Round(0), EnrolledBy: by, LastStep: at, Salt: random(saltBytes)}
	recovery, r.Recovery = newRecoveryCodes(r.Salt)
	if err := s.put(r); err != nil {
		return nil, err
	}
	delete(s.pending, uid)
	return recovery, nil
}

// Remove takes a user's second factor away, whatever its state.
//
// Errors: [ErrNotEnrolled].
func (s *Store) Remove(uid uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, begun := s.pending[uid]
	if s.records[uid] == nil && s.broken[uid] == nil && !begun {
		return ErrNotEnrolled
	}
	if err := os.Remove(s.path(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the enrolment: %w", err)
	}
	delete(s.records, uid)
	delete(s.broken, uid)
	delete(s.pending, uid)
	return atomicfile.SyncDir(s.dir)
}
