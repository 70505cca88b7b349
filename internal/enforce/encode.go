package enforce

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"strings"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// EncodePolicy returns the kernel's form of an effective policy.
func EncodePolicy(eff *policy.Effective, revision uint32) PolicyBytes {
	p := PolicyBytes{Abi: abi, Revision: revision, Fail: uint8(eff.OnError)}
	for slot := range p.Rules {
		for i := range p.Rules[slot] {
			p.Rules[slot][i].Verdict = uint8(verdict.Allow)
		}
		for i, r := range eff.Rules[slot] {
			p.Rules[slot][i] = kernelBlRule{Verdict: uint8(r.Verdict), Opt: r.Opt, Policy: r.Policy}
		}
		p.AllowNeed[slot] = eff.AllowNeed[slot]
		p.StartForNs[slot] = uint64(max(eff.StartFor[slot], 0))
		p.Caps[slot] = uint64(eff.Capabilities[slot])
	}
	copy(p.AllowPolicy[:], eff.AllowPolicy)
	for _, r := range eff.Paths {
		p.Flags |= flagPaths
		if r.Kind != policy.PathExact {
			p.Flags |= flagDirs
		} else {
			p.Flags |= flagInodes
		}
	}
	if len(eff.Files) > 0 {
		p.Flags |= flagFiles | (dirsAll&^dirsOf(eff.Files))<<flatShift
		p.ReadNames = readNames(eff.Files)
	}
	if len(eff.NetNames) > 0 {
		p.Flags |= flagNames
	}
	// A list with no path at all still needs the walk, to find that nothing matches.
	if eff.AllowNeed[0]|eff.AllowNeed[1] != 0 {
		p.Flags |= flagPaths
	}
	return p
}

// dirsOf returns where rules are on directories, BL_DIRS_*: only there directories are looked up.
func dirsOf(rules []policy.FileRule) (dirs uint32) {
	for _, r := range rules {
		switch r.Kind {
		case policy.PathTree:
			components := strings.FieldsFunc(r.Path, func(c rune) bool { return c == '/' })
			dirs |= 1 << min(len(components), dirsDeep)
		case policy.PathChild:
			dirs |= dirsChild
		}
	}
	return dirs
}

// readNames notes the last components of the paths on which reading is denied: a file none of whose components is noted
// can be read. A rule on the root directory notes all.
func readNames(rules []policy.FileRule) (names [4]uint64) {
	for _, r := range rules {
		if (r.Acts[0]|r.Acts[1])&policy.ActRead == 0 {
			continue
		}
		name := r.Path[strings.LastIndexByte(r.Path, '/')+1:]
		if name == "" {
			return [4]uint64{math.MaxUint64, math.MaxUint64, math.MaxUint64, math.MaxUint64}
		}
		bit := nameBit(name)
		names[bit/64] |= 1 << (bit % 64)
	}
	return names
}

// nameBit is bl_name_bit of bpf/pure/files.h.
func nameBit(name string) uint64 {
	var head [8]byte
	copy(head[:], name)
	return (binary.LittleEndian.Uint64(head[:]) + uint64(len(name))) * 0x9e3779b97f4a7c15 >> 56
}

// opensOf returns what opens have to be asked about for the policy: opens*.
func opensOf(eff *policy.Effective) uint32 {
	var opens uint32
	if len(eff.Files) > 0 {
		opens |= opensFiles
	}
	for rule, bit := range map[verdict.Rule]uint32{
		verdict.RuleSSHKeys: opensKeys, verdict.RuleRawDevices: opensPriv, verdict.RuleKernelControl: opensPriv, verdict.RuleOtherTasks: opensPriv,
		verdict.RuleHostAgent: opensHost, verdict.RuleHostRuntimes: opensHost, verdict.RuleHostEngine: opensHost,
	} {
		for slot := range eff.Rules {
			if eff.Rules[slot][rule].Verdict != verdict.Allow {
				opens |= bit
			}
		}
	}
	return opens
}

// PolicyBytes is the kernel's struct bl_policy.
type PolicyBytes = kernelBlPolicy

// BL_P_* of bpf/rules.h; macros have no twins in BTF, so TestABI reads the header.
const (
	flagPaths  = 0x01
	flagDirs   = 0x02
	flagInodes = 0x04
	flagFiles  = 0x08
	flagNames  = 0x10
	flatShift  = 8
	dirsDeep   = 15
	dirsChild  = 1 << (dirsDeep + 1)
	dirsAll    = 1<<(dirsDeep+2) - 1
)

// BL_OPENS_* of bpf/rules.h, likewise.
const (
	opensFiles = 0x01
	opensKeys  = 0x02
	opensPriv  = 0x04
	opensHost  = 0x08
)

func (e *Enforcer) encodePath(set uint32, r policy.PathRule) (kernelBlPathKey, kernelBlPathRule) {
	kinds := map[policy.PathKind]kernelBlPathKind{
		policy.PathExact: kernelBlPathKindBL_PATH_EXACT,
		policy.PathTree:  kernelBlPathKindBL_PATH_TREE,
		policy.PathChild: kernelBlPathKindBL_PATH_CHILD,
	}
	key := kernelBlPathKey{Set: set, Kind: uint32(kinds[r.Kind]), H: hashPath(e.key[0], e.key[1], r.Path)}
	return key, encodePathRule(r)
}

func encodeFile(hashKey [2]uint64, set uint32, r policy.FileRule) (kernelBlPathKey, kernelBlPathRule) {
	kinds := map[policy.PathKind]kernelBlPathKind{
		policy.PathExact: kernelBlPathKindBL_PATH_FILES_EXACT,
		policy.PathTree:  kernelBlPathKindBL_PATH_FILES_TREE,
		policy.PathChild: kernelBlPathKindBL_PATH_FILES_CHILD,
	}
	key := kernelBlPathKey{Set: set, Kind: uint32(kinds[r.Kind]), H: hashPath(hashKey[0], hashKey[1], r.Path)}
	v := kernelBlPathRule{
		AllowBits: uint32(r.Acts[0]) | uint32(r.Acts[1])<<8, // BL_A_SHIFT
		Policy:    r.Policy,
	}
	for slot := range v.Verdict {
		v.Verdict[slot] = uint8(verdict.Allow)
		if r.Acts[slot] != 0 {
			v.Verdict[slot] = uint8(verdict.Deny)
		}
	}
	return key, v
}

func encodePathRule(r policy.PathRule) kernelBlPathRule {
	v := kernelBlPathRule{AllowBits: r.AllowBits, Policy: r.Policy}
	for slot := range v.Verdict {
		v.Verdict[slot] = uint8(r.Verdict[slot])
	}
	return v
}

// encodeNetAddr and encodeNetPort return the entries of the two tries of network rules.
func encodeNetAddr(set uint32, a policy.NetAddr) (kernelBlNetKey, kernelBlNetAddr) {
	k := kernelBlNetKey{Prefixlen: 64 + uint32(a.Prefix.Bits()), Set: set, Kind: uint32(a.Kind), Addr: a.Prefix.Addr().As16()}
	return k, kernelBlNetAddr{List: a.List, Verdict: uint8(a.Verdict), Policy: a.Policy, Cond: a.Cond}
}

func encodeNetPort(set uint32, p policy.NetPort) (kernelBlPortKey, kernelBlPortRule) {
	k := kernelBlPortKey{Prefixlen: 80 + uint32(p.Bits), Set: set, List: p.List, Proto: bits.ReverseBytes16(p.Protocol), Port: bits.ReverseBytes16(p.Port)}
	return k, kernelBlPortRule{Verdict: uint8(p.Verdict), Policy: p.Policy, Cond: p.Cond}
}

// nameSet is what the kernel's maps on names call a set and a mode.
func nameSet(set uint32, m verdict.Mode) uint32 { return set<<1 | uint32(m) }

// encodeName returns a pattern's entry of the trie over names that are written backwards.
func encodeName(hashKey [2]uint64, set uint32, n policy.NetName) (kernelBlNameKey, uint64) {
	k := kernelBlNameKey{Set: nameSet(set, n.Mode)}
	text, wild := strings.CutPrefix(n.Pattern, "*")
	for i := range len(text) {
		k.Name[len(text)-1-i] = int8(text[i])
	}
	k.Prefixlen = 32 + 8*uint32(len(text))
	if !wild { // and the zero behind it
		k.Prefixlen += 8
	}
	return k, hashName(hashKey, n.Mode, n.Pattern)
}

// hashName numbers a pattern of one mode: the same in every set, so that what is open stays so when
// policies change. The hash is keyed: nobody can aim at another's number.
func hashName(hashKey [2]uint64, m verdict.Mode, pattern string) uint64 {
	return max(hashPath(hashKey[0], hashKey[1], "/"+m.String()+"/"+pattern)[0], 1)
}

func encodeNameRule(hashKey [2]uint64, set uint32, r policy.NetNameRule) kernelBlNameRule {
	return kernelBlNameRule{Set: nameSet(set, r.Mode), Cond: r.Cond, Name: hashName(hashKey, r.Mode, r.Pattern)}
}

func encodeSSHDest(set, slot uint32, d policy.SSHDest) (kernelBlSshKey, kernelBlSshPorts, error) {
	bits := d.Prefix.Bits()
	if d.Prefix.Addr().Is4() {
		bits += 96
	}
	k := kernelBlSshKey{Prefixlen: 64 + uint32(bits), Set: set, Slot: slot, Addr: netip.AddrFrom16(d.Prefix.Addr().As16()).As16()}
	var v kernelBlSshPorts
	if len(d.Ports) > len(v.Port) || len(d.Ports) > math.MaxUint16 {
		return k, v, fmt.Errorf("ssh destination %s: %d ports; at most %d", d.Prefix, len(d.Ports), len(v.Port))
	}
	v.N = uint16(len(d.Ports))
	copy(v.Port[:], d.Ports)
	return k, v, nil
}
