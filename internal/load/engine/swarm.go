package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/swarm"
)

// Nodes returns the nodes of the swarm that the engine is a manager of.
func (e *Engine) Nodes(ctx context.Context) ([]swarm.Node, error) {
	var out []swarm.Node
	return out, e.ask(ctx, "list the nodes of the swarm", http.MethodGet, "/nodes", nil, nil, &out)
}

// Services returns the services of the swarm, with the state of their updates.
func (e *Engine) Services(ctx context.Context) ([]swarm.Service, error) {
	var out []swarm.Service
	return out, e.ask(ctx, "list the services of the swarm", http.MethodGet, "/services", nil, nil, &out)
}

// Tasks returns the tasks of the swarm that match the filters.
func (e *Engine) Tasks(ctx context.Context, filters map[string][]string) ([]swarm.Task, error) {
	q := url.Values{}
	if len(filters) > 0 {
		q.Set("filters", filterText(filters))
	}
	var out []swarm.Task
	return out, e.ask(ctx, "list the tasks of the swarm", http.MethodGet, "/tasks", q, nil, &out)
}

// Service returns a service, and its specification as the engine wrote it: what is sent back must
// not lose a field that this package's types do not know.
//
// Errors: [ErrNotFound].
func (e *Engine) Service(ctx context.Context, id string) (*swarm.Service, json.RawMessage, error) {
	out := new(swarm.Service)
	spec, err := e.withSpec(ctx, "inspect service "+id, "/services/"+url.PathEscape(id), out)
	return out, spec, err
}

// SwarmNode returns a node, and its specification as that of a [Engine.Service].
//
// Errors: [ErrNotFound].
func (e *Engine) SwarmNode(ctx context.Context, id string) (*swarm.Node, json.RawMessage, error) {
	out := new(swarm.Node)
	spec, err := e.withSpec(ctx, "inspect node "+id, "/nodes/"+url.PathEscape(id), out)
	return out, spec, err
}

func (e *Engine) withSpec(ctx context.Context, what, path string, out any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	raw, err := e.raw(ctx, what, http.MethodGet, path, nil, nil)
	if err != nil {
		return nil, err
	}
	var as struct{ Spec json.RawMessage }
	if err := errors.Join(json.Unmarshal(raw, out), json.Unmarshal(raw, &as)); err != nil {
		return nil, fmt.Errorf("%s: read the answer: %w", what, err)
	}
	return as.Spec, nil
}

// UpdateService gives a service a specification, if it is still of that version. Credentials for
// its registry stay as they were.
//
// Errors: [ErrOutOfSequence].
func (e *Engine) UpdateService(ctx context.Context, id string, version uint64, spec json.RawMessage) error {
	q := url.Values{"version": {strconv.FormatUint(version, 10)}, "registryAuthFrom": {"spec"}}
	return sequenced(e.ask(ctx, "update service "+id, http.MethodPost, "/services/"+url.PathEscape(id)+"/update", q, spec, nil))
}

// UpdateNode gives a node of the swarm a specification, if it is still of that version.
//
// Errors: [ErrOutOfSequence].
func (e *Engine) UpdateNode(ctx context.Context, id string, version uint64, spec json.RawMessage) error {
	q := url.Values{"version": {strconv.FormatUint(version, 10)}}
	return sequenced(e.ask(ctx, "update node "+id, http.MethodPost, "/nodes/"+url.PathEscape(id)+"/update", q, spec, nil))
}

// ErrOutOfSequence says that a thing of a swarm was changed by somebody else meanwhile.
var ErrOutOfSequence = errors.New("somebody else has changed it meanwhile")

// sequenced tells it by the manager's words: the status differs by version of the engine.
func sequenced(err error) error {
	if s, ok := errors.AsType[*StatusError](err); ok && strings.Contains(s.Message, "out of sequence") {
		return fmt.Errorf("%s: %w", s.What, ErrOutOfSequence)
	}
	return err
}
