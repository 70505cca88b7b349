package dockerapi

import (
	"slices"
	"strings"
)

// ReservedLabelPrefix starts the labels that only the gate may set: they say who owns
// a thing and which policy it has. From callers they are taken away, or refused where
// they cannot be.
//
// Labels of an image become a container's: what an image claims below the prefix has
// no weight unless the gate writes the label itself on create, see
// [Request.SetLabel].
const ReservedLabelPrefix = "belay.dev/"

// isReserved says that a label is the gate's own, in any case and with any space
// before it: not every tool that reads labels tells them apart.
func isReserved(key string) bool {
	key = strings.TrimSpace(key)
	return len(key) >= len(ReservedLabelPrefix) && strings.EqualFold(key[:len(ReservedLabelPrefix)], ReservedLabelPrefix)
}

// stripLabels removes reserved labels from the map at key of n and records them.
func (r *Request) stripLabels(n *node, key string) {
	labels := n.get(key)
	if labels == nil || labels.kind != objectNode {
		return
	}
	if !slices.ContainsFunc(labels.keys, isReserved) {
		return
	}
	keys, kids := labels.keys[:0:0], labels.kids[:0:0]
	for i, k := range labels.keys {
		if isReserved(k) {
			r.Call.Facts.DroppedFields = append(r.Call.Facts.DroppedFields, key+"."+k)
			continue
		}
		keys, kids = append(keys, k), append(kids, labels.kids[i])
	}
	labels.keys, labels.kids = keys, kids
	r.changed()
}

// withoutReserved returns labels without the gate's own.
func withoutReserved(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	out := make(map[string]string, len(labels))
	for k, v := range labels {
		if !isReserved(k) {
			out[k] = v
		}
	}
	return out
}
