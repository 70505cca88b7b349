package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/gate/preflight"
)

func TestPreflightOutput(t *testing.T) {
	r := preflightReport{
		PreflightReport: &enforce.PreflightReport{Auto: "signal"},
		Daemon: &preflight.Report{Findings: []preflight.Finding{
			{ID: "daemon.tcp", Severity: preflight.Fail, What: "it listens", Why: "root for all", Fix: "take it out"},
			{ID: "gate.socket", Severity: preflight.OK, What: "it answers", Why: "callers"},
		}},
	}
	var text, js strings.Builder
	if err := r.print(&text, "text"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"fail", "daemon.tcp", "fix: take it out", "gate.socket", "BACKEND"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, text.String())
		}
	}
	if err := r.print(&js, "json"); err != nil {
		t.Fatal(err)
	}
	var back struct {
		Auto   string `json:"auto"`
		Daemon preflight.Report
	}
	if err := json.Unmarshal([]byte(js.String()), &back); err != nil || back.Auto != "signal" || len(back.Daemon.Findings) != 2 || !back.Daemon.Failed() {
		t.Errorf("got %+v, %v of %s", back, err, js.String())
	}
}

// TestUsage: what is wrong with the command line has a status that is no answer of preflight.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{"preflight", "--bogus"}, {"preflight", "x"}, {"preflight", "--only", "moon"}, {"preflight", "-o", "yaml"},
		{"preflight", "--only", "daemon", "--docker-host", "none"}, {"preflight", "--only", "daemon", "--docker-host", "tcp://x"},
		{"run", "--bogus"}, {"run", "--memory-max", "x"}, {"bogus"},
	} {
		root := newRoot()
		root.SetArgs(args)
		var msg strings.Builder
		if status := execute(t.Context(), root, &msg); status != exitUsage || !strings.Contains(msg.String(), "See 'belay-agent") {
			t.Errorf("%q: exit status %d, %s", args, status, msg.String())
		}
	}
}
