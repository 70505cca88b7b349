package move

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/belay-project/belay/internal/load/engine"
)

// hookInput is what a hook reads from its standard input.
type hookInput struct {
	Schema string `json:"schema"`
	Move   string `json:"move"`
	Phase  string `json:"phase"` // hand-over or hand-back
	hookMember
	With []hookMember `json:"with,omitempty"` // the others of a group
}

type hookMember struct {
	Container string   `json:"container"`
	Source    hookSide `json:"source"`
	Target    hookSide `json:"target"`
}

type hookSide struct {
	Engine    string            `json:"engine"`
	ID        string            `json:"id"`
	Addresses map[string]string `json:"addresses"` // by network
	Ports     []string          `json:"ports"`     // published, as "8080->80/tcp"
}

// handOver has the hook take the traffic to the target, once for all that move. It may be called again for one move.
func (r *run) handOver(ctx context.Context) error {
	if len(r.j.Settings.Hook) == 0 {
		return nil
	}
	r.j.HandedOver = true
	if err := r.save(); err != nil {
		return err
	}
	return r.hook(ctx, "hand-over")
}

// handBack is the hook's word for the way back.
const handBack = "hand-back"

func (r *run) hook(ctx context.Context, phase string) error {
	in := hookInput{Schema: "belay.dev/move-hook/v1", Move: r.j.ID, Phase: phase}
	err := r.each(func(m *Member) error {
		h := hookMember{Container: m.Name}
		var err error
		if h.Source, err = side(ctx, r.from, m.Container); err != nil && !errors.Is(err, engine.ErrNotFound) {
			return fmt.Errorf("source: %w", err)
		}
		if h.Target, err = r.targetSide(ctx, m, phase == handBack); err != nil {
			return fmt.Errorf("target: %w", err)
		}
		if m == &r.j.Member {
			in.hookMember = h
		} else {
			in.With = append(in.With, h)
		}
		return nil
	})
	if err != nil {
		return err
	}
	b, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("hook: %w", err)
	}
	if r.o.RunHook == nil {
		return errors.New("hooks are not run here")
	}
	h := r.j.Settings.Hook
	args := append(slices.Clone(h[1:]), phase)
	if err := r.o.RunHook(ctx, h[0], args, b, hookTimeout); err != nil {
		return fmt.Errorf("hook %s %s: %w", h[0], phase, err)
	}
	return nil
}

// targetSide describes the copy. The way back does not wait for a target that is lost: it is why the traffic
// comes back.
func (r *run) targetSide(ctx context.Context, m *Member, back bool) (hookSide, error) {
	if back {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, lostAfter)
		defer cancel()
	}
	s, err := side(ctx, r.to, m.Target)
	if back || errors.Is(err, engine.ErrNotFound) {
		return s, nil
	}
	return s, err
}

func side(ctx context.Context, e *engine.Engine, id string) (hookSide, error) {
	s := hookSide{Engine: e.Address.URL, ID: id, Addresses: map[string]string{}}
	if id == "" {
		return s, nil
	}
	c, err := e.Container(ctx, id)
	if err != nil {
		return s, err
	}
	for name, n := range c.NetworkSettings.Networks {
		if n != nil && n.IPAddress.IsValid() {
			s.Addresses[name] = n.IPAddress.String()
		}
	}
	for p, list := range c.NetworkSettings.Ports {
		for _, b := range list {
			s.Ports = append(s.Ports, b.HostPort+"->"+p.String())
		}
	}
	slices.Sort(s.Ports)
	s.Ports = slices.Compact(s.Ports)
	return s, nil
}
