package buildkit

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// Rooms are what one caller has, of all its connections. None may be less than [MaxMessage] and
// what gRPC keeps beside it.
type Rooms struct {
	// Held is for messages, both ways, that are judged, that wait for a build, or whose receiver
	// does not read. One that does not fit is refused.
	Held Room
	// Coming is for the caller's messages that are not whole. The connection of one that does not
	// fit is ended: gRPC takes in what it has begun to take in.
	Coming Room
}

// Room bounds bytes.
type Room interface {
	// Take counts n bytes more, which leave gives back. It is false if there are none.
	Take(n int) (leave func(), ok bool)
}

// callBytes is what an open call counts for: messages that came in whole wait unread in the
// window of a stream. Few calls fill theirs.
const callBytes = 16 << 10

// hold counts bytes until leave is called.
//
// Errors: ResourceExhausted.
func (b *bridge) hold(method string, n int) (leave func(), err error) {
	leave, ok := b.room.Take(n)
	if !ok {
		b.side.note(method, CauseTooMuch, overfullText)
		return nil, status.Error(codes.ResourceExhausted, "belay: "+overfullText+"; fix: send fewer at a time, and read the answers")
	}
	return leave, nil
}

const overfullText = "the messages of your connections that wait take too much"

// heldFrame is a message to pass on that is held until gRPC has written it out.
type heldFrame struct {
	b     frame
	leave func()
}

func (f *heldFrame) buffer() mem.BufferSlice {
	b := []byte(f.b)
	if mem.IsBelowBufferPoolingThreshold(cap(b)) { // gRPC does not say when it is done with these
		f.leave()
		return mem.BufferSlice{mem.SliceBuffer(b)}
	}
	return mem.BufferSlice{mem.NewBuffer(&b, written(f.leave))}
}

// written is called when a buffer has been written out.
type written func()

// Get implements [mem.BufferPool].
func (written) Get(n int) *[]byte { return new(make([]byte, n)) }

// Put implements [mem.BufferPool].
func (f written) Put(*[]byte) { f() }
