package buildkit

import (
	"encoding/binary"
	"errors"
	"sync"

	"golang.org/x/net/http2"
)

// arrivals counts, on one HTTP/2 connection, the bytes of messages that have begun to come in and
// are not whole: gRPC keeps them, and says nothing before it has them all. What is whole is taken
// in and counted by [bridge.hold], or waits in the window of its stream.
type arrivals struct {
	room   Room
	server bool // of the two ends, this one is

	in  frames // only the one who reads
	out frames // only the one who writes

	// mu guards what follows.
	mu      sync.Mutex
	streams map[uint32]*arrival
	n       int
	takes   []func() // one of takeBytes each, so that they have n
	// compressed: a message that is has begun to come in.
	compressed bool
}

// arrival is the message that comes in on a stream.
type arrival struct {
	prefix [5]byte // of gRPC: whether it is compressed, and its length
	have   int
	left   uint32
	n      int // in memory of it
	over   bool
}

const (
	takeBytes = 64 << 10
	// frameBytes is what gRPC keeps of a frame besides its data.
	frameBytes = 64
	// maxOver bounds the streams that this end has ended and whose other end is not heard of yet.
	maxOver = 4096
)

var (
	errArrivals = errors.New(overfullText)
	// What it becomes would not be counted. No client of BuildKit's compresses.
	errCompressed = errors.New("a compressed message")
)

func newArrivals(room Room, server bool) *arrivals {
	a := &arrivals{room: room, server: server, streams: map[uint32]*arrival{}}
	if server {
		a.in.skip = len(http2.ClientPreface)
	} else {
		a.out.skip = len(http2.ClientPreface)
	}
	return a
}

// read counts what was read.
//
// Errors: one if there is no room for it, or it is compressed.
func (a *arrivals) read(p []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.in.feed(p, func(f *frames, data []byte) {
		switch {
		case f.typ == http2.FrameData && f.stream != 0:
			a.data(f, data)
			if f.left > 0 || !f.flags.Has(http2.FlagDataEndStream) {
				return
			}
		case f.left > 0:
			return
		case f.typ == http2.FrameRSTStream, f.typ == http2.FrameHeaders && f.flags.Has(http2.FlagHeadersEndStream):
		default:
			return
		}
		a.drop(f.stream)
		delete(a.streams, f.stream)
	})
	if a.compressed {
		return errCompressed
	}
	return a.settle()
}

// wrote notes which streams this end has ended: what still comes on them is not kept.
func (a *arrivals) wrote(p []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.out.feed(p, func(f *frames, _ []byte) {
		if f.left > 0 || f.typ != http2.FrameRSTStream &&
			(!a.server || f.typ != http2.FrameHeaders || !f.flags.Has(http2.FlagHeadersEndStream)) {
			return
		}
		if a.drop(f.stream) {
			a.streams[f.stream].over = true
		}
		if len(a.streams) > maxOver {
			for id, s := range a.streams {
				if s.over {
					delete(a.streams, id)
				}
			}
		}
	})
	_ = a.settle() // it has only become less
}

// drop forgets the message that comes in on a stream, and is false if there is no such stream.
func (a *arrivals) drop(stream uint32) bool {
	s, ok := a.streams[stream]
	if ok {
		a.n -= s.n
		s.n = 0
	}
	return ok
}

// data takes a part of a frame of a stream, which may be none of its data.
func (a *arrivals) data(f *frames, data []byte) {
	if len(data) == 0 {
		return
	}
	s, ok := a.streams[f.stream]
	if !ok {
		s = &arrival{}
		a.streams[f.stream] = s
	}
	if s.over {
		return
	}
	more := len(data)
	if f.begins() {
		more += frameBytes
	}
	a.n += more
	s.n += more
	for len(data) > 0 {
		if s.have < len(s.prefix) {
			n := copy(s.prefix[s.have:], data)
			s.have, data = s.have+n, data[n:]
			if s.have < len(s.prefix) {
				return
			}
			s.left = binary.BigEndian.Uint32(s.prefix[1:])
			a.compressed = a.compressed || s.prefix[0] != 0
		}
		n := min(uint64(s.left), uint64(len(data)))
		s.left, data = s.left-uint32(n), data[n:]
		if s.left == 0 { // it is whole
			s.have = 0
			a.n -= s.n
			s.n = len(data)
			a.n += s.n
		}
	}
}

// settle takes room for what is there, and gives back what is too much.
func (a *arrivals) settle() error {
	for a.n > len(a.takes)*takeBytes {
		leave, ok := a.room.Take(takeBytes)
		if !ok {
			return errArrivals
		}
		a.takes = append(a.takes, leave)
	}
	for last := len(a.takes) - 1; last >= 0 && a.n <= last*takeBytes; last-- {
		a.takes[last]()
		a.takes = a.takes[:last]
	}
	return nil
}

// close gives everything back.
func (a *arrivals) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.streams)
	a.n = 0
	_ = a.settle() // to nothing
}

// frames reads the frames of one direction of an HTTP/2 connection (RFC 9113, section 4.1), from
// parts of any length. Whether they are well-formed gRPC looks after.
type frames struct {
	skip int // what is left of the preface
	head [9]byte
	have int // of head

	typ    http2.FrameType
	flags  http2.Flags
	stream uint32
	length int
	left   int // of the payload
	pad    int // of a data frame
	began  bool
}

// begins is true once for each frame.
func (f *frames) begins() bool {
	first := !f.began
	f.began = true
	return first
}

// feed calls part for each part of a frame, with the data that is in it if it is a data frame;
// f.left says how much of the frame is to come.
func (f *frames) feed(p []byte, part func(f *frames, data []byte)) {
	for {
		n := min(f.skip, len(p))
		f.skip, p = f.skip-n, p[n:]
		if len(p) == 0 {
			return
		}
		if f.have < len(f.head) {
			n := copy(f.head[f.have:], p)
			f.have, p = f.have+n, p[n:]
			if f.have < len(f.head) {
				return
			}
			f.length = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
			f.left, f.pad, f.began = f.length, 0, false
			f.typ, f.flags = http2.FrameType(f.head[3]), http2.Flags(f.head[4])
			f.stream = binary.BigEndian.Uint32(f.head[5:]) & (1<<31 - 1)
			if f.length > 0 {
				continue
			}
		}
		n = min(f.left, len(p))
		body, at := p[:n], f.length-f.left
		f.left, p = f.left-n, p[n:]
		if f.left == 0 {
			f.have = 0
		}
		part(f, f.dataOf(body, at))
	}
}

// dataOf returns what of a payload's part, which begins at at, is data.
func (f *frames) dataOf(body []byte, at int) []byte {
	if f.typ != http2.FrameData {
		return nil
	}
	if f.flags.Has(http2.FlagDataPadded) && at == 0 && len(body) > 0 {
		f.pad = int(body[0])
		body, at = body[1:], 1
	}
	return body[:max(0, min(len(body), f.length-f.pad-at))]
}
