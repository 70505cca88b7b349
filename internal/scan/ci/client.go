package ci

import (
	"bytes"
	"context"
	"crypto/tls"
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
)

// ClientOptions says how to reach a service.
type ClientOptions struct {
	// Socket is the path of the unix socket; used if Server is "".
	Socket string
	Server string // https://HOST[:PORT]
	// Token is a bearer token; "": none is shown.
	Token string
	// TLS is for Server; nil: the system's authorities, and no client certificate.
	TLS *tls.Config
}

// Client asks a service. Safe for concurrent use.
type Client struct {
	o    ClientOptions
	base string
	http *http.Client
}

const (
	maxAnswer = 128 << 20
	dialTime  = 10 * time.Second
)

// NewClient returns a client. It connects at the first question.
func NewClient(o ClientOptions) (*Client, error) {
	c := &Client{o: o, base: "http://agent"}
	d := &net.Dialer{Timeout: dialTime}
	tr := &http.Transport{
		DialContext:  func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", o.Socket) },
		MaxIdleConns: 1, IdleConnTimeout: idleTime, MaxResponseHeaderBytes: 64 << 10, TLSHandshakeTimeout: dialTime, DisableCompression: true,
	}
	if o.Server != "" {
		u, err := url.Parse(o.Server)
		if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" {
			return nil, fmt.Errorf("the server %q: want https://HOST[:PORT]", o.Server)
		}
		c.base = "https://" + u.Host
		tr.DialContext, tr.TLSClientConfig, tr.Proxy = d.DialContext, o.TLS, http.ProxyFromEnvironment
	}
	// A redirect would take the token elsewhere.
	c.http = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

// Create asks for a scan.
func (c *Client) Create(ctx context.Context, q *Request) (*Scan, error) {
	b, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	var out Scan
	return &out, c.ask(ctx, http.MethodPost, "/v1/scans", nil, b, &out)
}

// Get returns a scan with its findings.
func (c *Client) Get(ctx context.Context, id string) (*Result, error) {
	var out Result
	return &out, c.ask(ctx, http.MethodGet, "/v1/scans/"+url.PathEscape(id), nil, nil, &out)
}

// List returns the scans that the caller may read, of one image (a name as asked for) or, with
// "", of all.
func (c *Client) List(ctx context.Context, image string) (*List, error) {
	q := url.Values{}
	if image != "" {
		q.Set("image", image)
	}
	var out List
	return &out, c.ask(ctx, http.MethodGet, "/v1/scans", q, nil, &out)
}

// Format returns a result as report, sarif, junit or cyclonedx.
func (c *Client) Format(ctx context.Context, id, form string) ([]byte, error) {
	res, err := c.send(ctx, http.MethodGet, "/v1/scans/"+url.PathEscape(id), url.Values{"format": {form}}, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	return b, err
}

// Wait returns a scan when it is over. It asks again every two seconds, and goes on for a while
// where the agent does not answer: a job that waits must not fail by a restart of the network.
func (c *Client) Wait(ctx context.Context, id string) (*Result, error) {
	const every, patience = 2 * time.Second, 5
	for failures := 0; ; {
		r, err := c.Get(ctx, id)
		e, answered := errors.AsType[*Error](err)
		switch {
		case err == nil && r.Over():
			return r, nil
		case err == nil:
			failures = 0
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case answered && e.Status != http.StatusTooManyRequests && e.Status != http.StatusServiceUnavailable:
			return nil, err
		default:
			if failures++; failures >= patience {
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(every):
		}
	}
}

func (c *Client) ask(ctx context.Context, method, path string, q url.Values, body []byte, into any) error {
	res, err := c.send(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("decode the answer of the agent to %s: %w", path, err)
	}
	return nil
}

// send returns an answer of success; the caller closes its body. Errors: *[Error].
func (c *Client) send(ctx context.Context, method, path string, q url.Values, body []byte) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path+"?"+q.Encode(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.o.Token != "" {
		r.Header.Set("Authorization", "Bearer "+c.o.Token)
	}
	res, err := c.http.Do(r)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		where := c.o.Server
		if where == "" {
			where = c.o.Socket
			if errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("the agent is not running, or has no belay-scanner beside it: there is no %s; "+
					"fix: start it, name its run directory with --run-dir, or ask another host's with --server", where)
			}
		}
		return nil, fmt.Errorf("ask the agent on %s: %w", where, err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	var failed errorBody
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&failed); err != nil || failed.Error == "" {
		failed.Error = "the agent answered " + res.Status
	}
	return nil, &Error{Status: res.StatusCode, Message: failed.Error}
}
