package buildkit

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/moby/buildkit/session/exporter"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/belay-project/belay/internal/apicall"
)

// actionSession is asked for each thing of the client's that the daemon asks for by name.
const actionSession = "build.session"

// The metadata that say what a stream is about (github.com/moby/buildkit, session/filesync
// and session/sshforward).
const (
	dirNameKey = "dir-name"
	sshIDKey   = "buildkit.ssh.id"
)

// sessionMethod is how a call of the client's, by the daemon, is treated.
type sessionMethod struct {
	// facts says what the first message asks for; nil: nothing that has a name.
	facts func(first []byte, md metadata.MD) (apicall.Facts, error)
	// files: the client answers with files.
	files bool
	// answer judges what the client has the daemon do by its answer; nil: nothing.
	answer func(p *sessionSide, ctx context.Context, method string, raw []byte) ([]byte, error)
}

const (
	serviceAuth    = "/moby.filesync.v1.Auth/"
	serviceContent = "/containerd.services.content.v1.Content/"
)

// sessionMethods are all that pass. The client gives what is its own, and looks after that
// itself; policies say which of it builds may have.
var sessionMethods = map[string]sessionMethod{
	"/moby.filesync.v1.FileSync/DiffCopy":                                     {files: true},
	"/moby.filesync.v1.FileSend/DiffCopy":                                     {}, // outputs, asked about with Solve
	"/moby.upload.v1.Upload/Pull":                                             {},
	"/moby.buildkit.secrets.v1.Secrets/GetSecret":                             {facts: secretFacts},
	"/moby.sshforward.v1.SSH/CheckAgent":                                      {facts: sshFacts},
	"/moby.sshforward.v1.SSH/ForwardAgent":                                    {facts: forwardFacts},
	"/moby.exporter.v1.Exporter/FindExporters":                                {answer: (*sessionSide).exporters},
	"/moby.exporter.v1.Exporter/FinalizeExport":                               {},
	"/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy": {answer: (*sessionSide).sources},
	"/grpc.health.v1.Health/Check":                                            {},
	"/grpc.health.v1.Health/Watch":                                            {},

	serviceAuth + "Credentials":          {facts: authFacts(1)},
	serviceAuth + "FetchToken":           {facts: authFacts(2)},
	serviceAuth + "GetTokenAuthority":    {facts: authFacts(1)},
	serviceAuth + "VerifyTokenAuthority": {facts: authFacts(1)},

	serviceContent + "Info":         {},
	serviceContent + "Update":       {},
	serviceContent + "List":         {},
	serviceContent + "Read":         {},
	serviceContent + "Status":       {},
	serviceContent + "ListStatuses": {},
	serviceContent + "Write":        {},
	serviceContent + "Abort":        {},
	serviceContent + "Delete":       {},
}

func secretFacts(first []byte, _ metadata.MD) (apicall.Facts, error) {
	id, err := textField(first, 1)
	return apicall.Facts{Secrets: []string{id}}, err
}

func sshFacts(first []byte, _ metadata.MD) (apicall.Facts, error) {
	id, err := textField(first, 1)
	return apicall.Facts{SSH: []string{orDefault(id)}}, err
}

func forwardFacts(_ []byte, md metadata.MD) (apicall.Facts, error) {
	ids := md.Get(sshIDKey)
	if len(ids) == 0 {
		ids = []string{""}
	}
	f := apicall.Facts{}
	for _, id := range ids {
		f.SSH = append(f.SSH, orDefault(id))
	}
	return f, nil
}

// orDefault is the name of an agent that is not named (session/sshforward, DefaultID).
func orDefault(id string) string {
	if id == "" {
		return "default"
	}
	return id
}

func authFacts(field protowire.Number) func([]byte, metadata.MD) (apicall.Facts, error) {
	return func(first []byte, _ metadata.MD) (apicall.Facts, error) {
		host, err := textField(first, field)
		return apicall.Facts{Registry: host}, err
	}
}

// textField returns a field of the daemon's own message. A message that says it twice is an
// error: the client might take the other.
func textField(b []byte, field protowire.Number) (string, error) {
	var out string
	seen := false
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return "", errors.New("not well-formed")
		}
		b = b[n:]
		if num == field {
			v, m := protowire.ConsumeString(b)
			if typ != protowire.BytesType || m < 0 || seen {
				return "", errors.New("not well-formed")
			}
			out, seen, b = v, true, b[m:]
			continue
		}
		m := protowire.ConsumeFieldValue(num, typ, b)
		if m < 0 {
			return "", errors.New("not well-formed")
		}
		b = b[m:]
	}
	return out, nil
}

// sessionSide is a connection on which the daemon calls the client.
type sessionSide struct{ judge Judge }

// ServeSession mediates a connection on which the daemon calls the client, until either side
// ends it or ctx does. It owns both connections and closes them. rooms are the caller's.
func ServeSession(ctx context.Context, client, daemon net.Conn, j Judge, rooms Rooms) error {
	return run(ctx, daemon, client, &sessionSide{judge: j}, rooms)
}

func (p *sessionSide) callerCalls() bool { return false }

// passes lets through what sessions know (github.com/moby/buildkit, session/filesync, session/content,
// session/upload, session/sshforward, v0.8 to v0.33).
func (p *sessionSide) passes(name string) bool {
	switch strings.TrimSuffix(name, "-encoded") {
	case dirNameKey, "include-patterns", "exclude-patterns", "followpaths", "override-excludes",
		"buildkit-attachable-exporter-id", "buildkit-exporter-multi-platform", "buildkit-attachable-store-id", "containerd-namespace",
		"urlpath", "urlhost", sshIDKey, "traceparent", "tracestate", "baggage":
		return true
	}
	return strings.HasPrefix(name, "exporter-md-")
}

func (p *sessionSide) note(method, cause, msg string) { p.judge.Refused(method, cause, msg) }

func (p *sessionSide) failed(method string, v any) { failed(p.judge, method, v) }

func (p *sessionSide) begin(ctx context.Context, method string, md metadata.MD) (call, error) {
	m, ok := sessionMethods[method]
	if !ok {
		p.judge.Refused(method, CauseUnknownMethod, "not one of the methods that the gate knows")
		return call{}, denied(cutText(method) + " is not open through the gate")
	}
	var c call
	if m.facts != nil {
		first := true
		c.request = func(raw []byte) ([]byte, error) {
			if !first {
				return raw, nil // of an agent: bytes
			}
			first = false
			facts, err := m.facts(raw, md)
			if err != nil {
				return nil, refuse(p.judge, method, err)
			}
			if v := p.judge.Ask(&Question{Method: method, Action: actionSession, Facts: facts}); !v.Allowed {
				return nil, denied(v.Message)
			}
			return raw, nil
		}
	}
	if m.answer != nil {
		c.answer = func(raw []byte) ([]byte, error) { return m.answer(p, ctx, method, raw) }
	}
	if m.files && p.fixes(md) {
		files := &plainFiles{}
		c.answer = func(raw []byte) ([]byte, error) {
			out, err := files.packet(raw)
			if err != nil {
				return nil, refuse(p.judge, method, err)
			}
			return out, nil
		}
	}
	return c, nil
}

// exporters judges what else is to become of a build as if Solve had said so.
func (p *sessionSide) exporters(ctx context.Context, method string, raw []byte) ([]byte, error) {
	var m exporter.FindExportersResponse
	if err := decode(raw, &m); err != nil {
		return nil, refuse(p.judge, method, err)
	}
	if len(m.Exporters) == 0 {
		return raw, nil
	}
	s := asked{facts: apicall.Facts{BuildKit: true}}
	for _, e := range m.Exporters {
		s.exporter(e.GetType(), e.GetAttrs())
	}
	questions, err := s.questions(method, actionSolve)
	if err != nil {
		return nil, refuse(p.judge, method, err)
	}
	if err := askAll(ctx, p.judge, questions); err != nil {
		return nil, err
	}
	return proto.Marshal(&m)
}

// fixes tells whether a transfer can bring a Dockerfile whose syntax line would have a
// frontend run that policies do not allow. What is asked for over gRPC has its frontend
// fixed where it is asked for; POST /build cannot.
func (p *sessionSide) fixes(md metadata.MD) bool {
	names := md.Get(dirNameKey)
	if len(names) == 1 && names[0] != dockerfileDir {
		return false
	}
	return !p.judge.Ask(AnyFrontend()).Allowed
}

// AnyFrontend asks whether a build with POST /build may have a frontend that nobody can know
// before: what a Dockerfile names.
func AnyFrontend() *Question {
	return &Question{Action: "image.build", Facts: apicall.Facts{Frontend: anyFrontend, BuildKit: true}, Hypothetical: true}
}
