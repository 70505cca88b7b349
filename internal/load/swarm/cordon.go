package swarm

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	api "github.com/moby/moby/api/types/swarm"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/place"
)

// LabelCordon is a node's label while it is paused from here: since when.
const LabelCordon = "dev.belay.load.cordon"

// Cordon implements [place.Placer] by the node's availability: paused, it gets no new tasks and
// keeps those that it has. A node that somebody else has paused or drained is left so.
//
// Errors: [*place.Later], while a service is asked to leave this node: see the package.
func (s *Swarm) Cordon(ctx context.Context, on bool) error {
	const tries = 5
	for range tries {
		if err := s.cordon(ctx, on); !errors.Is(err, engine.ErrOutOfSequence) {
			return err
		}
	}
	return &place.Later{After: laterFor, Reason: "others change the node"}
}

func (s *Swarm) cordon(ctx context.Context, on bool) error {
	n, spec, err := s.manager.SwarmNode(ctx, s.node)
	if err != nil {
		return err
	}
	_, ours := n.Spec.Labels[LabelCordon]
	if on == ours || on && n.Spec.Availability != api.NodeAvailabilityActive {
		return nil
	}
	services, err := s.manager.Services(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(services, func(v api.Service) bool { return v.Spec.Labels[LabelLeave] == s.node }) {
		return &place.Later{After: laterFor, Reason: "a service is being asked to leave this node, and Swarm would end its tasks here at once"}
	}
	root, err := object(spec)
	if err != nil {
		return err
	}
	labels := map[string]string{}
	if err := decode(root["Labels"], &labels); err != nil {
		return err
	}
	if labels == nil {
		labels = map[string]string{}
	}
	if on {
		labels[LabelCordon] = time.Now().UTC().Format(time.RFC3339)
		encode(root, "Availability", api.NodeAvailabilityPause, true)
	} else {
		delete(labels, LabelCordon)
		if n.Spec.Availability == api.NodeAvailabilityPause { // else somebody has changed it since
			encode(root, "Availability", api.NodeAvailabilityActive, true)
		}
	}
	encode(root, "Labels", labels, true)
	b, err := json.Marshal(root)
	if err != nil {
		return err
	}
	return s.manager.UpdateNode(ctx, n.ID, n.Version.Index, b)
}
