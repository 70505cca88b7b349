package lab

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"
)

func TestDecodeEvents(t *testing.T) {
	const one = `{"decision":"killed","container":{"name":"web"},"policy":{"rule":"exec.drift"}}`
	for _, tt := range []struct {
		name, in string
		want     int
		fails    bool
	}{
		{name: "nothing", in: "", want: 0},
		{name: "lines", in: one + "\n" + one + "\n", want: 2},
		{name: "array", in: "[" + one + "," + one + "]", want: 2},
		{name: "cut off", in: one + "\n" + one[:20], fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeEvents([]byte(tt.in))
			if (err != nil) != tt.fails {
				t.Fatalf("got error %v, want one: %t", err, tt.fails)
			}
			if err == nil && len(got) != tt.want {
				t.Fatalf("got %d, want %d", len(got), tt.want)
			}
			for _, e := range got {
				if err == nil && (e.Container.Name != "web" || e.Policy.Rule != "exec.drift") {
					t.Errorf("got %+v", e)
				}
			}
		})
	}
}

func TestAppendTarKeepsBoth(t *testing.T) {
	var first, both bytes.Buffer
	if err := writeTar(&first, []File{{Name: "a/", Mode: 0o755}, Program("a/b", []byte("one"))}); err != nil {
		t.Fatal(err)
	}
	if err := appendTar(&both, &first, []File{{Name: "s", Mode: 0o4755, Body: []byte("two")}, {Name: "l", Link: "s"}}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(&both); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Name)
		if h.Name == "s" && h.Mode != 0o4755 {
			t.Errorf("mode of s: got %o, want 4755", h.Mode)
		}
	}
	if len(got) != 4 || got[0] != "a/" || got[3] != "l" {
		t.Errorf("got %q, want a/ a/b s l", got)
	}
}

func TestStatusNames(t *testing.T) {
	var s Status
	if err := json.Unmarshal([]byte(`{"policies":{"policies":[{"name":"a"},{"name":"b","refused":"requires prevent"}]}}`), &s); err != nil {
		t.Fatal(err)
	}
	if got := s.Names(); got != "a" {
		t.Errorf("got %q, want a: a refused policy is not in force", got)
	}
	if got := s.Level("exec.asRoot"); got != "unsupported" {
		t.Errorf("a rule that the agent does not name: got %s, want unsupported", got)
	}
}
