package enforce

import (
	"github.com/belay-project/belay/internal/policy"
)

// FactsBytes is the kernel's struct bl_exec_facts.
type FactsBytes = kernelBlExecFacts

// EncodeFacts returns the kernel's form of facts, for tests of the contract.
func EncodeFacts(f policy.Facts) FactsBytes {
	b := FactsBytes{Flags: f.Flags, AllowBits: f.AllowBits, PathPolicy: f.PathPolicy, AgeNs: uint64(f.Age)}
	for slot, v := range f.PathVerdict {
		b.PathVerdict[slot] = uint8(v)
	}
	return b
}

// HashPath is the path hash of the kernel side, for tests of the contract.
func HashPath(k0, k1 uint64, path string) [2]uint64 { return hashPath(k0, k1, path) }

// CgroupName is the Go reference of bpf/pure/cgroup_name.h, for tests of the contract:
// 0 other, 1 container, 2 build.
func CgroupName(name, parent string) (id [32]byte, kind int) {
	id, k := cgroupName(name, parent)
	return id, int(k)
}

// FileRuleBytes is an entry of the kernel's map of rules on paths.
type FileRuleBytes struct {
	Key  kernelBlPathKey
	Rule kernelBlPathRule
}

// EncodeFiles returns the kernel's form of the file rules of eff under a hash key, for tests
// of the contract.
func EncodeFiles(hashKey [2]uint64, eff *policy.Effective) []FileRuleBytes {
	out := make([]FileRuleBytes, len(eff.Files))
	for i, r := range eff.Files {
		out[i].Key, out[i].Rule = encodeFile(hashKey, 0, r)
	}
	return out
}
