package factor

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const alice, bob = 1001, 1002

// clock is a clock that tests move.
type clock struct{ at time.Time }

func (c *clock) now() time.Time          { return c.at }
func (c *clock) forward(d time.Duration) { c.at = c.at.Add(d) }

func newClock() *clock { return &clock{time.Unix(1_700_000_010, 0)} }

func openStore(t *testing.T, dir string, c *clock) *Store {
	t.Helper()
	s, err := Open(dir, "", c.now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// enrol enrols a user, and moves the clock so that the next code is a fresh one.
func enrol(t *testing.T, s *Store, c *clock, uid uint32) (secret string, recovery []string) {
	t.Helper()
	b, err := s.Begin(uid, uid, "Belay", "a")
	if err != nil {
		t.Fatal(err)
	}
	recovery, err = s.Confirm(uid, uid, b.ID, codeOf(t, b.Secret, c.now()))
	if err != nil {
		t.Fatal(err)
	}
	c.forward(Period)
	return b.Secret, recovery
}

func codeOf(t *testing.T, secret string, at time.Time) string {
	t.Helper()
	code, err := CodeAt(secret, at)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// wrong returns a code that none of the periods around has.
func wrong(t *testing.T, secret string, at time.Time) string {
	t.Helper()
	for n := range 5 {
		code := strings.Repeat(string(rune('0'+n)), Digits)
		free := true
		for d := -2; d <= 2; d++ {
			free = free && codeOf(t, secret, at.Add(time.Duration(d)*Period)) != code
		}
		if free {
			return code
		}
	}
	t.Fatal("no code is wrong")
	return ""
}

func TestEnrolment(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := openStore(t, dir, c)
	if _, err := s.Verify(alice, "123456", nil); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("before: got %v, want ErrNotEnrolled", err)
	}
	b, err := s.Begin(alice, alice, "Belay", "alice")
	if err != nil {
		t.Fatal(err)
	}
	// It is not live before the first code was shown, and nothing is on the disk.
	if _, err := s.Verify(alice, codeOf(t, b.Secret, c.now()), nil); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("begun: got %v, want ErrNotEnrolled", err)
	}
	if _, err := os.Stat(s.path(alice)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("begun: there is a file (%v)", err)
	}
	for name, f := range map[string]func() error{
		"another id":     func() error { _, err := s.Confirm(alice, alice, "x", codeOf(t, b.Secret, c.now())); return err },
		"another caller": func() error { _, err := s.Confirm(alice, 0, b.ID, codeOf(t, b.Secret, c.now())); return err },
		"another user":   func() error { _, err := s.Confirm(bob, alice, b.ID, codeOf(t, b.Secret, c.now())); return err },
	} {
		if err := f(); !errors.Is(err, ErrNotBegun) {
			t.Errorf("%s: got %v, want ErrNotBegun", name, err)
		}
	}
	if _, err := s.Confirm(alice, alice, b.ID, wrong(t, b.Secret, c.now())); !errors.Is(err, ErrWrong) {
		t.Errorf("wrong code: got %v, want ErrWrong", err)
	}
	codes, err := s.Confirm(alice, alice, b.ID, codeOf(t, b.Secret, c.now()))
	if err != nil || len(codes) != recoveryCodes {
		t.Fatalf("confirm: got %d codes, %v", len(codes), err)
	}
	if _, err := s.Begin(alice, alice, "Belay", "alice"); !errors.Is(err, ErrEnrolled) {
		t.Errorf("again: got %v, want ErrEnrolled", err)
	}
	// The first code is used up.
	if _, err := s.Verify(alice, codeOf(t, b.Secret, c.now()), nil); !errors.Is(err, ErrUsed) {
		t.Errorf("the first code again: got %v, want ErrUsed", err)
	}
	if st := s.State(alice); st.Enrolled.IsZero() || st.Recovery != recoveryCodes || st.EnrolledBy != alice {
		t.Errorf("state: %+v", st)
	}
	if err := s.Remove(alice); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(alice); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := openStore(t, dir, c).Begin(alice, alice, "Belay", "alice"); err != nil {
		t.Errorf("after it was removed: %v", err)
	}
}

func TestEnrolmentEnds(t *testing.T) {
	c := newClock()
	s := openStore(t, t.TempDir(), c)
	b, err := s.Begin(alice, alice, "Belay", "a")
	if err != nil {
		t.Fatal(err)
	}
	c.forward(pendingFor)
	if _, err := s.Confirm(alice, alice, b.ID, codeOf(t, b.Secret, c.now())); !errors.Is(err, ErrNotBegun) {
		t.Errorf("late: got %v, want ErrNotBegun", err)
	}
	if b, err = s.Begin(alice, alice, "Belay", "a"); err != nil {
		t.Fatal(err)
	}
	for range pendingTries {
		if _, err := s.Confirm(alice, alice, b.ID, wrong(t, b.Secret, c.now())); !errors.Is(err, ErrWrong) {
			t.Errorf("got %v, want ErrWrong", err)
		}
	}
	if _, err := s.Confirm(alice, alice, b.ID, codeOf(t, b.Secret, c.now())); !errors.Is(err, ErrNotBegun) {
		t.Errorf("after %d wrong ones: got %v, want ErrNotBegun", pendingTries, err)
	}
}

// A code passes once: not twice, not after one that follows it, not after a restart.
func TestReplay(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := openStore(t, dir, c)
	secret, _ := enrol(t, s, c, alice)
	c.forward(Period)
	ahead, this := codeOf(t, secret, c.now().Add(Period)), codeOf(t, secret, c.now())
	if _, err := s.Verify(alice, this, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(alice, this, nil); !errors.Is(err, ErrUsed) {
		t.Errorf("again: got %v, want ErrUsed", err)
	}
	if _, err := openStore(t, dir, c).Verify(alice, this, nil); !errors.Is(err, ErrUsed) {
		t.Errorf("after a restart: got %v, want ErrUsed", err)
	}
	if _, err := s.Verify(alice, ahead, nil); err != nil {
		t.Errorf("the next one: %v", err)
	}
	// One that was never shown is worthless once a later one was.
	if _, err := s.Verify(alice, this, nil); !errors.Is(err, ErrUsed) {
		t.Errorf("an older one: got %v, want ErrUsed", err)
	}
	if st := s.State(alice); st.Refused != 0 {
		t.Errorf("used codes count as guesses: %+v", st)
	}
}

func TestRecoveryCodesAreForOnce(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := openStore(t, dir, c)
	_, codes := enrol(t, s, c, alice)
	u, err := s.Verify(alice, codes[3], nil)
	if err != nil || !u.Recovery || u.RecoveryLeft != recoveryCodes-1 {
		t.Fatalf("got %+v, %v", u, err)
	}
	if _, err := s.Verify(alice, codes[3], nil); !errors.Is(err, ErrWrong) {
		t.Errorf("again: got %v, want ErrWrong", err)
	}
	s = openStore(t, dir, c)
	if _, err := s.Verify(alice, codes[3], nil); !errors.Is(err, ErrWrong) {
		t.Errorf("after a restart: got %v, want ErrWrong", err)
	}
	if u, err := s.Verify(alice, codes[4], nil); err != nil || u.RecoveryLeft != recoveryCodes-2 {
		t.Errorf("another: got %+v, %v", u, err)
	}
}

func TestBruteForce(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := openStore(t, dir, c)
	secret, codes := enrol(t, s, c, alice)
	bobs, _ := enrol(t, s, c, bob)
	for i := range freeFails + 1 {
		if _, err := s.Verify(alice, wrong(t, secret, c.now()), nil); !errors.Is(err, ErrWrong) {
			t.Fatalf("guess %d: got %v, want ErrWrong", i, err)
		}
	}
	locked := func(s *Store, code string) bool {
		_, err := s.Verify(alice, code, nil)
		_, ok := errors.AsType[*LockedError](err)
		return ok
	}
	if !locked(s, codeOf(t, secret, c.now())) || !locked(s, codes[0]) {
		t.Error("the right code passes while it is locked")
	}
	if s = openStore(t, dir, c); !locked(s, codeOf(t, secret, c.now())) {
		t.Error("a restart forgets the lock")
	}
	if _, err := s.Verify(bob, codeOf(t, bobs, c.now()), nil); err != nil {
		t.Errorf("another user is locked too: %v", err)
	}
	if got, want := s.State(alice).LockedUntil, c.now().Add(firstDelay); !got.Equal(want) {
		t.Errorf("locked until %v, want %v", got, want)
	}
	c.forward(firstDelay)
	if _, err := s.Verify(alice, wrong(t, secret, c.now()), nil); !errors.Is(err, ErrWrong) {
		t.Fatalf("got %v, want ErrWrong", err)
	}
	c.forward(2*firstDelay - time.Second)
	if !locked(s, codeOf(t, secret, c.now())) {
		t.Error("the delay does not grow")
	}
	c.forward(time.Second)
	u, err := s.Verify(alice, codeOf(t, secret, c.now()), nil)
	if err != nil || u.Refused != freeFails+2 {
		t.Errorf("got %+v, %v, want %d refused codes", u, err, freeFails+2)
	}
	if st := s.State(alice); st.Refused != 0 || !st.LockedUntil.IsZero() {
		t.Errorf("after a right one: %+v", st)
	}
	// Half of them count on.
	for range 2 {
		_, _ = s.Verify(alice, wrong(t, secret, c.now()), nil)
	}
	if !locked(s, codes[0]) {
		t.Error("the guesses before the last right code are forgotten")
	}
}

func TestDelay(t *testing.T) {
	for fails, want := range map[int]time.Duration{
		0: 0, 3: 0, 4: 30 * time.Second, 5: time.Minute, 6: 2 * time.Minute, 12: 128 * time.Minute, 14: maxDelay, 15: maxDelay, maxFails: maxDelay,
	} {
		if got := delay(fails); got != want {
			t.Errorf("%d: got %v, want %v", fails, got, want)
		}
	}
}

// A clock that was set back makes no used code fresh.
func TestClockSetBack(t *testing.T) {
	c := newClock()
	s := openStore(t, t.TempDir(), c)
	secret, _ := enrol(t, s, c, alice)
	c.forward(time.Hour)
	if _, err := s.Verify(alice, codeOf(t, secret, c.now()), nil); err != nil {
		t.Fatal(err)
	}
	c.forward(-30 * time.Minute)
	if _, err := s.Verify(alice, codeOf(t, secret, c.now()), nil); !errors.Is(err, ErrUsed) {
		t.Errorf("got %v, want ErrUsed", err)
	}
}

// What is asked between the match and the use leaves the code unused if it fails.
func TestVerifyThen(t *testing.T) {
	c := newClock()
	s := openStore(t, t.TempDir(), c)
	secret, _ := enrol(t, s, c, alice)
	no := errors.New("no")
	code := codeOf(t, secret, c.now())
	if _, err := s.Verify(alice, code, func() error { return no }); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	asked := false
	if _, err := s.Verify(alice, wrong(t, secret, c.now()), func() error { asked = true; return nil }); !errors.Is(err, ErrWrong) || asked {
		t.Errorf("a wrong code: got %v, asked: %v", err, asked)
	}
	if _, err := s.Verify(alice, code, nil); err != nil {
		t.Errorf("the code is used up: %v", err)
	}
}

// A code whose use cannot be kept is refused, and a guess that cannot be counted too.
func TestDiskFails(t *testing.T) {
	dir, c := filepath.Join(t.TempDir(), "factor"), newClock()
	s := openStore(t, dir, c)
	secret, _ := enrol(t, s, c, alice)
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(alice, codeOf(t, secret, c.now()), nil); err == nil {
		t.Error("a code passes whose use is not on the disk")
	}
	if _, err := s.Verify(alice, wrong(t, secret, c.now()), nil); err == nil || errors.Is(err, ErrWrong) {
		t.Errorf("a guess that is not counted: %v", err)
	}
	if _, err := s.Begin(bob, bob, "Belay", "b"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(alice, codeOf(t, secret, c.now()), nil); err != nil {
		t.Errorf("when the disk is back: %v", err)
	}
}

func TestFilesAreSealed(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := openStore(t, dir, c)
	secret, codes := enrol(t, s, c, alice)
	_, _ = enrol(t, s, c, bob)
	raw, err := os.ReadFile(s.path(alice))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := base32Text.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, plain) || bytes.Contains(raw, []byte(secret)) || bytes.Contains(raw, []byte(codes[0])) {
		t.Error("the file shows secrets")
	}
	for _, name := range []string{s.path(alice), filepath.Join(dir, keyFile)} {
		if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, st.Mode(), err)
		}
	}
	tests := map[string]func([]byte) []byte{
		"cut":         func(b []byte) []byte { return b[:len(b)-1] },
		"empty":       func([]byte) []byte { return nil },
		"bit flipped": func(b []byte) []byte { b[len(b)-3] ^= 1; return b },
		"other key":   func(b []byte) []byte { b[len(magic)] ^= 1; return b },
		"other user's": func([]byte) []byte {
			b, err := os.ReadFile(s.path(bob))
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(s.path(alice), change(bytes.Clone(raw)), 0o600); err != nil {
				t.Fatal(err)
			}
			s := openStore(t, dir, c)
			if _, err := s.Verify(alice, codes[0], nil); !errors.Is(err, ErrUnreadable) {
				t.Errorf("verify: got %v, want ErrUnreadable", err)
			}
			// It must not be a way to a new enrolment.
			if _, err := s.Begin(alice, alice, "Belay", "a"); !errors.Is(err, ErrUnreadable) {
				t.Errorf("begin: got %v, want ErrUnreadable", err)
			}
			if len(s.Unreadable()) != 1 || s.State(alice).Unreadable == "" || s.Count() != 1 {
				t.Errorf("state: %+v, %v", s.State(alice), s.Unreadable())
			}
		})
	}
	s = openStore(t, dir, c)
	if err := s.Remove(alice); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Begin(alice, alice, "Belay", "a"); err != nil {
		t.Errorf("after it was removed: %v", err)
	}
}

func TestKeyFrom(t *testing.T) {
	dir, creds, c := t.TempDir(), t.TempDir(), newClock()
	s, err := Open(dir, creds, c.now) // a unit with other credentials
	if err != nil {
		t.Fatal(err)
	}
	if src, path := s.KeyFrom(); src != FromFile || path != filepath.Join(dir, keyFile) {
		t.Errorf("got %s at %s", src, path)
	}
	secret, _ := enrol(t, s, c, alice)
	cred := filepath.Join(creds, CredentialName)
	if err := os.WriteFile(cred, []byte("short"), 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, creds, c.now); err == nil {
		t.Error("a credential that is too short is passed over")
	}
	if err := os.Remove(cred); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cred, random(64), 0o400); err != nil {
		t.Fatal(err)
	}
	// From then on the key is the credential, and the file goes.
	if s, err = Open(dir, creds, c.now); err != nil {
		t.Fatal(err)
	}
	if src, path := s.KeyFrom(); src != FromCredential || path != cred {
		t.Errorf("got %s at %s", src, path)
	}
	if _, err := os.Stat(filepath.Join(dir, keyFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key file is still there (%v)", err)
	}
	if s, err = Open(dir, creds, c.now); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(alice, codeOf(t, secret, c.now()), nil); err != nil {
		t.Errorf("sealed anew: %v", err)
	}
	// Without the credential nothing can be read, and nothing is thrown away.
	s = openStore(t, dir, c)
	if _, err := s.Verify(alice, codeOf(t, secret, c.now()), nil); !errors.Is(err, ErrUnreadable) {
		t.Errorf("without the credential: got %v, want ErrUnreadable", err)
	}
}

func TestKeyFileIsPrivate(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"others may read": func(p string) error { return os.Chmod(p, 0o640) },
		"short":           func(p string) error { return os.Truncate(p, 31) },
		"a link": func(p string) error {
			if err := os.Rename(p, p+"2"); err != nil {
				return err
			}
			return os.Symlink(p+"2", p)
		},
		"a folder": func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.Mkdir(p, 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, c := t.TempDir(), newClock()
			openStore(t, dir, c)
			if err := spoil(filepath.Join(dir, keyFile)); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, "", c.now); err == nil {
				t.Error("it is taken")
			}
		})
	}
}

// A file can hold anything; only what was sealed is taken.
func FuzzOpen(f *testing.F) {
	key, err := newKey(bytes.Repeat([]byte{7}, 32), FromFile, "")
	if err != nil {
		f.Fatal(err)
	}
	r := &record{UID: alice, Secret: make([]byte, secretBytes), Salt: make([]byte, saltBytes), Enrolled: time.Unix(1, 0)}
	sealed, err := key.seal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, file []byte) {
		// Workers have seeds of their own: all that opens is what the key has sealed.
		if got, err := key.open(alice, file); err == nil && (got.UID != alice || !bytes.Equal(got.Secret, r.Secret)) {
			t.Errorf("%q opens to %+v", file, got)
		}
		if _, err := key.open(bob, file); err == nil {
			t.Errorf("%q opens for another user", file)
		}
	})
}

// What comes out of a box is checked too: an older or newer program may have sealed it.
func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"uid":1001,"secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAA=","enrolled":"2026-01-01T00:00:00Z","enrolledBy":0,"lastStep":1,"salt":"AAAAAAAAAAAAAAAAAAAAAA==","recovery":[],"fails":0,"refused":0,"lockedUntil":"0001-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"uid":1001}{}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		r, err := parseRecord(alice, plain)
		if err != nil {
			if r != nil {
				t.Error("an error and a record")
			}
			return
		}
		if r.UID != alice || len(r.Secret) != secretBytes || len(r.Recovery) > recoveryCodes || r.Fails < 0 || r.LastStep < 0 {
			t.Errorf("took %+v", r)
		}
		if _, err := r.clone().take("000000", time.Unix(1_700_000_000, 0)); err == nil && r.LastStep > step(time.Unix(1_700_000_000, 0))+1 {
			t.Error("a code before the last was taken")
		}
	})
}
