package policy

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/apicall"
)

// factsFrom reads facts as a test request gives them.
func factsFrom(t testing.TB, src string) *apicall.Facts {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(src), &n); err != nil {
		t.Fatal(err)
	}
	d := &decoder{file: "facts", lines: map[string]int{}, nodes: map[string]*yaml.Node{}}
	f := &apicall.Facts{}
	d.factsOf(n.Content[0], "facts", f)
	if len(d.errs) > 0 {
		t.Fatal(d.errs)
	}
	return f
}

// checkFrom reads one check as a policy gives it.
func checkFrom(t testing.TB, src string) *Check {
	t.Helper()
	s := accessSet(t, access("p", "  mode: enforce\n  subjects: {everyone: true}\n  rules: [{effect: allow, actions: ['*'], checks: ["+src+"]}]\n"))
	return &s.policies[0].Spec.Rules[0].Checks[0]
}

// Every check, with what must fail it and what must pass. Ids are those of the list of
// known bypasses.
var checkCases = []struct {
	check string
	on    string // action; container.create by default
	fail  []string
	pass  []string
}{
	{check: "notLoosening", on: "policy.update", fail: []string{"{loosens: true}"}, pass: []string{"{}"}},
	{check: "sameSelector", on: "policy.update", fail: []string{"{selectorChanges: true}"}, pass: []string{"{}"}},
	{check: "notOwnPolicy", on: "policy.update", fail: []string{"{namesCaller: true}"}, pass: []string{"{}"}},
	{check: "notPrivileged", fail: []string{"{privileged: true}"}, pass: []string{"{}"}},
	{check: "notPrivileged", on: "container.exec", fail: []string{"{privileged: true}"}, pass: []string{"{}"}}, // D11
	{ // D10
		check: "notRoot",
		fail: []string{
			"{}", "{imageUserKnown: true}", `{imageUser: root}`, `{imageUser: "0"}`, `{user: root}`, `{user: Root}`, `{user: "0"}`, `{user: "00"}`,
			`{user: "0:0"}`, `{user: "root:root"}`, `{user: "0:1000"}`, `{user: ":1000"}`, `{user: "+0"}`, `{user: "-0"}`, `{user: "-1"}`,
			`{user: " 0"}`, `{user: "0x0"}`, `{user: "4294967296"}`, `{user: "2147483648"}`, `{user: "01000"}`, `{user: "1e3"}`, `{user: "r\u00f6\u00f6t"}`,
			`{user: "", imageUser: "0"}`, `{user: "", imageUser: "1000:0", imageUserKnown: false, rollback: true}`,
		},
		pass: []string{`{user: "1000"}`, `{user: "1000:0"}`, `{user: node}`, `{imageUser: "1000"}`, `{imageUser: nginx}`, `{user: "1000", imageUser: root}`, `{user: www-data}`},
	},
	{check: "notRoot: {numeric: true}", fail: []string{"{user: node}", "{}", "{user: root}"}, pass: []string{`{user: "1000"}`}},
	{check: "notRoot", on: "container.exec", fail: []string{"{}", "{user: root}"}, pass: []string{`{imageUser: "1000"}`}},
	{check: "notRoot", on: "container.start", pass: []string{"{}"}},
	{check: "notRootGroup", fail: []string{`{user: "1000:0"}`, `{user: "1000", groupAdd: ["0"]}`, `{user: "1", groupAdd: [root]}`}, pass: []string{`{user: "1000:1000"}`, "{}"}},
	{check: `users: {allow: ["1000*"]}`, fail: []string{"{}", "{user: root}"}, pass: []string{`{user: "1000:1000"}`}},
	{check: "groupAdd: {allow: [audio]}", fail: []string{"{groupAdd: [docker]}", `{groupAdd: [audio, "0"]}`}, pass: []string{"{groupAdd: [audio]}", "{}"}},
	{ // D7
		check: "capabilities: {allow: [CAP_NET_BIND_SERVICE]}",
		fail:  []string{"{capAdd: [ALL]}", "{capAdd: [CAP_SYS_ADMIN]}", "{capAdd: [CAP_NET_BIND_SERVICE, CAP_SYS_PTRACE]}", "{capAdd: [cap_net_bind_service]}"},
		pass:  []string{"{capAdd: [CAP_NET_BIND_SERVICE]}", "{}"},
	},
	{check: "capDrop", fail: []string{"{}", "{capDrop: [CAP_NET_RAW]}"}, pass: []string{"{capDrop: [ALL]}"}},
	{check: "capDrop: {require: [CAP_NET_RAW]}", fail: []string{"{}"}, pass: []string{"{capDrop: [ALL]}", "{capDrop: [CAP_NET_RAW]}"}},
	{check: "noNewPrivileges", fail: []string{"{}"}, pass: []string{"{noNewPrivileges: true}"}},
	// D8
	{check: "seccomp", fail: []string{"{seccomp: unconfined}", "{seccomp: custom}"}, pass: []string{"{}", "{seccomp: builtin}"}},
	{check: "seccomp: {allow: [custom]}", fail: []string{"{seccomp: unconfined}"}, pass: []string{"{seccomp: custom}"}},
	{check: "apparmor", fail: []string{"{appArmor: unconfined}", "{appArmor: other}"}, pass: []string{"{}", "{appArmor: docker-default}"}},
	{check: "selinux", fail: []string{"{selinuxDisabled: true}"}, pass: []string{"{}"}},
	{check: "systemPaths", fail: []string{"{systemPathsOpen: true}", "{securityOpt: [writable-cgroups=true]}"}, pass: []string{"{}"}},
	{check: "securityOptions", fail: []string{"{securityOpt: [label=disable]}", "{securityOpt: [no-new-privileges=false]}"}, pass: []string{"{securityOpt: [no-new-privileges=true]}"}},
	{check: `commands: {allow: [pg_dump, "/opt/*"]}`, on: "container.exec", fail: []string{"{cmd: [sh, -c, pg_dump]}", "{}"}, pass: []string{"{cmd: [pg_dump, x]}", "{cmd: [/opt/x]}"}},
	// D6
	{
		check: "noHostNamespaces",
		fail: []string{
			"{namespaces: [pid=host]}", "{namespaces: [net=host]}", "{namespaces: [ipc=host]}", "{namespaces: [uts=host]}", "{namespaces: [cgroup=host]}",
			"{namespaces: [userns=host]}", "{networks: [host]}", "{namespaces: ['net=ns:/proc/1/ns/net']}",
		},
		pass: []string{"{}", "{networks: [bridge]}", "{namespaces: [ipc=shareable]}"},
	},
	{check: "noHostNamespaces: {allow: [net]}", fail: []string{"{namespaces: [pid=host, net=host]}"}, pass: []string{"{namespaces: [net=host], networks: [host]}"}},
	{check: "noJoinedNamespaces", fail: []string{"{namespaces: ['net=container:abc']}", "{namespaces: ['net=ns:/proc/1/ns/net']}", "{namespaces: ['pid=container:x']}"}, pass: []string{"{}", "{namespaces: [net=host]}"}},
	{check: "noJoinedNamespaces: {allow: [net]}", fail: []string{"{namespaces: ['net=ns:/proc/1/ns/net']}", "{namespaces: ['pid=container:x']}", "{namespaces: ['net=Host']}"}, pass: []string{"{namespaces: ['net=container:abc']}"}},
	{check: "noShareableIPC", fail: []string{"{namespaces: [ipc=shareable]}"}, pass: []string{"{}"}},
	{check: "noHostUserns", fail: []string{"{namespaces: [userns=host]}"}, pass: []string{"{}"}},
	{check: "networks", fail: []string{"{networks: [host]}", "{networks: [prod]}"}, pass: []string{"{}", "{networks: [bridge]}", "{networks: [default]}"}},
	{check: `networks: {allow: ["ci_*"]}`, fail: []string{"{networks: [bridge]}"}, pass: []string{"{networks: [ci_1]}"}},
	{check: "networkDrivers", on: "network.create", fail: []string{"{driver: macvlan}", "{driver: host}"}, pass: []string{"{}", "{driver: bridge}"}},
	{ // D1, D4, D5
		check: "hostMounts: {allow: [/srv/app], readOnly: [/srv/config]}",
		fail: []string{
			"{hostMounts: [{source: /}]}", "{hostMounts: [{source: /etc}]}", "{hostMounts: [{source: /srv}]}", "{hostMounts: [{source: /srv/application}]}",
			"{hostMounts: [{source: /srv/app/x, resolved: /etc}]}", "{hostMounts: [{source: /srv/app/../../etc}]}", "{hostMounts: [{source: srv/app}]}",
			"{hostMounts: [{source: /srv/config}]}", "{hostMounts: [{source: /srv/config, readOnly: true, shallow: true}]}",
			"{hostMounts: [{via: device, source: /dev/sda}]}", "{hostMounts: [{via: npipe, source: x}]}", "{hostMounts: [{via: cluster, source: x}]}",
			"{hostMounts: [{via: volume, source: /etc, driver: local, options: {type: none, o: bind, device: /etc}}]}",
			"{hostMounts: [{via: checkpoint, source: /tmp/x}]}", "{hostMounts: [{via: volume, driver: local, options: {type: nfs, o: addr=10.0.0.1, device: ':/'}}]}",
			"{hostMounts: [{source: /srv/app/a}, {source: /root}]}",
		},
		pass: []string{"{}", "{hostMounts: [{source: /srv/app}]}", "{hostMounts: [{source: /srv/app/x/y}]}", "{hostMounts: [{source: /srv/config/a, readOnly: true}]}", "{hostMounts: [{via: image, source: alpine}]}"},
	},
	{check: "hostMounts", fail: []string{"{hostMounts: [{source: /srv/app}]}"}, pass: []string{"{}", "{volumes: [data]}"}},
	{ // D5
		check: "noSocketMounts",
		fail: []string{
			"{hostMounts: [{source: /var/run/docker.sock}]}", "{hostMounts: [{source: /run/docker.sock}]}", "{hostMounts: [{source: /run}]}", "{hostMounts: [{source: /var/run}]}",
			"{hostMounts: [{source: /}]}", "{hostMounts: [{source: /run/containerd/containerd.sock}]}", "{hostMounts: [{source: /run/containerd}]}", "{hostMounts: [{source: /run/belay}]}",
			"{hostMounts: [{source: /home/u/d, resolved: /run/docker.sock}]}", "{hostMounts: [{source: /var/../run}]}", "{hostMounts: [{source: /run/user/1000/docker.sock}]}",
			"{hostMounts: [{source: /run/user/1000}]}", "{hostMounts: [{source: /proc/1/root/run/docker.sock}]}", "{hostMounts: [{source: /opt/docker.sock}]}",
			"{hostMounts: [{via: volume, source: v, options: {type: none, o: bind, device: /run/docker.sock}}]}",
			"{hostMounts: [{via: volume, source: v, options: {type: overlay, device: overlay, o: 'lowerdir=/run:/x,upperdir=/u'}}]}",
			"{hostMounts: [{source: /run/docker.sock, readOnly: true}]}", "{hostMounts: [{source: /run/docker/plugins}]}", "{hostMounts: [{source: /var/lib/belay/journal}]}",
		},
		pass: []string{"{}", "{hostMounts: [{source: /srv}]}", "{hostMounts: [{source: /run/myapp}]}", "{hostMounts: [{source: /var/log}]}"},
	},
	{check: "noSocketMounts: {also: [/srv/secret.sock]}", fail: []string{"{hostMounts: [{source: /srv}]}", "{hostMounts: [{source: /srv/secret.sock}]}"}, pass: []string{"{hostMounts: [{source: /opt}]}"}},
	{check: "noSocketMounts: {allow: [/run/belay/docker.sock]}", fail: []string{"{hostMounts: [{source: /run/belay}]}", "{hostMounts: [{source: /run/docker.sock}]}", "{hostMounts: [{source: /run/belay/docker.sock, resolved: /run/docker.sock}]}"}, pass: []string{"{hostMounts: [{source: /var/run/belay/docker.sock}]}"}},
	{
		check: "noSensitiveMounts: {allow: [/etc/ssl]}",
		fail:  []string{"{hostMounts: [{source: /}]}", "{hostMounts: [{source: /var}]}", "{hostMounts: [{source: /etc}]}", "{hostMounts: [{source: /etc/ssl, resolved: /etc/shadow}]}", "{hostMounts: [{source: /proc/sys}]}", "{hostMounts: [{source: /var/lib/docker/volumes}]}"},
		pass:  []string{"{}", "{hostMounts: [{source: /srv}]}", "{hostMounts: [{source: /etc/ssl/certs}]}", "{hostMounts: [{source: /home/u}]}"},
	},
	{check: "noSharedPropagation", fail: []string{"{hostMounts: [{source: /x, propagation: rshared}]}", "{hostMounts: [{source: /x, propagation: SHARED}]}"}, pass: []string{"{hostMounts: [{source: /x, propagation: rslave}]}", "{hostMounts: [{source: /x}]}"}},
	{check: "noImageMounts", fail: []string{"{hostMounts: [{via: image, source: evil}]}"}, pass: []string{"{}"}}, // D3
	{check: "volumeDrivers", fail: []string{"{hostMounts: [{via: volume, driver: sshfs}]}"}, pass: []string{"{hostMounts: [{via: volume, driver: local}]}"}},
	{check: "volumeDrivers", on: "volume.create", fail: []string{"{driver: sshfs}"}, pass: []string{"{driver: local}", "{}"}},
	{ // D2
		check: "volumeOptions", on: "volume.create",
		fail: []string{"{driverOptions: {type: none, o: bind, device: /}}", "{driverOptions: {type: ext4, device: /dev/sda1}}", "{driverOptions: {o: bind}}", "{driverOptions: {type: tmpfs, device: /etc}}", "{driverOptions: {type: tmpfs, o: 'size=1m,bind'}}", "{driverOptions: {device: tmpfs}}"},
		pass: []string{"{}", "{driverOptions: {type: tmpfs, device: tmpfs, o: 'size=100m,uid=1000'}}", "{driverOptions: {size: 1g}}"},
	},
	{check: "volumes: {allow: ['ci-*']}", fail: []string{"{volumes: [prod]}"}, pass: []string{"{volumes: [ci-1]}", "{}"}},
	{check: "noVolumesFrom", fail: []string{"{volumesFrom: [db]}", "{hostMounts: [{via: volumesFrom, source: db}]}"}, pass: []string{"{}"}},
	{check: "noDaemonPaths", on: "container.checkpoint.create", fail: []string{"{paths: [/etc]}"}, pass: []string{"{}"}}, // D18
	{
		check: "devices: {allow: [/dev/fuse], requests: ['nvidia:*']}",
		fail:  []string{"{devices: [/dev/sda]}", "{deviceCgroupRules: ['a *:* rwm']}", "{deviceRequests: ['cdi:vendor.com/x=y']}", "{hostMounts: [{via: device, source: /dev/mem}]}"},
		pass:  []string{"{devices: [/dev/fuse]}", "{deviceRequests: ['nvidia:0']}", "{}"},
	},
	// D9
	{check: "sysctls: {allow: ['net.ipv4.*']}", fail: []string{"{sysctls: {kernel.core_pattern: x}}"}, pass: []string{"{sysctls: {net.ipv4.ip_forward: '1'}}"}},
	{check: "runtimes", fail: []string{"{runtime: evil}"}, pass: []string{"{}", "{runtime: runc}"}},
	{check: "cgroupParent", fail: []string{"{cgroupParent: /x}"}, pass: []string{"{}"}},
	{check: "annotations", fail: []string{"{annotations: {org.systemd.property.ExecStart: x}}"}, pass: []string{"{}"}},
	{check: "storageOptions", fail: []string{"{storageOpt: {size: 1T}}"}, pass: []string{"{}"}},
	{check: "isolation", fail: []string{"{isolation: process}"}, pass: []string{"{isolation: default}"}},
	{check: "readOnlyRoot", fail: []string{"{}"}, pass: []string{"{readOnly: true}"}},
	{check: "noTmpfs: {allow: [/tmp]}", fail: []string{"{tmpfs: [/run]}"}, pass: []string{"{tmpfs: [/tmp]}"}},
	{check: "extraHosts", fail: []string{"{extraHosts: ['x:1.2.3.4']}"}, pass: []string{"{}"}},
	{check: "logDrivers", fail: []string{"{logDriver: syslog}", "{logDriver: gelf}"}, pass: []string{"{}", "{logDriver: local}"}},
	{check: "logOptions", fail: []string{"{logOptions: {syslog-address: 'unix:///run/docker.sock'}}"}, pass: []string{"{logOptions: {max-size: 10m}}"}},
	{check: "oom", fail: []string{"{oomScoreAdj: -500}", "{oomKillOff: true}"}, pass: []string{"{oomScoreAdj: 100}", "{}"}},
	{check: "noHealthcheck", fail: []string{"{healthcheck: [CMD, sh]}"}, pass: []string{"{}", "{healthcheck: [NONE]}"}},
	{
		check: "limits: {memory: 1Gi, cpus: 2, pids: 100}",
		fail: []string{
			"{}", "{limits: {memoryBytes: 2147483648, nanoCPUs: 1, pids: 1}}", "{limits: {memoryBytes: 1, nanoCPUs: 3000000000, pids: 1}}", "{limits: {memoryBytes: 1, nanoCPUs: 1, pids: 101}}", "{limits: {memoryBytes: 1, nanoCPUs: 1, pids: -1}}",
		},
		pass: []string{"{limits: {memoryBytes: 1073741824, nanoCPUs: 2000000000, pids: 100}}"},
	},
	{check: "publishedPorts", fail: []string{"{ports: [{port: 80/tcp}]}"}, pass: []string{"{}"}},
	{
		check: `publishedPorts: {ports: [0, "8000-8999"], hostIPs: [127.0.0.1]}`,
		fail:  []string{`{ports: [{hostPort: "8080"}]}`, `{ports: [{hostIP: 0.0.0.0, hostPort: "8080"}]}`, `{ports: [{hostIP: 127.0.0.1, hostPort: "22"}]}`, `{ports: [{hostIP: 127.0.0.1, hostPort: "8990-9001"}]}`, `{ports: [{hostIP: 127.0.0.1, hostPort: "08080"}]}`},
		pass:  []string{`{ports: [{hostIP: 127.0.0.1, hostPort: "8080"}]}`, `{ports: [{hostIP: 127.0.0.1}]}`, `{ports: [{hostIP: "::ffff:127.0.0.1", hostPort: "8000-8100"}]}`},
	},
	{check: "noPublishAll", fail: []string{"{publishAll: true}"}, pass: []string{"{}"}},
	{check: "restartPolicies", fail: []string{"{restartPolicy: always}"}, pass: []string{"{}", "{restartPolicy: on-failure}"}},
	{check: "restartPolicies", on: "container.update", fail: []string{"{restartPolicy: always}"}, pass: []string{"{}"}}, // D12
	{check: "noForce", on: "container.delete", fail: []string{"{force: true}"}, pass: []string{"{}"}},
	{check: "noBulk", on: "container.prune", fail: []string{"{}", "{bulk: true}"}},
	{
		check: `images: {allow: ["registry.example.org/team/**", nginx, "alpine:3.*"]}`,
		fail: []string{"{}", "{image: registry.example.org/other/x}", "{image: 'evil.org/nginx'}", "{image: 'alpine:edge'}", "{image: 'registry.example.org.evil.net/team/x'}",
			"{image: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}"},
		pass: []string{"{image: 'registry.example.org/team/x:1'}", "{image: nginx}", "{image: 'docker.io/library/nginx:1'}", "{image: 'alpine:3.20'}"},
	},
	{check: "images: {allow: [nginx]}", on: "image.pull", fail: []string{"{repository: x, registry: evil.org}"}, pass: []string{"{repository: library/nginx, registry: docker.io, tag: '1'}"}},
	{check: "registries: {allow: [docker.io]}", fail: []string{"{image: 'evil.org/x'}", "{image: 'localhost/x'}", "{}"}, pass: []string{"{image: nginx}", "{image: 'a/b:c'}", "{image: index.docker.io/a/b}"}},
	{check: "imageDigest", fail: []string{"{image: nginx}", "{image: 'nginx@sha256:12'}"}, pass: []string{"{image: 'nginx@sha256:" + hex64 + "'}"}},
	{check: "imageDigest: {allow: ['sha256:" + hex64 + "']}", fail: []string{"{image: 'x@sha256:" + strings.Repeat("b", 64) + "'}"}, pass: []string{"{image: 'nginx@sha256:" + hex64 + "'}"}},
	{check: "names: {allow: ['ci-*']}", fail: []string{"{}", "{name: db}"}, pass: []string{"{name: ci-1}"}},
	{check: "tags: {allow: ['ci/*']}", on: "image.tag", fail: []string{"{repository: nginx}", "{tags: [ci/x, nginx]}"}, pass: []string{"{repository: ci/x, tag: '1'}"}},                  // D14
	{check: "noReservedLabels", fail: []string{"{labels: {belay.dev/owner: x}}", "{labels: {Belay.dev/x: y}}", "{taskLabels: {' belay.dev/a': y}}"}, pass: []string{"{labels: {a: b}}"}}, // D20
	{check: "labels: {require: [team, 'tier=f*']}", fail: []string{"{}", "{labels: {team: a}}", "{labels: {team: a, tier: back}}"}, pass: []string{"{labels: {team: a, tier: front}}"}},
	{check: "noSecretEnv: {allow: [TOKEN_URL]}", fail: []string{"{env: [DB_PASSWORD=x]}", "{env: [api_key=x]}", "{buildArgs: {NPM_TOKEN: x}}"}, pass: []string{"{env: [A=b, DB_PASSWORD_FILE=/x, SECRET=, TOKEN_URL=x]}"}},
	{check: "platforms", fail: []string{"{platform: linux/arm64}"}, pass: []string{"{}"}},
	{check: "buildEntitlements", on: "build.grpc.solve", fail: []string{"{entitled: [security.insecure]}"}, pass: []string{"{}"}}, // B11
	{check: "noRemote", on: "image.build", fail: []string{"{remote: 'http://evil/x.tar'}"}, pass: []string{"{}"}},
	{check: "frontends", on: "build.grpc.solve", fail: []string{"{frontend: gateway.v0}"}, pass: []string{"{}", "{frontend: dockerfile.v0}"}}, // A7
	{check: "frontends: {allow: ['docker/dockerfile:*']}", on: "build.grpc.solve", fail: []string{"{frontend: '?'}", "{frontend: llb}"}, pass: []string{"{frontend: 'docker/dockerfile:1'}"}},
	{check: "buildSecrets: {allow: ['ci-*']}", on: "build.session", fail: []string{"{secrets: [aws]}", "{secrets: [ci-a, aws]}"}, pass: []string{"{}", "{secrets: [ci-a]}"}},
	{check: "buildSSH", on: "build.session", fail: []string{"{ssh: [default]}"}, pass: []string{"{}"}},
	{check: "noBuildOutputs", on: "image.build", fail: []string{"{outputs: 'type=local,dest=/'}", "{squash: true}"}, pass: []string{"{}"}},
	{check: "noChanges", on: "image.commit", fail: []string{"{changes: ['USER root']}"}, pass: []string{"{}"}},
	{check: "copyPaths: {allow: [/data]}", on: "container.copy.in", fail: []string{"{path: /etc/passwd}", "{path: /data/../etc}", "{}", "{path: data}"}, pass: []string{"{path: /data/x}", "{path: /data}"}}, // D13
	{check: "noCompressedCopy", on: "container.copy.in", fail: []string{"{compressed: xz}"}, pass: []string{"{}"}},                                                                                           // A4
	{check: "pluginPrivileges", on: "plugin.install", fail: []string{"{pluginPrivileges: ['mount=/']}"}, pass: []string{"{}"}},                                                                               // D17
	{check: "noUnknownFields", fail: []string{"{droppedFields: [HostConfig.X]}"}, pass: []string{"{}"}},
}

var hex64 = strings.Repeat("a", 64)

func TestChecks(t *testing.T) {
	tested := map[string]bool{}
	for _, tt := range checkCases {
		action := tt.on
		if action == "" {
			action = "container.create"
		}
		check := tt.check
		if strings.Contains(check, ": ") {
			check = "{" + check + "}"
		}
		c := checkFrom(t, check)
		tested[c.Name] = true
		t.Run(tt.check+" on "+action, func(t *testing.T) {
			for _, src := range tt.fail {
				if why := c.fails(checkInput{actionIDs[action], factsFrom(t, src), &Defaults{}}); why == "" {
					t.Errorf("%s passes", src)
				}
			}
			for _, src := range tt.pass {
				if why := c.fails(checkInput{actionIDs[action], factsFrom(t, src), &Defaults{}}); why != "" {
					t.Errorf("%s fails: %s", src, why)
				}
			}
		})
	}
	for _, name := range checkNames {
		if !tested[name] {
			t.Errorf("no case for %s", name)
		}
	}
	if len(checkNames) < 40 {
		t.Errorf("got %d checks, want at least 40", len(checkNames))
	}
}

func TestDefaultsSatisfyChecks(t *testing.T) {
	set := &Defaults{MemoryBytes: 1 << 30, PIDs: 10, NanoCPUs: nano, User: "1000", NoNewPrivileges: true, ReadOnlyRoot: true}
	tests := []struct {
		check, action, facts string
		pass                 bool
	}{
		{"limits", "container.create", "{}", true},
		{"{limits: {memory: 512Mi}}", "container.create", "{}", false}, // a default above the limit is one
		{"{limits: {memory: 2Gi, cpus: 1, pids: 10}}", "container.create", "{}", true},
		{"limits", "container.create", "{limits: {pids: -1}}", false},
		{"limits", "container.update", "{}", true},
		{"limits", "container.update", "{limits: {memoryBytes: -1}}", false},
		{"{limits: {cpus: 1}}", "container.update", "{limits: {cpuQuota: 200000}}", false},
		{"{limits: {cpus: 1}}", "container.create", "{limits: {cpuQuota: 50000}}", true},
		{"{limits: {cpus: 1}}", "container.create", "{limits: {cpuQuota: -1}}", false},
		{"notRoot", "container.create", "{}", true},
		{"notRoot", "container.create", "{user: root}", false},
		{"notRoot", "container.create", "{imageUserKnown: true}", true},
		{"noNewPrivileges", "container.create", "{}", true},
		{"noNewPrivileges", "container.create", "{securityOpt: [no-new-privileges=false]}", false},
		{"readOnlyRoot", "container.create", "{}", true},
	}
	for _, tt := range tests {
		c := checkFrom(t, tt.check)
		why := c.fails(checkInput{actionIDs[tt.action], factsFrom(t, tt.facts), set})
		if (why == "") != tt.pass {
			t.Errorf("%s on %s %s: got %q, want pass %v", tt.check, tt.action, tt.facts, why, tt.pass)
		}
	}
}
