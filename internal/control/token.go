package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/belay-project/belay/internal/apicall"
)

// Tokens makes and ends bearer tokens for the gate; internal/agent implements it. It is asked for
// root of the host only.
type Tokens interface {
	CreateToken(ctx context.Context, who *Caller, q *TokenRequest) (*NewToken, error)
	Tokens(ctx context.Context) (*TokenList, error)
	RevokeToken(ctx context.Context, who *Caller, q *TokenRequest) (*TokenInfo, error)
}

// TokenRequest names a token to be made or ended.
type TokenRequest struct {
	Name string        `json:"name"`
	For  time.Duration `json:"for,omitempty"` // of one to be made, in nanoseconds; 0 is the default
}

// TokenInfo is what is known of a token.
type TokenInfo struct {
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	CreatedBy uint32    `json:"createdBy"` // uid
	Expires   time.Time `json:"expires"`
	Expired   bool      `json:"expired,omitempty"`
}

// NewToken is one that was made. It is the only time that its text is shown.
type NewToken struct {
	TokenInfo
	Token string `json:"token"`
}

// TokenList is the answer of `belay token list`.
type TokenList struct {
	Tokens []TokenInfo `json:"tokens"` // by name
}

var tokenRoutes = []route{
	{method: http.MethodGet, path: "/v1/tokens", answer: func(s *Server, r *http.Request) (any, error) {
		if _, err := s.rootCaller(r); err != nil {
			return nil, err
		}
		return s.tokens.Tokens(r.Context())
	}},
	{method: http.MethodPost, path: "/v1/tokens/create", answer: func(s *Server, r *http.Request) (any, error) {
		who, q, err := s.tokenRequest(r)
		if err != nil {
			return nil, err
		}
		return s.tokens.CreateToken(r.Context(), who, q)
	}},
	{method: http.MethodPost, path: "/v1/tokens/revoke", answer: func(s *Server, r *http.Request) (any, error) {
		who, q, err := s.tokenRequest(r)
		if err != nil {
			return nil, err
		}
		return s.tokens.RevokeToken(r.Context(), who, q)
	}},
}

// rootCaller refuses all but root of the host. The socket's group is not enough: who makes a token
// of a name can do what policies let that name do.
func (s *Server) rootCaller(r *http.Request) (*Caller, error) {
	who, err := s.caller(r)
	if err != nil {
		return nil, err
	}
	if !isRoot(who) {
		return nil, fmt.Errorf("%w: only root of the host may make, list and revoke tokens; fix: run the command as root", ErrForbidden)
	}
	return who, nil
}

// isRoot reports whether root of the host asks.
func isRoot(who *Caller) bool { return who.Subject.Kind == apicall.User && who.Subject.UID == 0 }

func (s *Server) tokenRequest(r *http.Request) (*Caller, *TokenRequest, error) {
	who, err := s.rootCaller(r)
	if err != nil {
		return nil, nil, err
	}
	var q TokenRequest
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil {
		return nil, nil, badRequest("the request: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, badRequest("the request: more than one document")
	}
	return who, &q, nil
}

// CreateToken makes a bearer token.
//
// Errors: [ErrForbidden]; *[Error] with what the agent refuses.
func (c *Client) CreateToken(ctx context.Context, q *TokenRequest) (*NewToken, error) {
	var out NewToken
	return &out, c.postToken(ctx, "/v1/tokens/create", q, &out)
}

// RevokeToken ends a bearer token.
//
// Errors: [ErrForbidden]; *[Error] with what the agent refuses.
func (c *Client) RevokeToken(ctx context.Context, q *TokenRequest) (*TokenInfo, error) {
	var out TokenInfo
	return &out, c.postToken(ctx, "/v1/tokens/revoke", q, &out)
}

// Tokens returns all tokens, those that have expired too.
//
// Errors: [ErrForbidden].
func (c *Client) Tokens(ctx context.Context) (*TokenList, error) {
	var out TokenList
	return &out, c.ask(ctx, http.MethodGet, "/v1/tokens", url.Values{}, &out)
}

func (c *Client) postToken(ctx context.Context, path string, q *TokenRequest, out any) error {
	b, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	return c.askWith(ctx, http.MethodPost, path, nil, bytes.NewReader(b), out)
}
