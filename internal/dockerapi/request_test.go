package dockerapi

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/apicall"
)

func TestQuery(t *testing.T) {
	for _, tt := range []struct{ name, method, path, in, sent, code string }{
		{name: "C3 twice", method: "POST", path: "/images/create", in: "fromImage=a&fromImage=b", code: CodeDuplicateQuery},
		{name: "C3 twice, once escaped", method: "POST", path: "/images/create", in: "fromImage=a&%66romImage=b", code: CodeDuplicateQuery},
		{name: "C3 twice the same", method: "GET", path: "/containers/json", in: "all=1&all=1", code: CodeDuplicateQuery},
		{name: "C3 twice, one empty", method: "GET", path: "/containers/json", in: "all&all=1", code: CodeDuplicateQuery},
		{name: "C3 semicolon", method: "GET", path: "/containers/json", in: "all=1;size=1", code: CodeQuerySyntax},
		{name: "C3 semicolon alone", method: "GET", path: "/containers/json", in: "all=1;", code: CodeQuerySyntax},
		{name: "C3 broken escape", method: "GET", path: "/containers/json", in: "all=%zz", code: CodeQuerySyntax},
		{name: "C3 unknown key", method: "GET", path: "/containers/json", in: "evil=1", code: CodeUnknownQuery},
		{name: "C3 key of another case", method: "GET", path: "/containers/json", in: "All=1", code: CodeUnknownQuery},
		{name: "C3 key of another route", method: "POST", path: "/containers/c/stop", in: "force=1", code: CodeUnknownQuery},
		{name: "C3 query where there is none", method: "GET", path: "/info", in: "a=b", code: CodeUnknownQuery},
		{name: "C8 NUL", method: "GET", path: "/containers/c/top", in: "ps_args=%00", code: CodeBadUTF8},
		{name: "C8 not UTF-8", method: "GET", path: "/containers/c/top", in: "ps_args=%ff", code: CodeBadUTF8},
		{name: "true", method: "GET", path: "/containers/json", in: "all=True&size=false", sent: "all=1&size=0"},
		{name: "a boolean that readers differ on", method: "GET", path: "/containers/json", in: "all=off", code: CodeBadValue},
		{name: "t is true to one reader", method: "GET", path: "/networks/n", in: "verbose=f", code: CodeBadValue},
		{name: "no", method: "GET", path: "/containers/json", in: "all=no", code: CodeBadValue},
		{name: "empty boolean stays", method: "POST", path: "/build", in: "rm=&q", sent: "rm=&q="},
		{name: "a number that is none", method: "POST", path: "/build", in: "memory=1m", code: CodeBadValue},
		{name: "a number with a sign", method: "POST", path: "/build", in: "memory=%2B1", code: CodeBadValue},
		{name: "a number out of range", method: "POST", path: "/build", in: "memory=99999999999999999999", code: CodeBadValue},
		{name: "negative timeout", method: "POST", path: "/containers/c/stop", in: "t=-1", sent: "t=-1"},
		{name: "keys that may repeat", method: "POST", path: "/build", in: "t=a&t=b", sent: "t=a&t=b"},
		{name: "empty parts", method: "GET", path: "/containers/json", in: "&&all=1&", sent: "all=1"},
		{name: "keys that clients send for nothing", method: "GET", path: "/containers/json", in: "trunc_cmd=0&all=1", sent: "all=1"},
		{name: "spaces", method: "POST", path: "/commit", in: "container=c&changes=ENV+a%3D%22b%26c%22", sent: "container=c&changes=ENV+a%3D%22b%26c%22"},
		{name: "too long", method: "GET", path: "/events", in: "since=" + strings.Repeat("1", 70_000), code: CodeQuerySyntax},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := parse(call{method: tt.method, path: tt.path, query: tt.in})
			if got := code(err); got != tt.code {
				t.Fatalf("got %q (%v), want %q", got, err, tt.code)
			}
			if err != nil {
				return
			}
			target, _ := encode(t, r)
			if _, q, _ := strings.Cut(target, "?"); q != tt.sent {
				t.Errorf("sent %q, want %q", q, tt.sent)
			}
		})
	}
	r := mustParse(t, call{method: "GET", path: "/containers/json", query: "evil=1&all=1", opt: Options{DropUnknown: true}})
	if diff := cmp.Diff([]string{"?evil"}, r.Call.Facts.DroppedFields); diff != "" {
		t.Errorf("dropped keys: %s", diff)
	}
}

// head is a header from pairs.
func head(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h[pairs[i]] = append(h[pairs[i]], pairs[i+1])
	}
	return h
}

func TestHeader(t *testing.T) {
	const form = "application/x-www-form-urlencoded"
	for _, tt := range []struct {
		name, method, path, body string
		in, sent                 http.Header
		code                     string
		opt                      Options
	}{
		{name: "C1 form beside the query", method: "POST", path: "/images/create", in: head("Content-Type", form), code: CodeContentType},
		{name: "C1 form with parameters", method: "POST", path: "/commit", in: head("Content-Type", form+"; charset=utf-8"), code: CodeContentType},
		{name: "C1 form in capitals", method: "POST", path: "/containers/c/kill", in: head("Content-Type", "Application/X-WWW-Form-URLEncoded"), code: CodeContentType},
		{name: "C1 form on GET", method: "GET", path: "/containers/json", in: head("Content-Type", form), code: CodeContentType},
		{name: "C1 form body", method: "POST", path: "/containers/c/rename", body: "name=evil", in: head("Content-Type", "text/plain"), code: CodeUnexpectedBody},
		{name: "C2 multipart", method: "POST", path: "/build", in: head("Content-Type", "multipart/form-data; boundary=x"), code: CodeContentType},
		{name: "C2 multipart of another kind", method: "POST", path: "/build", in: head("Content-Type", "multipart/mixed; boundary=x"), code: CodeContentType},
		{name: "C7 JSON", method: "POST", path: "/containers/create", body: `{"Image":"i"}`, in: head("Content-Type", "application/json"), sent: head("Content-Type", "application/json")},
		{name: "C7 JSON in capitals is sent in ours", method: "POST", path: "/containers/create", body: `{"Image":"i"}`, in: head("Content-Type", "Application/JSON; Charset=UTF-8"), sent: head("Content-Type", "application/json")},
		{name: "C7 other parameters", method: "POST", path: "/containers/create", body: `{"Image":"i"}`, in: head("Content-Type", "application/json; x=y"), code: CodeContentType},
		{name: "C7 other charset", method: "POST", path: "/containers/create", body: `{"Image":"i"}`, in: head("Content-Type", "application/json; charset=utf-7"), code: CodeContentType},
		{name: "C7 text", method: "POST", path: "/containers/create", body: `{"Image":"i"}`, in: head("Content-Type", "text/plain"), code: CodeContentType},
		{name: "C7 no type", method: "POST", path: "/containers/create", body: `{"Image":"i"}`, in: head("Content-Type", ""), code: CodeContentType},
		{name: "C7 malformed", method: "POST", path: "/containers/create", body: `{"Image":"i"}`, in: head("Content-Type", "application/json;;"), code: CodeContentType},
		{name: "A1 empty body", method: "POST", path: "/containers/create", in: head("Content-Type", "application/json"), code: CodeMissingBody},
		{name: "A1 blank body", method: "POST", path: "/containers/create", body: " \n", in: head("Content-Type", "application/json"), code: CodeMissingBody},
		{name: "A1 null body", method: "POST", path: "/containers/create", body: "null", in: head("Content-Type", "application/json"), code: CodeMissingBody},
		{name: "A2 large body", method: "POST", path: "/containers/create", body: `{"Image":"` + strings.Repeat("i", 5<<20) + `"}`, code: CodeBodyTooLarge},
		{name: "A9 Connection names a header of the daemon", method: "POST", path: "/images/i/push", in: head("Connection", "close, X-Registry-Auth", "X-Registry-Auth", "x"), code: CodeConnectionHeader},
		{name: "A9 Connection names the type", method: "POST", path: "/images/i/push", in: head("Connection", "content-type"), code: CodeConnectionHeader},
		{name: "A9 Connection names another", method: "GET", path: "/info", in: head("Connection", "X-Identity", "X-Identity", "root", "User-Agent", "x"), sent: head("User-Agent", "x")},
		{name: "A9 hop by hop", method: "GET", path: "/info", in: head("Keep-Alive", "1", "Te", "trailers", "Proxy-Authorization", "x", "Upgrade", "h2c", "X-Anything", "1"), sent: head()},
		{name: "B15 type twice", method: "POST", path: "/containers/create", body: `{"Image":"i"}`, in: head("Content-Type", "application/json", "Content-Type", "text/plain"), code: CodeDuplicateHeader},
		{name: "B15 registry twice", method: "POST", path: "/images/i/push", in: head("X-Registry-Auth", "a", "X-Registry-Auth", "b"), code: CodeDuplicateHeader},
		{name: "B15 host twice", method: "GET", path: "/info", in: head("Host", "a", "Host", "b"), code: CodeDuplicateHeader},
		{name: "B15 not canonical", method: "GET", path: "/info", in: head("x-registry-auth", "a"), code: CodeDuplicateHeader},
		{name: "D21 registry passes", method: "POST", path: "/images/i/push", in: head("X-Registry-Auth", "a", "X-Meta-X", "y"), sent: head("X-Registry-Auth", "a", "X-Meta-X", "y")},
		{name: "D21 registry does not pass by option", method: "POST", path: "/build", in: head("X-Registry-Config", "a"), opt: Options{DropRegistryAuth: true}, sent: head("Content-Type", "application/x-tar")},
		{name: "stream", method: "PUT", path: "/containers/c/archive", in: head("Content-Type", "text/html", "Content-Encoding", "gzip"), sent: head("Content-Type", "application/x-tar", "Content-Encoding", "gzip")},
		{name: "stream of an unknown encoding", method: "PUT", path: "/containers/c/archive", in: head("Content-Encoding", "br"), code: CodeContentEncoding},
		{name: "JSON of an encoding", method: "POST", path: "/containers/create", body: `{"Image":"i"}`, in: head("Content-Type", "application/json", "Content-Encoding", "gzip"), code: CodeContentEncoding},
		{name: "pull has no stream", method: "POST", path: "/images/create", in: head("Content-Type", "text/plain"), sent: head()},
		{name: "body on GET", method: "GET", path: "/info", body: "{}", code: CodeUnexpectedBody},
		{name: "body on DELETE", method: "DELETE", path: "/containers/c", body: "{}", code: CodeUnexpectedBody},
		{name: "empty object on POST", method: "POST", path: "/containers/c/start", body: "{}\n", in: head("Content-Type", "application/json"), sent: head()},
		{name: "host config on start", method: "POST", path: "/containers/c/start", body: `{"Binds":["/:/h"]}`, in: head("Content-Type", "application/json"), code: CodeUnexpectedBody},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := call{method: tt.method, path: tt.path, body: tt.body, header: tt.in, opt: tt.opt}
			if tt.path == "/images/create" && tt.code == "" {
				c.query = "fromImage=i"
			}
			if tt.path == "/containers/c/archive" {
				c.query = "path=/"
			}
			r, err := parse(c)
			if got := code(err); got != tt.code {
				t.Fatalf("got %q (%v), want %q", got, err, tt.code)
			}
			if err != nil {
				return
			}
			_, h, _, err := r.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.sent, h); diff != "" {
				t.Errorf("sent headers (-want +got): %s", diff)
			}
		})
	}
}

func TestBody(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 30) + "1" + strings.Repeat("}", 30)
	for _, tt := range []struct{ name, body, code, path string }{
		{name: "C4 objects", body: `{"HostConfig":{"Privileged":true},"HostConfig":{"Memory":1}}`, code: CodeDuplicateKey, path: "HostConfig"},
		{name: "C4 labels", body: `{"Labels":{"a":"1","a":"2"}}`, code: CodeDuplicateKey, path: "Labels.a"},
		{name: "C4 unknown fields, dropped", body: `{"X":1,"X":2}`, code: CodeUnknownField, path: "X"},
		{name: "C4 escaped key", body: `{"Image":"a","\u0049mage":"b"}`, code: CodeDuplicateKey, path: "Image"},
		{name: "C4 many keys", body: `{"Labels":{` + manyKeys(40) + `,"k7":"x"}}`, code: CodeDuplicateKey, path: "Labels.k7"},
		{name: "C5 arrays", body: `{"HostConfig":{"Mounts":[{"Source":"/"}],"Mounts":[{"Type":"bind"}]}}`, code: CodeDuplicateKey, path: "HostConfig.Mounts"},
		{name: "C6 case", body: `{"hostconfig":{}}`, code: CodeWrongCase, path: "hostconfig"},
		{name: "C6 long s", body: "{\"Ho\u017ftConfig\":{}}", code: CodeWrongCase},
		{name: "C6 long s, escaped", body: `{"Ho\u017ftConfig":{}}`, code: CodeWrongCase},
		{name: "C6 Kelvin sign", body: "{\"Networ\u212aingConfig\":{}}", code: CodeWrongCase},
		{name: "C6 null does not excuse", body: `{"image":null}`, code: CodeWrongCase},
		{name: "C6 labels have their case", body: `{"Image":"i","Labels":{"a":"1","A":"2"}}`},
		{name: "C4 ports of one key", body: `{"HostConfig":{"PortBindings":{"80":[],"80/tcp":[]}}}`, code: CodeDuplicateKey},
		{name: "C4 ports in two cases", body: `{"ExposedPorts":{"80/TCP":{},"80/tcp":{}}}`, code: CodeDuplicateKey},
		{name: "C8 trailing object", body: `{"Image":"i"}{}`, code: CodeTrailingData},
		{name: "C8 trailing bracket", body: `{"Image":"i"}]`, code: CodeTrailingData},
		{name: "C8 trailing NUL", body: "{\"Image\":\"i\"}\x00", code: CodeTrailingData},
		{name: "C8 byte order mark", body: "\ufeff{}", code: CodeBadUTF8},
		{name: "C8 not UTF-8", body: "{\"Image\":\"\xff\"}", code: CodeBadUTF8},
		{name: "C8 lone surrogate", body: `{"Image":"\ud800"}`, code: CodeBadUTF8},
		{name: "C8 surrogates in the wrong order", body: `{"Image":"\udc00\ud800"}`, code: CodeBadUTF8},
		{name: "C8 NUL in a string", body: `{"Image":"a\u0000b"}`, code: CodeBadUTF8},
		{name: "C8 control character", body: "{\"Image\":\"a\nb\"}", code: CodeBadJSON},
		{name: "C8 unknown escape", body: `{"Image":"\x41"}`, code: CodeBadUTF8},
		{name: "C8 depth", body: deep, code: CodeTooDeep},
		{name: "C8 depth of arrays", body: `{"X":` + strings.Repeat("[", 100_000), code: CodeTooDeep},
		{name: "C8 keys", body: `{"Labels":{` + manyKeys(30_000) + `}}`, code: CodeTooManyKeys},
		{name: "C8 elements", body: `{"Env":[` + strings.TrimSuffix(strings.Repeat(`"",`, 30_000), ",") + `]}`, code: CodeTooManyKeys},
		{name: "C8 NaN", body: `{"HostConfig":{"Memory":NaN}}`, code: CodeBadJSON},
		{name: "C8 infinity", body: `{"HostConfig":{"Memory":1e999}}`, code: CodeBadNumber},
		{name: "C8 exponent", body: `{"HostConfig":{"Memory":1e3}}`, code: CodeBadNumber},
		{name: "C8 fraction", body: `{"HostConfig":{"Memory":1.0}}`, code: CodeBadNumber},
		{name: "C8 minus zero", body: `{"HostConfig":{"Memory":-0}}`, code: CodeBadNumber},
		{name: "C8 over int64", body: `{"HostConfig":{"Memory":9223372036854775808}}`, code: CodeBadNumber},
		{name: "C8 over uint16", body: `{"HostConfig":{"BlkioWeight":65536}}`, code: CodeBadNumber},
		{name: "C8 leading zero", body: `{"HostConfig":{"Memory":01}}`, code: CodeBadJSON},
		{name: "C8 leading plus", body: `{"HostConfig":{"Memory":+1}}`, code: CodeBadJSON},
		{name: "C8 hexadecimal", body: `{"HostConfig":{"Memory":0x10}}`, code: CodeBadJSON},
		{name: "C8 number as a string", body: `{"HostConfig":{"Memory":"1"}}`, code: CodeWrongType},
		{name: "C8 boolean as a number", body: `{"HostConfig":{"Privileged":1}}`, code: CodeWrongType},
		{name: "C8 array as an object", body: `{"HostConfig":[]}`, code: CodeWrongType},
		{name: "C8 top-level array", body: `[]`, code: CodeWrongType},
		{name: "C8 top-level string", body: `"x"`, code: CodeWrongType},
		{name: "C8 comment", body: `{/**/}`, code: CodeBadJSON},
		{name: "C8 trailing comma", body: `{"Image":"i",}`, code: CodeBadJSON},
		{name: "C8 single quotes", body: `{'Image':'i'}`, code: CodeBadJSON},
		{name: "C8 unquoted key", body: `{Image:"i"}`, code: CodeBadJSON},
		{name: "C8 cut off", body: `{"Image":"i"`, code: CodeBadJSON},
		{name: "C8 cut off in a string", body: `{"Image":"i`, code: CodeBadJSON},
		{name: "C8 cut off in an escape", body: `{"Image":"\`, code: CodeBadJSON},
		{name: "C8 bad literal", body: `{"Image":nul}`, code: CodeBadJSON},
		{name: "C8 null objects", body: `{"Image":"i","HostConfig":null,"NetworkingConfig":null,"Labels":null}`},
		{name: "bad address", body: `{"Image":"i","HostConfig":{"Dns":["x"]}}`, code: CodeBadValue},
		{name: "bad base64 is no field here", body: `{"Data":"x"}`, code: CodeUnknownField},
		{name: "unknown field", body: `{"Image":"i","HostConfig":{"Evil":1}}`, code: CodeUnknownField, path: "HostConfig.Evil"},
		{name: "unknown field in an array", body: `{"HostConfig":{"Mounts":[{},{"X":1}]}}`, code: CodeUnknownField, path: "HostConfig.Mounts[1].X"},
		{name: "field of another object", body: `{"Image":"i","HostConfig":{"Image":"j"}}`, code: CodeUnknownField, path: "HostConfig.Image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(create(tt.body))
			if got := code(err); got != tt.code {
				t.Fatalf("got %q (%v), want %q", got, err, tt.code)
			}
			if e, ok := err.(*Error); ok && tt.path != "" && e.Path != tt.path { //nolint:errorlint // parse returns it bare
				t.Errorf("path: got %q, want %q", e.Path, tt.path)
			}
		})
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"k` + itoa(i) + `":"v"`)
	}
	return b.String()
}

// TestEncode asserts what is sent: our own spelling of what was said, and no more.
func TestEncode(t *testing.T) {
	for _, tt := range []struct {
		name         string
		call         call
		target, body string
	}{
		{name: "space and escapes", call: create("\t{ \"Image\" : \"\\u0061\\/\\n\\\"<>&\u2028\" ,\r\n\"Env\":[ ] }  "),
			target: "/v1.44/containers/create", body: "{\"Image\":\"a/\\u000a\\\"<>&\u2028\",\"Env\":[]}"},
		{name: "empty and missing lists differ", call: host(`{"MaskedPaths":[],"ReadonlyPaths":null}`),
			target: "/v1.44/containers/create", body: `{"Image":"i","HostConfig":{"MaskedPaths":[],"ReadonlyPaths":null}}`},
		{name: "ports", call: create(`{"Image":"i","ExposedPorts":{"80":{},"53/UDP":{}}}`),
			target: "/v1.44/containers/create", body: `{"Image":"i","ExposedPorts":{"80/tcp":{},"53/udp":{}}}`},
		{name: "command as a string", call: create(`{"Image":"i","Cmd":"sh"}`), target: "/v1.44/containers/create", body: `{"Image":"i","Cmd":["sh"]}`},
		{name: "legacy fields", call: create(`{"Image":"i","MacAddress":"02:42:ac:11:00:02","HostConfig":{"KernelMemory":5}}`),
			target: "/v1.44/containers/create", body: `{"Image":"i","MacAddress":"02:42:ac:11:00:02","HostConfig":{"KernelMemory":5}}`},
		{name: "fields of clients", call: post("/exec/e/start", "", `{"Detach":false,"hijack":true,"stdin":true}`), target: "/exec/e/start", body: `{"Detach":false}`},
		{name: "no version", call: post("/containers/c/start", "", ""), target: "/containers/c/start"},
		{name: "escaped name", call: call{method: "GET", path: "/images/a%3Ab/json"}, target: "/images/a:b/json"},
		{name: "name on the query", call: withQuery(create(`{"Image":"i"}`), "name=%2Fweb"), target: "/v1.44/containers/create?name=web", body: `{"Image":"i"}`},
		{name: "two variables", call: call{method: "DELETE", path: "/v1.44/containers/a/checkpoints/b"}, target: "/v1.44/containers/a/checkpoints/b"},
		{name: "query JSON", call: post("/build", `buildargs=%7B+%22A%22+:+%22b%22%7D`, ""), target: "/build?buildargs=%7B%22A%22%3A%22b%22%7D"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target, body := encode(t, mustParse(t, tt.call))
			if target != tt.target || body != tt.body {
				t.Errorf("got %s %s, want %s %s", target, body, tt.target, tt.body)
			}
		})
	}
}

// TestSetResource is B6: a name is rewritten to the id that was judged, everywhere.
func TestSetResource(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, tt := range []struct {
		name         string
		call         call
		target, body string
	}{
		{name: "B6 path", call: call{method: "DELETE", path: "/v1.44/containers/web"}, target: "/v1.44/containers/" + id},
		{name: "B6 exec", call: post("/exec/abc/resize", "h=1&w=2", ""), target: "/exec/" + id + "/resize?h=1&w=2"},
		{name: "B6 commit", call: post("/commit", "repo=r&container=web", ""), target: "/commit?repo=r&container=" + id},
		{name: "B6 connect", call: post("/networks/n/connect", "", `{"Container":"/web"}`), target: "/networks/" + id + "/connect", body: `{"Container":"` + id + `","EndpointConfig":{"NetworkID":"` + id + `"}}`},
		{name: "connect by an id of the client's", call: post("/networks/n/connect", "", `{"Container":"/web","EndpointConfig":{"NetworkID":"victim","Aliases":["a"]}}`), target: "/networks/" + id + "/connect",
			body: `{"Container":"` + id + `","EndpointConfig":{"NetworkID":"` + id + `","Aliases":["a"]}}`},
		{name: "B6 namespaces", call: host(`{"NetworkMode":"container:web","PidMode":"container:web","VolumesFrom":["web:ro"],"Links":["web:db","web"]}`), target: "/v1.44/containers/create",
			body: `{"Image":"i","HostConfig":{"NetworkMode":"container:` + id + `","PidMode":"container:` + id + `","VolumesFrom":["` + id + `:ro"],"Links":["` + id + `:db","` + id + `:web"]}}`},
		{name: "B6 networks", call: create(`{"Image":"i","HostConfig":{"NetworkMode":"back"},"NetworkingConfig":{"EndpointsConfig":{"back":{}}}}`), target: "/v1.44/containers/create",
			body: `{"Image":"i","HostConfig":{"NetworkMode":"` + id + `"},"NetworkingConfig":{"EndpointsConfig":{"` + id + `":{"NetworkID":"` + id + `"}}}}`},
		{name: "links that are names", call: create(`{"Image":"i","HostConfig":{"NetworkMode":"back","Links":["web:db"]},"NetworkingConfig":{"EndpointsConfig":{"back":{"Links":["web:db"]}}}}`), target: "/v1.44/containers/create",
			body: `{"Image":"i","HostConfig":{"NetworkMode":"` + id + `","Links":["web:db"]},"NetworkingConfig":{"EndpointsConfig":{"` + id + `":{"Links":["web:db"],"NetworkID":"` + id + `"}}}}`},
		{name: "a network without an endpoint", call: host(`{"NetworkMode":"back"}`), target: "/v1.44/containers/create",
			body: `{"Image":"i","HostConfig":{"NetworkMode":"` + id + `"},"NetworkingConfig":{"EndpointsConfig":{"` + id + `":{"NetworkID":"` + id + `"}}}}`},
		{name: "no endpoint, an id of the client's, the default network", call: create(`{"Image":"i","NetworkingConfig":{"EndpointsConfig":{"back":null,"bridge":{"NetworkID":"x"},"n2":{"NetworkID":"victim"}}}}`), target: "/v1.44/containers/create",
			body: `{"Image":"i","NetworkingConfig":{"EndpointsConfig":{"` + id + `":{"NetworkID":"` + id + `"},"bridge":{"NetworkID":""},"n2":{"NetworkID":"` + id + `"}}}}`},
		{name: "images keep their names", call: call{method: "DELETE", path: "/images/a:b"}, target: "/images/a:b"},
		{name: "volumes have no ids", call: call{method: "DELETE", path: "/volumes/v"}, target: "/volumes/v"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := mustParse(t, tt.call)
			for i := range r.Call.Resources {
				r.SetResource(i, id)
				if r.Call.Resources[i].ID != id {
					t.Errorf("resource %d: got id %q", i, r.Call.Resources[i].ID)
				}
			}
			target, body := encode(t, r)
			if target != tt.target || body != tt.body {
				t.Errorf("got %s %s, want %s %s", target, body, tt.target, tt.body)
			}
		})
	}
}

func TestSetMountSource(t *testing.T) {
	r := mustParse(t, host(`{"Binds":["/a:/x:ro"],"Mounts":[{"Type":"bind","Source":"/b","Target":"/y"}],"VolumesFrom":["c"]}`))
	for i, p := range []string{"/real/a", "/real:b"} {
		if err := r.SetMountSource(i, p); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range map[int]string{0: "/with:colon", 1: "relative", 2: "/c", 9: "/z"} {
		if err := r.SetMountSource(i, p); code(err) != CodeCannotRewrite {
			t.Errorf("mount %d to %s: got %v, want %s", i, p, err, CodeCannotRewrite)
		}
	}
	want := `{"Image":"i","HostConfig":{"Binds":["/real/a:/x:ro"],"Mounts":[{"Type":"bind","Source":"/real:b","Target":"/y"}],"VolumesFrom":["c"]}}`
	if _, body := encode(t, r); body != want {
		t.Errorf("got %s, want %s", body, want)
	}
	if got := r.Call.Facts.HostMounts[0].Resolved; got != "/real/a" {
		t.Errorf("fact: got %s", got)
	}
}

// TestObligations sets everything on a request that says nothing, and on one that says
// the contrary.
func TestObligations(t *testing.T) {
	for _, tt := range []struct{ name, body, want string }{
		{name: "bare", body: `{"Image":"i"}`,
			want: `{"Image":"i@sha256:0","Labels":{"belay.dev/owner":"alice"},"User":"1000","HostConfig":{"Memory":64,"NanoCpus":7,"PidsLimit":9,"SecurityOpt":["no-new-privileges=true"],"ReadonlyRootfs":true,"Annotations":{"a":"b"}}}`},
		{name: "nulls", body: `{"Image":"i","Labels":null,"User":null,"HostConfig":null}`,
			want: `{"Image":"i@sha256:0","Labels":{"belay.dev/owner":"alice"},"User":"1000","HostConfig":{"Memory":64,"NanoCpus":7,"PidsLimit":9,"SecurityOpt":["no-new-privileges=true"],"ReadonlyRootfs":true,"Annotations":{"a":"b"}}}`},
		{name: "contrary", body: `{"Image":"i","Labels":{"x":"y","belay.dev/owner":"root"},"User":"0","HostConfig":{"Memory":128,"NanoCpus":5,"PidsLimit":-1,"SecurityOpt":["seccomp=unconfined","no-new-privileges:false"],"ReadonlyRootfs":false}}`,
			want: `{"Image":"i@sha256:0","Labels":{"x":"y","belay.dev/owner":"alice"},"User":"1000","HostConfig":{"Memory":64,"NanoCpus":5,"PidsLimit":9,"SecurityOpt":["seccomp=unconfined","no-new-privileges=true"],"ReadonlyRootfs":true,"Annotations":{"a":"b"}}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := mustParse(t, create(tt.body))
			for _, set := range []func() error{
				func() error { return r.SetImage("i@sha256:0", "sha256:0") },
				func() error { return r.SetLabel("belay.dev/owner", "alice") },
				func() error { return r.SetUser("1000") },
				func() error { return r.SetMemory(64) },
				func() error { return r.SetNanoCPUs(7) },
				func() error { return r.SetPIDs(9) },
				r.SetNoNewPrivileges,
				r.SetReadOnly,
				func() error { return r.SetAnnotation("a", "b") },
			} {
				if err := set(); err != nil {
					t.Fatal(err)
				}
			}
			if _, body := encode(t, r); body != tt.want {
				t.Errorf("got  %s\nwant %s", body, tt.want)
			}
			f := &r.Call.Facts
			if !f.NoNewPrivileges || !f.ReadOnly || f.User != "1000" || f.Limits.MemoryBytes != 64 || f.Limits.PIDs != 9 || f.ImageDigest != "sha256:0" {
				t.Errorf("facts: %+v", f)
			}
		})
	}
	start := mustParse(t, post("/containers/c/start", "", ""))
	for name, err := range map[string]error{
		"label": start.SetLabel("a", "b"), "user": start.SetUser("1"), "memory": start.SetMemory(1), "image": start.SetImage("i", ""),
		"no-new-privileges": start.SetNoNewPrivileges(), "read-only": start.SetReadOnly(), "annotation": start.SetAnnotation("a", "b"),
	} {
		if code(err) != CodeCannotRewrite {
			t.Errorf("%s on start: got %v, want %s", name, err, CodeCannotRewrite)
		}
	}
	if err := mustParse(t, host(`{"CpuQuota":1}`)).SetNanoCPUs(1); code(err) != CodeCannotRewrite {
		t.Errorf("CPUs beside a quota: got %v", err)
	}
}

func TestTakesStream(t *testing.T) {
	for _, tt := range []struct {
		call call
		want bool
	}{
		{post("/images/create", "fromImage=i", ""), false},
		{post("/images/create", "fromSrc=http://x", ""), false},
		{post("/images/create", "fromSrc=-", ""), true},
		{post("/images/load", "", ""), true},
		{post("/build", "", ""), true},
		{call{method: "PUT", path: "/containers/c/archive", query: "path=/"}, true},
		{call{method: "GET", path: "/containers/c/archive", query: "path=/"}, false},
		{post("/containers/c/start", "", ""), false},
	} {
		if got := mustParse(t, tt.call).TakesStream(); got != tt.want {
			t.Errorf("%s %s?%s: got %v, want %v", tt.call.method, tt.call.path, tt.call.query, got, tt.want)
		}
	}
	if _, err := parse(post("/build", "", "tar")); code(err) != CodeUnexpectedBody {
		t.Errorf("a stream given as a body: got %v", err)
	}
}

// TestDetectCompression is A4: the daemon goes by the first bytes.
func TestDetectCompression(t *testing.T) {
	for head, want := range map[string]string{
		"\x1f\x8b\x08\x00": "gzip", "BZh9": "bzip2", "\xfd7zXZ\x00": "xz", "\x28\xb5\x2f\xfd": "zstd",
		"\x52\x2a\x4d\x18\x00\x00\x00\x00": "zstd", "etc/passwd\x00": "", "": "", "\x1f": "",
	} {
		if got := DetectCompression([]byte(head)); got != want {
			t.Errorf("%q: got %q, want %q", head, got, want)
		}
	}
}

func TestNoMatchIsDenied(t *testing.T) {
	if _, err := Parse(Match{}, "", nil, nil, Options{}); code(err) != CodeNoRoute {
		t.Errorf("the zero match: got %v, want %s", err, CodeNoRoute)
	}
}

func TestSplitImage(t *testing.T) {
	hex := strings.Repeat("a", 64)
	for name, want := range map[string][3]string{
		"alpine":                      {"docker.io", "library/alpine", "latest"},
		"index.docker.io/a/b":         {"docker.io", "a/b", "latest"},
		"localhost/a":                 {"localhost", "a", "latest"},
		"evil.io:5000/a/b:t":          {"evil.io:5000", "a/b", "t"},
		"a@sha256:" + hex:             {"docker.io", "library/a", "sha256:" + hex},
		"a:t@sha256:" + hex:           {"docker.io", "library/a", "sha256:" + hex},
		"cafe:t":                      {"docker.io", "library/cafe", "t"},
		"A/b":                         {"A", "b", "latest"},
		"docker.io/evil.io/a":         {"docker.io", "evil.io/a", "latest"},
		hex:                           {UnknownRegistry, "", ""},
		"sha256:" + hex:               {UnknownRegistry, "", ""},
		"sha256:ab12":                 {UnknownRegistry, "", ""},
		"cafe":                        {UnknownRegistry, "", ""},
		"Upper":                       {"", "", ""},
		"evil.io/../docker.io/alpine": {"", "", ""},
	} {
		f := mustParse(t, create(`{"Image":"`+name+`"}`)).Call.Facts
		if got := [3]string{f.Registry, f.Repository, f.Tag}; got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
	// What is given or pulled is a name, however it looks.
	if f := mustParse(t, post("/images/i/tag", "repo=cafe", "")).Call.Facts; f.Repository != "library/cafe" {
		t.Errorf("tag: got %q", f.Repository)
	}
}

// TestLegacyFields holds the table of legacy fields to what it says: each is taken and
// sent, or dropped where no daemon reads it, and none is in the current types.
func TestLegacyFields(t *testing.T) {
	for _, l := range legacyFields {
		s := schemaOf(l.in)
		i, ok := s.byName[l.name]
		switch {
		case !ok:
			t.Errorf("%s.%s is not in the schema", l.in, l.name)
		case s.fields[i].drop != l.ignored || s.fields[i].s.lone != l.lone:
			t.Errorf("%s.%s: got %+v", l.in, l.name, s.fields[i])
		case l.from < MinMinor || l.to < l.from || l.to > MaxMinor:
			t.Errorf("%s.%s: versions %d to %d", l.in, l.name, l.from, l.to)
		}
		if _, current := l.in.FieldByName(l.name); current != l.lone {
			t.Errorf("%s.%s: in the current types is %v", l.in, l.name, current)
		}
	}
}

func TestActions(t *testing.T) {
	list := Actions()
	for _, want := range []string{"container.create", "image.import", "image.pull", "build.grpc.solve", "system.options"} {
		found := false
		for _, a := range list {
			found = found || a == want
		}
		if !found {
			t.Errorf("%s is no action", want)
		}
	}
	for i, kind := range map[string]apicall.ResourceKind{"/containers/c/json": apicall.ResourceContainer, "/exec/e/json": apicall.ResourceExec} {
		if r := mustParse(t, call{method: "GET", path: i}); r.Call.Resources[0].Kind != kind {
			t.Errorf("%s: got kind %v, want %v", i, r.Call.Resources[0].Kind, kind)
		}
	}
}

func BenchmarkParseCreate(b *testing.B) {
	body := `{"Image":"alpine","Env":["PATH=/usr/bin",` + strings.TrimSuffix(strings.Repeat(`"SOME_VARIABLE=with a value",`, 100), ",") +
		`],"Labels":{"a":"b"},"HostConfig":{"Binds":["/srv/a:/a:ro","data:/d"],"Memory":1000000,"SecurityOpt":["no-new-privileges"],"RestartPolicy":{"Name":"always"},` +
		`"PortBindings":{"80/tcp":[{"HostPort":"8080"}]},"Mounts":[{"Type":"bind","Source":"/x","Target":"/y"}]},"NetworkingConfig":{"EndpointsConfig":{"back":{"Aliases":["a"]}}}}`
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := parse(create(body))
		if err != nil {
			b.Fatal(err)
		}
		if _, _, _, err := r.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseList(b *testing.B) {
	h := http.Header{"User-Agent": {"Docker-Client/28"}}
	b.ReportAllocs()
	for b.Loop() {
		m, err := FindRoute("GET", "/v1.44/containers/json")
		if err != nil {
			b.Fatal(err)
		}
		r, err := Parse(m, "all=1", h, nil, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if _, _, _, err := r.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}
