package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

func TestClean(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"plain", "web-1 /usr/bin/äöü 日本", "web-1 /usr/bin/äöü 日本"},
		{"escape sequence", "\x1b[2Jx", `\x1b[2Jx`},
		{"title", "\x1b]0;owned\x07", `\x1b]0;owned\a`},
		{"line breaks", "a\r\nb\tc\v\f", `a\r\nb\tc\v\f`},
		{"delete and C1", "\x7f\u009b2J", `\x7f\u009b2J`},
		{"right to left", "abc\u202egnp.exe", `abc\u202egnp.exe`},
		{"invisible", "a\u200bb\ufeff\u2028", `a\u200bb\ufeff\u2028`},
		{"tag characters", "\U000e0041", `\U000e0041`},
		{"invalid UTF-8", "a\xffb\xc3", `a\xffb\xc3`},
		{"the replacement character itself", "a\ufffdb", "a\ufffdb"},
		{"backslash", `a\x1bb`, `a\x1bb`},
		{"other spaces", "a\u00a0b\u2003", `a\u00a0b\u2003`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := clean(tt.in); got != tt.want {
				t.Errorf("clean(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "web", "\x1b[2J", "\xff\xc3", "\u202e", "\U000e0041", `\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("clean(%q) = %q, not printable at %d", s, got, i)
		}
		if again := clean(got); again != got {
			t.Errorf("clean twice: %q, then %q", got, again)
		}
	})
}

func FuzzCleanJSON(f *testing.F) {
	for _, s := range []string{"", "<&>", "\x1b[2J\x7f\u009b", "\u202e\U000e0041", "\xff", `"\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var b strings.Builder
		if err := writeJSON(&b, []string{s}, ""); err != nil {
			t.Fatal(err)
		}
		line := strings.TrimSuffix(b.String(), "\n")
		if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q: not printable at %d", line, i)
		}
		var got []string
		if err := json.Unmarshal([]byte(line), &got); err != nil || len(got) != 1 || got[0] != strings.ToValidUTF8(s, "\ufffd") &&
			len([]rune(got[0])) != len([]rune(s)) {
			t.Errorf("%q came back as %q (%v)", s, got, err)
		}
	})
}

func TestSpell(t *testing.T) {
	tests := []struct {
		d    time.Duration
		want string
	}{
		{-time.Hour, "1s"},
		{0, "1s"},
		{59 * time.Second, "59s"},
		{119 * time.Second, "119s"},
		{2 * time.Minute, "2m"},
		{119 * time.Minute, "119m"},
		{2 * time.Hour, "2h"},
		{47 * time.Hour, "47h"},
		{48 * time.Hour, "2d"},
		{1000 * time.Hour, "41d"},
	}
	for _, tt := range tests {
		if got := spell(tt.d); got != tt.want {
			t.Errorf("spell(%v) = %q, want %q", tt.d, got, tt.want)
		}
	}
}

// TestTableAlignment compares a painted table with a plain one: colours must move
// nothing.
func TestTableAlignment(t *testing.T) {
	render := func(colours painter) string {
		tt := &terminal{colours: colours}
		tb := tt.table("", "NAME", "MODE", "NOTE")
		tb.row(plain("a"), cell{"enforce", green}, plain("x"))
		tb.row(plain("longer"), cell{"", red}, plain("y"))
		tb.row(plain("b"), cell{"audit", yellow})
		return strings.Join(tb.lines(), "\n")
	}
	want := "NAME    MODE     NOTE\na       enforce  x\nlonger           y\nb       audit"
	if got := render(false); got != want {
		t.Errorf("plain: got\n%s\nwant\n%s", got, want)
	}
	got := render(true)
	for _, c := range []colour{noColour, red, green, yellow, grey} {
		got = strings.ReplaceAll(got, "\x1b["+string(c)+"m", "")
	}
	if got = strings.ReplaceAll(got, "\x1b[0m", ""); got != want {
		t.Errorf("painted: got\n%s\nwant\n%s", got, want)
	}
}

func TestWantColours(t *testing.T) {
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	testneed.Need(t, "pty", err == nil, fmt.Sprint(err))
	defer tty.Close()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tests := []struct {
		name, env, value string
		f                *os.File
		want             painter
	}{
		{"terminal", "TERM", "xterm", tty, true},
		{"file", "TERM", "xterm", file, false},
		{"NO_COLOR", "NO_COLOR", "1", tty, false},
		{"empty NO_COLOR", "NO_COLOR", "", tty, false},
		{"dumb terminal", "TERM", "dumb", tty, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", "1") // restored at the end, whatever it was
			os.Unsetenv("NO_COLOR")
			t.Setenv(tt.env, tt.value)
			if got := wantColours(tt.f); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
