package revision

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func by(r *Revision, uid uint32) *Revision {
	r.Author = Author{Kind: ByUser, UID: new(uid)}
	return r
}

func add(t *testing.T, s *Store, rs ...*Revision) {
	t.Helper()
	for _, r := range rs {
		if err := s.Append(r); err != nil {
			t.Fatal(err)
		}
	}
}

// Who may change one policy, changes it as often as can be, and must not push out what
// others did: neither the newest of each policy nor, while it has most, anything of others.
func TestOthersHistoryStays(t *testing.T) {
	for name, attack := range map[string]func(i int) *Revision{
		"one policy":     func(i int) *Revision { return change("mine", fmt.Sprint(i)) },
		"ever new names": func(i int) *Revision { return change(fmt.Sprintf("mine%d", i), "x") },
		"large ones": func(i int) *Revision {
			r := change("mine", fmt.Sprint(i))
			r.Message = string(make([]byte, 1000))
			return r
		},
		"made and undone": func(i int) *Revision { return change(fmt.Sprintf("mine%d", i/2), []string{"x", ""}[i%2]) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			s.max.revisions, s.max.bytes = 32, 16<<10
			for i := range 6 {
				add(t, s, by(change(fmt.Sprintf("web%d", i%2), fmt.Sprint(i)), 0))
			}
			for i := range 100 {
				add(t, s, by(attack(i), 1000))
			}
			for _, s := range []*Store{s, open(t, dir)} {
				for n := range uint64(6) {
					if _, err := s.Get(n + 1); err != nil {
						t.Errorf("root's revision %d: %v", n+1, err)
					}
				}
				if got := numbers(s); len(got) > 32 || got[len(got)-1] != 106 {
					t.Errorf("kept %v", got)
				}
				if bad := s.Verify(); len(bad) > 0 {
					t.Errorf("the chain: %q", bad)
				}
				if n, kept := s.Gone(), len(numbers(s)); n != uint64(106-kept) {
					t.Errorf("%d are gone, %d kept", n, kept)
				}
			}
			add(t, s, by(change("web0", "new"), 0))
			if bad := open(t, dir).Verify(); len(bad) > 0 {
				t.Errorf("the chain after the next: %q", bad)
			}
		})
	}
}

// The newest of each policy stay also where one author made all.
func TestKeptEach(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	s.max.revisions = 16
	for i := range 6 {
		add(t, s, change("web", fmt.Sprint(i)))
	}
	for i := range 50 {
		add(t, s, change("mine", fmt.Sprint(i)))
	}
	for _, s := range []*Store{s, open(t, dir)} {
		got := numbers(s)
		if want := []uint64{3, 4, 5, 6}; !slices.Equal(got[:4], want) || len(got) != 16 {
			t.Errorf("kept %v, want %v first", got, want)
		}
		if st := s.States()["web"]; st.Digest != "5" || st.Number != 6 {
			t.Errorf("state of web: %+v", st)
		}
		if r, err := s.Newest("web", 40); err != nil || r.Number != 6 {
			t.Errorf("newest of web: %+v, %v", r, err)
		}
	}
}

// A revision that stays for another policy's sake must not be taken for the newest of one
// whose newer revisions are gone, nor bring back what they deleted.
func TestGoneBetween(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	s.max.revisions = 8
	both := change("a", "a1")
	both.Changes = append(both.Changes, change("b", "b1").Changes...)
	add(t, s, by(both, 0)) // 1, kept for b
	for i := range 40 {
		add(t, s, by(change("a", fmt.Sprint(i)), 1))
	}
	for _, s := range []*Store{s, open(t, dir)} {
		if r, err := s.Newest("b", 30); err != nil || r.Number != 1 {
			t.Errorf("newest of b: %v", err)
		}
		if r, err := s.Newest("a", 1); err != nil || r.Number != 1 {
			t.Errorf("a as revision 1 left it: %v", err)
		}
		if r, err := s.Newest("a", 10); err == nil {
			t.Errorf("a as revision 10 left it: got revision %d", r.Number)
		}
		if st := s.States()["a"]; st.Digest != "39" {
			t.Errorf("state of a: %+v", st)
		}
	}
	t.Run("deleted", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir)
		s.max.revisions = 3
		add(t, s, by(change("a", "1"), 0), by(change("a", ""), 1), by(change("x", "1"), 1), by(change("y", "1"), 1))
		for _, s := range []*Store{s, open(t, dir)} {
			if got := fmt.Sprint(numbers(s)); got != "[1 3 4]" {
				t.Fatalf("kept %s", got)
			}
			if st := s.States()["a"]; st.Digest != "" {
				t.Errorf("a is back: %+v", st)
			}
		}
	})
}

// What is altered or taken out shows beside a gap too.
func TestVerifyBesideGaps(t *testing.T) {
	make := func(t *testing.T) (string, *Store) {
		dir := t.TempDir()
		s := open(t, dir)
		s.max.revisions = 6
		add(t, s, by(change("web", "1"), 0), by(change("web", "2"), 0))
		for i := range 20 {
			add(t, s, by(change("mine", fmt.Sprint(i)), 1))
		}
		return dir, s
	}
	for _, n := range []uint64{2, 19} { // the last before the gap, the first after it
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			dir, s := make(t)
			if got := fmt.Sprint(numbers(s)); got != "[1 2 19 20 21 22]" {
				t.Fatalf("kept %s", got)
			}
			r, err := s.Get(n)
			if err != nil {
				t.Fatal(err)
			}
			r.Author.Name, r.Prev = "mallory", map[uint64]string{2: r.Prev, 19: "0"}[n]
			file, _, err := seal(r)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, fileOf(n)), file, 0o600); err != nil {
				t.Fatal(err)
			}
			if bad := open(t, dir).Verify(); len(bad) == 0 {
				t.Error("the chain holds")
			}
			if err := os.Remove(filepath.Join(dir, fileOf(n))); err != nil {
				t.Fatal(err)
			}
			if bad := open(t, dir).Verify(); len(bad) == 0 {
				t.Error("the chain holds without it")
			}
		})
	}
	t.Run("the base is damaged", func(t *testing.T) {
		dir, _ := make(t)
		if err := os.WriteFile(filepath.Join(dir, baseName), []byte(`{"number":18,"state":{},"gone":[{"first":9,"last":3}]}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if bad := open(t, dir).Verify(); len(bad) == 0 {
			t.Error("the chain holds")
		}
	})
	t.Run("a base of before", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir)
		fill(t, s, 4)
		if err := os.WriteFile(filepath.Join(dir, baseName), []byte(`{"number":2,"state":{"p0":{"kind":"RuntimePolicy","digest":"0","number":1}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		if got := fmt.Sprint(numbers(s)); got != "[3 4]" || len(s.Verify()) > 0 || s.States()["p0"].Number != 4 {
			t.Errorf("kept %s, %q, %+v", got, s.Verify(), s.States())
		}
	})
}
