package authz

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestReadQuestion(t *testing.T) {
	q, err := readQuestion([]byte(`{"User":"alice","UserAuthNMethod":"TLS","RequestMethod":"POST","RequestUri":"/v1.41/x?a=1\u0026b=2",` +
		`"RequestBody":"e30=","RequestHeaders":{"Content-Type":"application/json"},"NewThing":{"a":[1,{}]}}` + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if q.user != "alice" || q.method != "POST" || q.uri != "/v1.41/x?a=1&b=2" || string(q.body) != "{}" ||
		q.header["Content-Type"] != "application/json" || q.unknown != 1 {
		t.Errorf("got %+v", q)
	}
	const ok = `"RequestMethod":"GET","RequestUri":"/x"`
	for name, raw := range map[string]string{
		"nothing":                   ``,
		"no object":                 `"x"`,
		"no method":                 `{"RequestUri":"/x"}`,
		"no target":                 `{"RequestMethod":"GET"}`,
		"a field twice":             `{` + ok + `,"User":"a","User":"b"}`,
		"an unknown field twice":    `{` + ok + `,"X":1,"X":2}`,
		"another case":              `{` + ok + `,"requestbody":"e30="}`,
		"Unicode that folds":        `{` + ok + `,"U\u017fer":"a"}`,
		"null":                      `{` + ok + `,"RequestBody":null}`,
		"a number":                  `{` + ok + `,"User":1}`,
		"a list for a text":         `{` + ok + `,"RequestBody":[1]}`,
		"no base64":                 `{` + ok + `,"RequestBody":"e30"}`,
		"base64 with a line end":    `{` + ok + `,"RequestBody":"e3\n0="}`,
		"base64 with loose bits":    `{` + ok + `,"RequestBody":"e31="}`,
		"a header that is a list":   `{` + ok + `,"RequestHeaders":{"A":["b"]}}`,
		"a header twice":            `{` + ok + `,"RequestHeaders":{"A":"b","A":"c"}}`,
		"a header in two cases":     `{` + ok + `,"RequestHeaders":{"X-Belay-Ticket":"b","x-belay-ticket":"c"}}`,
		"headers that are a list":   `{` + ok + `,"RequestHeaders":[]}`,
		"certificates that are not": `{` + ok + `,"RequestPeerCertificates":["e30="]}`,
		"one certificate, no list":  `{` + ok + `,"RequestPeerCertificates":"e30="}`,
		"too many certificates":     `{` + ok + `,"RequestPeerCertificates":["` + strings.Repeat(`","`, 20) + `"]}`,
		"something after it":        `{` + ok + `}{}`,
		"not UTF-8":                 "{" + ok + ",\"User\":\"\xff\"}",
		"cut":                       `{` + ok + `,"User":"a"`,
		"deep":                      `{` + ok + `,"X":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
		"a long method":             `{"RequestMethod":"` + strings.Repeat("G", 100) + `","RequestUri":"/x"}`,
	} {
		if q, err := readQuestion([]byte(raw)); err == nil {
			t.Errorf("%s: read as %+v", name, q)
		}
	}
}

func TestBodiless(t *testing.T) {
	for _, c := range []struct {
		name, method, length string
		want                 bool
	}{
		{"a read", "GET", "", true},
		{"a delete", "DELETE", "", true},
		{"a length of 0", "POST", "0", true},
		{"A1 no length: it may be chunked", "POST", "", false},
		{"A2 a length", "POST", "2000000", false},
		{"a strange length", "POST", "00", false},
	} {
		q := question{method: c.method, header: map[string]string{}}
		if c.length != "" {
			q.header["Content-Length"] = c.length
		}
		if got := q.bodiless(); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

// Whatever is read as a question says the same when a daemon's own decoder reads it.
func FuzzReadQuestion(f *testing.F) {
	f.Add([]byte(`{"RequestMethod":"POST","RequestUri":"/v1.41/containers/create","RequestBody":"e30=","RequestHeaders":{"Content-Type":"application/json"}}`))
	f.Add([]byte(`{"User":"a","UserAuthNMethod":"TLS","RequestMethod":"GET","RequestUri":"/","RequestPeerCertificates":[]}`))
	f.Add([]byte(`{"RequestMethod":"GET","RequestUri":"/","X":{"a":[null,1e9]},"ResponseStatusCode":200}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := readQuestion(raw)
		if err != nil {
			return
		}
		var a asked
		if err := json.Unmarshal(raw, &a); err != nil {
			t.Fatalf("encoding/json does not read it: %v", err)
		}
		if a.User != q.user || a.RequestMethod != q.method || a.RequestURI != q.uri || !bytes.Equal(a.RequestBody, q.body) ||
			len(a.RequestPeerCertificates) != len(q.certs) {
			t.Fatalf("read as %+v, by encoding/json as %+v", q, a)
		}
		if len(a.RequestHeaders) != len(q.header) {
			t.Fatalf("headers %v, by encoding/json %v", q.header, a.RequestHeaders)
		}
		// What was read can be judged.
		q.bodiless()
		(&Plugin{o: Options{Name: "belay"}}).tampers(&q)
	})
}
