package ci

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/policy"
)

const (
	// beat is the time between two comments of an event stream in which nothing happens, and
	// between two looks at whether its reader still may read it.
	beat = 15 * time.Second
	// streamTime is the longest time that an event stream is open.
	streamTime = time.Hour
	eventTime  = 10 * time.Second // for which one event may wait for its reader
)

// follow streams the states of a scan as Server-Sent Events: "event: state" with a [Scan]. It
// ends with the scan.
//
// Source: https://html.spec.whatwg.org/multipage/server-sent-events.html.
func (s *Service) follow(w http.ResponseWriter, r *http.Request, sub *apicall.Subject) error {
	j, err := s.find(r, sub)
	if err != nil {
		return err
	}
	key := "stream " + shareOf(sub)
	if !s.take(key, maxOwnOpen) {
		return &Error{http.StatusTooManyRequests, fmt.Sprintf("%d event streams of yours are open, which is the most", maxOwnOpen), true}
	}
	defer s.leave(key)
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		return &Error{http.StatusServiceUnavailable, "too many event streams are open: poll instead", true}
	}
	ctl := http.NewResponseController(w)
	// The time of the request would end the stream: net/http reads on, for the client's end.
	if err := ctl.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	send := func(text string) bool {
		if ctl.SetWriteDeadline(time.Now().Add(eventTime)) != nil {
			return false
		}
		_, err := fmt.Fprint(w, text)
		return err == nil && ctl.Flush() == nil
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	end, tick := time.NewTimer(streamTime), time.NewTicker(beat)
	defer end.Stop()
	defer tick.Stop()
	for {
		s.mu.Lock()
		scan, changed, there := j.copied(), j.changed, s.jobs[j.scan.ID] == j
		s.mu.Unlock()
		b, err := json.Marshal(&scan)
		if err != nil || !send("event: state\ndata: "+string(b)+"\n\n") || scan.Over() || !there {
			return nil
		}
		for waiting := true; waiting; {
			select {
			case <-r.Context().Done():
				return nil
			case <-end.C:
				return nil
			case <-changed:
				waiting = false
			case <-tick.C:
				if !s.still(r, sub, j) || !send(":\n\n") {
					return nil
				}
			}
		}
	}
}

// still tells whether the reader of a stream may go on: a token may have been revoked, a policy
// changed, a process moved into a container.
func (s *Service) still(r *http.Request, sub *apicall.Subject, j *job) bool {
	now, err := s.authenticate(r)
	if err != nil || policy.Owner(&now) != policy.Owner(sub) {
		return false
	}
	s.mu.Lock()
	res := j.resource()
	s.mu.Unlock()
	return s.o.Access.Sees(&now, res)
}
