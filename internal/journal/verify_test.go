package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/verdict"
)

// closedJournal returns the directory of a journal of n records that is closed.
func closedJournal(t testing.TB, o Options, n int) string {
	t.Helper()
	o.Dir = t.TempDir()
	j := open(t, o)
	appendN(t, j, n)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return o.Dir
}

// Every single bit of a journal is covered by the chain.
func TestVerifyFindsEveryBitFlip(t *testing.T) {
	dir := closedJournal(t, Options{}, 2)
	p := filepath.Join(dir, segmentName(ringEvents, 1))
	whole, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		rep := verify(t, dir)
		// Without its last line feed the last line counts as one being written.
		if rep.OK() && rep.Rings[0].TornBytes == 0 {
			t.Fatalf("flip in byte %d (%q): got no problem", i, whole[i])
		}
	}
}

func TestVerifyLines(t *testing.T) {
	tests := []struct {
		name string
		edit func(lines [][]byte) [][]byte // the header and 5 records
		ok   bool
	}{
		{name: "untouched", ok: true, edit: func(l [][]byte) [][]byte { return l }},
		{name: "line removed", edit: func(l [][]byte) [][]byte { return slices.Delete(l, 2, 3) }},
		{name: "first record removed", edit: func(l [][]byte) [][]byte { return slices.Delete(l, 1, 2) }},
		{name: "lines swapped", edit: func(l [][]byte) [][]byte { l[2], l[3] = l[3], l[2]; return l }},
		{name: "line twice", edit: func(l [][]byte) [][]byte { return slices.Insert(l, 3, l[2]) }},
		{name: "header removed", edit: func(l [][]byte) [][]byte { return l[1:] }},
		{name: "header twice", edit: func(l [][]byte) [][]byte { return slices.Insert(l, 1, l[0]) }},
		{name: "empty line", edit: func(l [][]byte) [][]byte { return slices.Insert(l, 2, []byte("\n")) }},
		{name: "spaces added", edit: func(l [][]byte) [][]byte {
			l[2] = bytes.Replace(l[2], []byte(`,"r":`), []byte(`, "r":`), 1)
			return l
		}},
		{name: "digest in upper case", edit: func(l [][]byte) [][]byte {
			l[2] = slices.Concat(l[2][:6], bytes.ToUpper(l[2][6:70]), l[2][70:])
			return l
		}},
		{name: "record passed off as a header", edit: func(l [][]byte) [][]byte {
			l[2] = bytes.Replace(l[2], []byte(`,"r":`), []byte(`,"s":`), 1)
			return l
		}},
		{name: "second object behind", edit: func(l [][]byte) [][]byte {
			l[2] = append(bytes.TrimSuffix(l[2], []byte("}\n")), ",\"r\":{}}\n"...)
			return l
		}},
		{name: "line too long", edit: func(l [][]byte) [][]byte {
			return slices.Insert(l, 2, append(bytes.Repeat([]byte{'x'}, 3*maxLine), '\n'))
		}},
		// Only a head digest kept elsewhere shows this one.
		{name: "end removed", ok: true, edit: func(l [][]byte) [][]byte { return l[:4] }},
	}
	dir := closedJournal(t, Options{}, 5)
	p := filepath.Join(dir, segmentName(ringEvents, 1))
	whole, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	head := verify(t, dir).Rings[0].Head
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lines := bytes.SplitAfter(bytes.Clone(whole), []byte{'\n'})
			lines = tt.edit(lines[:len(lines)-1])
			if err := os.WriteFile(p, bytes.Join(lines, nil), 0o600); err != nil {
				t.Fatal(err)
			}
			rep := verify(t, dir)
			if rep.OK() != tt.ok {
				t.Errorf("got problems %v, want ok %v", rep.Problems, tt.ok)
			}
			if same := rep.Rings[0].Head == head; tt.name == "end removed" && same {
				t.Error("got the old head digest, want another")
			}
			if !tt.ok {
				lost := slices.ContainsFunc(read(t, dir, ReadOptions{}), func(r *Record) bool { return r.Lost[CauseReaderLines] > 0 })
				if !lost {
					t.Error("read: got no loss record, want one at the damage")
				}
			}
		})
	}
}

func TestVerifySegments(t *testing.T) {
	seg := func(dir string, n uint64) string { return filepath.Join(dir, segmentName(ringEvents, n)) }
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		edit func(t *testing.T, dir string)
		want string // part of the first problem; "" = ok
		loss string // cause that Read reports
	}{
		{name: "untouched", edit: func(*testing.T, string) {}},
		{name: "oldest removed", edit: func(t *testing.T, dir string) { must(t, os.Remove(seg(dir, 1))) }},
		{name: "two oldest removed", edit: func(t *testing.T, dir string) {
			must(t, os.Remove(seg(dir, 1)))
			must(t, os.Remove(seg(dir, 2)))
		}},
		{
			name: "one in the middle removed", edit: func(t *testing.T, dir string) { must(t, os.Remove(seg(dir, 2))) },
			want: "missing", loss: CauseReaderSegments,
		},
		{name: "swapped", edit: func(t *testing.T, dir string) {
			must(t, os.Rename(seg(dir, 2), seg(dir, 99)))
			must(t, os.Rename(seg(dir, 3), seg(dir, 2)))
			must(t, os.Rename(seg(dir, 99), seg(dir, 3)))
		}, want: "does not follow", loss: CauseReaderLines},
		{name: "emptied", edit: func(t *testing.T, dir string) { must(t, os.Truncate(seg(dir, 2), 0)) }, want: "no header"},
		{name: "newest one cut in its header", edit: func(t *testing.T, dir string) {
			must(t, os.WriteFile(newest(t, dir), make([]byte, maxHeader), 0o600))
		}},
		{name: "newest one without a line", edit: func(t *testing.T, dir string) {
			must(t, os.WriteFile(newest(t, dir), make([]byte, maxHeader+1), 0o600))
		}, want: "no header"},
		{name: "sealed one cut", edit: func(t *testing.T, dir string) {
			fi, err := os.Stat(seg(dir, 2))
			must(t, err)
			must(t, os.Truncate(seg(dir, 2), fi.Size()-10))
		}, want: "is cut", loss: CauseReaderLines},
		{name: "taken from the other ring", edit: func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, segmentName(ringDenials, 1))))
			b, err := os.ReadFile(seg(dir, 1))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, segmentName(ringDenials, 1)), b, 0o600))
		}, want: "header is that of"},
		{name: "files of others", edit: func(t *testing.T, dir string) {
			for _, n := range []string{"events-1.jsonl", "events-00000000000x.jsonl", "events-000000000002.jsonl.bak", "notes"} {
				must(t, os.WriteFile(filepath.Join(dir, n), []byte("x"), 0o600))
			}
			must(t, os.Mkdir(seg(dir, 77), 0o700))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := closedJournal(t, Options{MaxBytes: 1 << 20, SegmentBytes: 8 << 10}, 40)
			tt.edit(t, dir)
			rep := verify(t, dir)
			if tt.want == "" && !rep.OK() {
				t.Fatalf("got %v, want no problem", rep.Problems)
			}
			if tt.want != "" && (rep.OK() || !strings.Contains(rep.Problems[0].String(), tt.want)) {
				t.Fatalf("got %v, want %q", rep.Problems, tt.want)
			}
			got := read(t, dir, ReadOptions{})
			if tt.loss != "" && !slices.ContainsFunc(got, func(r *Record) bool { return r.Lost[tt.loss] > 0 }) {
				t.Errorf("read: got no loss of %s", tt.loss)
			}
			if tt.want == "" && slices.ContainsFunc(got, func(r *Record) bool { return r.Kind == KindLoss }) {
				t.Error("read: got a loss, want none")
			}
		})
	}
}

// newest returns the path of the newest segment of events.
func newest(t *testing.T, dir string) string {
	t.Helper()
	segs, err := listSegments(dir, ringEvents)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, segmentName(ringEvents, segs[len(segs)-1].num))
}

func TestVerifyBesideAWriter(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, MaxBytes: 256 << 10, SegmentBytes: 8 << 10})
	run(t, j)
	for range 20 {
		for i := range 100 {
			j.Append(record(i, []verdict.Decision{verdict.Allowed, verdict.Denied}[i%2]))
		}
		wantOK(t, dir)
	}
	// The writer has its own time; what it writes late is looked at like the rest.
	for deadline := time.Now().Add(30 * time.Second); wantOK(t, dir).Rings[0].Records == 0; {
		if time.Now().After(deadline) {
			t.Fatal("got no records")
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // the writer has no other signal
	}
}

// The steps of docs/event-schema.md, on a fixed journal: the form of a line and what
// is hashed must never change under one version.
func TestChainIsFixed(t *testing.T) {
	c := newChain()
	d := c.link(digest{}, tagSegment, []byte(`{}`))
	line := string(appendLine(nil, d, tagSegment, []byte(`{}`)))
	d = c.link(d, tagRecord, []byte(`{"a":1}`))
	line += string(appendLine(nil, d, tagRecord, []byte(`{"a":1}`)))
	// Computed with Python's hashlib.
	const want = `{"h":"7fc143842f4a10d634dc82e2aadfe54d83b2bba19575c1c35358a00797c678e5","s":{}}
{"h":"817c78349b6fffa799bc3604687572d07dc17fb2e97e62cf33cd0c14f2106a06","r":{"a":1}}
`
	if line != want {
		t.Errorf("got\n%swant\n%s", line, want)
	}
}
