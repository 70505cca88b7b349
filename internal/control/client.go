package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/journal"
)

const (
	dialTimeout = 5 * time.Second
	// maxAnswerBytes bounds what the client keeps of one answer: some 100,000
	// containers.
	maxAnswerBytes = 64 << 20
	maxLineBytes   = 1 << 20
)

// Client asks an agent over its control socket. It answers as the [Agent] at the
// other end does, errors included ([Error]). Safe for concurrent use.
type Client struct {
	socket string
	other  string // to try where socket may not be opened; empty: none
	http   *http.Client
}

var (
	_ CanaryRunner = (*Client)(nil)
	_ LoadWatcher  = (*Client)(nil)
)

// NewClient returns a client of the agent that listens on socket. It connects at the
// first question.
func NewClient(socket string) *Client {
	dialer := &net.Dialer{Timeout: dialTimeout}
	c := &Client{socket: socket}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, "unix", socket)
			if c.other != "" && errors.Is(err, fs.ErrPermission) {
				conn, oerr := dialer.DialContext(ctx, "unix", c.other)
				if errors.Is(oerr, fs.ErrNotExist) {
					return nil, err
				}
				return conn, oerr
			}
			return conn, err
		},
		DisableKeepAlives:      true, // one command, one question
		DisableCompression:     true,
		ResponseHeaderTimeout:  requestTimeout + time.Second,
		MaxResponseHeaderBytes: maxHeaderBytes,
	}}
	return c
}

// Status returns the state of the agent.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var st Status
	if err := c.ask(ctx, http.MethodGet, "/v1/status", nil, &st); err != nil {
		return nil, err
	}
	return &st, nil
}

// Containers returns the containers that the agent knows.
func (c *Client) Containers(ctx context.Context) ([]Container, error) {
	var cs []Container
	if err := c.ask(ctx, http.MethodGet, "/v1/containers", nil, &cs); err != nil {
		return nil, err
	}
	return cs, nil
}

// Explain says what applies to a container, given by name, ID or the beginning of
// its ID, and why.
//
// Errors: [ErrNotFound], [ErrAmbiguous].
func (c *Client) Explain(ctx context.Context, ref string) (*Explanation, error) {
	var e Explanation
	if err := c.ask(ctx, http.MethodGet, "/v1/explain", url.Values{"container": {ref}}, &e); err != nil {
		return nil, err
	}
	return &e, nil
}

// Reload makes the agent read its policies again, and returns what is in force then.
func (c *Client) Reload(ctx context.Context) (*PolicySet, error) {
	var set PolicySet
	if err := c.ask(ctx, http.MethodPost, "/v1/reload", nil, &set); err != nil {
		return nil, err
	}
	return &set, nil
}

// RunCanary makes the agent try now an act that must be denied, and returns how that went.
func (c *Client) RunCanary(ctx context.Context) (*Canary, error) {
	var answer Canary
	if err := c.ask(ctx, http.MethodPost, "/v1/canary", nil, &answer); err != nil {
		return nil, err
	}
	return &answer, nil
}

// Events calls emit for each record, oldest first, until the journal ends or, with
// q.Follow, until ctx does; it then returns nil. An error of emit ends it too and is
// returned.
func (c *Client) Events(ctx context.Context, q journal.ReadOptions, emit func(*journal.Record) error) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/events", eventQuery(q), nil)
	if err == nil {
		defer resp.Body.Close()
		err = readLines(resp.Body, emit)
	}
	switch {
	case q.Follow && ctx.Err() != nil:
		return nil
	case q.Follow && err == nil:
		return fmt.Errorf("%w any more: it ended the event stream", ErrNotRunning)
	}
	return err
}

func readLines(r io.Reader, emit func(*journal.Record) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxLineBytes)
	for lines.Scan() {
		var failed errorBody
		if bytes.HasPrefix(lines.Bytes(), []byte(`{"error":`)) && json.Unmarshal(lines.Bytes(), &failed) == nil {
			return &Error{Status: http.StatusInternalServerError, Message: failed.Error}
		}
		rec := new(journal.Record)
		if err := json.Unmarshal(lines.Bytes(), rec); err != nil {
			return fmt.Errorf("decode a record: %w", err)
		}
		if err := emit(rec); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the event stream broke off: %w", err)
	}
	return nil
}

func (c *Client) ask(ctx context.Context, method, path string, q url.Values, into any) error {
	return c.askWith(ctx, method, path, q, nil, into)
}

func (c *Client) askWith(ctx context.Context, method, path string, q url.Values, body io.Reader, into any) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+requestTimeout)
	defer cancel()
	resp, err := c.send(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswerBytes)).Decode(into); err != nil {
		return fmt.Errorf("decode the answer of the agent to %s: %w", path, err)
	}
	return nil
}

// send returns an answer with status 200; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "agent", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var failed errorBody
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLineBytes)).Decode(&failed); err != nil || failed.Error == "" {
		failed.Error = "the agent answered " + resp.Status
	}
	return nil, &Error{Status: resp.StatusCode, Message: failed.Error}
}

// closedIdle ends net/http's error, which has no exported name, for a connection that was
// closed before its first request was written.
const closedIdle = "server closed idle connection"

// explain says what a failed connection means to a person.
func (c *Client) explain(err error) error {
	// What http adds (Get "http://agent/v1/status") is about nothing a person knows.
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no %s", ErrNotRunning, c.socket)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w: nothing listens on %s", ErrNotRunning, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission to use %s: run as root or as a member of the socket's group", c.socket)
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), strings.HasSuffix(err.Error(), closedIdle):
		return fmt.Errorf("the agent closed the connection to %s: it ends, or too many are open; try again: %w", c.socket, err)
	}
	return fmt.Errorf("ask the agent on %s: %w", c.socket, err)
}
