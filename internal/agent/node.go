package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/load"
	"github.com/belay-project/belay/internal/load/engine"
	loadplan "github.com/belay-project/belay/internal/load/plan"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/workload"
)

const (
	// describedFor is how long what the engine says of its containers is used again: to ask
	// takes a request for each.
	describedFor = 5 * time.Second
	// describeTime bounds the engine's answers: one for each container, of an engine that is slow just when the node is
	// full. targetTime bounds those of one target's gate, which asks its engine.
	describeTime = 20 * time.Second
	targetTime   = 25 * time.Second
	// leftFor is how far back a description tells of containers that have left.
	leftFor = 7 * 24 * time.Hour
)

// nodes describes this node, and keeps the last description for a moment.
type nodes struct {
	a *Agent
	// mu is held while the engine is asked: one asks, others wait for the same answer.
	mu     sync.Mutex
	last   *loadplan.Node
	at     time.Time
	set    *policy.Set // that the last was made under
	of     string      // policy that it was made for; empty: all
	err    error       // of the last try, at failed: who waited for it does not try again at once
	failed time.Time
}

var errNoEngine = errors.New("this agent follows no Docker Engine that could be described (--docker-host none)")

// engineNode asks the engine, or returns what it said a moment ago. What is movable is so by the
// named policy; by any, if there is no name. The result is the caller's, but what it points to is
// shared.
func (ns *nodes) engineNode(ctx context.Context, of string) (*loadplan.Node, error) {
	if ns.a.cfg.DockerHost == "none" {
		return nil, errNoEngine
	}
	type answer struct {
		n   *loadplan.Node
		err error
	}
	done := make(chan answer, 1)
	go func() { // ends by itself: after describeTime at most
		n, err := ns.await(ctx, of)
		done <- answer{n, err}
	}()
	select {
	case a := <-done:
		return a.n, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("the engine has not answered yet: %w", ctx.Err())
	}
}

// await returns what the engine says, once whoever is asking it has an answer.
func (ns *nodes) await(ctx context.Context, of string) (*loadplan.Node, error) {
	a := ns.a
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	set := a.policies.current()
	if ns.last == nil || ns.set != set || ns.of != of || time.Since(ns.at) > describedFor {
		if ns.err != nil && time.Since(ns.failed) < describeTime {
			return nil, ns.err
		}
		// The answer is for all, also where this caller hangs up; it takes describeTime at most.
		n, err := a.askEngine(context.WithoutCancel(ctx), engine.DescribeOptions{Selected: selects(set, of)})
		if ns.err, ns.failed = err, time.Now(); err != nil {
			return nil, err
		}
		ns.last, ns.at, ns.set, ns.of = n, time.Now(), set, of
	}
	n := *ns.last
	n.Containers = slices.Clone(n.Containers)
	return &n, nil
}

func (a *Agent) askEngine(ctx context.Context, o engine.DescribeOptions) (*loadplan.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, describeTime)
	defer cancel()
	e, err := engine.OpenSigned(ctx, engine.Address{URL: a.cfg.DockerHost}, a.sign())
	if err != nil {
		return nil, err
	}
	defer e.Close()
	return e.Describe(ctx, o)
}

// selects says whether the named LoadPolicy, or any, lets a container move.
func selects(set *policy.Set, of string) func(name, image string, labels map[string]string) bool {
	loads := set.LoadPolicies()
	return func(name, image string, labels map[string]string) bool {
		return slices.ContainsFunc(loads, func(p *policy.LoadPolicy) bool {
			return (of == "" || p.Name == of) && p.Spec.Plans() && p.Spec.Movable.Matches(name, image, labels)
		})
	}
}

// describe returns what this node says of itself, with verdicts on images by their IDs.
func (ns *nodes) describe(ctx context.Context, of string, images []string) (*loadplan.Description, error) {
	a := ns.a
	n, err := ns.engineNode(ctx, of)
	if err != nil {
		return nil, err
	}
	n.Name, n.Enforces = a.nodeName(), true
	d := &loadplan.Description{Schema: loadplan.DescriptionSchema, Hysteresis: policy.DefaultHysteresis, Left: []loadplan.Past{}}
	set := a.policies.current()
	if n.Caps, d.Hysteresis = capsOf(set.LoadPolicies()); n.Caps == nil {
		n.Refuses = "no LoadPolicy is in force there, so it does not watch how full it is; fix: apply one there, with caps"
	}
	r := a.watcher.Readings()
	fillReadings(n, &r, a.watcher.Status().Containers)
	if n.Caps == nil || n.Caps.CPU == 0 {
		n.Use.NanoCPUs = 0 // CPU time is shared out: without a cap on it, a busy node is not a full one
	}
	switch why := a.cordon.why(); {
	case why != "":
		n.Refuses = why
	case n.Refuses == "" && r.At.IsZero():
		n.Refuses = "it has not been sampled yet"
	case n.Refuses == "" && len(r.Unreadable) > 0:
		n.Refuses = "how full it is cannot be read: " + strings.Join(r.Unreadable, "; ")
	}
	n.Accepts = n.Refuses == ""
	a.fillSite(n, len(r.Unreadable) == 0)
	n.Gate = loadplan.Gate{Policies: policiesDigest(set), Images: map[string]loadplan.Answer{}}
	for _, id := range images {
		n.Gate.Images[id] = a.imageAnswer(ctx, id)
	}
	if a.carrier != nil {
		for _, p := range a.carrier.History(n.Name) {
			if !p.Failed && !p.Ended.IsZero() && time.Since(p.Ended) < leftFor {
				d.Left = append(d.Left, p)
			}
		}
	}
	d.Node = *n
	return d, nil
}

// fillSite says what is free on the host and what is taken, beside what the engine knows. Without disks no file
// system is asked: one has not answered.
func (a *Agent) fillSite(n *loadplan.Node, disks bool) {
	var st unix.Statfs_t
	if disks && unix.Statfs(a.cfg.DockerRoot, &st) == nil {
		free := int64(min(st.Bavail, math.MaxInt64/uint64(max(st.Bsize, 1)))) * st.Bsize
		n.Site.FreeBytes = max(free, 1) // 0 is for not known
	}
	ports, err := engine.Listening("/proc/self")
	if err != nil {
		a.log.Warn("the ports that this host listens on are not described", attr.Error, err.Error())
	}
	n.Site.Ports = notPublished(ports, n.Containers)
}

// notPublished leaves out the ports that the engine's proxy listens on for containers that run: it listens for no others.
func notPublished(ports []loadplan.Port, containers []loadplan.Container) []loadplan.Port {
	return slices.DeleteFunc(ports, func(p loadplan.Port) bool {
		return slices.ContainsFunc(containers, func(c loadplan.Container) bool {
			return (c.State == "running" || c.State == "paused") && slices.ContainsFunc(c.Net.Ports, func(o loadplan.Port) bool { return o.Port == p.Port && o.Protocol == p.Protocol })
		})
	})
}

// describeJSON is what the gate answers.
func (ns *nodes) describeJSON(ctx context.Context, images []string) ([]byte, error) {
	d, err := ns.describe(ctx, "", images)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(d)
	return append(b, '\n'), err
}

// nodeName is what this node calls itself.
func (a *Agent) nodeName() string { return cmp.Or(strings.ToLower(a.host.Hostname), "node") }

// imageAnswer says whether an image may start here. One that is not here yet cannot be judged
// where policies judge images: it is not let in by a guess.
func (a *Agent) imageAnswer(ctx context.Context, id string) loadplan.Answer {
	rules := a.images.rules()
	if !rules.Any() {
		return loadplan.Answer{Allow: true}
	}
	img, err := a.images.ask(ctx, workload.RuntimeDocker, id)
	if err != nil {
		return loadplan.Answer{Allow: !rules.Enforced(), Why: "ImagePolicies judge images there, and this one cannot be judged: " + err.Error() + "; fix: pull it there"}
	}
	d := rules.Decide(a.images.facts(img, id, nil), time.Now())
	if d.Stale {
		a.images.keeper.Want(img.ID, a.images.inUse(img.ID)) // for the next time it is asked
	}
	return loadplan.Answer{Allow: d.Allowed, Why: d.Reason}
}

// policiesDigest is equal on nodes whose policies decide alike about containers. LoadPolicies are
// each node's own.
func policiesDigest(set *policy.Set) string {
	h := sha256.New()
	docs := set.Documents()
	for _, e := range docs.Entries() {
		if e.Kind != policy.LoadKind {
			h.Write(e.Canonical())
			h.Write([]byte{0})
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// capsOf returns the least cap of each name of all policies, and the greatest hysteresis; nil if
// there are no policies.
func capsOf(ps []*policy.LoadPolicy) (*loadplan.Caps, int) {
	if len(ps) == 0 {
		return nil, policy.DefaultHysteresis
	}
	caps, hysteresis := new(loadplan.Caps), 0
	for _, p := range ps {
		hysteresis = max(hysteresis, p.Spec.Hysteresis)
		for i := range p.Spec.Caps {
			c := &p.Spec.Caps[i]
			if to := capField(caps, c.Name); *to == 0 || c.Percent < *to {
				*to = c.Percent
			}
		}
	}
	return caps, hysteresis
}

// capField returns the field of a planner's caps that a LoadPolicy calls so.
func capField(c *loadplan.Caps, name string) *int {
	fields := map[string]*int{
		"cpu": &c.CPU, "memory": &c.Memory, "pids": &c.PIDs, "disk": &c.Disk, "inodes": &c.Inodes,
		"psi.cpu": &c.PSICPU, "psi.memory": &c.PSIMemory, "psi.io": &c.PSIIO,
	}
	return fields[name]
}

// fillReadings puts what was sampled into a description.
func fillReadings(n *loadplan.Node, r *load.Readings, cs []load.ContainerStatus) {
	n.Seen = r.At
	amounts := func(of func(load.Amount) uint64) loadplan.Amounts {
		v := func(res load.Resource) int64 { return int64(min(of(r.Amounts[res]), loadplan.MaxAmount)) } //nolint:gosec // bounded
		return loadplan.Amounts{NanoCPUs: v(load.CPU), MemoryBytes: v(load.Memory), PIDs: v(load.PIDs), DiskBytes: v(load.Disk), Inodes: v(load.Inodes)}
	}
	n.Has, n.Use = amounts(func(a load.Amount) uint64 { return a.Has }), amounts(func(a load.Amount) uint64 { return a.Use })
	pressure := func(i int) int { return int(min(max(math.Ceil(r.Pressure[i]), 0), 100)) }
	n.Pressure = loadplan.Pressure{CPU: pressure(0), Memory: pressure(1), IO: pressure(2)}
	byID := make(map[ident.ContainerID]*load.ContainerStatus, len(cs))
	for i := range cs {
		byID[cs[i].ID] = &cs[i]
	}
	for i := range n.Containers {
		c := &n.Containers[i]
		s := byID[ident.ContainerID(c.ID)]
		if s == nil || s.Error != "" {
			if c.State == "running" {
				c.Other = append(slices.Clip(c.Other), "what it uses is not known (yet)")
			}
			continue
		}
		c.Use = loadplan.Amounts{NanoCPUs: int64(s.CPUs * 1e9), MemoryBytes: int64(min(s.Memory, loadplan.MaxAmount)), PIDs: int64(min(s.PIDs, loadplan.MaxAmount))}              //nolint:gosec // bounded
		c.Peak = loadplan.Amounts{NanoCPUs: int64(s.PeakCPUs * 1e9), MemoryBytes: int64(min(s.PeakMemory, loadplan.MaxAmount)), PIDs: int64(min(s.PeakPIDs, loadplan.MaxAmount))} //nolint:gosec // bounded
	}
}

// fillLayers counts what containers have written to their own layers as their part of the disk, if a move would make it
// free: its source is removed at once, and the fullest file system is that of the roots. More than that has in use is no
// measure: a sparse file counts as large as it looks.
func fillLayers(n *loadplan.Node, m *policy.MoveSettings, fullest string, roots []string) {
	if m.Keep > 0 || !sameFileSystem(fullest, roots) {
		return
	}
	for i := range n.Containers {
		if c := &n.Containers[i]; c.Storage.LayerBytes <= n.Use.DiskBytes {
			c.Use.DiskBytes = c.Storage.LayerBytes
		}
	}
}

// layerRoots are where what containers write to their own layers may be.
func (c *Config) layerRoots(containerd bool) []string {
	if !containerd {
		return []string{c.DockerRoot}
	}
	var roots []string
	for _, root := range containerdRoots {
		roots = append(roots, c.belowRoot(root))
	}
	return roots
}

// sameFileSystem reports whether the roots that are there, one at least, are on the file system of a path.
func sameFileSystem(path string, roots []string) bool {
	var at unix.Stat_t
	if unix.Stat(path, &at) != nil {
		return false
	}
	some := false
	for _, root := range roots {
		var st unix.Stat_t
		err := unix.Stat(root, &st)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if some = err == nil && st.Dev == at.Dev; !some {
			return false
		}
	}
	return some
}

// state describes this node and the targets of a policy, for a plan.
func (ns *nodes) state(ctx context.Context, p *policy.LoadPolicy) (*loadplan.State, string, error) {
	d, err := ns.describe(ctx, p.Name, nil)
	if err != nil {
		return nil, "", fmt.Errorf("describe this node: %w", err)
	}
	self := d.Node
	if self.Name == p.Spec.Orchestrator.Kind() || slices.ContainsFunc(p.Spec.Targets, func(t policy.LoadTarget) bool { return t.Name == self.Name }) {
		self.Name += "-itself" // a target may be called like it
	}
	self.Accepts, self.Refuses, self.Caps = false, "it is the node to relieve", nil
	fillLayers(&self, &p.Spec.Moves, ns.a.watcher.Readings().Disk, ns.a.cfg.layerRoots(self.Host.ContainerdStore))
	s := &loadplan.State{Now: time.Now(), Hysteresis: p.Spec.Hysteresis, Limits: limitsOf(p), Rules: rulesOf(p), Nodes: []loadplan.Node{self}}
	for i := range p.Spec.Caps {
		*capField(&s.Caps, p.Spec.Caps[i].Name) = p.Spec.Caps[i].Percent
	}
	for _, w := range p.Spec.Windows {
		s.Windows = append(s.Windows, loadplan.Window{Days: w.Days, From: w.From, To: w.To})
	}
	if !p.Spec.Orchestrator.None() {
		us, err := ns.a.placed(ctx, &p.Spec.Orchestrator)
		s.Nodes = append(s.Nodes, orchestrated(&s.Nodes[0], p.Spec.Orchestrator.Kind(), us, err, s.Now))
		return s, self.Name, nil
	}
	var wg sync.WaitGroup
	answers := make([]*loadplan.Description, len(p.Spec.Targets))
	images := movableImages(&self)
	for i := range p.Spec.Targets {
		wg.Go(func() { answers[i] = askTarget(ctx, &p.Spec.Targets[i], images, p.Spec.Hysteresis) })
	}
	wg.Wait()
	for i := range answers {
		s.Nodes = append(s.Nodes, answers[i].Node)
		for _, past := range answers[i].Left {
			if arrived(&self, past.Name) {
				past.From, past.To = answers[i].Node.Name, self.Name
				s.History = append(s.History, past)
			}
		}
	}
	return s, self.Name, nil
}

// arrived reports whether a container of the name has come to a node by a move.
func arrived(n *loadplan.Node, name string) bool {
	return slices.ContainsFunc(n.Containers, func(c loadplan.Container) bool { return c.Name == name && !c.Life.Arrived.IsZero() })
}

// movableImages are the images of containers that could leave, as many as a gate says something of.
func movableImages(n *loadplan.Node) []string {
	var out []string
	for i := range n.Containers {
		if c := &n.Containers[i]; c.Selected && c.Image.Digest != "" && !slices.Contains(out, c.Image.Digest) && len(out) < engine.MaxAskedImages {
			out = append(out, c.Image.Digest)
		}
	}
	return out
}

// askTarget asks a target's gate. One that does not answer, or whose answer makes no sense, is a
// target that takes nothing, and says why.
func askTarget(ctx context.Context, t *policy.LoadTarget, images []string, hysteresis int) *loadplan.Description {
	ctx, cancel := context.WithTimeout(ctx, targetTime)
	defer cancel()
	refused := func(why string) *loadplan.Description {
		return &loadplan.Description{Node: loadplan.Node{Name: t.Name, Refuses: why}}
	}
	d, err := engine.Node(ctx, engine.Address{URL: t.Engine, CAFile: t.CA, CertFile: t.Cert, KeyFile: t.Key}, images)
	if err != nil {
		return refused("it cannot be asked: " + err.Error())
	}
	n := &d.Node
	n.Name, n.Places = t.Name, false
	if t.NanoCPUs > 0 {
		n.Has.NanoCPUs = min(n.Has.NanoCPUs, t.NanoCPUs)
	}
	if t.MemoryBytes > 0 {
		n.Has.MemoryBytes = min(n.Has.MemoryBytes, t.MemoryBytes)
	}
	if t.Architecture != "" && t.Architecture != n.Host.Architecture {
		return refused(fmt.Sprintf("it is of the architecture %q, and the policy says %q", n.Host.Architecture, t.Architecture))
	}
	// It wants to stay below its caps by its own hysteresis, if that is more than ours.
	if n.Caps != nil && d.Hysteresis > hysteresis {
		for _, name := range policy.CapNames() {
			if c := capField(n.Caps, name); *c != 0 {
				*c -= d.Hysteresis - hysteresis
			}
		}
	}
	if err := (&loadplan.State{Now: time.Now(), Hysteresis: hysteresis, Nodes: []loadplan.Node{*n}, History: d.Left}).Check(); err != nil {
		return refused("what it says of itself cannot be used: " + err.Error())
	}
	return d
}

func limitsOf(p *policy.LoadPolicy) loadplan.Limits {
	l := loadplan.DefaultLimits()
	l.AtOnce, l.PerHour, l.PerContainer, l.CoolDown = p.Spec.Limits.AtOnce, p.Spec.Limits.PerHour, p.Spec.Limits.PerContainer, p.Spec.CoolDown
	return l
}

func rulesOf(p *policy.LoadPolicy) loadplan.Rules {
	m := &p.Spec.Moves
	return loadplan.Rules{CopyVolumes: m.CopyVolumes, LoseLayer: m.LoseLayer, SplitNetworks: m.SplitNetworks}
}
