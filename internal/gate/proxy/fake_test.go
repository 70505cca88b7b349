package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/policy"
)

// Ids of the fake daemon's containers.
var (
	idWeb = strings.Repeat("1", 64) // named web, the caller's own
	idDB  = strings.Repeat("2", 64) // named db, another's
	idEx  = strings.Repeat("e", 64) // an exec in db
)

// daemon is a fake Docker daemon. It keeps what it was asked.
type daemon struct {
	socket string
	srv    *http.Server

	// mu guards what follows.
	mu               sync.Mutex
	seen             []seenRequest
	image            string         // of its containers; sha256:aa
	version, cgroups string         // what it says of itself
	user             string         // of its containers
	stays            bool           // nothing can be removed
	owed             string         // value of the label that says what its containers owe
	started          string         // when its containers were started first
	label            string         // one more of their labels
	bind, device     string         // source of a bind of theirs; device of a volume of theirs
	events           string         // what it says of those, instead of its own
	swarm            map[string]any // what it says of its swarm
	more             map[string]any // of what is said of its containers
	volume           map[string]any // what is said of its one volume, records
}

type seenRequest struct {
	method, uri, body string
	header            http.Header
}

func (d *daemon) requests() (out []seenRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.seen {
		if r.uri != imageEvents && r.uri != "/version" && r.uri != "/info" { // heard at all times
			out = append(out, r)
		}
	}
	return out
}

// acted returns what reached the daemon but for the gate's own questions.
func (d *daemon) acted() (out []seenRequest) {
	for _, r := range d.requests() {
		if r.header.Get("User-Agent") != "" || r.method != "GET" {
			out = append(out, r)
		}
	}
	return out
}

func startDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{version: "1.44", cgroups: "2", socket: filepath.Join(t.TempDir(), "dockerd.sock")}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	d.srv = &http.Server{Handler: http.HandlerFunc(d.serve)}
	go d.srv.Serve(l)
	t.Cleanup(func() { d.srv.Close() })
	return d
}

func (d *daemon) serve(w http.ResponseWriter, r *http.Request) {
	hijacks := strings.HasSuffix(r.URL.Path, "/attach") || strings.HasSuffix(r.URL.Path, "/start") && strings.HasPrefix(r.URL.Path, "/exec/") ||
		strings.HasSuffix(r.URL.Path, "/session")
	for _, v := range []string{"/v1.40", "/v1.41"} {
		r.URL.Path = strings.TrimPrefix(r.URL.Path, v)
	}
	body, _ := io.ReadAll(r.Body)
	d.mu.Lock()
	d.seen = append(d.seen, seenRequest{r.Method, r.RequestURI, string(body), r.Header.Clone()})
	d.mu.Unlock()
	switch p := r.URL.Path; {
	case hijacks && !strings.Contains(string(body), `"Detach":true`):
		d.hijack(w, r)
	case p == "/_ping":
		io.WriteString(w, "OK")
	case p == "/version":
		d.mu.Lock()
		defer d.mu.Unlock()
		writeJSON(w, map[string]any{"ApiVersion": d.version})
	case p == "/info":
		d.mu.Lock()
		defer d.mu.Unlock()
		writeJSON(w, map[string]any{"CgroupVersion": d.cgroups, "Swarm": d.swarm})
	case p == "/containers/json":
		writeJSON(w, []any{
			map[string]any{"Id": idWeb, "Names": []string{"/web"}, "Image": "app", "ImageID": "sha256:aa", "Labels": map[string]string{policy.OwnerLabel: me(), "q": `a"]}\`}},
			map[string]any{"Id": idDB, "Names": []string{"/db"}, "Image": "app", "ImageID": "sha256:aa", "Labels": map[string]string{policy.OwnerLabel: "uid:4294967294"}},
		})
	case strings.HasPrefix(p, "/containers/") && strings.HasSuffix(p, "/json"):
		d.inspect(w, strings.TrimSuffix(strings.TrimPrefix(p, "/containers/"), "/json"))
	case p == "/volumes/records":
		d.mu.Lock()
		defer d.mu.Unlock()
		writeJSON(w, d.volume)
	case p == "/exec/"+idEx+"/json":
		writeJSON(w, map[string]any{"ID": idEx, "ContainerID": idDB})
	case strings.HasPrefix(p, "/images/") && strings.HasSuffix(p, "/json"):
		writeJSON(w, map[string]any{"Id": "sha256:aa", "RepoTags": []string{"app:latest"}, "Config": map[string]any{"User": "1000"}})
	case strings.HasSuffix(p, "/logs"):
		for i := range 3 {
			fmt.Fprintf(w, "line %d\n", i)
			w.(http.Flusher).Flush()
		}
		if r.URL.Query().Get("follow") != "" {
			<-r.Context().Done()
		}
	case p == "/events" && r.RequestURI == imageEvents:
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case p == "/events" && d.events != "":
		io.WriteString(w, d.events)
	case p == "/events":
		for _, id := range []string{idWeb, idDB} {
			owner := map[string]string{idWeb: me(), idDB: "uid:4294967294"}[id]
			writeJSON(w, map[string]any{"Type": "container", "Action": "start", "Actor": map[string]any{"ID": id, "Attributes": map[string]string{policy.OwnerLabel: owner}}})
			w.(http.Flusher).Flush()
		}
		// A network that anybody may see, and who joins it.
		for _, id := range []string{idWeb, idDB, "gone"} {
			writeJSON(w, map[string]any{"Type": "network", "Action": "connect", "Actor": map[string]any{"ID": "net1", "Attributes": map[string]string{"name": "shared", "container": id}}})
		}
	case p == "/volumes/vol" && d.device != "":
		writeJSON(w, map[string]any{"Name": "vol", "Driver": "local", "Options": map[string]string{"type": "none", "o": "rw,bind", "device": d.device}})
	case p == "/networks/net1", p == "/networks/shared":
		writeJSON(w, map[string]any{"Id": "net1", "Name": "shared"})
	case p == "/networks/bridge":
		writeJSON(w, map[string]any{"Id": "net0", "Name": "bridge"})
	case p == "/networks/net2":
		writeJSON(w, map[string]any{"Id": "net2", "Name": "other"})
	case p == "/v1.27/networks", p == "/networks":
		members := map[string]any{idWeb: map[string]any{"Name": "web"}, idDB: map[string]any{"Name": "db"}}
		writeJSON(w, []any{map[string]any{"Id": "net1", "Name": "shared", "Containers": members}})
	case p == "/services":
		env := map[string]any{"Env": []string{"TOKEN=x", "A=b"}}
		writeJSON(w, []any{map[string]any{"ID": "svc1", "Spec": map[string]any{
			"Name": "shared", "TaskTemplate": map[string]any{"ContainerSpec": env}}}})
	case p == "/images/app/history":
		writeJSON(w, []any{
			map[string]any{"CreatedBy": "/bin/sh -c #(nop)  ENV A=b token=x y"},
			map[string]any{"CreatedBy": "ENV A=b"}, map[string]any{"CreatedBy": "RUN |2 A=b TOKEN=x /bin/sh -c make"},
		})
	case strings.HasSuffix(p, "/top"):
		writeJSON(w, map[string]any{"Titles": []string{"PID"}})
	case p == "/containers/create":
		if strings.Contains(string(body), `"slow"`) { // long enough for the gate to look whether its client waits
			select {
			case <-time.After(6 * tick):
			case <-r.Context().Done():
				return
			}
		}
		w.WriteHeader(http.StatusCreated)
		writeJSON(w, map[string]any{"Id": idWeb, "Warnings": []string{}})
	case p == "/images/load":
		fmt.Fprintf(w, "loaded %d bytes", len(body))
	case strings.HasSuffix(p, "/wait"):
		<-r.Context().Done()
	case r.Method == http.MethodDelete && d.stays:
		w.WriteHeader(http.StatusInternalServerError)
	case r.Method == http.MethodDelete, r.Method == http.MethodPost, r.Method == http.MethodPut:
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, `{"message":"page not found"}`, http.StatusNotFound)
	}
}

func (d *daemon) inspect(w http.ResponseWriter, name string) {
	owner, id := "", ""
	switch name {
	case "web", idWeb, idWeb[:12]:
		owner, id, name = me(), idWeb, "web"
	case "db", idDB, idDB[:12]:
		owner, id, name = "uid:4294967294", idDB, "db"
	default:
		http.Error(w, `{"message":"No such container"}`, http.StatusNotFound)
		return
	}
	d.mu.Lock()
	image, user, labels := d.image, d.user, map[string]string{policy.OwnerLabel: owner, policy.ImageLabel: "sha256:aa"}
	if d.owed != "" {
		labels[policy.BindingLabel] = d.owed
	}
	if d.label != "" {
		labels[d.label] = "0123456789abcdef"
	}
	started, more := d.started, d.more
	mounts := []any{map[string]string{"Type": "volume", "Source": "/nowhere", "Name": "vol"}}
	if d.bind != "" {
		mounts = append(mounts, map[string]string{"Type": "bind", "Source": d.bind})
	}
	d.mu.Unlock()
	if image == "" {
		image = "sha256:aa"
	}
	out := map[string]any{
		"Id": id, "Name": "/" + name, "Image": image, "State": map[string]any{"Pid": 1, "StartedAt": started}, "Mounts": mounts,
		"Config": map[string]any{"Image": "app", "User": user, "Labels": labels, "Env": []string{"TOKEN=x", "A=b"}},
	}
	maps.Copy(out, more)
	writeJSON(w, out)
}

// hijack echoes what it reads, then says how many bytes came, and ends.
func (d *daemon) hijack(w http.ResponseWriter, r *http.Request) {
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	if r.Header.Get("Upgrade") != "" {
		fmt.Fprintf(c, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	} else {
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n")
	}
	n, _ := io.Copy(c, rw)
	fmt.Fprintf(c, "<%d>", n)
}

func me() string { return policy.Owner(&apicall.Subject{Kind: apicall.User, UID: uint32(os.Getuid())}) }

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// own lets the caller of the tests see and touch its own containers.
const own = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: own}
spec:
  mode: enforce
  subjects: {everyone: true}
  obligations: {owner: true, redactEnv: [TOKEN]}
  rules:
    - {name: ping, effect: allow, actions: [system.ping, image.load, image.pull, image.build]}
    - {name: danger, effect: forbid, actions: [container.create], checks: [notPrivileged, notRoot, hostMounts]}
    - {name: own, effect: allow, actions: ["container.*", system.events], resources: {own: true}}
    - {name: networks, effect: allow, actions: [network.list, network.inspect, system.events, service.list], resources: {names: [shared]}}
    - {name: history, effect: allow, actions: [image.history]}
`

// testGate is a gate in front of a fake daemon.
type testGate struct {
	*Server
	d      *daemon
	socket string
	health *health.Registry
	rec    *recorder
}

type recorder struct {
	mu     sync.Mutex
	events []Event
}

func (r *recorder) Record(ev *Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept, sub := *ev, *ev.Subject
	kept.Subject = &sub // the gate's own is another's with the next request
	r.events = append(r.events, kept)
}

func (r *recorder) all() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Event(nil), r.events...)
}

func rulesFrom(t testing.TB, text string) Rules {
	t.Helper()
	if text == "" {
		return nil
	}
	file := filepath.Join(t.TempDir(), "access.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := policy.ParseFiles(file)
	if err != nil {
		t.Fatal(err)
	}
	return RulesOf(set)
}

// noContainers says that nobody is in a container, wherever the tests run.
type noContainers struct{}

func (noContainers) ContainerOf(string) (string, bool) { return "", false }
func (noContainers) Describe(*apicall.Subject)         {}

func startGate(t *testing.T, text string, change ...func(*Options)) *testGate {
	t.Helper()
	d := startDaemon(t)
	g := &testGate{d: d, socket: filepath.Join(t.TempDir(), "docker.sock"), health: health.New(nil), rec: &recorder{}}
	rules := rulesFrom(t, text)
	o := Options{
		Upstream: d.socket, Socket: g.socket, GID: os.Getgid(), Mode: 0o600, Recorder: g.rec, Health: g.health,
		Workload: noContainers{}, Policies: func() Rules { return rules }, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, f := range change {
		f(&o)
	}
	var err error
	if g.Server, err = Listen(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		g.Close()
	})
	return g
}

func (g *testGate) counter(name string) uint64 { return g.health.Counter(name).Load() }

func (g *testGate) dial(t *testing.T) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: g.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// raw sends bytes and returns all that comes back until the gate closes or answers.
func (g *testGate) raw(t *testing.T, bytes string) *http.Response {
	t.Helper()
	c := g.dial(t)
	_, _ = io.WriteString(c, bytes) // the gate may have heard enough before the end
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", bytes, err)
	}
	t.Cleanup(func() { r.Body.Close() })
	return r
}

func (g *testGate) client(t *testing.T) *http.Client {
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", g.socket)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func do(t *testing.T, c *http.Client, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://docker"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	r, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}
