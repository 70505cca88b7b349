package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// wantColours reports whether f is a terminal whose owner has nothing against
// colours; see https://no-color.org.
func wantColours(f *os.File) painter {
	_, no := os.LookupEnv("NO_COLOR")
	return painter(!no && isScreen(f))
}

// isScreen reports whether f is a terminal that can do more than write lines.
func isScreen(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("TERM") != "dumb"
}

// clean returns s with everything that a terminal would not print as itself written
// out: control characters, invalid UTF-8, and the invisible characters that reorder
// text. Names, paths and arguments are chosen by containers, and must not move the
// cursor of whoever looks at them.
func clean(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}

// colour is a code of SGR (ECMA-48 8.3.117). All have two digits, so that painting
// makes each cell of a column longer by the same number of bytes and columns stay
// aligned.
type colour string

const (
	noColour colour = "39"
	red      colour = "31"
	green    colour = "32"
	yellow   colour = "33"
	grey     colour = "90"
)

// painter colours text if it is true.
type painter bool

func (p painter) paint(c colour, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// cell is one field of a table.
type cell struct {
	text   string
	colour colour
}

func plain(s string) cell { return cell{s, noColour} }

// table writes aligned columns. What it is given is cleaned.
type table struct {
	paint  painter
	indent string
	rows   [][]cell
}

func (t *terminal) table(indent string, titles ...string) *table {
	tb := &table{paint: t.colours, indent: indent}
	if len(titles) > 0 {
		row := make([]cell, len(titles))
		for i, s := range titles {
			row[i] = cell{s, grey}
		}
		tb.row(row...)
	}
	return tb
}

func (tb *table) row(cells ...cell) { tb.rows = append(tb.rows, cells) }

// lines returns the table, a string a row.
func (tb *table) lines() []string {
	columns := 0
	for _, r := range tb.rows {
		columns = max(columns, len(r))
	}
	var buf bytes.Buffer
	tabs := tabwriter.NewWriter(&buf, 0, 8, 2, ' ', 0)
	for _, r := range tb.rows {
		end := len(r)
		for end > 0 && r[end-1].text == "" {
			end--
		}
		// Every row has all columns: a column that a row lacks is not aligned across it.
		fields := make([]string, columns)
		for i, c := range r[:end] {
			fields[i] = tb.paint.paint(c.colour, clean(c.text))
		}
		fmt.Fprintln(tabs, tb.indent+strings.Join(fields, "\t"))
	}
	tabs.Flush() // to memory
	lines := make([]string, 0, len(tb.rows))
	for l := range strings.Lines(buf.String()) {
		lines = append(lines, strings.TrimRight(l, " \n"))
	}
	return lines
}

func (tb *table) writeTo(w io.Writer) {
	for _, l := range tb.lines() {
		fmt.Fprintln(w, l)
	}
}

// writeJSON writes v as one indented document.
func (t *terminal) writeJSON(v any) error { return writeJSON(t.out, v, "  ") }

// writeJSON writes v on w. Characters that a terminal obeys are escaped also where
// JSON would allow them (U+009B is an escape sequence of its own).
func writeJSON(w io.Writer, v any, indent string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	_, err := w.Write(cleanJSON(b.Bytes()))
	return err
}

func cleanJSON(b []byte) []byte {
	unsafe := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	if !bytes.ContainsFunc(b, unsafe) {
		return b
	}
	out := make([]byte, 0, len(b)+len(b)/8)
	for _, r := range string(b) {
		if !unsafe(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		// Such characters are in strings only. Those beyond 16 bits take two escapes.
		for _, u := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, u)
		}
	}
	return out
}

// ago says how long ago at was, as exactly as a person asks for.
func (t *terminal) ago(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return spell(t.now().Sub(at)) + " ago"
}

func spell(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 2*time.Second:
		return "1s"
	case d < 2*time.Minute:
		return strconv.Itoa(int(d/time.Second)) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	case d < 2*day:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	}
	return strconv.Itoa(int(d/day)) + "d"
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
