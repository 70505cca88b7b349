package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/system"

	"github.com/belay-project/belay/internal/load/plan"
)

const describedID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func inspection(host, config, more string) string {
	return `{"Id":"` + describedID + `","Name":"/web","Image":"sha256:11","Created":"2026-03-01T10:00:00Z","State":{"Status":"running","Running":true,"StartedAt":"2026-03-01T10:00:00Z"},
"HostConfig":{"NetworkMode":"default","RestartPolicy":{"Name":"no"},"Runtime":"runc","LogConfig":{"Type":"json-file"},"IpcMode":"private","CgroupnsMode":"private","PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}` + host + `},
"Config":{"Image":"app:1","Hostname":"0123456789ab"` + config + `},"NetworkSettings":{"Networks":{"bridge":{"NetworkID":"n1"}}},"Mounts":[]` + more + `}`
}

// TestContainerdStore: an engine that leaves images and layers to containerd says so.
func TestContainerdStore(t *testing.T) {
	for status, want := range map[[2]string]bool{
		{"Backing Filesystem", "extfs"}: false, {"driver-type", "io.containerd.snapshotter.v1"}: true, {"driver-type", "io.containerd.snapshotter.v2"}: true,
	} {
		e := &Engine{Info: system.Info{DriverStatus: [][2]string{{"Supports d_type", "true"}, status}}}
		if got := e.platform().ContainerdStore; got != want {
			t.Errorf("%q: got %v", status, got)
		}
	}
}

// TestDescribe: what ties a container to its engine is told in a planner's words, and what only a
// move itself would find beside it.
func TestDescribe(t *testing.T) {
	tests := []struct {
		name, host, config, more, changes string
		why                               string // in the reasons; empty: it is movable
		selected                          bool
	}{
		{"plain", "", "", "", "null", "", true},
		{"not selected", "", "", "", "null", "no LoadPolicy's movable selects it", false},
		{"privileged", `,"Privileged":true`, "", "", "null", "it is privileged", true},
		{"device", `,"Devices":[{"PathOnHost":"/dev/fuse"}]`, "", "", "null", `devices of its host, "/dev/fuse"`, true},
		{"bind", "", "", `,"Mounts":[{"Type":"bind","Source":"/srv","Destination":"/srv"}]`, "null", `the path "/srv" of its host`, true},
		{"anonymous volume", "", "", `,"Mounts":[{"Type":"volume","Name":"v1","Driver":"local","Destination":"/data"}]`, "null", "the anonymous volume at ", true},
		{"old tmpfs", `,"Tmpfs":{"/run":""}`, "", "", "null", `files in memory at "/run"`, true},
		{"written", "", "", "", `[{"Path":"/var/x","Kind":1}]`, "it has written 7 B to its own layer", true},
		{"of the engine", "", "", "", `[{"Path":"/etc/hosts","Kind":1}]`, "", true},
		{"compose", "", `,"Labels":{"com.docker.compose.project":"p"}`, "", "null", "compose manages it", true},
		{"swarm", "", `,"Labels":{"com.docker.swarm.service.id":"s"}`, "", "null", "swarm manages it", true},
		{"with --rm", `,"AutoRemove":true`, "", "", "null", "it removes itself", true},
		{"an unknown field", `,"Novelty":true`, "", "", "null", "does not know", true},
		{"limits of a disk", `,"BlkioDeviceReadBps":[{"Path":"/dev/sda","Rate":1}]`, "", "", "null", "limits on disks of its host", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, asked := fake(t, map[string]string{
				"GET /version":                                      `{"ApiVersion":"1.41"}`,
				"GET /v1.41/info":                                   `{"ID":"e","Name":"hosta","Architecture":"x86_64","OSType":"linux","CgroupVersion":"2","ServerVersion":"20.10.24","Runtimes":{"runc":{}},"SecurityOptions":["name=seccomp,profile=default"],"Plugins":{"Volume":["local"],"Log":["json-file"]}}`,
				"GET /v1.41/containers/json":                        `[{"Id":"` + describedID + `"},{"Id":"gone"}]`,
				"GET /v1.41/networks":                               `[{"Name":"bridge","Driver":"bridge","Scope":"local"},{"Name":"shop","Driver":"bridge","Scope":"local"}]`,
				"GET /v1.41/volumes":                                `{"Volumes":[{"Name":"v1","Driver":"local"}]}`,
				"GET /v1.41/containers/" + describedID + "/json":    inspectionWith(tt.host, tt.config, tt.more),
				"GET /v1.41/containers/" + describedID + "/changes": tt.changes,
				"GET /v1.41/images/sha256:11/json":                  `{"Id":"sha256:11","Config":{}}`,
			})
			e, err := open(t, h)
			if err != nil {
				t.Fatal(err)
			}
			n, err := e.Describe(t.Context(), DescribeOptions{Selected: func(name, image string, _ map[string]string) bool {
				return tt.selected && name == "web" && image == "app:1"
			}})
			if err != nil {
				t.Fatal(err)
			}
			if n.Host.Architecture != "amd64" || n.Host.Cgroup != 2 || n.Host.Engine != "20.10.24" || len(n.Site.Networks) != 2 || n.Site.Networks[0].Config == "" || n.Site.Volumes[0] != "v1" || len(n.Containers) != 1 {
				t.Errorf("got %+v", n)
			}
			c := &n.Containers[0]
			if c.Name != "web" || c.Image.Digest != "sha256:11" || len(c.Net.Ports) != 1 || c.Net.Ports[0].Port != 8080 || strings.Join(c.Needs, " ") != "runtime:runc log-driver:json-file" {
				t.Errorf("got %+v", c)
			}
			got := strings.Join(c.Movable(plan.Rules{}).Reasons, "; ")
			if tt.why == "" && got != "" || !strings.Contains(got, tt.why) {
				t.Errorf("got %q, want %q", got, tt.why)
			}
			if !tt.selected && strings.Contains(strings.Join(*asked, " "), "/changes") {
				t.Error("the engine walked through files of one that does not move")
			}
		})
	}
}

// TestDescribeGroup: what a container has of another one here is no reason to stay, since both can move as one, and the planner
// is told of it. It is one if nobody knows the other.
func TestDescribeGroup(t *testing.T) {
	const other = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
	for _, tt := range []struct{ name, host, more, links, why string }{
		{name: "its network", host: `,"NetworkMode":"container:` + other + `"`},
		{name: "its processes", host: `,"PidMode":"container:` + other + `"`},
		{name: "its volumes", host: `,"VolumesFrom":["db:ro"]`},
		{name: "a link", host: `,"Links":["/db:/web/store"]`, links: "/db"},
		{name: "a link on a network", more: `,"NetworkSettings":{"Networks":{"shop":{"Links":["db:store"]}}}`, links: "db"},
		{name: "the network of nobody", host: `,"NetworkMode":"container:nobody"`, why: "it shares a namespace with another container"},
		{name: "a link by an ID", host: `,"Links":["/` + other + `:/web/store"]`, links: "/" + other, why: "it names other containers by --link"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, _ := fake(t, map[string]string{
				"GET /version":                                      `{"ApiVersion":"1.41"}`,
				"GET /v1.41/info":                                   `{"ID":"e","Name":"hosta","CgroupVersion":"2"}`,
				"GET /v1.41/containers/json":                        `[{"Id":"` + describedID + `","Names":["/web"]},{"Id":"` + other + `","Names":["/web/store","/db"]}]`,
				"GET /v1.41/networks":                               `[{"Name":"bridge","Driver":"bridge","Scope":"local"},{"Name":"shop","Driver":"bridge","Scope":"local"}]`,
				"GET /v1.41/volumes":                                `{}`,
				"GET /v1.41/containers/" + describedID + "/json":    inspectionWith(tt.host, "", tt.more),
				"GET /v1.41/containers/" + describedID + "/changes": "null",
				"GET /v1.41/images/sha256:11/json":                  `{"Id":"sha256:11","Config":{}}`,
			})
			e, err := open(t, h)
			if err != nil {
				t.Fatal(err)
			}
			n, err := e.Describe(t.Context(), DescribeOptions{Selected: func(string, string, map[string]string) bool { return true }})
			if err != nil || len(n.Containers) != 1 {
				t.Fatalf("got %+v, %v", n, err)
			}
			c := &n.Containers[0]
			got := strings.Join(c.Movable(plan.Rules{}).Reasons, "; ")
			if tt.why == "" && got != "" || !strings.Contains(got, tt.why) || strings.Join(c.Net.Links, " ") != tt.links {
				t.Errorf("got %q, links %q; want %q, %q", got, c.Net.Links, tt.why, tt.links)
			}
		})
	}
}

// inspectionWith has mounts once.
func inspectionWith(host, config, more string) string {
	s := inspection(host, config, more)
	if strings.Contains(more, `"Mounts"`) {
		s = strings.Replace(s, `,"Mounts":[]`, "", 1)
	}
	return strings.TrimSuffix(s, "}") + `,"SizeRw":7}`
}

// TestDescribeFull: an engine that takes its time for each container, as one under pressure does, is asked about
// several at once, and one failure ends it.
func TestDescribeFull(t *testing.T) {
	const each, containers = 20 * time.Millisecond, 200
	var atOnce, most atomic.Int64
	fails := -1
	e, err := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, isOne := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/v1.41/containers/"), "/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/version"):
			fmt.Fprint(w, `{"ApiVersion":"1.41"}`)
		case strings.HasSuffix(r.URL.Path, "/containers/json"):
			var ids []string
			for i := range containers {
				ids = append(ids, fmt.Sprintf(`{"Id":"%064d"}`, i))
			}
			fmt.Fprintf(w, "[%s]", strings.Join(ids, ","))
		case isOne:
			n := atOnce.Add(1)
			most.Store(max(most.Load(), n))
			time.Sleep(each)
			atOnce.Add(-1)
			if i, _ := strconv.Atoi(id); i == fails {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			fmt.Fprint(w, strings.NewReplacer(describedID, id, "/web", "/c"+id).Replace(inspectionWith("", "", "")))
		case strings.HasSuffix(r.URL.Path, "/networks"):
			fmt.Fprint(w, "[]")
		default:
			fmt.Fprint(w, "{}")
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	n, err := e.Describe(t.Context(), DescribeOptions{})
	if err != nil || len(n.Containers) != containers || n.Containers[7].ID != fmt.Sprintf("%064d", 7) {
		t.Fatalf("got %v", err)
	}
	if m := most.Load(); m < 2 || m > askedAtOnce {
		t.Errorf("%d at once", m)
	}
	fails = 100
	if _, err := e.Describe(t.Context(), DescribeOptions{}); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
