package move

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

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
	Steps     []Step            `json:"steps,omitempty"`
	Notes     []string          `json:"notes,omitempty"`
	// With are the others of a group, in the order in which they start after this one. Steps and Notes are those of the whole
	// group, and so is Stateful.
	With []*Plan `json:"with,omitempty"`
}

// all returns the plans of all containers that move.
func (p *Plan) all() []*Plan { return append([]*Plan{p}, p.With...) }

// maxOthers bounds how many containers of the source are looked at for what they need of the
// one that moves.
const maxOthers = 1000

// look says what the move of a container, or of several as one, takes, or why it is not moved: for reasons of the
// containers, of others that need them, and of the target. own is the ID of a move whose things
// on the target are its own.
func (r *run) look(ctx context.Context, refs []string, s Settings, own string) (*Plan, error) {
	cs, err := r.named(ctx, refs)
	if err != nil {
		return nil, err
	}
	g := groupOf(cs)
	var plans []*Plan
	var why []recreate.Refusal
	var byTarget bool
	whole := new(recreate.Recipe) // what all of them take together
	for _, c := range cs {
		img, err := r.from.Image(ctx, c.Image)
		if err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
		recipe, its, target, err := r.lookAt(ctx, c, img, s, g, own)
		if err != nil {
			return nil, err
		}
		byTarget = byTarget || len(target) > 0
		for _, refusal := range slices.Concat(its, target) {
			if len(cs) > 1 {
				refusal.Reason = fmt.Sprintf("%q: %s", c.ShortName(), refusal.Reason)
			}
			why = append(why, refusal)
		}
		if recipe != nil {
			plans = append(plans, newPlan(recipe, img))
			whole.Volumes, whole.Ports = add(whole.Volumes, recipe.Volumes), append(whole.Ports, recipe.Ports...)
		}
	}
	room, notes := r.room(ctx, whole)
	byTarget = byTarget || len(room) > 0
	why = append(why, room...)
	if !s.LoseAttributes {
		attributes, unknown := r.attributes(ctx, whole)
		why, notes = append(why, attributes...), append(notes, unknown...)
	}
	if len(why) > 0 {
		names := make([]string, 0, len(g))
		for _, p := range g {
			names = append(names, p.Name)
		}
		return nil, &RefusedError{Container: strings.Join(names, ", "), Refusals: why, Target: byTarget}
	}
	return asOne(plans, append(notes, r.aside()...)), nil
}

// named returns the containers that are named, in the order in which they start.
func (r *run) named(ctx context.Context, refs []string) (cs []*recreate.Container, err error) {
	for _, ref := range refs {
		c, err := r.from.Container(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
		if slices.ContainsFunc(cs, func(o *recreate.Container) bool { return o.ID == c.ID }) {
			return nil, fmt.Errorf("source: %q is named twice", ref)
		}
		cs = append(cs, c)
	}
	if cs, err = inOrder(cs); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	return cs, nil
}

// add adds the volumes that are not there yet.
func add(to, volumes []recreate.Volume) []recreate.Volume {
	for _, v := range volumes {
		if !slices.ContainsFunc(to, func(o recreate.Volume) bool { return o.Name == v.Name }) {
			to = append(to, v)
		}
	}
	return to
}

// lookAt looks at one of the containers that move: what it is made from, and why it is not moved for reasons of its own, of
// others that need it, and of the target.
func (r *run) lookAt(ctx context.Context, c *recreate.Container, img *image.InspectResponse, s Settings, g recreate.Group, own string) (recipe *recreate.Recipe, why, target []recreate.Refusal, err error) {
	recipe, why = recreate.Make(c, img, r.from.Host(), s.Rules, g)
	others, err := r.others(ctx, c, s, g)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("source: %w", err)
	}
	why = append(why, others...)
	if !s.LoseLayer {
		layer, err := r.layer(ctx, c)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("source: %w", err)
		}
		why = append(why, layer...)
	}
	if recipe == nil {
		return nil, why, nil, nil
	}
	if target, err = r.target(ctx, recipe, own); err != nil {
		if _, ok := errors.AsType[*sourceError](err); ok {
			return nil, nil, nil, err
		}
		return nil, nil, nil, &TargetError{err}
	}
	return recipe, why, target, nil
}

// asOne makes one plan of those of all containers that move, and of notes on the whole.
func asOne(plans []*Plan, notes []string) *Plan {
	lead := plans[0]
	lead.With = plans[1:]
	var all []string
	for _, p := range plans {
		for _, n := range p.Notes {
			if len(plans) > 1 {
				n = p.Name + ": " + n
			}
			all = append(all, n)
		}
		p.Notes = nil
	}
	lead.Notes = append(all, notes...)
	lead.Stateful = slices.ContainsFunc(plans, func(p *Plan) bool { return p.Recipe.Stateful() })
	lead.Steps = Steps(lead.Stateful)
	return lead
}

func newPlan(recipe *recreate.Recipe, img *image.InspectResponse) *Plan {
	p := &Plan{
		Recipe: recipe, Image: img, Container: recipe.ID, Name: recipe.Name, Stateful: recipe.Stateful(), ImageName: recipe.Request.Image,
		Volumes: recipe.Volumes, Networks: recipe.Networks, Notes: recipe.Notes,
	}
	for _, port := range recipe.Ports {
		p.Ports = append(p.Ports, port.String())
	}
	return p
}

// again makes the plan of a move that has begun: its sources may be stopped and renamed.
func (r *run) again(ctx context.Context) error {
	stateful := false
	err := r.each(func(m *Member) error {
		c, err := r.from.Container(ctx, m.Container)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		img, err := r.from.Image(ctx, c.Image)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		recipe := recreate.Of(c, img, r.from.Host())
		recipe.Name, recipe.Restart = m.Name, m.Restart
		stateful = stateful || recipe.Stateful()
		m.plan = newPlan(recipe, img)
		return nil
	})
	if err != nil {
		return err
	}
	if stateful != r.j.Stateful {
		return errors.New("source: it is another than when the move began")
	}
	return nil
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

// others says which containers here, but for those that move with it, need the one that moves.
func (r *run) others(ctx context.Context, c *recreate.Container, s Settings, g recreate.Group) (why []recreate.Refusal, err error) {
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
		moves := slices.ContainsFunc(g, func(p recreate.Peer) bool { return p.ID == list[i].ID })
		if moves || r.j != nil && list[i].Labels[recreate.LabelMove] == r.j.ID {
			continue
		}
		o, err := r.from.Container(ctx, list[i].ID)
		if errors.Is(err, engine.ErrNotFound) {
			continue // it is gone
		}
		if err != nil {
			return nil, err
		}
		need := needs(c, o)
		if o.Config.Labels[recreate.LabelHelper] != "" && !started(o) && len(need) > 0 {
			goesOn, err := r.leased(ctx, c.ID, o.Config.Labels[recreate.LabelMove])
			if err != nil {
				return nil, err
			}
			if goesOn {
				continue // the lease says more
			}
			for i := range need {
				need[i].Fix = "docker rm " + o.ShortName() + ": a move left it"
			}
		}
		why = append(why, need...)
		if !o.State.Running || s.SplitNetworks {
			continue
		}
		for name := range o.NetworkSettings.Networks {
			if slices.Contains(local, name) {
				why = append(why, recreate.Refusal{
					Reason: fmt.Sprintf("%q is on its network %q, which is on this host alone: by their names they would no longer find each other", o.ShortName(), name),
					Fix:    recreate.TogetherFix + "; or --split-networks, if they do not need that",
				})
			}
		}
	}
	return why, nil
}

// leased reports whether a move has the lease of a container here.
func (r *run) leased(ctx context.Context, container, move string) (bool, error) {
	v, err := r.from.Volume(ctx, leaseName(container))
	if errors.Is(err, engine.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return v.Labels[recreate.LabelMove] == move, nil
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
	it := recreate.Peer{ID: c.ID, Name: c.ShortName()}
	say := func(what string) {
		why = append(why, recreate.Refusal{Reason: fmt.Sprintf("%q %s", other.ShortName(), what), Fix: recreate.TogetherFix})
	}
	for _, n := range other.Needed() {
		if it.Is(n.Ref) {
			say(n.What)
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
	host := recipe.Request.HostConfig
	if here, there := cgroups(r.from), cgroups(r.to); here != there && limited(&host.Resources) {
		no("", "it has cgroups of version %d, and the source of version %d: limits would be others", there, here)
	}
	if remapped(a.SecurityOptions) != remapped(b.SecurityOptions) {
		no("", "one engine maps users (userns-remap, rootless) and the other does not: owners of files would be others")
	}
	for _, lost := range unguarded(a.SecurityOptions, b.SecurityOptions) {
		no("switch it on there", "its engine does not confine containers by %s, and the one here does", lost)
	}
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

func cgroups(e *engine.Engine) int {
	if e.Host().CgroupV1 {
		return 1
	}
	return 2
}

// limited reports whether a container has limits, which cgroups of another version keep otherwise or not at all.
func limited(r *container.Resources) bool {
	return r.Memory != 0 || r.MemoryReservation != 0 || r.MemorySwap != 0 || r.MemorySwappiness != nil && *r.MemorySwappiness != -1 ||
		r.OomKillDisable != nil && *r.OomKillDisable || r.PidsLimit != nil && *r.PidsLimit > 0 ||
		r.NanoCPUs != 0 || r.CPUShares != 0 || r.CPUPeriod != 0 || r.CPUQuota != 0 || r.CPURealtimePeriod != 0 || r.CPURealtimeRuntime != 0 ||
		r.CpusetCpus != "" || r.CpusetMems != "" || r.CgroupParent != "" ||
		r.BlkioWeight != 0 || len(r.BlkioWeightDevice) > 0 || len(r.BlkioDeviceReadBps) > 0 || len(r.BlkioDeviceWriteBps) > 0 ||
		len(r.BlkioDeviceReadIOps) > 0 || len(r.BlkioDeviceWriteIOps) > 0
}

// maxApart is how far apart the clocks of two hosts may be without a word.
const maxApart = time.Minute

// aside says of the target what keeps no container from moving.
func (r *run) aside() (notes []string) {
	if r.to.API < r.from.API {
		notes = append(notes, fmt.Sprintf("its engine speaks API 1.%d, and the one here 1.%d: what it would leave out of the container is found when that is made there, before the source stops", r.to.API, r.from.API))
	}
	if here, there := cgroups(r.from), cgroups(r.to); here != there {
		notes = append(notes, fmt.Sprintf("its cgroups are of version %d, and those here of version %d: what the container reads of its own is another", there, here))
	}
	here, err := time.Parse(time.RFC3339Nano, r.from.Info.SystemTime)
	there, err2 := time.Parse(time.RFC3339Nano, r.to.Info.SystemTime)
	if apart := there.Sub(here).Abs(); err == nil && err2 == nil && apart > maxApart {
		notes = append(notes, fmt.Sprintf("the clocks of the two hosts are %s apart: what the container wrote has times of the other one", apart.Round(time.Second)))
	}
	return notes
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
