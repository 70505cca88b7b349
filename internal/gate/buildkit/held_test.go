package buildkit

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Messages of many calls whose answers nobody reads do not add up; once they are read, calls go on.
func TestMessagesThatWait(t *testing.T) {
	j := &judge{deny: func(*Question) bool { return false }}
	srv := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(echo), grpc.MaxRecvMsgSize(MaxMessage))
	cc := bridgedIn(t, srv, j, Rooms{&room{most: 2 * MaxMessage}, &room{most: 1 << 30}}, fromDaemon)
	open := func() grpc.ClientStream {
		t.Helper()
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), sshIDKey, "good"), 30*time.Second)
		t.Cleanup(cancel)
		s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
			"/moby.sshforward.v1.SSH/ForwardAgent", grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(MaxMessage))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	big := frame(strings.Repeat("x", MaxMessage-1024))
	const calls = 6
	var streams []grpc.ClientStream
	for range calls {
		s := open()
		if err := s.SendMsg(&big); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	time.Sleep(500 * time.Millisecond) // nobody reads
	passed, refused := 0, 0
	for _, s := range streams {
		var got frame
		switch err := s.RecvMsg(&got); {
		case err == nil && len(got) == len(big):
			passed++
		case status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "read the answers"):
			refused++
		default:
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	}
	if passed == 0 || refused == 0 {
		t.Errorf("%d of %d passed, %d were refused", passed, calls, refused)
	}
	j.mu.Lock()
	if !slices.Contains(j.refused, CauseTooMuch) {
		t.Errorf("noted: %q", j.refused)
	}
	j.mu.Unlock()
	for range calls {
		s := open()
		var got frame
		if err := errors.Join(s.SendMsg(&big), s.RecvMsg(&got), s.CloseSend()); err != nil || len(got) != len(big) {
			t.Fatalf("one after the other: %d bytes, %v", len(got), err)
		}
	}
}

const forwardAgent = "/moby.sshforward.v1.SSH/ForwardAgent"

func openStream(t *testing.T, cc *grpc.ClientConn) (s grpc.ClientStream, end func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), sshIDKey, "good"), 30*time.Second)
	t.Cleanup(cancel)
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		forwardAgent, grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(MaxMessage))
	if err != nil {
		t.Fatal(err)
	}
	return s, cancel
}

func echoServer() *grpc.Server {
	return grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(echo), grpc.MaxRecvMsgSize(MaxMessage))
}

// What one connection of a caller's holds, another of the same caller's has not, and another
// caller has; it is given back when the calls end.
func TestConnectionsShareARoom(t *testing.T) {
	j := &judge{deny: func(*Question) bool { return false }}
	alices, bobs := &room{most: 2 * MaxMessage}, &room{most: 2 * MaxMessage}
	large := &room{most: 1 << 30}
	first, second := bridgedIn(t, echoServer(), j, Rooms{alices, large}, fromDaemon), bridgedIn(t, echoServer(), j, Rooms{alices, large}, fromDaemon)
	other := bridgedIn(t, echoServer(), j, Rooms{bobs, large}, fromDaemon)
	big := frame(strings.Repeat("x", 7<<20))
	var ends []func()
	for range 4 {
		s, end := openStream(t, first)
		if err := s.SendMsg(&big); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	waitFor(t, "the first has answers that nobody reads", func() bool { return alices.held() > 4*len(big) })
	time.Sleep(300 * time.Millisecond) // they are the answers, and not what was asked
	ask := func(cc *grpc.ClientConn) error {
		s, end := openStream(t, cc)
		defer end()
		var got frame
		if err := s.SendMsg(&big); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		return s.RecvMsg(&got)
	}
	if err := ask(other); err != nil {
		t.Errorf("another caller: %v", err)
	}
	if err := ask(second); err == nil {
		t.Error("another connection of the same caller's has room of its own")
	}
	for _, end := range ends {
		end()
	}
	waitFor(t, "all is given back", func() bool { return alices.held() == 0 && large.held() == 0 })
	if err := ask(second); err != nil {
		t.Errorf("after the others have ended: %v", err)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

const export = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// A message that is compressed would be counted for less than it becomes: its connection is ended.
func TestCompressed(t *testing.T) {
	for name, method := range map[string]string{"passed on": serviceControl + "Info", "dropped": export} {
		j := &judge{}
		cc := bridged(t, echoServer(), j, ServeControl)
		f := frame(make([]byte, 1<<20))
		if err := cc.Invoke(t.Context(), method, &f, new(frame), grpc.ForceCodecV2(rawCodec{}), grpc.UseCompressor(gzip.Name)); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: got %v", name, err)
		}
		j.mu.Lock()
		if !slices.Equal(j.refused, []string{CauseMessage}) {
			t.Errorf("%s: noted %q", name, j.refused)
		}
		j.mu.Unlock()
	}
}

// A call holds what it brought until it has ended.
func TestHeld(t *testing.T) {
	said := func(n int) []string { return []string{"traceparent", strings.Repeat("x", n)} }
	srv := func() *grpc.Server {
		return grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			return errors.Join(s.SendHeader(metadata.Pairs(said(100<<10)...)), s.SendMsg(&frame{}))
		}))
	}
	for _, tt := range []struct {
		name, method string
		serve        func(context.Context, net.Conn, net.Conn, Judge, Rooms) error
		room         int
		message      int
		metadata     []string
		code         codes.Code
	}{
		{"a dropped message", export, ServeControl, callBytes + 100, 1000, nil, codes.ResourceExhausted},
		{"it has room", export, ServeControl, callBytes + 2000, 1000, nil, codes.OK},
		{"metadata", export, ServeControl, callBytes + 5000, 10, said(6000), codes.ResourceExhausted},
		{"they have room", export, ServeControl, callBytes + 9000, 10, said(6000), codes.OK},
		{"more than anybody needs", export, ServeControl, 1 << 20, 10, said(callerHeader), codes.Internal},
		{"an answer's", forwardAgent, fromDaemon, callBytes + 50<<10, 10, nil, codes.ResourceExhausted},
		{"an answer's has room", forwardAgent, fromDaemon, callBytes + 150<<10, 10, nil, codes.OK},
	} {
		r := &room{most: tt.room}
		cc := bridgedIn(t, srv(), &judge{}, Rooms{r, &room{most: 1 << 30}}, tt.serve)
		f := frame(make([]byte, tt.message))
		if err := cc.Invoke(metadata.AppendToOutgoingContext(t.Context(), tt.metadata...), tt.method, &f, new(frame), grpc.ForceCodecV2(rawCodec{})); status.Code(err) != tt.code {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.code)
		}
		waitFor(t, tt.name+": all is given back", func() bool { return r.held() == 0 })
	}
}
