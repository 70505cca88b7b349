package dockerapi

import (
	"reflect"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

// factsCase is a request and what of its facts and resources must be found.
type factsCase struct {
	name      string
	call      call
	action    string // if it is not the route's
	facts     apicall.Facts
	resources []string // "kind:name"
	code      string   // if it is refused
}

var kindNamesOf = map[apicall.ResourceKind]string{
	apicall.ResourceContainer: "container", apicall.ResourceExec: "exec", apicall.ResourceImage: "image",
	apicall.ResourceVolume: "volume", apicall.ResourceNetwork: "network", apicall.ResourcePlugin: "plugin",
	apicall.ResourceService: "service", apicall.ResourceTask: "task", apicall.ResourceNode: "node",
	apicall.ResourceSecret: "secret", apicall.ResourceConfig: "config", apicall.ResourceSession: "session",
	apicall.ResourceBuild: "build", apicall.ResourceDistribution: "distribution",
}

func runFacts(t *testing.T, cases []factsCase) {
	t.Helper()
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			r, err := parse(tt.call)
			if got := code(err); got != tt.code {
				t.Fatalf("got %q (%v), want %q", got, err, tt.code)
			}
			if err != nil {
				return
			}
			if tt.action != "" && r.Call.Action != tt.action {
				t.Errorf("action: got %s, want %s", r.Call.Action, tt.action)
			}
			missingFacts(t, tt.facts, r.Call.Facts)
			var names []string
			for _, res := range r.Call.Resources {
				names = append(names, kindNamesOf[res.Kind]+":"+res.Asked)
			}
			for _, want := range tt.resources {
				found := false
				for _, n := range names {
					found = found || n == want
				}
				if !found {
					t.Errorf("resources: got %q, want %q among them", names, want)
				}
			}
		})
	}
}

// missingFacts compares those facts that the case sets.
func missingFacts(t *testing.T, want, got apicall.Facts) {
	t.Helper()
	w, g := reflect.ValueOf(want), reflect.ValueOf(got)
	for i := range w.NumField() {
		if w.Field(i).IsZero() {
			continue
		}
		if !reflect.DeepEqual(w.Field(i).Interface(), g.Field(i).Interface()) {
			t.Errorf("%s: got %+v, want %+v", w.Type().Field(i).Name, g.Field(i).Interface(), w.Field(i).Interface())
		}
	}
}

// host is a containers/create with a HostConfig.
func host(hc string) call { return create(`{"Image":"i","HostConfig":` + hc + `}`) }

func hostAt(version, hc string) call {
	c := host(hc)
	c.path = version + "/containers/create"
	return c
}

type mounts = []apicall.HostMount

func TestCreateMounts(t *testing.T) {
	runFacts(t, []factsCase{
		{name: "D1 bind", call: host(`{"Binds":["/:/host"]}`), facts: apicall.Facts{HostMounts: mounts{{Via: "bind", Source: "/", Target: "/host"}}}},
		{name: "D1 bind with mode", call: host(`{"Binds":["/etc:/e:ro,rshared"]}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "bind", Source: "/etc", Target: "/e", ReadOnly: true, Propagation: "rshared"}}}},
		{name: "D1 mount bind", call: host(`{"Mounts":[{"Type":"bind","Source":"/etc","Target":"/e","ReadOnly":true,"BindOptions":{"Propagation":"shared"}}]}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "bind", Source: "/etc", Target: "/e", ReadOnly: true, Propagation: "shared"}}}},
		{name: "D1 named volume", call: host(`{"Binds":["data:/d"]}`), facts: apicall.Facts{Volumes: []string{"data"}}, resources: []string{"volume:data"}},
		{name: "D1 named volume by mount", call: host(`{"Mounts":[{"Type":"volume","Source":"data","Target":"/d"}]}`),
			facts: apicall.Facts{Volumes: []string{"data"}}, resources: []string{"volume:data"}},
		{name: "D1 volume with driver options", call: host(`{"Mounts":[{"Type":"volume","Source":"v","Target":"/d","VolumeOptions":{"DriverConfig":{"Name":"local","Options":{"type":"none","o":"bind","device":"/etc"}}}}]}`),
			facts: apicall.Facts{Volumes: []string{"v"}, HostMounts: mounts{{Via: "volume", Source: "/etc", Target: "/d", Driver: "local",
				Options: map[string]string{"type": "none", "o": "bind", "device": "/etc"}}}}},
		{name: "D1 volume with driver options, no name, no driver", call: host(`{"Mounts":[{"Type":"volume","Target":"/d","VolumeOptions":{"DriverConfig":{"Options":{"device":"/dev/sda1","type":"ext4"}}}}]}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "volume", Source: "/dev/sda1", Target: "/d",
				Options: map[string]string{"type": "ext4", "device": "/dev/sda1"}}}}},
		{name: "D2 overlay", call: host(`{"Mounts":[{"Type":"volume","Target":"/d","VolumeOptions":{"DriverConfig":{"Options":{"type":"overlay","device":"overlay","o":"lowerdir=/:/etc"}}}}]}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "volume", Source: "/:/etc", Target: "/d",
				Options: map[string]string{"type": "overlay", "device": "overlay", "o": "lowerdir=/:/etc"}}}}},
		{name: "D2 tmpfs that is a bind", call: host(`{"Mounts":[{"Type":"volume","Target":"/d","VolumeOptions":{"DriverConfig":{"Options":{"type":"tmpfs","device":"/","o":"size=1,bind"}}}}]}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "volume", Source: "/", Target: "/d",
				Options: map[string]string{"type": "tmpfs", "device": "/", "o": "size=1,bind"}}}}},
		{name: "D1 driver of all binds", call: host(`{"Binds":["data:/d"],"VolumeDriver":"nfs"}`),
			facts: apicall.Facts{Volumes: []string{"data"}, HostMounts: mounts{{Via: "volume", Target: "/d", Driver: "nfs"}}}},
		{name: "D1 volumes from", call: host(`{"VolumesFrom":["other:ro","third"]}`),
			facts: apicall.Facts{VolumesFrom: []string{"other", "third"}, HostMounts: mounts{
				{Via: "volumesFrom", Source: "other", ReadOnly: true}, {Via: "volumesFrom", Source: "third"}}},
			resources: []string{"container:other", "container:third"}},
		{name: "D1 Volumes that look like binds", call: create(`{"Image":"i","Volumes":{"/etc:/e":{}}}`), code: CodeBadValue},
		{name: "D1 bind of four parts", call: host(`{"Binds":["/a:/b:ro:x"]}`), code: CodeBadValue},
		{name: "D1 bind of nothing", call: host(`{"Binds":[":/b"]}`), code: CodeBadValue},
		{name: "D1 null bind", call: host(`{"Binds":[null]}`), code: CodeBadValue},
		{name: "D3 image mount", call: host(`{"Mounts":[{"Type":"image","Source":"evil/i","Target":"/d"}]}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "image", Source: "evil/i", Target: "/d"}}}},
		{name: "D3 cluster mount", call: host(`{"Mounts":[{"Type":"cluster","Source":"c","Target":"/d"}]}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "cluster", Source: "c", Target: "/d"}}}},
		{name: "D3 npipe", call: host(`{"Mounts":[{"Type":"npipe","Source":"p","Target":"/d"}]}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "npipe", Source: "p", Target: "/d"}}}},
		{name: "D3 type in capitals", call: host(`{"Mounts":[{"Type":"BIND","Source":"/","Target":"/d"}]}`), code: CodeBadValue},
		{name: "D3 no type", call: host(`{"Mounts":[{"Source":"/","Target":"/d"}]}`), code: CodeBadValue},
		{name: "D3 null mount", call: host(`{"Mounts":[null]}`), code: CodeBadValue},
		{name: "unknown propagation", call: host(`{"Mounts":[{"Type":"bind","Source":"/a","Target":"/d","BindOptions":{"Propagation":"RSHARED"}}]}`), code: CodeBadValue},
		{name: "D4 unclean source is kept", call: host(`{"Binds":["/srv/../etc:/e"]}`), facts: apicall.Facts{HostMounts: mounts{{Via: "bind", Source: "/srv/../etc", Target: "/e"}}}},
		{name: "D5 socket", call: host(`{"Binds":["/var/run/docker.sock:/s"]}`), facts: apicall.Facts{HostMounts: mounts{{Via: "bind", Source: "/var/run/docker.sock", Target: "/s"}}}},
		{name: "tmpfs", call: host(`{"Tmpfs":{"/t":"size=1m"},"Mounts":[{"Type":"tmpfs","Target":"/u"}]}`), facts: apicall.Facts{Tmpfs: []string{"/u", "/t:size=1m"}}},
		{name: "C9 read-only bind before 1.44", call: hostAt("/v1.43", `{"Binds":["/srv:/s:ro"]}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "bind", Source: "/srv", Target: "/s", ReadOnly: true, Shallow: true}}}},
		{name: "C9 read-only mount before 1.44", call: hostAt("/v1.43", `{"Mounts":[{"Type":"bind","Source":"/srv","Target":"/s","ReadOnly":true}]}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "bind", Source: "/srv", Target: "/s", ReadOnly: true, Shallow: true}}}},
		{name: "C9 read-only mount, not below", call: host(`{"Mounts":[{"Type":"bind","Source":"/srv","Target":"/s","ReadOnly":true,"BindOptions":{"ReadOnlyNonRecursive":true}}]}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "bind", Source: "/srv", Target: "/s", ReadOnly: true, Shallow: true}}}},
		{name: "name that is a path", call: host(`{"VolumesFrom":["a/../../images/b"]}`), code: CodeSlashInName},
		{name: "name of dots", call: host(`{"NetworkMode":".."}`), code: CodeBadValue},
		{name: "name with a query", call: host(`{"NetworkMode":"a?x=y"}`), code: CodeBadValue},
		{name: "B5 link alias in a body", call: host(`{"VolumesFrom":["mine/db"]}`), code: CodeSlashInName},
	})
}

func TestCreateNamespaces(t *testing.T) {
	ns := func(list ...string) apicall.Facts { return apicall.Facts{Namespaces: list} }
	runFacts(t, []factsCase{
		{name: "D6 net host", call: host(`{"NetworkMode":"host"}`), facts: apicall.Facts{Namespaces: []string{"net=host"}, Networks: []string{"host"}}},
		{name: "D6 net container", call: host(`{"NetworkMode":"container:db"}`), facts: ns("net=container:db"), resources: []string{"container:db"}},
		{name: "D6 net path", call: host(`{"NetworkMode":"ns:/proc/1/ns/net"}`), facts: ns("net=ns:/proc/1/ns/net")},
		{name: "D6 net by endpoint", call: create(`{"Image":"i","NetworkingConfig":{"EndpointsConfig":{"host":{}}}}`), facts: ns("net=host")},
		{name: "D6 null endpoint", call: create(`{"Image":"i","NetworkingConfig":{"EndpointsConfig":{"n":null}}}`), facts: apicall.Facts{Networks: []string{"n"}}, resources: []string{"network:n"}},
		{name: "D6 pid host", call: host(`{"PidMode":"host"}`), facts: ns("pid=host")},
		{name: "D6 pid container", call: host(`{"PidMode":"container:db"}`), facts: ns("pid=container:db"), resources: []string{"container:db"}},
		{name: "D6 ipc host", call: host(`{"IpcMode":"host"}`), facts: ns("ipc=host")},
		{name: "D6 ipc shareable", call: host(`{"IpcMode":"shareable"}`), facts: ns("ipc=shareable")},
		{name: "D6 ipc container", call: host(`{"IpcMode":"container:db"}`), facts: ns("ipc=container:db"), resources: []string{"container:db"}},
		{name: "D6 uts host", call: host(`{"UTSMode":"host"}`), facts: ns("uts=host")},
		{name: "D6 userns host", call: host(`{"UsernsMode":"host"}`), facts: ns("userns=host")},
		{name: "D6 cgroup host", call: host(`{"CgroupnsMode":"host"}`), facts: ns("cgroup=host")},
		{name: "D6 cgroup container", call: host(`{"Cgroup":"container:db"}`), facts: ns("cgroup=container:db"), resources: []string{"container:db"}},
		{name: "D6 unknown spelling is shown", call: host(`{"PidMode":"HOST"}`), facts: ns("pid=HOST")},
		{name: "D6 links", call: host(`{"Links":["/db:alias","other"]}`), resources: []string{"container:db", "container:other"}},
		{name: "D6 id of an endpoint", call: create(`{"Image":"i","NetworkingConfig":{"EndpointsConfig":{"n":{"NetworkID":"victim"}}}}`), facts: apicall.Facts{Networks: []string{"n", "victim"}}, resources: []string{"network:n", "network:victim"}},
		{name: "D6 id of an endpoint without a name", call: create(`{"Image":"i","NetworkingConfig":{"EndpointsConfig":{"":{"NetworkID":"victim"}}}}`), facts: apicall.Facts{Networks: []string{"victim"}}, resources: []string{"network:victim"}},
		{name: "D6 id of the default network, which daemons do not read", call: create(`{"Image":"i","NetworkingConfig":{"EndpointsConfig":{"bridge":{"NetworkID":"x"}}}}`), facts: apicall.Facts{Networks: []string{"bridge"}}},
		{name: "D6 links of an endpoint", call: create(`{"Image":"i","NetworkingConfig":{"EndpointsConfig":{"n":{"Links":["db:x"]}}}}`), resources: []string{"network:n"}},
		{name: "D6 links in a network that a user defined", call: host(`{"NetworkMode":"n","Links":["c5:c5"]}`), facts: apicall.Facts{Networks: []string{"n"}}, resources: []string{"network:n"}},
		{name: "D6 links in the default network", call: host(`{"NetworkMode":"default","Links":["db:x"]}`), resources: []string{"container:db"}},
		{name: "D6 network by name", call: host(`{"NetworkMode":"back"}`), facts: apicall.Facts{Networks: []string{"back"}}, resources: []string{"network:back"}},
		{name: "D9 sysctls of an endpoint", call: create(`{"Image":"i","NetworkingConfig":{"EndpointsConfig":{"n":{"DriverOpts":{"com.docker.network.endpoint.sysctls":"net.ipv4.conf.IFNAME.forwarding=1,net.x=2"}}}}}`),
			facts: apicall.Facts{Sysctls: map[string]string{"net.ipv4.conf.IFNAME.forwarding": "1", "net.x": "2"}}},
		{name: "C9 ipc before 1.40", call: hostAt("/v1.39", `{}`), facts: ns("ipc=shareable", "cgroup=host")},
		{name: "C9 cgroup before 1.41", call: hostAt("/v1.40", `{}`), facts: ns("cgroup=host")},
		{name: "C9 version of the daemon", call: call{method: "POST", path: "/containers/create", body: `{"Image":"i"}`, opt: Options{DaemonMinor: 40}}, facts: ns("cgroup=host")},
	})
	if f := mustParse(t, host(`{"NetworkMode":"default","IpcMode":"private","CgroupnsMode":"private"}`)).Call.Facts; f.Namespaces != nil || f.Networks != nil {
		t.Errorf("own namespaces: got %v, %v, want none", f.Namespaces, f.Networks)
	}
	c := hostAt("/v1.40", `{}`)
	c.opt.CgroupUnified = true
	if f := mustParse(t, c).Call.Facts; f.Namespaces != nil {
		t.Errorf("cgroup v2: got %v, want none", f.Namespaces)
	}
}

func TestCreateSecurity(t *testing.T) {
	opt := func(list ...string) apicall.Facts { return apicall.Facts{SecurityOpt: list} }
	runFacts(t, []factsCase{
		{name: "D7 capabilities", call: host(`{"CapAdd":["sys_admin","CAP_NET_RAW","all","Cap_All"],"CapDrop":["mknod"]}`),
			facts: apicall.Facts{CapAdd: []string{"CAP_SYS_ADMIN", "CAP_NET_RAW", "ALL", "ALL"}, CapDrop: []string{"CAP_MKNOD"}}},
		{name: "D7 capability as a string", call: host(`{"CapAdd":"SYS_ADMIN"}`), facts: apicall.Facts{CapAdd: []string{"CAP_SYS_ADMIN"}}},
		{name: "D7 the whole set of API 1.40", call: hostAt("/v1.40", `{"Capabilities":["SYS_ADMIN"]}`), facts: apicall.Facts{CapAdd: []string{"CAP_SYS_ADMIN"}}},
		{name: "D7 privileged", call: host(`{"Privileged":true}`), facts: apicall.Facts{Privileged: true}},
		{name: "D7 devices", call: host(`{"Devices":[{"PathOnHost":"/dev/sda","PathInContainer":"/d"}],"DeviceCgroupRules":["a *:* rwm"]}`),
			facts: apicall.Facts{Devices: []string{"/dev/sda"}, DeviceCgroupRules: []string{"a *:* rwm"}}},
		{name: "D7 device requests", call: host(`{"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["v/c=x"]},{"Driver":"nvidia","Count":-1},{}]}`),
			facts: apicall.Facts{DeviceRequests: []string{"cdi:v/c=x", "nvidia:all", ":0"}}},
		{name: "D8 seccomp", call: host(`{"SecurityOpt":["seccomp=unconfined"]}`), facts: apicall.Facts{Seccomp: "unconfined", SecurityOpt: []string{"seccomp=unconfined"}}},
		{name: "D8 seccomp with a colon", call: host(`{"SecurityOpt":["seccomp:unconfined"]}`), facts: apicall.Facts{Seccomp: "unconfined", SecurityOpt: []string{"seccomp=unconfined"}}},
		{name: "D8 inline seccomp", call: host(`{"SecurityOpt":["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]}`), facts: apicall.Facts{Seccomp: "custom"}},
		{name: "D8 apparmor", call: host(`{"SecurityOpt":["apparmor:unconfined"]}`), facts: apicall.Facts{AppArmor: "unconfined", SecurityOpt: []string{"apparmor=unconfined"}}},
		{name: "D8 the last one wins", call: host(`{"SecurityOpt":["apparmor=docker-default","apparmor=unconfined"]}`), facts: apicall.Facts{AppArmor: "unconfined"}},
		{name: "D8 label", call: host(`{"SecurityOpt":["label:disable"]}`), facts: apicall.Facts{SELinuxDisabled: true}},
		{name: "D8 label by its old name", call: host(`{"SecurityOpt":["disable"]}`), facts: apicall.Facts{SELinuxDisabled: true, SecurityOpt: []string{"label=disable"}}},
		{name: "D8 no new privileges", call: host(`{"SecurityOpt":["no-new-privileges"]}`), facts: apicall.Facts{NoNewPrivileges: true, SecurityOpt: []string{"no-new-privileges=true"}}},
		{name: "D8 no new privileges with a colon", call: host(`{"SecurityOpt":["no-new-privileges:true"]}`), facts: apicall.Facts{NoNewPrivileges: true}},
		{name: "D8 no new privileges off", call: host(`{"SecurityOpt":["no-new-privileges","no-new-privileges=false"]}`), facts: opt("no-new-privileges=true", "no-new-privileges=false")},
		{name: "D8 writable cgroups", call: host(`{"SecurityOpt":["writable-cgroups"]}`), facts: opt("writable-cgroups=true")},
		{name: "D8 systempaths", call: host(`{"SecurityOpt":["systempaths=unconfined"]}`), facts: apicall.Facts{SystemPathsOpen: true}},
		{name: "D8 no masked paths", call: host(`{"MaskedPaths":[]}`), facts: apicall.Facts{SystemPathsOpen: true}},
		{name: "D8 no read-only paths", call: host(`{"ReadonlyPaths":[]}`), facts: apicall.Facts{SystemPathsOpen: true}},
		{name: "D8 other masked paths", call: host(`{"MaskedPaths":["/proc/kcore"]}`), facts: apicall.Facts{SystemPathsOpen: true}},
		{name: "D9 runtime", call: host(`{"Runtime":"evil"}`), facts: apicall.Facts{Runtime: "evil"}},
		{name: "D9 annotations", call: host(`{"Annotations":{"org.systemd.property.ExecStart":"x"}}`), facts: apicall.Facts{Annotations: map[string]string{"org.systemd.property.ExecStart": "x"}}},
		{name: "D9 cgroup parent", call: host(`{"CgroupParent":"/x"}`), facts: apicall.Facts{CgroupParent: "/x"}},
		{name: "D9 sysctls", call: host(`{"Sysctls":{"kernel.x":"1"}}`), facts: apicall.Facts{Sysctls: map[string]string{"kernel.x": "1"}}},
		{name: "D9 OOM score", call: host(`{"OomScoreAdj":-1000,"OomKillDisable":true}`), facts: apicall.Facts{OOMScoreAdj: -1000, OOMKillOff: true}},
		{name: "D9 log driver", call: host(`{"LogConfig":{"Type":"syslog","Config":{"syslog-address":"unix:///s"}}}`),
			facts: apicall.Facts{LogDriver: "syslog", LogOptions: map[string]string{"syslog-address": "unix:///s"}}},
		{name: "D9 storage", call: host(`{"StorageOpt":{"size":"1"}}`), facts: apicall.Facts{StorageOpt: map[string]string{"size": "1"}}},
		{name: "D9 groups", call: host(`{"GroupAdd":["0"]}`), facts: apicall.Facts{GroupAdd: []string{"0"}}},
		{name: "D9 health check", call: create(`{"Image":"i","Healthcheck":{"Test":["CMD","x"]}}`), facts: apicall.Facts{Healthcheck: []string{"CMD", "x"}}},
		{name: "D9 isolation", call: host(`{"Isolation":"process"}`), facts: apicall.Facts{Isolation: "process"}},
		{name: "D9 extra hosts", call: host(`{"ExtraHosts":["a:1.2.3.4"]}`), facts: apicall.Facts{ExtraHosts: []string{"a:1.2.3.4"}}},
		{name: "D9 id file", call: host(`{"ContainerIDFile":"/etc/x"}`), facts: apicall.Facts{Paths: []string{"/etc/x"}}},
		{name: "D10 user as written", call: create(`{"Image":"i","User":"00:0"}`), facts: apicall.Facts{User: "00:0", UserSet: true}},
		{name: "ports", call: host(`{"PublishAllPorts":true,"PortBindings":{"80":[{"HostIp":"0.0.0.0","HostPort":"8000-8010"}],"53/UDP":null}}`),
			facts: apicall.Facts{PublishAll: true, Ports: []apicall.PortBinding{{Port: "53/udp"}, {Port: "80/tcp", HostIP: "0.0.0.0", HostPort: "8000-8010"}}}},
		{name: "restart policy", call: host(`{"RestartPolicy":{"Name":"always"},"AutoRemove":true}`), facts: apicall.Facts{RestartPolicy: "always", AutoRemove: true}},
		{name: "limits", call: host(`{"Memory":10,"NanoCpus":5,"PidsLimit":0}`), facts: apicall.Facts{LimitsSet: true, Limits: apicall.Limits{MemoryBytes: 10, NanoCPUs: 5, PIDs: -1}}},
		{name: "image", call: create(`{"Image":"localhost:5000/a/b:v1"}`), facts: apicall.Facts{Registry: "localhost:5000", Repository: "a/b", Tag: "v1"}},
		{name: "image of the default registry", call: create(`{"Image":"alpine"}`), facts: apicall.Facts{Registry: "docker.io", Repository: "library/alpine", Tag: "latest"}},
		{name: "name with a slash", call: withQuery(create(`{"Image":"i"}`), "name=/web"), facts: apicall.Facts{Name: "web"}},
		{name: "name that is none", call: withQuery(create(`{"Image":"i"}`), "name=a/b"), code: CodeBadValue},
		{name: "no configuration", call: create(`{"HostConfig":{}}`), code: CodeMissingBody},
		{name: "fields of HostConfig at the top", call: create(`{"Image":"i","Privileged":true}`), code: CodeUnknownField},
		{name: "null fields that nobody knows", call: create(`{"Image":"i","PortSpecs":null,"HostConfig":{"LxcConf":null}}`), facts: apicall.Facts{Image: "i"}},
		{name: "D20 owner label", call: create(`{"Image":"i","Labels":{"belay.dev/owner":"root","Belay.Dev/x":"1","a":"b"}}`),
			facts: apicall.Facts{Labels: map[string]string{"a": "b"}, DroppedFields: []string{"Labels.belay.dev/owner", "Labels.Belay.Dev/x"}}},
	})
	r := mustParse(t, create(`{"Image":"i","Labels":{"belay.dev/owner":"root","a":"b"}}`))
	if _, body := encode(t, r); body != `{"Image":"i","Labels":{"a":"b"}}` {
		t.Errorf("D20: sent %s", body)
	}
}

func withQuery(c call, q string) call {
	c.query = q
	return c
}
