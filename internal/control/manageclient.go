package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// Or makes the client try another socket if it may not open its own, and returns it.
func (c *Client) Or(socket string) *Client {
	c.other = socket
	return c
}

// Policies returns the policies that the caller may see, or the one that q names.
//
// Errors: [ErrForbidden], [ErrNoPolicy].
func (c *Client) Policies(ctx context.Context, q PolicyQuery) (*PolicyList, error) {
	v := url.Values{}
	if q.Name != "" {
		v.Set("name", q.Name)
	}
	if q.Revision != 0 {
		v.Set("revision", strconv.FormatUint(q.Revision, 10))
	}
	var l PolicyList
	if err := c.ask(ctx, http.MethodGet, "/v1/policies", v, &l); err != nil {
		return nil, err
	}
	return &l, nil
}

// History returns the revisions of one policy, or of all with no name.
//
// Errors: [ErrForbidden].
func (c *Client) History(ctx context.Context, name string) (*History, error) {
	v := url.Values{}
	if name != "" {
		v.Set("name", name)
	}
	var h History
	if err := c.ask(ctx, http.MethodGet, "/v1/policies/history", v, &h); err != nil {
		return nil, err
	}
	return &h, nil
}

// Change asks for a change of policies. On an error nothing was changed.
//
// Errors: [ErrForbidden], [ErrNoPolicy], [ErrChanged], [ErrRefused].
func (c *Client) Change(ctx context.Context, ch *ChangeRequest) (*ChangeResult, error) {
	body, err := json.Marshal(ch)
	if err != nil {
		return nil, fmt.Errorf("encode the change: %w", err)
	}
	if len(body) > maxChangeBytes {
		return nil, fmt.Errorf("the change has %d bytes, more than %d: apply fewer files at once", len(body), maxChangeBytes)
	}
	var res ChangeResult
	if err := c.askWith(ctx, http.MethodPost, "/v1/policies/change", nil, bytes.NewReader(body), &res); err != nil {
		return nil, err
	}
	return &res, nil
}
