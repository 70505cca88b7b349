package main

import (
	"testing"

	"github.com/belay-project/belay/tools/lab"
)

func TestManner(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    lab.Result
		ran  string
		took bool
		want string
	}{
		{"killed", lab.Result{Code: 137}, "ran x", false, "killed before its first instruction"},
		{"refused by the runtime", lab.Result{Code: 126, Stderr: "OCI runtime exec failed: exec /bin/id: operation not permitted"}, "ran x", false, "refused: operation not permitted"},
		{"refused connect", lab.Result{Code: 255, Stderr: "ssh: connect to host 203.0.113.1 port 22: Operation not permitted"}, "welcome", false, "refused: operation not permitted"},
		{"no banner", lab.Result{Code: 1, Stdout: "connected, but no line came: i/o timeout"}, "got SSH-", false, "silenced: no SSH banner came out"},
		{"not heard", lab.Result{Code: 143}, "welcome", false, "silenced: the server never heard it"},
		{"ran", lab.Result{Stdout: "ran x uid=0"}, "ran x", true, "it ran"},
		{"other", lab.Result{Code: 1, Stderr: "no such file"}, "ran x", false, "exit status 1: no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := manner(tt.r, tt.took, tt.ran); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// Every scene says enough to be judged, and every phase has one for slow machines.
func TestScenes(t *testing.T) {
	for _, p := range phases {
		short := 0
		for _, sc := range p.scenes {
			if sc.name == "" || sc.tried == "" || sc.ran == "" || sc.act == nil {
				t.Errorf("%s: %q is incomplete", p.title, sc.name)
			}
			if (sc.want == runs) != (sc.rule == "") {
				t.Errorf("%s: %q wants %s with rule %q", p.title, sc.name, sc.want, sc.rule)
			}
			if sc.short {
				short++
			}
		}
		if short == 0 {
			t.Errorf("%s: no scene for --short", p.title)
		}
	}
}
