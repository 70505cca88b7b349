package extract

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// notPrograms are endings of names that no Go linker gives and that images are full of.
var notPrograms = map[string]bool{
	".c": true, ".conf": true, ".css": true, ".gz": true, ".h": true, ".html": true, ".js": true, ".json": true, ".list": true,
	".map": true, ".md": true, ".md5sums": true, ".mjs": true, ".mo": true, ".pl": true, ".pm": true, ".png": true, ".py": true,
	".pyc": true, ".rb": true, ".sh": true, ".svg": true, ".ts": true, ".txt": true, ".xml": true, ".yaml": true, ".yml": true,
}

// minGo is less than the smallest Go program has (1.2 MB with go1.26, stripped).
const minGo = 256 << 10

func wantsGo(name string, mode fs.FileMode, size int64) bool {
	return mode&0o111 != 0 && (size < 0 || size >= minGo) && !notPrograms[path.Ext(name)]
}

// readGo reads the modules and the Go version of an ELF file made by Go.
func readGo(_ string, c image.Content) (inventory.File, error) {
	var info *debug.BuildInfo
	var functions *goFunctions
	var err error
	if c.At != nil {
		var magic [4]byte
		if _, err := c.At.ReadAt(magic[:], 0); err != nil || string(magic[:]) != "\x7fELF" {
			return inventory.File{}, nil //nolint:nilerr // no ELF file is no Go program
		}
		if info, err = buildinfo.Read(io.NewSectionReader(c.At, 0, c.Size)); err == nil {
			functions = readFunctions(c)
		}
	} else {
		w := &window{r: c}
		functions = new(goFunctions)
		info, err = searchGoIn(w, func(b []byte, end int) { functions.look(b, end, w.offset) })
	}
	if errors.Is(err, errBroken) {
		return inventory.File{}, err
	}
	if info == nil || err != nil {
		return inventory.File{}, nil //nolint:nilerr // most programs are not Go's
	}
	return inventory.File{Packages: goModules(info, functions)}, nil
}

// goModules lists the standard library and all modules, with replacements followed.
// A main module without a version ("(devel)") is left out: no advisory can name it.
func goModules(info *debug.BuildInfo, functions *goFunctions) []inventory.Package {
	var out []inventory.Package
	add := func(name, version string) {
		if name != "" && version != "" && version != "(devel)" {
			out = append(out, inventory.Package{Kind: inventory.KindGo, Name: name, Version: version})
		}
	}
	// "go1.22.1 X:nocoverageredesign": experiments follow the version.
	version, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	version, _, _ = strings.Cut(version, "-X:")
	if version != "" && version[0] >= '0' && version[0] <= '9' {
		add("stdlib", version)
	}
	add(info.Main.Path, info.Main.Version)
	for _, m := range info.Deps {
		// A folder in place of a module has no version: the module it stands for is what
		// advisories name, and most often what lies in the folder.
		if m.Replace != nil && m.Replace.Version != "" && m.Replace.Version != "(devel)" {
			m = m.Replace
		}
		add(m.Path, m.Version)
	}
	functions.place(info, out)
	return out
}

// Go's build information, as go1.18 and later write it: magic, pointer size, flags,
// 16 bytes of no meaning, then two texts with their lengths. Source: debug/buildinfo,
// "buildInfoMagic".
const (
	goMagic      = "\xff Go buildinf:"
	goAlign      = 16
	goHeader     = 32
	goInline     = 0x2 // flag: the texts follow
	maxGoVersion = 64
	maxGoModules = 4 << 20
)

// searchGoIn looks for build information in a stream, which layers that are compressed
// are. It needs 64 KiB whatever the program's size, and as much more as a text in it is
// long. A magic that only looks like one, as programs have that know it themselves, is
// passed over, up to [maxFalse] of them. Programs of Go before 1.18 keep the information
// behind pointers and are not recognised.
//
// also is shown each look ahead, and the place up to which it is to look, before the window goes on:
// it may peek further, and must not skip.
func searchGoIn(w *window, also func(b []byte, end int)) (*debug.BuildInfo, error) {
	if head, err := w.peek(4); err != nil || string(head) != "\x7fELF" {
		return nil, errNoGo
	}
	head, _ := w.peek(windowSize)
	parts, known := writableParts(head)
	var bare *debug.BuildInfo // with a version and no modules
	for tries := 0; ; {
		b, err := w.peek(windowSize)
		if len(b) < goHeader {
			break
		}
		// Look only where a whole header fits, at the file's alignment.
		for at := 0; at+goHeader <= len(b); at++ {
			i := bytes.Index(b[at:len(b)-goHeader+len(goMagic)], []byte(goMagic))
			if i < 0 {
				break
			}
			if at += i; (w.offset+int64(at))%goAlign != 0 || b[at+15]&goInline == 0 {
				continue
			}
			if known && !slices.ContainsFunc(parts, func(p span) bool { return p.has(w.offset + int64(at)) }) {
				continue // of another program, which this one holds as constant data
			}
			if tries++; tries > maxFalse {
				return nil, fmt.Errorf("a program with more than %d places that look like build information of Go: %w", maxFalse, errBroken)
			}
			switch info, err := w.decode(at); {
			case err == nil && info.Main.Path+info.Path != "" || err == nil && len(info.Deps) > 0:
				return info, nil
			case err == nil && bare == nil:
				bare = info
			}
		}
		// decode may have made the window longer; b is as long as it was.
		on := (len(b) - goHeader) / goAlign * goAlign
		if err != nil {
			on = len(b)
		}
		also(b, on)
		if err != nil {
			break
		}
		w.skip(on)
	}
	if bare == nil {
		return nil, errNoGo
	}
	return bare, nil
}

// span is a part of a file.
type span struct{ from, size uint64 }

func (s span) has(offset int64) bool {
	return uint64(offset) >= s.from && uint64(offset)-s.from < s.size
}

// maxSpans bounds what is asked about each place; programs have one or two.
const maxSpans = 8

// writableParts returns what of an ELF file is loaded as data that may change, by the program headers
// in its head: Go's linker puts build information there, and what debug/buildinfo.Read takes in place
// stands there. ok is false for headers that are not in the head: it may be anywhere.
//
// Source: elf(5); cmd/link/internal/ld/data.go, "SBUILDINFO".
func writableParts(head []byte) (parts []span, ok bool) {
	if len(head) < 64 {
		return nil, false
	}
	var order binary.ByteOrder = binary.LittleEndian
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	wide := elf.Class(head[elf.EI_CLASS]) == elf.ELFCLASS64
	at, size, n := uint64(order.Uint32(head[28:])), 32, order.Uint16(head[44:])
	if wide {
		at, size, n = order.Uint64(head[32:]), 56, order.Uint16(head[56:])
	}
	if n == 0 || at > uint64(len(head)) || uint64(len(head))-at < uint64(n)*uint64(size) {
		return nil, false
	}
	for p := head[at:]; n > 0; p, n = p[size:], n-1 {
		flags, s := order.Uint32(p[24:]), span{uint64(order.Uint32(p[4:])), uint64(order.Uint32(p[16:]))}
		if wide {
			flags, s = order.Uint32(p[4:]), span{order.Uint64(p[8:]), order.Uint64(p[32:])}
		}
		if elf.ProgType(order.Uint32(p)) == elf.PT_LOAD && elf.ProgFlag(flags)&(elf.PF_W|elf.PF_X) == elf.PF_W {
			if parts = append(parts, s); len(parts) > maxSpans {
				return nil, false
			}
		}
	}
	return parts, true
}

// maxFalse bounds the work on a program that is made of false build information.
const maxFalse = 16

var errNoGo = errors.New("no build information of Go")

const windowSize = 64 << 10

// window is a stream with a look ahead.
type window struct {
	r      io.Reader
	buf    []byte
	offset int64 // of buf in the stream
}

// peek returns the next n bytes, or fewer with an error.
func (w *window) peek(n int) ([]byte, error) {
	if have := len(w.buf); have < n {
		w.buf = append(w.buf, make([]byte, n-have)...)
		m, err := io.ReadFull(w.r, w.buf[have:])
		w.buf = w.buf[:have+m]
		if err != nil {
			return w.buf, err
		}
	}
	return w.buf[:n], nil
}

func (w *window) skip(n int) {
	w.offset += int64(n)
	w.buf = w.buf[:copy(w.buf, w.buf[n:])]
}

// text returns the text at a place of the look ahead, and the place after it.
func (w *window) text(at, limit int) (string, int, error) {
	b, _ := w.peek(at + binary.MaxVarintLen64)
	n, k := binary.Uvarint(b[min(at, len(b)):])
	if k <= 0 || n > uint64(limit) {
		return "", 0, errNoGo
	}
	at += k
	b, err := w.peek(at + int(n))
	if err != nil {
		return "", 0, err
	}
	return string(b[at:]), at + int(n), nil
}

// decode reads the build information at a place of the look ahead, which it leaves
// where it is.
func (w *window) decode(at int) (*debug.BuildInfo, error) {
	version, at, err := w.text(at+goHeader, maxGoVersion)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(version, "go") && !strings.HasPrefix(version, "devel") {
		return nil, errNoGo
	}
	mods, _, err := w.text(at, maxGoModules)
	if err != nil {
		return nil, err
	}
	// Modules stand between two sentinels of 16 bytes.
	if len(mods) >= 33 && mods[len(mods)-17] == '\n' {
		mods = mods[16 : len(mods)-16]
	} else {
		mods = ""
	}
	info, err := debug.ParseBuildInfo(mods)
	if err != nil {
		return nil, err
	}
	info.GoVersion = version
	return info, nil
}
