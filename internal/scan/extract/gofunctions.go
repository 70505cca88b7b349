package extract

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"net/url"
	"runtime/debug"
	"strings"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// Functions of a Go program are told by the table that its runtime has for stack traces, which no
// stripping takes away (.gopclntab). Its header leads to the names, each with a zero byte behind it:
// those of all functions that the linker kept, and of those of which an instruction was inlined
// into one. Source: internal/abi/symtab.go, runtime/symtab.go (pcHeader), and
// generateFuncnametab of cmd/link/internal/ld/pcln.go.
const (
	pclnHeader   = 8 + 8*8 // of the longest
	maxNameTable = 64 << 20
	maxFunctions = 2_000_000
	maxImports   = 50_000
	maxFuncName  = 64 << 10
)

// pclnWords are, by the first byte of its magic, which word of a header has the offset of the names,
// and how many it has. What is older than go1.16 keeps them between other things.
var pclnWords = map[byte]struct{ names, words int }{0xfa: {2, 7}, 0xf0: {3, 8}, 0xf1: {3, 8}}

// pclnTail is the magic but its first byte, and the two zeros behind it, as a little-endian machine
// has them.
var pclnTail = []byte("\xff\xff\xff\x00\x00")

// goFunctions gathers the functions of one program. It is fed with its bytes, or those of the table
// alone, in order.
type goFunctions struct {
	symbols map[string]*[]uint32 // by import path
	count   int
	path    string    // the last one, as it is written
	list    *[]uint32 // of it
	unknown bool      // it has more than is read

	head []byte // of a table, while it is read
	skip int64  // bytes up to the names
	left int64  // bytes of names
	rest []byte // the beginning of a name
	done bool
}

// known reports whether the names were read to their end, and are those of a whole program: one that
// shares its libraries has no runtime of its own.
func (g *goFunctions) known() bool {
	return g != nil && g.done && !g.unknown && g.symbols["runtime"] != nil
}

// look is fed with what stands at offset of a program up to end. It may look at what is behind, and
// gets that again.
//
// A program may have another in its data, and which table is its own is not told by the order.
func (g *goFunctions) look(b []byte, end int, offset int64) {
	at := 0
	for at < end && !g.unknown {
		switch {
		case g.left > 0:
			if at += g.table(b[at:end]); g.left == 0 {
				g.head = g.head[:0]
			}
		case len(g.head) > 0:
			n := min(end-at, pclnHeader-len(g.head))
			g.head = append(g.head, b[at:at+n]...)
			if at += n; len(g.head) == pclnHeader && (!g.begin() || g.left == 0) {
				g.head = g.head[:0]
			}
		default:
			i := bytes.Index(b[at:min(len(b), end+len(pclnTail))], pclnTail)
			if i < 0 {
				return
			}
			start := at + i - 1
			at += i + 1
			if start < 0 || (offset+int64(start))%8 != 0 || pclnWords[b[start]].words == 0 {
				continue
			}
			g.head = append(g.head, b[start:min(at, end)]...)
		}
	}
}

// begin reads the header. It returns false for what is none.
func (g *goFunctions) begin() bool {
	h := g.head
	var order binary.ByteOrder = binary.LittleEndian
	form, ok := pclnWords[h[0]]
	if bytes.HasPrefix(h, []byte("\xff\xff\xff")) {
		order = binary.BigEndian
		form, ok = pclnWords[h[3]]
	}
	quantum, size := h[6], int(h[7])
	if !ok || h[1] != 0xff || h[2] != 0xff || h[4] != 0 || h[5] != 0 || quantum != 1 && quantum != 2 && quantum != 4 || size != 4 && size != 8 {
		return false
	}
	word := func(i int) uint64 {
		if size == 4 {
			return uint64(order.Uint32(h[8+4*i:]))
		}
		return order.Uint64(h[8+8*i:])
	}
	names, units := word(form.names), word(form.names+1)
	if names < uint64(8+form.words*size) || names > 4096 || units <= names || units-names > maxNameTable {
		return false
	}
	if g.done { // a second one
		g.unknown = true
		return true
	}
	g.left = int64(units - names)
	g.skip = int64(names) - pclnHeader
	if g.skip < 0 { // the header is a shorter one: names stand behind it already
		behind := h[names:]
		g.skip = 0
		g.table(behind)
	}
	return true
}

// table takes names, and returns how much of b was of the table.
func (g *goFunctions) table(b []byte) int {
	n := int(min(int64(len(b)), g.skip))
	g.skip -= int64(n)
	b = b[n:]
	if int64(len(b)) > g.left {
		b = b[:g.left]
	}
	n += len(b)
	g.left -= int64(len(b))
	for len(b) > 0 && !g.unknown {
		i := bytes.IndexByte(b, 0)
		if i < 0 {
			g.rest = append(g.rest, b...)
			g.unknown = len(g.rest) > maxFuncName
			break
		}
		name := b[:i]
		if len(g.rest) > 0 {
			name = append(g.rest, name...)
			g.rest = name[:0]
		}
		g.add(name)
		b = b[i+1:]
	}
	if g.left == 0 {
		g.done = true
	}
	return n
}

// add takes the name of one function. It forgets what the compiler made of it for parts of its own
// (main.F.func1, main.F-range1, main.(*T).M-fm), and the arguments of types.
func (g *goFunctions) add(name []byte) {
	if len(name) > maxFuncName {
		g.unknown = true
		return
	}
	plain, _, generic := bytes.Cut(name, []byte("["))
	slash := bytes.LastIndexByte(plain, '/') + 1
	dot := bytes.IndexByte(plain[slash:], '.')
	if dot <= 0 || bytes.IndexByte(plain, ':') >= 0 {
		return // of C, or made by the compiler for a type
	}
	path, symbol := plain[:slash+dot], name[slash+dot+1:]
	if generic {
		symbol = withoutArguments(symbol)
	}
	if g.count++; g.count > maxFunctions {
		g.unknown = true
		return
	}
	if string(path) != g.path || g.list == nil {
		if g.open(path); g.unknown {
			return
		}
	}
	if i := bytes.IndexAny(symbol, "-·"); i >= 0 {
		symbol = symbol[:i]
	}
	method := bytes.HasPrefix(symbol, []byte("(*"))
	first, rest, _ := bytes.Cut(symbol, []byte("."))
	if method {
		first = bytes.TrimSuffix(first[2:], []byte(")"))
	}
	second, _, _ := bytes.Cut(rest, []byte("."))
	if !method {
		g.put(inventory.FunctionSymbol(first))
	}
	if len(second) > 0 {
		g.put(inventory.FunctionSymbol(first, []byte("."), second))
	}
}

// open turns to the package of an import path, in which the linker writes dots of the last element,
// and what is not plain, as %2e (objabi.PathToPrefix, cmd/internal/objabi/path.go).
func (g *goFunctions) open(path []byte) {
	g.path = string(path)
	real, err := url.PathUnescape(g.path)
	if err != nil {
		real = g.path // not of Go's linker, which escapes the sign of escapes too
	}
	if g.list = g.symbols[real]; g.list != nil {
		return
	}
	if g.symbols == nil {
		g.symbols = map[string]*[]uint32{}
	}
	if len(g.symbols) >= maxImports {
		g.unknown = true
		return
	}
	g.list = &[]uint32{inventory.FunctionSymbol("")}
	g.symbols[real] = g.list
}

func (g *goFunctions) put(symbol uint32) {
	if list := *g.list; list[len(list)-1] != symbol { // parts of one stand behind each other
		*g.list = append(list, symbol)
	}
}

// withoutArguments returns a name without what stands in brackets.
func withoutArguments(name []byte) []byte {
	out, depth := make([]byte, 0, len(name)), 0
	for _, c := range name {
		switch {
		case c == '[':
			depth++
		case c == ']':
			depth--
		case depth == 0:
			out = append(out, c)
		}
	}
	return out
}

// readFunctions reads those of a program that can be read anywhere.
func readFunctions(c image.Content) *goFunctions {
	e, err := elf.NewFile(io.NewSectionReader(c.At, 0, c.Size))
	if err != nil {
		return nil
	}
	for _, name := range []string{".gopclntab", ".data.rel.ro.gopclntab"} {
		s := e.Section(name)
		if s == nil || s.Type != elf.SHT_PROGBITS || s.Flags&elf.SHF_COMPRESSED != 0 {
			continue
		}
		g := &goFunctions{head: make([]byte, pclnHeader)}
		r := io.NewSectionReader(c.At, int64(s.Offset), int64(s.FileSize))
		if _, err := io.ReadFull(r, g.head); err != nil || !g.begin() {
			return nil
		}
		b := make([]byte, windowSize)
		for !g.done && !g.unknown {
			n, err := r.Read(b)
			g.table(b[:n])
			if err != nil {
				break
			}
		}
		return g
	}
	return nil
}

// place gives each module of a program its functions.
//
// A module that another stands for has its packages under its own name in the program, and not under
// that by which it is listed: nothing is known of its functions.
func (g *goFunctions) place(info *debug.BuildInfo, list []inventory.Package) {
	if !g.known() || info.Path == "" {
		return
	}
	for _, s := range info.Settings {
		if s.Key == "-buildmode" && (s.Value == "plugin" || s.Value == "shared") {
			return
		}
	}
	// Modules that are not listed have packages too, which are not the others'.
	keys := map[string][]uint32{info.Main.Path: nil}
	for i := range list {
		keys[list[i].Name] = nil
	}
	other := map[string]bool{}
	for _, m := range info.Deps {
		if m.Replace != nil && m.Replace.Path != m.Path {
			other[m.Replace.Path], keys[m.Path] = true, nil
		}
	}
	for path, symbols := range g.symbols {
		if path == "main" {
			path = info.Path
		}
		for _, module := range modulesOf(keys, path) {
			if other[module] {
				continue
			}
			for _, s := range *symbols {
				keys[module] = append(keys[module], inventory.FunctionKey(path, s))
			}
		}
	}
	for i := range list {
		if name := list[i].Name; !other[name] {
			list[i].Functions = inventory.PutFunctions(keys[name])
		}
	}
}

// modulesOf returns the modules that a package may be of: all whose path is the beginning of its own,
// since one may have moved into a module within another, and advisories name the one or the other; and
// for one whose path has no domain the standard library.
func modulesOf(modules map[string][]uint32, path string) (out []string) {
	for dir := path; dir != ""; dir = dir[:max(strings.LastIndexByte(dir, '/'), 0)] {
		if _, ok := modules[dir]; ok {
			out = append(out, dir)
		}
	}
	if first, _, _ := strings.Cut(path, "/"); len(out) == 0 && !strings.Contains(first, ".") {
		out = []string{"stdlib"}
	}
	return out
}
