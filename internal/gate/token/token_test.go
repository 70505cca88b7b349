package token

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var now = time.Unix(1_800_000_000, 0)

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t testing.TB, s *Store, name string) string {
	t.Helper()
	_, text, err := s.Create(name, time.Hour, 0, now)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	s := open(t, path)
	ci, web := create(t, s, "ci"), create(t, s, "web.1")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	for _, text := range []string{ci, web} {
		if secret := text[len(text)-2*secretBytes:]; strings.Contains(string(raw), secret) {
			t.Error("the file has the secret")
		}
	}
	for _, s := range []*Store{s, open(t, path)} {
		if name, err := s.Verify(ci, now); name != "ci" || err != nil {
			t.Errorf("got %q, %v", name, err)
		}
		if l := s.List(); len(l) != 2 || l[0].Name != "ci" || l[1].Name != "web.1" || !l[0].Expires.Equal(now.Add(time.Hour)) {
			t.Errorf("list: %+v", l)
		}
		if _, err := s.Verify(ci, now.Add(time.Hour)); !errors.Is(err, ErrInvalid) {
			t.Errorf("when it has expired: %v", err)
		}
	}
	if _, err := s.Revoke("ci"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, open(t, path)} {
		if _, err := s.Verify(ci, now); !errors.Is(err, ErrInvalid) {
			t.Errorf("when it was revoked: %v", err)
		}
		if name, err := s.Verify(web, now); name != "web.1" || err != nil {
			t.Errorf("the other: %q, %v", name, err)
		}
	}
	if again := create(t, s, "ci"); again == ci {
		t.Error("a token was made twice")
	}
	if _, err := s.Verify(ci, now); !errors.Is(err, ErrInvalid) {
		t.Errorf("the former one of that name: %v", err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "tokens.json"))
	ci, web := create(t, s, "ci"), create(t, s, "web")
	id := func(text string) string { return text[len(prefix) : len(prefix)+2*idBytes] }
	for name, text := range map[string]string{
		"nothing": "", "prefix": prefix, "upper case": strings.ToUpper(ci), "cut": ci[:len(ci)-1], "longer": ci + "0",
		"other secret": ci[:len(ci)-2*secretBytes] + web[len(web)-2*secretBytes:],
		"other id":     strings.Replace(ci, id(ci), id(web), 1),
		"unknown id":   strings.Replace(ci, id(ci), strings.Repeat("0", 2*idBytes), 1),
		"the hash":     prefix + id(ci) + "_" + hash(ci), "space": " " + ci,
	} {
		if got, err := s.Verify(text, now); !errors.Is(err, ErrInvalid) || got != "" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "tokens.json"))
	create(t, s, "ci")
	for _, tt := range []struct {
		name  string
		lasts time.Duration
		want  error
	}{
		{"ci", time.Hour, ErrExists}, {"", time.Hour, ErrName}, {"-x", time.Hour, ErrName}, {"a b", time.Hour, ErrName}, {"a*", time.Hour, ErrName},
		{"a:b", time.Hour, ErrName}, {"ä", time.Hour, ErrName}, {strings.Repeat("a", 64), time.Hour, ErrName},
		{"x", 0, ErrLife}, {"x", -time.Hour, ErrLife}, {"x", Longest + 1, ErrLife},
	} {
		if _, text, err := s.Create(tt.name, tt.lasts, 0, now); !errors.Is(err, tt.want) || text != "" {
			t.Errorf("%q for %v: got %v, want %v", tt.name, tt.lasts, err, tt.want)
		}
	}
	if _, err := s.Revoke("none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("revoke: %v", err)
	}
	for i := len(s.byID); i < Max; i++ {
		s.byID[fmt.Sprint(i)] = &kept{Token: Token{Name: fmt.Sprint(i)}}
	}
	if _, _, err := s.Create("one-more", time.Hour, 0, now); !errors.Is(err, ErrFull) {
		t.Errorf("beyond the bound: %v", err)
	}
}

// What cannot be written is no token; what cannot be read is none, and is left as it is.
func TestDiskFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	s := open(t, filepath.Join(dir, "tokens.json"))
	if _, text, err := s.Create("ci", time.Hour, 0, now); err == nil || text != "" || len(s.List()) != 0 {
		t.Errorf("got %q, %v", text, err)
	}
	good := `{"name":"a","id":"0011223344556677","created":"2026-01-01T00:00:00Z","createdBy":0,"expires":"2026-01-02T00:00:00Z","sha256":"` + strings.Repeat("0", 64) + `"}`
	for name, text := range map[string]string{
		"empty": "", "cut": "[" + good, "twice": "[" + good + "," + good + "]", "more": "[" + good + "] []", "null": "[null]",
		"field": strings.Replace("["+good+"]", `"name"`, `"nome"`, 1), "name": strings.Replace("["+good+"]", `"a"`, `"a/b"`, 1),
		"hash": strings.Replace("["+good+"]", `0000"`, `"`, 1), "never ends": strings.Replace("["+good+"]", `"2026-01-02T00:00:00Z"`, `"0001-01-01T00:00:00Z"`, 1),
	} {
		path := filepath.Join(t.TempDir(), "tokens.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
	path := filepath.Join(t.TempDir(), "tokens.json")
	if err := os.WriteFile(path, []byte("["+good+"]"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`[{"name":"a","id":"0011223344556677","expires":"2026-01-02T00:00:00Z","sha256":"00"}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := &Store{byID: map[string]*kept{}}
		if s.parse(raw) != nil {
			return
		}
		for _, tok := range s.List() {
			if !isName(tok.Name) || tok.Expires.IsZero() {
				t.Errorf("took %+v", tok)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "tokens.json"))
	text := create(b, s, "ci")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Verify(text, now); err != nil {
			b.Fatal(err)
		}
	}
}
