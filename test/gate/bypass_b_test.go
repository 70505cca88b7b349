package gate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// casesB are the ids B*: transport and routing.
func casesB() []bypass {
	return append(append(casesRoute(), casesLeak()...), casesFraming()...)
}

// one is a case of one request, whose harm is a privileged container.
func one(id, what, request string) bypass {
	return bypass{id: id, what: what, steps: []string{request}, near: nearCreate}
}

func casesRoute() []bypass {
	cases := []bypass{
		one("B1", "two slashes", post("//containers/create?name=harm", privBody)),
		one("B1", "a dot in the path", post("/./containers/create?name=harm", privBody)),
		one("B1", "two dots in the path", post("/containers/x/../create?name=harm", privBody)),
		one("B2", "a letter in percent", post("/containers/cre%61te?name=harm", privBody)),
		one("B2", "a slash in percent", post("/containers%2Fcreate?name=harm", privBody)),
		one("B2", "two dots in percent", post("/containers/x/%2e%2e/create?name=harm", privBody)),
		one("B2", "a zero byte in percent", post("/containers/create%00?name=harm", privBody)),
		one("B3", "a version with a zero before", post("/v01.41/containers/create?name=harm", privBody)),
		one("B3", "a version of three numbers", post("/v1.41.0/containers/create?name=harm", privBody)),
		one("B3", "no version", post(create, privBody)),
		one("B3", "a version that no engine has", post("/v9.99/containers/create?name=harm", privBody)),
	}
	for i := range cases {
		switch {
		case cases[i].id == "B1", strings.Contains(cases[i].what, "two dots"), strings.Contains(cases[i].what, "zero byte"), strings.Contains(cases[i].what, "no engine"):
			cases[i].only = "none"
		}
	}
	linked := post("/containers/create?name=near", `{"Image":"IMAGE","Cmd":["sleep","60"],"Labels":{"belay.dev/owner":"uid:5001"},"HostConfig":{"Links":["VICTIMID:db"]}}`)
	return append(cases,
		bypass{
			id: "B4", what: "a name with a slash", only: "none", near: []string{get("/containers/MINEID/json")}, steps: []string{get("/containers/mine/victim/json")},
			harm: told("SECRET", "another's secret"),
		},
		bypass{
			id: "B5", what: "another's container by the alias of a link", near: []string{get("/containers/mine/json")},
			play: func(s *scene) { s.engineCall(linked); s.send(get("/containers/near/db/json")) }, harm: told("SECRET", "another's secret"),
		},
		bypass{
			id: "B6", what: "another's container by half its id", near: []string{get("/containers/mine/json")},
			steps: []string{get("/containers/VICTIMSHORT/json")}, harm: told("SECRET", "another's secret"),
		},
		bypass{
			id: "B7", what: "a GET that writes", play: func(s *scene) { _ = s.webSocket("victim", "echo owned >/tmp/copied\n") }, harm: copied, copies: true, enter: true, nearPlay: func(s *scene) error { return s.webSocket("mine", "echo from $((6*7))\n") },
		},
		bypass{
			id: "B9", what: "a route that no document has", near: []string{get("/_ping")},
			steps: []string{get("/debug/pprof/cmdline")}, harm: told("data-root", "the engine's command line"),
		},
		bypass{
			id: "B9", what: "a trailing slash", near: []string{get("/networks")}, only: "none", steps: []string{get("/containers/json/")},
			harm: told("VICTIMID", "another's container"),
		},
		bypass{
			id: "B10", what: "HTTP/2 with prior knowledge", only: "modern", near: []string{get("/_ping")},
			play: func(s *scene) { s.diskUsage(func() net.Conn { return s.dial() }) }, harm: told("Grpc-Status:[0]", "the builder's own API answers"),
		},
		bypass{
			id: "B11", what: "/grpc, upgraded", near: []string{get("/_ping")},
			play: func(s *scene) { s.diskUsage(s.upgraded("/grpc")) }, harm: told("Grpc-Status:[0]", "the builder's own API answers"),
		},
		bypass{
			id: "B12", what: "a stream without an upgrade", enter: true, nearPlay: halfClose,
			play: func(s *scene) { s.stream("victim", "echo owned >/tmp/copied\n") }, harm: copied, copies: true,
		},
	)
}

// casesLeak are GETs that show what is another's.
func casesLeak() []bypass {
	var out []bypass
	for _, l := range []struct{ what, target, near string }{
		{"inspect, with the environment", "/containers/VICTIMID/json", "/containers/MINEID/json"},
		{"logs", "/containers/VICTIMID/logs?stdout=1", "/containers/MINEID/logs?stdout=1"},
		{"archive", "/containers/VICTIMID/archive?path=/tmp/secret", "/containers/MINEID/top"},
		{"export", "/containers/VICTIMID/export", "/containers/MINEID/changes"},
		{"top", "/containers/VICTIMID/top", "/containers/MINEID/top"},
	} {
		text := "SECRET"
		if l.what == "top" {
			text = "Processes"
		}
		out = append(out, bypass{
			id: "B8", what: l.what, steps: []string{get(l.target)}, near: []string{get(l.near)}, harm: told(text, "another's secret"),
		})
	}
	return append(out,
		bypass{
			id: "B8", what: "the list", steps: []string{get("/containers/json?all=1")}, harm: told("VICTIMID", "another's container"),
			nearPlay: func(s *scene) error {
				if a := s.send(get("/containers/json?all=1")); !strings.Contains(a.body, s.mine) {
					return errors.New("one's own is not in the list")
				}
				return nil
			},
		},
		bypass{
			id: "B8", what: "events of the past", play: func(s *scene) { s.send(get(fmt.Sprintf("/events?since=1&until=%d", time.Now().Unix()+1))) },
			harm: told("VICTIMID", "another's container"), near: []string{get("/events?since=1&until=2")},
		},
		bypass{
			id: "B8", what: "disk usage", steps: []string{get("/system/df")}, harm: told("VICTIMID", "another's container"), near: []string{get("/system/df")},
		},
		bypass{
			id: "B8", what: "saving an image", steps: []string{get("/images/IMAGE/get")}, harm: told("manifest.json", "an image's content"), near: []string{get("/images/IMAGE/json")},
		},
	)
}

func casesFraming() []bypass {
	line := func(l, h, body string) string {
		return l + "\r\n" + h + "Content-Length: LENGTH\r\n\r\n" + body
	}
	post11 := "POST " + create + " HTTP/1.1"
	h := head + jsonType
	smuggle := "POST " + create + " HTTP/1.1\r\n" + h + "Content-Length: " + fmt.Sprint(len(strings.ReplaceAll(privBody, "IMAGE", image))) + "\r\n\r\n" + privBody
	cases := []bypass{
		one("B13", "a length and chunks", "") /* see below */, one("B13", "two equal lengths", line(post11, h+"Content-Length: LENGTH\r\n", privBody)),
		one("B13", "a trailer", ""), one("B13", "a chunk extension", ""),
		one("B13", "a folded header line", line(post11, "Host: d\r\nConnection: close\r\nX: a\r\n b\r\n"+jsonType, privBody)),
		one("B13", "lines that end in LF alone", strings.ReplaceAll(smuggle, "\r\n", "\n")),
		one("B13", "the absolute form", line("POST http://docker"+create+" HTTP/1.1", h, privBody)),
		one("B13", "HTTP/1.0", line("POST "+create+" HTTP/1.0", h, privBody)),
		one("B13", "a head of 80 KiB", line(post11, h+"X: "+pad(80<<10)+"\r\n", privBody)),
		one("B13", "a space before the colon", line(post11, h+"X : y\r\n", privBody)),
		one("B13", "no host", line(post11, "Connection: close\r\n"+jsonType, privBody)),
		one("B13", "CONNECT", line("CONNECT "+create+" HTTP/1.1", h, privBody)),
		one("B13", "an unknown method", line("FROB "+create+" HTTP/1.1", h, privBody)),
		one("B13", "a method in lower case", line("post "+create+" HTTP/1.1", h, privBody)),
		one("B15", "two content types", line(post11, h+"Content-Type: text/plain\r\n", privBody)),
		one("B13", "in the body of a GET", "GET /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: LENGTH\r\n\r\n"+smuggle),
	}
	cases[0].play = func(s *scene) {
		s.send(strings.Replace(chunked(create, h, s.words.Replace(privBody)), "Transfer-", "Content-Length: 4\r\nTransfer-", 1))
	}
	cases[2].play = func(s *scene) {
		s.send(strings.TrimSuffix(chunked(create, h, s.words.Replace(privBody)), "\r\n") + "X: y\r\n\r\n")
	}
	cases[3].play = func(s *scene) {
		b := s.words.Replace(privBody)
		s.send("POST " + create + " HTTP/1.1\r\n" + h + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x;x=y\r\n%s\r\n0\r\n\r\n", len(b), b))
	}
	cases[0].steps, cases[2].steps, cases[3].steps = nil, nil, nil
	for i := range cases {
		switch w := cases[i].what; {
		case w == "a space before the colon", w == "no host", w == "CONNECT", w == "an unknown method", w == "a method in lower case", w == "in the body of a GET":
			cases[i].only = "none"
		}
	}
	return append(cases, bypass{
		id: "B13", what: "a second request in the same packet", near: nearCreate,
		play: func(s *scene) {
			c := s.dial()
			defer c.Close()
			_, _ = io.WriteString(c, s.fill("GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")+s.words.Replace(smuggle))
			br := bufio.NewReader(c)
			readAnswer(br)
			s.answers = append(s.answers, readAnswer(br))
		},
	})
}
