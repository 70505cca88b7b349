package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/verdict"
)

// anchored fills a journal, anchoring it on the way, and returns it closed with what a receiver got.
func anchored(t *testing.T, o Options, rounds, each int) (dir string, anchors []*Record) {
	t.Helper()
	o.Dir, o.BootID, o.Host = t.TempDir(), "boot", "web1"
	j := open(t, o)
	for range rounds {
		appendN(t, j, each-1)
		j.Append(record(each, verdict.Denied))
		a, err := j.Anchor()
		if err != nil {
			t.Fatal(err)
		}
		r := &Record{Kind: KindAnchor, Anchor: &a}
		j.Append(r)
		anchors = append(anchors, r)
	}
	appendN(t, j, 3)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return o.Dir, anchors
}

func verifyAnchors(t *testing.T, dir string, anchors []*Record) AnchorReport {
	t.Helper()
	rep, err := VerifyAnchors(dir, anchors)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// rewrite does what root can: it changes the bodies of a ring and computes the whole chain anew, over
// all segments.
func rewrite(t *testing.T, dir, ring string, edit func(body []byte) []byte) {
	t.Helper()
	segs, err := listSegments(dir, ring)
	if err != nil {
		t.Fatal(err)
	}
	c := newChain()
	var prev digest
	for i, s := range segs {
		path := filepath.Join(dir, segmentName(ring, s.num))
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var out []byte
		r := newSegReader(bytes.NewReader(raw))
		for {
			e, err := r.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			body := bytes.Clone(e.body)
			if e.tag == tagSegment {
				var h header
				if err := json.Unmarshal(body, &h); err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					var ok bool
					if prev, ok = parseDigest([]byte(h.Prev)); !ok {
						t.Fatal(h.Prev)
					}
				}
				h.Prev = prev.String()
				if body, err = json.Marshal(h); err != nil {
					t.Fatal(err)
				}
			} else if body = edit(body); body == nil {
				continue
			}
			prev = c.link(prev, e.tag, body)
			out = appendLine(out, prev, e.tag, body)
		}
		if err := os.WriteFile(path, out, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAnchors: a journal holds what was noted of it. One that was written anew by somebody who computed
// the whole chain again passes verification, and is found by what was noted.
func TestAnchors(t *testing.T) {
	small := Options{MaxBytes: 1 << 20, SegmentBytes: 8 << 10}
	changed := func(body []byte) []byte {
		return bytes.Replace(body, []byte(`"seq":7,`), []byte(`"seq":7,"message":"nothing to see",`), 1)
	}
	same := func(body []byte) []byte { return body }
	for _, tt := range []struct {
		name string
		o    Options
		edit func(t *testing.T, dir string)
		want string // part of a problem; "": none
	}{
		{name: "untouched", edit: func(*testing.T, string) {}},
		{name: "segments", o: small, edit: func(*testing.T, string) {}},
		{name: "written again without a change", o: small, edit: func(t *testing.T, dir string) { rewrite(t, dir, ringEvents, same) }},
		{name: "a record changed", edit: func(t *testing.T, dir string) { rewrite(t, dir, ringEvents, changed) }, want: "events: the line"},
		{name: "a record changed in an older segment", o: small, edit: func(t *testing.T, dir string) { rewrite(t, dir, ringEvents, changed) }, want: "events: the line"},
		{name: "a denial removed", edit: func(t *testing.T, dir string) {
			n := 0
			rewrite(t, dir, ringDenials, func(body []byte) []byte {
				if n++; n == 2 {
					return nil
				}
				return body
			})
		}, want: "denials: the line"},
		{name: "the end cut", edit: func(t *testing.T, dir string) {
			n := 0
			rewrite(t, dir, ringEvents, func(body []byte) []byte {
				if n++; n > 40 {
					return nil
				}
				return body
			})
		}, want: "events: the line"},
		{name: "made anew", edit: func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			j := open(t, Options{Dir: dir, BootID: "boot", Host: "web1"})
			appendN(t, j, 100)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}, want: "events: the line"},
		{name: "begun with a late number", edit: begunLate, want: "nothing vouches"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, anchors := anchored(t, tt.o, 5, 20)
			tt.edit(t, dir)
			wantOK(t, dir) // the chain alone shows nothing
			rep := verifyAnchors(t, dir, anchors)
			if tt.want == "" {
				if !rep.OK() || rep.Rings[0].Found != 5 || rep.Rings[1].Found != 5 || rep.Rings[0].Uncovered != 4 {
					t.Errorf("got %+v, want all five found, and the last anchor and three records after the last head", rep)
				}
				return
			}
			if rep.OK() || !strings.Contains(strings.Join(rep.Problems, "\n"), tt.want) {
				t.Errorf("got %+v, want a problem with %q", rep, tt.want)
			}
		})
	}
}

// begunLate makes a journal of one segment be another one, which says that what came before was dropped.
func begunLate(t *testing.T, dir string) {
	t.Helper()
	for _, ring := range []string{ringEvents, ringDenials} {
		rewrite(t, dir, ring, func(body []byte) []byte { return bytes.Replace(body, []byte(`"uid":`), []byte(`"uid":1`), 1) })
		path := filepath.Join(dir, segmentName(ring, 1))
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// The header says so too, and the chain follows.
		raw = bytes.Replace(raw, []byte(`"segment":1,`), []byte(`"segment":900,`), 1)
		if err := os.WriteFile(filepath.Join(dir, segmentName(ring, 900)), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		rewrite(t, dir, ring, func(body []byte) []byte { return body })
	}
}

// TestAnchorsAfterRewriting: one real anchor of a journal that was written anew does not vouch for the
// records that it pretends to have from before.
func TestAnchorsAfterRewriting(t *testing.T) {
	dir, anchors := anchored(t, Options{}, 5, 20)
	begunLate(t, dir)
	j := open(t, Options{Dir: dir, BootID: "boot", Host: "web1"})
	a, err := j.Anchor()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	wantOK(t, dir)
	rep := verifyAnchors(t, dir, append(anchors, &Record{BootID: "boot", Kind: KindAnchor, Anchor: &a}))
	if rep.OK() || !strings.Contains(strings.Join(rep.Problems, "\n"), "written anew") || rep.Rings[0].Found == 0 {
		t.Errorf("got %+v, want a problem although an anchor was found", rep)
	}
}

// TestAnchorsOfDroppedSegments: heads whose segments the bound has removed are no problem.
func TestAnchorsOfDroppedSegments(t *testing.T) {
	dir, anchors := anchored(t, Options{MaxBytes: 128 << 10, SegmentBytes: 8 << 10}, 30, 20)
	rep := verifyAnchors(t, dir, anchors)
	if r := rep.Rings[0]; !rep.OK() || r.Old == 0 || r.Found == 0 || r.Old+r.Found != 30 {
		t.Errorf("got %+v, want the old ones counted and the others found", rep)
	}
	if _, err := VerifyAnchors(dir, nil); err == nil {
		t.Error("no anchors verify a journal")
	}
}

// TestAnchorNeedsTheDisk: a head is given out only once what it covers is on the disk.
func TestAnchorNeedsTheDisk(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	appendN(t, j, 3)
	a, err := j.Anchor()
	if err != nil || a.Seq != 3 || a.Events.Segment != 1 || a.Events.Digest != j.Stats().EventsHead || j.Stats().Syncs == 0 {
		t.Errorf("got %+v, %v", a, err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Anchor(); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// TestReadAnchors: every form in which a receiver gets them is read, and texts that a container chose
// are no anchors.
func TestReadAnchors(t *testing.T) {
	event := func(host, more string) string {
		return `{"schema":"belay.dev/event/v1","bootId":"b","seq":9,"time":"2026-03-01T12:00:00Z","host":"` + host + `","kind":"anchor",` +
			`"anchor":{"seq":8,"events":{"segment":1,"digest":"aa"},"denials":{"segment":1,"digest":"bb"}}` + more + `}`
	}
	quoted := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	a := event("web1", "")
	other := strings.Replace(a, `"kind":"anchor"`, `"kind":"exec"`, 1)
	for _, tt := range []struct {
		name, line         string
		anchors, others, u int
	}{
		{"event", a, 1, 0, 0},
		{"syslog", `<86>1 2026-03-01T12:00:00.000000Z web1 belay-agent - anchor [origin software="belay-agent"] ` + a, 1, 0, 0},
		{"webhook", `{"schema":"belay.dev/events/v1","format":"belay","events":[` + other + "," + a + "," + a + `]}`, 2, 0, 0},
		{"webhook of OCSF", `{"schema":"belay.dev/events/v1","events":[{"class_uid":1008,"raw_data":` + quoted(a) + `}]}`, 1, 0, 0},
		{"OCSF", `{"class_uid":1008,"raw_data":` + quoted(a) + `}`, 1, 0, 0},
		{"ECS", `{"@timestamp":"x","event":{"id":"b:9","original":` + quoted(a) + `}}`, 1, 0, 0},
		{"OTLP", `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":` + quoted(a) + `}},{"body":{"stringValue":` + quoted(other) + `}}]}]}]}`, 1, 0, 0},
		{"log record", `{"body":` + quoted(a) + `}`, 1, 0, 0},
		{"other host", event("web2", ""), 0, 1, 0},
		{"other kind", other, 0, 0, 0},
		{"other schema", strings.Replace(a, "event/v1", "event/v9", 1), 0, 0, 0},
		{"empty", "", 0, 0, 0},
		{"no JSON", "hello {", 0, 0, 1},
		{"cut", a[:len(a)-1], 0, 0, 1},
		{"too long", strings.Repeat("x", maxAnchorLine+1), 0, 0, 1},
		{"argument", strings.Replace(other, `"anchor":`, `"process":{"args":[`+quoted(a)+`]},"x":`, 1), 0, 0, 0},
		{"attribute", `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"attributes":[{"key":"file.path","value":{"stringValue":` + quoted(a) + `}}]}]}]}]}`, 0, 0, 0},
		{"text of ECS", `{"event":{"reason":` + quoted(a) + `},"message":` + quoted(a) + `}`, 0, 0, 0},
		{"text of OCSF", `{"class_uid":1007,"raw_data":` + quoted(other) + `,"message":` + quoted(a) + `,"body":` + quoted(a) + `}`, 0, 0, 0},
	} {
		f, err := ReadAnchors(strings.NewReader(tt.line+"\n\n"), "web1")
		if err != nil || len(f.Anchors) != tt.anchors || f.Others != tt.others || f.Unreadable != tt.u {
			t.Errorf("%s: got %d, %d of others, %d unreadable (%v), want %d, %d and %d", tt.name, len(f.Anchors), f.Others, f.Unreadable, err, tt.anchors, tt.others, tt.u)
		}
	}
}

func FuzzReadAnchors(f *testing.F) {
	f.Add([]byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"{}"}}]}]}]}`))
	f.Add([]byte(`{"schema":"belay.dev/events/v1","events":[{"class_uid":1,"raw_data":"{}"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ReadAnchors(bytes.NewReader(b), "web1")
		if err != nil || got.Unreadable > got.Lines {
			t.Errorf("%+v, %v", got, err)
		}
		for _, r := range got.Anchors {
			if r.Anchor == nil || r.Host != "web1" || fmt.Sprint(r.Kind) != "anchor" {
				t.Errorf("%+v", r)
			}
		}
	})
}
