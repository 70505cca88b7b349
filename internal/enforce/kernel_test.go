package enforce

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/policy/policytest"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

func TestMain(m *testing.M) {
	if os.Args[0] == CanaryArg0 {
		os.Exit(CanaryExit)
	}
	os.Exit(m.Run())
}

// needBPF skips without the right to load BPF programs.
func needBPF(tb testing.TB) {
	tb.Helper()
	testneed.Need(tb, "root", os.Geteuid() == 0, "loading BPF programs takes CAP_BPF and CAP_SYS_ADMIN")
}

// contract loads the program that runs the pure decisions in this kernel.
func contract(tb testing.TB, k0, k1 uint64) (run func(*kernelBlContract)) {
	tb.Helper()
	needBPF(tb)
	spec, err := loadKernel()
	if err != nil {
		tb.Fatal(err)
	}
	for name := range spec.Programs {
		if name != contractProgram {
			delete(spec.Programs, name)
		}
	}
	for name, v := range map[string]uint64{"bl_sip_k0": k0, "bl_sip_k1": k1} {
		if err := spec.Variables[name].Set(v); err != nil {
			tb.Fatal(err)
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		tb.Fatalf("load: %+v", err)
	}
	tb.Cleanup(coll.Close)
	return func(c *kernelBlContract) {
		tb.Helper()
		m := coll.Maps["bl_contracts"]
		if err := m.Put(uint32(0), c); err != nil {
			tb.Fatal(err)
		}
		if ret, err := coll.Programs[contractProgram].Run(&ebpf.RunOptions{}); err != nil || ret != 0 {
			tb.Fatalf("run: %d, %v", ret, err)
		}
		if err := m.Lookup(uint32(0), c); err != nil {
			tb.Fatal(err)
		}
	}
}

// The contract, third answer: the kernel decides as the Go reference does.
func TestExecContractInKernel(t *testing.T) {
	run := contract(t, 1, 2)
	policytest.Run(t, func(t *testing.T, e *policy.Effective, f policy.Facts) policy.Decision {
		c := kernelBlContract{Policy: EncodePolicy(e, 1), Facts: EncodeFacts(f)}
		run(&c)
		return policy.Decision{Verdict: verdict.Verdict(c.Decision.Verdict), Rule: verdict.Rule(c.Decision.Rule), Policy: c.Decision.Policy}
	})
}

func TestPathHashInKernel(t *testing.T) {
	const k0, k1 = 0x0123456789abcdef, 0xfedcba9876543210
	run := contract(t, k0, k1)
	for _, name := range []string{"a", "wget", "12345678", "123456789", "a name with spaces and \xff bytes", string(make255())} {
		c := kernelBlContract{PathLen: uint32(len(name))}
		for i := range name {
			c.PathName[i] = int8(name[i])
		}
		for i := len(name); i < len(c.PathName); i++ {
			c.PathName[i] = 0x5a // what lies behind a name is arbitrary
		}
		run(&c)
		if want := hashPath(k0, k1, "/"+name); c.PathH != want {
			t.Errorf("%q: kernel %x, Go %x", name, c.PathH, want)
		}
	}
}

func make255() []byte {
	b := make([]byte, 255)
	for i := range b {
		b[i] = byte('a' + i%26)
	}
	return b
}

// Every program must pass the verifier here, whatever this kernel lets attach.
func TestVerifier(t *testing.T) {
	needBPF(t)
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	usable := map[verdict.Backend]bool{}
	for _, p := range Probe() {
		usable[p.Backend] = p.Usable
	}
	cache := btf.NewCache()
	for _, h := range hooks {
		t.Run(h.program, func(t *testing.T) {
			one := spec.Copy()
			for n := range one.Programs {
				if n != h.program {
					delete(one.Programs, n)
				}
			}
			can := false
			for _, b := range h.backends {
				can = can || usable[b]
			}
			testneed.Need(t, "bpf-"+string(h.backends[0]), can, "this kernel does not load such programs")
			// There a load takes minutes, and TestNoneRefused of the kernel suite judges the suite's own.
			testneed.Need(t, "full-matrix", os.Getenv("BELAY_MATRIX") != "reduced" || h.syscalls || !h.in(verdict.Backend(os.Getenv("BELAY_TEST_BACKEND"))), "make test-full")
			coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{Cache: cache})
			if ve, ok := errors.AsType[*ebpf.VerifierError](err); ok {
				t.Fatalf("%+v", ve)
			}
			// Without it the level of its rules is lower, and belay status says so.
			testneed.Need(t, "hook-"+h.name, h.need || !errors.Is(err, ebpf.ErrNotSupported), fmt.Sprint("this kernel has no such hook: ", err))
			if err != nil {
				t.Fatal(err)
			}
			coll.Close()
		})
	}
	for _, program := range []string{armProgram, carryProgram, heldProgram, ringsProgram} { // which the agent runs itself, where containers run already
		t.Run(program, func(t *testing.T) {
			one := spec.Copy()
			maps.DeleteFunc(one.Programs, func(n string, _ *ebpf.ProgramSpec) bool { return n != program })
			coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{Cache: cache})
			if err != nil {
				t.Fatalf("%+v", err)
			}
			coll.Close()
		})
	}
}
