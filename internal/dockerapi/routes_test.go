package dockerapi

import (
	"bufio"
	"os"
	"strings"
	"testing"
)

// endpoint is a line of testdata/endpoints.txt: what a client calls, by which name
// policies know it, and what the table must make of it.
type endpoint struct {
	method, path, operation, action, stream, vars string
}

func readEndpoints(t testing.TB) []endpoint {
	t.Helper()
	f, err := os.Open("testdata/endpoints.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []endpoint
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := sc.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p := strings.Fields(line)
		if len(p) != 6 {
			t.Fatalf("testdata/endpoints.txt: %d fields in %q, want 6", len(p), line)
		}
		out = append(out, endpoint{p[0], p[1], p[2], p[3], p[4], p[5]})
	}
	return out
}

// TestEveryEndpoint holds the table to the list of endpoints, both ways: each endpoint
// is found with and without a version, and no route is without an endpoint (B9).
func TestEveryEndpoint(t *testing.T) {
	found := map[*Route]bool{}
	list := readEndpoints(t)
	for _, e := range list {
		for _, version := range []string{"", "1.24", "1.41", "1.56"} {
			path := e.path
			if version != "" {
				if e.method == MethodGRPC {
					continue
				}
				path = "/v" + version + path
			}
			m, err := FindRoute(e.method, path)
			if err != nil {
				t.Errorf("%s %s: %v", e.method, path, err)
				continue
			}
			found[m.Route] = true
			op := m.Route.Operation
			if op == "" {
				op = "-"
			}
			vars := "-"
			if m.Route.Vars() > 0 {
				vars = strings.TrimSuffix(m.Var(0)+","+m.Var(1), ",")
			}
			if m.Route.Action != e.action || op != e.operation || m.Route.Stream.String() != e.stream ||
				vars != e.vars || m.Version != version {
				t.Errorf("%s %s: got %s %s %s %s version %q, want %+v",
					e.method, path, m.Route.Action, op, m.Route.Stream, vars, m.Version, e)
			}
		}
	}
	for _, r := range Routes() {
		if !found[r] {
			t.Errorf("route %s %s is in no line of testdata/endpoints.txt", r.Method, r.Pattern)
		}
	}
	if got, want := len(list), 134; got != want {
		t.Errorf("%d endpoints, want %d: 120, with those of a group by name", got, want)
	}
}

// TestOtherMethods asks for every path of the list with every other method: what is no
// endpoint is denied.
func TestOtherMethods(t *testing.T) {
	known := map[string]bool{}
	list := readEndpoints(t)
	for _, e := range list {
		known[e.method+" "+e.path] = true
	}
	for _, e := range list {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE", "get", "Post", "", "H2"} {
			if known[method+" "+e.path] {
				continue
			}
			m, err := FindRoute(method, e.path)
			if err != nil {
				continue
			}
			// A path may be another endpoint with a name in it: DELETE /containers/json.
			if !strings.Contains(m.Route.Pattern, "{") || m.Route.Method != method {
				t.Errorf("%s %s: got route %s %s", method, e.path, m.Route.Method, m.Route.Pattern)
			}
		}
	}
}

func TestFindRoute(t *testing.T) {
	for _, tt := range []struct {
		name, method, path string
		action             string // "" if refused
		vars               string
		code               string
	}{
		{name: "B1 double slash", method: "POST", path: "//containers/create", code: CodeUncleanPath},
		{name: "B1 double slash inside", method: "POST", path: "/v1.44//containers/create", code: CodeUncleanPath},
		{name: "B1 empty name", method: "GET", path: "/containers//json", code: CodeUncleanPath},
		{name: "B1 dot segment", method: "POST", path: "/./containers/create", code: CodeUncleanPath},
		{name: "B1 parent segment", method: "POST", path: "/images/../containers/create", code: CodeUncleanPath},
		{name: "B1 parent segment at the end", method: "DELETE", path: "/containers/a/..", code: CodeUncleanPath},
		{name: "B1 name of three dots is a name", method: "GET", path: "/volumes/...", action: "volume.inspect", vars: "..."},
		{name: "B1 trailing slash", method: "GET", path: "/containers/json/", code: CodeUncleanPath},
		{name: "B1 trailing slash of volumes", method: "GET", path: "/volumes/", code: CodeUncleanPath},
		{name: "B1 relative", method: "GET", path: "containers/json", code: CodeBadPath},
		{name: "B1 empty", method: "GET", path: "", code: CodeBadPath},
		{name: "B1 absolute form", method: "GET", path: "http://x/containers/json", code: CodeBadPath},
		{name: "B1 asterisk", method: "OPTIONS", path: "*", code: CodeBadPath},
		{name: "B2 slash", method: "GET", path: "/containers%2Fx%2Fattach%2Fws", code: CodeEncodedPath},
		{name: "B2 slash in name", method: "GET", path: "/images/a%2fb/json", code: CodeEncodedPath},
		{name: "B2 letter", method: "GET", path: "/containers/x/att%61ch/ws", code: CodeEncodedPath},
		{name: "B2 letter of the version", method: "GET", path: "/%761.44/info", code: CodeEncodedPath},
		{name: "B2 digit", method: "GET", path: "/containers/x%31/json", code: CodeEncodedPath},
		{name: "B2 dots", method: "POST", path: "/images/%2e%2e/containers/create", code: CodeEncodedPath},
		{name: "B2 dot and escape", method: "POST", path: "/images/.%2e/containers/create", code: CodeEncodedPath},
		{name: "B2 NUL", method: "GET", path: "/containers/x%00/json", code: CodeEncodedPath},
		{name: "B2 percent", method: "GET", path: "/containers/x%2561/json", code: CodeEncodedPath},
		{name: "B2 query", method: "GET", path: "/containers/x%3fall=1/json", code: CodeEncodedPath},
		{name: "B2 fragment", method: "GET", path: "/containers/x%23/json", code: CodeEncodedPath},
		{name: "B2 space", method: "GET", path: "/containers/x%20/json", code: CodeEncodedPath},
		{name: "B2 newline", method: "GET", path: "/containers/x%0a/json", code: CodeEncodedPath},
		{name: "B2 broken", method: "GET", path: "/containers/x%/json", code: CodeEncodedPath},
		{name: "B2 broken at the end", method: "DELETE", path: "/containers/x%4", code: CodeEncodedPath},
		{name: "B2 not hexadecimal", method: "GET", path: "/containers/%zz/json", code: CodeEncodedPath},
		{name: "B2 UTF-8", method: "GET", path: "/containers/%c3%a9/json", code: CodeEncodedPath},
		{name: "B2 raw UTF-8", method: "GET", path: "/containers/é/json", code: CodeBadPath},
		{name: "B2 raw space", method: "GET", path: "/containers/a b/json", code: CodeBadPath},
		{name: "B2 backslash", method: "GET", path: `/containers/a\b/json`, code: CodeBadPath},
		{name: "B2 raw NUL", method: "GET", path: "/containers/a\x00/json", code: CodeBadPath},
		{name: "B2 colon may be escaped", method: "GET", path: "/images/alpine%3A3/json", action: "image.inspect", vars: "alpine:3"},
		{name: "B2 at sign may be escaped", method: "GET", path: "/images/a%40sha256:00/json", action: "image.inspect", vars: "a@sha256:00"},
		{name: "B3 leading zero", method: "GET", path: "/v01.44/info", code: CodeBadVersion},
		{name: "B3 patch level", method: "GET", path: "/v1.44.0/info", code: CodeBadVersion},
		{name: "B3 dots", method: "GET", path: "/v1..44/info", code: CodeBadVersion},
		{name: "B3 dot first", method: "GET", path: "/v.44/info", code: CodeBadVersion},
		{name: "B3 too old", method: "GET", path: "/v1.23/info", code: CodeBadVersion},
		{name: "B3 one digit", method: "GET", path: "/v1.5/info", code: CodeBadVersion},
		{name: "B3 too new", method: "GET", path: "/v1.57/info", code: CodeBadVersion},
		{name: "B3 major", method: "GET", path: "/v2.44/info", code: CodeBadVersion},
		{name: "B3 only a version", method: "GET", path: "/v1.44", code: CodeBadVersion},
		{name: "B3 version and slash", method: "GET", path: "/v1.44/", code: CodeNoRoute},
		{name: "B3 twice", method: "GET", path: "/v1.44/v1.44/info", code: CodeNoRoute},
		{name: "B3 upper case", method: "GET", path: "/V1.44/info", code: CodeNoRoute},
		{name: "B3 no version", method: "GET", path: "/info", action: "system.info", vars: ""},
		{name: "B3 version is a route too", method: "GET", path: "/version", action: "system.version", vars: ""},
		{name: "B4 checkpoints before containers", method: "DELETE", path: "/containers/a/checkpoints/b", action: "container.checkpoint.delete", vars: "a,b"},
		{name: "B4 container named like a route", method: "POST", path: "/containers/create/exec", action: "container.exec", vars: "create"},
		{name: "B4 container named build", method: "POST", path: "/containers/build/exec", action: "container.exec", vars: "build"},
		{name: "B4 container named json", method: "GET", path: "/containers/json/json", action: "container.inspect", vars: "json"},
		{name: "B4 image named like a route", method: "GET", path: "/images/json/json", action: "image.inspect", vars: "json"},
		{name: "B4 greedy names of images", method: "GET", path: "/images/r.io/a/get/json", action: "image.inspect", vars: "r.io/a/get"},
		{name: "B4 greedy to the last suffix", method: "GET", path: "/images/a/json/get", action: "image.save", vars: "a/json"},
		{name: "B4 names of plugins", method: "POST", path: "/plugins/vieux/sshfs:latest/disable", action: "plugin.disable", vars: "vieux/sshfs:latest"},
		{name: "B4 services have plain names", method: "GET", path: "/services/a/b", code: CodeNoRoute},
		{name: "B5 link alias", method: "POST", path: "/containers/mine/db/exec", code: CodeSlashInName},
		{name: "B5 link alias, delete", method: "DELETE", path: "/containers/mine/db", code: CodeSlashInName},
		{name: "B5 link alias, exec", method: "POST", path: "/exec/a/b/start", code: CodeSlashInName},
		{name: "B5 link alias, checkpoint", method: "GET", path: "/containers/a/b/checkpoints", code: CodeSlashInName},
		{name: "B5 network", method: "GET", path: "/networks/a/b", code: CodeSlashInName},
		{name: "B5 volume", method: "DELETE", path: "/volumes/a/b", code: CodeSlashInName},
		{name: "B9 alias of networks", method: "GET", path: "/networks/", action: "network.list", vars: ""},
		{name: "B9 any OPTIONS", method: "OPTIONS", path: "/what/ever", action: "system.options", vars: "what/ever"},
		{name: "B10 gRPC over HTTP/1", method: "POST", path: "/moby.buildkit.v1.Control/Solve", code: CodeNoRoute},
		{name: "B10 gRPC", method: MethodGRPC, path: "/moby.buildkit.v1.Control/Solve", action: "build.grpc.solve", vars: ""},
		{name: "B10 unknown gRPC service", method: MethodGRPC, path: "/moby.buildkit.v1.Other/Solve", code: CodeNoRoute},
		{name: "B10 API over gRPC", method: MethodGRPC, path: "/containers/create", code: CodeNoRoute},
		{name: "B13 unknown method", method: "PATCH", path: "/containers/create", code: CodeNoRoute},
		{name: "unknown route", method: "POST", path: "/containers/a/migrate", code: CodeNoRoute},
		{name: "root", method: "GET", path: "/", code: CodeNoRoute},
		{name: "prefix of a route", method: "GET", path: "/containers/jsonx", code: CodeNoRoute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := FindRoute(tt.method, tt.path)
			if got := code(err); got != tt.code {
				t.Fatalf("%s %s: got %q (%v), want %q", tt.method, tt.path, got, err, tt.code)
			}
			if err != nil {
				return
			}
			vars := strings.TrimSuffix(m.Var(0)+","+m.Var(1), ",")
			if m.Route.Action != tt.action || vars != tt.vars {
				t.Errorf("got %s with %q, want %s with %q", m.Route.Action, vars, tt.action, tt.vars)
			}
		})
	}
}

// TestFindRouteAllocatesNothing covers a hit, the longest search, and denials.
func TestFindRouteAllocatesNothing(t *testing.T) {
	for _, p := range [][2]string{
		{"GET", "/v1.44/containers/json"},
		{"GET", "/_ping"},
		{"DELETE", "/v1.44/containers/0123456789abcdef"},
		{"POST", "/v1.44/containers/x/nothing"},
		{"GET", "/v1.44/containers/x%61/json"},
		{"GET", "/v9/x"},
		{"PATCH", "/x"},
	} {
		if n := testing.AllocsPerRun(100, func() { _, _ = FindRoute(p[0], p[1]) }); n != 0 {
			t.Errorf("%s %s: %v allocations, want 0", p[0], p[1], n)
		}
	}
}

func BenchmarkFindRoute(b *testing.B) {
	for _, p := range [][2]string{{"GET", "/_ping"}, {"POST", "/v1.44/containers/0123456789abcdef/update"}, {"POST", "/v1.44/x"}} {
		b.Run(strings.ReplaceAll(p[0]+p[1], "/", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = FindRoute(p[0], p[1])
			}
		})
	}
}

// TestTableOrder finds for every pair of routes of one method a path that both match,
// if there is one, and asserts that the earlier route gets it: the daemon's order.
func TestTableOrder(t *testing.T) {
	routes := Routes()
	for i, a := range routes {
		for _, b := range routes[i+1:] {
			if a.Method != b.Method {
				continue
			}
			path := strings.NewReplacer("{name:.*}", "x", "{id:.*}", "x", "{id:.+}", "x", "{name}", "x", "{id}", "x",
				"{checkpoint}", "c", "{anyroute:.*}", "x").Replace(b.Pattern)
			var vars [2]string
			if !a.pat.match(path, &vars) {
				continue
			}
			m, err := FindRoute(a.Method, path)
			if err == nil && m.Route != a {
				t.Errorf("%s %s: got %s, want %s, which comes first", a.Method, path, m.Route.Pattern, a.Pattern)
			}
		}
	}
}
