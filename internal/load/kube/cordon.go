package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/retry"
)

// taintKey is the key of the one taint that is Belay's: NoSchedule, without a value.
const taintKey = "belay.dev/over-cap"

// operation is one of a JSON Patch (RFC 6902). Taints are patched by place, since writing them whole would drop fields
// that a newer API server has and this program does not know.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// Cordon implements [place.Placer] with a taint. spec.unschedulable is whoever drains the node's, and left alone.
func (p *Placer) Cordon(ctx context.Context, on bool) error {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := p.node(ctx)
		if err != nil {
			return err
		}
		change := taint(node, on)
		if change == nil {
			return nil
		}
		patch, err := json.Marshal([]operation{{Op: "replace", Path: "/metadata/resourceVersion", Value: node.ResourceVersion}, *change})
		if err != nil {
			return err
		}
		return p.api.patchNode(ctx, p.o.Node, patch)
	})
	if err != nil {
		return fmt.Errorf("taint %s: %w", taintKey, err)
	}
	return nil
}

// taint returns what to change about a node, or nil.
func taint(node *corev1.Node, on bool) *operation {
	own := slices.IndexFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintKey && t.Effect == corev1.TaintEffectNoSchedule })
	add := corev1.Taint{Key: taintKey, Effect: corev1.TaintEffectNoSchedule}
	switch {
	case on == (own >= 0):
		return nil
	case !on:
		return &operation{Op: "remove", Path: fmt.Sprintf("/spec/taints/%d", own)}
	case len(node.Spec.Taints) == 0:
		return &operation{Op: "add", Path: "/spec/taints", Value: []corev1.Taint{add}}
	}
	return &operation{Op: "add", Path: "/spec/taints/-", Value: add}
}
