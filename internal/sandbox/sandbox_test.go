package sandbox

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/testneed"
)

// What the sandbox refuses is tried by spawn's tests, in a process of its own.

func TestUnknownPiece(t *testing.T) {
	_, _, err := Enter(Options{Without: []string{"everything"}})
	if err == nil || !strings.Contains(err.Error(), "everything") {
		t.Errorf("giving up a piece that there is not: %v, want an error", err)
	}
}

// TestCgo: a build with cgo is told what to do; it must not get as far as the first piece.
func TestCgo(t *testing.T) {
	testneed.Need(t, "cgo", cgoBuilt, "this test program is built without cgo")
	held, _, err := Enter(Options{})
	if len(held) > 0 || !errors.Is(err, errCgo) || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("got %v, %v, want how to build it", held, err)
	}
}

func TestMissingError(t *testing.T) {
	cause := errors.New("function not implemented")
	err := error(&MissingError{Piece: inventory.PieceLandlock, Err: cause})
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "--sandbox-without landlock") {
		t.Errorf("%q does not name the way on", err)
	}
}

func TestPolicyAssembles(t *testing.T) {
	p := policy(3)
	if _, err := p.Assemble(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"socket", "execve", "fork", "ptrace", "mount", "bpf", "io_uring_setup", "kill", "clone3", "ioctl"} {
		for _, allowed := range p.Syscalls[0].Names {
			if allowed == name {
				t.Errorf("%s is allowed", name)
			}
		}
	}
}

// TestPolicyOnARM64: a name that an architecture does not have would refuse every scan
// there.
func TestPolicyOnARM64(t *testing.T) {
	arm, err := arch.GetInfo("arm64")
	if err != nil {
		t.Fatal(err)
	}
	g := policy(3).Syscalls[0]
	names := g.Names
	for _, n := range g.NamesWithCondtions {
		names = append(names, n.Name)
	}
	for _, name := range names {
		if _, ok := arm.SyscallNames[name]; !ok && !slices.Contains(perArch, name) {
			t.Errorf("arm64 has no %s", name)
		}
	}
	if _, ok := arm.SyscallNames["fstatat"]; !ok {
		t.Error("arm64 has no fstatat, which the runtime needs")
	}
}
