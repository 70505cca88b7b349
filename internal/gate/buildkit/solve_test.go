package buildkit

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	control "github.com/moby/buildkit/api/services/control"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// judge allows what deny does not name, and keeps the questions.
type judge struct {
	deny    func(q *Question) bool
	session string // the caller's

	// mu guards what follows.
	mu      sync.Mutex
	asked   []*Question
	refused []string
}

func (j *judge) Ask(q *Question) Verdict {
	if !q.Hypothetical {
		j.mu.Lock()
		j.asked = append(j.asked, q)
		j.mu.Unlock()
	}
	if j.deny != nil && j.deny(q) {
		return Verdict{Message: q.Action + " is denied by the test"}
	}
	return Verdict{Allowed: true}
}

func (j *judge) OwnsSession(_ context.Context, id string) bool { return id == j.session }
func (j *judge) ClaimBuild(ref string) bool                    { return ref != "another's" }
func (j *judge) OwnsBuild(ref string) bool                     { return ref == "mine" }

func (j *judge) Refused(_, cause, _ string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.refused = append(j.refused, cause)
}

// limited denies every frontend but the engine's own and one image.
func limited(q *Question) bool {
	f := q.Facts.Frontend
	return f != "" && f != frontendDockerfile && f != "docker/dockerfile:1"
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func defOf(t testing.TB, ops ...*pb.Op) *pb.Definition {
	d := &pb.Definition{}
	for _, op := range ops {
		d.Def = append(d.Def, marshal(t, op))
	}
	return d
}

func source(id string, attrs map[string]string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id, Attrs: attrs}}}
}

func exec(e *pb.ExecOp) *pb.Op { return &pb.Op{Op: &pb.Op_Exec{Exec: e}} }

const solveName = serviceControl + "Solve"

func solveWith(t testing.TB, j *judge, m *control.SolveRequest) (*control.SolveRequest, error) {
	t.Helper()
	if m.Session == "" {
		m.Session = j.session
	}
	out, err := (&controlSide{judge: j}).solve(t.Context(), solveName, marshal(t, m))
	if err != nil {
		return nil, err
	}
	var got control.SolveRequest
	if err := decode(out, &got); err != nil {
		t.Fatal(err)
	}
	return &got, nil
}

// What a Solve asks for is in the questions.
func TestSolveFacts(t *testing.T) {
	attrs := func(kv ...string) *control.SolveRequest {
		m := &control.SolveRequest{Ref: "r", Frontend: frontendDockerfile, FrontendAttrs: map[string]string{}}
		for i := 0; i < len(kv); i += 2 {
			m.FrontendAttrs[kv[i]] = kv[i+1]
		}
		return m
	}
	has := func(what string, of func(q *Question) []string) func(q *Question) bool {
		return func(q *Question) bool { return slices.Contains(of(q), what) }
	}
	entitled := func(q *Question) []string { return q.Facts.Entitled }
	remote := func(q *Question) []string { return []string{q.Facts.Remote} }
	output := func(q *Question) []string { return []string{q.Facts.Outputs} }
	cgroup := func(q *Question) []string { return []string{q.Facts.CgroupParent} }
	hosts := func(q *Question) []string { return q.Facts.ExtraHosts }
	frontend := func(q *Question) []string { return []string{q.Facts.Frontend} }
	image := func(action string) func(q *Question) []string {
		return func(q *Question) []string {
			if q.Action != action {
				return nil
			}
			return []string{q.Facts.Image}
		}
	}
	for _, tt := range []struct {
		name string
		m    *control.SolveRequest
		want func(q *Question) bool
	}{
		{"an entitlement", &control.SolveRequest{Ref: "r", Entitlements: []string{"security.insecure"}}, has("security.insecure", entitled)},
		{"the host's network", attrs("force-network-mode", "host"), has("network.host", entitled)},
		{"a device", attrs("device", "vendor.com/gpu=all"), has("device", entitled)},
		{"a cgroup", attrs("cgroup-parent", "/x"), has("/x", cgroup)},
		{"hosts", attrs("add-hosts", "a=1.2.3.4,b=2.3.4.5"), has("b:2.3.4.5", hosts)},
		{"a context from elsewhere", attrs("context", "https://example.org/x.git"), has("https://example.org/x.git", remote)},
		{"a context by its name", attrs("contextkey", "context", "context", "http://k"), has("http://k", remote)},
		{"a named context from elsewhere", attrs("context:x", "git://example.org/x"), has("git://example.org/x", remote)},
		{"two of them", attrs("context", "http://a", "context:x", "http://b"), has("http://b", remote)},
		{"a frontend's image", &control.SolveRequest{Ref: "r", Frontend: frontendGateway, FrontendAttrs: map[string]string{"source": "evil/x"}}, has("evil/x", frontend)},
		{"a frontend's image in development", &control.SolveRequest{Ref: "r", Frontend: frontendGateway, FrontendAttrs: map[string]string{"source": "evil/x", "gateway-devel": ""}}, has(frontendGateway, frontend)},
		{"a frontend in a build argument", attrs(syntaxArg, " evil/x:1 more"), has("evil/x:1", frontend)},
		{"a frontend's image with the engine's name", &control.SolveRequest{Ref: "r", Frontend: frontendGateway, FrontendAttrs: map[string]string{"source": frontendDockerfile}}, has("docker.io/library/dockerfile.v0", frontend)},
		{"the same in a build argument", attrs(syntaxArg, "dockerfile.v0"), has("docker.io/library/dockerfile.v0", frontend)},
		{"a graph", &control.SolveRequest{Ref: "r", Definition: defOf(t, source("docker-image://x", nil))}, has(frontendLLB, frontend)},
		{"a graph that fetches", &control.SolveRequest{Ref: "r", Definition: defOf(t, source("https://x/y", nil))}, has("https://x/y", remote)},
		{"a graph that fetches from elsewhere than it says", &control.SolveRequest{Ref: "r", Definition: defOf(t, source("git://x/y", map[string]string{"git.fullurl": "https://evil/y"}))}, has("https://evil/y", remote)},
		{"a graph with a repository in a registry", &control.SolveRequest{Ref: "r", Definition: defOf(t, source("git://x/y", map[string]string{"git.bundle": "docker-image+blob://evil/y"}))}, has("docker-image+blob://evil/y", remote)},
		{"a graph in the host's network", &control.SolveRequest{Ref: "r", Definition: defOf(t, exec(&pb.ExecOp{Network: pb.NetMode_HOST}))}, has("network.host", entitled)},
		{"a privileged graph", &control.SolveRequest{Ref: "r", Definition: defOf(t, exec(&pb.ExecOp{Security: pb.SecurityMode_INSECURE}))}, has("security.insecure", entitled)},
		{"a graph with devices", &control.SolveRequest{Ref: "r", Definition: defOf(t, exec(&pb.ExecOp{CdiDevices: []*pb.CDIDevice{{Name: "x"}}}))}, has("device", entitled)},
		{"a graph with a cgroup", &control.SolveRequest{Ref: "r", Definition: defOf(t, exec(&pb.ExecOp{Meta: &pb.Meta{CgroupParent: "/y"}}))}, has("/y", cgroup)},
		{"a graph as an input", &control.SolveRequest{Ref: "r", Frontend: frontendDockerfile, FrontendInputs: map[string]*pb.Definition{"context": defOf(t, source("http://in", nil))}}, has("http://in", remote)},
		{"an output", &control.SolveRequest{Ref: "r", Exporters: []*control.Exporter{{Type: "local"}}}, has("type=local", output)},
		{"an output as before", &control.SolveRequest{Ref: "r", ExporterDeprecated: "tar"}, has("type=tar", output)},
		{"a push", &control.SolveRequest{Ref: "r", Exporters: []*control.Exporter{{Type: "image", Attrs: map[string]string{"name": "a/b,c/d", "push": "true"}}}}, has("c/d", image("image.push"))},
		{"a name", &control.SolveRequest{Ref: "r", Exporters: []*control.Exporter{{Type: "moby", Attrs: map[string]string{"name": "a/b"}}}}, has("a/b", func(q *Question) []string { return q.Facts.Tags })},
		{"a cache of a registry", &control.SolveRequest{Ref: "r", Cache: &control.CacheOptions{Imports: []*control.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "c/i"}}}}}, has("c/i", image("image.pull"))},
		{"a cache into a registry", &control.SolveRequest{Ref: "r", Cache: &control.CacheOptions{Exports: []*control.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "c/e"}}}}}, has("c/e", image("image.push"))},
		{"a cache as before", &control.SolveRequest{Ref: "r", Cache: &control.CacheOptions{ExportRefDeprecated: "c/o"}}, has("c/o", image("image.push"))},
		{"a cache of a cloud", &control.SolveRequest{Ref: "r", Cache: &control.CacheOptions{Imports: []*control.CacheOptionsEntry{{Type: "s3"}}}}, has("cache:s3", remote)},
		{"a cache in an attribute", attrs("cache-imports", `[{"Type":"registry","Attrs":{"ref":"c/a"}}]`), has("c/a", image("image.pull"))},
		{"exporters of the session", &control.SolveRequest{Ref: "r", EnableSessionExporter: true}, has("exporters of the session", output)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := &judge{session: "s"}
			if _, err := solveWith(t, j, tt.m); err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(j.asked, tt.want) {
				t.Errorf("not asked: %s", cmp.Diff(nil, j.asked))
			}
			// Denied where a policy denies that one question.
			j.deny = tt.want
			if _, err := solveWith(t, j, tt.m); status.Code(err) != codes.PermissionDenied {
				t.Errorf("got %v, want a denial", err)
			}
		})
	}
}

// What cannot be judged is refused without a question.
func TestSolveRefused(t *testing.T) {
	file := func(k, v string) *control.SolveRequest {
		return &control.SolveRequest{Ref: "r", Frontend: frontendDockerfile, FrontendAttrs: map[string]string{k: v}}
	}
	image := func(m *control.SolveRequest) *control.SolveRequest {
		m.Ref, m.Frontend = "r", frontendGateway
		if m.FrontendAttrs == nil {
			m.FrontendAttrs = map[string]string{}
		}
		m.FrontendAttrs["source"] = "docker/dockerfile:1"
		return m
	}
	exporter := func(k, v string) *control.SolveRequest {
		return &control.SolveRequest{Ref: "r", Exporters: []*control.Exporter{{Type: "image", Attrs: map[string]string{k: v}}}}
	}
	convert := &spb.Policy{Rules: []*spb.Rule{{Action: spb.PolicyAction_CONVERT}}}
	for _, tt := range []struct {
		name  string
		m     *control.SolveRequest
		cause string
	}{
		{"an attribute", file("no-such", "x"), CauseMessage},
		{"an attribute of a kind", file("no-such:x", "x"), CauseMessage},
		{"a frontend with the name of an allowed image", &control.SolveRequest{Ref: "r", Frontend: "docker/dockerfile:1"}, CauseMessage},
		{"a context in another attribute", file("contextkey", "hostname"), CauseMessage},
		{"a network", file("force-network-mode", "container:x"), CauseMessage},
		{"a source", &control.SolveRequest{Ref: "r", Definition: defOf(t, source("docker-container://x", nil))}, CauseMessage},
		{"a source's attribute", &control.SolveRequest{Ref: "r", Definition: defOf(t, source("git://x/y", map[string]string{"git.new": "x"}))}, CauseMessage},
		{"a name that the result gives", exporter("name", "*"), CauseMessage},
		{"it in another attribute", exporter("dangling-name-prefix", "*"), CauseMessage},
		{"a result's name", exporter("image.name", "x"), CauseMessage},
		{"a nested build", &control.SolveRequest{Ref: "r", Definition: defOf(t, &pb.Op{Op: &pb.Op_Build{Build: &pb.BuildOp{}}})}, CauseMessage},
		{"a network by number", &control.SolveRequest{Ref: "r", Definition: defOf(t, exec(&pb.ExecOp{Network: 7}))}, CauseMessage},
		{"a vertex that is not canonical", &control.SolveRequest{Ref: "r", Definition: &pb.Definition{Def: [][]byte{{0x1a, 0, 0x1a, 0}}}}, CauseMessage},
		{"another's session", &control.SolveRequest{Ref: "r", Session: "t"}, CauseForeign},
		{"another's session in an attribute", file("local-sessionid:context", "t"), CauseForeign},
		{"another's session in a graph", &control.SolveRequest{Ref: "r", Definition: defOf(t, source("local://x", map[string]string{"local.session": "t"}))}, CauseForeign},
		{"another's build", &control.SolveRequest{Ref: "another's"}, CauseForeign},
		{"a policy that changes an allowed frontend", image(&control.SolveRequest{SourcePolicy: convert}), CauseMessage},
		{"a session that may", image(&control.SolveRequest{SourcePolicySession: "s"}), CauseMessage},
		{"a context in its place", image(&control.SolveRequest{FrontendAttrs: map[string]string{"context:docker/dockerfile:1": "docker-image://evil/x"}}), CauseMessage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := &judge{session: "s", deny: func(q *Question) bool { return limited(q) && q.Facts.Frontend != frontendLLB }}
			_, err := solveWith(t, j, tt.m)
			if status.Code(err) != codes.PermissionDenied || !slices.Equal(j.refused, []string{tt.cause}) {
				t.Errorf("got %v, %q; want %q", err, j.refused, tt.cause)
			}
		})
	}
	j := &judge{}
	p := &controlSide{judge: j}
	for name, raw := range map[string][]byte{
		"not well-formed":           {0xff},
		"an unknown field":          {0xfa, 0x3f, 0},
		"an unknown field within":   append([]byte{0x42, 4}, 0xfa, 0x3f, 1, 'x'),
		"an unknown field in a map": {0x52, 8, 0x0a, 1, 'x', 0x12, 3, 0xf8, 0x3f, 1},
	} {
		if out, err := p.solve(t.Context(), solveName, raw); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: got %x, %v", name, out, err)
		}
	}
}

// The frontend that was judged is the one that runs.
func TestFrontendFixed(t *testing.T) {
	ask := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	for _, tt := range []struct {
		name     string
		deny     func(*Question) bool
		attrs    map[string]string
		frontend string
		want     map[string]string
	}{
		{"limited", limited, nil, frontendDockerfile, ask("cmdline", frontendDockerfile)},
		{"limited, and the client's own", limited, ask("cmdline", "x", "source", "y"), frontendDockerfile, ask("cmdline", frontendDockerfile, "source", "y")},
		{"limited, and an empty argument", limited, ask(syntaxArg, " "), frontendDockerfile, ask("cmdline", frontendDockerfile)},
		{"limited, and allowed by argument", limited, ask(syntaxArg, "docker/dockerfile:1 x"), frontendGateway, ask(syntaxArg, "docker/dockerfile:1 x", "source", "docker/dockerfile:1", "cmdline", "docker/dockerfile:1 x")},
		{"free", nil, ask("target", "x"), frontendDockerfile, ask("target", "x")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := &judge{session: "s", deny: tt.deny}
			got, err := solveWith(t, j, &control.SolveRequest{Ref: "r", Frontend: frontendDockerfile, FrontendAttrs: tt.attrs})
			if err != nil {
				t.Fatal(err)
			}
			if got.Frontend != tt.frontend || !cmp.Equal(got.FrontendAttrs, tt.want) {
				t.Errorf("got %s %v, want %s %v", got.Frontend, got.FrontendAttrs, tt.frontend, tt.want)
			}
			out, err := (&controlSide{judge: j}).gatewaySolve(t.Context(), serviceGateway+"Solve",
				marshal(t, &gateway.SolveRequest{Frontend: frontendDockerfile, FrontendOpt: tt.attrs}))
			if err != nil {
				t.Fatal(err)
			}
			var part gateway.SolveRequest
			if err := decode(out, &part); err != nil || part.Frontend != tt.frontend || !cmp.Equal(part.FrontendOpt, tt.want) {
				t.Errorf("a part: got %s %v, %v", part.Frontend, part.FrontendOpt, err)
			}
		})
	}
}

// A result says by name what it is, and no more.
func TestReturned(t *testing.T) {
	p := &controlSide{judge: &judge{}}
	m := &gateway.ReturnRequest{Result: &gateway.Result{Result: &gateway.Result_Refs{Refs: &gateway.RefMap{Refs: map[string]*gateway.Ref{
		"linux": {Id: "i", Def: defOf(t, source("http://x", nil))},
	}}}, Metadata: map[string][]byte{"image.name": []byte("evil/x"), "containerimage.config": []byte("{}")}}}
	out, err := p.returned(t.Context(), serviceGateway+"Return", marshal(t, m))
	if err != nil || strings.Contains(string(out), "http://x") || strings.Contains(string(out), "image.name") ||
		!strings.Contains(string(out), "linux") || !strings.Contains(string(out), "containerimage.config") {
		t.Errorf("got %q, %v", out, err)
	}
}

// What is kept of a build that was refused is short.
func TestRefusedRef(t *testing.T) {
	j := &judge{deny: func(*Question) bool { return true }}
	p := &controlSide{judge: j}
	long := strings.Repeat("r", 1<<20)
	_, err := p.solve(t.Context(), solveName, marshal(t, &control.SolveRequest{Ref: long}))
	if status.Code(err) != codes.PermissionDenied || !slices.Equal(j.refused, []string{CauseMessage}) || len(j.asked) > 0 {
		t.Errorf("got %.80v, %q, %d questions", err, j.refused, len(j.asked))
	}
	if p.builds.add(long, err); len(p.builds.refs) != 0 {
		t.Errorf("%d names are kept", len(p.builds.refs))
	}
	if n := len(denied(long).Error()); n > 2*maxDenial {
		t.Errorf("%d bytes say why", n)
	}
}

// What one request can have the gate do is bounded: beyond that it is refused, and nothing is asked.
func TestSolveTooMuch(t *testing.T) {
	const many = 100_000
	list := func(format string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format+",", i)
		}
		return b.String()
	}
	file := func(k, v string) *control.SolveRequest {
		return &control.SolveRequest{Ref: "r", Frontend: frontendDockerfile, FrontendAttrs: map[string]string{k: v}}
	}
	pushes := func(n int) *control.Exporter {
		return &control.Exporter{Type: "image", Attrs: map[string]string{"push": "true", "name": list("p%d", n)}}
	}
	var entitled []string
	var ops []*pb.Op
	for i := range maxNames + 1 {
		entitled = append(entitled, strconv.Itoa(i))
		ops = append(ops, source("https://x/"+strconv.Itoa(i), nil))
	}
	together := file("cache-from", list("c%d", maxNames-1))
	together.Exporters = []*control.Exporter{pushes(maxNames - 1)}
	for name, m := range map[string]*control.SolveRequest{
		"names":              {Ref: "r", Exporters: []*control.Exporter{pushes(many)}},
		"entitlements":       {Ref: "r", Entitlements: entitled},
		"sources":            {Ref: "r", Definition: defOf(t, ops...)},
		"hosts":              file("add-hosts", list("h%d:1.2.3.4", many)),
		"caches":             file("cache-from", list("c%d", many)),
		"caches in JSON":     file("cache-imports", "["+strings.Repeat("{},", many)+"{}]"),
		"questions together": together,
		"exporters":          {Ref: "r", Exporters: slices.Repeat([]*control.Exporter{{}}, 1<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			j := &judge{session: "s"}
			if _, err := solveWith(t, j, m); status.Code(err) != codes.PermissionDenied || !slices.Equal(j.refused, []string{CauseMessage}) || len(j.asked) > 0 {
				t.Errorf("got %v, %q; %d questions", err, j.refused, len(j.asked))
			}
		})
	}
	var s asked
	if s.exporter("image", pushes(many).Attrs); len(s.facts.Tags) > maxNames || len(s.seen) > 2*maxNames {
		t.Errorf("%d names were read, %d are kept", len(s.seen), len(s.facts.Tags))
	}
	j := &judge{session: "s"}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &controlSide{judge: j}
	if _, err := p.solve(ctx, solveName, marshal(t, &control.SolveRequest{Ref: "r"})); status.Code(err) != codes.Canceled || len(j.asked) > 0 {
		t.Errorf("a call that has ended: %v, %d questions", err, len(j.asked))
	}
}

// What is taken from a fuzzer is, read by BuildKit's types, what was judged.
func FuzzSolve(f *testing.F) {
	f.Add(marshal(f, &control.SolveRequest{Ref: "r", Session: "s", Frontend: frontendDockerfile, FrontendAttrs: map[string]string{"context": "http://x", syntaxArg: "docker/dockerfile:1"}}))
	f.Add(marshal(f, &control.SolveRequest{Ref: "r", Session: "s", Definition: defOf(f, source("git://x", nil), exec(&pb.ExecOp{Network: 1, Security: 1}))}))
	f.Add(marshal(f, &control.SolveRequest{Session: "s", Exporters: []*control.Exporter{{Type: "image", Attrs: map[string]string{"name": "a", "push": ""}}}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		j := &judge{session: "s", deny: limited}
		out, err := (&controlSide{judge: j}).solve(t.Context(), solveName, raw)
		if err != nil {
			if status.Code(err) != codes.PermissionDenied {
				t.Fatalf("refused by %v", err)
			}
			return
		}
		var want, got control.SolveRequest
		if err := proto.Unmarshal(raw, &want); err != nil {
			t.Fatalf("taken, and the oracle does not read it: %v", err)
		}
		if err := proto.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		switch got.Frontend {
		case frontendDockerfile:
			if _, ok := got.FrontendAttrs["cmdline"]; !ok {
				t.Fatalf("the frontend is not fixed: %v", &got)
			}
		case frontendGateway:
			if got.FrontendAttrs["source"] != "docker/dockerfile:1" {
				t.Fatalf("a frontend that is not allowed: %v", &got)
			}
		case "":
		default:
			t.Fatalf("frontend %q", got.Frontend)
		}
		var entitled []string
		for _, q := range j.asked {
			entitled = append(entitled, q.Facts.Entitled...)
		}
		for _, e := range got.Entitlements {
			if e != "" && !slices.Contains(entitled, e) {
				t.Fatalf("entitlement %q was not asked about", e)
			}
		}
		// But for the frontend nothing has changed.
		want.Frontend, got.Frontend = "", ""
		want.FrontendAttrs, got.FrontendAttrs = nil, nil
		if !proto.Equal(&want, &got) {
			t.Fatalf("got %v, want %v", &got, &want)
		}
	})
}
