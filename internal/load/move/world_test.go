package move

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/plan"
	"github.com/belay-project/belay/internal/load/recreate"
)

// fake is an engine that keeps containers, volumes and networks in memory, and answers what a move
// asks. It models states and times of containers, names, labels, what is in a volume, and of which run of another container one
// has the network; health by the time since the start alone; not addresses or images.
type fake struct {
	url  string
	host string         // its own name
	free int64          // what its gate says that it has free; 0: it has none
	port int            // that its host listens on
	api  string         // that it speaks at most; "": 1.44
	info map[string]any // what it says of itself beside or instead of what others say
	says string         // digest that its gate says of a volume: "own" of what is there; "": it says none
	root string         // directory of the host below which volumes that are made have theirs; "": they have none

	mu         sync.Mutex
	id         string
	made       int
	containers map[string]*fakeContainer
	volumes    map[string]*fakeVolume
	networks   map[string]map[string]any
	changes    []map[string]any
	unwell     bool                                              // no health check succeeds
	down       bool                                              // it answers nobody
	before     func(method, path string)                         // is called before a request, without mu
	answer     func(w http.ResponseWriter, r *http.Request) bool // answers in its place
	starts     func()                                            // is called when a container starts, with mu
	stops      func(c *fakeContainer)                            // is called before a container stops, with mu
}

type fakeContainer struct {
	id, name, image   string
	config, host      map[string]any
	ports             []any // that are published, as a list has them
	networks          map[string]any
	running           bool
	started, finished string
	starts            int
	joined            int // which start of the container whose network it has that was
}

type fakeVolume struct {
	labels  map[string]string
	data    string
	files   []*tar.Header // in its archive, data is in the only regular one; nil: that one alone
	dir     string        // on the host
	size    int64         // as its engine says
	driver  string        // "": local
	options map[string]string
}

func newFake(t *testing.T, id string) *fake {
	t.Helper()
	f := &fake{id: id, containers: map[string]*fakeContainer{}, volumes: map[string]*fakeVolume{}, networks: map[string]map[string]any{
		"bridge": {"Name": "bridge", "Id": "n1", "Driver": "bridge", "Scope": "local"},
	}}
	path := filepath.Join(t.TempDir(), "engine.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f.url = "unix://" + path
	srv := httptest.NewUnstartedServer(f)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return f
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// ServeHTTP implements [http.Handler].
func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/v1."); ok && !strings.Contains(path, "/belay/") { // which has no version
		_, path, _ = strings.Cut(rest, "/")
		path = "/" + path
	}
	f.mu.Lock()
	before, answer, down := f.before, f.answer, f.down
	f.mu.Unlock()
	if before != nil {
		before(r.Method, path)
	}
	f.mu.Lock()
	down = down || f.down
	f.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler)
	}
	if answer != nil && answer(w, r) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	parts := strings.Split(strings.Trim(path, "/"), "/")
	status, out := f.serve(r, parts)
	if raw, ok := out.([]byte); ok {
		w.WriteHeader(status)
		_, _ = w.Write(raw)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(out)
}

func refuse(status int, text string) (int, any) { return status, map[string]string{"message": text} }

func (f *fake) serve(r *http.Request, parts []string) (int, any) {
	switch parts[0] {
	case "version":
		return 200, map[string]string{"ApiVersion": cmp.Or(f.api, "1.44"), "MinAPIVersion": "1.24"}
	case "info":
		out := map[string]any{"ID": f.id, "Name": f.host, "OSType": "linux", "Architecture": "x86_64", "CgroupVersion": "2"}
		maps.Copy(out, f.info)
		return 200, out
	case "images":
		return 200, map[string]any{"Id": "sha256:aa", "RepoTags": []string{"web:1"}, "Config": map[string]any{}, "RootFS": map[string]any{"Type": "layers", "Layers": []string{"sha256:l"}}}
	case "belay":
		if strings.HasSuffix(r.URL.Path, "/digest") {
			return f.serveDigest(parts[3])
		}
		if f.free == 0 {
			return refuse(404, "page not found")
		}
		return 200, map[string]any{"schema": plan.DescriptionSchema, "node": map[string]any{"site": map[string]any{"freeBytes": f.free, "ports": []any{map[string]any{"port": f.port, "protocol": "tcp"}}}}}
	case "system":
		var list []any
		for name, v := range f.volumes {
			list = append(list, map[string]any{"Name": name, "UsageData": map[string]any{"Size": v.size, "RefCount": 1}})
		}
		return 200, map[string]any{"Volumes": list}
	case "networks":
		return f.serveNetwork(r, parts[1])
	case "volumes":
		return f.serveVolume(r, parts[1:])
	case "containers":
		return f.serveContainer(r, parts[1:])
	}
	return refuse(404, "page not found")
}

func (f *fake) serveDigest(container string) (int, any) {
	c := f.find(container)
	if f.says == "" || c == nil {
		return refuse(404, "page not found")
	}
	said := f.says
	if said == "own" {
		_, packed := f.act(&http.Request{Method: "GET"}, c, "archive")
		said, _ = digestTree(bytes.NewReader(packed.([]byte)))
	}
	return 200, fmt.Appendf(nil, "{\"bytes\":1}\n{\"digest\":%q}\n", said)
}

func (f *fake) serveNetwork(r *http.Request, name string) (int, any) {
	if name == "create" {
		in := map[string]any{}
		_ = json.NewDecoder(r.Body).Decode(&in)
		name, _ = in["Name"].(string)
		f.networks[name] = map[string]any{"Name": name, "Id": name, "Driver": in["Driver"], "Scope": "local", "Labels": in["Labels"]}
	}
	n := f.networks[name]
	switch {
	case n == nil:
		return refuse(404, "no such network")
	case r.Method == "DELETE":
		delete(f.networks, name)
		return 204, nil
	}
	return 200, n
}

func (f *fake) serveVolume(r *http.Request, parts []string) (int, any) {
	name := parts[0]
	if name == "create" {
		var in struct {
			Name   string
			Labels map[string]string
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		if name = in.Name; f.volumes[name] == nil {
			f.volumes[name] = &fakeVolume{labels: in.Labels}
			if f.root != "" {
				f.volumes[name].dir = filepath.Join(f.root, name, "_data")
				if err := os.MkdirAll(f.volumes[name].dir, 0o755); err != nil {
					return refuse(500, err.Error())
				}
			}
		}
	}
	v := f.volumes[name]
	switch {
	case v == nil:
		return refuse(404, "no such volume")
	case r.Method == "DELETE":
		delete(f.volumes, name)
		return 204, nil
	}
	return 200, map[string]any{"Name": name, "Driver": cmp.Or(v.driver, "local"), "Options": v.options, "Labels": v.labels, "Mountpoint": v.dir}
}

func (f *fake) find(ref string) *fakeContainer {
	for _, c := range f.containers {
		if c.id == ref || c.name == ref || len(ref) >= 12 && strings.HasPrefix(c.id, ref) {
			return c
		}
	}
	return nil
}

func (f *fake) labels(c *fakeContainer) map[string]string {
	out := map[string]string{}
	if l, ok := c.config["Labels"].(map[string]any); ok {
		for k, v := range l {
			out[k], _ = v.(string)
		}
	}
	return out
}

func (f *fake) serveContainer(r *http.Request, parts []string) (int, any) {
	switch parts[0] {
	case "json":
		var list []map[string]any
		for _, id := range slices.Sorted(maps.Keys(f.containers)) {
			c := f.containers[id]
			list = append(list, map[string]any{"Id": c.id, "Names": []string{"/" + c.name}, "Labels": f.labels(c), "Mounts": f.inspection(c)["Mounts"], "Ports": c.ports})
		}
		return 200, list
	case "create":
		name := r.URL.Query().Get("name")
		if f.find(name) != nil {
			return refuse(409, "the name is in use")
		}
		var in map[string]any
		_ = json.NewDecoder(r.Body).Decode(&in)
		host, _ := in["HostConfig"].(map[string]any)
		net, _ := in["NetworkingConfig"].(map[string]any)
		delete(in, "HostConfig")
		delete(in, "NetworkingConfig")
		ends, _ := net["EndpointsConfig"].(map[string]any)
		if other := joins(host); other != "" && (f.find(other) == nil || in["Hostname"] != "" && in["Hostname"] != nil) {
			return refuse(409, "conflicting options: the network of "+other)
		}
		c := f.add(name, in, host, ends)
		return 201, map[string]string{"Id": c.id}
	}
	c := f.find(parts[0])
	if c == nil {
		return refuse(404, "no such container: "+parts[0])
	}
	if len(parts) == 1 && r.Method == "DELETE" {
		if c.running {
			return refuse(409, "it runs")
		}
		delete(f.containers, c.id)
		return 204, nil
	}
	return f.act(r, c, parts[1])
}

func (f *fake) act(r *http.Request, c *fakeContainer, what string) (int, any) {
	switch what {
	case "json":
		return 200, f.inspection(c)
	case "changes":
		return 200, f.changes
	case "start":
		if other := joins(c.host); other != "" && (f.find(other) == nil || !f.find(other).running) {
			return refuse(409, "cannot join the network of a container that is not running")
		}
		f.start(c)
		return 204, nil
	case "stop":
		f.stop(c)
		return 204, nil
	case "rename":
		c.name = r.URL.Query().Get("name")
		return 204, nil
	case "update":
		var in map[string]any
		_ = json.NewDecoder(r.Body).Decode(&in)
		maps.Copy(c.host, in)
		return 200, map[string]any{}
	case "archive":
		v := f.volumes[f.mounted(c)]
		if r.Method == "PUT" {
			t := tar.NewReader(r.Body)
			var files []*tar.Header
			var data []byte
			for {
				h, err := t.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return refuse(500, err.Error())
				}
				files = append(files, h)
				more, _ := io.ReadAll(t)
				data = append(data, more...)
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil || len(files) == 0 {
				return refuse(500, fmt.Sprint(len(files), " files, ", err))
			}
			v.files, v.data = files, string(data)
			return 200, nil
		}
		var b bytes.Buffer
		t := tar.NewWriter(&b)
		files := v.files
		if files == nil {
			files = []*tar.Header{{Typeflag: tar.TypeReg, Name: "belay-volume/data", Mode: 0o600}}
		}
		for _, h := range files {
			if h.Typeflag != tar.TypeReg {
				_ = t.WriteHeader(h)
				continue
			}
			h.Size = int64(len(v.data))
			_ = t.WriteHeader(h)
			_, _ = io.WriteString(t, v.data)
		}
		_ = t.Close()
		return 200, b.Bytes()
	}
	return refuse(404, "page not found")
}

func stamp() string { return time.Now().Format(time.RFC3339Nano) }

func (f *fake) start(c *fakeContainer) {
	if !c.running {
		c.running, c.started = true, stamp()
		c.starts++
		if other := f.find(joins(c.host)); other != nil {
			c.joined = other.starts
		}
		if f.starts != nil {
			f.starts()
		}
	}
}

func (f *fake) stop(c *fakeContainer) {
	if c.running {
		if f.stops != nil {
			f.stops(c)
		}
		c.running, c.finished = false, stamp()
	}
}

// cut reports whether a container runs in the network of another one that has ended since, and may have been started again.
func (f *fake) cut(c *fakeContainer) bool {
	to := joins(c.host)
	other := f.find(to)
	return c.running && to != "" && (other == nil || !other.running || other.starts != c.joined)
}

// healthAfter is how long a container with a health check takes to be healthy.
const healthAfter = 300 * time.Millisecond

// health returns that of a container with a health check, or nil.
func (f *fake) health(c *fakeContainer) any {
	if c.config["Healthcheck"] == nil {
		return nil
	}
	status := "starting"
	if at, err := time.Parse(time.RFC3339Nano, c.started); err == nil && time.Since(at) > healthAfter && !f.unwell {
		status = "healthy"
	}
	return map[string]any{"Status": status}
}

// joins returns the container whose network another one has.
func joins(host map[string]any) string {
	mode, _ := host["NetworkMode"].(string)
	other, _ := strings.CutPrefix(mode, "container:")
	if other == mode {
		return ""
	}
	return other
}

// mounted returns the name of the first volume of a container.
func (f *fake) mounted(c *fakeContainer) string {
	list, _ := c.host["Mounts"].([]any)
	for _, m := range list {
		name, _ := m.(map[string]any)["Source"].(string)
		return name
	}
	return ""
}

// add makes a container; mu is held.
func (f *fake) add(name string, config, host, networks map[string]any) *fakeContainer {
	f.made++
	c := &fakeContainer{
		id: fmt.Sprintf("%s%06d%052d", f.id, f.made, 0), name: name, image: "sha256:aa", config: config, host: host, networks: networks,
		started: "0001-01-01T00:00:00Z", finished: "0001-01-01T00:00:00Z",
	}
	if host == nil {
		c.host = map[string]any{}
	}
	if h, _ := config["Hostname"].(string); h == "" {
		config["Hostname"] = c.id[:12]
	}
	if other := f.find(joins(host)); other != nil {
		config["Hostname"] = other.id[:12]
	}
	if c.networks == nil && joins(host) == "" {
		c.networks = map[string]any{"bridge": map[string]any{}}
	}
	f.containers[c.id] = c
	return c
}

func (f *fake) inspection(c *fakeContainer) map[string]any {
	status := "exited"
	if c.running {
		status = "running"
	}
	mounts := []any{}
	list, _ := c.host["Mounts"].([]any)
	for _, m := range list {
		o, _ := m.(map[string]any)
		mounts = append(mounts, map[string]any{"Type": "volume", "Name": o["Source"], "Destination": o["Target"], "Driver": "local", "RW": true})
	}
	return map[string]any{
		"Id": c.id, "Name": "/" + c.name, "Image": c.image, "Platform": "linux", "Config": c.config, "HostConfig": c.host, "Mounts": mounts,
		"State":           map[string]any{"Status": status, "Running": c.running, "StartedAt": c.started, "FinishedAt": c.finished, "Health": f.health(c)},
		"NetworkSettings": map[string]any{"Networks": c.networks},
	}
}

// world is a container "web" on one of two engines, with a volume if it is stateful, or a group of two.
type world struct {
	t        *testing.T
	from, to *fake
	dir      string
	s        Settings
	source   *fakeContainer
	group    map[string]*fakeContainer // sources by their names
	at       func(point string)
	hooks    []string
	hookErr  error
	now      time.Time
	owner    int    // of the directories of volumes, as an engine's are root's
	proc     string // the mover's /proc; "": this one
}

func newWorld(t *testing.T, stateful bool) *world {
	t.Helper()
	w := &world{t: t, from: newFake(t, "aaaaaa"), to: newFake(t, "bbbbbb"), dir: private(t), s: Settings{Settle: 1, Keep: time.Hour, Image: "stream", Hook: []string{"/lb"}}, now: time.Now(), owner: os.Geteuid()}
	host := map[string]any{"NetworkMode": "bridge", "RestartPolicy": map[string]any{"Name": "always"}, "CgroupnsMode": "private"}
	if stateful {
		w.s.CopyVolumes = true
		w.from.volumes["records"] = &fakeVolume{data: "first"}
		host["Mounts"] = []any{map[string]any{"Type": "volume", "Source": "records", "Target": "/data"}}
	}
	w.source = w.from.add("web", map[string]any{"Image": "web:1", "Cmd": []string{"httpd"}}, host, nil)
	w.from.start(w.source)
	w.group = map[string]*fakeContainer{"web": w.source}
	return w
}

// newGroup is a world of two containers that move as one: without volumes "web" and "api" on a network of their own, else "db",
// and "agent" which has its network namespace and its volume.
func newGroup(t *testing.T, stateful bool) *world {
	t.Helper()
	w := newWorld(t, stateful)
	delete(w.from.containers, w.source.id)
	add := func(name, network string, networks map[string]any) *fakeContainer {
		host := maps.Clone(w.source.host)
		host["NetworkMode"] = network
		c := w.from.add(name, map[string]any{"Image": "web:1", "Cmd": []string{"httpd"}}, host, networks)
		w.from.start(c)
		return c
	}
	if stateful {
		db := add("db", "bridge", nil)
		w.group = map[string]*fakeContainer{"db": db, "agent": add("agent", "container:"+db.id, nil)}
		return w
	}
	w.from.networks["shop"] = map[string]any{"Name": "shop", "Id": "shop", "Driver": "bridge", "Scope": "local"}
	on := map[string]any{"shop": map[string]any{}}
	w.group = map[string]*fakeContainer{"web": add("web", "shop", on), "api": add("api", "shop", on)}
	return w
}

func (w *world) mover() *Mover {
	return New(Options{Dir: w.dir, At: w.at, Now: func() time.Time { return w.now }, owner: w.owner, proc: w.proc, RunHook: func(_ context.Context, _ string, args []string, in []byte, _ time.Duration) error {
		w.hooks = append(w.hooks, args[len(args)-1])
		return w.hookErr
	}})
}

func (w *world) move() (*Journal, error) {
	names := slices.Sorted(maps.Keys(w.group)) // whoever needs another is named before it
	return w.mover().Move(w.t.Context(), names[0], engine.Address{URL: w.from.url}, engine.Address{URL: w.to.url}, w.s, names[1:]...)
}

func (w *world) look() (*Plan, error) {
	return w.mover().Look(w.t.Context(), "web", engine.Address{URL: w.from.url}, engine.Address{URL: w.to.url}, w.s)
}

// copies returns the containers of the target that are no helpers.
func (w *world) copies() (out []*fakeContainer) {
	w.to.mu.Lock()
	defer w.to.mu.Unlock()
	for _, c := range w.to.containers {
		if w.to.labels(c)[recreate.LabelHelper] == "" {
			out = append(out, c)
		}
	}
	return out
}

// want checks who runs: the source, with its name and restart policy, and copies; of a group all or none.
func (w *world) want(source bool, copies int) {
	w.t.Helper()
	var n int
	for _, c := range w.copies() {
		if c.running {
			n++
		}
	}
	for _, f := range []*fake{w.from, w.to} {
		f.set(func() {
			for _, c := range f.containers {
				if f.cut(c) {
					w.t.Errorf("%s of engine %s has the network of a run that has ended", c.name, f.id)
				}
			}
		})
	}
	w.from.mu.Lock()
	defer w.from.mu.Unlock()
	if n != copies*len(w.group) {
		w.t.Errorf("%d copies run; want %d", n, copies*len(w.group))
	}
	for name, c := range w.group {
		if c.running != source {
			w.t.Errorf("the source %s runs: %v; want %v", name, c.running, source)
		}
		p, err := json.Marshal(c.host["RestartPolicy"])
		if source && (err != nil || c.name != name || !strings.Contains(string(p), `"always"`)) {
			w.t.Errorf("the source %s is called %s, with restart policy %s", name, c.name, p)
		}
	}
}

func (w *world) journal() *Journal {
	w.t.Helper()
	list, err := List(w.dir)
	if err != nil || len(list) != 1 {
		w.t.Fatalf("got %d journals, %v", len(list), err)
	}
	return list[0]
}

// once returns an At that does something at a point, the first time.
func once(point string, do func()) func(string) {
	var done bool
	return func(p string) {
		if p == point && !done {
			done = true
			do()
		}
	}
}

// killed is the panic by which a mover ends as if by SIGKILL.
type killed struct{}

// mayBeKilled does something that may end so.
func mayBeKilled(do func()) {
	defer func() {
		if p := recover(); p != nil && p != any(killed{}) {
			panic(p)
		}
	}()
	do()
}

// kill moves, and ends the mover at a point as if by SIGKILL.
func (w *world) kill(point string) string {
	w.t.Helper()
	w.killIn(point, func() error { _, err := w.move(); return err })
	return w.journal().ID
}

// killIn ends a mover at a point of what it does as if by SIGKILL.
func (w *world) killIn(point string, do func() error) {
	w.t.Helper()
	defer func() { w.at = nil }()
	w.at = once(point, func() { panic(killed{}) })
	mayBeKilled(func() { w.t.Fatalf("the mover was not ended at %s: %v", point, do()) })
}

// TestWorld: moves between the fakes are what they are between engines.
func TestWorld(t *testing.T) {
	for _, stateful := range []bool{true, false} {
		w := newWorld(t, stateful)
		j, err := w.move()
		if err != nil {
			t.Fatal(err)
		}
		w.want(false, 1)
		if stateful && w.to.volumes["records"].data != "first" {
			t.Error("the data is not there")
		}
		if j.Phase != Kept || len(w.from.volumes) != map[bool]int{true: 1}[stateful] {
			t.Errorf("phase %s, volumes %v", j.Phase, w.from.volumes)
		}
		if _, err := w.mover().Abort(t.Context(), j.ID, Allow{LoseWrites: true}); err != nil {
			t.Fatal(err)
		}
		w.want(true, 0)
	}
}

// leases returns the names of leases that are on an engine.
func (f *fake) leases() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for name := range f.volumes {
		if strings.HasPrefix(name, "belay-move-lease-") {
			out = append(out, name)
		}
	}
	return strings.Join(out, " ")
}
