package swarm

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/mount"
	api "github.com/moby/moby/api/types/swarm"
)

// LabelShared is the label, with the value true, of a volume in a service's specification that is the
// same on all nodes.
const LabelShared = "dev.belay.load.shared"

// stays says why a service may not be asked to leave a node, all reasons; none if it may.
func (w *world) stays(svc *api.Service, node string) (why []string) {
	t := &svc.Spec.TaskTemplate
	switch m := &svc.Spec.Mode; {
	case m.Global != nil:
		return []string{"it is a global service: each node has one of its tasks"}
	case m.ReplicatedJob != nil || m.GlobalJob != nil:
		return []string{"it is a job, which would begin again elsewhere"}
	case m.Replicated == nil || m.Replicated.Replicas == nil:
		return []string{"how many replicas it is to have is not known"}
	}
	if t.Runtime != "" && t.Runtime != api.RuntimeContainer || t.ContainerSpec == nil {
		return []string{"it runs no containers"}
	}
	switch leaves := svc.Spec.Labels[LabelLeave]; {
	case leaves == node:
		why = append(why, "it is being asked to leave already")
	case leaves != "" && !slices.ContainsFunc(w.nodes, func(n api.Node) bool { return n.ID == leaves }):
		why = append(why, fmt.Sprintf("it was asked to leave the node %s, which is not of this swarm any more; fix: take out the constraint and the label %s (docs/moving.md)", leaves, LabelLeave))
	case leaves != "":
		why = append(why, "it is being asked to leave another node")
	}
	if r := rollout(svc); r != "" {
		why = append(why, r)
	}
	for i := range t.ContainerSpec.Mounts {
		if r := ties(&t.ContainerSpec.Mounts[i]); r != "" {
			why = append(why, r)
		}
	}
	if r := t.Resources; r != nil && r.Reservations != nil && len(r.Reservations.GenericResources) > 0 {
		why = append(why, "it reserves resources of a kind of their own, and whether others have those free is not known")
	}
	if r := w.nowhere(svc, node); r != "" {
		why = append(why, r)
	}
	return why
}

// rollout says which update of a service is not over, or nothing.
func rollout(svc *api.Service) string {
	if svc.UpdateStatus == nil {
		return ""
	}
	said := ""
	if svc.UpdateStatus.Message != "" {
		said = ": " + svc.UpdateStatus.Message
	}
	switch svc.UpdateStatus.State {
	case "", api.UpdateStateCompleted, api.UpdateStateRollbackCompleted:
		return ""
	case api.UpdateStateUpdating:
		return "an update of it is in progress" + said
	case api.UpdateStatePaused:
		return "an update of it is paused" + said
	case api.UpdateStateRollbackStarted:
		return "it is being rolled back" + said
	case api.UpdateStateRollbackPaused:
		return "its rollback is paused" + said
	}
	return "its update is in a state that is not known, " + string(svc.UpdateStatus.State)
}

// ties says why a mount keeps a task on its node, or nothing.
func ties(m *mount.Mount) string {
	switch m.Type {
	case mount.TypeBind:
		return fmt.Sprintf("it has the path %q of its host", m.Source)
	case mount.TypeTmpfs, mount.TypeImage, mount.TypeCluster:
		return ""
	case mount.TypeVolume:
		o := m.VolumeOptions
		switch {
		case m.Source == "":
			return fmt.Sprintf("it has an anonymous volume at %q, which is on this node alone", m.Target)
		case o != nil && o.Labels[LabelShared] == "true":
			return ""
		case o == nil || o.DriverConfig == nil || o.DriverConfig.Name == "" || o.DriverConfig.Name == "local" && !remote(o.DriverConfig.Options):
			return fmt.Sprintf("it has the volume %q, which is on this node alone", m.Source)
		case o.DriverConfig.Name != "local":
			return fmt.Sprintf("it has the volume %q of the driver %q, and nobody says that other nodes have the same data; fix: volume-label=%s=true in its --mount, if they have", m.Source, o.DriverConfig.Name, LabelShared)
		}
		return ""
	}
	return fmt.Sprintf("it has a mount of a type that is not known, %q, at %q", m.Type, m.Target)
}

// remote reports whether a volume of the local driver is a file system of the network: the same
// wherever it is mounted.
func remote(options map[string]string) bool {
	return slices.Contains([]string{"nfs", "nfs4", "cifs"}, options["type"])
}

// nowhere says why no other node would take all tasks of a service that are on a node, or nothing.
// It counts as Swarm's scheduler does: reservations, and not what is used.
func (w *world) nowhere(svc *api.Service, node string) string {
	leave := 0
	for i := range w.tasks {
		if t := &w.tasks[i]; t.ServiceID == svc.ID && t.NodeID == node && wanted(t) {
			leave++
		}
	}
	need := reserved(&svc.Spec.TaskTemplate)
	reasons := map[string]int{}
	for i := range w.nodes {
		n := &w.nodes[i]
		if n.ID == node {
			continue
		}
		if why := unfit(svc, n); why != "" {
			reasons[why]++
			continue
		}
		room := w.room(svc, n, need)
		if leave -= room; leave <= 0 {
			return ""
		}
		if room == 0 {
			reasons["has no room, as reservations go"]++
		}
	}
	var parts []string
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		parts = append(parts, fmt.Sprintf("%d %s", reasons[why], why))
	}
	if len(parts) == 0 {
		return fmt.Sprintf("no other node is left for %d of its tasks", leave)
	}
	return fmt.Sprintf("no other node takes %d of its tasks: %s", leave, strings.Join(parts, ", "))
}

// unfit says why a node takes no task of a service, or nothing.
func unfit(svc *api.Service, n *api.Node) string {
	t := &svc.Spec.TaskTemplate
	switch {
	case n.Status.State != api.NodeStateReady:
		return "is not ready"
	case n.Spec.Availability != api.NodeAvailabilityActive:
		return "is not available"
	case slices.ContainsFunc(constraints(t), func(c string) bool { return !meets(n, c) }):
		return "does not meet its constraints"
	case t.Placement != nil && len(t.Placement.Platforms) > 0 && !slices.ContainsFunc(t.Placement.Platforms, func(p api.Platform) bool { return runs(n, p) }):
		return "is of another platform"
	}
	return ""
}

func runs(n *api.Node, p api.Platform) bool {
	have := n.Description.Platform
	return (p.OS == "" || p.OS == have.OS) && (p.Architecture == "" || architecture(p.Architecture) == architecture(have.Architecture))
}

// architecture is one name for the two that engines and images use.
func architecture(a string) string {
	switch a {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return a
}

// meets reports whether a node meets a constraint. One that is not understood no node meets.
//
// Source: swarmkit, manager/constraint/constraint.go.
func meets(n *api.Node, text string) bool {
	key, want, equal := strings.Cut(text, "==")
	if !equal {
		var ok bool
		if key, want, ok = strings.Cut(text, "!="); !ok {
			return false
		}
	}
	key, want = strings.TrimSpace(key), strings.TrimSpace(want)
	if strings.EqualFold(key, "node.ip") {
		return ofAddress(n.Status.Addr, want, equal)
	}
	var have string
	switch low := strings.ToLower(key); {
	case low == "node.id":
		have = n.ID
	case low == "node.hostname":
		have = n.Description.Hostname
	case low == "node.role":
		have = string(n.Spec.Role)
	case low == "node.platform.os":
		have = n.Description.Platform.OS
	case low == "node.platform.arch":
		have = n.Description.Platform.Architecture
	case strings.HasPrefix(low, "node.labels."):
		have = n.Spec.Labels[key[len("node.labels."):]]
	case strings.HasPrefix(low, "engine.labels."):
		have = n.Description.Engine.Labels[key[len("engine.labels."):]]
	default:
		return false
	}
	return strings.EqualFold(have, want) == equal
}

func ofAddress(have, want string, equal bool) bool {
	addr, err := netip.ParseAddr(have)
	if err != nil {
		return false
	}
	if p, err := netip.ParsePrefix(want); err == nil {
		return p.Contains(addr) == equal
	}
	w, err := netip.ParseAddr(want)
	return err == nil && (addr == w) == equal
}

// amounts are of what tasks reserve.
type amounts struct{ cpu, memory int64 }

func reserved(t *api.TaskSpec) (a amounts) {
	if t.Resources != nil && t.Resources.Reservations != nil {
		a = amounts{t.Resources.Reservations.NanoCPUs, t.Resources.Reservations.MemoryBytes}
	}
	return a
}

// room is how many more tasks of a service a node takes.
func (w *world) room(svc *api.Service, n *api.Node, need amounts) int {
	const most = 1 << 20
	free, here := amounts{n.Description.Resources.NanoCPUs, n.Description.Resources.MemoryBytes}, 0
	for i := range w.tasks {
		t := &w.tasks[i]
		if t.NodeID != n.ID || ended(t) {
			continue
		}
		r := reserved(&t.Spec)
		free.cpu, free.memory = free.cpu-r.cpu, free.memory-r.memory
		if t.ServiceID == svc.ID {
			here++
		}
		if other := w.service(t.ServiceID); other != nil && samePort(svc, other) {
			return 0
		}
	}
	room := most
	if need.cpu > 0 {
		room = min(room, int(max(free.cpu, 0)/need.cpu))
	}
	if need.memory > 0 {
		room = min(room, int(max(free.memory, 0)/need.memory))
	}
	if p := svc.Spec.TaskTemplate.Placement; p != nil && p.MaxReplicas > 0 {
		room = min(room, max(int(min(p.MaxReplicas, most))-here, 0)) //nolint:gosec // bounded
	}
	if len(hostPorts(svc)) > 0 {
		room = min(room, 1)
	}
	return room
}

// hostPorts are the ports that each task of a service has of its node.
func hostPorts(svc *api.Service) (out []api.PortConfig) {
	if svc.Spec.EndpointSpec == nil {
		return nil
	}
	for _, p := range svc.Spec.EndpointSpec.Ports {
		if p.PublishMode == api.PortConfigPublishModeHost && p.PublishedPort != 0 {
			out = append(out, p)
		}
	}
	return out
}

func samePort(a, b *api.Service) bool {
	return slices.ContainsFunc(hostPorts(a), func(p api.PortConfig) bool {
		return slices.ContainsFunc(hostPorts(b), func(o api.PortConfig) bool { return o.PublishedPort == p.PublishedPort && o.Protocol == p.Protocol })
	})
}
