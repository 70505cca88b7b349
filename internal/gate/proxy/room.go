package proxy

import "sync"

// room bounds what the gate holds in memory of requests and answers at one time: the agent
// has a bound of its own, and whoever makes it pass that ends the agent. One caller has a
// part of it. Whoever holds nothing else gets what it needs: that is bounded by itself.
type room struct {
	all, each int

	// mu guards what follows.
	mu   sync.Mutex
	held int
	by   map[string]int // by callerKey
}

const (
	// Of bodies that are parsed, and of heads that are large: 8 MiB are two of the largest.
	requestRoom, requestRoomEach = 24 << 20, 8 << 20
	// Of answers that are filtered, and sent as slowly as their client reads.
	answerRoom, answerRoomEach = 40 << 20, 12 << 20
	// Of what the daemon says of the things that a request names, until it is judged.
	lookupRoom, lookupRoomEach = 24 << 20, 12 << 20

	// Raw streams of all but root, and of one share of [shareOf]: 60 MiB of [streamBuffers], and three
	// shares, so that containers and users without a name leave as much for others.
	streamRoom, streamRoomEach = 1920, 640

	// Of messages of BuildKit's: twice the largest.
	messageRoom, messageRoomEach = 48 << 20, 32 << 20
	// Of those that are not whole: the largest, and what its frames cost.
	comingRoom, comingRoomEach = 40 << 20, 20 << 20

	// freeBody is how large a body may be, freeHead a head, and freeAnswer an answer, that is
	// not counted: the bound of connections bounds these.
	freeBody   = 16 << 10
	freeHead   = 16 << 10
	freeAnswer = 32 << 10

	// decodedCost is what JSON becomes in memory at most, in its own size: a map of short labels.
	decodedCost = 4
)

// hold is what one request has of a room. The zero value has nothing.
type hold struct {
	in  *room
	key string
	n   int
}

// grow takes n bytes more. It returns false if there are none.
func (h *hold) grow(in *room, key string, n int) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	own := in.by[key]
	if own+n > in.each && own != h.n || in.held+n > in.all && in.held != h.n {
		return false
	}
	if in.by == nil {
		in.by = map[string]int{}
	}
	in.held += n
	in.by[key] = own + n
	h.in, h.key = in, key
	h.n += n
	return true
}

// leave gives everything back.
func (h *hold) leave() { h.keep(0) }

// keep gives back what is more than n bytes.
func (h *hold) keep(n int) {
	if h.n <= n {
		return
	}
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	h.in.held -= h.n - n
	if h.in.by[h.key] -= h.n - n; h.in.by[h.key] == 0 {
		delete(h.in.by, h.key)
	}
	h.n = n
}
