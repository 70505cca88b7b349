package swarm

import (
	"encoding/json"
	"fmt"
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

	api "github.com/moby/moby/api/types/swarm"

	"github.com/belay-project/belay/internal/load/engine"
)

// manager is a fake of a swarm's manager: it keeps services as they are written, with what was
// before, and refuses an update of an old version. Tasks move only as a test says.
type manager struct {
	t *testing.T

	// mu guards what follows.
	mu       sync.Mutex
	info     string
	services map[string]*service
	nodes    map[string]*service // only their specification and version are written
	nodeMore map[string]map[string]any
	tasks    []map[string]any
	updates  []string // specifications that were written, in order
	// look is called before a service is shown; mu is held.
	look func(m *manager)
	fail int // status of all answers about services; 0: none fails
	// lose has the next update answered 500, as by a manager that loses its office, after it was done ("done") or
	// before ("late"): then lost does it, if it is in sequence still.
	lose string
	lost func() bool
	late int // so many updates are out of sequence
	// updateFails is the status of all updates; 0: none fails.
	updateFails int
}

type service struct {
	version    int
	spec, prev json.RawMessage
	status     map[string]any
}

func newManager(t *testing.T) *manager {
	return &manager{
		t: t, services: map[string]*service{}, nodes: map[string]*service{}, nodeMore: map[string]map[string]any{},
		info: `{"Swarm": {"NodeID": "here", "LocalNodeState": "active", "ControlAvailable": true}}`,
	}
}

// node adds a node that is ready.
func (m *manager) node(id, spec, description string) {
	m.nodes[id] = &service{version: 1, spec: json.RawMessage(spec)}
	m.nodeMore[id] = map[string]any{"Status": map[string]any{"State": "ready", "Addr": "10.0.0.9"}, "Description": json.RawMessage(description)}
}

const (
	worker  = `{"Role": "worker", "Availability": "active"}`
	machine = `{"Hostname": "n", "Platform": {"Architecture": "x86_64", "OS": "linux"}, "Resources": {"NanoCPUs": 4000000000, "MemoryBytes": 8000000000}}`
)

func (m *manager) task(id, service, node, state, want string, slot int) map[string]any {
	t := map[string]any{
		"ID": id, "ServiceID": service, "NodeID": node, "Slot": slot, "DesiredState": want,
		"Status": map[string]any{"State": state, "ContainerStatus": map[string]any{"ContainerID": "c-" + id}},
	}
	m.tasks = append(m.tasks, t)
	return t
}

func (m *manager) service(id, spec string) {
	m.services[id] = &service{version: 7, spec: json.RawMessage(spec)}
}

func (m *manager) open(t *testing.T) *Swarm {
	t.Helper()
	s, err := Open(t.Context(), m.serve(t), engine.Address{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.poll, s.settle = time.Millisecond, 100*time.Millisecond
	return s
}

func (m *manager) serve(t *testing.T) engine.Address {
	t.Helper()
	dir, err := os.MkdirTemp("", "swarm") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(m)
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return engine.Address{URL: "unix://" + l.Addr().String()}
}

func (m *manager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	refuse := func(status int, text string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"message": %q}`, text)
	}
	path := strings.Split(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/v1.41"), "/"), "/")
	if m.fail != 0 && path[0] == "services" {
		refuse(m.fail, "the swarm does not have a leader")
		return
	}
	switch {
	case path[0] == "version":
		fmt.Fprint(w, `{"ApiVersion": "1.41", "MinAPIVersion": "1.12"}`)
	case path[0] == "info":
		fmt.Fprint(w, m.info)
	case path[0] == "tasks":
		m.list(w, m.filtered(r.URL.Query().Get("filters")))
	case path[0] == "services" && len(path) == 1:
		var out []any
		for id := range m.services {
			out = append(out, m.shown(id))
		}
		m.list(w, out)
	case path[0] == "nodes" && len(path) == 1:
		var out []any
		for id := range m.nodes {
			out = append(out, m.shownNode(id))
		}
		m.list(w, out)
	case path[0] == "services" && m.services[path[1]] == nil || path[0] == "nodes" && m.nodes[path[1]] == nil:
		refuse(http.StatusNotFound, "no such thing")
	case path[0] == "services" && len(path) == 2:
		if m.look != nil {
			m.look(m)
		}
		m.list(w, m.shown(path[1]))
	case path[0] == "nodes" && len(path) == 2:
		m.list(w, m.shownNode(path[1]))
	default:
		m.update(w, r, path, refuse)
	}
}

func (m *manager) update(w http.ResponseWriter, r *http.Request, path []string, refuse func(int, string)) {
	if m.updateFails != 0 {
		refuse(m.updateFails, "no")
		return
	}
	s := m.nodes[path[1]]
	if path[0] == "services" {
		s = m.services[path[1]]
	}
	if m.late > 0 {
		m.late--
		s.version++
	}
	version := r.URL.Query().Get("version")
	if version != strconv.Itoa(s.version) {
		refuse(http.StatusInternalServerError, "rpc error: code = Unknown desc = update out of sequence")
		return
	}
	var spec json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&spec); err != nil {
		m.t.Error(err)
	}
	commit := func() bool {
		if version != strconv.Itoa(s.version) {
			return false
		}
		s.prev, s.spec, s.status = s.spec, spec, nil
		s.version++
		m.updates = append(m.updates, string(spec))
		return true
	}
	switch m.lose {
	case "late":
		m.lost = commit
	default:
		commit()
	}
	if m.lose != "" {
		m.lose = ""
		refuse(http.StatusInternalServerError, "rpc error: code = Unknown desc = node lost leader status")
		return
	}
	fmt.Fprint(w, "{}")
}

func (m *manager) shown(id string) any {
	s := m.services[id]
	out := map[string]any{"ID": id, "Version": map[string]any{"Index": s.version}, "Spec": s.spec}
	if s.prev != nil {
		out["PreviousSpec"] = s.prev
	}
	if s.status != nil {
		out["UpdateStatus"] = s.status
	}
	return out
}

func (m *manager) shownNode(id string) any {
	out := map[string]any{"ID": id, "Version": map[string]any{"Index": m.nodes[id].version}, "Spec": m.nodes[id].spec}
	for k, v := range m.nodeMore[id] {
		out[k] = v
	}
	return out
}

func (m *manager) filtered(text string) (out []any) {
	var f map[string]map[string]bool
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		m.t.Errorf("filters %q: %v", text, err)
	}
	for _, t := range m.tasks {
		if s := f["service"]; s != nil && !s[t["ServiceID"].(string)] {
			continue
		}
		if s := f["desired-state"]; s != nil && !s[t["DesiredState"].(string)] {
			continue
		}
		out = append(out, t)
	}
	return out
}

func (m *manager) list(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		m.t.Error(err)
	}
}

// leaving reports whether a service has the constraint and the label.
func (m *manager) leaving(id string) bool {
	var s api.ServiceSpec
	if err := json.Unmarshal(m.services[id].spec, &s); err != nil {
		m.t.Error(err)
	}
	has := false
	for _, c := range constraints(&s.TaskTemplate) {
		has = has || c == "node.id!=here"
	}
	if has != (s.Labels[LabelLeave] == "here") {
		m.t.Errorf("label and constraint differ: %s", m.services[id].spec)
	}
	return has
}

// moved has a task leave for another node, where a new one of its slot runs.
func (m *manager) moved(t map[string]any, to string) {
	t["DesiredState"] = "shutdown"
	t["Status"].(map[string]any)["State"] = "shutdown"
	m.task(t["ID"].(string)+"2", t["ServiceID"].(string), to, "running", "running", t["Slot"].(int))
}
