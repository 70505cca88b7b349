package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file has the flags that the command line does not give.
func TestFromFile(t *testing.T) {
	flags := runCommand().Flags()
	if err := flags.Parse([]string{"--state-dir", "/given", "--guard-allow", "uid=1"}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "agent.yaml")
	text := "# of this host\nrun-dir: /run/other\nstate-dir: /of/file\nlog-allowed: true\ngate-mode: 0600\nguard-sockets: off\nguard-allow: [uid=2]\n" +
		"cgroup-scope: [/a, \"/b,c\"]\nscan-registry: one.example\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fromFile(flags, path); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"run-dir": "/run/other", "state-dir": "/given", "log-allowed": "true", "gate-mode": "0600", "guard-sockets": "off", "guard-allow": "[uid=1]",
		"cgroup-scope": `[/a,"/b,c"]`, "scan-registry": "[one.example]", "policy-dir": "/etc/belay/policies",
	} {
		if got := flags.Lookup(name).Value.String(); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for _, empty := range []string{"", "# nothing\n"} {
		if err := os.WriteFile(path, []byte(empty), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := fromFile(runCommand().Flags(), path); err != nil {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

func TestFromFileErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"run-dir: /a\nrun-dri: /b\n", `agent.yaml:2: "run-dri" is no flag`},
		{"--run-dir: /a\n", "without its dashes"},
		{"unload: true\n", `agent.yaml:1: "unload" is no flag`},
		{"config: /a\n", `"config" is no flag`},
		{"run-dir: /a\nrun-dir: /b\n", "agent.yaml:2: run-dir is there twice"},
		{"run-dir: [/a, /b]\n", "takes one value"},
		{"run-dir: {a: b}\n", "takes one value"},
		{"cgroup-scope: [[/a]]\n", "takes one value, or a list"},
		{"run-dir:\n", "takes one value"},
		{"log-allowed: maybe\n", `agent.yaml:1: log-allowed: `},
		{"- run-dir\n", "agent.yaml:1: it is no mapping"},
		{"run-dir: *a\n", "agent.yaml: "},
		{"run-dir: /a\n---\nstate-dir: /b\n", "more than one document"},
	} {
		path := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := fromFile(runCommand().Flags(), path); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.text, err, tt.want)
		}
	}
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := fromFile(runCommand().Flags(), path); err == nil {
		t.Error("a file that is not there is taken")
	}
	if err := os.WriteFile(path, []byte("run-dir: /a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := fromFile(runCommand().Flags(), path); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("others may write it: %v", err)
	}
}
