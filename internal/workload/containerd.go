package workload

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/typeurl/v2"

	"github.com/belay-project/belay/internal/ident"
)

// DefaultContainerdAddress is where containerd listens unless told otherwise.
const DefaultContainerdAddress = "/run/containerd/containerd.sock"

// Labels by which CRI and nerdctl say what a container is.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"
	labelCRIKind       = "io.cri-containerd.kind"
	labelNerdctlName   = "nerdctl/name"
	criPrefix          = "io.cri-containerd."
	kindSandbox        = "sandbox"
)

// ContainerdOptions configures [NewContainerd]. The zero value is usable.
type ContainerdOptions struct {
	// Address is the path of containerd's socket; empty means [DefaultContainerdAddress].
	Address string
	// SkipMoby leaves out the namespaces of Docker Engine: set it where a [Docker]
	// source covers them. The zero value sees everything.
	SkipMoby bool
	// Log receives connects and failures; nil discards them.
	Log *slog.Logger
}

// mobyNamespaces are those Docker Engine keeps its containers and plugins in.
var mobyNamespaces = []string{"moby", "plugins.moby"}

// Containerd is the [Source] for containerd, version 1.6 and newer, in all its
// namespaces. A container whose ID is not 64 hex digits (as "ctr run" makes
// them) is left out and counted: the kernel side cannot name it either.
type Containerd struct {
	f       *follower
	address string
	skip    []string
}

// NewContainerd returns a source that follows the containerd at o.Address. It does no I/O.
func NewContainerd(o ContainerdOptions) *Containerd {
	if o.Address == "" {
		o.Address = DefaultContainerdAddress
	}
	d := &Containerd{address: strings.TrimPrefix(o.Address, "unix://")}
	if o.SkipMoby {
		d.skip = mobyNamespaces
	}
	d.f = newFollower(RuntimeContainerd, o.Address, o.Log, d.dial)
	return d
}

// Run implements [Source].
func (d *Containerd) Run(ctx context.Context, emit func(Change)) error { return d.f.run(ctx, emit) }

// Status implements [Source].
func (d *Containerd) Status() Status { return d.f.status() }

func (d *Containerd) dial(ctx context.Context) (engine, string, func(), error) {
	api, version, closeFn, err := dialContainerd(ctx, d.address, d.f.t.get)
	if err != nil {
		return nil, "", nil, err
	}
	return d.engine(api), version, closeFn, nil
}

func (d *Containerd) engine(api containerdAPI) *containerdEngine {
	return &containerdEngine{api: api, skip: d.skip, count: d.f.count}
}

// containerdAPI is what is asked of containerd.
type containerdAPI interface {
	Namespaces(ctx context.Context) ([]string, error)
	// Records returns what a namespace holds; with an id, of that container and the
	// sandbox of its pod only. errGone if the container of that id does not exist.
	Records(ctx context.Context, namespace, id string) (records, error)
	Events(ctx context.Context, filters ...string) (<-chan *events.Envelope, <-chan error)
}

type records struct {
	containers []containers.Container
	tasks      map[string]*task.Process // by container ID
	images     map[string]images.Image  // by name
}

type containerdEngine struct {
	api   containerdAPI
	skip  []string
	count func(func(*Status))
}

// Watch implements engine. containerd does not say when a subscription stands, so
// ready is called at once and the follower lists again a little later.
func (e *containerdEngine) Watch(ctx context.Context, _ time.Time, ready func(), sink func(event)) error {
	ctx, cancel := context.WithCancel(ctx)
	ch, errs := e.api.Events(ctx, `topic~="^/(containers|tasks)/"`)
	defer func() {
		cancel()
		for range errs { // closed when the client's goroutine has ended
		}
	}()
	ready()
	for {
		select {
		case err := <-errs:
			if err == nil {
				err = io.EOF
			}
			return err
		case env := <-ch:
			if env == nil || slices.Contains(e.skip, env.Namespace) {
				continue
			}
			if ev, ok := containerdEvent(env); ok {
				sink(ev)
			}
		}
	}
}

func containerdEvent(env *events.Envelope) (event, bool) {
	if env.Event == nil {
		return event{}, false
	}
	v, err := typeurl.UnmarshalAny(env.Event)
	if err != nil {
		return event{}, false
	}
	ev := event{at: env.Timestamp}
	var id string
	switch m := v.(type) {
	case *apievents.ContainerCreate:
		ev.kind, id, ev.image = evCreate, m.ID, clip(m.Image, maxImageBytes)
	case *apievents.ContainerUpdate:
		ev.kind, id = evUpdate, m.ID
	case *apievents.ContainerDelete:
		ev.kind, id = evDestroy, m.ID
	case *apievents.TaskStart:
		ev.kind, id = evStart, m.ContainerID
	case *apievents.TaskExit:
		if m.ID != m.ContainerID {
			return event{}, false // the end of an exec, not of the container
		}
		ev.kind, id = evStop, m.ContainerID
	default:
		return event{}, false
	}
	cid, err := ident.ParseContainerID(id)
	if err != nil {
		return event{}, false
	}
	ev.ref = ref{scope: strings.Clone(env.Namespace), id: cid}
	return ev, true
}

// List implements engine.
func (e *containerdEngine) List(ctx context.Context) ([]Container, error) {
	spaces, err := e.api.Namespaces(ctx)
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var out []Container
	seen := make(map[ident.ContainerID]bool)
	for _, ns := range spaces {
		if slices.Contains(e.skip, ns) {
			continue
		}
		recs, err := e.api.Records(ctx, ns, "")
		if err != nil {
			return nil, fmt.Errorf("namespace %s: %w", ns, err)
		}
		for _, rec := range recs.containers {
			c, ok := recs.container(rec)
			if !ok || seen[c.ID] {
				e.count(func(s *Status) { s.InvalidIDs++ })
				continue
			}
			seen[c.ID] = true
			out = append(out, c)
		}
	}
	return out, nil
}

// Get implements engine.
func (e *containerdEngine) Get(ctx context.Context, r ref) (Container, error) {
	recs, err := e.api.Records(ctx, r.scope, string(r.id))
	if err != nil {
		return Container{}, err
	}
	for _, rec := range recs.containers {
		if rec.ID != string(r.id) {
			continue
		}
		if c, ok := recs.container(rec); ok {
			return c, nil
		}
	}
	return Container{}, errGone
}

// container puts together what the records say about one container.
func (r records) container(rec containers.Container) (Container, bool) {
	id, err := ident.ParseContainerID(rec.ID)
	if err != nil {
		return Container{}, false
	}
	c := Container{
		ID: id, Runtime: RuntimeContainerd, Name: containerdName(rec), Image: rec.Image,
		ImageDigest: r.imageDigest(rec), Labels: rec.Labels, Namespace: rec.Labels[labelPodNamespace],
		State: StateCreated, Created: rec.CreatedAt,
	}
	c.PodLabels = r.podLabels(rec)
	c.Workload = workloadOf(rec.Labels[labelPodName], c.PodLabels)
	c.ImageDigests = mergeDigests([]string{c.ImageDigest})
	if t := r.tasks[rec.ID]; t != nil {
		c.State = taskState(t)
	}
	return c, true
}

// imageDigest returns the digest of the container's image, or "" if the name has
// been pointed at another image since: a name says nothing about a container that
// was made from what it used to mean.
func (r records) imageDigest(rec containers.Container) string {
	img, ok := r.images[rec.Image]
	if !ok || rec.Image == "" || img.UpdatedAt.After(rec.CreatedAt) {
		return ""
	}
	return validDigest(img.Target.Digest.String())
}

// podLabels returns the labels of the pod a container belongs to: CRI keeps them
// on the pod's sandbox, the kubelet puts the pod's UID on both.
func (r records) podLabels(rec containers.Container) map[string]string {
	uid := rec.Labels[labelPodUID]
	for _, s := range r.containers {
		if s.Labels[labelCRIKind] != kindSandbox {
			continue
		}
		if s.ID == rec.ID || s.ID == rec.SandboxID && rec.SandboxID != "" || uid != "" && s.Labels[labelPodUID] == uid {
			out := make(map[string]string, len(s.Labels))
			for k, v := range s.Labels {
				if !strings.HasPrefix(k, labelOfKubernetes) && !strings.HasPrefix(k, criPrefix) {
					out[k] = v
				}
			}
			return out
		}
	}
	return nil
}

func containerdName(rec containers.Container) string {
	l := rec.Labels
	switch {
	case l[labelPodName] != "" && l[labelContainerName] != "":
		return l[labelPodNamespace] + "/" + l[labelPodName] + "/" + l[labelContainerName]
	case l[labelPodName] != "":
		return l[labelPodNamespace] + "/" + l[labelPodName]
	case l[labelNerdctlName] != "":
		return l[labelNerdctlName]
	}
	return ""
}

// taskState maps a task's status. A created task has an init process already,
// which runs nothing of the image yet.
func taskState(t *task.Process) State {
	switch t.Status {
	case task.Status_STOPPED:
		return StateStopped
	case task.Status_CREATED:
		return StateCreated
	}
	return StateRunning
}
