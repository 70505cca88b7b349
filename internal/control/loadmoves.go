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

	"github.com/belay-project/belay/internal/load/plan"
)

// LoadManager is what an [Agent] also is if it plans and carries out moves, and cordons its node.
// LoadDecide and LoadCordon are asked for root of the host only.
type LoadManager interface {
	// LoadNode describes this node, as its gate does for others.
	LoadNode(ctx context.Context) (*plan.Description, error)
	// LoadState describes this node and the targets of a LoadPolicy; name is empty for the only one
	// that plans moves.
	LoadState(ctx context.Context, name string) (*plan.State, error)
	LoadMoves(ctx context.Context) (*LoadMoves, error)
	LoadDecide(ctx context.Context, who *Caller, q *LoadRequest) error
	LoadCordon(ctx context.Context, who *Caller, q *LoadRequest) error
}

// LoadRequest is a decision: on a plan, or on the cordon.
type LoadRequest struct {
	Plan    string `json:"plan,omitempty"`
	Approve bool   `json:"approve,omitempty"`
	Cordon  bool   `json:"cordon,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// LoadMoves is what `belay load status` shows of the cordon, of plans and of moves.
type LoadMoves struct {
	Cordon string            `json:"cordon,omitempty"` // why no new containers start here; left out: they do
	Plans  []LoadPlan        `json:"plans"`            // newest first
	Moves  []LoadMove        `json:"moves"`            // newest first
	NoPlan map[string]string `json:"noPlan"`           // by policy: why the node stays over its caps
}

// LoadPlan is one plan that was made because the node was over a cap.
type LoadPlan struct {
	ID      string        `json:"id"`
	Policy  string        `json:"policy"`
	Made    time.Time     `json:"made"`
	State   string        `json:"state"` // waiting, approved, refused, withdrawn, done
	Because string        `json:"because"`
	By      string        `json:"by,omitempty"` // who decided
	Decided time.Time     `json:"decided,omitzero"`
	Reason  string        `json:"reason,omitempty"`
	Moves   []LoadPlanned `json:"moves"`
}

// LoadPlanned is one move of a plan.
type LoadPlanned struct {
	Names   []string `json:"names"`
	To      string   `json:"to"`
	Why     string   `json:"why"`
	Move    string   `json:"move,omitempty"`    // ID, once it was started
	Skipped string   `json:"skipped,omitempty"` // why it will not be
	Held    string   `json:"held,omitempty"`    // why it was not so far
}

// LoadMove is one move that the agent started, of a container or of several as one.
type LoadMove struct {
	ID      string    `json:"id"`
	Plan    string    `json:"plan"`
	Policy  string    `json:"policy"`
	Name    string    `json:"name"`
	With    []string  `json:"with,omitempty"` // names of the others that move as one with it
	To      string    `json:"to"`
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended,omitzero"`
	Outcome string    `json:"outcome"` // under way, moved, failed, taken back, finished
	Step    string    `json:"step,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// maxReason bounds what somebody says of a decision.
const maxReason = 512

var loadRoutes = []route{
	{method: http.MethodGet, path: "/v1/load/node", answer: func(s *Server, r *http.Request) (any, error) {
		m, err := s.loadManager()
		if err != nil {
			return nil, err
		}
		return m.LoadNode(r.Context())
	}},
	{method: http.MethodGet, path: "/v1/load/state", params: []string{"policy"}, answer: func(s *Server, r *http.Request) (any, error) {
		m, err := s.loadManager()
		if err != nil {
			return nil, err
		}
		return m.LoadState(r.Context(), r.URL.Query().Get("policy"))
	}},
	{method: http.MethodGet, path: "/v1/load/moves", answer: func(s *Server, r *http.Request) (any, error) {
		m, err := s.loadManager()
		if err != nil {
			return nil, err
		}
		return m.LoadMoves(r.Context())
	}},
	{method: http.MethodPost, path: "/v1/load/decide", answer: func(s *Server, r *http.Request) (any, error) {
		return s.loadChange(r, LoadManager.LoadDecide)
	}},
	{method: http.MethodPost, path: "/v1/load/cordon", answer: func(s *Server, r *http.Request) (any, error) {
		return s.loadChange(r, LoadManager.LoadCordon)
	}},
}

func (s *Server) loadManager() (LoadManager, error) {
	m, ok := s.agent.(LoadManager)
	if !ok {
		return nil, &Error{Status: http.StatusNotImplemented, Message: "this agent plans no moves"}
	}
	return m, nil
}

// loadChange has root of the host decide something. The socket's group is not enough: containers go
// to other hosts by it, or do not start.
func (s *Server) loadChange(r *http.Request, do func(LoadManager, context.Context, *Caller, *LoadRequest) error) (any, error) {
	m, err := s.loadManager()
	if err != nil {
		return nil, err
	}
	who, err := s.caller(r)
	if err != nil {
		return nil, err
	}
	if !isRoot(who) {
		return nil, fmt.Errorf("%w: only root of the host may cordon the node and decide on plans; fix: run the command as root", ErrForbidden)
	}
	var q LoadRequest
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil {
		return nil, badRequest("the request: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, badRequest("the request: more than one document")
	}
	if len(q.Reason) > maxReason {
		return nil, badRequest("the reason has more than %d bytes", maxReason)
	}
	return struct{}{}, do(m, r.Context(), who, &q)
}

// LoadNode returns the agent's description of its node.
func (c *Client) LoadNode(ctx context.Context) (*plan.Description, error) {
	out := new(plan.Description)
	return out, c.ask(ctx, http.MethodGet, "/v1/load/node", nil, out)
}

// LoadState returns a state for a planner: this node and the targets of a LoadPolicy.
func (c *Client) LoadState(ctx context.Context, name string) (*plan.State, error) {
	q := url.Values{}
	if name != "" {
		q.Set("policy", name)
	}
	out := new(plan.State)
	return out, c.ask(ctx, http.MethodGet, "/v1/load/state", q, out)
}

// LoadMoves returns the cordon, the last plans and the last moves.
func (c *Client) LoadMoves(ctx context.Context) (*LoadMoves, error) {
	out := new(LoadMoves)
	return out, c.ask(ctx, http.MethodGet, "/v1/load/moves", nil, out)
}

// LoadDecide approves or refuses a plan.
func (c *Client) LoadDecide(ctx context.Context, q *LoadRequest) error {
	return c.postLoad(ctx, "/v1/load/decide", q)
}

// LoadCordon cordons the node by hand, or lifts that.
func (c *Client) LoadCordon(ctx context.Context, q *LoadRequest) error {
	return c.postLoad(ctx, "/v1/load/cordon", q)
}

func (c *Client) postLoad(ctx context.Context, path string, q *LoadRequest) error {
	b, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	return c.askWith(ctx, http.MethodPost, path, nil, bytes.NewReader(b), &struct{}{})
}
