package move

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/recreate"
)

// Plan is what a move would do.
type Plan struct {
	Recipe *recreate.Recipe       `json:"-"` // it has environment values
	Image  *image.InspectResponse `json:"-"`

	Container string            `json:"container"`
	Name      string            `json:"name"`
	Stateful  bool              `json:"stateful"`
	ImageName string            `json:"image"`
	Volumes   []recreate.Volume `json:"volumes,omitempty"`
	Networks  []string          `json:"networks,omitempty"`
	Ports     []string          `json:"ports,omitempty"`
	Steps     []Step            `json:"steps"`
	Notes     []string          `json:"notes,omitempty"`
}

// maxOthers bounds how many containers of the source are looked at for what they need of the
// one that moves.
const maxOthers = 1000

// look says what the move of a container takes, or why it is not moved: for reasons of the
// container, of others that need it, and of the target. own is the ID of a move whose things
// on the target are its own.
func (r *run) look(ctx context.Context, ref string, s Settings, own string) (*Plan, error) {
	c, err := r.from.Container(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	img, err := r.from.Image(ctx, c.Image)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	recipe, why := recreate.Make(c, img, r.from.Host(), s.Rules)
	others, err := r.others(ctx, c, s)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	why = append(why, others...)
	if !s.LoseLayer {
		layer, err := r.layer(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
		why = append(why, layer...)
	}
	var target []recreate.Refusal
	var notes []string
	if recipe != nil {
		if target, err = r.target(ctx, recipe, own); err != nil {
			if _, ok := errors.AsType[*sourceError](err); ok {
				return nil, err
			}
			return nil, &TargetError{err}
		}
		room, unknown := r.room(ctx, recipe)
		target, notes = append(target, room...), unknown
		why = append(why, target...)
	}
	if recipe != nil && !s.LoseAttributes {
		attributes, unknown := r.attributes(ctx, recipe)
		why, notes = append(why, attributes...), append(notes, unknown...)
	}
	if len(why) > 0 {
		return nil, &RefusedError{Container: c.ShortName(), Refusals: why, Target: len(target) > 0}
	}
	p := newPlan(recipe, img)
	p.Notes = slices.Concat(p.Notes, notes)
	return p, nil
}

func newPlan(recipe *recreate.Recipe, img *image.InspectResponse) *Plan {
	p := &Plan{
		Recipe: recipe, Image: img, Container: recipe.ID, Name: recipe.Name, Stateful: recipe.Stateful(), ImageName: recipe.Request.Image,
		Volumes: recipe.Volumes, Networks: recipe.Networks, Steps: Steps(recipe.Stateful()), Notes: recipe.Notes,
	}
	for _, port := range recipe.Ports {
		p.Ports = append(p.Ports, port.String())
	}
	return p
}

// again makes the plan of a move that has begun: its source may be stopped and renamed.
func (r *run) again(ctx context.Context) (*Plan, error) {
	c, err := r.from.Container(ctx, r.j.Container)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	img, err := r.from.Image(ctx, c.Image)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	recipe := recreate.Of(c, img, r.from.Host())
	recipe.Name, recipe.Restart = r.j.Name, r.j.Restart
	if recipe.Stateful() != r.j.Stateful {
		return nil, errors.New("source: it is another than when the move began")
	}
	return newPlan(recipe, img), nil
}

// layer says what a container has written to its own layer, which stays behind.
func (r *run) layer(ctx context.Context, c *recreate.Container) ([]recreate.Refusal, error) {
	changes, err := r.from.Changes(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	written := c.Written(changes)
	if len(written) == 0 {
		return nil, nil
	}
	n := len(written)
	if n > 3 {
		written = append(written[:3], "…")
	}
	return []recreate.Refusal{{
		Reason: fmt.Sprintf("it has written to its own layer, which stays behind: %d paths, %s", n, strings.Join(written, ", ")),
		Fix:    "--lose-layer, if it can do without them",
	}}, nil
}

// others says which containers here need the one that moves, or are needed by it.
func (r *run) others(ctx context.Context, c *recreate.Container, s Settings) (why []recreate.Refusal, err error) {
	list, err := r.from.Containers(ctx, nil)
	if err != nil {
		return nil, err
	}
	if len(list) > maxOthers {
		return nil, fmt.Errorf("it has %d containers, and at most %d are looked at for what they need of this one", len(list), maxOthers)
	}
	local, err := r.localNetworks(ctx, c)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].ID == c.ID || r.j != nil && list[i].Labels[recreate.LabelMove] == r.j.ID {
			continue
		}
		o, err := r.from.Container(ctx, list[i].ID)
		if errors.Is(err, engine.ErrNotFound) {
			continue // it is gone
		}
		if err != nil {
			return nil, err
		}
		why = append(why, needs(c, o)...)
		if !o.State.Running || s.SplitNetworks {
			continue
		}
		for name := range o.NetworkSettings.Networks {
			if slices.Contains(local, name) {
				why = append(why, recreate.Refusal{
					Reason: fmt.Sprintf("%q is on its network %q, which is on this host alone: by their names they would no longer find each other", o.ShortName(), name),
					Fix:    "--split-networks, if they do not need that",
				})
			}
		}
	}
	return why, nil
}

// localNetworks returns the user's networks of c that are on this host alone.
func (r *run) localNetworks(ctx context.Context, c *recreate.Container) (names []string, err error) {
	for name := range c.NetworkSettings.Networks {
		if name == network.NetworkBridge || name == network.NetworkNone || name == network.NetworkHost {
			continue
		}
		n, err := r.from.Network(ctx, name)
		if err != nil {
			return nil, err
		}
		if n.Scope == "local" {
			names = append(names, name)
		}
	}
	return names, nil
}

// needs says what other has of c.
func needs(c, other *recreate.Container) (why []recreate.Refusal) {
	isIt := func(ref string) bool {
		ref = strings.TrimPrefix(ref, "/")
		return ref != "" && (ref == c.ShortName() || len(ref) >= 12 && strings.HasPrefix(c.ID, ref))
	}
	h := other.HostConfig
	say := func(what string) {
		why = append(why, recreate.Refusal{Reason: fmt.Sprintf("%q %s", other.ShortName(), what), Fix: "the two would have to move as one, which is not built"})
	}
	for _, mode := range []string{string(h.NetworkMode), string(h.PidMode), string(h.IpcMode)} {
		if ref, ok := strings.CutPrefix(mode, "container:"); ok && isIt(ref) {
			say("shares a namespace with it")
		}
	}
	for _, l := range h.Links {
		if name, _, _ := strings.Cut(l, ":"); isIt(name) {
			say("names it by --link")
		}
	}
	for _, f := range h.VolumesFrom {
		if name, _, _ := strings.Cut(f, ":"); isIt(name) {
			say("has its volumes (--volumes-from)")
		}
	}
	for _, m := range other.Mounts {
		if m.Name != "" && slices.ContainsFunc(c.Mounts, func(x container.MountPoint) bool { return x.Name == m.Name }) {
			say(fmt.Sprintf("has its volume %q too", m.Name))
		}
	}
	return why
}

// sourceError is for a source that could not be asked about what the target is to have.
type sourceError struct{ err error }

// Error says what.
func (e *sourceError) Error() string { return "source: " + e.err.Error() }

// Unwrap returns what.
func (e *sourceError) Unwrap() error { return e.err }

// target says what of the target is in the way.
func (r *run) target(ctx context.Context, recipe *recreate.Recipe, own string) (why []recreate.Refusal, err error) {
	no := func(fix, format string, a ...any) {
		why = append(why, recreate.Refusal{Reason: "the target: " + fmt.Sprintf(format, a...), Fix: fix})
	}
	a, b := &r.from.Info, &r.to.Info
	// Machines that were cloned have engines of one ID: only the container itself tells.
	switch _, err := r.to.Container(ctx, recipe.ID); {
	case err == nil:
		no("", "it is the engine that the container is on")
		return why, nil
	case !errors.Is(err, engine.ErrNotFound):
		return nil, err
	}
	if a.OSType != b.OSType || a.Architecture != b.Architecture {
		no("", "it is %s on %s, and the source %s on %s", b.OSType, b.Architecture, a.OSType, a.Architecture)
	}
	if remapped(a.SecurityOptions) != remapped(b.SecurityOptions) {
		no("", "one engine maps users (userns-remap, rootless) and the other does not: owners of files would be others")
	}
	for _, lost := range unguarded(a.SecurityOptions, b.SecurityOptions) {
		no("switch it on there", "its engine does not confine containers by %s, and the one here does", lost)
	}
	host := recipe.Request.HostConfig
	if _, ok := b.Runtimes[host.Runtime]; host.Runtime != "" && !ok {
		no("install it there", "it has no runtime %q", host.Runtime)
	}
	if kind := host.LogConfig.Type; kind != "" && kind != "none" && len(b.Plugins.Log) > 0 && !slices.Contains(b.Plugins.Log, kind) {
		no("install it there", "it has no log driver %q", kind)
	}
	more, err := r.taken(ctx, recipe, own)
	if err != nil {
		return nil, err
	}
	why = append(why, more...)
	for _, name := range recipe.Networks {
		reason, err := r.networkFits(ctx, name)
		if err != nil {
			return nil, err
		}
		if reason != "" {
			no("make the network there yourself, as it should be", "%s", reason)
		}
	}
	return why, r.volumesFit(ctx, recipe, own, no)
}

func remapped(opts []string) bool {
	return slices.ContainsFunc(opts, func(o string) bool { return strings.Contains(o, "name=userns") || strings.Contains(o, "name=rootless") })
}

// unguarded returns what of an engine's security options another engine lacks: AppArmor, SELinux,
// seccomp, and no-new-privileges. An engine leaves a profile out where its host has none.
func unguarded(here, there []string) (lost []string) {
	has := func(opts []string, name string) bool {
		return slices.ContainsFunc(opts, func(o string) bool {
			own, rest, _ := strings.Cut(strings.TrimPrefix(o, "name="), ",")
			return own == name && !strings.Contains(rest, "profile=unconfined")
		})
	}
	for _, name := range []string{"apparmor", "selinux", "seccomp", "no-new-privileges"} {
		if has(here, name) && !has(there, name) {
			lost = append(lost, name)
		}
	}
	return lost
}

// taken says whether the name and the ports are free on the target.
func (r *run) taken(ctx context.Context, recipe *recreate.Recipe, own string) (why []recreate.Refusal, err error) {
	list, err := r.to.Containers(ctx, nil)
	if err != nil {
		return nil, err
	}
	for i := range list {
		c := &list[i]
		if own != "" && c.Labels[recreate.LabelMove] == own {
			continue
		}
		if slices.Contains(c.Names, "/"+recipe.Name) {
			why = append(why, recreate.Refusal{Reason: fmt.Sprintf("the target: it has a container called %q", recipe.Name), Fix: "rename one of them"})
		}
		for _, p := range c.Ports {
			for _, want := range recipe.Ports {
				if p.PublicPort != 0 && strconv.Itoa(int(p.PublicPort)) == want.Port && p.Type == want.Protocol && meets(p.IP.String(), p.IP.IsValid() && !p.IP.IsUnspecified(), want.IP) {
					why = append(why, recreate.Refusal{Reason: "the target: its port " + want.String() + " is taken by a container"})
				}
			}
		}
	}
	return slices.Compact(why), nil
}

// meets reports whether two bindings of one port are in each other's way.
func meets(ip string, one bool, want string) bool { return !one || want == "" || ip == want }

// networkFits says why the target cannot have the network of a name, or nothing.
func (r *run) networkFits(ctx context.Context, name string) (string, error) {
	a, err := r.from.Network(ctx, name)
	if err != nil {
		return "", &sourceError{err}
	}
	b, err := r.to.Network(ctx, name)
	if errors.Is(err, engine.ErrNotFound) {
		switch {
		case a.Driver != "bridge" || a.Scope != "local":
			return fmt.Sprintf("it has no network %q, and one of driver %q is not made by a move", name, a.Driver), nil
		case a.ConfigFrom.Network != "" || a.ConfigOnly || a.Ingress || len(a.IPAM.Options) > 0 || a.IPAM.Driver != "" && a.IPAM.Driver != "default":
			return fmt.Sprintf("it has no network %q, and one of this kind is not made by a move", name), nil
		}
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if what := otherNetwork(a, b); what != "" {
		return fmt.Sprintf("its network %q is another: %s", name, what), nil
	}
	return "", nil
}

// otherNetwork says in what two networks of one name differ that a container would notice.
func otherNetwork(a, b *network.Inspect) string {
	switch {
	case a.Driver != b.Driver:
		return fmt.Sprintf("driver %q, not %q", b.Driver, a.Driver)
	case a.Scope != b.Scope:
		return fmt.Sprintf("scope %q, not %q", b.Scope, a.Scope)
	case a.Scope == "swarm" && a.ID != b.ID:
		return "it is of another swarm"
	case a.Internal != b.Internal:
		return fmt.Sprintf("internal is %v", b.Internal)
	case a.EnableIPv6 != b.EnableIPv6:
		return fmt.Sprintf("IPv6 is %v", b.EnableIPv6)
	case !maps.Equal(recreate.NetworkOptions(a.Options), recreate.NetworkOptions(b.Options)):
		return "its options"
	}
	return ""
}

// volumesFit says of each volume why it cannot be copied.
func (r *run) volumesFit(ctx context.Context, recipe *recreate.Recipe, own string, no func(fix, format string, a ...any)) error {
	for _, v := range recipe.Volumes {
		a, err := r.from.Volume(ctx, v.Name)
		if err != nil {
			return &sourceError{err}
		}
		if a.Driver != "local" {
			no("", "the volume %q is of driver %q, and only local ones are copied", v.Name, a.Driver)
		}
		if len(a.Options) > 0 {
			no("", "the volume %q has options, and may be a path of the host or storage that hosts share", v.Name)
		}
		b, err := r.to.Volume(ctx, v.Name)
		switch {
		case errors.Is(err, engine.ErrNotFound):
		case err != nil:
			return err
		case own == "" || b.Labels[recreate.LabelMove] != own:
			no("if nothing needs it: docker volume rm there", "it has a volume called %q", v.Name)
		}
	}
	return nil
}
