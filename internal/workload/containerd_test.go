package workload

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	digestpkg "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/anypb"
)

// fakeContainerd holds records by namespace.
type fakeContainerd struct {
	ch   chan *events.Envelope
	errs chan error

	mu     sync.Mutex // guards the fields below
	spaces map[string]records
}

func (f *fakeContainerd) Namespaces(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for ns := range f.spaces {
		out = append(out, ns)
	}
	return out, nil
}

func (f *fakeContainerd) Records(_ context.Context, ns, id string) (records, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	recs, ok := f.spaces[ns]
	if id == "" && ok {
		return recs, nil
	}
	for _, c := range recs.containers {
		if c.ID == id {
			return recs, nil
		}
	}
	return records{}, errGone
}

func (f *fakeContainerd) Events(ctx context.Context, _ ...string) (<-chan *events.Envelope, <-chan error) {
	out, errs := make(chan *events.Envelope), make(chan error, 1)
	go func() {
		defer close(errs)
		for {
			select {
			case <-ctx.Done():
				return
			case err := <-f.errs:
				errs <- err
				return
			case env := <-f.ch:
				select {
				case out <- env:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, errs
}

func (f *fakeContainerd) set(ns string, recs records) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spaces[ns] = recs
}

func envelope(t testing.TB, ns, topic string, ev any) *events.Envelope {
	t.Helper()
	a, err := typeurl.MarshalAny(ev)
	if err != nil {
		t.Fatal(err)
	}
	return &events.Envelope{Timestamp: time.Now(), Namespace: ns, Topic: topic, Event: a}
}

func image(name string, n int, updated time.Time) images.Image {
	return images.Image{Name: name, Target: ocispec.Descriptor{Digest: digestpkg.Digest(digest(n))}, UpdatedAt: updated}
}

func followContainerd(t *testing.T, api *fakeContainerd, o ContainerdOptions) (*Containerd, *feed) {
	t.Helper()
	d := NewContainerd(o)
	d.f.t.minBackoff, d.f.t.maxBackoff, d.f.t.firstRelist = time.Millisecond, time.Millisecond, time.Hour
	d.f.dial = func(context.Context) (engine, string, func(), error) { return d.engine(api), "2.0", func() {}, nil }
	return d, follow(t, d)
}

func TestContainerdListing(t *testing.T) {
	t0 := time.Unix(1000, 0)
	pod := map[string]string{
		"app": "shop", "io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "prod",
		"io.kubernetes.pod.uid": "u-1", "io.cri-containerd.kind": "sandbox",
	}
	ctr := map[string]string{
		"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "prod", "io.kubernetes.pod.uid": "u-1",
		"io.kubernetes.container.name": "nginx", "io.cri-containerd.kind": "container",
	}
	api := &fakeContainerd{ch: make(chan *events.Envelope), errs: make(chan error), spaces: map[string]records{
		"k8s.io": {
			containers: []containers.Container{
				{ID: hexID(1), Image: "reg/pause:3", Labels: pod, CreatedAt: t0},
				{ID: hexID(2), Image: "reg/nginx:1", Labels: ctr, CreatedAt: t0, SandboxID: hexID(1)},
				{ID: "short", Image: "x"},
			},
			tasks: map[string]*task.Process{
				hexID(1): {ID: hexID(1), Status: task.Status_RUNNING},
				hexID(2): {ID: hexID(2), Status: task.Status_PAUSED},
			},
			images: map[string]images.Image{
				"reg/pause:3": image("reg/pause:3", 50, t0.Add(-time.Hour)),
				"reg/nginx:1": image("reg/nginx:1", 51, t0.Add(time.Hour)), // points elsewhere by now
			},
		},
		"default": {
			containers: []containers.Container{{ID: hexID(3), Labels: map[string]string{"nertdctl": "", "nerdctl/name": "db"}, CreatedAt: t0}},
			tasks:      map[string]*task.Process{hexID(3): {ID: hexID(3), Status: task.Status_STOPPED}},
		},
		"moby": {containers: []containers.Container{{ID: hexID(4), CreatedAt: t0}}},
	}}
	d, fd := followContainerd(t, api, ContainerdOptions{SkipMoby: true})
	want := []Container{
		{
			ID: id(1), Name: "prod/web-0", Image: "reg/pause:3", ImageDigest: digest(50), ImageDigests: []string{digest(50)},
			Labels: pod, Namespace: "prod", PodLabels: map[string]string{"app": "shop"},
			Runtime: RuntimeContainerd, State: StateRunning, Created: t0,
		},
		{
			ID: id(2), Name: "prod/web-0/nginx", Image: "reg/nginx:1", Labels: ctr, Namespace: "prod",
			PodLabels: map[string]string{"app": "shop"}, Runtime: RuntimeContainerd, State: StateRunning, Created: t0,
		},
		{
			ID: id(3), Name: "db", Labels: map[string]string{"nertdctl": "", "nerdctl/name": "db"},
			Runtime: RuntimeContainerd, State: StateStopped, Created: t0,
		},
	}
	if diff := cmp.Diff(want, fd.resync().Containers); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if st := connectedStatus(d); !st.Connected || st.InvalidIDs != 1 {
		t.Errorf("got %+v, want connected and one invalid ID", st)
	}
}

func TestContainerdLife(t *testing.T) {
	api := &fakeContainerd{ch: make(chan *events.Envelope), errs: make(chan error), spaces: map[string]records{}}
	_, fd := followContainerd(t, api, ContainerdOptions{})
	fd.resync()
	rec := containers.Container{ID: hexID(1), Image: "app", Labels: map[string]string{"a": "1"}, CreatedAt: time.Unix(5, 0)}
	recs := records{containers: []containers.Container{rec}, images: map[string]images.Image{"app": image("app", 9, time.Unix(1, 0))}}
	api.set("default", recs)
	api.ch <- envelope(t, "default", "/containers/create", &apievents.ContainerCreate{ID: hexID(1), Image: "app"})
	want := Container{
		ID: id(1), Name: id(1).Short(), Image: "app", ImageDigest: digest(9), ImageDigests: []string{digest(9)},
		Labels: rec.Labels, Runtime: RuntimeContainerd, State: StateCreated, Created: rec.CreatedAt,
	}
	if diff := cmp.Diff(want, fd.cause("create").Container); diff != "" {
		t.Errorf("create (-want +got):\n%s", diff)
	}
	api.ch <- envelope(t, "default", "/tasks/start", &apievents.TaskStart{ContainerID: hexID(1)})
	if c := fd.cause("start").Container; c.State != StateRunning {
		t.Errorf("start: got %s", c.State)
	}
	recs.tasks = map[string]*task.Process{hexID(1): {ID: hexID(1), Status: task.Status_RUNNING}}
	recs.containers[0].Labels = map[string]string{"a": "2"}
	api.set("default", recs)
	api.ch <- envelope(t, "default", "/containers/update", &apievents.ContainerUpdate{ID: hexID(1)})
	if c := fd.cause("update").Container; c.Labels["a"] != "2" || c.State != StateRunning {
		t.Errorf("update: got %+v", c)
	}
	// An exec ends: not the container.
	api.ch <- envelope(t, "default", "/tasks/exit", &apievents.TaskExit{ContainerID: hexID(1), ID: "exec-1"})
	api.ch <- envelope(t, "default", "/tasks/exit", &apievents.TaskExit{ContainerID: hexID(1), ID: hexID(1)})
	if c := fd.cause("stop").Container; c.State != StateStopped {
		t.Errorf("stop: got %s", c.State)
	}
	api.ch <- envelope(t, "default", "/containers/delete", &apievents.ContainerDelete{ID: hexID(1)})
	if c := fd.cause("destroy"); c.Kind != Removed {
		t.Errorf("delete: got %s", c.Kind)
	}
	api.set("default", records{})
	api.errs <- errors.New("transport is closing")
	fd.await("disconnected", func(c Change) bool { return c.Kind == Disconnected })
	fd.resync()
}

func TestPlainUID(t *testing.T) {
	tests := []struct {
		in   string
		want bool
	}{
		{"0f4c0a4e-8c2c-4b57-a3bb-1a2b3c4d5e6f", true},
		{`x",labels."a"==b`, false},
		{"x,y", false},
		{"x y", false},
		{strings.Repeat("a", 65), false},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			if got := plainUID(tt.in); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func FuzzContainerdEvent(f *testing.F) {
	for _, ev := range []any{
		&apievents.ContainerCreate{ID: hexID(1), Image: "x"}, &apievents.TaskExit{ContainerID: hexID(1), ID: hexID(1)},
		&apievents.TaskStart{ContainerID: hexID(1)}, &apievents.ContainerUpdate{ID: "x"}, &apievents.ImageCreate{Name: "x"},
	} {
		env := envelope(f, "default", "/t", ev)
		f.Add(env.Event.GetTypeUrl(), env.Event.GetValue())
	}
	f.Add("", []byte{})
	f.Add("types.containerd.io/none", []byte("{"))
	f.Fuzz(func(t *testing.T, url string, value []byte) {
		ev, ok := containerdEvent(&events.Envelope{Namespace: "n", Event: &anypb.Any{TypeUrl: url, Value: value}})
		if !ok {
			return
		}
		if _, err := ev.ref.id.Bytes(); err != nil || ev.kind == 0 || len(ev.image) > maxImageBytes {
			t.Errorf("event out of bounds: %+v, %v", ev, err)
		}
	})
}

func FuzzContainerdRecord(f *testing.F) {
	f.Add(hexID(1), "image", "io.kubernetes.pod.name", "pod", 3)
	f.Add(hexID(1), "", "io.cri-containerd.kind", "sandbox", 2000)
	f.Fuzz(func(t *testing.T, cid, img, key, value string, n int) {
		labels := map[string]string{key: value}
		for i := range min(max(n, 0), 4000) {
			labels[digest(i)] = value
		}
		rec := containers.Container{ID: cid, Image: img, Labels: labels}
		recs := records{containers: []containers.Container{rec}, images: map[string]images.Image{img: {Target: ocispec.Descriptor{Digest: digestpkg.Digest(value)}}}}
		if c, ok := recs.container(rec); ok {
			checkBounds(t, bound(c))
		}
	})
}
