package workload

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

// fakeContainer is a container as the engine knows it.
type fakeContainer struct {
	id, name, image, imageID string
	labels                   map[string]string
	state                    container.ContainerState
	created                  int64
	network                  string // NetworkMode
	ports                    []map[string]any
}

// fakeDocker models the part of Docker Engine's API that is used, over a Unix
// socket: state, an event stream with replay, and the container lock that makes
// an inspect wait for a start.
type fakeDocker struct {
	socket  string
	version string // the API version it speaks; requests for newer ones are refused

	mu          sync.Mutex // guards the fields below
	srv         *httptest.Server
	containers  map[string]*fakeContainer
	tags        map[string]string   // reference to image ID
	repoDigests map[string][]string // by image ID
	manifests   []map[string]any    // of every image; told to those who ask for them
	locked      map[string]bool     // containers whose inspect hangs
	history     []events.Message
	subs        map[chan events.Message]bool
	requests    map[string]int
	failList    bool
}

func newFakeDocker(t *testing.T, version string) *fakeDocker {
	t.Helper()
	dir, err := os.MkdirTemp("", "belay-wl") // t.TempDir is too long for a socket address in nested tests
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeDocker{
		socket: filepath.Join(dir, "d.sock"), version: version,
		containers: map[string]*fakeContainer{}, tags: map[string]string{}, repoDigests: map[string][]string{},
		locked: map[string]bool{}, subs: map[chan events.Message]bool{}, requests: map[string]int{},
	}
	f.start(t)
	t.Cleanup(func() {
		f.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fakeDocker) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: f}}
	srv.Start()
	f.mu.Lock()
	f.srv = srv
	f.mu.Unlock()
}

// stop ends the server as a crash would: all connections break.
func (f *fakeDocker) stop() {
	f.mu.Lock()
	srv := f.srv
	f.srv = nil
	f.mu.Unlock()
	if srv == nil {
		return
	}
	srv.CloseClientConnections()
	srv.Close()
}

// emit records and sends an event; the caller holds f.mu.
func (f *fakeDocker) emit(typ events.Type, action events.Action, id string, attrs map[string]string) {
	now := time.Now()
	m := events.Message{
		Type: typ, Action: action, Actor: events.Actor{ID: id, Attributes: attrs},
		Time: now.Unix(), TimeNano: now.UnixNano(),
	}
	f.history = append(f.history, m)
	for ch := range f.subs {
		ch <- m
	}
}

func (f *fakeDocker) containerEvent(c *fakeContainer, action events.Action, extra map[string]string) {
	attrs := map[string]string{}
	maps.Copy(attrs, c.labels)
	maps.Copy(attrs, extra)
	attrs["name"], attrs["image"] = c.name, c.image
	f.emit(events.ContainerEventType, action, c.id, attrs)
}

func (f *fakeDocker) create(c fakeContainer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.state == "" {
		c.state = container.StateCreated
	}
	if c.imageID == "" {
		c.imageID = f.tags[c.image]
	}
	f.containers[c.id] = &c
	f.containerEvent(&c, events.ActionCreate, nil)
}

func (f *fakeDocker) setRunning(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	c.state = container.StateRunning
	f.containerEvent(c, events.ActionStart, nil)
}

func (f *fakeDocker) die(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	c.state = container.StateExited
	f.containerEvent(c, events.ActionDie, map[string]string{"exitCode": "137"})
}

func (f *fakeDocker) rename(id, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	old := c.name
	c.name = name
	f.containerEvent(c, events.ActionRename, map[string]string{"oldName": "/" + old})
}

func (f *fakeDocker) destroy(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	delete(f.containers, id)
	f.containerEvent(c, events.ActionDestroy, nil)
}

func (f *fakeDocker) lock(id string, locked bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locked[id] = locked
}

// inspects returns how often a container was inspected.
func (f *fakeDocker) inspects(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests["containers/"+id+"/json"]
}

func (f *fakeDocker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", f.version)
	path := r.URL.Path
	if path == "/_ping" {
		fmt.Fprint(w, "OK")
		return
	}
	v, rest, _ := strings.Cut(strings.TrimPrefix(path, "/v"), "/")
	f.mu.Lock()
	f.requests[rest]++
	failList := f.failList
	f.mu.Unlock()
	if newer(v, f.version) {
		fail(w, http.StatusBadRequest, "client version "+v+" is too new. Maximum supported API version is "+f.version)
		return
	}
	switch parts := strings.Split(rest, "/"); {
	case rest == "events":
		f.serveEvents(w, r)
	case rest == "containers/json" && failList:
		fail(w, http.StatusInternalServerError, "out of order")
	case rest == "containers/json":
		f.serveList(w, r)
	case len(parts) == 3 && parts[0] == "containers" && parts[2] == "json":
		f.serveInspect(w, r, parts[1])
	case len(parts) == 3 && parts[0] == "images" && parts[2] == "json":
		f.serveImage(w, parts[1], r.URL.Query().Get("manifests") == "1")
	default:
		fail(w, http.StatusNotFound, "page not found")
	}
}

func newer(a, b string) bool {
	num := func(s string) int {
		_, minor, _ := strings.Cut(s, ".")
		n, _ := strconv.Atoi(minor)
		return n
	}
	return num(a) > num(b)
}

func fail(w http.ResponseWriter, code int, msg string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"message":%q}`, msg)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(err)
	}
}

func (f *fakeDocker) serveList(w http.ResponseWriter, r *http.Request) {
	var filters map[string]map[string]bool
	if s := r.URL.Query().Get("filters"); s != "" {
		if err := json.Unmarshal([]byte(s), &filters); err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := []map[string]any{}
	for _, c := range f.containers {
		if ids := filters["id"]; ids != nil && !ids[c.id] {
			continue
		}
		image := c.image
		if f.tags[image] != c.imageID {
			image = c.imageID // as the engine does when the tag has moved
		}
		out = append(out, map[string]any{
			"Id": c.id, "Names": []string{"/other/alias", "/" + c.name}, "Image": image, "ImageID": c.imageID,
			"Labels": c.labels, "State": c.state, "Created": c.created,
			"HostConfig": map[string]any{"NetworkMode": c.network}, "Ports": c.ports,
		})
	}
	reply(w, out)
}

func (f *fakeDocker) serveInspect(w http.ResponseWriter, r *http.Request, id string) {
	for {
		f.mu.Lock()
		locked := f.locked[id]
		f.mu.Unlock()
		if !locked {
			break
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.containers[id]
	if !ok {
		fail(w, http.StatusNotFound, "No such container: "+id)
		return
	}
	reply(w, map[string]any{
		"Id": c.id, "Name": "/" + c.name, "Image": c.imageID,
		"State":  map[string]any{"Status": c.state, "Running": c.state == container.StateRunning},
		"Config": map[string]any{"Image": c.image, "Labels": c.labels},
	})
}

func (f *fakeDocker) serveImage(w http.ResponseWriter, id string, manifests bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	digests, ok := f.repoDigests[id]
	if !ok {
		fail(w, http.StatusNotFound, "No such image: "+id)
		return
	}
	answer := map[string]any{"Id": id, "RepoDigests": digests}
	if manifests {
		answer["Manifests"] = f.manifests
	}
	reply(w, answer)
}

func (f *fakeDocker) serveEvents(w http.ResponseWriter, r *http.Request) {
	var since int64
	if s, frac, ok := strings.Cut(r.URL.Query().Get("since"), "."); ok {
		sec, _ := strconv.ParseInt(s, 10, 64)
		ns, _ := strconv.ParseInt(frac, 10, 64)
		since = sec*int64(time.Second) + ns
	}
	w.Header().Set("Content-Type", "application/json")
	w.(http.Flusher).Flush()
	ch := make(chan events.Message, 10000)
	f.mu.Lock()
	replay := append([]events.Message(nil), f.history...)
	f.subs[ch] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.subs, ch)
		f.mu.Unlock()
	}()
	enc := json.NewEncoder(w)
	for _, m := range replay {
		if m.TimeNano >= since {
			_ = enc.Encode(m) // a client that is gone is noticed below
		}
	}
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case m := <-ch:
			if enc.Encode(m) != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
}

// connectedStatus returns the status of src once it is connected, or what it is
// after five seconds: it is set only after the listing was handed on.
func connectedStatus(src Source) Status {
	st := src.Status()
	for range 500 {
		if st.Connected {
			break
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // there is no other signal
		st = src.Status()
	}
	return st
}

// feed collects the changes a source emits.
type feed struct {
	t  *testing.T
	ch chan Change
}

// follow runs src until the test ends.
func follow(t *testing.T, src Source) *feed {
	t.Helper()
	fd := &feed{t: t, ch: make(chan Change, 10000)}
	ctx, done := t.Context(), make(chan error, 1)
	go func() { done <- src.Run(ctx, func(c Change) { fd.ch <- c }) }()
	t.Cleanup(func() {
		// t.Context has ended by now.
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: got %v, want nil", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Run did not return after its context ended")
		}
	})
	return fd
}

// await returns the first change for which ok is true, dropping those before it.
func (f *feed) await(what string, ok func(Change) bool) Change {
	f.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case c := <-f.ch:
			if ok(c) {
				return c
			}
		case <-deadline:
			f.t.Fatalf("no change came: %s", what)
		}
	}
}

func (f *feed) resync() Change {
	f.t.Helper()
	return f.await("resync", func(c Change) bool { return c.Kind == Resync })
}

func (f *feed) cause(cause string) Change {
	f.t.Helper()
	return f.await(cause, func(c Change) bool { return c.Cause == cause })
}

// quiet fails the test if a change comes within d.
func (f *feed) quiet(d time.Duration) {
	f.t.Helper()
	select {
	case c := <-f.ch:
		f.t.Errorf("got an unexpected change: %+v", c)
	case <-time.After(d):
	}
}
