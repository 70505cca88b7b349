package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// frame is a message that is not read by gRPC.
type frame []byte

// rawCodec passes messages as bytes. Its name is that of the usual one, so that the other
// side is told nothing new.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	switch f := v.(type) {
	case *frame:
		return mem.BufferSlice{mem.SliceBuffer(*f)}, nil
	case *heldFrame:
		return f.buffer(), nil
	}
	return nil, fmt.Errorf("marshal %T", v)
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("unmarshal into %T", v)
	}
	*f = data.Materialize()
	return nil
}

// call is what a side makes of one call before it is passed on. Zero functions pass messages
// as they are: only for what decides nothing.
type call struct {
	request func(msg []byte) ([]byte, error)
	answer  func(msg []byte) ([]byte, error)
	drop    bool // answered with an empty message, and not passed on

	// turns bounds how many messages of callers are taken in at once; nil: no bound.
	turns chan struct{}
}

// side knows what becomes of calls.
type side interface {
	// begin judges a call by its method and metadata. What it returns in error is told to
	// the caller and nothing is passed on.
	begin(ctx context.Context, method string, md metadata.MD) (call, error)
	// failed notes that a call ended by a fault of the gate's own.
	failed(method string, v any)
	// callerCalls tells which of the two connections is the caller's: that on which calls come in.
	callerCalls() bool
	// passes tells whether metadata of a name are passed on with a call.
	passes(name string) bool
	// note notes what was not let pass, and why: one of the causes.
	note(method, cause, msg string)
}

// bridge is two connections with gRPC between them: calls come in on one, go out on the other.
type bridge struct {
	side side
	out  *grpc.ClientConn
	room Room
}

// run serves from until either connection ends, or ctx does. Both are closed then.
func run(ctx context.Context, from, to net.Conn, s side, rooms Rooms) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	coming := newArrivals(rooms.Coming, s.callerCalls())
	defer coming.close()
	unwanted := func(err error) {
		cause := CauseTooMuch
		if errors.Is(err, errCompressed) {
			cause = CauseMessage
		}
		s.note("messages", cause, err.Error())
	}
	calls, answers := &watched{Conn: from, ended: cancel}, &watched{Conn: to, ended: cancel}
	if s.callerCalls() {
		calls.arrivals, calls.unwanted = coming, unwanted
	} else {
		answers.arrivals, answers.unwanted = coming, unwanted
	}
	header, answerHeader := grpc.MaxHeaderListSize(maxHeader), []grpc.DialOption{grpc.WithMaxHeaderListSize(maxHeader)}
	if s.callerCalls() {
		// The daemon's errors can have a whole Dockerfile with them.
		header, answerHeader = grpc.MaxHeaderListSize(callerHeader), nil
	}
	from, to = calls, answers
	defer from.Close()
	defer to.Close()
	dials := make(chan net.Conn, 1)
	dials <- to
	out, err := grpc.NewClient("passthrough:///belay", append(answerHeader,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case nc := <-dials:
				return nc, nil
			default:
				cancel()
				return nil, io.EOF // there is one connection, and it has ended
			}
		}),
		grpc.WithInitialWindowSize(answerWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)))...)
	if err != nil {
		return fmt.Errorf("set up gRPC: %w", err)
	}
	defer out.Close()
	out.Connect()
	b := &bridge{side: s, out: out, room: rooms.Held}
	srv := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(b.handle),
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage), grpc.MaxConcurrentStreams(maxStreams),
		header, grpc.InitialWindowSize(requestWindow), grpc.InitialConnWindowSize(connWindow))
	defer context.AfterFunc(ctx, srv.Stop)()
	if err := srv.Serve(newOnce(ctx, from)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve gRPC: %w", err)
	}
	<-ctx.Done()
	srv.Stop()
	return nil
}

const (
	maxStreams = 1024
	// Of metadata, in bytes: callers of the daemon's have little to say, and gRPC keeps that of a call
	// until its end is written out.
	maxHeader, callerHeader = 256 << 10, 16 << 10

	// Windows, in bytes: what may wait unread on a stream. gRPC would let them grow to 16 MiB. That
	// of the connection is given back as frames come in, and bounds nothing in memory.
	requestWindow, answerWindow, connWindow = 64 << 10, 128 << 10, 1 << 20
)

// handle passes one call on, both ways, with its end, its cancelling and its trailers.
func (b *bridge) handle(_ any, in grpc.ServerStream) (err error) {
	method, ok := grpc.MethodFromServerStream(in)
	if !ok {
		return status.Error(codes.Internal, "belay: a call without a method")
	}
	defer b.survive(method, &err)
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	md, _ := metadata.FromIncomingContext(ctx)
	leave, err := b.hold(method, callBytes+bytesOf(md))
	if err != nil {
		return err
	}
	defer leave()
	c, err := b.side.begin(ctx, method, md)
	if err != nil {
		return err
	}
	if c.drop {
		return b.drop(method, in, &c)
	}
	passed := metadata.MD{}
	for name, values := range md {
		if b.side.passes(name) {
			passed[name] = values
		}
	}
	out, err := b.out.NewStream(metadata.NewOutgoingContext(ctx, passed),
		&grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	refused := make(chan error, 1)
	go func() { // ends with the call: then nothing is received any more
		if err := b.passUpSafely(method, in, out, &c); err != nil {
			refused <- err
			cancel()
		}
	}()
	err = b.passDown(method, out, in, c.answer)
	in.SetTrailer(out.Trailer())
	cancel() // the call has ended: nothing of what the caller still sends is wanted
	select {
	case r := <-refused:
		return r
	default:
		return err
	}
}

// bytesOf is about what metadata take in memory.
func bytesOf(md metadata.MD) (n int) {
	const each = 64 // of one value, beside its bytes
	for name, values := range md {
		for _, v := range values {
			n += len(name) + len(v) + each
		}
	}
	return n
}

// survive makes a panic the error of the call that it happened in: gRPC would let it end
// the agent.
func (b *bridge) survive(method string, err *error) {
	if v := recover(); v != nil {
		b.side.failed(method, v)
		*err = status.Error(codes.Internal, "belay: an internal failure")
	}
}

func (b *bridge) passUpSafely(method string, in grpc.ServerStream, out grpc.ClientStream, c *call) (err error) {
	defer b.survive(method, &err)
	return b.passUp(method, in, out, c)
}

// passUp returns an error if a message must not be passed on, or the caller is gone.
func (b *bridge) passUp(method string, in grpc.ServerStream, out grpc.ClientStream, c *call) error {
	for {
		again, err := b.passOneUp(method, in, out, c)
		if !again || err != nil {
			return err
		}
	}
}

// smallMessage is what may wait for its answer without a turn, in bytes.
const smallMessage = 64 << 10

// turn waits for a turn to take a message in, which back ends.
func (c *call) turn(ctx context.Context) (back func(), err error) {
	if c.turns == nil {
		return func() {}, nil
	}
	select {
	case c.turns <- struct{}{}:
		return sync.OnceFunc(func() { <-c.turns }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// drop takes a message in and answers it with an empty one.
func (b *bridge) drop(method string, in grpc.ServerStream, c *call) error {
	back, err := c.turn(in.Context())
	if err != nil {
		return err
	}
	defer back()
	var f frame
	if err := in.RecvMsg(&f); err != nil {
		return err
	}
	leave, err := b.hold(method, len(f))
	if err != nil {
		return err
	}
	defer leave()
	return in.SendMsg(&frame{})
}

func (b *bridge) passOneUp(method string, in grpc.ServerStream, out grpc.ClientStream, c *call) (again bool, err error) {
	back, err := c.turn(in.Context())
	if err != nil {
		return false, err
	}
	defer back()
	var f frame
	switch err := in.RecvMsg(&f); {
	case errors.Is(err, io.EOF):
		_ = out.CloseSend() // always nil
		return false, nil
	case err != nil:
		return false, err
	}
	refused, err := b.passHeld(method, f, out, func(f []byte) ([]byte, error) {
		if len(f) <= smallMessage {
			back()
		}
		if c.request == nil {
			return f, nil
		}
		return c.request(f)
	})
	if refused {
		return false, err
	}
	return err == nil, nil // why it was not sent is what the other direction reads
}

// passHeld passes a message on, as change makes it; its bytes are held until gRPC has written it
// out.
//
// Errors: with refused, that it must not be passed on; else that it could not be sent.
func (b *bridge) passHeld(method string, f frame, to interface{ SendMsg(any) error }, change func([]byte) ([]byte, error)) (refused bool, err error) {
	leave, err := b.hold(method, len(f))
	if err != nil {
		return true, err
	}
	sent := false
	defer func() { // by a panic, too
		if !sent {
			leave()
		}
	}()
	if change != nil {
		if f, err = change(f); err != nil {
			return true, err
		}
	}
	if err := to.SendMsg(&heldFrame{f, leave}); err != nil {
		return false, err
	}
	sent = true
	return false, nil
}

func (b *bridge) passDown(method string, out grpc.ClientStream, in grpc.ServerStream, change func([]byte) ([]byte, error)) error {
	if md, err := out.Header(); err == nil && md != nil {
		leave, err := b.hold(method, bytesOf(md))
		if err != nil {
			return err
		}
		defer leave()
		md.Delete("content-type")
		if err := in.SendHeader(md); err != nil {
			return err
		}
	}
	for {
		again, err := b.passOneDown(method, out, in, change)
		if !again || err != nil {
			return err
		}
	}
}

func (b *bridge) passOneDown(method string, out grpc.ClientStream, in grpc.ServerStream, change func([]byte) ([]byte, error)) (again bool, err error) {
	var f frame
	err = out.RecvMsg(&f)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, err // of the other side, with its status and details
	}
	_, err = b.passHeld(method, f, in, change)
	return err == nil, err
}

// maxDenial bounds what is told, in bytes: it is kept for who asks about the build, and a policy
// may say in it what it was asked about.
const maxDenial = 4 << 10

func denied(msg string) error {
	return status.Error(codes.PermissionDenied, "belay: "+msg[:min(len(msg), maxDenial)])
}

// watched tells when a connection ends, and ends it if what comes in is not wanted.
type watched struct {
	net.Conn
	ended    func()
	arrivals *arrivals // nil: it is the daemon's, which leaves no message half sent
	unwanted func(error)
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if w.arrivals != nil {
		if bad := w.arrivals.read(p[:n]); bad != nil {
			w.unwanted(bad)
			n, err = 0, bad
		}
	}
	if err != nil {
		w.ended()
	}
	return n, err
}

func (w *watched) Write(p []byte) (int, error) {
	if w.arrivals != nil {
		w.arrivals.wrote(p)
	}
	return w.Conn.Write(p)
}

func (w *watched) Close() error {
	w.ended()
	return w.Conn.Close()
}

// once is a listener of one connection.
type once struct {
	ctx  context.Context // of the connection: a listener has none of its own
	nc   net.Conn
	give chan net.Conn
}

func newOnce(ctx context.Context, nc net.Conn) *once {
	o := &once{ctx: ctx, nc: nc, give: make(chan net.Conn, 1)}
	o.give <- nc
	return o
}

// Accept implements [net.Listener].
func (o *once) Accept() (net.Conn, error) {
	select {
	case nc := <-o.give:
		return nc, nil
	case <-o.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (o *once) Close() error { return nil }

// Addr implements [net.Listener].
func (o *once) Addr() net.Addr { return o.nc.LocalAddr() }
