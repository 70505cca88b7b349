package sandbox

import (
	"errors"
	"strings"
	"testing"
)

// What the sandbox refuses is tried by spawn's tests, in a process of its own.

func TestUnknownPiece(t *testing.T) {
	_, _, err := Enter(Options{Without: []string{"everything"}})
	if err == nil || !strings.Contains(err.Error(), "everything") {
		t.Errorf("giving up a piece that there is not: %v, want an error", err)
	}
}

func TestMissingError(t *testing.T) {
	cause := errors.New("function not implemented")
	err := error(&MissingError{Piece: PieceLandlock, Err: cause})
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "--sandbox-without landlock") {
		t.Errorf("%q does not name the way on", err)
	}
}

func TestPolicyAssembles(t *testing.T) {
	p := policy()
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
