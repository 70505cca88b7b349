package vulndb

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Symbols tells which of the functions that a flaw is in a Go program has. It is what the table says
// that the program has for its own stack traces, and no proof: see docs/scan.md.
type Symbols struct {
	State string `json:"state"` // [inventory.SymbolStates]
	// Names are those that the program has, or else some of those that the flaw is in:
	// PATH.NAME, PATH.TYPE.METHOD, or PATH alone for all of a package.
	Names []string `json:"names,omitempty"`
	// More is how many there are beside them.
	More int `json:"more,omitempty"`
}

// Limit makes of symbols that were read what a match may give.
func (s *Symbols) Limit() {
	if s == nil {
		return
	}
	s.Names = s.Names[:min(len(s.Names), maxSymbolNames)]
	s.More = max(s.More, 0)
	if s.State != inventory.SymbolsPresent && s.State != inventory.SymbolsAbsent {
		s.State = inventory.SymbolsUnknown
	}
}

// SymbolState is the state of f.Symbols; unknown where there are none.
func (f *Finding) SymbolState() string {
	if f.Symbols == nil {
		return inventory.SymbolsUnknown
	}
	return f.Symbols.State
}

// Bounds on what a record says of functions; what is beyond makes nothing known of them. And how many
// names a finding has.
const (
	maxImports     = 10_000
	maxSymbols     = 100_000
	maxSymbolNames = 6
)

// osvImport is a package of Go in a record, with its functions; none is all of it. Source:
// https://go.dev/doc/security/vuln/database, "Schema".
type osvImport struct {
	Path    string   `json:"path"`
	Symbols []string `json:"symbols"`
}

// imports is what stands in the file of the packages and functions that a record names: empty for
// none. One that cannot be kept makes nothing known, since it would be missing.
func (a *osvAffected) imports() []byte {
	list := a.Ecosystem.value.Imports.value
	if a.Package.Ecosystem != "Go" || len(list) == 0 || len(list) > maxImports {
		return nil
	}
	var w bytes.Buffer
	all := 0
	putInt(&w, len(list))
	for _, i := range list {
		if all += len(i.Symbols); i.Path == "" || len(i.Path) > maxNameText || all > maxSymbols {
			return nil
		}
		putText(&w, i.Path)
		symbols := slices.Clone(i.Symbols)
		slices.Sort(symbols)
		for _, s := range symbols {
			if s == "" || len(s) > maxNameText {
				return nil
			}
		}
		putTexts(&w, slices.Compact(symbols))
	}
	return w.Bytes()
}

// flaw is the functions of Go that a finding is about, while it is matched.
type flaw struct {
	functions []flawedFunction
	vague     bool // there may be others
	absent    *Symbols
	unknown   *Symbols
}

type flawedFunction struct {
	key  uint32
	name string
}

// flawOf reads what [osvAffected.imports] wrote. A record of Go's own database that names no
// functions may mean any; one of another's has none to name.
//
// Errors: [ErrBroken].
func flawOf(b []byte, id string) (*flaw, error) {
	if len(b) == 0 {
		return &flaw{vague: strings.HasPrefix(id, "GO-")}, nil
	}
	c := cursor{b: b}
	out := new(flaw)
	for range c.count() {
		path, symbols := c.text(), c.list()
		if c.broken {
			break
		}
		if len(symbols) == 0 {
			symbols = []string{""} // any of the package
		}
		for _, s := range symbols {
			out.functions = append(out.functions, flawedFunction{inventory.FunctionKey(path, inventory.FunctionSymbol(s)), strings.TrimSuffix(path+"."+s, ".")})
		}
	}
	if c.broken || len(c.b) > 0 || len(out.functions) == 0 {
		return nil, ErrBroken
	}
	return out, nil
}

func (f *flaw) absorb(o *flaw) *flaw {
	switch {
	case f == nil:
		return o
	case o == nil:
		return f
	}
	return &flaw{functions: slices.Concat(f.functions, o.functions), vague: f.vague || o.vague}
}

// in tells which of the functions a program has. known says that its functions were read.
func (f *flaw) in(set inventory.FunctionSet, known bool) *Symbols {
	if f.unknown == nil {
		slices.SortFunc(f.functions, func(a, b flawedFunction) int { return cmp.Compare(a.name, b.name) })
		f.functions = slices.Compact(f.functions)
		f.unknown, f.absent = named(inventory.SymbolsUnknown, f.functions), named(inventory.SymbolsAbsent, f.functions)
	}
	if !known {
		return f.unknown
	}
	var has []flawedFunction
	for _, fn := range f.functions {
		if set.HasKey(fn.key) {
			has = append(has, fn)
		}
	}
	switch {
	case len(has) > 0:
		return named(inventory.SymbolsPresent, has)
	case f.vague || len(f.functions) == 0:
		return f.unknown
	}
	return f.absent
}

// named is a state with the first of its functions.
func named(state string, list []flawedFunction) *Symbols {
	out := &Symbols{State: state}
	for _, fn := range list[:min(len(list), maxSymbolNames)] {
		out.Names = append(out.Names, fn.name)
	}
	out.More = len(list) - len(out.Names)
	return out
}
