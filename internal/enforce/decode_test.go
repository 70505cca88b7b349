package enforce

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

func raw(k *kernelBlEvent) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(k)), eventSize)...)
}

func sample() kernelBlEvent {
	k := kernelBlEvent{
		Version: eventVersion, Type: uint8(EventExec), Decided: uint8(kernelBlDecidedBL_DENIED), Rule: uint8(verdict.RuleDrift),
		Hook: uint8(kernelBlHookBL_H_BPRM_CHECK), Layer: uint8(kernelBlLayerBL_L_UPPER), Seq: 7, Pid: 42, Tid: 43, Uid: 1000,
		Ancestors: 2, Family: 2, Port: 22,
	}
	k.Id[0] = 0xab
	copy(k.Comm[:], "sh\xff")
	for i, s := range []struct {
		n    *uint16
		text string
	}{{&k.ExeLen, "/tmp/ls"}, {&k.ObjLen, ""}, {&k.CwdLen, "/"}, {&k.ArgsLen, "ls\x00-l\x00"}} {
		at := 0
		for _, l := range []uint16{k.ExeLen, k.ObjLen, k.CwdLen, k.ArgsLen}[:i] {
			at += int(l)
		}
		*s.n = uint16(len(s.text))
		copy(k.Data[at:], s.text)
	}
	k.Ancestor[0].Pid, k.Ancestor[1].Pid = 41, 1
	a := netip.MustParseAddr("192.0.2.1").As16()
	copy(k.Addr[:], a[:])
	return k
}

func TestDecodeEvent(t *testing.T) {
	k := sample()
	e, err := decodeEvent(raw(&k))
	if err != nil {
		t.Fatal(err)
	}
	got := []any{e.Type, e.Decision, e.Rule, e.Hook, e.Layer, e.Seq, e.PID, e.Exe, e.Object, e.Cwd, e.Args, e.Comm, len(e.Ancestors), e.Ancestors[1].PID, e.Remote.String(), string(e.Container[:4])}
	want := []any{EventExec, verdict.Denied, verdict.RuleDrift, "bprm_check_security", "upper", uint64(7), uint32(42), "/tmp/ls", "", "/", []string{"ls", "-l"}, "sh\ufffd", 2, uint32(1), "192.0.2.1:22", "ab00"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestDecodeEventRefuses(t *testing.T) {
	for name, change := range map[string]func(*kernelBlEvent) []byte{
		"short":           func(k *kernelBlEvent) []byte { return raw(k)[:eventSize-1] },
		"empty":           func(*kernelBlEvent) []byte { return nil },
		"version":         func(k *kernelBlEvent) []byte { k.Version++; return raw(k) },
		"decision":        func(k *kernelBlEvent) []byte { k.Decided = 99; return raw(k) },
		"long executable": func(k *kernelBlEvent) []byte { k.ExeLen = 60000; return raw(k) },
		"long arguments":  func(k *kernelBlEvent) []byte { k.ArgsLen = 2304; return raw(k) },
	} {
		k := sample()
		if _, err := decodeEvent(change(&k)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	k := sample()
	f.Add(raw(&k))
	f.Add([]byte{eventVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEvent(b)
		if (err == nil) == (e == nil) {
			t.Fatalf("event %v, error %v", e, err)
		}
	})
}

// Macros have no twins in BTF: the Go constants are compared with the headers.
func TestABI(t *testing.T) {
	for _, c := range []struct {
		file, name string
		want       uint64
	}{
		{"rules.h", "BL_ABI", abi},
		{"rules.h", "BL_P_PATHS", flagPaths},
		{"rules.h", "BL_P_DIRS", flagDirs},
		{"rules.h", "BL_P_INODES", flagInodes},
		{"rules.h", "BL_P_FILES", flagFiles},
		{"rules.h", "BL_P_NAMES", flagNames},
		{"rules.h", "BL_P_FLAT_SHIFT", flatShift},
		{"pure/files.h", "BL_DIRS_DEEP", dirsDeep},
		{"rules.h", "BL_NAME_TEXT", policy.MaxName + 1},
		{"rules.h", "BL_OPENS_FILES", opensFiles},
		{"rules.h", "BL_OPENS_KEYS", opensKeys},
		{"rules.h", "BL_OPENS_PRIV", opensPriv},
		{"rules.h", "BL_OPENS_HOST", opensHost},
		{"events.h", "BL_EVENT_VERSION", eventVersion},
		{"events.h", "BL_E_ARGS_CUT", flagArgsCut},
		{"events.h", "BL_E_PATH_CUT", flagPathCut},
		{"events.h", "BL_E_CWD_CUT", flagCwdCut},
		{"events.h", "BL_E_SCRIPT", flagScript},
	} {
		src, err := os.ReadFile("../../bpf/" + c.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a test binary without its sources, in a virtual machine
		}
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?m)^#define\s+` + c.name + `\s+(\S+)`).FindSubmatch(src)
		if m == nil {
			t.Errorf("%s has no %s", c.file, c.name)
			continue
		}
		if got, err := strconv.ParseUint(string(m[1]), 0, 64); err != nil || got != c.want {
			t.Errorf("%s: header %s, Go %#x", c.name, m[1], c.want)
		}
	}
	for i, n := range hookNames {
		if n == "" && (i < 23 || i >= 32) {
			t.Errorf("hook %d has no name", i)
		}
	}
	if len(hookNames) != int(kernelBlHookBL_H_SOCKET_RECEIVE)+1 || len(layerNames) != int(kernelBlLayerBL_L_PLAIN)+1 {
		t.Error("a hook or layer has no name in decode.go")
	}
	for i, r := range verdict.Rules() {
		if levelTable[i].rule != r {
			t.Errorf("levelTable[%d] is of %v", i, levelTable[i].rule)
		}
	}
	if uint8(verdict.RuleEgress) != uint8(kernelBlRuleIdBL_R_EGRESS) || uint8(verdict.RulePacketSockets) != uint8(kernelBlRuleIdBL_R_PACKET_SOCKETS) ||
		verdict.RuleListen-verdict.RuleEgress != verdict.Rule(kernelBlNetDirBL_NET_BOUND) {
		t.Error("internal/verdict and bpf/rules.h number the network rules differently")
	}
	if uint8(verdict.RuleCapabilities) != uint8(kernelBlRuleIdBL_R_CAPABILITIES) || verdict.NumRules != int(kernelBlRuleIdBL_R_COUNT) {
		t.Error("internal/verdict and bpf/rules.h number the rules differently")
	}
	if uint8(verdict.RuleHostAgent) != uint8(kernelBlRuleIdBL_R_HOST_AGENT) || uint8(verdict.RuleHostEngine) != uint8(kernelBlRuleIdBL_R_HOST_ENGINE) {
		t.Error("internal/verdict and bpf/rules.h number the rules on the host differently")
	}
	if binary.Size(kernelBlPolicy{}) != int(unsafe.Sizeof(kernelBlPolicy{})) {
		t.Error("struct bl_policy has hidden padding")
	}
}

// A program that is in the object and not in the table would never be attached.
func TestEveryProgramIsAHook(t *testing.T) {
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, h := range hooks {
		if spec.Programs[h.program] == nil {
			t.Errorf("the object has no program %s", h.program)
		}
		listed[h.program] = true
	}
	for name, p := range spec.Programs {
		if !listed[name] && name != armProgram && name != carryProgram && name != heldProgram && name != ringsProgram && p.Type != ebpf.RawTracepoint && !strings.HasPrefix(name, "bl_bench_") {
			t.Errorf("program %s is in no row of the hook table", name)
		}
	}
}

// Opens are asked about what the policies ask about, in either mode, and else about nothing.
func TestOpensOf(t *testing.T) {
	for spec, want := range map[string]uint32{
		"exec: {asRoot: deny, drift: deny}":                              0,
		"ssh: {server: deny, client: deny}":                              0,
		"ssh: {keys: allow}":                                             0,
		"ssh: {keys: deny}":                                              opensKeys,
		"ssh: {mode: audit, keys: deny}":                                 opensKeys,
		"privileges: {rawDevices: deny}":                                 opensPriv,
		"privileges: {mode: audit, kernelControl: deny}":                 opensPriv,
		"privileges: {otherTasks: deny}":                                 opensPriv,
		"privileges: {mount: deny, ptrace: deny}":                        0,
		"host: {runtimes: deny}":                                         opensHost,
		"host: {mode: audit, engineConfig: deny}":                        opensHost,
		"files: {readOnly: [/etc]}":                                      opensFiles,
		"ssh: {keys: deny}, files: {mode: audit, readOnly: [/etc]}":      opensKeys | opensFiles,
		"ssh: {keys: deny}, privileges: {mode: audit, rawDevices: deny}": opensKeys | opensPriv,
	} {
		ps, err := policy.Parse("p.yaml", []byte("apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: p}\nspec: {mode: enforce, "+spec+"}\n"))
		if err != nil {
			t.Fatalf("%s: %v", spec, err)
		}
		set, err := policy.NewSet(ps)
		if err != nil {
			t.Fatal(err)
		}
		if got := opensOf(set.Floor()); got != want {
			t.Errorf("%s: %#x, want %#x", spec, got, want)
		}
		if got := opensOf(set.Effective(policy.Subject{Class: policy.ClassBuild})); got != want&opensHost {
			t.Errorf("%s, a build step: %#x, want the host's guard and no more", spec, got)
		}
	}
}

// What fires in interrupts is marked as such: what the kernel leaves out there was nothing to judge.
func TestInterruptHooks(t *testing.T) {
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hooks {
		at := spec.Programs[h.program].AttachTo
		if want := at == "sk_data_ready" || at == "inet_sock_set_state"; h.interrupts != want {
			t.Errorf("%s at %q: interrupts %v, want %v", h.program, at, h.interrupts, want)
		}
	}
}

// A kernel that hides addresses (kptr_restrict) still says what it has.
func TestHiddenSymbols(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kallsyms")
	if err := os.WriteFile(file, []byte("0000000000000000 T a\nffffffff82000000 T bc\t[m]\nffffffff81000000 T b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		at  uint64
		has bool
	}{"a": {0, true}, "b": {0xffffffff81000000, true}, "bc": {0xffffffff82000000, true}, "c": {}} {
		if at, has := symbolIn(file, name); at != want.at || has != want.has {
			t.Errorf("%s: got %#x, %v, want %+v", name, at, has, want)
		}
	}
}
