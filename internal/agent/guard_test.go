package agent

import (
	"testing"

	"github.com/belay-project/belay/internal/enforce"
)

func TestParseCaller(t *testing.T) {
	for s, want := range map[string]enforce.Caller{
		"uid=1000":              {UID: 1000},
		"user=root":             {},
		"unit=kubelet.service":  {Unit: "kubelet.service"},
		"exe=/usr/bin/ctr":      {Exe: "/usr/bin/ctr"},
		"exe=/usr/bin/ctr:1000": {Exe: "/usr/bin/ctr", UID: 1000},
	} {
		if got, err := parseCaller(s); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "uid=", "uid=x", "uid=-1", "uid=4294967295", "exe=ctr", "exe=/x:", "unit=a/b", "root", "gid=1"} {
		if got, err := parseCaller(s); err == nil {
			t.Errorf("%q: got %+v, want an error", s, got)
		}
	}
}
