package dockerapi

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

func post(path, query, body string) call {
	return call{method: "POST", path: path, query: query, body: body}
}

// service is a services/create with a ContainerSpec.
func service(spec string) call {
	return post("/v1.44/services/create", "", `{"Name":"s","TaskTemplate":{"ContainerSpec":`+spec+`}}`)
}

func TestServiceFacts(t *testing.T) {
	runFacts(t, []factsCase{
		{name: "D16 image and command", call: service(`{"Image":"r.io/i:2","Command":["a"],"Args":["b"],"Env":["X=1"],"Dir":"/d"}`),
			facts: apicall.Facts{Name: "s", Image: "r.io/i:2", Registry: "r.io", Repository: "i", Tag: "2", Entrypoint: []string{"a"}, Cmd: []string{"b"}, Env: []string{"X=1"}, WorkingDir: "/d"}},
		{name: "D16 user and groups", call: service(`{"User":"0","Groups":["root"]}`), facts: apicall.Facts{User: "0", UserSet: true, GroupAdd: []string{"root"}}},
		{name: "D16 bind", call: service(`{"Mounts":[{"Type":"bind","Source":"/","Target":"/h"}]}`), facts: apicall.Facts{HostMounts: mounts{{Via: "bind", Source: "/", Target: "/h"}}}},
		{name: "D16 mount without a type is a bind", call: service(`{"Mounts":[{"Source":"/","Target":"/h"}]}`), facts: apicall.Facts{HostMounts: mounts{{Via: "bind", Source: "/", Target: "/h"}}}},
		{name: "D16 type in capitals", call: service(`{"Mounts":[{"Type":"Bind","Source":"/","Target":"/h"}]}`), code: CodeBadValue},
		{name: "D16 volume options", call: service(`{"Mounts":[{"Type":"volume","Source":"v","Target":"/h","VolumeOptions":{"DriverConfig":{"Options":{"device":"/","type":"none","o":"bind"}}}}]}`),
			facts: apicall.Facts{Volumes: []string{"v"}, HostMounts: mounts{{Via: "volume", Source: "/", Target: "/h", Options: map[string]string{"device": "/", "type": "none", "o": "bind"}}}}},
		{name: "D16 capabilities", call: service(`{"CapabilityAdd":["sys_admin"],"CapabilityDrop":["CAP_X"]}`), facts: apicall.Facts{CapAdd: []string{"CAP_SYS_ADMIN"}, CapDrop: []string{"CAP_X"}}},
		{name: "D16 seccomp", call: service(`{"Privileges":{"Seccomp":{"Mode":"unconfined"}}}`), facts: apicall.Facts{Seccomp: "unconfined", SecurityOpt: []string{"seccomp=unconfined"}}},
		{name: "D16 seccomp profile", call: service(`{"Privileges":{"Seccomp":{"Mode":"custom","Profile":"e30="}}}`), facts: apicall.Facts{Seccomp: "custom"}},
		{name: "D16 apparmor", call: service(`{"Privileges":{"AppArmor":{"Mode":"disabled"}}}`), facts: apicall.Facts{AppArmor: "unconfined"}},
		{name: "D16 selinux", call: service(`{"Privileges":{"SELinuxContext":{"Disable":true,"Type":"spc_t"}}}`), facts: apicall.Facts{SELinuxDisabled: true, SecurityOpt: []string{"label=disable", "label=type:spc_t"}}},
		{name: "D16 no new privileges", call: service(`{"Privileges":{"NoNewPrivileges":true}}`), facts: apicall.Facts{NoNewPrivileges: true}},
		{name: "D16 credential file", call: service(`{"Privileges":{"CredentialSpec":{"File":"f"}}}`), facts: apicall.Facts{Paths: []string{"f"}}},
		{name: "D16 sysctls, init, read-only", call: service(`{"Sysctls":{"a":"b"},"ReadOnly":true,"TTY":true,"OpenStdin":true,"OomScoreAdj":-9,"Isolation":"process","Hosts":["1.2.3.4 x"]}`),
			facts: apicall.Facts{Sysctls: map[string]string{"a": "b"}, ReadOnly: true, TTY: true, Stdin: true, OOMScoreAdj: -9, Isolation: "process", ExtraHosts: []string{"1.2.3.4 x"}}},
		{name: "D16 health check", call: service(`{"Healthcheck":{"Test":["CMD","x"]}}`), facts: apicall.Facts{Healthcheck: []string{"CMD", "x"}}},
		{name: "D16 secrets and configs", call: service(`{"Secrets":[{"SecretID":"sid","SecretName":"sn"},null],"Configs":[{"ConfigName":"cn"}]}`), resources: []string{"secret:sid", "config:cn"}},
		{name: "D16 task network host", call: post("/services/create", "", `{"TaskTemplate":{"Networks":[{"Target":"host"},{"Target":"n"}]}}`),
			facts: apicall.Facts{Namespaces: []string{"net=host"}, Networks: []string{"host", "n"}}, resources: []string{"network:n"}},
		{name: "D16 networks of old clients", call: post("/v1.30/services/create", "", `{"Networks":[{"Target":"host"}],"TaskTemplate":{}}`), facts: apicall.Facts{Namespaces: []string{"net=host"}}},
		{name: "D16 log driver", call: post("/services/create", "", `{"TaskTemplate":{"LogDriver":{"Name":"gelf","Options":{"a":"b"}}}}`), facts: apicall.Facts{LogDriver: "gelf", LogOptions: map[string]string{"a": "b"}}},
		{name: "D16 limits", call: post("/services/create", "", `{"TaskTemplate":{"Resources":{"Limits":{"MemoryBytes":1,"NanoCPUs":2,"Pids":3}}}}`),
			facts: apicall.Facts{LimitsSet: true, Limits: apicall.Limits{MemoryBytes: 1, NanoCPUs: 2, PIDs: 3}}},
		{name: "D16 generic resources", call: post("/services/create", "", `{"TaskTemplate":{"Resources":{"Reservations":{"GenericResources":[{"NamedResourceSpec":{"Kind":"GPU","Value":"0"}},{"DiscreteResourceSpec":{"Kind":"SSD","Value":2}}]}}}}`),
			facts: apicall.Facts{DeviceRequests: []string{"GPU:0", "SSD:2"}}},
		{name: "D16 ports", call: post("/services/create", "", `{"EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]},"TaskTemplate":{}}`), facts: apicall.Facts{Ports: []apicall.PortBinding{{HostPort: "8080", Port: "80/tcp"}}}},
		{name: "D17 service that is a plugin", call: post("/services/create", "", `{"TaskTemplate":{"Runtime":"plugin","PluginSpec":{"remote":"evil/p","privileges":[{"name":"mount","value":["/"]},null]}}}`),
			facts: apicall.Facts{Remote: "evil/p", Runtime: "plugin", PluginPrivileges: []string{"runtime=plugin", "mount=/"}}},
		{name: "D16 attachment", call: post("/services/create", "", `{"TaskTemplate":{"NetworkAttachmentSpec":{"ContainerID":"c"}}}`), resources: []string{"container:c"}},
		{name: "D16 update", call: post("/services/web/update", "version=5", `{"TaskTemplate":{"ContainerSpec":{"User":"root"}}}`), facts: apicall.Facts{User: "root"}, resources: []string{"service:web"}},
		{name: "D16 rollback", call: post("/services/web/update", "version=5&rollback=previous", `{"TaskTemplate":{}}`), facts: apicall.Facts{Rollback: true}},
		{name: "D16 unknown rollback", call: post("/services/web/update", "version=5&rollback=x", `{"TaskTemplate":{}}`), code: CodeBadValue},
		{name: "D20 labels", call: post("/services/create", "", `{"Labels":{"belay.dev/owner":"x"},"TaskTemplate":{"ContainerSpec":{"Labels":{"belay.dev/owner":"x"}}}}`),
			facts: apicall.Facts{DroppedFields: []string{"Labels.belay.dev/owner", "Labels.belay.dev/owner"}}},
		{name: "D16 node", call: post("/nodes/n/update", "version=1", `{"Role":"manager","Availability":"drain","Labels":{"a":"b"}}`),
			facts: apicall.Facts{Role: "manager", Availability: "drain", Labels: map[string]string{"a": "b"}}, resources: []string{"node:n"}},
		{name: "D16 swarm join", call: post("/swarm/join", "", `{"RemoteAddrs":["evil:2377"],"JoinToken":"t","ListenAddr":"0.0.0.0"}`), facts: apicall.Facts{Remotes: []string{"evil:2377"}, Addresses: []string{"0.0.0.0"}}},
		{name: "D16 swarm init", call: post("/swarm/init", "", `{"ListenAddr":"0.0.0.0:1","ForceNewCluster":true,"Spec":{"CAConfig":{"ExternalCAs":[{"URL":"https://evil"}]}}}`),
			facts: apicall.Facts{Force: true, Addresses: []string{"0.0.0.0:1"}, Remotes: []string{"https://evil"}}},
		{name: "D16 swarm update", call: post("/swarm/update", "version=1&rotateWorkerToken=true", `{"TaskDefaults":{"LogDriver":{"Name":"syslog"}}}`), facts: apicall.Facts{Force: true, LogDriver: "syslog"}},
		{name: "D16 secret driver", call: post("/secrets/create", "", `{"Name":"s","Driver":{"Name":"evil","Options":{"a":"b"}},"Data":"eA=="}`), facts: apicall.Facts{Name: "s", Driver: "evil", DriverOptions: map[string]string{"a": "b"}}},
		{name: "D16 config", call: post("/configs/create", "", `{"Name":"c","Data":"eA=="}`), facts: apicall.Facts{Name: "c"}},
	})
	f := mustParse(t, post("/v1.40/services/create", "", `{"TaskTemplate":{"ContainerSpec":{"CapabilityDrop":["ALL"],"Privileges":{"NoNewPrivileges":true}},"Resources":{"Limits":{"Pids":3}}}}`)).Call.Facts
	if f.NoNewPrivileges || f.CapDrop != nil || f.Limits.PIDs != 0 {
		t.Errorf("C9: what the daemon drops for old clients counts: %v %v %v", f.NoNewPrivileges, f.CapDrop, f.Limits.PIDs)
	}
}

func TestRouteFacts(t *testing.T) {
	runFacts(t, []factsCase{
		{name: "D11 exec", call: post("/containers/c/exec", "", `{"User":"root","Privileged":true,"Tty":true,"AttachStdin":true,"Env":["A=b"],"WorkingDir":"/w","Cmd":["sh","-c","x"],"Detach":true}`),
			facts:     apicall.Facts{User: "root", UserSet: true, Privileged: true, TTY: true, Stdin: true, Env: []string{"A=b"}, WorkingDir: "/w", Cmd: []string{"sh", "-c", "x"}, Detach: true},
			resources: []string{"container:c"}},
		{name: "D11 command as a string", call: post("/containers/c/exec", "", `{"Cmd":"sh"}`), code: CodeWrongType},
		{name: "D11 container in the body", call: post("/containers/c/exec", "", `{"Container":"other","Cmd":["sh"]}`), resources: []string{"container:c"}},
		{name: "D11 exec start", call: post("/exec/e/start", "", `{"Detach":true,"Tty":true}`), facts: apicall.Facts{Detach: true, TTY: true}, resources: []string{"exec:e"}},
		{name: "D11 exec start without a body", call: post("/exec/e/start", "", ""), resources: []string{"exec:e"}},
		{name: "D12 update", call: post("/containers/c/update", "", `{"Memory":0,"CgroupParent":"/x","Devices":[{"PathOnHost":"/dev/x"}],"RestartPolicy":{"Name":"always"},"BlkioWeight":10}`),
			facts: apicall.Facts{LimitsSet: true, CgroupParent: "/x", Devices: []string{"/dev/x"}, RestartPolicy: "always"}, resources: []string{"container:c"}},
		{name: "B7 attach over a WebSocket", call: call{method: "GET", path: "/v1.44/containers/c/attach/ws", query: "stdin=1&stream=1"}, facts: apicall.Facts{Stdin: true}},
		{name: "B7 attach over a WebSocket before 1.42", call: call{method: "GET", path: "/v1.41/containers/c/attach/ws"}, facts: apicall.Facts{Stdin: true}},
		{name: "attach", call: post("/containers/c/attach", "stdin=true&stdout=1", ""), facts: apicall.Facts{Stdin: true}},
		{name: "top runs ps on the host", call: call{method: "GET", path: "/containers/c/top", query: "ps_args=-eo+args+e"}, facts: apicall.Facts{Cmd: []string{"-eo", "args", "e"}}},
		{name: "D13 copy in", call: call{method: "PUT", path: "/containers/c/archive", query: "path=/etc", header: map[string][]string{"Content-Encoding": {"xz"}}}, facts: apicall.Facts{Path: "/etc", Compressed: "xz"}},
		{name: "D13 copy out", call: call{method: "GET", path: "/containers/c/archive", query: "path=/run/secrets"}, facts: apicall.Facts{Path: "/run/secrets"}},
		{name: "D13 no path", call: call{method: "GET", path: "/containers/c/archive"}, code: CodeBadValue},
		{name: "D14 commit", call: post("/commit", "container=c&repo=r&tag=t&changes=USER+root&changes=CMD+x", `{"User":"root","Env":["A=b"]}`),
			facts: apicall.Facts{Name: "r:t", Repository: "library/r", Tag: "t", Changes: []string{"USER root", "CMD x"}, User: "root", UserSet: true}, resources: []string{"container:c"}},
		{name: "D14 commit without a body", call: post("/commit", "container=c", ""), resources: []string{"container:c"}},
		{name: "D14 commit with null", call: post("/commit", "container=c", "null"), resources: []string{"container:c"}},
		{name: "D14 commit of nothing", call: post("/commit", "repo=r", ""), code: CodeBadValue},
		{name: "D20 commit with our label", call: post("/commit", "container=c&changes=LABEL+belay.dev/owner=x", ""), code: CodeLabelReserved},
		{name: "D14 pull", call: post("/images/create", "fromImage=evil.io/i&tag=v1", ""), action: "image.pull",
			facts: apicall.Facts{Image: "evil.io/i:v1", Registry: "evil.io", Repository: "i", Tag: "v1"}, resources: []string{"image:evil.io/i:v1"}},
		{name: "D14 pull by digest", call: post("/images/create", "fromImage=i&tag=sha256:"+strings.Repeat("a", 64), ""),
			facts: apicall.Facts{Image: "i@sha256:" + strings.Repeat("a", 64), Tag: "sha256:" + strings.Repeat("a", 64)}},
		{name: "D14 pull of every tag", call: post("/images/create", "fromImage=i", ""), facts: apicall.Facts{Bulk: true, Repository: "library/i"}},
		{name: "D14 pull of a name and another tag", call: post("/images/create", "fromImage=i:1&tag=2", ""), facts: apicall.Facts{Image: "i:2", Tag: "2"}},
		{name: "D14 tag that is none", call: post("/images/create", "fromImage=i&tag=a/b", ""), code: CodeBadValue},
		{name: "D14 import of a URL", call: post("/images/create", "fromSrc=http://169.254.169.254/x&repo=alpine&changes=USER+root", ""), action: "image.import",
			facts: apicall.Facts{Remote: "http://169.254.169.254/x", Name: "alpine", Repository: "library/alpine", Tag: "latest", Changes: []string{"USER root"}}},
		{name: "D14 import of the body", call: post("/images/create", "fromSrc=-&repo=r&tag=t", ""), action: "image.import", facts: apicall.Facts{Name: "r:t", Tag: "t"}},
		{name: "D14 pull and import", call: post("/images/create", "fromImage=a&fromSrc=-", ""), code: CodeBadValue},
		{name: "D14 neither", call: post("/images/create", "repo=a", ""), code: CodeBadValue},
		{name: "D14 tag", call: post("/images/i/tag", "repo=alpine&tag=3", ""), facts: apicall.Facts{Image: "i", Name: "alpine:3", Repository: "library/alpine", Tag: "3"}, resources: []string{"image:i"}},
		{name: "D21 push", call: post("/images/evil.io/i/push", "tag=x", ""), facts: apicall.Facts{Registry: "evil.io", Tag: "x"}},
		{name: "D21 push of every tag", call: post("/images/evil.io/i/push", "", ""), facts: apicall.Facts{Registry: "evil.io", Bulk: true}},
		{name: "B8 save of many", call: call{method: "GET", path: "/images/get", query: "names=a&names=b"}, resources: []string{"image:a", "image:b"}},
		{name: "D21 search", call: call{method: "GET", path: "/images/search", query: "term=evil.io/x"}, facts: apicall.Facts{Registry: "evil.io"}},
		{name: "D21 distribution", call: call{method: "GET", path: "/distribution/evil.io/i/json"}, facts: apicall.Facts{Registry: "evil.io", Image: "evil.io/i"}},
		{name: "D21 login", call: post("/auth", "", `{"username":"u","password":"p","serveraddress":"http://10.0.0.1:8080/v1/"}`), facts: apicall.Facts{Registry: "10.0.0.1:8080", Remote: "http://10.0.0.1:8080/v1/"}},
		{name: "D14 build", call: post("/build", "networkmode=host&remote=https://evil/x.git&extrahosts=a:1.2.3.4&cgroupparent=/x&squash=1&t=a&t=b&dockerfile=D&isolation=default", ""),
			facts: apicall.Facts{Namespaces: []string{"net=host"}, Remote: "https://evil/x.git", ExtraHosts: []string{"a:1.2.3.4"}, CgroupParent: "/x", Squash: true,
				Tags: []string{"a", "b"}, Path: "D", Entitled: []string{"network.host"}, Frontend: "dockerfile.v0"}, resources: []string{"image:a", "image:b"}},
		{name: "D14 build in a container's network", call: post("/build", "networkmode=container:db", ""), facts: apicall.Facts{Namespaces: []string{"net=container:db"}}, resources: []string{"container:db"}},
		{name: "D14 build arguments", call: post("/build", `buildargs={"A":"b","N":null}&labels={"l":"m"}&cachefrom=["c"]&outputs=[{"Type":"local","Attrs":{"dest":"x"}}]`, ""),
			facts: apicall.Facts{BuildArgs: map[string]string{"A": "b", "N": ""}, Labels: map[string]string{"l": "m"}, Outputs: `[{"Type":"local","Attrs":{"dest":"x"}}]`}, resources: []string{"image:c"}},
		{name: "A7 front end with the engine's name", call: post("/build", `buildargs={"BUILDKIT_SYNTAX":"dockerfile.v0"}`, ""), facts: apicall.Facts{Frontend: "docker.io/library/dockerfile.v0"}},
		{name: "A7 front end by argument", call: post("/build", `version=2&session=s&remote=client-session&buildargs={"BUILDKIT_SYNTAX":"evil/f"}`, ""), facts: apicall.Facts{Frontend: "evil/f", BuildKit: true, SessionID: "s"}, resources: []string{"session:s"}},
		{name: "C4 build arguments twice", call: post("/build", `buildargs={"A":"b","A":"c"}`, ""), code: CodeDuplicateKey},
		{name: "D14 names of an output", call: post("/build", `t=a&outputs=[{"Type":"image","Attrs":{"name":"b,c","dangling-name-prefix":"d","push":"false"}}]`, ""),
			facts: apicall.Facts{Tags: []string{"a", "b", "c", "d"}}, resources: []string{"image:a", "image:b", "image:c", "image:d"}},
		{name: "D14 an output that the result names", call: post("/build", `outputs=[{"Type":"image","Attrs":{"name":"*"}}]`, ""), code: CodeBadValue},
		{name: "D14 a result's name", call: post("/build", `outputs=[{"Type":"image","Attrs":{"image.name":"a"}}]`, ""), code: CodeBadValue},
		{name: "D21 an output that is pushed", call: post("/build", `outputs=[{"Type":"image","Attrs":{"name":"evil.io/i","push":""}}]`, ""), code: CodeBadValue},
		{name: "C6 outputs in other case", call: post("/build", `outputs=[{"type":"local"}]`, ""), code: CodeWrongCase},
		{name: "D20 build with our label", call: post("/build", `labels={"belay.dev/owner":"x"}`, ""), code: CodeLabelReserved},
		{name: "D2 volume", call: post("/volumes/create", "", `{"Name":"v","Driver":"local","DriverOpts":{"type":"none","o":"bind","device":"/"}}`),
			facts:     apicall.Facts{Name: "v", Driver: "local", Volumes: []string{"v"}, HostMounts: mounts{{Via: "volume", Source: "/", Driver: "local", Options: map[string]string{"type": "none", "o": "bind", "device": "/"}}}},
			resources: []string{"volume:v"}},
		{name: "D2 volume of tmpfs", call: post("/volumes/create", "", `{"DriverOpts":{"type":"tmpfs","device":"tmpfs","o":"size=1m,uid=5"}}`),
			facts: apicall.Facts{HostMounts: mounts{{Via: "volume", Options: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=5"}}}}},
		{name: "D2 volume of another driver", call: post("/volumes/create", "", `{"Driver":"nfs"}`), facts: apicall.Facts{Driver: "nfs", HostMounts: mounts{{Via: "volume", Driver: "nfs"}}}},
		{name: "D3 cluster volume", call: post("/volumes/create", "", `{"Driver":"csi","ClusterVolumeSpec":{"Availability":"pause","Secrets":[{"Key":"k","Secret":"sec"}]}}`), facts: apicall.Facts{Availability: "pause"}, resources: []string{"secret:sec"}},
		{name: "D3 cluster volume update", call: call{method: "PUT", path: "/volumes/v", query: "version=1", body: `{"Spec":{"Availability":"drain"}}`}, facts: apicall.Facts{Availability: "drain"}, resources: []string{"volume:v"}},
		{name: "D6 macvlan", call: post("/networks/create", "", `{"Name":"n","Driver":"macvlan","Options":{"parent":"eth0"},"IPAM":{"Driver":"evil"},"CheckDuplicate":true,"Attachable":true,"Scope":"swarm"}`),
			facts: apicall.Facts{Name: "n", Driver: "macvlan", DriverOptions: map[string]string{"parent": "eth0"}, IPAMDriver: "evil", Attachable: true, Scope: "swarm"}},
		{name: "D6 host network", call: post("/networks/create", "", `{"Name":"n","Driver":"host"}`), facts: apicall.Facts{Namespaces: []string{"net=host"}}},
		{name: "D6 configuration of another network", call: post("/networks/create", "", `{"Name":"n","ConfigFrom":{"Network":"m"}}`), resources: []string{"network:m"}},
		{name: "D19 connect", call: post("/networks/n/connect", "", `{"Container":"c","EndpointConfig":{"Links":["db:x"]}}`), facts: apicall.Facts{Networks: []string{"n"}}, resources: []string{"network:n", "container:c"}},
		{name: "D6 connect to the host", call: post("/networks/host/connect", "", `{"Container":"c"}`), facts: apicall.Facts{Namespaces: []string{"net=host"}}},
		{name: "D19 connect by an id", call: post("/networks/n/connect", "", `{"Container":"c","EndpointConfig":{"NetworkID":"victim"}}`), facts: apicall.Facts{Networks: []string{"n", "victim"}}, resources: []string{"network:n", "network:victim", "container:c"}},
		{name: "D19 connect of nothing", call: post("/networks/n/connect", "", `{"EndpointConfig":{}}`), code: CodeBadValue},
		{name: "D19 disconnect", call: post("/networks/n/disconnect", "", `{"Container":"c","Force":true}`), facts: apicall.Facts{Force: true}, resources: []string{"network:n", "container:c"}},
		{name: "D17 plugin pull", call: post("/plugins/pull", "remote=evil/p:1&name=local", `[{"Name":"mount","Description":"d","Value":["/"]},{"Name":"allow-all-devices","Value":["true"]},{"Name":"x"}]`),
			facts:     apicall.Facts{Remote: "evil/p:1", Name: "local", Repository: "evil/p", PluginPrivileges: []string{"mount=/", "allow-all-devices=true", "x"}},
			resources: []string{"plugin:local"}},
		{name: "D17 plugin pull without privileges", call: post("/plugins/pull", "remote=evil/p", "null"), facts: apicall.Facts{Remote: "evil/p"}},
		{name: "D17 plugin pull of nothing", call: post("/plugins/pull", "name=x", "[]"), code: CodeBadValue},
		{name: "D17 plugin upgrade", call: post("/plugins/p/upgrade", "remote=evil/p:2", `[]`), facts: apicall.Facts{Remote: "evil/p:2"}, resources: []string{"plugin:p"}},
		{name: "D17 plugin set", call: post("/plugins/p/set", "", `["mount.source=/"]`), facts: apicall.Facts{PluginPrivileges: []string{"set:mount.source=/"}}, resources: []string{"plugin:p"}},
		{name: "D17 plugin disable", call: post("/plugins/vieux/sshfs:latest/disable", "force=1", ""), facts: apicall.Facts{Force: true}, resources: []string{"plugin:vieux/sshfs:latest"}},
		{name: "D17 plugin create", call: post("/plugins/create", "name=p", ""), facts: apicall.Facts{Name: "p"}, resources: []string{"plugin:p"}},
		{name: "D18 checkpoint", call: post("/containers/c/checkpoints", "", `{"CheckpointID":"k","CheckpointDir":"/etc"}`),
			facts: apicall.Facts{Checkpoint: "k", Paths: []string{"/etc"}, HostMounts: mounts{{Via: "checkpoint", Source: "/etc"}}}, resources: []string{"container:c"}},
		{name: "D18 start from a checkpoint", call: post("/containers/c/start", "checkpoint=k&checkpoint-dir=/tmp/x", ""), facts: apicall.Facts{Checkpoint: "k", Paths: []string{"/tmp/x"}}},
		{name: "D18 list", call: call{method: "GET", path: "/containers/c/checkpoints", query: "dir=/etc"}, facts: apicall.Facts{Paths: []string{"/etc"}}},
		{name: "D18 delete", call: call{method: "DELETE", path: "/containers/c/checkpoints/k", query: "dir=/etc"}, facts: apicall.Facts{Checkpoint: "k", Paths: []string{"/etc"}}, resources: []string{"container:c"}},
		{name: "D19 prune", call: post("/containers/prune", `filters={"label":["a=b"]}`, ""), facts: apicall.Facts{Bulk: true, Filters: map[string][]string{"label": {"a=b"}}}},
		{name: "rename", call: post("/containers/c/rename", "name=/new", ""), facts: apicall.Facts{Name: "new"}, resources: []string{"container:c"}},
		{name: "rename to nothing", call: post("/containers/c/rename", "", ""), code: CodeBadValue},
		{name: "delete", call: call{method: "DELETE", path: "/containers/c", query: "force=true&v=1&link=0"}, facts: apicall.Facts{Force: true}, resources: []string{"container:c"}},
		{name: "C4 platform", call: call{method: "GET", path: "/images/i/json", query: `platform={"os":"linux","os":"evil"}`}, code: CodeDuplicateKey},
		{name: "C6 platform", call: call{method: "GET", path: "/images/get", query: `names=a&platform={"OS":"linux"}`}, code: CodeWrongCase},
		{name: "platform", call: call{method: "GET", path: "/images/i/json", query: `platform={"os":"linux","architecture":"amd64","os.version":"1"}`}, resources: []string{"image:i"}},
		{name: "build cancel", call: post("/build/cancel", "id=b", ""), resources: []string{"build:b"}},
		{name: "image delete", call: call{method: "DELETE", path: "/images/r.io/a/b:c", query: "force=1"}, facts: apicall.Facts{Force: true}, resources: []string{"image:r.io/a/b:c"}},
	})
}

func TestFilters(t *testing.T) {
	list := func(f string) call { return call{method: "GET", path: "/containers/json", query: "filters=" + f} }
	for _, tt := range []struct{ name, in, sent, code string }{
		{name: "list form", in: `{"label":["a=b","a=b"],"status":["running"]}`, sent: `{"label":{"a=b":true},"status":{"running":true}}`},
		{name: "set form", in: `{"label":{"a=b":true}}`, sent: `{"label":{"a=b":true}}`},
		{name: "empty", in: `{}`, sent: `{}`},
		{name: "D19 duplicate key", in: `{"label":["a"],"label":["b"]}`, code: CodeDuplicateKey},
		{name: "D19 duplicate value", in: `{"label":{"a":true,"a":true}}`, code: CodeDuplicateKey},
		{name: "D19 false", in: `{"label":{"a":false}}`, code: CodeBadValue},
		{name: "D19 both forms", in: `{"label":["a"],"name":{"b":true}}`, code: CodeWrongType},
		{name: "D19 not JSON", in: `label=a`, code: CodeBadJSON},
		{name: "C8 trailing", in: `{} {}`, code: CodeTrailingData},
		{name: "C8 a number", in: `{"label":[1]}`, code: CodeWrongType},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := parse(list(tt.in))
			if got := code(err); got != tt.code {
				t.Fatalf("got %q (%v), want %q", got, err, tt.code)
			}
			if err == nil && r.Query.Get("filters") != tt.sent {
				t.Errorf("sent %s, want %s", r.Query.Get("filters"), tt.sent)
			}
		})
	}
	r := mustParse(t, list(`{"label":["x"]}`))
	if err := r.SetFilter("label", "belay.dev/owner=a"); err != nil {
		t.Fatal(err)
	}
	if got, want := r.Query.Get("filters"), `{"label":{"belay.dev/owner=a":true,"x":true}}`; got != want {
		t.Errorf("SetFilter: got %s, want %s", got, want)
	}
	if err := mustParse(t, call{method: "GET", path: "/system/df"}).SetFilter("label", "a"); code(err) != CodeCannotRewrite {
		t.Errorf("SetFilter where there are none: got %v", err)
	}
}
