package extract

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// Programs of Rust that were built with cargo-auditable have the list of their crates in the
// section ".dep-v0": JSON, compressed by zlib. Source: rust-secure-code/cargo-auditable,
// PARSING.md, with the bounds that it advises.
const (
	rustSection = ".dep-v0"
	maxRustZlib = 1 << 20
	maxRustJSON = 8 << 20
	rustBegin   = `{"packages":[`
	// maxRustTries bounds the work on a stream that is made of what looks like zlib. A true
	// program has one such place in some 16,000 bytes by chance.
	maxRustTries = 100_000
)

// readProgram reads what the compilers of Go and Rust tell of a program: that of Rust where there
// is none of Go.
func readProgram(name string, c image.Content) (inventory.File, error) {
	if c.At == nil {
		return readProgramStream(c)
	}
	f, err := readGo(name, c)
	if err != nil || len(f.Packages) > 0 {
		return f, err
	}
	if f, err = readRust(c); err != nil || len(f.Packages) > 0 {
		return f, err
	}
	head := make([]byte, upxHead)
	n, _ := c.At.ReadAt(head, 0)
	return f, packed(head[:n])
}

// upxHead is up to where UPX's magic stands in an ELF file: behind the header and two to four
// program headers. Source: UPX, src/stub/src/include/linux.h, struct l_info.
const upxHead = 512

// packed is an error about a program that UPX has packed, which tells nothing of what it was
// built from.
func packed(head []byte) error {
	if bytes.HasPrefix(head, []byte(elf.ELFMAG)) && bytes.Contains(head, []byte("UPX!")) {
		return errPacked
	}
	return nil
}

var errPacked = errors.New("a program packed by UPX: what it was built from cannot be read")

// readRust reads the section of a program that can be read anywhere.
func readRust(c image.Content) (inventory.File, error) {
	var magic [4]byte
	if _, err := c.At.ReadAt(magic[:], 0); err != nil || string(magic[:]) != elf.ELFMAG {
		return inventory.File{}, nil //nolint:nilerr // no ELF file is no program
	}
	e, err := elf.NewFile(io.NewSectionReader(c.At, 0, c.Size))
	if err != nil {
		return inventory.File{}, nil //nolint:nilerr // what the standard library cannot read, nobody can run
	}
	s := e.Section(rustSection)
	if s == nil || s.Type == elf.SHT_NOBITS {
		return inventory.File{}, nil
	}
	packages, err := crates(io.LimitReader(io.NewSectionReader(c.At, int64(s.Offset), int64(s.FileSize)), maxRustZlib))
	if err != nil {
		return inventory.File{}, fmt.Errorf("the crates of a program of Rust: %w", err)
	}
	return inventory.File{Packages: packages}, nil
}

// readProgramStream looks for both in a stream, which can be read only once: the window of Go's
// search is looked through for a list of crates too.
func readProgramStream(c image.Content) (inventory.File, error) {
	w := &window{r: c}
	head, _ := w.peek(upxHead)
	upx := packed(head)
	rust := &crateSearch{w: w}
	functions := new(goFunctions)
	info, err := searchGoIn(w, func(b []byte, end int) {
		functions.look(b, end, w.offset)
		rust.look(b, end)
	})
	if errors.Is(err, errBroken) {
		return inventory.File{}, err
	}
	if info != nil && err == nil {
		return inventory.File{Packages: goModules(info, functions)}, nil
	}
	if rust.err != nil {
		return inventory.File{}, fmt.Errorf("the crates of a program of Rust: %w", rust.err)
	}
	if len(rust.found) > 0 {
		return inventory.File{Packages: rust.found}, nil
	}
	return inventory.File{}, upx
}

// crateSearch finds a list of crates in a stream by its beginning, since where sections are is
// told at the end.
type crateSearch struct {
	w     *window
	tries int
	z     io.ReadCloser
	found []inventory.Package
	err   error
}

// zlibLevels are the second bytes of zlib's header behind 0x78, a window of 32 KiB (RFC 1950, 2.2).
const zlibLevels = "\x01\x5e\x9c\xda"

// look looks at the places of b, what the window has, up to end.
func (s *crateSearch) look(b []byte, end int) {
	for at := 0; at < end && s.found == nil && s.tries < maxRustTries; at++ {
		i := bytes.IndexByte(b[at:end], 0x78)
		if i < 0 {
			return
		}
		at += i
		if at+2 > len(b) || bytes.IndexByte([]byte(zlibLevels), b[at+1]) < 0 {
			continue
		}
		if s.tries++; s.tries == maxRustTries {
			s.err = fmt.Errorf("a program with more than %d places that look like zlib: %w", maxRustTries, errBroken)
		}
		head, _ := s.w.peek(at + 256)
		if s.begins(head[at:]) {
			all, _ := s.w.peek(at + maxRustZlib) // what there is, if it is less
			s.found, s.err = crates(bytes.NewReader(all[at:min(len(all), at+maxRustZlib)]))
			if s.err == nil {
				return
			}
			b = all
		}
	}
}

// begins reports whether b decompresses to the beginning of a list of crates.
func (s *crateSearch) begins(b []byte) bool {
	var err error
	if r := bytes.NewReader(b); s.z == nil {
		s.z, err = zlib.NewReader(r)
	} else {
		err = s.z.(zlib.Resetter).Reset(r, nil)
	}
	if err != nil {
		return false
	}
	var head [len(rustBegin)]byte
	n, _ := io.ReadFull(s.z, head[:])
	return string(head[:n]) == rustBegin
}

// crates reads a list of crates. Those that were only used to build are left out; crates of git
// and of folders count by their name as those of the registry.
func crates(r io.Reader) ([]inventory.Package, error) {
	z, err := zlib.NewReader(bufio.NewReader(r))
	if err != nil {
		return nil, fmt.Errorf("they are no zlib: %w", errBroken)
	}
	b, err := inventory.ReadAll(z, maxRustJSON)
	if err != nil {
		return nil, fmt.Errorf("they cannot be unpacked: %w", errBroken)
	}
	var list struct {
		Packages []struct {
			Name    string `json:"name"`
			Version string `json:"version"`
			Kind    string `json:"kind"`
		} `json:"packages"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("they are no JSON: %w", errBroken)
	}
	var out []inventory.Package
	for _, p := range list.Packages {
		if p.Kind != "build" {
			out = append(out, inventory.Package{Kind: inventory.KindRust, Name: p.Name, Version: p.Version})
		}
	}
	if len(out) > inventory.MaxPackages {
		return nil, fmt.Errorf("a program of %d crates, want at most %d", len(out), inventory.MaxPackages)
	}
	return out, nil
}
