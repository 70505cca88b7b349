package proxy

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// A value that must not be shown is in more than one answer.
func TestRedactedEverywhere(t *testing.T) {
	g := startGate(t, own)
	for _, c := range []struct{ name, target, want string }{
		{"inspect", "/v1.41/containers/web/json", `"TOKEN=(redacted)"`},
		// Narrowed to what the caller may see, and redacted all the same.
		{"list of services", "/v1.41/services", `"TOKEN=(redacted)"`},
		{"history, ENV", "/v1.41/images/app/history", `ENV A=b token=(redacted)"`},
		{"history, build argument", "/v1.41/images/app/history", `RUN |2 A=b TOKEN=(redacted)"`},
		{"history, others stay", "/v1.41/images/app/history", `"ENV A=b"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := body(t, g.raw(t, "GET "+c.target+" HTTP/1.1\r\nHost: d\r\n\r\n"))
			if !strings.Contains(text, c.want) || strings.Contains(strings.ToUpper(text), "TOKEN=X") {
				t.Errorf("got %s, want %s in it", text, c.want)
			}
		})
	}
}

// ps can be asked for the environment of processes, in many spellings.
func TestTopShowsNoEnvironment(t *testing.T) {
	g := startGate(t, own)
	for args, want := range map[string]int{
		"": 200, "-ef": 200, "aux": 200, "-o pid,cmd": 200, "axo pid,%cpu": 200,
		"e": 403, "auxe": 403, "-ef e": 403, "-auxe": 403, "axewww": 403, "-o pid,environ": 403, "-o pid e": 403, "-C foo e": 403, "-ef zz": 403,
	} {
		target := "/v1.41/containers/web/top?ps_args=" + url.QueryEscape(args)
		if r := g.raw(t, "GET "+target+" HTTP/1.1\r\nHost: d\r\n\r\n"); r.StatusCode != want {
			t.Errorf("ps %q: status %d, want %d", args, r.StatusCode, want)
		}
	}
}

// Before API 1.28 the list of networks says who is in them.
func TestOldNetworkList(t *testing.T) {
	g := startGate(t, own)
	text := body(t, g.raw(t, "GET /v1.27/networks HTTP/1.1\r\nHost: d\r\n\r\n"))
	if !strings.Contains(text, idWeb) || strings.Contains(text, idDB) {
		t.Errorf("the list says %s; want the caller's own container in it and no other", text)
	}
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
