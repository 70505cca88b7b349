package extract

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// goSources are a program and a module of its own, of which it calls what main says.
func goSources(tb testing.TB, main string) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, text := range map[string]string{
		"go.mod":     "module x.example/app\n\ngo 1.24\n\nrequire (\n\tx.example/dep.x v1.2.3\n\tx.example/old v1.0.0\n)\n\nreplace x.example/dep.x => ./dep\n\nreplace x.example/old => ./fork\n",
		"main.go":    "package main\n\nimport (\n\t\"os\"\n\n\t\"x.example/dep.x\"\n\t_ \"x.example/old\"\n)\n\nfunc main() {\n\tx := len(os.Args)\n" + main + "\n\tos.Exit(x)\n}\n",
		"dep/go.mod": "module x.example/dep.x\n\ngo 1.24\n",
		"dep/dep.go": `package dep

import "os"

//go:noinline
func Vulnerable(x int) int { return x + len(os.Args) }

func Inlined(x int) int { return x * len(os.Args) }

//go:noinline
func Closes(x int) func() int { return func() int { x++; return x } }

type T struct{ n int }

//go:noinline
func (t *T) Pointer(x int) int { return x + t.n }

//go:noinline
func (t T) Value(x int) int { return x - t.n }

//go:noinline
func Generic[X any](x X) X { return x }

type G[X any] struct{ x []X }

//go:noinline
func (g *G[X]) Add(x X) int { g.x = append(g.x, x); return len(g.x) }
`,
		"fork/go.mod": "module x.example/old\n\ngo 1.24\n", "fork/old.go": "package old\n\nfunc Nothing() {}\n",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

const callsAll = `	x = dep.Vulnerable(x) + dep.Inlined(x) + dep.Closes(x)() + (&dep.T{}).Pointer(x) + dep.T{}.Value(x) + dep.Generic(x) + new(dep.G[string]).Add("x")`

// goProgram builds it.
func goProgram(tb testing.TB, dir string, flags ...string) []byte {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), "app")
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), ".")...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off", "GOSUMDB=off")
	if msg, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build a program: %v\n%s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// listedOf are the packages of a program, as they are told in place and in a stream.
func listedOf(t *testing.T, b []byte) map[string][]inventory.Package {
	t.Helper()
	out := map[string][]inventory.Package{}
	for how, c := range map[string]image.Content{
		"in place":    {Reader: bytes.NewReader(b), At: bytes.NewReader(b), Size: int64(len(b))},
		"in a stream": {Reader: bytes.NewReader(b), Size: int64(len(b))},
	} {
		f, err := Set{}.Extract("program", "usr/bin/app", c)
		if err != nil {
			t.Fatal(err)
		}
		out[how] = f.Packages
	}
	return out
}

func packageOf(list []inventory.Package, name string) *inventory.Package {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return &inventory.Package{}
}

// TestGoFunctions: a program tells which functions of a module it has, stripped or not, inlined or not.
func TestGoFunctions(t *testing.T) {
	symbols := []string{"Vulnerable", "Inlined", "Closes", "T.Pointer", "T.Value", "Generic", "G.Add"}
	for _, tt := range []struct {
		name, main string
		flags      []string
		want       []string
	}{
		{"calls all", callsAll, nil, symbols},
		{"calls all, stripped", callsAll, []string{"-trimpath", "-ldflags=-s -w"}, symbols},
		{"calls all, nothing inlined", callsAll, []string{"-gcflags=x.example/...=-l"}, symbols},
		{"calls some", "\tx = dep.Inlined(x)", []string{"-ldflags=-s -w"}, []string{"Inlined"}},
		{"calls none", "\t_ = dep.T{}", []string{"-ldflags=-s -w"}, nil},
		{"cannot call", "\tif false {\n\t\tx = dep.Vulnerable(x)\n\t}", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := map[string]bool{}
			for _, s := range tt.want {
				want[s] = true
			}
			b := goProgram(t, goSources(t, tt.main), tt.flags...)
			for how, list := range listedOf(t, b) {
				set, ok := packageOf(list, "x.example/dep.x").FunctionSet()
				if !ok {
					t.Errorf("%s: nothing is known of the module: %+v", how, list)
				}
				for _, s := range symbols {
					if got := set.Has("x.example/dep.x", s); got != want[s] {
						t.Errorf("%s: it has %s: %v, want %v", how, s, got, want[s])
					}
				}
				if got := set.Has("x.example/dep.x", ""); got != (len(tt.want) > 0) {
					t.Errorf("%s: it has something of the package: %v", how, got)
				}
				if set, ok := packageOf(list, "x.example/old").FunctionSet(); !ok || len(set) > 0 {
					t.Errorf("%s: a module of which nothing is there: %v, %v", how, set, ok)
				}
				set, ok = packageOf(list, "stdlib").FunctionSet()
				if !ok || !set.Has("os", "Exit") || !set.Has("runtime", "mcache.refill") || set.Has("net/http", "Client.Get") || set.Has("x.example/dep.x", "Inlined") {
					t.Errorf("%s: of the standard library: %d functions, %v", how, len(set), ok)
				}
				if packageOf(list, "x.example/app").Name != "" {
					t.Errorf("%s: the main module is listed", how)
				}
			}
		})
	}
}

// pclntab is a table of names alone, as a linker of a format writes it.
func pclntab(order binary.AppendByteOrder, magic uint32, size int, names string) []byte {
	word := func(b []byte, n int) []byte {
		if size == 4 {
			return order.AppendUint32(b, uint32(n))
		}
		return order.AppendUint64(b, uint64(n))
	}
	words := 8
	if magic == 0xfffffffa {
		words = 7
	}
	b := append(order.AppendUint32(nil, magic), 0, 0, 1, byte(size))
	at := 8 + words*size
	for i := range words {
		switch i {
		case words - 5:
			b = word(b, at)
		case words - 4:
			b = word(b, at+len(names))
		default:
			b = word(b, 3)
		}
	}
	return append(b, names...)
}

const someNames = "runtime.main\x00gopkg.in/yaml%2ev3.(*parser).parse\x00x.example/a.F[go.shape.struct { A x.example/b.T }].func1\x00x.example/a.(*T[...]).M-fm\x00glob..func1\x00_cgo_x\x00type:.eq.x.example/c.T\x00x.example/d.F·dwrap·1\x00x.example/e.F-range1\x00"

// TestFunctionTable: every form of the table is read, wherever the pieces end in which it comes.
func TestFunctionTable(t *testing.T) {
	for name, b := range map[string][]byte{
		"go1.20": pclntab(binary.LittleEndian, 0xfffffff1, 8, someNames), "go1.18": pclntab(binary.LittleEndian, 0xfffffff0, 8, someNames),
		"go1.16": pclntab(binary.LittleEndian, 0xfffffffa, 8, someNames), "32 bits": pclntab(binary.LittleEndian, 0xfffffff1, 4, someNames),
		"go1.16, 32 bits": pclntab(binary.LittleEndian, 0xfffffffa, 4, someNames),
	} {
		before := "\xf1\xff\xff\xff\x00\x00\x01\x08" + strings.Repeat("\x01", 152) // looks like one
		all := append([]byte(before), b...)
		for _, piece := range []int{16, 48, 80, 1 << 10} {
			g := &goFunctions{}
			for at := 0; at < len(all); at += piece {
				g.look(all[at:min(len(all), at+piece+32)], min(piece, len(all)-at), int64(at))
			}
			if !g.known() {
				t.Errorf("%s in pieces of %d: not read", name, piece)
				continue
			}
			got := map[string]bool{}
			for path, want := range map[string]string{"gopkg.in/yaml.v3": "parser.parse", "x.example/a": "F", "x.example/d": "F", "x.example/e": "F", "runtime": "main"} {
				if list := g.symbols[path]; list != nil {
					for _, s := range *list {
						got[path] = got[path] || s == inventory.FunctionSymbol(want)
					}
				}
				if !got[path] {
					t.Errorf("%s in pieces of %d: no %s.%s", name, piece, path, want)
				}
			}
			if m := inventory.FunctionSymbol("T.M"); !bytes.Contains(asBytes(*g.symbols["x.example/a"]), asBytes([]uint32{m})) || g.symbols["x.example/b"] != nil || g.symbols["x.example/c"] != nil {
				t.Errorf("%s in pieces of %d: methods and types", name, piece)
			}
		}
	}
	big := &goFunctions{head: pclntab(binary.BigEndian, 0xfffffff1, 8, "")}
	if big.begin() {
		t.Error("a table without names was taken")
	}
	b := pclntab(binary.BigEndian, 0xfffffff1, 8, someNames)
	big = &goFunctions{head: b[:pclnHeader]}
	if !big.begin() || big.table(b[pclnHeader:]) != len(someNames) || !big.known() {
		t.Error("a big-endian table was not read")
	}
}

func asBytes(list []uint32) (out []byte) {
	for _, n := range list {
		out = binary.BigEndian.AppendUint32(out, n)
	}
	return out
}

// A program that has another in its data has two tables, and which is its own is not known.
func TestSecondFunctionTable(t *testing.T) {
	short := "runtime.main\x00" // ends within the longest header
	for name, names := range map[string]string{"short": short, "long": someNames} {
		b := pclntab(binary.LittleEndian, 0xfffffff1, 8, names)
		if name == "short" {
			b = pclntab(binary.LittleEndian, 0xfffffff1, 4, names)
		}
		b = append(b, make([]byte, 256-len(b)%8)...)
		for _, piece := range []int{16, 80, 1 << 10} {
			for n, all := range map[int][]byte{1: b, 2: append(bytes.Clone(b), b...)} {
				g := &goFunctions{}
				for at := 0; at < len(all); at += piece {
					g.look(all[at:min(len(all), at+piece+32)], min(piece, len(all)-at), int64(at))
				}
				if g.known() != (n == 1) {
					t.Errorf("%s, %d tables in pieces of %d: known %v", name, n, piece, g.known())
				}
			}
		}
	}
}

// A package is of every module that may have it: an advisory may name the outer of two.
func TestNestedModules(t *testing.T) {
	b := pclntab(binary.LittleEndian, 0xfffffff1, 8, "runtime.main\x00x.example/a/sub/x.F\x00")
	g := &goFunctions{}
	g.look(b, len(b), 0)
	list := []inventory.Package{{Name: "stdlib"}, {Name: "x.example/a"}, {Name: "x.example/a/sub"}, {Name: "x.example/b"}}
	g.place(&debug.BuildInfo{Path: "x.example/app"}, list)
	for i, want := range []bool{false, true, true, false} {
		set, ok := list[i].FunctionSet()
		if !ok || set.Has("x.example/a/sub/x", "F") != want {
			t.Errorf("%s: %v, %v", list[i].Name, set, ok)
		}
	}
}

// TestHostileFunctionTable: what is cut off, too large or not a program's is not known, and costs no memory.
func TestHostileFunctionTable(t *testing.T) {
	whole := pclntab(binary.LittleEndian, 0xfffffff1, 8, someNames)
	patched := func(at int, n uint64) []byte {
		b := bytes.Clone(whole)
		binary.LittleEndian.PutUint64(b[at:], n)
		return b
	}
	for name, b := range map[string][]byte{
		"cut off": whole[:len(whole)-3], "a header alone": whole[:pclnHeader], "half of a header": whole[:20],
		"names before the header": patched(8+3*8, 8), "names far away": patched(8+3*8, 1<<40), "names without end": patched(8+4*8, 1<<60),
		"names that end before they begin": patched(8+4*8, 3), "a longer table than there is": patched(8+4*8, 1<<20),
		"no runtime":             pclntab(binary.LittleEndian, 0xfffffff1, 8, "main.main\x00"),
		"a name without end":     pclntab(binary.LittleEndian, 0xfffffff1, 8, "runtime.main\x00main."+strings.Repeat("x", maxFuncName+1)+"\x00"),
		"packages without end":   pclntab(binary.LittleEndian, 0xfffffff1, 8, "runtime.main\x00"+manyPackages(maxImports+1)),
		"another magic":          append([]byte("\xf2"), whole[1:]...),
		"a machine of 16 bits":   append(append(bytes.Clone(whole[:7]), 2), whole[8:]...),
		"nothing but beginnings": bytes.Repeat(append(bytes.Clone(whole[:8]), bytes.Repeat([]byte{0xff}, 72)...), 100),
	} {
		g := &goFunctions{}
		g.look(b, len(b), 0)
		if g.known() || len(g.rest) > maxFuncName+len(b) || len(g.symbols) > maxImports {
			t.Errorf("%s: known %v, %d packages", name, g.known(), len(g.symbols))
		}
	}
}

func manyPackages(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("x.example/" + strings.Repeat("a", i%7) + string(rune('a'+i%26)) + "/" + string([]byte{byte('a' + i/676%26), byte('a' + i/26%26), byte('a' + i/17576%26)}) + ".F\x00")
	}
	return b.String()
}

// FuzzGoFunctions: a table of anything in any pieces says the same as in one.
func FuzzGoFunctions(f *testing.F) {
	f.Add(pclntab(binary.LittleEndian, 0xfffffff1, 8, someNames), 16)
	f.Add(pclntab(binary.LittleEndian, 0xfffffffa, 4, someNames), 48)
	f.Add(pclntab(binary.BigEndian, 0xfffffff1, 8, someNames), 32)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		if piece < 16 || piece > 1<<20 {
			return
		}
		piece = piece / 16 * 16
		one, many := &goFunctions{}, &goFunctions{}
		one.look(b, len(b), 0)
		for at := 0; at < len(b); at += piece {
			many.look(b[at:min(len(b), at+piece+32)], min(piece, len(b)-at), int64(at))
		}
		if one.known() != many.known() || len(one.symbols) != len(many.symbols) || one.count != many.count {
			t.Errorf("in one piece %v, %d; in pieces of %d %v, %d", one.known(), one.count, piece, many.known(), many.count)
		}
		if len(b) < pclnHeader {
			return
		}
		if g := (&goFunctions{head: b[:pclnHeader:pclnHeader]}); g.begin() {
			g.table(b[pclnHeader:])
		}
	})
}
