package extract

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

const crateList = `{"packages":[{"name":"app","version":"0.1.0","source":"local","root":true},{"name":"cc","version":"1.0.0","source":"crates.io","kind":"build"},{"name":"time","version":"0.1.43","source":"crates.io"}]}`

func deflated(s string, level int) string {
	var b bytes.Buffer
	z, _ := zlib.NewWriterLevel(&b, level)
	z.Write([]byte(s))
	z.Close()
	return b.String()
}

// rustProgram is an ELF file with one section of the name, after some bytes that look random.
func rustProgram(section, data string, before int) string {
	junk := make([]byte, before)
	rand.NewChaCha8([32]byte{}).Read(junk)
	names := "\x00.shstrtab\x00" + section + "\x00"
	var b bytes.Buffer
	at := 64 + len(junk)
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	le := binary.LittleEndian
	for _, v := range []any{uint16(2), uint16(62), uint32(1), uint64(0), uint64(0), uint64(at + len(data) + len(names)), uint32(0), uint16(64), uint16(56), uint16(0), uint16(64), uint16(3), uint16(1)} {
		binary.Write(&b, le, v)
	}
	b.Write(junk)
	b.WriteString(data + names)
	head := func(name, kind uint32, off, size int) {
		for _, v := range []any{name, kind, uint64(0), uint64(0), uint64(off), uint64(size), uint32(0), uint32(0), uint64(1), uint64(0)} {
			binary.Write(&b, le, v)
		}
	}
	head(0, 0, 0, 0)
	head(1, 3, at+len(data), len(names))
	head(11, 1, at, len(data))
	return b.String()
}

// TestRust: crates of a program in place and in a stream, wherever they lie in it; not those
// that only built it, and nothing for other programs.
func TestRust(t *testing.T) {
	want := []string{"cargo app 0.1.0", "cargo time 0.1.43"}
	for _, before := range []int{300 << 10, 64<<10*5 - 64 - 10, 64<<10*5 - 64 - 40, 9 << 20} {
		for _, level := range []int{1, 6, 9} {
			p := rustProgram(rustSection, deflated(crateList, level), before)
			if got, err := readBoth(t, "usr/bin/app", p+strings.Repeat("\x00", 300<<10)); err != nil || !slices.Equal(got, want) {
				t.Errorf("%d bytes before it, level %d: got %q, %v", before, level, got, err)
			}
		}
	}
	if got, err := readBoth(t, "usr/bin/app", rustProgram(".data", deflated("nothing to see", 6), 300<<10)); err != nil || got != nil {
		t.Errorf("another program: %q, %v", got, err)
	}
	if _, err := readBoth(t, "usr/bin/app", rustProgram(rustSection, deflated(`{"packages":[`+strings.Repeat(" ", 9<<20), 6), 300<<10)); err == nil {
		t.Error("a list beyond its bound gave no error")
	}
	if _, err := readBoth(t, "usr/bin/app", rustProgram(rustSection, deflated(`{"packages":[{]}`, 6), 300<<10)); err == nil {
		t.Error("a broken list gave no error")
	}
	many := "\x7fELF" + strings.Repeat("\x78\x9c", maxRustTries+1)
	if _, err := (Set{}).Extract("program", "usr/bin/app", content(many, false)); err == nil {
		t.Error("a stream full of zlib's beginnings gave no error")
	}
}

func FuzzProgram(f *testing.F) {
	f.Add([]byte(rustProgram(rustSection, deflated(crateList, 6), 100)), true)
	f.Add([]byte(rustProgram(rustSection, deflated(crateList, 6), 100)), false)
	f.Fuzz(func(_ *testing.T, b []byte, anywhere bool) {
		Set{}.Extract("program", "bin/x", content(string(b), anywhere))
	})
}
