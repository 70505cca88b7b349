package swarm

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	api "github.com/moby/moby/api/types/swarm"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/place"
)

func TestOpen(t *testing.T) {
	for _, tt := range []struct{ name, info, want string }{
		{"no swarm", `{"Swarm": {"LocalNodeState": "inactive"}}`, "it is in no swarm (inactive)"},
		{"worker", `{"Swarm": {"NodeID": "w", "LocalNodeState": "active"}}`, "only managers answer; fix: name one"},
	} {
		m := newManager(t)
		m.info = tt.info
		if _, err := Open(t.Context(), m.serve(t), engine.Address{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
		if _, err := Open(t.Context(), newManager(t).serve(t), m.serve(t)); err == nil || !strings.Contains(err.Error(), "no manager") {
			t.Errorf("%s as a manager: got %v", tt.name, err)
		}
	}
	m := newManager(t)
	m.info = `{"Swarm": {"LocalNodeState": "inactive"}}`
	if _, err := Open(t.Context(), m.serve(t), engine.Address{}); !errors.Is(err, place.ErrGone) {
		t.Errorf("one that has left: %v", err)
	}
	m.info = `{"Swarm": {"LocalNodeState": "locked"}}`
	if _, err := Open(t.Context(), m.serve(t), newManager(t).serve(t)); err == nil || errors.Is(err, place.ErrGone) {
		t.Errorf("one that is locked: %v", err)
	}
	m, other := newManager(t), newManager(t)
	other.node("there", worker, machine)
	s, err := Open(t.Context(), m.serve(t), other.serve(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Units(t.Context()); err == nil || !strings.Contains(err.Error(), "the node here is not of its swarm") {
		t.Errorf("a manager of another swarm: %v", err)
	}
}

func TestUnits(t *testing.T) {
	m, _ := aSwarm(t)
	m.service("dns", `{"Name": "dns", "Mode": {"Global": {}}, "TaskTemplate": {"ContainerSpec": {"Image": "d"}}}`)
	m.task("t4", "dns", "here", "running", "running", 0)
	m.task("t5", "web", "here", "shutdown", "shutdown", 1) // of before
	m.task("t6", "web", "here", "running", "running", 3)
	came := m.task("t7", "api", "here", "running", "running", 1)
	m.service("api", `{"Name": "api", "Mode": {"Replicated": {"Replicas": 1}}, "TaskTemplate": {"ContainerSpec": {"Image": "a"}}}`)
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	came["CreatedAt"], came["Spec"] = at, json.RawMessage(`{"Placement": {"Constraints": ["node.id!=there"]}}`)
	got, err := m.open(t).Units(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []place.Unit{
		{ID: "api", Name: "api", Node: "here", Containers: []string{"c-t7"}, Arrived: at},
		{ID: "dns", Name: "dns", Node: "here", Containers: []string{"c-t4"}, Stays: "it is a global service: each node has one of its tasks"},
		{ID: "web", Name: "web", Node: "here", Containers: []string{"c-t1", "c-t6"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("units (-want +got):\n%s", diff)
	}
}

// TestStays has one reason each; without it the service may leave.
func TestStays(t *testing.T) {
	const plain = `"Mode": {"Replicated": {"Replicas": 1}}`
	task := func(more string) string {
		return plain + `, "TaskTemplate": {"ContainerSpec": {"Image": "i"` + more + `}}`
	}
	place := func(p string) string {
		return plain + `, "TaskTemplate": {"ContainerSpec": {"Image": "i"}, "Placement": ` + p + `}`
	}
	for _, tt := range []struct{ name, spec, want string }{
		{"plain", task(""), ""},
		{"global", `"Mode": {"Global": {}}`, "global service"},
		{"job", `"Mode": {"ReplicatedJob": {}}`, "a job"},
		{"global job", `"Mode": {"GlobalJob": {}}`, "a job"},
		{"plugin", plain + `, "TaskTemplate": {"Runtime": "plugin"}`, "no containers"},
		{"bind", task(`, "Mounts": [{"Type": "bind", "Source": "/srv", "Target": "/d"}]`), `the path "/srv" of its host`},
		{"volume", task(`, "Mounts": [{"Type": "volume", "Source": "data", "Target": "/d"}]`), `the volume "data", which is on this node alone`},
		{"anonymous volume", task(`, "Mounts": [{"Type": "volume", "Target": "/d"}]`), `an anonymous volume at "/d"`},
		{"volume of a file system here", task(`, "Mounts": [{"Type": "volume", "Source": "v", "Target": "/d", "VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {"type": "ext4"}}}}]`), "on this node alone"},
		{"volume of the network", task(`, "Mounts": [{"Type": "volume", "Source": "v", "Target": "/d", "VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {"type": "nfs"}}}}]`), ""},
		{"volume of a driver", task(`, "Mounts": [{"Type": "volume", "Source": "v", "Target": "/d", "VolumeOptions": {"DriverConfig": {"Name": "ceph"}}}]`), `the volume "v" of the driver "ceph", and nobody says`},
		{"volume that is said to be shared", task(`, "Mounts": [{"Type": "volume", "Source": "v", "Target": "/d", "VolumeOptions": {"Labels": {"dev.belay.load.shared": "true"}, "DriverConfig": {"Name": "ceph"}}}]`), ""},
		{"volume that is said not to be", task(`, "Mounts": [{"Type": "volume", "Source": "v", "Target": "/d", "VolumeOptions": {"Labels": {"dev.belay.load.shared": "false"}, "DriverConfig": {"Name": "ceph"}}}]`), "nobody says"},
		{"tmpfs", task(`, "Mounts": [{"Type": "tmpfs", "Target": "/d"}]`), ""},
		{"pipe", task(`, "Mounts": [{"Type": "npipe", "Target": "/d"}]`), "a type that is not known"},
		{"gpu", plain + `, "TaskTemplate": {"ContainerSpec": {}, "Resources": {"Reservations": {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}}]}}}`, "of a kind of their own"},
		{"pinned", place(`{"Constraints": ["node.id==here"]}`), "1 does not meet its constraints"},
		{"pinned by a label", place(`{"Constraints": ["node.labels.disk == ssd"]}`), "does not meet its constraints"},
		{"another platform", place(`{"Platforms": [{"Architecture": "arm64", "OS": "linux"}]}`), "1 is of another platform"},
		{"this platform", place(`{"Platforms": [{"Architecture": "amd64", "OS": "linux"}, {"Architecture": "arm64"}]}`), ""},
		{"no memory", plain + `, "TaskTemplate": {"ContainerSpec": {}, "Resources": {"Reservations": {"MemoryBytes": 7000000000}}}`, "no room, as reservations go"},
		{"no processors", plain + `, "TaskTemplate": {"ContainerSpec": {}, "Resources": {"Reservations": {"NanoCPUs": 3500000000}}}`, "no room, as reservations go"},
		{"memory", plain + `, "TaskTemplate": {"ContainerSpec": {}, "Resources": {"Reservations": {"MemoryBytes": 6000000000, "NanoCPUs": 3000000000}}}`, ""},
		{"most replicas", place(`{"MaxReplicas": 1}`), ""},
		{"port taken", task("") + `, "EndpointSpec": {"Ports": [{"Protocol": "tcp", "PublishedPort": 80, "PublishMode": "host"}]}`, "no room"},
		{"port of the mesh", task("") + `, "EndpointSpec": {"Ports": [{"Protocol": "tcp", "PublishedPort": 80, "PublishMode": "ingress"}]}`, ""},
		{"leaving another", `"Labels": {"` + LabelLeave + `": "there"}, ` + task(""), "asked to leave another node"},
		{"left by a node that is gone", `"Labels": {"` + LabelLeave + `": "gone"}, ` + task(""), "the node gone, which is not of this swarm any more"},
		{"leaving", `"Labels": {"` + LabelLeave + `": "here"}, ` + task(""), "asked to leave already"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newManager(t)
			m.node("here", worker, machine)
			m.node("there", worker, machine)
			m.service("s", `{"Name": "s", `+tt.spec+`}`)
			m.task("t1", "s", "here", "running", "running", 1)
			m.service("o", `{"Name": "o", "Mode": {"Replicated": {"Replicas": 1}}, "EndpointSpec": {"Ports": [{"Protocol": "tcp", "PublishedPort": 80, "PublishMode": "host"}]}}`)
			other := m.task("t2", "o", "there", "running", "running", 1)
			other["Spec"] = json.RawMessage(`{"Resources": {"Reservations": {"MemoryBytes": 2000000000, "NanoCPUs": 1000000000}}}`)
			us, err := m.open(t).Units(t.Context())
			if err != nil || len(us) != 1 {
				t.Fatalf("got %v, %v", us, err)
			}
			if got := us[0].Stays; (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestMeets(t *testing.T) {
	n := &api.Node{ID: "abc", Spec: api.NodeSpec{Role: api.NodeRoleWorker, Annotations: api.Annotations{Labels: map[string]string{"Zone": "eu"}}},
		Description: api.NodeDescription{Hostname: "web1", Platform: api.Platform{OS: "linux", Architecture: "x86_64"}, Engine: api.EngineDescription{Labels: map[string]string{"disk": "ssd"}}},
		Status:      api.NodeStatus{Addr: "10.0.0.9"}}
	for text, want := range map[string]bool{
		"node.id==abc": true, "node.id != abc": false, "node.id!=x": true, "node.hostname == WEB1": true, "node.role==manager": false,
		"node.role!=manager": true, "node.platform.os==linux": true, "node.platform.arch==x86_64": true, "node.labels.Zone==eu": true,
		"node.labels.Zone!=eu": false, "node.labels.none!=x": true, "node.labels.none==x": false, "engine.labels.disk==ssd": true,
		"node.ip==10.0.0.9": true, "node.ip==10.0.0.0/24": true, "node.ip!=10.0.0.0/24": false, "node.ip==10.1.0.0/24": false,
		"node.ip==x": false, "node.colour==red": false, "node.colour!=red": false, "node.id": false, "": false,
	} {
		if got := meets(n, text); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

func TestCordon(t *testing.T) {
	m, _ := aSwarm(t)
	s := m.open(t)
	node := func() (out api.NodeSpec) {
		if err := json.Unmarshal(m.nodes["here"].spec, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	set := func(on bool, updates int) {
		t.Helper()
		if err := s.Cordon(t.Context(), on); err != nil {
			t.Fatal(err)
		}
		if len(m.updates) != updates {
			t.Fatalf("got %d updates, want %d", len(m.updates), updates)
		}
	}
	set(false, 0)
	m.late = 1
	set(true, 1)
	set(true, 1)
	if n := node(); n.Availability != api.NodeAvailabilityPause || n.Labels[LabelCordon] == "" || n.Role != api.NodeRoleWorker {
		t.Errorf("cordoned: %+v", n)
	}
	set(false, 2)
	if n := node(); n.Availability != api.NodeAvailabilityActive || len(n.Labels) > 0 {
		t.Errorf("uncordoned: %+v", n)
	}
	m.nodes["here"].spec = json.RawMessage(`{"Role": "worker", "Availability": "drain"}`)
	set(true, 2)
	set(false, 2)
	m.nodes["here"].spec = json.RawMessage(`{"Role": "worker", "Availability": "drain", "Labels": {"` + LabelCordon + `": "x"}}`)
	set(false, 3)
	if n := node(); n.Availability != api.NodeAvailabilityDrain || len(n.Labels) > 0 {
		t.Errorf("what somebody has drained since: %+v", n)
	}
	m.nodes["here"].spec = json.RawMessage(worker)
	leaving, err := edit(json.RawMessage(web), "here", true)
	if err != nil {
		t.Fatal(err)
	}
	m.services["web"].spec = leaving
	if _, later := errors.AsType[*place.Later](s.Cordon(t.Context(), true)); !later || len(m.updates) != 3 {
		t.Error("the node was changed while a service is asked to leave it")
	}
}
