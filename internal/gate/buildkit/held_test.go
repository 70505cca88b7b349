package buildkit

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestHeld(t *testing.T) {
	var h held
	first, ok := h.take(maxHeld + 1)
	if !ok {
		t.Error("one alone does not pass")
	}
	if _, ok := h.take(1); ok {
		t.Error("more than the bound")
	}
	first()
	first()
	var all []func()
	for range 2 {
		leave, ok := h.take(maxHeld / 2)
		if !ok {
			t.Fatal("the bound is not reached")
		}
		all = append(all, leave)
	}
	if _, ok := h.take(1); ok {
		t.Error("more than the bound, in parts")
	}
	for _, leave := range all {
		leave()
	}
	if h.n != 0 {
		t.Errorf("%d bytes are left", h.n)
	}
}

// Messages of many calls whose answers nobody reads do not add up; once they are read, calls go on.
func TestMessagesThatWait(t *testing.T) {
	j := &judge{deny: func(*Question) bool { return false }}
	srv := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(echo), grpc.MaxRecvMsgSize(MaxMessage))
	cc := bridged(t, srv, j, func(ctx context.Context, in, out net.Conn, j Judge) error { return ServeSession(ctx, out, in, j) })
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
