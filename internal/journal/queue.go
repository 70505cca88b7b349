package journal

// queue is a bounded first-in first-out buffer of records. A quarter of it is kept
// for urgent ones, so that a flood of allowed events cannot crowd a denial out. Not
// safe for concurrent use.
type queue struct {
	slots []*Record
	first int
	n     int
}

func newQueue(size int) *queue { return &queue{slots: make([]*Record, size)} }

// push appends r, and returns false if there is no room for it.
func (q *queue) push(r *Record) bool {
	room := len(q.slots)
	if !r.Urgent() {
		room -= room / 4
	}
	if q.n >= room {
		return false
	}
	q.slots[(q.first+q.n)%len(q.slots)] = r
	q.n++
	return true
}

// take moves up to cap(dst)-len(dst) records to dst.
func (q *queue) take(dst []*Record) []*Record {
	for q.n > 0 && len(dst) < cap(dst) {
		dst = append(dst, q.slots[q.first])
		q.slots[q.first] = nil
		q.first = (q.first + 1) % len(q.slots)
		q.n--
	}
	return dst
}
