package enforce

import (
	"testing"

	"github.com/belay-project/belay/internal/policy"
)

// Directories are looked up only at depths at which a rule is on some.
func TestDirs(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules []policy.FileRule
		want  uint32
	}{
		{"files", []policy.FileRule{{Kind: policy.PathExact, Path: "/etc/shadow"}}, 0},
		{"trees", []policy.FileRule{{Kind: policy.PathTree, Path: "/usr"}, {Kind: policy.PathTree, Path: "/opt/a/b"}}, 1<<1 | 1<<3},
		{"everything", []policy.FileRule{{Kind: policy.PathTree, Path: "/"}}, 1},
		{"deep", []policy.FileRule{{Kind: policy.PathTree, Path: "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17"}}, 1 << dirsDeep},
		{"one level", []policy.FileRule{{Kind: policy.PathChild, Path: "/usr/bin"}}, dirsChild},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := dirsOf(c.rules); got != c.want {
				t.Errorf("got %#x, want %#x", got, c.want)
			}
			p := EncodePolicy(&policy.Effective{Files: c.rules}, 1)
			if got := ^(p.Flags >> flatShift) & dirsAll; got != c.want {
				t.Errorf("the kernel reads %#x, want %#x", got, c.want)
			}
		})
	}
	if p := EncodePolicy(&policy.Effective{}, 1); p.Flags != 0 {
		t.Errorf("flags %#x of a policy with no rules", p.Flags)
	}
}

// A name is noted where a rule on it, or on what is below it, denies reading; one on the root directory notes all.
func TestReadNames(t *testing.T) {
	noted := func(name string, rules ...policy.FileRule) bool {
		bit := nameBit(name)
		return EncodePolicy(&policy.Effective{Files: rules}, 1).ReadNames[bit/64]>>(bit%64)&1 != 0
	}
	read := policy.FileRule{Kind: policy.PathExact, Path: "/etc/shadow", Acts: [2]policy.FileActs{policy.ActRead}}
	audited := policy.FileRule{Kind: policy.PathTree, Path: "/run/secrets", Acts: [2]policy.FileActs{1: policy.ActRead | policy.ActWrite}}
	child := policy.FileRule{Kind: policy.PathChild, Path: "/srv/a longer name", Acts: [2]policy.FileActs{policy.ActRead}}
	write := policy.FileRule{Kind: policy.PathTree, Path: "/usr", Acts: [2]policy.FileActs{policy.ActWrite}}
	for name, want := range map[string]bool{"shadow": true, "secrets": true, "a longer name": true, "usr": false, "etc": false} {
		if got := noted(name, read, audited, child, write); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"usr", "anything"} {
		if !noted(name, policy.FileRule{Kind: policy.PathTree, Path: "/", Acts: [2]policy.FileActs{policy.ActRead}}) {
			t.Errorf("%s is not noted by a rule on everything", name)
		}
	}
}
