package control

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/belay-project/belay/internal/journal"
)

// contentLines is the type of an event stream: one JSON document a line.
const contentLines = "application/x-ndjson"

// events streams records, one JSON line each, flushed one by one. An error before
// the first record is an answer like any other; one after it is the stream's last
// line, {"error": "..."}: the status has been sent by then.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	q, err := parseEventQuery(r.URL.Query())
	if err != nil {
		s.fail(w, err)
		return
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		s.fail(w, &Error{
			Status:  http.StatusServiceUnavailable,
			Message: fmt.Sprintf("%d event streams are open already, which is the most", maxEventStreams),
		})
		return
	}
	out := &lineWriter{w: w, control: http.NewResponseController(w)}
	// The deadline of the request would end the stream: net/http reads on to see
	// whether the client is still there.
	if err := out.control.SetReadDeadline(time.Time{}); err != nil {
		s.fail(w, err)
		return
	}
	if q.Follow {
		// The first record may be hours away: tell the client that it is connected.
		if err := out.begin(); err != nil {
			return
		}
	}
	err = s.agent.Events(r.Context(), q, func(rec *journal.Record) error { return out.line(rec) })
	switch {
	case err == nil, r.Context().Err() != nil:
		if !out.begun {
			_ = out.begin() // an empty list; a client that is gone needs nothing
		}
	case !out.begun:
		s.fail(w, err)
	default:
		_ = out.line(errorBody{err.Error()})
	}
}

type lineWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

func (l *lineWriter) begin() error {
	l.begun = true
	l.w.Header().Set("Content-Type", contentLines)
	l.w.WriteHeader(http.StatusOK)
	if err := l.control.SetWriteDeadline(time.Now().Add(streamTimeout)); err != nil {
		return err
	}
	return l.control.Flush()
}

func (l *lineWriter) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a record: %w", err)
	}
	if !l.begun {
		if err := l.begin(); err != nil {
			return err
		}
	}
	if err := l.control.SetWriteDeadline(time.Now().Add(streamTimeout)); err != nil {
		return err
	}
	if _, err := l.w.Write(append(b, '\n')); err != nil {
		return err
	}
	return l.control.Flush()
}

// checkQuery refuses what would otherwise be ignored: a misspelt "denials" must not
// show everything.
func checkQuery(raw string, known []string) error {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return badRequest("query: %v", err)
	}
	for k, v := range q {
		if !slices.Contains(known, k) {
			return badRequest("unknown parameter %.100q", k)
		}
		if len(v) > 1 {
			return badRequest("parameter %s is given more than once", k)
		}
	}
	return nil
}

func parseEventQuery(v url.Values) (journal.ReadOptions, error) {
	var q journal.ReadOptions
	if s := v.Get("since"); s != "" {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return q, badRequest("since: %.100q is not a time as RFC 3339 writes it", s)
		}
		q.Since = t
	}
	var err error
	if q.Follow, err = parseBool(v, "follow"); err != nil {
		return q, err
	}
	q.Denials, err = parseBool(v, "denials")
	return q, err
}

func parseBool(v url.Values, key string) (bool, error) {
	s := v.Get(key)
	if s == "" {
		return v.Has(key), nil // "?follow" alone means yes
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, badRequest("%s: %.100q is neither true nor false", key, s)
	}
	return b, nil
}

// eventQuery is the reverse of parseEventQuery.
func eventQuery(q journal.ReadOptions) url.Values {
	v := url.Values{}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.Follow {
		v.Set("follow", "true")
	}
	if q.Denials {
		v.Set("denials", "true")
	}
	return v
}
