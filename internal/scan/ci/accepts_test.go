package ci

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

// noAccept lets nobody but root send what does not count.
type noAccept struct{ fakeAccess }

func (a noAccept) Ask(sub *apicall.Subject, action string, f apicall.Facts, res ...apicall.Resource) error {
	if action == ActAccept && sub.UID != 0 {
		return fmt.Errorf("%w: %s", ErrDenied, action)
	}
	return a.fakeAccess.Ask(sub, action, f, res...)
}

func (a noAccept) Grants(sub *apicall.Subject, action string) bool {
	return (action != ActAccept || sub.UID == 0) && a.fakeAccess.Grants(sub, action)
}

func body(t *testing.T, q Request) string {
	t.Helper()
	b, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const (
	rules    = "ignore:\n- id: CVE-2024-1\n  reason: not reached\n"
	earlierA = `{"schema":"belay.dev/scan/v1","database":{},"findings":[{"package":0,"ids":["CVE-2024-1"]}],"inventory":{"packages":[{"kind":"deb","name":"bsdutils","path":""}]}}`
)

func TestAccepted(t *testing.T) {
	tests := []struct {
		name, ignore, baseline string
		verdict, by, note      string
		known                  bool
	}{
		{name: "nothing", verdict: VerdictFail},
		{name: "ignored", ignore: rules, verdict: VerdictPass, by: "ignore:2"},
		{name: "until later", ignore: rules + "  expires: 2999-01-01\n", verdict: VerdictPass, by: "ignore:2"},
		{name: "until then", ignore: rules + "  expires: 2020-01-01\n", verdict: VerdictFail, note: "no longer ignored"},
		{name: "another package", ignore: rules + "  package: zlib*\n", verdict: VerdictFail, note: "matches no finding"},
		{name: "known", baseline: earlierA, verdict: VerdictPass, known: true},
		{name: "another was known", baseline: strings.Replace(earlierA, "2024-1", "2024-2", 1), verdict: VerdictFail},
	}
	w := start(t, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := w.create("alice", body(t, Request{Image: "app:1", FailOn: "high", Ignore: tt.ignore, Baseline: json.RawMessage(tt.baseline)}))
			r := w.wait("alice", s.ID)
			if r.Verdict != tt.verdict || r.Ignore != (tt.ignore != "") || r.Baseline != (tt.baseline != "") {
				t.Errorf("got %+v, want %s", r.Scan, tt.verdict)
			}
			if f := r.Findings[0]; f.IgnoredBy != tt.by || (f.Ignored != "") != (tt.by != "") || f.Known != tt.known {
				t.Errorf("got %+v, want ignored by %q, known %v", f, tt.by, tt.known)
			}
			if notes := strings.Join(r.IgnoreNotes, "\n"); !strings.Contains(notes, tt.note) || (notes != "") != (tt.note != "") {
				t.Errorf("got notes %q, want %q", notes, tt.note)
			}
			_, junit := w.call("alice", "GET", "/v1/scans/"+s.ID+"?format=junit", "", nil, nil)
			if strings.Contains(junit, "<failure") != (tt.verdict == VerdictFail) || strings.Contains(junit, "<skipped") != (tt.verdict == VerdictPass) {
				t.Errorf("got %s", junit)
			}
			if n := w.s.jobs[s.ID].docs.size(); n != 0 {
				t.Errorf("%d bytes are held after its end", n)
			}
		})
	}
}

func TestWhoMaySendIgnores(t *testing.T) {
	w := start(t, func(o *Options) { o.Access = noAccept{} })
	for _, q := range []Request{{Image: "app:1", Ignore: rules}, {Image: "app:1", Baseline: json.RawMessage(earlierA)}} {
		if code, text := w.call("alice", "POST", "/v1/scans", body(t, q), nil, nil); code != http.StatusForbidden || !strings.Contains(text, ActAccept) {
			t.Errorf("alice: got %d, %s, want 403", code, text)
		}
		w.create("root", body(t, q))
	}
	w.create("alice", `{"image":"app:1"}`)
}

func TestBadDocuments(t *testing.T) {
	w := start(t, nil)
	tests := []struct {
		name, want       string
		code             int
		ignore, baseline string
	}{
		{"no rules", "ignore:1", 400, "x: 1", ""},
		{"no reason", "ignore:2: id and reason", 400, "ignore:\n- id: CVE-1\n", ""},
		{"a field that is not there", "ignore:3", 400, "ignore:\n- id: CVE-1\n  why: x\n", ""},
		{"a long reason", "longer than", 400, "ignore:\n- {id: a, reason: " + strings.Repeat("x", 1025) + "}\n", ""},
		{"too many rules", "larger than", 413, rules + strings.Repeat("#", maxIgnore), ""},
		{"no report", "baseline: want a report", 400, "", `{"findings":[]}`},
		{"a package that is not there", "does not have", 400, "", strings.Replace(earlierA, `"package":0`, `"package":1`, 1)},
		{"not matched", "matched", 400, "", strings.Replace(earlierA, `"database":{}`, `"database":null`, 1)},
		{"too large", "larger than", 413, "", `"` + strings.Repeat("x", maxBaseline) + `"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, text := w.call("root", "POST", "/v1/scans", body(t, Request{Image: "app:1", Ignore: tt.ignore, Baseline: json.RawMessage(tt.baseline)}), nil, nil)
			if code != tt.code || !strings.Contains(text, tt.want) {
				t.Errorf("got %d, %.300s, want %d, %s", code, text, tt.code, tt.want)
			}
		})
	}
}

// TestLargeWithoutRights: who may never send a large request takes no turn of those who may, however
// slowly it is sent: it is refused before its body is read.
func TestLargeWithoutRights(t *testing.T) {
	w := start(t, func(o *Options) { o.Access = noAccept{} })
	large := body(t, Request{Image: "app:1", Baseline: json.RawMessage(`"` + strings.Repeat("x", maxBody) + `"`)})
	for range maxLarges {
		w.s.larges <- struct{}{} // no turn is left
	}
	for _, who := range []string{"alice", "mallory"} {
		if code, text := w.call(who, "POST", "/v1/scans", large, nil, nil); code != http.StatusForbidden {
			t.Errorf("%s: got %d, %s, want 403", who, code, text)
		}
	}
	if code, text := w.call("root", "POST", "/v1/scans", large, nil, nil); code != http.StatusServiceUnavailable {
		t.Errorf("root, who may: got %d, %s, want 503", code, text)
	}
	<-w.s.larges
	if code, text := w.call("root", "POST", "/v1/scans", large, nil, nil); code != http.StatusBadRequest {
		t.Errorf("root, with a turn: got %d, %s, want 400", code, text)
	}
}

func TestHeldDocuments(t *testing.T) {
	w := start(t, nil)
	w.images.gate = make(chan struct{})
	q := body(t, Request{Image: "app:1", Baseline: json.RawMessage(strings.Replace(earlierA, `"database":{}`, `"database":"`+strings.Repeat("x", 3<<20)+`"`, 1))})
	for range maxOwnDocs / (3 << 20) {
		w.create("alice", q)
	}
	if code, text := w.call("alice", "POST", "/v1/scans", q, nil, nil); code != 503 {
		t.Errorf("got %d, %s, want 503", code, text)
	}
	w.create("bob", q)
	close(w.images.gate)
}
