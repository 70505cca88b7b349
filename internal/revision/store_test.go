package revision

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func change(name, digest string) *Revision {
	return &Revision{Op: OpApply, Author: Author{Kind: ByUser, Name: "alice"}, Message: "m", Changes: []Change{{
		Kind: "RuntimePolicy", Name: name, What: Updated, AfterDigest: digest, Before: "before " + digest, After: "after " + digest,
	}}}
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fill(t *testing.T, s *Store, n int) {
	t.Helper()
	for i := range n {
		if err := s.Append(change(fmt.Sprintf("p%d", i%3), fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
}

func numbers(s *Store) (out []uint64) {
	for _, r := range s.List() {
		out = append(out, r.Number)
	}
	return out
}

func TestHistory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	fill(t, s, 5)
	for _, s := range []*Store{s, open(t, dir)} {
		if got := fmt.Sprint(numbers(s)); got != "[1 2 3 4 5]" {
			t.Errorf("kept %s", got)
		}
		r, err := s.Newest("p1", 4)
		if err != nil || r.Number != 2 || r.Of("p1").After != "after 1" {
			t.Errorf("newest of p1 up to 4: %+v, %v", r, err)
		}
		if st := s.States()["p1"]; st.Digest != "4" || st.Number != 5 {
			t.Errorf("state of p1: %+v", st)
		}
		if _, err := s.Get(6); !errors.Is(err, ErrNotFound) {
			t.Errorf("revision 6: %v", err)
		}
		if bad := s.Verify(); len(bad) > 0 {
			t.Errorf("the chain: %q", bad)
		}
	}
}

// The oldest revisions go; what they made of the policies stays known.
func TestBounded(t *testing.T) {
	for name, bound := range map[string]func(*Store){
		"number": func(s *Store) { s.max.revisions = 4 },
		"bytes":  func(s *Store) { s.max.bytes = 1500 },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			bound(s)
			if err := s.Append(change("old", "o")); err != nil {
				t.Fatal(err)
			}
			fill(t, s, 20)
			for _, s := range []*Store{s, open(t, dir)} {
				got := numbers(s)
				if len(got) > 4 || got[len(got)-1] != 21 {
					t.Errorf("kept %v", got)
				}
				if st := s.States()["old"]; st.Digest != "o" || st.Number != 1 {
					t.Errorf("state of a policy whose revision is gone: %+v", st)
				}
				if newest, forgotten := s.Head(); newest != 21 || forgotten != got[0]-1 {
					t.Errorf("head %d, forgotten %d; kept %v", newest, forgotten, got)
				}
				if bad := s.Verify(); len(bad) > 0 {
					t.Errorf("the chain: %q", bad)
				}
			}
			files, _ := filepath.Glob(filepath.Join(dir, "0*.json"))
			if len(files) > 4 {
				t.Errorf("%d files are left", len(files))
			}
		})
	}
}

// A crash after the base was written and before the old files were removed, and one in
// the middle of a write.
func TestCrashWhileWriting(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	s.max.revisions = 2
	fill(t, s, 2)
	old, err := os.ReadFile(filepath.Join(dir, fileOf(1)))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, s, 2)
	for name, b := range map[string][]byte{fileOf(1): old, "." + fileOf(5) + ".tmp-1": old[:10]} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir)
	if got := fmt.Sprint(numbers(s)); got != "[3 4]" {
		t.Errorf("kept %s", got)
	}
	if bad := s.Verify(); len(bad) > 0 {
		t.Errorf("the chain: %q", bad)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if err := s.Append(change("x", "1")); err != nil || numbers(s)[len(numbers(s))-1] != 5 {
		t.Errorf("the next revision: %v, %v", err, numbers(s))
	}
}

// A directory that takes no file keeps no revision, and the store goes on.
func TestAppendFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	fill(t, s, 1)
	if err := os.Mkdir(filepath.Join(dir, fileOf(2)), 0o700); err != nil { // a rename onto it fails
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileOf(2), "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(change("x", "1")); err == nil {
		t.Fatal("a revision that cannot be written was kept")
	}
	if newest, _ := s.Head(); newest != 1 || s.States()["x"].Number != 0 {
		t.Errorf("head %d, state %+v", newest, s.States()["x"])
	}
	if err := os.RemoveAll(filepath.Join(dir, fileOf(2))); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(change("x", "1")); err != nil {
		t.Error(err)
	}
}

func TestDamaged(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"cut":     func(b []byte) []byte { return b[:len(b)/2] },
		"empty":   func([]byte) []byte { return nil },
		"altered": func(b []byte) []byte { return []byte(strings.Replace(string(b), "alice", "mallo", 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, open(t, dir), 4)
			file := filepath.Join(dir, fileOf(2))
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir)
			if got := fmt.Sprint(numbers(s)); got != "[1 2 3 4]" {
				t.Errorf("kept %s", got)
			}
			if _, err := s.Get(2); !errors.Is(err, ErrDamaged) {
				t.Errorf("the damaged revision: %v", err)
			}
			if r, err := s.Get(3); err != nil || r.Of("p2") == nil {
				t.Errorf("the one after it: %v", err)
			}
			if len(s.Verify()) == 0 {
				t.Error("the chain holds")
			}
			if err := s.Append(change("x", "1")); err != nil {
				t.Errorf("the next revision: %v", err)
			}
		})
	}
	t.Run("altered and sealed anew", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir)
		fill(t, s, 3)
		r, err := s.Get(2)
		if err != nil {
			t.Fatal(err)
		}
		r.Author.Name = "mallory"
		file, _, err := seal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fileOf(2)), file, 0o600); err != nil {
			t.Fatal(err)
		}
		if bad := open(t, dir).Verify(); len(bad) != 1 {
			t.Errorf("the chain: %q", bad)
		}
	})
	t.Run("missing", func(t *testing.T) {
		dir := t.TempDir()
		fill(t, open(t, dir), 3)
		if err := os.Remove(filepath.Join(dir, fileOf(2))); err != nil {
			t.Fatal(err)
		}
		if bad := open(t, dir).Verify(); len(bad) != 1 {
			t.Errorf("the chain: %q", bad)
		}
	})
}

func TestUnfinished(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var b Backup
	b.WillWrite([]byte("new"))
	if err := s.Begin(&Pending{Files: map[string]Backup{"/p/a.yaml": b}}); err != nil {
		t.Fatal(err)
	}
	p, ok := open(t, dir).Unfinished()
	if !ok || p == nil || p.Number != 1 {
		t.Fatalf("got %+v, %v", p, ok)
	}
	if got := p.Files["/p/a.yaml"]; !got.Matches([]byte("new"), true) || got.Matches([]byte("other"), true) || got.Matches(nil, false) {
		t.Error("it does not know what it wrote")
	}
	// The revision was kept: all was done but the end.
	fill(t, s, 1)
	if p, ok := open(t, dir).Unfinished(); !ok || p != nil {
		t.Errorf("got %+v, %v", p, ok)
	}
	if err := s.End(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, pendingName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Unfinished(); ok {
		t.Error("a damaged note was read")
	}
}
