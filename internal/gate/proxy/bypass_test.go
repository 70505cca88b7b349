package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Each case would do harm if anything of it reached the daemon. The ids are those of the
// project's list of bypass techniques.
func TestBypasses(t *testing.T) {
	const h = "Host: d\r\nUser-Agent: x\r\n"
	const js = "Content-Type: application/json\r\n"
	form := "Content-Type: application/x-www-form-urlencoded\r\n"
	with := func(line, head, body string) string {
		return line + " HTTP/1.1\r\n" + h + head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body
	}
	priv := `{"Image":"app","HostConfig":{"Privileged":true}}`
	for _, c := range []struct {
		name, send string
		status     int
	}{
		{"A1 Content-Length 0", "POST /containers/create HTTP/1.1\r\n" + h + js + "Content-Length: 0\r\n\r\n" + priv, 400},
		{"A2 large body", with("POST /containers/create", js, `{"Image":"app","Cmd":["`+strings.Repeat("x", 5<<20)+`"],"HostConfig":{"Privileged":true}}`), 413},
		{"A2 body of more than 1 MiB is judged", with("POST /containers/create", js, `{"Image":"app","Cmd":["`+strings.Repeat("x", 2<<20)+`"],"HostConfig":{"Privileged":true}}`), 403},
		{"A9 Connection names a header", "GET /containers/db/json HTTP/1.1\r\n" + h + "Connection: X-Belay-Ticket, close\r\n\r\n", 400},
		{"A10 Expect and a denial", "POST /containers/create HTTP/1.1\r\n" + h + js + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", 100},
		{"A10 other expectation", "POST /containers/create HTTP/1.1\r\n" + h + js + "Expect: 200-ok\r\nContent-Length: 5\r\n\r\n12345", 417},
		{"B1 double slash", "POST //containers/create HTTP/1.1\r\n" + h + js + "Content-Length: 0\r\n\r\n", 400},
		{"B1 dot", "GET /./containers/db/json HTTP/1.1\r\n" + h + "\r\n", 400},
		{"B1 dot dot", "GET /containers/web/../db/json HTTP/1.1\r\n" + h + "\r\n", 400},
		{"B2 %2F", "GET /containers%2Fdb%2Fjson HTTP/1.1\r\n" + h + "\r\n", 400},
		{"B2 %61", "GET /containers/db/%6cogs HTTP/1.1\r\n" + h + "\r\n", 400},
		{"B2 %2e%2e", "GET /containers/web/%2e%2e/db/json HTTP/1.1\r\n" + h + "\r\n", 400},
		{"B2 %00", "GET /containers/web%00/json HTTP/1.1\r\n" + h + "\r\n", 400},
		{"B3 version v01.44", "GET /v01.44/containers/db/json HTTP/1.1\r\n" + h + "\r\n", 400},
		{"B3 version 1.44.0", "GET /v1.44.0/containers/db/json HTTP/1.1\r\n" + h + "\r\n", 400},
		{"B4 greedy name", "POST /containers/a/b/exec HTTP/1.1\r\n" + h + js + "Content-Length: 2\r\n\r\n{}", 400},
		{"B5 link alias", "GET /containers/web/db/json HTTP/1.1\r\n" + h + "\r\n", 400},
		{"B7 GET that writes", "GET /containers/db/attach/ws HTTP/1.1\r\n" + h + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 404},
		{"B8 GET that leaks", "GET /containers/db/archive?path=/ HTTP/1.1\r\n" + h + "\r\n", 404},
		{"B9 router only", "GET /debug/vars/x HTTP/1.1\r\n" + h + "\r\n", 404},
		{"B11 grpc", "POST /grpc HTTP/1.1\r\n" + h + "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n", 403},
		{"B11 session", "POST /session HTTP/1.1\r\n" + h + "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n", 403},
		{"B13 CL and TE", "POST /containers/create HTTP/1.1\r\n" + h + js + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"B13 two CL", "POST /containers/create HTTP/1.1\r\n" + h + js + "Content-Length: 4\r\nContent-Length: 4\r\n\r\n{}{}", 400},
		{"B13 TE not chunked", "POST /containers/create HTTP/1.1\r\n" + h + js + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
		{"B13 space before colon", "GET /_ping HTTP/1.1\r\n" + h + "Content-Length : 5\r\n\r\n12345", 400},
		{"B13 folded line", "GET /_ping HTTP/1.1\r\n" + h + "X: a\r\n b\r\n\r\n", 400},
		{"B13 bare LF", "GET /_ping HTTP/1.1\n" + h + "\r\n", 400},
		{"B13 trailer", "POST /containers/create HTTP/1.1\r\n" + h + js + "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n", 400},
		{"B13 chunk extension", "POST /containers/create HTTP/1.1\r\n" + h + js + "Transfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n0\r\n\r\n", 400},
		{"B13 absolute form", "GET http://docker/_ping HTTP/1.1\r\n" + h + "\r\n", 400},
		{"B13 CONNECT", "CONNECT docker:2375 HTTP/1.1\r\n" + h + "\r\n", 405},
		{"B13 unknown method", "PATCH /containers/db HTTP/1.1\r\n" + h + "\r\n", 405},
		{"B13 method in lower case", "get /_ping HTTP/1.1\r\n" + h + "\r\n", 405},
		{"B13 HTTP/1.0", "GET /_ping HTTP/1.0\r\n" + h + "\r\n", 505},
		{"B13 large head", "GET /_ping HTTP/1.1\r\n" + h + "X: " + strings.Repeat("x", 80<<10) + "\r\n\r\n", 431},
		{"B13 no host", "GET /_ping HTTP/1.1\r\nUser-Agent: x\r\n\r\n", 400},
		{"B15 header twice", "GET /_ping HTTP/1.1\r\n" + h + "X-Registry-Auth: a\r\nX-Registry-Auth: b\r\n\r\n", 400},
		{"C1 form beats query", with("POST /images/create?fromImage=good", form, "fromImage=evil"), 415},
		{"C1 form on rename", with("POST /containers/web/rename?name=a", form, "name=b"), 400},
		{"C2 multipart on build", with("POST /build?t=a", "Content-Type: multipart/form-data; boundary=x\r\n", "--x\r\n"), 415},
		{"C3 two keys", "POST /containers/web/rename?name=a&name=b HTTP/1.1\r\n" + h + "Content-Length: 0\r\n\r\n", 400},
		{"C3 semicolon", "POST /containers/web/rename?name=a;x=b HTTP/1.1\r\n" + h + "Content-Length: 0\r\n\r\n", 400},
		{"C4 two JSON keys", with("POST /containers/create", js, `{"Image":"app","HostConfig":{"Privileged":true},"HostConfig":{"Memory":1}}`), 400},
		{"C6 case", with("POST /containers/create", js, `{"Image":"app","hostconfig":{"Privileged":true}}`), 400},
		{"C6 Unicode fold", with("POST /containers/create", js, `{"Image":"app","Ho\u017ftConfig":{"Privileged":true}}`), 400},
		{"C7 text/plain", with("POST /containers/create", "Content-Type: text/plain\r\n", priv), 415},
		{"C7 Application/JSON", with("POST /containers/create", "Content-Type: Application/JSON; charset=UTF-8\r\n", priv), 403},
		{"C8 trailing data", with("POST /containers/create", js, `{"Image":"app"}`+priv), 400},
		{"D11 exec of another", with("POST /exec/"+idEx+"/start", js, `{"Detach":true}`), 404},
		{"another's by name", "DELETE /containers/db HTTP/1.1\r\n" + h + "\r\n", 404},
		{"another's by id", "DELETE /containers/" + idDB + " HTTP/1.1\r\n" + h + "\r\n", 404},
		{"privileged", with("POST /v1.41/containers/create", js, priv), 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := startGate(t, own)
			r := g.raw(t, c.send)
			if r.StatusCode != c.status {
				b, _ := io.ReadAll(r.Body)
				t.Errorf("status %d, want %d: %s", r.StatusCode, c.status, b)
			}
			if got := g.d.acted(); len(got) > 0 {
				t.Errorf("this reached the daemon: %+v", got)
			}
		})
	}
}

// B10: HTTP/2 with prior knowledge is told why in its own language.
func TestB10PriorKnowledge(t *testing.T) {
	g := startGate(t, own)
	c := g.dial(t)
	io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	b, err := io.ReadAll(c)
	if err != nil || !bytes.Contains(b, []byte("DOCKER_BUILDKIT=0")) || len(b) < 9 || b[3] != frameSettings {
		t.Errorf("got %q, %v", b, err)
	}
	if g.counter("gate_http2") != 1 || len(g.d.requests()) > 0 {
		t.Errorf("counted %d, daemon saw %v", g.counter("gate_http2"), g.d.requests())
	}
}

// B13: each of several requests in one packet is judged by itself.
func TestB13Pipelining(t *testing.T) {
	g := startGate(t, own)
	c := g.dial(t)
	io.WriteString(c, strings.Repeat("GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n", 2)+"DELETE /containers/db HTTP/1.1\r\nHost: d\r\n\r\nGET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
	br := bufio.NewReader(c)
	for i, want := range []int{200, 200, 404, 200} {
		r, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		io.Copy(io.Discard, r.Body)
		if r.StatusCode != want {
			t.Errorf("answer %d: status %d, want %d", i, r.StatusCode, want)
		}
	}
}

// B6: what is judged is what is forwarded: the full id, not the name.
func TestB6ForwardsIDs(t *testing.T) {
	g := startGate(t, own)
	if status, b := do(t, g.client(t), "POST", "/v1.41/containers/web/stop?t=1", ""); status != 204 {
		t.Fatalf("status %d: %s", status, b)
	}
	got := g.d.acted()
	if len(got) != 1 || got[0].uri != "/v1.41/containers/"+idWeb+"/stop?t=1" {
		t.Errorf("the daemon was asked %+v", got)
	}
}

// B13: a body that comes too slowly, or not at all, ends with its connection.
func TestB13SlowBody(t *testing.T) {
	g := startGate(t, own, func(o *Options) { o.Limits.BodyTime, o.Limits.HeadTime = 200*time.Millisecond, 200*time.Millisecond })
	r := g.raw(t, "POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
	if r.StatusCode != http.StatusRequestTimeout {
		t.Errorf("status %d, want 408", r.StatusCode)
	}
	c := g.dial(t)
	io.WriteString(c, "GET /_ping HT")
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("half a head: got %q, %v, want the end", b, err)
	}
}

// The gate's own header is not the client's to send.
func TestTicketHeaderIsStripped(t *testing.T) {
	g := startGate(t, own)
	g.raw(t, "POST /containers/web/stop HTTP/1.1\r\nHost: d\r\nX-Belay-Ticket: forged\r\nContent-Length: 0\r\n\r\n")
	for _, r := range g.d.requests() {
		if r.header.Get("X-Belay-Ticket") != "" {
			t.Errorf("the daemon got the client's ticket: %+v", r)
		}
	}
}
