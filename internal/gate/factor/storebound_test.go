package factor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// More enrolments than the bound are an error, and none of them is left out in silence; at the
// bound nobody new is enrolled.
func TestBound(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := openStore(t, dir, c)
	enrol(t, s, c, alice)
	for i := range maxUsers - 1 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(100000+i)+fileSuffix), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = openStore(t, dir, c)
	if n := s.Count() + len(s.Unreadable()); n != maxUsers || s.State(alice).Enrolled.IsZero() {
		t.Errorf("%d of %d enrolments are known", n, maxUsers)
	}
	if _, err := s.Begin(bob, bob, "i", "a"); !errors.Is(err, ErrFull) {
		t.Errorf("one beyond the bound: %v", err)
	}
	one := filepath.Join(dir, "99"+fileSuffix)
	if err := os.WriteFile(one, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "", c.now); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a folder with more than the bound: %v", err)
	}
	// What is no enrolment does not count.
	if err := os.Rename(one, filepath.Join(dir, "099"+fileSuffix)); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir, c)
}
