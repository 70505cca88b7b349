package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// FactorClient asks an agent over its factor socket, as the user who runs it. Safe for
// concurrent use.
type FactorClient struct{ c *Client }

// NewFactorClient returns a client of the agent that listens on socket. It connects at the
// first question.
func NewFactorClient(socket string) *FactorClient { return &FactorClient{NewClient(socket)} }

// Enrol begins an enrolment.
func (f *FactorClient) Enrol(ctx context.Context, q *EnrolRequest) (*Enrolment, error) {
	return post[Enrolment](ctx, f.c, "/v1/factor/enrol", q)
}

// Confirm makes an enrolment live with its first code.
func (f *FactorClient) Confirm(ctx context.Context, q *ConfirmRequest) (*Enrolled, error) {
	return post[Enrolled](ctx, f.c, "/v1/factor/confirm", q)
}

// Remove takes a second factor away.
func (f *FactorClient) Remove(ctx context.Context, q *RemoveRequest) (*Removed, error) {
	return post[Removed](ctx, f.c, "/v1/factor/remove", q)
}

// Elevate asks for an elevation of this login session.
func (f *FactorClient) Elevate(ctx context.Context, q *ElevateRequest) (*Elevation, error) {
	return post[Elevation](ctx, f.c, "/v1/factor/elevate", q)
}

// Drop ends elevations.
func (f *FactorClient) Drop(ctx context.Context, q *DropRequest) (*Dropped, error) {
	return post[Dropped](ctx, f.c, "/v1/factor/drop", q)
}

// Factors returns what the caller may know of second factors and elevations.
func (f *FactorClient) Factors(ctx context.Context) (*Factors, error) {
	return post[Factors](ctx, f.c, "/v1/factor/list", struct{}{})
}

func post[A any](ctx context.Context, c *Client, path string, q any) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+requestTimeout)
	defer cancel()
	b, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	resp, err := c.send(ctx, http.MethodPost, path, nil, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	a := new(A)
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLineBytes)).Decode(a); err != nil {
		return nil, fmt.Errorf("decode the answer of the agent to %s: %w", path, err)
	}
	return a, nil
}
