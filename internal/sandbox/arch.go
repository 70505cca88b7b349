package sandbox

import "github.com/elastic/go-seccomp-bpf/arch"

// archHas reports whether this architecture has a system call; newer ones have none
// of the old spellings.
func archHas(name string) bool {
	info, err := arch.GetInfo("")
	if err != nil {
		return false
	}
	_, ok := info.SyscallNames[name]
	return ok
}
