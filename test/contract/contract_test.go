//go:build cgo

// Package contract holds the kernel side's pure C, built as plain C, to the Go
// references: one contract, three answers (the third, the kernel's, is given in
// internal/enforce). Row: tests.
package contract

import (
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/belay-project/belay/bpf/pure"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/policy/policytest"
	"github.com/belay-project/belay/internal/verdict"
)

// The contract: the C that runs in the kernel answers as the Go reference does.
func TestExecContract(t *testing.T) {
	policytest.Run(t, func(t *testing.T, e *policy.Effective, f policy.Facts) policy.Decision {
		p, facts := enforce.EncodePolicy(e, 1), enforce.EncodeFacts(f)
		d := pure.Decide(unsafe.Pointer(&p), unsafe.Pointer(&facts))
		return policy.Decision{Verdict: verdict.Verdict(d.Verdict), Rule: verdict.Rule(d.Rule), Policy: d.Policy}
	})
}

func TestZeroPolicyDenies(t *testing.T) {
	var p enforce.PolicyBytes
	for _, flags := range []uint32{1, 2, 0x10, 0x20, 0x80, 0x100, 0x200, 0x800, 0x1000, 0x2000} {
		f := enforce.EncodeFacts(policy.Facts{Flags: flags})
		if d := pure.Decide(unsafe.Pointer(&p), unsafe.Pointer(&f)); d.Verdict != 0 {
			t.Errorf("facts %#x: verdict %d, want deny", flags, d.Verdict)
		}
	}
}

// FuzzExec: for any policy and facts C and Go agree.
func FuzzExec(f *testing.F) {
	for _, c := range policytest.ExecCases() {
		f.Add([]byte(c.Name), c.Facts.Flags, c.Facts.AllowBits, int64(c.Facts.Age))
	}
	f.Fuzz(func(t *testing.T, seed []byte, flags, bits uint32, age int64) {
		e := effectiveFrom(seed)
		facts := policy.Facts{
			Flags: flags, AllowBits: bits, Age: max(0, clampAge(age)),
			PathVerdict: [2]verdict.Verdict{verdict.Verdict(flags >> 16 & 1), verdict.Verdict(flags >> 17 & 1)},
		}
		want := e.Exec(facts)
		p, fb := enforce.EncodePolicy(e, 1), enforce.EncodeFacts(facts)
		d := pure.Decide(unsafe.Pointer(&p), unsafe.Pointer(&fb))
		got := policy.Decision{Verdict: verdict.Verdict(d.Verdict), Rule: verdict.Rule(d.Rule), Policy: d.Policy}
		if got != want {
			t.Fatalf("facts %+v\npolicy %+v\nC  %+v\nGo %+v", facts, e, got, want)
		}
	})
}

func TestCgroupName(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, c := range []struct {
		name, parent string
		want         int
	}{
		{id, "docker", 1},
		{id, "kubepods-besteffort-pod1.slice", 1},
		{"docker-" + id + ".scope", "system.slice", 1},
		{"cri-containerd-" + id + ".scope", "x", 1},
		{"crio-" + id + ".scope", "x", 1},
		{"libpod-" + id + ".scope", "machine.slice", 1},
		{"crio-conmon-" + id + ".scope", "x", 0},
		{"crio-" + id, "x", 1},
		{"libpod-" + id, "x", 1},
		{"crio-conmon-" + id, "x", 0},
		{"libpod-conmon-" + id + ".scope", "x", 0},
		{"abcdefghijklmnopqrstuvwx0", "buildkit", 2},
		{"abcdefghijklmnopqrstuvwx0", "docker", 0},
		{"abcdefghijklmnopqrstuvwX0", "buildkit", 0},
		{strings.ToUpper(id), "docker", 0},
		{id[:63], "docker", 0},
		{id + "0", "docker", 0},
		{id[:63] + "g", "docker", 0},
		{"-" + id + ".scope", "x", 0},
		{"docker" + id + ".scope", "x", 0},
		{"docker-" + id + ".slice", "x", 0},
		{"docker-" + id, "x", 1},
		{strings.Repeat("x", 40) + "-" + id + ".scope", "x", 0},
		{"", "", 0},
	} {
		if got, _ := pure.CgroupName(c.name, c.parent); got != c.want {
			t.Errorf("CgroupName(%q, %q) = %d, want %d", c.name, c.parent, got, c.want)
		}
	}
}

func FuzzCgroupName(f *testing.F) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, n := range []string{id, "docker-" + id + ".scope", "crio-conmon-" + id + ".scope", "abcdefghijklmnopqrstuvwx0"} {
		f.Add(n, "buildkit")
	}
	f.Fuzz(func(t *testing.T, name, parent string) {
		if strings.ContainsRune(name, 0) || strings.ContainsRune(parent, 0) {
			t.Skip("needs names as the kernel has them: without a zero byte")
		}
		kind, cid := pure.CgroupName(name, parent)
		wantID, wantKind := enforce.CgroupName(name, parent)
		if kind != wantKind || kind == 1 && cid != wantID {
			t.Fatalf("%q below %q: C %d %x, Go %d %x", name, parent, kind, cid, wantKind, wantID)
		}
	})
}

func FuzzHashPath(f *testing.F) {
	f.Add(uint64(1), uint64(2), "/usr/bin/wget")
	f.Add(uint64(0), uint64(0), "/"+strings.Repeat("x", 255))
	f.Fuzz(func(t *testing.T, k0, k1 uint64, path string) {
		if strings.ContainsRune(path, 0) {
			t.Skip("needs a path as the kernel has it: without a zero byte")
		}
		parts := slices.DeleteFunc(strings.Split(path, "/"), func(c string) bool { return c == "" })
		for _, p := range parts {
			if len(p) > 255 {
				t.Skip("needs names of at most NAME_MAX bytes")
			}
		}
		if got, want := pure.HashPath(k0, k1, parts), enforce.HashPath(k0, k1, path); got != want {
			t.Fatalf("%q: C %x, Go %x", path, got, want)
		}
	})
}

// Paths that could be confused if the encoding were ambiguous.
func TestHashPathDistinct(t *testing.T) {
	seen := map[[2]uint64][]string{}
	for _, p := range [][]string{
		{},
		{"a"},
		{"a", "b"},
		{"ab"},
		{"b", "a"},
		{"aaaaaaaa"},
		{"aaaaaaaa", "a"},
		{"aaaaaaaaa"},
		{"a\x01"},
		{"a", "\x01"},
		{strings.Repeat("a", 255)},
		{strings.Repeat("a", 254), "a"},
	} {
		h := pure.HashPath(7, 9, p)
		if other, ok := seen[h]; ok {
			t.Errorf("%q and %q have one hash", p, other)
		}
		seen[h] = p
	}
}

func TestKeyFile(t *testing.T) {
	for _, c := range []struct {
		name, dir string
		want      int
	}{
		{"id_rsa", "x", 1},
		{"id_ed25519", "keys", 1},
		{"id_rsa.pub", ".ssh", 0},
		{"ssh_host_rsa_key", "ssh", 1},
		{"ssh_host_rsa_key.pub", "ssh", 0},
		{"mykey", ".ssh", 1},
		{"mykey", "x", 0},
		{"known_hosts", ".ssh", 0},
		{"config", ".ssh", 0},
		{"authorized_keys", ".ssh", 2},
		{"authorized_keys2", "y", 2},
		{"authorized_keys3", "y", 0},
		{".ssh", "root", 4},
		{"a-very-long-name-of-a-private-key-file.pub", ".ssh", 0},
		{"a-very-long-name-of-a-private-key-file", ".ssh", 1},
	} {
		if got := pure.KeyFile(c.name, c.dir); got != c.want {
			t.Errorf("KeyFile(%q, %q) = %d, want %d", c.name, c.dir, got, c.want)
		}
	}
}

func TestSSHProgram(t *testing.T) {
	for name, want := range map[string]bool{"sshd": true, "dropbear": true, "sshd-session": true, "ssh": false, "sshd2": false, "": false, "nginx": false} {
		if got := pure.SSHProgram(name); got != want {
			t.Errorf("SSHProgram(%q) = %v, want %v", name, got, want)
		}
	}
}
