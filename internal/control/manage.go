package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/revision"
)

const (
	// maxChangeBytes bounds a change: the largest policy file, and what JSON adds to it.
	maxChangeBytes = policy.MaxFileBytes + policy.MaxFileBytes/2
	// maxChanges is how many changes of others than root are read and made at a time, one of each share.
	maxChanges = 4
	// bodyTimeout is how long the body of a change may take to come: less than a request may
	// take, so that those who wait for a slow one get their turn.
	bodyTimeout = 3 * time.Second
)

// What the [Manager] wraps so that the answer has a fitting status.
var (
	// ErrForbidden: no policy lets the caller do it.
	ErrForbidden = errors.New("denied")
	// ErrNoPolicy: there is no such policy, or the caller may not know of it.
	ErrNoPolicy = errors.New("no such policy")
	// ErrChanged: somebody has changed it since.
	ErrChanged = errors.New("changed since")
	// ErrRefused: the change cannot be made; nothing was changed.
	ErrRefused = errors.New("refused")
)

// Manager answers what concerns the policies themselves; internal/agent implements it.
// It decides by who asks.
type Manager interface {
	// Policies returns the policies that the caller may see, without texts, or the one
	// that q names, with its text.
	Policies(ctx context.Context, who *Caller, q PolicyQuery) (*PolicyList, error)
	// History returns the revisions, oldest first, of one policy or of all.
	History(ctx context.Context, who *Caller, name string) (*History, error)
	// Change makes a change, or says what it would do.
	Change(ctx context.Context, who *Caller, c *ChangeRequest) (*ChangeResult, error)
}

// Caller is who asks: the subject that policies know, and the login that its process
// came from, which is for the record only.
type Caller struct {
	Subject  apicall.Subject
	Method   string // of what he asks
	Path     string // of the route
	LoginUID *uint32
	// LoginKnown: the login is of a session that the host knows. Else the process may have
	// chosen it.
	LoginKnown bool
}

// PolicyQuery names policies.
type PolicyQuery struct {
	Name string
	// Revision is the revision after which the policy is wanted; 0: now.
	Revision uint64
}

// PolicyList is the answer of `belay policy list` and `show`.
type PolicyList struct {
	// Head is the newest revision: what --if-revision takes.
	Head     uint64          `json:"head"`
	Policies []ManagedPolicy `json:"policies"`
}

// ManagedPolicy is one policy as it is stored.
type ManagedPolicy struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Digest   string `json:"digest"`             // of its normal form
	Revision uint64 `json:"revision,omitempty"` // the newest that changed it; 0: none that is known
	Mode     string `json:"mode,omitempty"`
	// Origin is own, shipped, or override of a shipped one.
	Origin string `json:"origin"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Text   string `json:"text,omitempty"`
}

// The origins of policies.
const (
	OriginOwn      = "own"
	OriginShipped  = "shipped"
	OriginOverride = "override"
)

// History is the answer of `belay policy history`.
type History struct {
	Head      uint64              `json:"head"`
	Revisions []revision.Revision `json:"revisions"` // without texts
	// Kept says how many there can be; Forgotten is the newest of the Gone that are no longer
	// kept.
	Kept      int    `json:"kept"`
	Forgotten uint64 `json:"forgotten,omitempty"`
	Gone      uint64 `json:"gone,omitempty"`
	// Problems of the chain of hashes; empty: it holds.
	Problems []string `json:"problems"`
}

// ChangeRequest asks for a change.
type ChangeRequest struct {
	Op string `json:"op"` // revision.OpApply, OpDelete or OpRollback
	// Files are the texts to apply; their names are for messages.
	Files []ChangeFile `json:"files,omitempty"`
	Name  string       `json:"name,omitempty"` // of the policy to delete or roll back
	// To is the revision to roll back to; 0: what was before the newest change.
	To uint64 `json:"to,omitempty"`
	// IfRevision refuses the change if a newer revision changed any of its policies.
	IfRevision *uint64 `json:"ifRevision,omitempty"`
	Message    string  `json:"message,omitempty"`
	DryRun     bool    `json:"dryRun,omitempty"`
}

// ChangeFile is a text with policies.
type ChangeFile struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// ChangeResult says what was changed, or would be.
type ChangeResult struct {
	DryRun   bool   `json:"dryRun,omitempty"`
	Revision uint64 `json:"revision,omitempty"` // 0: nothing was changed
	// Changes have no text before for a caller who may not read the policy.
	Changes   []revision.Change `json:"changes"`
	Unchanged []string          `json:"unchanged,omitempty"`
	// Warning is what did not go well after the change was in force.
	Warning string `json:"warning,omitempty"`
}

// manageRoutes are for every caller that reaches the socket: the manager decides. Each
// body is bounded.
var manageRoutes = []route{
	{method: http.MethodGet, path: "/v1/policies", params: []string{"name", "revision"}, answer: policies, forAll: true},
	{method: http.MethodGet, path: "/v1/policies/history", params: []string{"name"}, answer: history, forAll: true},
	{method: http.MethodPost, path: "/v1/policies/change", answer: change, forAll: true, body: true},
}

// caller says who asks. It goes by the connection, and asks anew where its process is: a
// process can be moved into a container. A process that has the number of the one that was
// accepted, and is not it, is nobody (see userConn.Accepted).
func (s *Server) caller(r *http.Request) (*Caller, error) {
	c, ok := r.Context().Value(connKey{}).(net.Conn)
	if !ok {
		return nil, fmt.Errorf("%w: who is calling is unknown", ErrForbidden)
	}
	sub, err := s.identify(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	who := &Caller{Subject: sub, Method: r.Method, Path: r.URL.Path}
	if s.manage.Login != nil {
		who.LoginUID, who.LoginKnown = s.manage.Login(&sub)
	}
	return who, nil
}

// identify says who is at the other end of a connection.
func (s *Server) identify(c net.Conn) (apicall.Subject, error) {
	if s.manage == nil || s.manage.Identify == nil {
		return apicall.Subject{}, fmt.Errorf("%w: who is calling is unknown", ErrForbidden)
	}
	return s.manage.Identify(c)
}

type connKey struct{}

func policies(s *Server, r *http.Request) (any, error) {
	who, err := s.caller(r)
	if err != nil {
		return nil, err
	}
	q := PolicyQuery{Name: r.URL.Query().Get("name")}
	if v := r.URL.Query().Get("revision"); v != "" {
		if q.Revision, err = strconv.ParseUint(v, 10, 64); err != nil || q.Name == "" {
			return nil, badRequest("revision: want a number, with a name")
		}
	}
	return s.manage.Manager.Policies(r.Context(), who, q)
}

func history(s *Server, r *http.Request) (any, error) {
	who, err := s.caller(r)
	if err != nil {
		return nil, err
	}
	return s.manage.Manager.History(r.Context(), who, r.URL.Query().Get("name"))
}

func change(s *Server, r *http.Request) (any, error) {
	who, err := s.caller(r)
	if err != nil {
		return nil, err
	}
	if s.manage.Screen != nil {
		if err := s.manage.Screen(who); err != nil {
			return nil, err
		}
	}
	leave, err := s.slots.take(r.Context(), shareOf(&who.Subject, nil))
	if err != nil {
		return nil, err
	}
	defer leave()
	s.bodyDeadline(r.Context(), bodyTimeout)
	c, err := decodeChange(r.Body)
	if err != nil {
		return nil, err
	}
	s.bodyDeadline(r.Context(), s.timeout)
	return s.manage.Manager.Change(r.Context(), who, c)
}

// bodyDeadline bounds how long the rest of a request may take to come.
func (s *Server) bodyDeadline(ctx context.Context, d time.Duration) {
	if c, ok := ctx.Value(connKey{}).(net.Conn); ok {
		_ = c.SetReadDeadline(time.Now().Add(min(d, s.timeout))) // it is closed if that fails
	}
}

func decodeChange(body io.Reader) (*ChangeRequest, error) {
	var c ChangeRequest
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return nil, badRequest("the change: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, badRequest("the change: more than one document")
	}
	return &c, nil
}

// ManageOptions lets callers manage policies.
type ManageOptions struct {
	Manager Manager
	// Identify says who is at the other end of a connection.
	Identify func(net.Conn) (apicall.Subject, error)
	// Screen returns an error for a caller who cannot be allowed to change anything, before
	// a body is read; nil: nobody is screened.
	Screen func(*Caller) error
	// Login says which user logged in to start a caller's process, and whether that is known or
	// only claimed; nil: it is not said.
	Login func(*apicall.Subject) (uid *uint32, known bool)
	// Admit tells whether a process in a container may ask for more than policies; nil: none may.
	Admit func(*Caller) bool
}
