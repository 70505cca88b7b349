package workload

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/belay-project/belay/internal/ident"
)

func hexID(n int) string { return fmt.Sprintf("%064x", n) }

func digest(n int) string { return "sha256:" + hexID(n) }

func id(n int) ident.ContainerID { return ident.ContainerID(hexID(n)) }

func newTestDocker(t *testing.T, f *fakeDocker) *Docker {
	t.Helper()
	d, err := NewDocker(DockerOptions{Host: "unix://" + f.socket})
	if err != nil {
		t.Fatal(err)
	}
	d.f.t.maxBackoff = 20 * time.Millisecond
	d.f.t.minBackoff = 5 * time.Millisecond
	d.f.t.firstRelist = time.Hour
	return d
}

func TestDockerListing(t *testing.T) {
	for _, version := range []string{"1.40", "1.41", "1.44", "1.56", "1.70"} {
		t.Run(version, func(t *testing.T) {
			f := newFakeDocker(t, version)
			f.tags["web:1"] = digest(100)
			f.repoDigests[digest(100)] = []string{"reg/web@" + digest(101), "reg/web@sha256:short", "nonsense"}
			f.create(fakeContainer{
				id: hexID(1), name: "web", image: "web:1", labels: map[string]string{"tier": "front", labelPodNamespace: "shop"},
				state: container.StateRunning, created: 1700000000,
			})
			// Its tag has moved: the listing shows an ID, inspect has the reference.
			f.create(fakeContainer{id: hexID(2), name: "old", image: "web:1", imageID: digest(99), state: container.StateExited})
			f.create(fakeContainer{id: "not-an-id", name: "odd", image: "web:1"})
			d := newTestDocker(t, f)
			fd := follow(t, d)

			want := Change{Kind: Resync, Runtime: RuntimeDocker, Cause: "list", Containers: []Container{{
				ID: id(1), Name: "web", Image: "web:1", ImageDigest: digest(100),
				ImageDigests: []string{digest(100), digest(101)}, Labels: map[string]string{"tier": "front", labelPodNamespace: "shop"},
				Namespace: "shop", Runtime: RuntimeDocker, State: StateRunning, Created: time.Unix(1700000000, 0),
			}, {
				ID: id(2), Name: "old", Image: "web:1", ImageDigest: digest(99), ImageDigests: []string{digest(99)},
				Runtime: RuntimeDocker, State: StateStopped, Created: time.Unix(0, 0),
			}}}
			if diff := cmp.Diff(want, fd.resync()); diff != "" {
				t.Errorf("resync (-want +got):\n%s", diff)
			}
			// An inspect costs the engine more than all else: only where the listing falls short.
			if n, moved := f.inspects(hexID(1)), f.inspects(hexID(2)); n != 0 || moved == 0 {
				t.Errorf("got %d inspects, and %d of the container whose tag has moved, want 0 and at least 1", n, moved)
			}
			st := connectedStatus(d)
			wantVersion := version
			if version == "1.70" {
				wantVersion = "1.56"
			}
			if !st.Connected || st.Err != nil || st.Version != wantVersion || st.InvalidIDs != 1 {
				t.Errorf("got status %+v, want connected, API %s, one invalid ID", st, wantVersion)
			}
		})
	}
}

func TestDockerRefusesAncientEngine(t *testing.T) {
	d := newTestDocker(t, newFakeDocker(t, "1.39"))
	fd := follow(t, d)
	c := fd.await("disconnected", func(c Change) bool { return c.Kind == Disconnected })
	if c.Err == nil || !strings.Contains(c.Err.Error(), "1.39") {
		t.Errorf("got error %v, want one that names the version", c.Err)
	}
}

func TestDockerLife(t *testing.T) {
	f := newFakeDocker(t, "1.41")
	f.tags["app"] = digest(7)
	f.repoDigests[digest(7)] = []string{"reg/app@" + digest(8)}
	fd := follow(t, newTestDocker(t, f))
	fd.resync()

	labels := map[string]string{"name": "fake", "image": "fake", "belay.dev/x": "y"}
	f.create(fakeContainer{id: hexID(5), name: "app-1", image: "app", labels: labels})
	got := fd.cause("create")
	want := Container{
		ID: id(5), Name: "app-1", Image: "app", ImageDigest: digest(7), ImageDigests: []string{digest(7)},
		Labels: labels, Runtime: RuntimeDocker, State: StateCreated, Created: time.Unix(0, 0), Partial: true,
	}
	if diff := cmp.Diff(want, got.Container); diff != "" || got.Kind != Upsert {
		t.Errorf("create: kind %s (-want +got):\n%s", got.Kind, diff)
	}
	want.ImageDigests, want.Partial = []string{digest(7), digest(8)}, false
	if diff := cmp.Diff(want, fd.cause("detail").Container); diff != "" {
		t.Errorf("detail (-want +got):\n%s", diff)
	}

	f.setRunning(hexID(5))
	if c := fd.cause("start").Container; c.State != StateRunning {
		t.Errorf("start: got state %s, want running", c.State)
	}
	f.rename(hexID(5), "app-2")
	if c := fd.cause("rename").Container; c.Name != "app-2" || c.State != StateRunning {
		t.Errorf("rename: got %s, %s, want app-2, running", c.Name, c.State)
	}
	f.die(hexID(5))
	if c := fd.cause("stop").Container; c.State != StateStopped {
		t.Errorf("die: got state %s, want stopped", c.State)
	}
	f.destroy(hexID(5))
	ch := fd.cause("destroy")
	if ch.Kind != Removed || ch.Container.ID != id(5) || ch.Container.State != StateRemoved {
		t.Errorf("destroy: got %+v, want removed", ch)
	}

	// The image is known by now: nothing is left to ask, and the first word is whole.
	f.create(fakeContainer{id: hexID(6), name: "app-3", image: "app"})
	if c := fd.cause("create").Container; c.Partial || len(c.ImageDigests) != 2 {
		t.Errorf("second create: got %+v, want both digests at once", c)
	}
	if n := f.inspects(hexID(5)); n != 0 {
		t.Errorf("got %d inspects, want none: listings, events and the image told everything", n)
	}
}

// A start takes the container's lock in the engine: the create must be told
// without waiting for an inspect, and other containers must not wait either.
func TestDockerCreateDoesNotWaitForLockedContainer(t *testing.T) {
	f := newFakeDocker(t, "1.41")
	f.tags["app"] = digest(7)
	f.repoDigests[digest(7)] = nil
	fd := follow(t, newTestDocker(t, f))
	fd.resync()
	f.lock(hexID(1), true)
	// Its tag has moved already, so that only an inspect can tell the reference.
	f.create(fakeContainer{id: hexID(1), name: "slow", image: "app", imageID: digest(6)})
	f.setRunning(hexID(1))
	fd.await("first", func(c Change) bool { return c.Cause == "create" && c.Container.ID == id(1) })
	f.create(fakeContainer{id: hexID(2), name: "quick", image: "app"})
	fd.await("second", func(c Change) bool { return c.Cause == "create" && c.Container.ID == id(2) })
	f.lock(hexID(1), false)
	c := fd.await("detail of the first", func(c Change) bool { return c.Cause == "detail" && c.Container.ID == id(1) }).Container
	if c.Image != "app" || c.Partial || c.State != StateRunning {
		t.Errorf("got %+v, want the reference of a running container", c)
	}
}

func TestDockerReconnect(t *testing.T) {
	f := newFakeDocker(t, "1.41")
	f.tags["app"] = digest(7)
	f.repoDigests[digest(7)] = nil
	f.create(fakeContainer{id: hexID(1), name: "a", image: "app"})
	f.create(fakeContainer{id: hexID(2), name: "b", image: "app"})
	d := newTestDocker(t, f)
	fd := follow(t, d)
	if n := len(fd.resync().Containers); n != 2 {
		t.Fatalf("got %d containers, want 2", n)
	}
	f.stop()
	if c := fd.await("disconnected", func(c Change) bool { return c.Kind == Disconnected }); c.Err == nil {
		t.Error("disconnected without an error")
	}
	if st := d.Status(); st.Connected || st.Err == nil {
		t.Errorf("got status %+v, want not connected with an error", st)
	}
	f.destroy(hexID(1))
	f.create(fakeContainer{id: hexID(3), name: "c", image: "app"})
	f.version = "1.56" // upgraded meanwhile
	f.start(t)
	got := fd.resync().Containers
	if len(got) != 2 || got[0].ID != id(2) || got[1].ID != id(3) {
		t.Errorf("got %+v, want containers 2 and 3", got)
	}
	if st := connectedStatus(d); !st.Connected || st.Reconnects != 1 || st.Version != "1.56" {
		t.Errorf("got status %+v, want connected again at 1.56", st)
	}
}

func TestDockerHostile(t *testing.T) {
	huge := map[string]string{"tier": "front", "big": strings.Repeat("x", maxLabelValueBytes+1)}
	for i := range 3000 {
		huge[fmt.Sprintf("filler-%05d", i)] = "x"
	}
	huge["belay.dev/policy"] = "strict"
	f := newFakeDocker(t, "1.41")
	f.tags["app"] = digest(7)
	f.repoDigests[digest(7)] = nil
	d := newTestDocker(t, f)
	fd := follow(t, d)
	fd.resync()

	f.create(fakeContainer{id: hexID(1), name: "huge", image: "app", labels: huge})
	c := fd.cause("create").Container
	if len(c.Labels) != maxLabels || c.Cut != len(huge)-maxLabels {
		t.Errorf("got %d labels and %d cut, want %d and %d", len(c.Labels), c.Cut, maxLabels, len(huge)-maxLabels)
	}
	if c.Labels["belay.dev/policy"] != "strict" || c.Labels["tier"] != "front" || c.Labels["big"] != "" {
		t.Error("the labels kept are not the right ones")
	}
	if st := d.Status(); st.FieldsCut == 0 {
		t.Error("the cut labels are not in the status")
	}

	// An event line past the bound breaks the stream; the listing makes good for it.
	f.create(fakeContainer{id: hexID(2), name: "line", image: "app", labels: map[string]string{"l": strings.Repeat("y", maxEventBytes)}})
	dis := fd.await("disconnected", func(c Change) bool { return c.Kind == Disconnected })
	if !errors.Is(dis.Err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", dis.Err)
	}
	fd.await("resync with it", func(c Change) bool {
		return c.Kind == Resync && len(c.Containers) == 2 && c.Containers[1].Cut == 1
	})
	f.destroy(hexID(1))
	fd.await("removal", func(c Change) bool {
		return c.Kind == Removed && c.Container.ID == id(1) || c.Kind == Resync && len(c.Containers) == 1
	})
}

func TestDockerHost(t *testing.T) {
	tests := []struct {
		host string
		ok   bool
	}{
		{"", true},
		{"unix:///run/docker.sock", true},
		{"tcp://127.0.0.1:2375", false},
		{"unix://relative", false},
		{"/run/docker.sock", false},
	}
	for _, tt := range tests {
		t.Run(tt.host, func(t *testing.T) {
			if _, err := NewDocker(DockerOptions{Host: tt.host}); (err == nil) != tt.ok {
				t.Errorf("got error %v, want ok %v", err, tt.ok)
			}
		})
	}
}

func TestDockerImageEventsForget(t *testing.T) {
	f := newFakeDocker(t, "1.41")
	f.tags["app"] = digest(7)
	f.repoDigests[digest(7)] = nil
	d := newTestDocker(t, f)
	fd := follow(t, d)
	fd.resync()
	f.create(fakeContainer{id: hexID(1), name: "a", image: "app"})
	fd.cause("detail")
	f.mu.Lock()
	f.repoDigests[digest(7)] = []string{"reg/app@" + digest(9)}
	f.emit(events.ImageEventType, events.ActionPush, "reg/app:latest", nil)
	f.mu.Unlock()
	f.create(fakeContainer{id: hexID(2), name: "b", image: "app"})
	fd.await("new digest", func(c Change) bool {
		return c.Container.ID == id(2) && len(c.Container.ImageDigests) == 2
	})
}
