package buildkit

import (
	"bytes"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// send passes a file through a transfer in pieces of n bytes.
func send(t *testing.T, file []byte, n int) ([]byte, error) {
	t.Helper()
	var p plainFiles
	var out []byte
	for len(file) > 0 {
		k := min(n, len(file))
		raw, err := p.packet(marshal(t, &fstypes.Packet{Type: fstypes.Packet_PACKET_DATA, ID: 3, Data: file[:k]}))
		if err != nil {
			return nil, err
		}
		var m fstypes.Packet
		if err := decode(raw, &m); err != nil {
			t.Fatal(err)
		}
		out, file = append(out, m.Data...), file[k:]
	}
	return out, nil
}

func TestSyntaxLines(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"plain", "# syntax=a/b:1\nFROM x\n", "# syntax a/b:1\nFROM x\n"},
		{"spaces and case", "#\t SYNtax \t= a/b\nFROM x\n", "#\t SYNtax \t  a/b\nFROM x\n"},
		{"no space", "#syntax=a/b", "#syntax a/b"},
		{"after others", "# escape=`\n# check=skip=all\n# syntax=a\n", "# escape=`\n# check=skip=all\n# syntax a\n"},
		{"slashes", "// syntax=a\n", "// syntax a\n"},
		{"a shebang", "#!/usr/bin/env x\n# syntax=a\n", "#!/usr/bin/env x\n# syntax a\n"},
		{"a mark", "\xef\xbb\xbf# syntax=a\n", "\xef\xbb\xbf# syntax a\n"},
		{"a space of Unicode", "#\u00a0\u2003syntax=a\n", "#\u00a0\u2003syntax a\n"},
		{"carriage returns", "# syntax=a\r\nFROM x\r\n", "# syntax a\r\nFROM x\r\n"},
		{"not in the head", "FROM x\n# syntax=a\n", "FROM x\n# syntax=a\n"},
		{"another word", "# the syntax=a\n# x=syntax=y\n", "# the syntax=a\n# x=syntax=y\n"},
		{"the sign again", "# syntax==a\n", "# syntax =a\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, n := range []int{1, 3, 1 << 10} {
				if got, err := send(t, []byte(tt.file), n); err != nil || string(got) != tt.want {
					t.Errorf("in pieces of %d: got %q, %v; want %q", n, got, err, tt.want)
				}
			}
		})
	}
	for _, file := range []string{`{"syntax": "a"}`, "\n\t {\"\\u0073yntax\": \"a\"}", "#!x\n{\"syntax\":\"a\"}", "\xef\xbb\xbf{}"} {
		if got, err := send(t, []byte(file), 2); err == nil {
			t.Errorf("%q: got %q", file, got)
		}
	}
}

func TestManyFiles(t *testing.T) {
	var p plainFiles
	for i := range uint32(maxHeads + 1) {
		_, err := p.packet(marshal(t, &fstypes.Packet{Type: fstypes.Packet_PACKET_DATA, ID: i, Data: []byte("x")}))
		if (err != nil) != (i == maxHeads) {
			t.Fatalf("file %d: %v", i, err)
		}
	}
}

// Whatever passes names no frontend to BuildKit's own parser, and is as long as before.
func FuzzSyntax(f *testing.F) {
	for _, s := range []string{"# syntax=a\n", "// syntax = a b\n", `{"syntax":"x"}`, "#!x\n#syntax=a", "\xef\xbb\xbf#\u0085syntax=a", "# escape=`\n# syntax=a\nFROM x"} {
		f.Add([]byte(s), byte(3))
	}
	f.Fuzz(func(t *testing.T, file []byte, n byte) {
		got, err := send(t, bytes.Clone(file), max(1, int(n)))
		if err != nil {
			return
		}
		if ref, _, _, ok := parser.DetectSyntax(got); ok {
			t.Fatalf("%q names %q", got, ref)
		}
		if len(got) != len(file) || strings.Count(string(file), "=") == 0 && !bytes.Equal(got, file) {
			t.Fatalf("got %q, want %q", got, file)
		}
	})
}
