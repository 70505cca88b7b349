package inventory

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
)

func TestFunctions(t *testing.T) {
	for _, keys := range [][]uint32{nil, {0}, {5, 0, 5, 1<<functionBits - 1}} {
		p := &Package{Functions: PutFunctions(slices.Clone(keys))}
		set, ok := p.FunctionSet()
		if !ok || !slices.IsSorted(set) {
			t.Errorf("%v: got %v, %v", keys, set, ok)
		}
		for _, k := range keys {
			if !set.HasKey(k) {
				t.Errorf("%v: %d is lost", keys, k)
			}
		}
	}
	if FunctionSymbol("T", ".", "M") != FunctionSymbol("T.M") || FunctionKey("a", FunctionSymbol("b")) == FunctionKey("ab", FunctionSymbol("")) {
		t.Error("keys of functions")
	}
	many := make([]uint32, 1<<20)
	for i := range many {
		many[i] = uint32(i) * 250
	}
	if PutFunctions(many) != "" {
		t.Error("more functions than a package may have are kept")
	}
}

// TestHostileFunctions: what is no set is one of which nothing is known.
func TestHostileFunctions(t *testing.T) {
	form := string([]byte{functionForm})
	for name, b := range map[string]string{
		"nothing": "", "another form": "\x02\x01", "cut off": form + "\x80", "too large": form + "\x80\x80\x80\x80\x01", "the same twice": form + "\x01\x00",
		"a sum that is too large": form + "\xff\xff\xff\x7f\x01", "a number without end": form + strings.Repeat("\xff", 11),
	} {
		if set, ok := (&Package{Functions: base64.RawStdEncoding.EncodeToString([]byte(b))}).FunctionSet(); ok {
			t.Errorf("%s: %v", name, set)
		}
	}
	if _, ok := (&Package{Functions: "?"}).FunctionSet(); ok {
		t.Error("what is no base64 was taken")
	}
}

// TestFunctionsAreBounded: a result has no more than one may have, and one that has is refused.
func TestFunctionsAreBounded(t *testing.T) {
	res := &Result{Schema: Schema, Layers: make([]Layer, 1)}
	for range MaxAllFunctions/MaxFunctions + 3 {
		res.Packages = append(res.Packages, Package{Kind: KindGo, Name: "a", Version: "1", Functions: strings.Repeat("A", MaxFunctions)})
	}
	if err := res.Check(); err == nil || !strings.Contains(err.Error(), "functions") {
		t.Errorf("got %v", err)
	}
	LimitFunctions(res.Packages)
	if err := res.Check(); err != nil {
		t.Error(err)
	}
	if res.Packages[0].Functions == "" || res.Packages[len(res.Packages)-1].Functions != "" {
		t.Error("the first are forgotten")
	}
	res.Packages = []Package{{Kind: KindGo, Name: "a", Version: "1", Functions: strings.Repeat("A", MaxFunctions+1)}}
	if res.Check() == nil {
		t.Error("a package with more functions than it may have was taken")
	}
}

func FuzzFunctionSet(f *testing.F) {
	f.Add(PutFunctions([]uint32{1, 2, 300}))
	f.Fuzz(func(t *testing.T, s string) {
		set, ok := (&Package{Functions: s}).FunctionSet()
		if ok && !slices.IsSorted(set) || len(set) > len(s) {
			t.Errorf("%v", set)
		}
	})
}
