package buildkit

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// pair returns the two ends of a connection whose sides end one by one, unlike net.Pipe's.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// bridged returns a client of a server, with a mediator between them.
func bridged(t *testing.T, srv *grpc.Server, j Judge, serve func(context.Context, net.Conn, net.Conn, Judge, Rooms) error) *grpc.ClientConn {
	t.Helper()
	return bridgedIn(t, srv, j, Rooms{&room{most: 2 * MaxMessage}, &room{most: 2 * MaxMessage}}, serve)
}

// bridgedIn is bridged with rooms of the caller's.
func bridgedIn(t *testing.T, srv *grpc.Server, j Judge, r Rooms, serve func(context.Context, net.Conn, net.Conn, Judge, Rooms) error) *grpc.ClientConn {
	t.Helper()
	callerEnd, in := pair(t)
	out, serverEnd := pair(t)
	ctx, cancel := context.WithCancel(context.Background())
	served, mediated := make(chan struct{}), make(chan error, 1)
	go func() { defer close(served); _ = srv.Serve(newOnce(ctx, serverEnd)) }()
	go func() { mediated <- serve(ctx, in, out, j, r) }()
	given := false
	cc, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if given {
				return nil, errors.New("once")
			}
			given = true
			return callerEnd, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cc.Close()
		if err := <-mediated; err != nil { // it ends with the caller's connection
			t.Errorf("the mediator ended: %v", err)
		}
		cancel()
		srv.Stop()
		<-served
	})
	return cc
}

// fromDaemon serves a session whose daemon is the one who calls.
func fromDaemon(ctx context.Context, in, out net.Conn, j Judge, r Rooms) error {
	return ServeSession(ctx, out, in, j, r)
}

// room is a [Room] of a size.
type room struct {
	most int
	// mu guards n.
	mu sync.Mutex
	n  int
}

func (r *room) Take(n int) (leave func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n+n > r.most {
		return nil, false
	}
	r.n += n
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.n -= n
	}), true
}

func (r *room) held() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// daemon is a server of the Control service.
type daemon struct {
	control.UnimplementedControlServer
	solved chan *control.SolveRequest
	ended  chan error // of Status
}

func (d *daemon) Solve(ctx context.Context, m *control.SolveRequest) (*control.SolveResponse, error) {
	d.solved <- m
	md, _ := metadata.FromIncomingContext(ctx)
	_ = grpc.SetTrailer(ctx, metadata.Pairs("said", strings.Join(md.Get("traceparent"), ","), "space", strings.Join(md.Get("containerd-namespace"), ",")))
	if m.Frontend == "" {
		return nil, status.Error(codes.FailedPrecondition, "no frontend")
	}
	return &control.SolveResponse{ExporterResponse: map[string]string{"a": "b"}}, nil
}

func (d *daemon) Status(m *control.StatusRequest, s control.Control_StatusServer) error {
	if err := s.Send(&control.StatusResponse{Logs: []*control.VertexLog{{Msg: []byte(m.Ref)}}}); err != nil {
		return err
	}
	<-s.Context().Done()
	d.ended <- s.Context().Err()
	return s.Context().Err()
}

func newDaemon(t *testing.T, j Judge) (*daemon, control.ControlClient, *grpc.ClientConn) {
	t.Helper()
	d := &daemon{solved: make(chan *control.SolveRequest, 4), ended: make(chan error, 4)}
	srv := grpc.NewServer()
	control.RegisterControlServer(srv, d)
	cc := bridged(t, srv, j, ServeControl)
	return d, control.NewControlClient(cc), cc
}

// Answers, errors with their codes, metadata, trailers and cancelling pass.
func TestControlPasses(t *testing.T) {
	j := &judge{deny: limited}
	d, c, _ := newDaemon(t, j)
	var trailer metadata.MD
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "x", "containerd-namespace", "moby")
	r, err := c.Solve(ctx, &control.SolveRequest{Ref: "r", Frontend: frontendDockerfile}, grpc.Trailer(&trailer))
	if err != nil || r.ExporterResponse["a"] != "b" || len(trailer.Get("said")) != 1 || trailer.Get("said")[0] != "x" {
		t.Errorf("got %v, %v, %v", r, trailer, err)
	}
	if space := trailer.Get("space"); len(space) != 1 || space[0] != "" {
		t.Errorf("the daemon was told the namespace %q", space)
	}
	if m := <-d.solved; m.FrontendAttrs["cmdline"] == "" {
		t.Errorf("the daemon got %v", m)
	}
	if _, err := c.Solve(t.Context(), &control.SolveRequest{Ref: "q"}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "no frontend") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Status(ctx, &control.StatusRequest{Ref: "r"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || string(m.Logs[0].Msg) != "r" {
		t.Errorf("got %v, %v", m, err)
	}
	cancel()
	if err := <-d.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the daemon's call ended with %v", err)
	}
	for _, q := range j.asked {
		if q.Action == "build.grpc.status" && !q.Own {
			t.Error("the caller's own build is not its own")
		}
	}
}

// What is not known, too large, or within another's build does not reach the daemon.
func TestControlRefuses(t *testing.T) {
	j := &judge{}
	d, c, cc := newDaemon(t, j)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	call := func(method string, msg []byte) error {
		f := frame(msg)
		return cc.Invoke(ctx, method, &f, new(frame), grpc.ForceCodecV2(rawCodec{}))
	}
	for _, tt := range []struct {
		method string
		msg    []byte
		code   codes.Code
		cause  string
	}{
		{serviceControl + "Session", nil, codes.PermissionDenied, CauseUnknownMethod},
		{serviceControl + "NoSuch", nil, codes.PermissionDenied, CauseUnknownMethod},
		{serviceGateway + "NewContainer", nil, codes.PermissionDenied, CauseUnknownMethod},
		{"/x.Y/Z", nil, codes.PermissionDenied, CauseUnknownMethod},
		{serviceControl + "DiskUsage", []byte{0xfa, 0x3f, 0}, codes.PermissionDenied, CauseMessage},
		{"/grpc.health.v1.Health/Check", []byte("x"), codes.PermissionDenied, CauseMessage},
		{serviceGateway + "Ping", nil, codes.PermissionDenied, CauseForeign},
		{serviceControl + "Solve", make([]byte, MaxMessage+1), codes.ResourceExhausted, ""},
	} {
		j.refused = nil
		err := call(tt.method, tt.msg)
		j.mu.Lock()
		if status.Code(err) != tt.code || tt.cause != "" && (len(j.refused) != 1 || j.refused[0] != tt.cause) {
			t.Errorf("%s: got %v, %q", tt.method, err, j.refused)
		}
		j.mu.Unlock()
	}
	if err := call("/opentelemetry.proto.collector.trace.v1.TraceService/Export", []byte("anything")); err != nil {
		t.Errorf("spans: %v", err)
	}
	j.deny = func(*Question) bool { return true }
	if _, err := c.Info(ctx, &control.InfoRequest{}); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "build.grpc.info is denied") {
		t.Errorf("got %v", err)
	}
	// Who asks about a build that was refused is told why.
	_, err := c.Solve(ctx, &control.SolveRequest{Ref: "no"})
	s, serr := c.Status(ctx, &control.StatusRequest{Ref: "no"})
	if serr == nil {
		_, serr = s.Recv()
	}
	if status.Code(err) != codes.PermissionDenied || serr == nil || err.Error() != serr.Error() {
		t.Errorf("got %v and %v", err, serr)
	}
	if len(d.solved) > 0 {
		t.Errorf("the daemon got %v", <-d.solved)
	}
}

// echo is a client's SSH agent, as a session offers it: a stream whose ends are apart.
func echo(_ any, s grpc.ServerStream) error {
	for {
		var f frame
		err := s.RecvMsg(&f)
		if errors.Is(err, io.EOF) {
			f = frame("end")
			return s.SendMsg(&f)
		}
		if err != nil {
			return err
		}
		if err := s.SendMsg(&f); err != nil {
			return err
		}
	}
}

// In a session the daemon calls. Names decide, half-closed streams work, and large streams
// go through.
func TestSession(t *testing.T) {
	j := &judge{deny: func(q *Question) bool {
		return slices.Contains(q.Facts.SSH, "bad") || slices.Contains(q.Facts.Secrets, "bad")
	}}
	srv := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(echo))
	cc := bridged(t, srv, j, fromDaemon)
	stream := func(method string, kv ...string) grpc.ClientStream {
		t.Helper()
		s, err := cc.NewStream(metadata.AppendToOutgoingContext(t.Context(), kv...), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
			method, grpc.ForceCodecV2(rawCodec{}))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const forward = "/moby.sshforward.v1.SSH/ForwardAgent"
	s := stream(forward, sshIDKey, "good")
	big := frame(strings.Repeat("x", 1<<20))
	for range 20 {
		var got frame
		if err := errors.Join(s.SendMsg(&big), s.RecvMsg(&got)); err != nil || len(got) != len(big) {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
	}
	var last frame
	if err := errors.Join(s.CloseSend(), s.RecvMsg(&last)); err != nil || string(last) != "end" {
		t.Errorf("after the half-close: %q, %v", last, err)
	}
	if err := s.RecvMsg(&last); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	get := func(method string, msg []byte, kv ...string) error {
		s := stream(method, kv...)
		f, got := frame(msg), frame{}
		return errors.Join(s.SendMsg(&f), s.RecvMsg(&got))
	}
	id := func(s string) []byte { return append([]byte{0x0a, byte(len(s))}, s...) }
	const secret = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
	for _, tt := range []struct {
		name   string
		err    error
		denied bool
	}{
		{"a secret", get(secret, id("good")), false},
		{"another secret", get(secret, id("bad")), true},
		{"a secret named twice", get(secret, append(id("good"), id("bad")...)), true},
		{"another agent", get(forward, []byte("x"), sshIDKey, "bad"), true},
		{"an agent with two names", get(forward, []byte("x"), sshIDKey, "good", sshIDKey, "bad"), true},
		{"a method", get("/x.Y/Z", nil), true},
	} {
		if (code(tt.err) == codes.PermissionDenied) != tt.denied {
			t.Errorf("%s: got %v, want denied %v", tt.name, tt.err, tt.denied)
		}
	}
}

// code finds the status in what errors.Join made.
func code(err error) codes.Code {
	var st interface{ GRPCStatus() *status.Status }
	if errors.As(err, &st) {
		return st.GRPCStatus().Code()
	}
	return status.Code(err)
}

// A fault of the judge's ends one call and not the agent.
func TestPanicEndsOneCall(t *testing.T) {
	broken := true
	j := &judge{deny: func(*Question) bool {
		if broken {
			panic("a fault")
		}
		return false
	}}
	_, c, _ := newDaemon(t, j)
	if _, err := c.Info(t.Context(), &control.InfoRequest{}); status.Code(err) != codes.Internal {
		t.Fatalf("got %v, want an internal failure", err)
	}
	j.mu.Lock()
	refused := slices.Clone(j.refused)
	j.mu.Unlock()
	if !slices.Contains(refused, CauseInternal) {
		t.Errorf("noted %v", refused)
	}
	broken = false
	if _, err := c.Info(t.Context(), &control.InfoRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("the next call: %v, want the daemon's own answer", err)
	}
}

// Of what the daemon says beside a message only what sessions know reaches the client.
func TestSessionMetadata(t *testing.T) {
	said := make(chan metadata.MD, 1)
	srv := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		said <- md
		return s.SendMsg(&frame{})
	}))
	cc := bridged(t, srv, &judge{}, fromDaemon)
	kept := []string{"include-patterns", "exclude-patterns-encoded", dirNameKey, "exporter-md-x", "buildkit-attachable-store-id", "urlpath"}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "new", "v")
	for _, name := range kept {
		ctx = metadata.AppendToOutgoingContext(ctx, name, "v")
	}
	f := frame("x")
	if err := cc.Invoke(ctx, "/moby.filesync.v1.FileSend/DiffCopy", &f, new(frame), grpc.ForceCodecV2(rawCodec{})); err != nil {
		t.Fatal(err)
	}
	md := <-said
	for _, name := range kept {
		if len(md.Get(name)) != 1 {
			t.Errorf("%s: got %q", name, md.Get(name))
		}
	}
	if len(md.Get("new")) > 0 {
		t.Errorf("got %q", md)
	}
}
