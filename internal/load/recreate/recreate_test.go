package recreate

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/image"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

const testID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// inspection returns what an engine says of a plain web server, changed by more: a JSON
// merge, object by object.
func inspection(t testing.TB, more ...string) []byte {
	t.Helper()
	var doc map[string]any
	base := `{
	"Id": "` + testID + `", "Name": "/web", "Image": "sha256:aa", "Platform": "linux", "Driver": "overlay2",
	"State": {"Status": "running", "Running": true, "Pid": 12},
	"Config": {
		"Hostname": "0123456789ab", "Domainname": "", "User": "1000", "AttachStdout": true, "ExposedPorts": {"80/tcp": {}},
		"Env": ["PATH=/bin", "TOKEN=hunter2"], "Cmd": ["httpd", "-f"], "Image": "web:1", "Volumes": null, "WorkingDir": "/srv",
		"Entrypoint": null, "Labels": {"app": "web"}, "StopSignal": "SIGQUIT", "StopTimeout": 3,
		"Healthcheck": {"Test": ["CMD", "true"], "Interval": 1000000000}
	},
	"HostConfig": {
		"Binds": null, "ContainerIDFile": "", "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}, "NetworkMode": "default",
		"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
		"CapAdd": ["CAP_NET_ADMIN"], "CgroupnsMode": "host", "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": ["db:10.0.0.9"],
		"IpcMode": "private", "ShmSize": 67108864, "Runtime": "runc", "Memory": 67108864, "MemorySwap": 134217728, "NanoCpus": 500000000,
		"KernelMemory": 0, "Isolation": "", "Ulimits": [{"Name": "nofile", "Soft": 64, "Hard": 64}], "PidsLimit": 100,
		"MaskedPaths": ["/proc/kcore"], "ReadonlyPaths": [], "SecurityOpt": ["no-new-privileges"], "Sysctls": {"net.core.somaxconn": "64"}, "Init": true
	},
	"Mounts": [],
	"NetworkSettings": {"Networks": {"bridge": {"IPAMConfig": null, "Aliases": null, "NetworkID": "n1", "IPAddress": "172.17.0.2", "MacAddress": "02:42:ac:11:00:02"}}}
	}`
	if err := json.Unmarshal([]byte(base), &doc); err != nil {
		t.Fatal(err)
	}
	for _, m := range more {
		var change map[string]any
		if err := json.Unmarshal([]byte(m), &change); err != nil {
			t.Fatalf("%v: %s", err, m)
		}
		merge(doc, change)
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func merge(into, change map[string]any) {
	for k, v := range change {
		a, okA := into[k].(map[string]any)
		b, okB := v.(map[string]any)
		if okA && okB {
			merge(a, b)
			continue
		}
		into[k] = v
	}
}

var v1 = Host{CgroupV1: true}

func makeOf(t *testing.T, r Rules, more ...string) (*Recipe, []Refusal) {
	t.Helper()
	c, err := Read(inspection(t, more...))
	if err != nil {
		t.Fatal(err)
	}
	return Make(c, &image.InspectResponse{ID: "sha256:aa", Config: &dockerspec.DockerOCIImageConfig{}}, v1, r, nil)
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name, change string
		rules        Rules
		want         string // part of the one reason; empty: movable
	}{
		{name: "plain", change: `{}`},
		{name: "privileged", change: `{"HostConfig": {"Privileged": true}}`, want: "privileged"},
		{name: "hidden environment", change: `{"Config": {"Env": ["PASSWORD=(redacted)"]}}`, want: "hidden"},
		{name: "pid host", change: `{"HostConfig": {"PidMode": "host"}}`, want: "--pid host"},
		{name: "ipc host", change: `{"HostConfig": {"IpcMode": "host"}}`, want: "--ipc host"},
		{name: "uts host", change: `{"HostConfig": {"UTSMode": "host"}}`, want: "--uts host"},
		{name: "userns host", change: `{"HostConfig": {"UsernsMode": "host"}}`, want: "--userns host"},
		{name: "network host", change: `{"HostConfig": {"NetworkMode": "host"}}`, want: "--network host"},
		{name: "network of another", change: `{"HostConfig": {"NetworkMode": "container:abc"}}`, want: "shares a namespace"},
		{name: "pid of another", change: `{"HostConfig": {"PidMode": "container:abc"}}`, want: "shares a namespace"},
		{name: "ipc of another", change: `{"HostConfig": {"IpcMode": "container:abc"}}`, want: "shares a namespace"},
		{name: "namespace by path", change: `{"HostConfig": {"NetworkMode": "ns:/proc/1/ns/net"}}`, want: "shares a namespace"},
		{name: "cgroup of another", change: `{"HostConfig": {"Cgroup": "container:abc"}}`, want: "another container's cgroup"},
		{name: "cgroup parent", change: `{"HostConfig": {"CgroupParent": "/x"}}`, want: "cgroup of its host"},
		{name: "cpuset", change: `{"HostConfig": {"CpusetCpus": "0"}}`, want: "bound to CPUs"},
		{name: "device", change: `{"HostConfig": {"Devices": [{"PathOnHost": "/dev/fuse"}]}}`, want: "devices"},
		{name: "device rule", change: `{"HostConfig": {"DeviceCgroupRules": ["c 1:3 r"]}}`, want: "devices"},
		{name: "gpu", change: `{"HostConfig": {"DeviceRequests": [{"Driver": "nvidia", "Count": -1}]}}`, want: "GPUs"},
		{name: "disk limit", change: `{"HostConfig": {"BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1}]}}`, want: "disks"},
		{name: "bind", change: `{"HostConfig": {"Binds": ["/etc:/x:ro"]}, "Mounts": [{"Type": "bind", "Source": "/etc", "Destination": "/x"}]}`, want: `path "/etc"`},
		{name: "bind that is not shown", change: `{"HostConfig": {"Binds": ["/etc:/x:ro"]}}`, want: `path "/etc"`},
		{name: "socket", change: `{"Mounts": [{"Type": "bind", "Source": "/run/docker.sock", "Destination": "/s"}]}`, want: "engine's socket"},
		{name: "named volume", change: `{"HostConfig": {"Binds": ["data:/d"]}, "Mounts": [{"Type": "volume", "Name": "data", "Destination": "/d", "RW": true}]}`, want: `the volume "data"`},
		{name: "anonymous volume", change: `{"Config": {"Volumes": {"/d": {}}}, "Mounts": [{"Type": "volume", "Name": "ff", "Destination": "/d", "RW": true}]}`, want: "anonymous volume"},
		{name: "volume, allowed", change: `{"Mounts": [{"Type": "volume", "Name": "ff", "Destination": "/d", "RW": true}]}`, rules: Rules{CopyVolumes: true}},
		{name: "part of a volume", change: `{"HostConfig": {"Mounts": [{"Type": "volume", "Source": "v", "Target": "/d", "VolumeOptions": {"Subpath": "a"}}]}, "Mounts": [{"Type": "volume", "Name": "v", "Destination": "/d", "RW": true}]}`, rules: Rules{CopyVolumes: true}, want: "part of a volume"},
		{name: "tmpfs", change: `{"HostConfig": {"Tmpfs": {"/t": ""}}}`, want: "in memory"},
		{name: "tmpfs, allowed", change: `{"HostConfig": {"Tmpfs": {"/t": ""}}}`, rules: Rules{LoseLayer: true}},
		{name: "tmpfs mount", change: `{"HostConfig": {"Mounts": [{"Type": "tmpfs", "Target": "/t"}]}}`, want: "in memory"},
		{name: "cluster volume", change: `{"Mounts": [{"Type": "cluster", "Name": "c", "Destination": "/c"}]}`, want: "not moved"},
		{name: "volumes from", change: `{"HostConfig": {"VolumesFrom": ["other"]}}`, want: "--volumes-from"},
		{name: "link", change: `{"HostConfig": {"Links": ["/db:/web/db"]}}`, want: "--link"},
		{name: "address", change: `{"NetworkSettings": {"Networks": {"mine": {"IPAMConfig": {"IPv4Address": "172.30.0.5"}}}}}`, want: "address of its own"},
		{name: "mac", change: `{"Config": {"MacAddress": "02:42:ac:11:00:99"}}`, want: "MAC"},
		{name: "address of the host", change: `{"HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "10.0.0.1", "HostPort": "80"}]}}}`, want: "address of its host"},
		{name: "swarm", change: `{"Config": {"Labels": {"com.docker.swarm.task.id": "x"}}}`, want: "swarm"},
		{name: "kubernetes", change: `{"Config": {"Labels": {"io.kubernetes.pod.name": "x"}}}`, want: "Kubernetes"},
		{name: "compose", change: `{"Config": {"Labels": {"com.docker.compose.project": "x"}}}`, want: "compose"},
		{name: "compose, allowed", change: `{"Config": {"Labels": {"com.docker.compose.project": "x"}}}`, rules: Rules{Compose: true}},
		{name: "--rm", change: `{"HostConfig": {"AutoRemove": true}}`, want: "--rm"},
		{name: "-i", change: `{"Config": {"OpenStdin": true}}`, want: "terminal"},
		{name: "stopped", change: `{"State": {"Running": false}}`, want: "not running"},
		{name: "paused", change: `{"State": {"Paused": true}}`, want: "paused"},
		{name: "restarting", change: `{"State": {"Restarting": true}}`, want: "restarting"},
		{name: "waits for ever", change: `{"Config": {"StopTimeout": -1}}`, want: "--stop-timeout -1"},
		{name: "waits for a day", change: `{"Config": {"StopTimeout": 86400}}`, want: "--stop-timeout 86400"},
		{name: "unhealthy", change: `{"State": {"Health": {"Status": "unhealthy"}}}`, want: "health check fails"},
		{name: "windows", change: `{"Platform": "windows"}`, want: "platform"},
		{name: "no image", change: `{"Image": ""}`, want: "image"},
		{name: "field of a newer engine", change: `{"HostConfig": {"TimeMachine": "on"}}`, want: "HostConfig.TimeMachine"},
		{name: "field of an older engine", change: `{"HostConfig": {"KernelMemory": 5}}`, want: "HostConfig.KernelMemory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, why := makeOf(t, tt.rules, tt.change)
			switch {
			case tt.want == "" && (r == nil || len(why) != 0):
				t.Fatalf("got %v, want it movable", why)
			case tt.want != "" && (r != nil || len(why) != 1 || !strings.Contains(why[0].Reason, tt.want)):
				t.Fatalf("got %q, want one reason with %q", why, tt.want)
			}
		})
	}
}

// TestCgroupnsHost: on a host with cgroups of version 2 it was asked for.
func TestCgroupnsHost(t *testing.T) {
	c, err := Read(inspection(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, why := Make(c, nil, Host{}, Rules{}, nil); len(why) != 1 || !strings.Contains(why[0].Reason, "--cgroupns") {
		t.Errorf("got %v", why)
	}
}

// TestNoValueInWords: a refusal must not carry what may be a secret.
func TestNoValueInWords(t *testing.T) {
	_, why := makeOf(t, Rules{}, `{"HostConfig": {"Privileged": true, "TimeMachine": "hunter2"}}`)
	for _, r := range why {
		if strings.Contains(r.String(), "hunter2") {
			t.Errorf("says a value: %s", r)
		}
	}
}

func TestRecipe(t *testing.T) {
	r, why := makeOf(t, Rules{})
	if r == nil {
		t.Fatal(why)
	}
	got := plain(r.Request).(map[string]any)
	for path, want := range map[string]any{
		"Hostname": "", "User": "1000", "WorkingDir": "/srv", "StopSignal": "SIGQUIT", "Env": []any{"PATH=/bin", "TOKEN=hunter2"}, "Cmd": []any{"httpd", "-f"},
		"Image": "web:1", "Labels": map[string]any{"app": "web"}, "StopTimeout": 3.0, "ExposedPorts": map[string]any{"80/tcp": map[string]any{}},
	} {
		if d := cmp.Diff(want, got[path]); d != "" {
			t.Errorf("%s: %s", path, d)
		}
	}
	host := got["HostConfig"].(map[string]any)
	for path, want := range map[string]any{
		"RestartPolicy": map[string]any{"Name": "no", "MaximumRetryCount": 0.0}, "CgroupnsMode": "", "Runtime": "runc", "Memory": 67108864.0, "MemorySwap": 134217728.0,
		"MaskedPaths": []any{"/proc/kcore"}, "ReadonlyPaths": []any{}, "PidsLimit": 100.0, "Init": true, "CapAdd": []any{"CAP_NET_ADMIN"}, "ExtraHosts": []any{"db:10.0.0.9"},
		"LogConfig": map[string]any{"Type": "json-file", "Config": map[string]any{"max-size": "1m"}},
	} {
		if d := cmp.Diff(want, host[path]); d != "" {
			t.Errorf("HostConfig.%s: %s", path, d)
		}
	}
	if r.Restart.Name != "on-failure" || r.Restart.MaximumRetryCount != 3 {
		t.Errorf("restart policy %v", r.Restart)
	}
	if !r.Check || r.StopSeconds != 3 || r.Primary() != "bridge" || r.Stateful() {
		t.Errorf("recipe %+v", r)
	}
	if len(r.Ports) != 1 || r.Ports[0].String() != "8080/tcp" {
		t.Errorf("ports %v", r.Ports)
	}
	// What the engine gave it on the network must not be asked for.
	if e := r.Request.NetworkingConfig.EndpointsConfig["bridge"]; e == nil || len(e.MacAddress) != 0 || e.IPAddress.IsValid() || e.NetworkID != "" {
		t.Errorf("bridge %+v", e)
	}
}

func TestHostname(t *testing.T) {
	r, _ := makeOf(t, Rules{}, `{"Config": {"Hostname": "db1"}}`)
	if r.Request.Hostname != "db1" {
		t.Errorf("got %q", r.Request.Hostname)
	}
}

// TestEntrypointTakenAway: --entrypoint "" would come back from the image.
func TestEntrypointTakenAway(t *testing.T) {
	c, err := Read(inspection(t))
	if err != nil {
		t.Fatal(err)
	}
	img := &image.InspectResponse{Config: &dockerspec.DockerOCIImageConfig{}}
	img.Config.Entrypoint = []string{"/init"}
	r, _ := Make(c, img, v1, Rules{}, nil)
	if !slices.Equal(r.Request.Entrypoint, []string{""}) {
		t.Errorf("got %q", r.Request.Entrypoint)
	}
}

func TestNetworks(t *testing.T) {
	r, why := makeOf(t, Rules{}, `{"HostConfig": {"NetworkMode": "n9"}, "NetworkSettings": {"Networks": {
		"bridge": null, "mine": {"NetworkID": "n9", "Aliases": ["www", "0123456789ab", "www"], "IPAddress": "172.18.0.2", "DriverOpts": {"a": "b"}, "GwPriority": 7},
		"other": {"NetworkID": "n8", "IPAMConfig": {}}}}}`)
	if r == nil {
		t.Fatal(why)
	}
	if r.Request.HostConfig.NetworkMode != "mine" || r.Primary() != "mine" || !slices.Equal(r.Networks, []string{"mine", "other"}) {
		t.Errorf("mode %q, networks %v", r.Request.HostConfig.NetworkMode, r.Networks)
	}
	e := r.Request.NetworkingConfig.EndpointsConfig["mine"]
	if !slices.Equal(e.Aliases, []string{"www"}) || e.GwPriority != 7 || !maps.Equal(e.DriverOpts, map[string]string{"a": "b"}) {
		t.Errorf("mine: %+v", e)
	}
}

func TestGateLabels(t *testing.T) {
	r, _ := makeOf(t, Rules{}, `{"Config": {"Labels": {"app": "web", "belay.dev/runtime": "x", " Belay.dev/owner": "y", "move.belay.dev/id": "old"}}}`)
	if !maps.Equal(r.Request.Labels, map[string]string{"app": "web"}) || len(r.Bound) != 2 {
		t.Errorf("labels %v, the gate's %v", r.Request.Labels, r.Bound)
	}
}

func TestVolumesAreNamed(t *testing.T) {
	r, why := makeOf(t, Rules{CopyVolumes: true}, `{"Config": {"Volumes": {"/anon": {}, "/also": {}}},
	"HostConfig": {"Binds": ["data:/d:ro,z", "/also"], "Mounts": [{"Type": "volume", "Target": "/noname"}, {"Type": "volume", "Source": "m", "Target": "/m"}]},
	"Mounts": [
		{"Type": "volume", "Name": "data", "Destination": "/d"}, {"Type": "volume", "Name": "aa", "Destination": "/anon", "RW": true},
		{"Type": "volume", "Name": "bb", "Destination": "/also", "RW": true}, {"Type": "volume", "Name": "cc", "Destination": "/noname", "RW": true},
		{"Type": "volume", "Name": "m", "Destination": "/m", "RW": true}]}`)
	if r == nil {
		t.Fatal(why)
	}
	if !slices.Equal(r.Request.HostConfig.Binds, []string{"data:/d:ro,z,nocopy"}) {
		t.Errorf("binds %q", r.Request.HostConfig.Binds)
	}
	got := map[string]string{}
	for _, m := range r.Request.HostConfig.Mounts {
		got[m.Target] = m.Source
		if !m.VolumeOptions.NoCopy {
			t.Errorf("%s would be filled from the image", m.Target)
		}
	}
	if want := map[string]string{"/anon": "aa", "/also": "bb", "/noname": "cc", "/m": "m"}; !maps.Equal(got, want) {
		t.Errorf("mounts %v, want %v", got, want)
	}
	anonymous := map[string]bool{}
	for _, v := range r.Volumes {
		anonymous[v.Name] = v.Anonymous
	}
	if want := map[string]bool{"data": false, "aa": true, "bb": true, "cc": true, "m": false}; !maps.Equal(anonymous, want) {
		t.Errorf("anonymous %v, want %v", anonymous, want)
	}
	if len(r.Volumes) != 5 || !r.Stateful() || !r.Volumes[2].ReadOnly {
		t.Errorf("volumes %+v", r.Volumes)
	}
}

// TestFixpoint: what an engine says of a container made from a recipe gives that recipe.
func TestFixpoint(t *testing.T) {
	r, _ := makeOf(t, Rules{})
	again, _ := makeOf(t, Rules{}, `{"Id": "ffffffffffff`+testID[12:]+`", "Config": {"Hostname": "ffffffffffff", "Labels": {"app": "web", "move.belay.dev/id": "m1"}}}`)
	if d := Differences(r, again); len(d) != 0 {
		t.Errorf("differences %v", d)
	}
}

func TestDifferences(t *testing.T) {
	want, _ := makeOf(t, Rules{LoseLayer: true}, `{"HostConfig": {"Tmpfs": {"/t": ""}, "Annotations": {"a": "b"}}}`)
	tests := []struct{ name, change, want string }{
		{"tmpfs", `{"HostConfig": {"Tmpfs": {}, "Annotations": {"a": "b"}}}`, "HostConfig.Tmpfs./t"},
		{"annotation", `{"HostConfig": {"Tmpfs": {"/t": ""}}}`, "HostConfig.Annotations.a"},
		{"port", `{"HostConfig": {"Tmpfs": {"/t": ""}, "Annotations": {"a": "b"}}, "Config": {"ExposedPorts": null}}`, "ExposedPorts.80/tcp"},
		{"env", `{"HostConfig": {"Tmpfs": {"/t": ""}, "Annotations": {"a": "b"}}, "Config": {"Env": ["PATH=/bin"]}}`, "Env"},
		{"masked", `{"HostConfig": {"Tmpfs": {"/t": ""}, "Annotations": {"a": "b"}, "MaskedPaths": []}}`, "HostConfig.MaskedPaths"},
		{"unmasked", `{"HostConfig": {"Tmpfs": {"/t": ""}, "Annotations": {"a": "b"}, "ReadonlyPaths": ["/proc/bus"]}}`, "HostConfig.ReadonlyPaths"},
		{"network", `{"HostConfig": {"Tmpfs": {"/t": ""}, "Annotations": {"a": "b"}}, "NetworkSettings": {"Networks": {"mine": {}}}}`, "NetworkingConfig.EndpointsConfig.mine"},
		{"mount", `{"HostConfig": {"Tmpfs": {"/t": ""}, "Annotations": {"a": "b"}}, "Mounts": [{"Type": "volume", "Name": "n", "Destination": "/n"}]}`, "HostConfig.Mounts Mounts"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Read(inspection(t, tt.change))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(Differences(want, Of(c, nil, v1)), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSameImage(t *testing.T) {
	img := func(id, layer, env string) *image.InspectResponse {
		i := &image.InspectResponse{ID: id, Architecture: "amd64", Os: "linux", Config: &dockerspec.DockerOCIImageConfig{}}
		i.RootFS.Layers = []string{layer}
		i.Config.Env = []string{env}
		return i
	}
	a := img("sha256:1", "sha256:l", "A=1")
	for _, tt := range []struct {
		name string
		b    *image.InspectResponse
		want bool
	}{
		{"another store's ID", img("sha256:2", "sha256:l", "A=1"), true},
		{"another layer", img("sha256:2", "sha256:m", "A=1"), false},
		{"another configuration", img("sha256:2", "sha256:l", "A=2"), false},
		{"none", nil, false},
	} {
		if got := SameImage(a, tt.b); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
	if SameImage(&image.InspectResponse{}, &image.InspectResponse{}) {
		t.Error("two images of which nothing is known are one")
	}
}

func TestReadRefusesOther(t *testing.T) {
	for _, s := range []string{"", "{}", "[]", `{"Id": "ab"}`, `{"Id": "` + testID + `", "Name": "/"}`} {
		if c, err := Read([]byte(s)); err == nil {
			t.Errorf("%s: read as %+v", s, c)
		}
	}
}

func FuzzMake(f *testing.F) {
	f.Add(inspection(f), true)
	f.Add(inspection(f, `{"HostConfig": {"Binds": ["a:/b", ":", "::", "/x"], "Mounts": [{"Type": "volume"}]}, "Mounts": [{"Type": "volume", "Name": "a", "Destination": ""}]}`), true)
	f.Add([]byte(`{"Id": "0123456789ab", "Name": "/x", "Config": {}, "HostConfig": {}, "State": {}, "NetworkSettings": {"Networks": {"a": null}}}`), false)
	f.Fuzz(func(t *testing.T, raw []byte, all bool) {
		c, err := Read(raw)
		if err != nil {
			return
		}
		r, why := Make(c, &image.InspectResponse{}, Host{CgroupV1: all}, Rules{CopyVolumes: all, LoseLayer: all, Compose: all}, nil)
		if (r == nil) != (len(why) > 0) {
			t.Fatalf("recipe %v with refusals %v", r, why)
		}
		for _, w := range why {
			if w.Reason == "" {
				t.Fatal("a refusal without a reason")
			}
		}
		if r == nil {
			return
		}
		if d := Differences(r, Of(c, &image.InspectResponse{}, Host{CgroupV1: all})); len(d) != 0 {
			t.Fatalf("one container differs from itself: %v", d)
		}
		if h := r.Request.HostConfig; h.Privileged || h.AutoRemove || len(h.Devices) > 0 || len(h.VolumesFrom) > 0 {
			t.Fatalf("an unmovable container is moved: %+v", h)
		}
	})
}

// TestGroup: what a container needs of others is refused unless they move with it, and is made there of their copies.
func TestGroup(t *testing.T) {
	db := Peer{ID: strings.Repeat("d", 64), Name: "db"}
	for _, tt := range []struct {
		name, change string
		refused      string                    // alone
		check        func(*testing.T, *Recipe) // with db
	}{
		{
			"network", `{"Config":{"Hostname":"dddddddddddd","ExposedPorts":{"80/tcp":{}}},"HostConfig":{"NetworkMode":"container:` + db.ID + `"},"NetworkSettings":{"Networks":null}}`, "shares a namespace",
			func(t *testing.T, r *Recipe) {
				if q := r.Request; q.HostConfig.NetworkMode != "container:copy" || q.Hostname != "" || q.ExposedPorts != nil || q.NetworkingConfig != nil {
					t.Errorf("%+v", q)
				}
			},
		},
		{"pid, by name", `{"HostConfig":{"PidMode":"container:db"}}`, "shares a namespace", func(t *testing.T, r *Recipe) {
			if r.Request.HostConfig.PidMode != "container:copy" {
				t.Errorf("%+v", r.Request.HostConfig.PidMode)
			}
		}},
		{"ipc", `{"HostConfig":{"IpcMode":"container:` + db.ID[:12] + `"}}`, "shares a namespace", func(t *testing.T, r *Recipe) {
			if r.Request.HostConfig.IpcMode != "container:copy" {
				t.Errorf("%+v", r.Request.HostConfig.IpcMode)
			}
		}},
		{"links", `{"HostConfig":{"Links":["/db:/web/store","/db:/web/db"]}}`, "by --link", func(t *testing.T, r *Recipe) {
			if got := strings.Join(r.Request.HostConfig.Links, " "); got != "db:db db:store" {
				t.Error(got)
			}
		}},
		{"volumes", `{"HostConfig":{"VolumesFrom":["db:ro"]},"Mounts":[{"Type":"volume","Name":"records","Destination":"/d","RW":false}]}`, "--volumes-from", func(t *testing.T, r *Recipe) {
			m := r.Request.HostConfig.Mounts
			if r.Request.HostConfig.VolumesFrom != nil || len(m) != 1 || m[0].Source != "records" || !m[0].ReadOnly {
				t.Errorf("%+v", r.Request.HostConfig)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Read(inspection(t, tt.change))
			if err != nil {
				t.Fatal(err)
			}
			img := &image.InspectResponse{ID: "sha256:aa", Config: &dockerspec.DockerOCIImageConfig{}}
			rules := Rules{CopyVolumes: true}
			for _, g := range []Group{nil, {{ID: strings.Repeat("e", 64), Name: "other"}}} {
				if r, why := Make(c, img, v1, rules, g); r != nil || !strings.Contains(why[0].Reason, tt.refused) || !strings.Contains(why[0].Fix, "belay move") {
					t.Errorf("with %v: %v", g, why)
				}
			}
			r, why := Make(c, img, v1, rules, Group{db})
			if r == nil {
				t.Fatal(why)
			}
			there, err := r.On(Group{db}, func(string) string { return "copy" })
			if err != nil {
				t.Fatal(err)
			}
			tt.check(t, there)
			if needed := c.Needed(); len(needed) == 0 || !db.Is(needed[0].Ref) {
				t.Errorf("it needs %v", needed)
			}
		})
	}
}

// TestFind: a reference means what it means to engines: an ID the container that has it, a name the one that is called so
// before one whose ID begins so.
func TestFind(t *testing.T) {
	api := Peer{ID: strings.Repeat("a", 64), Name: "api"}
	for _, tt := range []struct{ called, ref, want string }{
		{api.ID, api.ID, "api"},
		{api.ID, "/" + api.ID, "api"},
		{api.ID, "api", "api"},
		{api.ID[:shortID], api.ID[:shortID], api.ID[:shortID]},
		{"other", api.ID[:shortID], "api"},
	} {
		other := Peer{ID: strings.Repeat("b", 64), Name: tt.called}
		for _, g := range []Group{{other, api}, {api, other}} {
			if p, ok := g.Find(tt.ref); !ok || p.Name != tt.want {
				t.Errorf("%q of %v: got %v", tt.ref, g, p)
			}
		}
	}
	if p, ok := (Group{{ID: strings.Repeat("b", 64), Name: api.ID}}).Find(api.ID); ok {
		t.Errorf("an ID means %v, which only has it for a name", p)
	}
}

// TestOnNoCopy: nothing joins a container of the target that only has the name.
func TestOnNoCopy(t *testing.T) {
	c, err := Read(inspection(t, `{"HostConfig":{"PidMode":"container:db"}}`))
	if err != nil {
		t.Fatal(err)
	}
	r := Of(c, nil, v1)
	for _, g := range []Group{nil, {{ID: strings.Repeat("d", 64), Name: "db"}}} {
		if _, err := r.On(g, func(string) string { return "" }); err == nil {
			t.Error("it would join whatever is called so there")
		}
	}
}
