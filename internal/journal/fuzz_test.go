package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/belay-project/belay/internal/verdict"
)

// addSegmentSeeds adds a real segment, and it in several states of ruin.
func addSegmentSeeds(f *testing.F) {
	dir := closedJournal(f, Options{}, 3)
	b, err := os.ReadFile(filepath.Join(dir, segmentName(ringEvents, 1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add(b[:len(b)/2])
	f.Add(b[bytes.IndexByte(b, '\n')+1:])
	f.Add(append(bytes.Clone(b), make([]byte, 300)...))
	f.Add(append(bytes.Clone(b), "\n\n{}\n"...))
	f.Add(bytes.Replace(b, []byte(`"seq":2`), []byte(`"seq":3`), 1))
	f.Add([]byte{})
	f.Add(make([]byte, maxHeader))
	f.Add(make([]byte, maxHeader+1))
	f.Add([]byte("\n"))
	f.Add([]byte(`{"h":"` + digest{}.String() + `","s":{}}` + "\n"))
	f.Add([]byte(`{"h":"` + digest{}.String() + `","r":{"schema":"belay.dev/event/v1","time":"x","process":{"capEffective":"zz"}}}` + "\n"))
}

type seen struct {
	entry
	body string
}

// entries reads everything that r has.
func entries(t *testing.T, r io.Reader) []seen {
	t.Helper()
	s := newSegReader(r)
	var out []seen
	for {
		e, err := s.next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body := string(e.body)
		e.body = nil
		out = append(out, seen{e, body})
	}
}

// Whatever a segment holds: lines cover it without gaps, a line without damage is
// exactly what the writer would write, and the size of reads changes nothing.
func FuzzSegment(f *testing.F) {
	addSegmentSeeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		es := entries(t, bytes.NewReader(data))
		var off int64
		for i, e := range es {
			if e.off != off || e.end <= off || e.line != i+1 {
				t.Fatalf("line %d: got [%d,%d), want it to start at %d", i+1, e.off, e.end, off)
			}
			off = e.end
			raw := data[e.off:e.end]
			if e.tag == 0 && e.damage == "" {
				t.Fatalf("line %d: got neither a line nor damage", e.line)
			}
			if e.tag != 0 && !bytes.Equal(appendLine(nil, e.h, e.tag, []byte(e.body)), raw) {
				t.Fatalf("line %d: got another line than %q", e.line, raw)
			}
			if e.tag == tagRecord {
				var r Record
				_ = json.Unmarshal([]byte(e.body), &r) // must not panic
			}
		}
		if rest := data[off:]; bytes.IndexByte(rest, '\n') >= 0 {
			t.Fatalf("got %d bytes left with a line feed among them", len(rest))
		}
		if len(data) > 64<<10 {
			return // byte by byte would take too long
		}
		again := entries(t, iotest.OneByteReader(bytes.NewReader(data)))
		if len(again) != len(es) {
			t.Fatalf("byte by byte: got %d lines, want %d", len(again), len(es))
		}
		for i := range es {
			if es[i].damage != again[i].damage || es[i].h != again[i].h || es[i].body != again[i].body {
				t.Fatalf("byte by byte: line %d: got %+v, want %+v", i+1, again[i], es[i])
			}
		}
	})
}

// noSyncFile is fast: a fuzzer has no power to lose.
type noSyncFile struct{ file }

func (noSyncFile) Sync() error { return nil }

func openNoSync(path string, flag int) (file, error) {
	f, err := openFile(path, flag)
	return noSyncFile{f}, err
}

// Whatever the newest segment holds, the journal opens, goes on, and what it then
// writes is read back; nothing well-formed is cut.
func FuzzRecover(f *testing.F) {
	addSegmentSeeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, segmentName(ringEvents, 1)), data, 0o600); err != nil {
			t.Fatal(err)
		}
		before, err := Verify(dir)
		if err != nil {
			t.Fatal(err)
		}
		j, err := Open(Options{Dir: dir, BootID: testBoot, Host: "h", open: openNoSync})
		if err != nil {
			t.Fatal(err)
		}
		r := record(1, verdict.Denied)
		if !j.Append(r) {
			t.Fatal("append: got false")
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		after, err := Verify(dir)
		if err != nil {
			t.Fatal(err)
		}
		if n := after.Rings[0].Records; n < before.Rings[0].Records+1 {
			t.Fatalf("got %d records, want the %d of before and one more", n, before.Rings[0].Records)
		}
		if before.OK() && !after.OK() {
			t.Fatalf("got problems %v, want none", after.Problems)
		}
		var last *Record
		err = Read(context.Background(), dir, ReadOptions{}, func(r *Record) error { last = r; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if last == nil || last.Seq != r.Seq || last.Process == nil || last.Process.PID != r.Process.PID {
			t.Fatalf("got last %+v, want the one appended", last)
		}
	})
}
