package engine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"

	"github.com/belay-project/belay/internal/load/plan"
	"github.com/belay-project/belay/internal/load/recreate"
)

// DescribeOptions say what of an engine's containers is looked at.
type DescribeOptions struct {
	// Selected says whether a LoadPolicy lets a container move; nil: none may.
	Selected func(name, image string, labels map[string]string) bool
}

// Describe returns what a planner wants to know of an engine: what ties its containers to it,
// what it offers, and what is there already. What is used, caps and verdicts of policies it does not
// know.
func (e *Engine) Describe(ctx context.Context, o DescribeOptions) (*plan.Node, error) {
	if o.Selected == nil {
		o.Selected = func(string, string, map[string]string) bool { return false }
	}
	list, err := e.Containers(ctx, nil)
	if err != nil {
		return nil, err
	}
	if len(list) > plan.MaxContainers {
		return nil, fmt.Errorf("it has %d containers, and moves are planned for at most %d", len(list), plan.MaxContainers)
	}
	networks, err := e.Networks(ctx)
	if err != nil {
		return nil, err
	}
	volumes, err := e.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	n := &plan.Node{Host: e.platform(), Site: e.site(networks, volumes)}
	d := &describer{e: e, o: o, networks: n.Site.Networks, volumes: volumes, peers: peers(list), images: map[string]*image.InspectResponse{}}
	if n.Containers, err = d.all(ctx, list); err != nil {
		return nil, err
	}
	slices.SortFunc(n.Containers, func(a, b plan.Container) int { return cmp.Compare(a.Name, b.Name) })
	return n, nil
}

// architectures are GOARCH by the words of uname(2), which engines use.
var architectures = map[string]string{"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i386": "386", "i686": "386"}

func (e *Engine) platform() plan.Platform {
	p := plan.Platform{Architecture: e.Info.Architecture, Engine: e.Info.ServerVersion, Cgroup: 1}
	if a, ok := architectures[p.Architecture]; ok {
		p.Architecture = a
	}
	if e.Info.CgroupVersion == "2" {
		p.Cgroup = 2
	}
	for name := range e.Info.Runtimes {
		p.Offers = append(p.Offers, "runtime:"+name)
	}
	for _, name := range append(slices.Clone(e.Info.Plugins.Log), "none") {
		p.Offers = append(p.Offers, "log-driver:"+name)
	}
	for _, s := range e.Info.SecurityOptions {
		name, _, _ := strings.Cut(strings.TrimPrefix(s, "name="), ",")
		p.Offers = append(p.Offers, "lsm:"+name)
	}
	slices.Sort(p.Offers)
	p.Offers = slices.Compact(p.Offers)
	p.ContainerdStore = slices.ContainsFunc(e.Info.DriverStatus, func(s [2]string) bool {
		return s[0] == "driver-type" && strings.HasPrefix(s[1], "io.containerd.snapshotter.")
	})
	return p
}

func (e *Engine) site(networks []network.Inspect, volumes []volume.Volume) plan.Site {
	s := plan.Site{VolumeDrivers: slices.Sorted(slices.Values(e.Info.Plugins.Volume))}
	for i := range networks {
		n := &networks[i]
		s.Networks = append(s.Networks, plan.Attachment{Name: n.Name, Driver: n.Driver, Global: n.Scope == "swarm" || n.Scope == "global", Config: networkDigest(n)})
	}
	for i := range volumes {
		s.Volumes = append(s.Volumes, volumes[i].Name)
	}
	slices.SortFunc(s.Networks, func(a, b plan.Attachment) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(s.Volumes)
	return s
}

// networkDigest is equal for networks that a container takes for the same: what a move compares.
func networkDigest(n *network.Inspect) string {
	one := struct {
		Driver, Scope, ID string
		Internal, IPv6    bool
		Options           map[string]string
	}{n.Driver, n.Scope, "", n.Internal, n.EnableIPv6, recreate.NetworkOptions(n.Options)}
	if n.Scope == "swarm" {
		one.ID = n.ID
	}
	b, err := json.Marshal(one)
	if err != nil {
		return "" // equal to none
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12])
}

// describer describes the containers of one engine.
type describer struct {
	e        *Engine
	o        DescribeOptions
	networks []plan.Attachment
	volumes  []volume.Volume
	peers    recreate.Group

	mu     sync.Mutex
	images map[string]*image.InspectResponse // nil: it is not there; guarded by mu
}

// peers are all containers of an engine: which of them move as one is the planner's to say.
func peers(list []container.Summary) (g recreate.Group) {
	for i := range list {
		p := recreate.Peer{ID: list[i].ID}
		for _, n := range list[i].Names {
			if name := strings.TrimPrefix(n, "/"); !strings.Contains(name, "/") { // and not one by which a link knows it
				p.Name = name
			}
		}
		g = append(g, p)
	}
	return g
}

// askedAtOnce is how many containers an engine is asked about at a time: more would only wait there.
const askedAtOnce = 8

// all describes the containers of a list, but for those that are gone by then.
func (d *describer) all(ctx context.Context, list []container.Summary) ([]plan.Container, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	found := make([]*plan.Container, len(list))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(askedAtOnce, len(list)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(list)); i = next.Add(1) - 1 {
				c, err := d.container(ctx, list[i].ID)
				switch {
				case errors.Is(err, ErrNotFound): // it is gone
				case err != nil:
					cancel(err)
					return
				default:
					found[i] = c
				}
			}
		})
	}
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	out := []plan.Container{}
	for _, c := range found {
		if c != nil {
			out = append(out, *c)
		}
	}
	return out, nil
}

func (d *describer) container(ctx context.Context, id string) (*plan.Container, error) {
	in, err := d.e.Container(ctx, id)
	if err != nil {
		return nil, err
	}
	c := &plan.Container{ID: in.ID, Name: in.ShortName(), State: string(in.State.Status), Image: plan.Image{Ref: in.Config.Image, Digest: in.Image}}
	c.Selected = d.o.Selected(c.Name, c.Image.Ref, in.Config.Labels)
	d.host(c, in)
	d.net(c, in)
	d.storage(c, in)
	life(c, in)
	if c.Selected && in.State.Running {
		// Of others it does not matter, and the engine walks through files for it.
		changes, err := d.e.Changes(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		c.Storage.LayerKnown = true
		if written := in.Written(changes); len(written) > 0 {
			c.Storage.LayerBytes = max(1, d.written(ctx, c.ID))
		}
	}
	return c, d.rest(ctx, c, in)
}

// written returns how much is in a container's own layer, 0 if the engine does not say.
func (d *describer) written(ctx context.Context, id string) int64 {
	var out struct{ SizeRw int64 }
	if err := d.e.ask(ctx, "measure what it has written", "GET", "/containers/"+id+"/json", map[string][]string{"size": {"1"}}, nil, &out); err != nil {
		return 0
	}
	return min(max(out.SizeRw, 0), plan.MaxAmount)
}

// image returns an image, or nil if it is not there.
func (d *describer) image(ctx context.Context, id string) (*image.InspectResponse, error) {
	d.mu.Lock()
	img, ok := d.images[id]
	d.mu.Unlock()
	if ok {
		return img, nil
	}
	img, err := d.e.Image(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	d.mu.Lock()
	d.images[id] = img
	d.mu.Unlock()
	return img, nil
}

// rest adds what only a move itself would find: what a request cannot be made of, and volumes
// that are not copied.
func (d *describer) rest(ctx context.Context, c *plan.Container, in *recreate.Container) error {
	all := plan.Rules{CopyVolumes: true, LoseLayer: true, WholeProjects: true, SplitNetworks: true}
	if !c.Selected || !c.Movable(all).Movable {
		return nil
	}
	img, err := d.image(ctx, in.Image)
	if err != nil {
		return err
	}
	if img == nil {
		c.Other = append(c.Other, "its image is no longer on this host")
		return nil
	}
	_, why := recreate.Make(in, img, d.e.Host(), recreate.Rules{CopyVolumes: true, LoseLayer: true, Compose: true}, d.peers)
	for _, r := range why {
		c.Other = append(c.Other, r.String())
	}
	for i := range c.Storage.Mounts {
		m := &c.Storage.Mounts[i]
		at := slices.IndexFunc(d.volumes, func(v volume.Volume) bool { return v.Name == m.Name })
		switch {
		case m.Type != string(mount.TypeVolume) || at < 0:
		case m.Driver != "local" && m.Driver != "":
			c.Other = append(c.Other, fmt.Sprintf("its volume %q is of driver %q, and only local ones are copied", m.Name, m.Driver))
		case len(d.volumes[at].Options) > 0:
			c.Other = append(c.Other, fmt.Sprintf("its volume %q has options, and may be a path of the host or storage that hosts share", m.Name))
		}
	}
	return nil
}

func (d *describer) host(c *plan.Container, in *recreate.Container) {
	h := in.HostConfig
	c.Host = plan.Host{
		Privileged: h.Privileged, PIDMode: string(h.PidMode), IPCMode: string(h.IpcMode), UTSMode: string(h.UTSMode), UserMode: string(h.UsernsMode),
		CgroupMode: string(h.CgroupnsMode), CgroupPath: h.CgroupParent, CPUSet: cmp.Or(h.CpusetCpus, h.CpusetMems),
		Hostname: d.e.Info.Name != "" && in.Config.Hostname == d.e.Info.Name && h.NetworkMode != network.NetworkHost,
	}
	if d.e.Host().CgroupV1 {
		c.Host.CgroupMode = "" // the host's is what every container has there
	}
	for _, dev := range h.Devices {
		c.Host.Devices = append(c.Host.Devices, dev.PathOnHost)
	}
	c.Host.Devices = append(c.Host.Devices, h.DeviceCgroupRules...)
	for _, r := range h.DeviceRequests {
		c.Host.GPUs = append(c.Host.GPUs, cmp.Or(r.Driver, strings.Join(r.DeviceIDs, ","), "gpu"))
	}
	if h.Runtime != "" {
		c.Needs = append(c.Needs, "runtime:"+h.Runtime)
	}
	if h.LogConfig.Type != "" {
		c.Needs = append(c.Needs, "log-driver:"+h.LogConfig.Type)
	}
	if in.AppArmorProfile != "" && in.AppArmorProfile != "unconfined" {
		c.Needs = append(c.Needs, "lsm:apparmor")
	}
}

func (d *describer) net(c *plan.Container, in *recreate.Container) {
	c.Net.Mode = string(in.HostConfig.NetworkMode)
	for name, end := range in.NetworkSettings.Networks {
		a := plan.Attachment{Name: name}
		if i := slices.IndexFunc(d.networks, func(n plan.Attachment) bool { return n.Name == name }); i >= 0 {
			a = d.networks[i]
		}
		if end != nil && end.IPAMConfig != nil {
			p := end.IPAMConfig
			a.Fixed = p.IPv4Address.IsValid() || p.IPv6Address.IsValid() || len(p.LinkLocalIPs) > 0
		}
		c.Net.Networks = append(c.Net.Networks, a)
	}
	slices.SortFunc(c.Net.Networks, func(a, b plan.Attachment) int { return cmp.Compare(a.Name, b.Name) })
	for p, list := range in.HostConfig.PortBindings {
		for _, b := range list {
			port, err := strconv.Atoi(b.HostPort)
			if err != nil {
				port = 0 // none was asked for, or a range, which is no move's
			}
			out := plan.Port{Port: port, Protocol: string(p.Proto())}
			if b.HostIP.IsValid() && !b.HostIP.IsUnspecified() {
				out.IP = b.HostIP.String()
			}
			c.Net.Ports = append(c.Net.Ports, out)
		}
	}
	slices.SortFunc(c.Net.Ports, func(a, b plan.Port) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.String(), b.String()))
	})
	for _, l := range in.HostConfig.Links {
		name, _, _ := strings.Cut(l, ":")
		c.Net.Links = append(c.Net.Links, name)
	}
	c.Net.Links = append(c.Net.Links, in.Named()...)
	slices.Sort(c.Net.Links)
}

func (d *describer) storage(c *plan.Container, in *recreate.Container) {
	named := map[string]bool{}
	for _, b := range in.HostConfig.Binds {
		source, _, _ := strings.Cut(b, ":")
		named[source] = true
	}
	for i := range in.HostConfig.Mounts {
		named[in.HostConfig.Mounts[i].Source] = true
	}
	seen := map[string]bool{}
	for _, m := range in.Mounts {
		seen[m.Destination] = true
		out := plan.Mount{Type: string(m.Type), Name: m.Name, Destination: m.Destination, Driver: m.Driver, Anonymous: m.Type == mount.TypeVolume && !named[m.Name]}
		if m.Type == mount.TypeBind {
			out.Source = m.Source
		}
		c.Storage.Mounts = append(c.Storage.Mounts, out)
	}
	// Older engines do not list what is in memory.
	for dest := range in.HostConfig.Tmpfs {
		if !seen[dest] {
			seen[dest] = true
			c.Storage.Mounts = append(c.Storage.Mounts, plan.Mount{Type: string(mount.TypeTmpfs), Destination: dest})
		}
	}
	for i := range in.HostConfig.Mounts {
		if m := &in.HostConfig.Mounts[i]; m.Type == mount.TypeTmpfs && !seen[m.Target] {
			c.Storage.Mounts = append(c.Storage.Mounts, plan.Mount{Type: string(m.Type), Destination: m.Target})
		}
	}
	slices.SortFunc(c.Storage.Mounts, func(a, b plan.Mount) int { return cmp.Compare(a.Destination, b.Destination) })
	for _, v := range in.HostConfig.VolumesFrom {
		name, _, _ := strings.Cut(v, ":")
		c.Storage.VolumesFrom = append(c.Storage.VolumesFrom, name)
	}
}

func life(c *plan.Container, in *recreate.Container) {
	c.Life = plan.Life{AutoRemove: in.HostConfig.AutoRemove, Interactive: in.Config.OpenStdin, Project: in.Config.Labels["com.docker.compose.project"]}
	if c.Life.Project != "" {
		c.Life.Manager = "compose"
	}
	for key := range in.Config.Labels {
		switch {
		case strings.HasPrefix(key, "com.docker.swarm."):
			c.Life.Manager = "swarm"
		case strings.HasPrefix(key, "io.kubernetes."):
			c.Life.Manager = "kubernetes"
		}
	}
	// It is a move's own, and goes with it.
	c.Life.Own = in.Config.Labels[recreate.LabelHelper] != ""
	if h := in.State.Health; h != nil && h.Status != container.NoHealthcheck {
		c.Life.Health = string(h.Status)
	}
	if in.Config.Labels[recreate.LabelOrigin] != "" && !c.Life.Own {
		if at, err := time.Parse(time.RFC3339Nano, in.Created); err == nil {
			c.Life.Arrived = at
		}
	}
}
