package inventory

import (
	"encoding/base64"
	"encoding/binary"
	"slices"
)

const (
	// MaxFunctions bounds [Package.Functions], in bytes: some 60,000 functions.
	MaxFunctions = 160 << 10
	// MaxAllFunctions bounds those of all packages of one image. What is beyond is not known.
	MaxAllFunctions = 8 << 20
)

// functionBits is the size of a [FunctionKey]: two bytes a function in a set of some 20,000, and one
// of 13,000 that is not in it is taken for one that is.
const functionBits = 28

// functionForm begins a set, so that one of no functions is not that of a package of which nothing
// is known.
const functionForm = 1

// Whether a Go program has a function that a vulnerability is in.
const (
	SymbolsPresent = "present" // one or more of them
	SymbolsAbsent  = "absent"  // none of them
	SymbolsUnknown = "unknown" // no record names one, or the program's functions were not read; not a Go program
)

// SymbolStates are all of them.
var SymbolStates = []string{SymbolsPresent, SymbolsAbsent, SymbolsUnknown}

// FNV-1a, https://datatracker.ietf.org/doc/html/draft-eastlake-fnv, by hand: it allocates nothing.
const (
	fnvBasis = 14695981039346656037
	fnvPrime = 1099511628211
)

// FunctionSymbol is the name of a function within its package by its hash: NAME or TYPE.METHOD, in as
// many parts as it comes in.
func FunctionSymbol[T string | []byte](parts ...T) uint32 {
	h := uint64(fnvBasis)
	for _, s := range parts {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * fnvPrime
		}
	}
	return uint32(h ^ h>>32)
}

// FunctionKey is a function of a Go program as [Package.Functions] has it, by the import path of its
// package. An empty symbol is any function of the package.
func FunctionKey(path string, symbol uint32) uint32 {
	h := uint64(fnvBasis)
	for i := range len(path) {
		h = (h ^ uint64(path[i])) * fnvPrime
	}
	h = (h ^ uint64(symbol)) * fnvPrime
	return uint32((h ^ h>>32) & (1<<functionBits - 1))
}

// PutFunctions returns a set of functions as [Package.Functions] has it, and sorts keys. It returns
// "", nothing is known, for more than it may have.
func PutFunctions(keys []uint32) string {
	slices.Sort(keys)
	b := []byte{functionForm}
	last := uint32(0)
	for _, k := range slices.Compact(keys) {
		b = binary.AppendUvarint(b, uint64(k-last))
		last = k
	}
	if base64.RawStdEncoding.EncodedLen(len(b)) > MaxFunctions {
		return ""
	}
	return base64.RawStdEncoding.EncodeToString(b)
}

// FunctionSet are functions of a program, by their keys in order.
type FunctionSet []uint32

// FunctionSet reads p.Functions, as bytes of an enemy. ok is false where nothing is known.
func (p *Package) FunctionSet() (set FunctionSet, ok bool) {
	b, err := base64.RawStdEncoding.DecodeString(p.Functions)
	if err != nil || len(b) == 0 || b[0] != functionForm {
		return nil, false
	}
	set = make(FunctionSet, 0, len(b)/2)
	last := uint64(0)
	for b = b[1:]; len(b) > 0; {
		n, k := binary.Uvarint(b)
		if k <= 0 || n >= 1<<functionBits || last+n >= 1<<functionBits || n == 0 && len(set) > 0 {
			return nil, false
		}
		last += n
		set, b = append(set, uint32(last)), b[k:]
	}
	return set, true
}

// Has reports whether a function is in the set, or one that looks like it.
func (s FunctionSet) Has(path, symbol string) bool {
	return s.HasKey(FunctionKey(path, FunctionSymbol(symbol)))
}

// HasKey is [FunctionSet.Has] by the key.
func (s FunctionSet) HasKey(key uint32) bool {
	_, ok := slices.BinarySearch(s, key)
	return ok
}

// LimitFunctions forgets the functions of packages beyond what one image may have.
func LimitFunctions(list []Package) {
	room := MaxAllFunctions
	for i := range list {
		if n := len(list[i].Functions); n > room {
			list[i].Functions = ""
		} else {
			room -= n
		}
	}
}

// checkFunctions fails for more than there may be.
func (r *Result) checkFunctions() bool {
	all := 0
	for i := range r.Packages {
		n := len(r.Packages[i].Functions)
		if all += n; n > MaxFunctions || all > MaxAllFunctions {
			return false
		}
	}
	return true
}
