package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Anchor is where the journal's chains ended at one moment, of [KindAnchor]. Noted elsewhere, it
// proves later that what came before was not written anew.
type Anchor struct {
	Seq     uint64 `json:"seq"` // number of the last record of the ring events; 0: it is of an earlier boot
	Events  Head   `json:"events"`
	Denials Head   `json:"denials"`
}

// Head is the last line of a ring.
type Head struct {
	Segment uint64 `json:"segment"` // that the line is in
	Digest  string `json:"digest"`  // the line's h
}

// Anchor returns the heads of what was appended before the call, once that is on the disk: a head
// that was noted elsewhere survives a loss of power here.
//
// Errors: [ErrClosed]; those of [Journal.Flush], with which nothing is to be noted.
func (j *Journal) Anchor() (Anchor, error) {
	j.wmu.Lock()
	defer j.wmu.Unlock()
	if err := j.flush(); err != nil {
		return Anchor{}, err
	}
	return Anchor{
		Seq: j.events.headSeq, Events: Head{j.events.num, j.events.head.String()}, Denials: Head{j.denials.num, j.denials.head.String()},
	}, nil
}

// maxAnchorLine bounds a line of a file of anchors: a collector may write what it got in one batch.
const maxAnchorLine = 16 << 20

// AnchorFile is what was found in a file of anchors.
type AnchorFile struct {
	Anchors    []*Record // of the host, in the order of the file
	Others     int       // anchors of other hosts
	Lines      int       // that are not empty
	Unreadable int       // lines that are no JSON, or too long
}

// ReadAnchors reads anchors as they were received, JSON on each line: events of Belay, such events
// behind a header of syslog, events in the words of OCSF or ECS, what a webhook gets, and logs of
// OpenTelemetry as OTLP's JSON. All other events are passed over. It looks nowhere else in a line: texts
// in events are chosen by containers, and must not pass for anchors.
func ReadAnchors(r io.Reader, host string) (AnchorFile, error) {
	var f AnchorFile
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, tooLong, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return f, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 || tooLong {
			f.Lines++
			if tooLong || !f.line(line, host) {
				f.Unreadable++
			}
		}
		if err != nil {
			return f, nil
		}
	}
}

// readLine returns a line, cut at [maxAnchorLine].
func readLine(in *bufio.Reader) (line []byte, tooLong bool, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > maxAnchorLine {
			tooLong = true
		} else {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, tooLong, err
		}
	}
}

// received is every form of a line that may hold events.
type received struct {
	Schema string          `json:"schema"`
	Events json.RawMessage `json:"events"`    // of a webhook
	Class  *int            `json:"class_uid"` // of OCSF
	Raw    string          `json:"raw_data"`
	Event  json.RawMessage `json:"event"` // of ECS
	Body   json.RawMessage `json:"body"`  // of a log record
	Logs   []struct {
		Scopes []struct {
			Records []struct {
				Body json.RawMessage `json:"body"`
			} `json:"logRecords"`
		} `json:"scopeLogs"`
	} `json:"resourceLogs"`
}

// WebhookSchema is the version of what a webhook gets.
const WebhookSchema = "belay.dev/events/v1"

// line takes the anchors from a line, and returns false if it is no JSON.
func (f *AnchorFile) line(line []byte, host string) bool {
	i := bytes.IndexByte(line, '{') // behind a header of syslog
	if i < 0 || !json.Valid(line[i:]) {
		return false
	}
	f.object(line[i:], host, true)
	return true
}

func (f *AnchorFile) object(text []byte, host string, outer bool) {
	var o received
	// Fields of other types are those of other events.
	_ = json.Unmarshal(text, &o)
	switch {
	case o.Schema == Schema:
		f.event(text, host)
	case o.Class != nil:
		f.event([]byte(o.Raw), host)
	case outer && o.Schema == WebhookSchema:
		var events []json.RawMessage
		_ = json.Unmarshal(o.Events, &events)
		for _, e := range events {
			f.object(e, host, false)
		}
	case outer && o.Logs != nil:
		for _, r := range o.Logs {
			for _, s := range r.Scopes {
				for _, l := range s.Records {
					f.event(bodyText(l.Body), host)
				}
			}
		}
	case o.Event != nil:
		var e struct {
			Original string `json:"original"`
		}
		_ = json.Unmarshal(o.Event, &e)
		f.event([]byte(e.Original), host)
	case outer && o.Body != nil:
		f.event(bodyText(o.Body), host)
	}
}

// bodyText is the body of a log record, as OTLP's JSON has it or as a text.
func bodyText(body json.RawMessage) []byte {
	var v struct {
		Text string `json:"stringValue"`
	}
	if json.Unmarshal(body, &v) != nil {
		_ = json.Unmarshal(body, &v.Text)
	}
	return []byte(v.Text)
}

// event takes an event that is an anchor.
func (f *AnchorFile) event(text []byte, host string) {
	var r Record
	if json.Unmarshal(text, &r) != nil || r.Schema != Schema || r.Kind != KindAnchor || r.Anchor == nil {
		return
	}
	if r.Host != host {
		f.Others++
		return
	}
	f.Anchors = append(f.Anchors, &r)
}

// AnchorReport is what [VerifyAnchors] found.
type AnchorReport struct {
	Anchors  int          `json:"anchors"`  // that were looked for
	Rings    []AnchorRing `json:"rings"`    // events, then denials
	Problems []string     `json:"problems"` // the first 100; never null in JSON
	Count    int          `json:"problemCount"`
}

// OK reports whether the journal holds what was noted.
func (r *AnchorReport) OK() bool { return r.Count == 0 }

// AnchorRing is what of the anchors is in one ring.
type AnchorRing struct {
	Ring    string `json:"ring"`
	Found   int    `json:"found"`
	Missing int    `json:"missing"`
	// Old are heads in segments that the journal no longer has, which is legal: the oldest are
	// dropped when it is full.
	Old int `json:"old"`
	// Uncovered are records after the newest head that was found: nothing says of them that
	// they were not written anew.
	Uncovered uint64 `json:"uncovered"`
}

func (r *AnchorReport) problem(format string, args ...any) {
	if r.Count++; r.Count <= maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// VerifyAnchors looks for the heads of anchors in the journal in dir. With a chain that holds
// ([Verify]), a head that is found proves all records before it in the journal: they are
// those that were there when it was noted. A head that ought to be there and is not proves that the
// journal was written anew, or cut.
//
// Errors: there are no anchors; *[os.PathError].
func VerifyAnchors(dir string, anchors []*Record) (AnchorReport, error) {
	rep := AnchorReport{Anchors: len(anchors), Problems: []string{}}
	if len(anchors) == 0 {
		return rep, errors.New("there are no anchors of this host")
	}
	for _, ring := range []string{ringEvents, ringDenials} {
		if err := rep.ring(dir, ring, anchors); err != nil {
			return rep, fmt.Errorf("verify anchors: %w", err)
		}
	}
	return rep, nil
}

func headOf(a *Anchor, ring string) Head {
	if ring == ringDenials {
		return a.Denials
	}
	return a.Events
}

func (r *AnchorReport) ring(dir, ring string, anchors []*Record) error {
	wanted := map[Head]bool{} // whether it was found
	for _, a := range anchors {
		wanted[headOf(a.Anchor, ring)] = false
	}
	out := AnchorRing{Ring: ring}
	least := map[string]uint64{}
	oldest, err := findHeads(dir, ring, wanted, least, &out.Uncovered)
	if err != nil {
		return err
	}
	told := map[Head]bool{}
	undated := true
	for _, a := range anchors {
		h := headOf(a.Anchor, ring)
		switch {
		case wanted[h]:
			out.Found++
		case oldest > 0 && h.Segment < oldest:
			out.Old++
			// What was there at the anchor went with its segment: none that came before is in a later one.
			if seq, ok := least[a.BootID]; ok && seq <= a.Anchor.Seq && undated {
				undated = false
				r.problem("%s: the journal begins after segment %d, where it ended at %s, and has a record (%d) from before that: it was written anew",
					ring, h.Segment, a.Time.Format("2006-01-02T15:04:05Z07:00"), seq)
			}
		default:
			out.Missing++
			if !told[h] {
				r.problem("%s: the line that was the last at %s (segment %d, %.16s...) is no longer in the journal: it was written anew, or cut",
					ring, a.Time.Format("2006-01-02T15:04:05Z07:00"), h.Segment, h.Digest)
			}
			told[h] = true
		}
	}
	if out.Found == 0 && out.Missing == 0 {
		r.problem("%s: no head that was noted is in a segment that the journal still has: nothing vouches for it", ring)
	}
	r.Rings = append(r.Rings, out)
	return nil
}

// findHeads marks which of the wanted heads are lines of a ring. It returns the oldest segment's
// number, 0 if there is none, counts the records after the last head that it found, and notes the least
// number of a record of each boot.
func findHeads(dir, ring string, wanted map[Head]bool, least map[string]uint64, after *uint64) (oldest uint64, err error) {
	segs, err := listSegments(dir, ring)
	if err != nil {
		return 0, err
	}
	for _, s := range segs {
		f, err := os.Open(filepath.Join(dir, segmentName(ring, s.num)))
		if errors.Is(err, os.ErrNotExist) {
			continue // a running agent has dropped it as the oldest
		}
		if err != nil {
			return 0, err
		}
		if oldest == 0 {
			oldest = s.num
		}
		err = findIn(f, s.num, wanted, least, after)
		if err = errors.Join(err, f.Close()); err != nil {
			return 0, err
		}
	}
	return oldest, nil
}

func findIn(f io.Reader, num uint64, wanted map[Head]bool, least map[string]uint64, after *uint64) error {
	r := newSegReader(f)
	for {
		e, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		// A line whose digest does not follow proves nothing.
		if e.damage == "" && e.tag != 0 {
			noteLeast(least, &e)
			h := Head{num, e.h.String()}
			if _, ok := wanted[h]; ok {
				wanted[h], *after = true, 0
				continue
			}
		}
		if e.tag == tagRecord {
			*after++
		}
	}
}

// noteLeast notes the number of a record if it is the least of its boot.
func noteLeast(least map[string]uint64, e *entry) {
	var r struct {
		BootID string `json:"bootId"`
		Seq    uint64 `json:"seq"`
	}
	if e.tag != tagRecord || json.Unmarshal(e.body, &r) != nil {
		return
	}
	if seq, ok := least[r.BootID]; !ok || r.Seq < seq {
		least[r.BootID] = r.Seq
	}
}
