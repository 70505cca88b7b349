package buildkit

import (
	"slices"
	"strings"
	"testing"

	control "github.com/moby/buildkit/api/services/control"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session/exporter"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// noRemote denies what the daemon would fetch.
func noRemote(q *Question) bool { return q.Facts.Remote != "" }

// A source policy can have the daemon fetch another thing than the one that the build names.
func TestSourcePolicyRemote(t *testing.T) {
	const image = "docker-image://x"
	attr := func(k, v string) map[string]string { return map[string]string{k: v} }
	for _, c := range []struct {
		from, to string
		attrs    map[string]string
		ok       bool
		match    spb.MatchType
	}{
		{image, "docker-image://docker.io/library/alpine:3", nil, true, spb.MatchType_WILDCARD},
		{image, "", attr("image.checksum", "sha256:x"), true, spb.MatchType_WILDCARD},
		{image, "https://169.254.169.254/latest/meta-data", nil, false, spb.MatchType_WILDCARD},
		{image, "git://internal/x.git", nil, false, spb.MatchType_WILDCARD},
		{image, "${1}", nil, false, spb.MatchType_WILDCARD}, // what it stands for is not known before
		{image, "", attr("git.fullurl", "https://169.254.169.254/"), false, spb.MatchType_WILDCARD},
		{image, "", attr("git.bundle", "docker-image+blob://internal/x"), false, spb.MatchType_WILDCARD},
		{image, "", attr("git.new", "x"), false, spb.MatchType_WILDCARD},
		{"https://169.254.169.254/x|.*", "", nil, false, spb.MatchType_REGEX},                          // what it matches becomes what it says
		{"https://example.com/x", "", attr("http.checksum", "sha256:x"), true, spb.MatchType_WILDCARD}, // a pin
		{"https://example.com/*", "", attr("http.checksum", "sha256:x"), false, spb.MatchType_WILDCARD},
		{"https://example.com/$1", "", attr("http.checksum", "sha256:x"), false, spb.MatchType_WILDCARD},
		{"https://example.com/*", "", attr("http.checksum", "sha256:x"), true, spb.MatchType_EXACT},
		{"https://example.com/x", "", attr("http.checksum", "sha256:x"), false, spb.MatchType_REGEX},
	} {
		j := &judge{session: "s", deny: noRemote}
		m := &control.SolveRequest{Ref: "r", Frontend: frontendDockerfile, SourcePolicy: &spb.Policy{Rules: []*spb.Rule{
			{Action: spb.PolicyAction_CONVERT, Selector: &spb.Selector{Identifier: c.from, MatchType: c.match}, Updates: &spb.Update{Identifier: c.to, Attrs: c.attrs}},
		}}}
		if _, err := solveWith(t, j, m); (err == nil) != c.ok {
			t.Errorf("%q to %q, %v: %v", c.from, c.to, c.attrs, err)
		}
	}
}

// So can one that comes with a question about a source.
func TestResolvePolicyRemote(t *testing.T) {
	j := &judge{session: "s", deny: noRemote}
	p := &controlSide{judge: j}
	for to, ok := range map[string]bool{"https://169.254.169.254/": false, "docker-image://y": true} {
		policies := []*spb.Policy{{Rules: []*spb.Rule{{Action: spb.PolicyAction_CONVERT, Updates: &spb.Update{Identifier: to}}}}}
		_, err := p.resolveSource(t.Context(), "m", marshal(t, &gateway.ResolveSourceMetaRequest{
			Source: &pb.SourceOp{Identifier: "docker-image://x"}, SourcePolicies: policies}))
		if (err == nil) != ok {
			t.Errorf("a source, to %s: %v", to, err)
		}
		if _, err = p.resolveImage(t.Context(), "m", marshal(t, &gateway.ResolveImageConfigRequest{Ref: "x", SourcePolicies: policies})); (err == nil) != ok {
			t.Errorf("an image, to %s: %v", to, err)
		}
	}
}

// So can a session that is asked about each source.
func TestSessionPolicyRemote(t *testing.T) {
	const method = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy"
	field := func(num protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), value)
	}
	update := func(id string, attrs ...string) []byte {
		src := &pb.SourceOp{Identifier: id, Attrs: map[string]string{}}
		for i := 0; i < len(attrs); i += 2 {
			src.Attrs[attrs[i]] = attrs[i+1]
		}
		action := protowire.AppendVarint(protowire.AppendTag(nil, decisionAction, protowire.VarintType), uint64(spb.PolicyAction_CONVERT))
		return field(checkDecision, append(action, field(decisionInstead, marshal(t, src))...))
	}
	ask := func(id, session string) []byte {
		src := &pb.SourceOp{Identifier: id, Attrs: map[string]string{"local.session": session}}
		return field(checkRequest, marshal(t, &gateway.ResolveSourceMetaRequest{Source: src}))
	}
	for name, c := range map[string]struct {
		m  []byte
		ok bool
	}{
		"nothing":                {nil, true},
		"allowed as it is":       {field(checkDecision, nil), true},
		"denied with reasons":    {field(checkDecision, append(field(decisionMessages, []byte{}), field(decisionMessages, []byte{})...)), true},
		"another image":          {update("docker-image://docker.io/library/alpine:3"), true},
		"a server":               {update("https://169.254.169.254/"), false},
		"another repository":     {update("docker-image://x", "git.fullurl", "https://169.254.169.254/"), false},
		"an unknown attribute":   {update("docker-image://x", "image.new", "x"), false},
		"a kind that is unknown": {update("docker-container://x"), false},
		"a question about one":   {ask("https://169.254.169.254/", "s"), false},
		"another's session":      {ask("docker-image://x", "t"), false},
		"its own":                {ask("docker-image://x", "s"), true},
		"merged":                 {append(update("docker-image://x"), update("docker-image://y")...), false},
		"both":                   {append(update("docker-image://x"), ask("https://h/", "s")...), false},
		"a field that is new":    {field(9, []byte("x")), false},
		"new in the decision":    {field(checkDecision, field(9, []byte("x"))), false},
		"not well-formed":        {[]byte{0xff}, false},
		"a number for a message": {protowire.AppendVarint(protowire.AppendTag(nil, checkRequest, protowire.VarintType), 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			j := &judge{session: "s", deny: noRemote}
			call, err := (&sessionSide{judge: j}).begin(t.Context(), method, nil)
			if err != nil {
				t.Fatal(err)
			}
			out, err := call.answer(c.m)
			if c.ok && (err != nil || !slices.Equal(out, c.m)) || !c.ok && status.Code(err) != codes.PermissionDenied {
				t.Errorf("got %x, %v", out, err)
			}
		})
	}
}

// What else a session has exported is asked about as what Solve has.
func TestSessionExporters(t *testing.T) {
	const method = "/moby.exporter.v1.Exporter/FindExporters"
	answer := func(kind string, attrs map[string]string) []byte {
		return marshal(t, &exporter.FindExportersResponse{Exporters: []*exporter.ExporterRequest{{Type: kind, Attrs: attrs}}})
	}
	deny := func(q *Question) bool {
		return q.Action == "image.push" || slices.Contains(q.Facts.Tags, "evil/x") || strings.Contains(q.Facts.Outputs, "local")
	}
	for name, c := range map[string]struct {
		m  []byte
		ok bool
	}{
		"none":            {nil, true},
		"an image":        {answer("image", map[string]string{"name": "good/x"}), true},
		"another's name":  {answer("image", map[string]string{"name": "evil/x"}), false},
		"a push":          {answer("image", map[string]string{"name": "good/x", "push": "true"}), false},
		"a result's name": {answer("image", map[string]string{"name": "*"}), false},
		"files":           {answer("local", nil), false},
		"not well-formed": {[]byte{0xff}, false},
	} {
		call, err := (&sessionSide{judge: &judge{deny: deny}}).begin(t.Context(), method, nil)
		if err != nil {
			t.Fatal(err)
		}
		if call.answer == nil {
			t.Fatal("it is not read")
		}
		if _, err := call.answer(c.m); c.ok && err != nil || !c.ok && status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
