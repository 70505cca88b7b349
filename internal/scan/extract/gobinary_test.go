package extract

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"testing"
)

// buildInfo is what a Go program of a main module says of itself, at the place that its linker gives it.
func buildInfo(module string) []byte {
	b := append([]byte(goMagic), 8, goInline)
	b = append(b, make([]byte, goHeader-len(b))...)
	mods := "0123456789abcdef" + "path\t" + module + "\nmod\t" + module + "\tv1.0.0\t\n" + "0123456789abcdef"
	for _, s := range []string{"go1.24.0", mods} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return append(b, make([]byte, 64-len(b)%16)...)
}

// elfFile is an ELF file with a part for constant data and one for data that may change. Its program
// headers stand behind gap bytes.
func elfFile(tb testing.TB, class elf.Class, order binary.ByteOrder, gap int, constant, data []byte) []byte {
	tb.Helper()
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(class), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	if order == binary.BigEndian {
		ident[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
	}
	const head = 64
	from := (head + gap + 2*56 + 15) / 16 * 16
	var b bytes.Buffer
	write := func(v any) {
		if err := binary.Write(&b, order, v); err != nil {
			tb.Fatal(err)
		}
	}
	pad := func(n int) { b.Write(make([]byte, n-b.Len())) }
	if class == elf.ELFCLASS64 {
		write(elf.Header64{Ident: ident, Type: uint16(elf.ET_EXEC), Version: 1, Phoff: uint64(head + gap), Ehsize: 64, Phentsize: 56, Phnum: 2})
		pad(head + gap)
		write(elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R), Off: uint64(from), Vaddr: 0x10000, Filesz: uint64(len(constant)), Memsz: uint64(len(constant))})
		write(elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: uint64(from + len(constant)), Vaddr: 0x1000000, Filesz: uint64(len(data)), Memsz: uint64(len(data))})
	} else {
		write(elf.Header32{Ident: ident, Type: uint16(elf.ET_EXEC), Version: 1, Phoff: uint32(head + gap), Ehsize: 52, Phentsize: 32, Phnum: 2})
		pad(head + gap)
		write(elf.Prog32{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R), Off: uint32(from), Vaddr: 0x10000, Filesz: uint32(len(constant)), Memsz: uint32(len(constant))})
		write(elf.Prog32{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: uint32(from + len(constant)), Vaddr: 0x1000000, Filesz: uint32(len(data)), Memsz: uint32(len(data))})
	}
	pad(from)
	b.Write(constant)
	b.Write(data)
	return b.Bytes()
}

// TestProgramInAProgram: a Go program that another file holds as constant data is not taken for that
// file, in place or in a stream.
func TestProgramInAProgram(t *testing.T) {
	inner, outer, none := buildInfo("x.example/inner"), buildInfo("x.example/outer"), make([]byte, 4096)
	far := append(make([]byte, 2*windowSize), inner...)
	for _, tt := range []struct {
		name           string
		constant, data []byte
		want           string
	}{
		{"a program", none, outer, "x.example/outer"},
		{"one that holds another", inner, outer, "x.example/outer"},
		{"one that holds another further on", far, outer, "x.example/outer"},
		{"another language's that holds one", inner, none, ""},
		{"one in data that may change", none, inner, "x.example/inner"}, // nothing tells it from its own
	} {
		for _, class := range []elf.Class{elf.ELFCLASS64, elf.ELFCLASS32} {
			for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
				for how, list := range listedOf(t, elfFile(t, class, order, 0, tt.constant, tt.data)) {
					name := fmt.Sprintf("%s, %v, %v, %s", tt.name, class, order, how)
					if tt.want == "" && len(list) > 0 || tt.want != "" && (len(list) != 2 || packageOf(list, tt.want).Version != "v1.0.0") {
						t.Errorf("%s: got %+v, want %q", name, list, tt.want)
					}
				}
			}
		}
	}
	// Headers that are not seen yet say nothing of what is.
	list := listedOf(t, elfFile(t, elf.ELFCLASS64, binary.LittleEndian, 2*windowSize, none, outer))
	for how, list := range list {
		if packageOf(list, "x.example/outer").Name == "" {
			t.Errorf("headers far away, %s: got %+v", how, list)
		}
	}
}
