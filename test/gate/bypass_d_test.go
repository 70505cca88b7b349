package gate

import (
	"encoding/json"
	"os"
	"strings"
)

// runs makes a container that runs a command, and starts it.
func runs(host, command string, extra ...string) []string {
	return []string{creates("harm", host, command, extra...), post("/containers/harm/start", "")}
}

// creates makes a container; host is what goes into its host configuration.
func creates(name, host, command string, extra ...string) string {
	cmd, _ := json.Marshal(command) // a string
	if !strings.Contains(host, `"NetworkMode"`) {
		host = strings.TrimSuffix(`"NetworkMode":"none",`+host, ",")
	}
	return post("/containers/create?name="+name, `{"Image":"IMAGE","Cmd":["sh","-c",`+string(cmd)+`],`+strings.Join(append(extra, `"HostConfig":{`+host+`}`), ",")+`}`)
}

func near(host string, extra ...string) []string {
	return []string{creates("near", host, "true", extra...)}
}

const volBind = `{"Name":"evil","DriverOpts":{"type":"none","o":"bind","device":"HOSTDIR"}}`

var dropEvil = []string{del("/volumes/evil?force=1"), del("/volumes/near?force=1")}

// casesD are the ids D*: the host by another door.
func casesD() []bypass {
	nearMount := near(`"Binds":["SRVDIR/data:/m"]`)
	write := "echo x >/m/owned"
	return []bypass{
		{id: "D1", what: "a bind", steps: runs(`"Binds":["HOSTDIR:/m"]`, write), harm: wrote, near: nearMount},
		{id: "D1", what: "a mount of type bind", steps: runs(`"Mounts":[{"Type":"bind","Source":"HOSTDIR","Target":"/m"}]`, write), harm: wrote, near: nearMount},
		{
			id: "D1", what: "a mount of a volume with a driver's options", harm: wrote, near: near(`"Mounts":[{"Type":"volume","Source":"near","Target":"/m"}]`), tidy: dropEvil,
			steps: runs(`"Mounts":[{"Type":"volume","Source":"evil","Target":"/m","VolumeOptions":{"DriverConfig":{"Name":"local","Options":{"type":"none","o":"bind","device":"HOSTDIR"}}}}]`, write),
		},
		{
			id: "D1", what: "a volume made before", harm: wrote, near: []string{post("/volumes/create", `{"Name":"near"}`)}, tidy: dropEvil,
			steps: append([]string{post("/volumes/create", volBind)}, runs(`"Binds":["evil:/m"]`, write)...),
		},
		{
			id: "D1", what: "another's volumes", harm: shows("victim-in-here", "another's volume"), near: near(`"VolumesFrom":["mine:ro"]`),
			play: func(s *scene) {
				s.in("victim", "id") // it runs
				s.engine.Docker(s.t.Context(), "exec", "-u", "0", "victim", "sh", "-c", "echo victim-in-here >/vol/x")
				for _, r := range runs(`"VolumesFrom":["victim"]`, "cat /vol/x") {
					s.send(r)
				}
			},
		},
		{
			id: "D1", what: "another's volume by its name", harm: shows("victim-in-here", "another's volume"), near: near(`"Binds":["mine-vol:/m"]`),
			steps: runs(`"Binds":["victim-vol:/m"]`, "cat /m/x"),
		},
		{
			id: "D2", what: "an overlay of the host", harm: shows("SECRET", "a file of the host"), near: []string{post("/volumes/create", `{"Name":"near","DriverOpts":{"type":"tmpfs","device":"tmpfs","o":"size=1m"}}`)}, tidy: dropEvil,
			steps: append([]string{post("/volumes/create", `{"Name":"evil","DriverOpts":{"type":"overlay","device":"overlay","o":"lowerdir=HOSTDIR:SRVDIR/data"}}`)}, runs(`"Binds":["evil:/m:ro"]`, "cat /m/secret")...),
		},
		{
			id: "D2", what: "a disk of the host", harm: volumeMade, near: []string{post("/volumes/create", `{"Name":"near"}`)}, tidy: dropEvil,
			steps: []string{post("/volumes/create", `{"Name":"evil","DriverOpts":{"type":"ext4","device":"/dev/sda1"}}`)},
		},
		{
			id: "D2", what: "a network file system", harm: volumeMade, near: []string{post("/volumes/create", `{"Name":"near"}`)}, tidy: dropEvil,
			steps: []string{post("/volumes/create", `{"Name":"evil","DriverOpts":{"type":"nfs","o":"addr=127.0.0.1,rw","device":":/"}}`)},
		},
		{
			id: "D3", what: "a mount of type npipe", only: "none", near: nearMount,
			steps: runs(`"Mounts":[{"Type":"npipe","Source":"HOSTDIR","Target":"/m"}]`, write), harm: wrote,
		},
		{
			id: "D3", what: "a mount of type cluster", only: "none", near: nearMount,
			steps: runs(`"Mounts":[{"Type":"cluster","Source":"x","Target":"/m"}]`, write), harm: wrote,
		},
		{id: "D4", what: "a link below a directory that is allowed", steps: runs(`"Binds":["SRVDIR/link:/m"]`, write), harm: wrote, near: nearMount},
		{id: "D4", what: "two dots below a directory that is allowed", steps: runs(`"Mounts":[{"Type":"bind","Source":"SRVDIR/../..HOSTDIR","Target":"/m"}]`, write), harm: wrote, near: nearMount},
		{
			id: "D4", what: "a link that is changed while it is asked", harm: wrote, near: nearMount, only: "none",
			play: func(s *scene) { s.swapLink(runs(`"Binds":["SRVDIR/swap:/m"]`, write)) },
		},
		{
			id: "D4", what: "a directory that is a link when the container starts", harm: wrote, near: nearMount,
			play: func(s *scene) { s.turnsSource("turns", true) },
		},
		{
			id: "D4", what: "nothing, and a link when the container starts", harm: wrote, near: nearMount,
			play: func(s *scene) { s.turnsSource("appears", false) },
		},
		{id: "D5", what: "the engine's socket", steps: runs(`"Binds":["ENGINESOCK:/sock"]`, "ls -l /sock"), harm: shows("srw", "the engine's socket is in the container"), near: nearMount},
		{id: "D5", what: "the directory of the engine's socket", steps: runs(`"Mounts":[{"Type":"bind","Source":"ENGINEDIR","Target":"/m"}]`, "ls -l /m/docker.sock /m"), harm: shows("srw", "the engine's socket is in the container"), near: nearMount},
		{id: "D5", what: "/proc", steps: runs(`"Binds":["/proc:/m"]`, "ls /m/1/cmdline"), harm: shows("/m/1/cmdline\n", "the host's processes"), near: nearMount},
		{id: "D5", what: "/sys", steps: runs(`"Binds":["/sys:/m"]`, "ls /m"), harm: shows("kernel", "the host's /sys"), near: nearMount},
		{id: "D5", what: "/dev", steps: runs(`"Binds":["/dev:/m"]`, "ls /m"), harm: shows("null", "the host's devices"), near: nearMount},
		{id: "D5", what: "/var/run", steps: runs(`"Binds":["/var/run:/m"]`, "echo in"), harm: shows("in", "the host's /run"), near: nearMount},
	}
}

// casesHost go on with D*: namespaces, rights, users, images, volumes and the engine itself.
func casesHost() []bypass {
	plain := near("")
	ns := func(what, host, kind string) bypass {
		return bypass{
			id: "D6", what: what, near: plain, steps: runs(host, "ls -l /proc/self/ns/"+kind),
			harm: func(s *scene) string {
				if s.inspect("harm").ID == "" {
					return ""
				}
				hostNS, _ := os.Readlink("/proc/self/ns/" + kind)
				out := s.ran("harm")
				if kind == "net" && strings.Contains(out, "net:[") || strings.Contains(out, hostNS) {
					return "a namespace of the host"
				}
				return ""
			},
		}
	}
	return append([]bypass{
		ns("the host's network", `"NetworkMode":"host"`, "net"),
		ns("the host's processes", `"PidMode":"host"`, "pid"),
		ns("the host's IPC", `"IpcMode":"host"`, "ipc"),
		ns("the host's name", `"UTSMode":"host"`, "uts"),
		{id: "D6", what: "the host's users", near: plain, steps: []string{creates("harm", `"UsernsMode":"host"`, "true")}, harm: has(`"UsernsMode":"host"`, "the host's users")},
		{id: "D6", what: "another's processes", near: plain, steps: runs(`"PidMode":"container:victim"`, "cat /proc/1/environ"), harm: has("container:", "another's processes")},
		{id: "D6", what: "another's network", near: near(`"NetworkMode":"container:mine"`), steps: []string{creates("harm", `"NetworkMode":"container:victim"`, "true")}, harm: has("container:", "another's network")},
		{id: "D6", what: "a network of a driver that reaches the host's cards", near: []string{post("/networks/create", `{"Name":"near"}`)}, only: "none",
			steps: []string{post("/networks/create", `{"Name":"evil","Driver":"macvlan","Options":{"parent":"lo"}}`)}, harm: networkMade, tidy: []string{del("/networks/evil"), del("/networks/near")}},
	}, append(casesRights(), casesThings()...)...)
}

func casesRights() []bypass {
	plain := near("")
	kept := func(id, what, host, text string) bypass {
		return bypass{id: id, what: what, near: plain, steps: []string{creates("harm", host, "true")}, harm: has(text, what)}
	}
	user := func(spelling string) bypass {
		return bypass{
			id: "D10", what: "root, written " + spelling, near: near("", `"User":"1000:1000"`), harm: shows("0", "a root process"),
			steps: runs("", "id -u", `"User":"`+spelling+`"`),
		}
	}
	status := func(id, what, host, line string) bypass {
		return bypass{id: id, what: what, near: plain, steps: runs(host, "cat /proc/self/status"), harm: shows(line, what)}
	}
	cases := []bypass{
		kept("D7", "all capabilities", `"CapAdd":["ALL"]`, `"ALL"`),
		kept("D7", "a capability by its short name", `"CapAdd":["SYS_ADMIN"]`, `SYS_ADMIN`),
		kept("D7", "a capability by its full name", `"CapAdd":["CAP_SYS_ADMIN"]`, `SYS_ADMIN`),
		kept("D7", "a capability in small letters", `"CapAdd":["sys_admin"]`, `sys_admin`),
		{id: "D7", what: "a device", near: plain, steps: runs(`"Devices":[{"PathOnHost":"/dev/null","PathInContainer":"/dev/x","CgroupPermissions":"rwm"}]`, "ls /dev"), harm: shows("x\n", "a device of the host")},
		kept("D7", "a rule for devices", `"DeviceCgroupRules":["a *:* rwm"]`, `a *:* rwm`),
		kept("D7", "a device by request", `"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["v/c=d"]}]`, `v/c=d`),
		status("D8", "no seccomp", `"SecurityOpt":["seccomp=unconfined"]`, "Seccomp:\t0"),
		status("D8", "no seccomp, with a colon", `"SecurityOpt":["seccomp:unconfined"]`, "Seccomp:\t0"),
		kept("D8", "a seccomp profile of one's own", `"SecurityOpt":["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]`, `SCMP_ACT_ALLOW`),
		kept("D8", "no AppArmor", `"SecurityOpt":["apparmor=unconfined"]`, `apparmor=unconfined`),
		kept("D8", "no SELinux", `"SecurityOpt":["label=disable"]`, `label=disable`),
		kept("D8", "no paths masked", `"MaskedPaths":[],"ReadonlyPaths":[]`, `"MaskedPaths":[]`),
		status("D8", "new privileges", `"SecurityOpt":["no-new-privileges=false"]`, "NoNewPrivs:\t0"),
		kept("D9", "another runtime", `"Runtime":"io.containerd.runtime.v1.linux"`, `io.containerd.runtime.v1.linux`),
		kept("D9", "a runtime of one's own", `"Runtime":"io.containerd.evil.v1"`, `io.containerd.evil.v1`),
		kept("D9", "another cgroup", `"CgroupParent":"/elsewhere"`, `/elsewhere`),
		kept("D9", "a setting of the kernel", `"Sysctls":{"kernel.msgmax":"1"}`, `kernel.msgmax`),
		kept("D9", "a log driver that calls an address", `"LogConfig":{"Type":"syslog","Config":{"syslog-address":"tcp://WITNESS"}}`, `syslog-address`),
		kept("D9", "out of memory's last", `"OomScoreAdj":-1000`, `"OomScoreAdj":-1000`),
		user("root"), user("0"), user("00"), user("0:0"), user("root:root"), user("000000000000000000000"),
		{id: "D10", what: "root, as the image has it", near: plain, harm: shows("0", "a root process"),
			steps: []string{strings.Replace(creates("harm", "", "id -u"), "IMAGE", "gate/root:1", 1), post("/containers/harm/start", "")}},
		{id: "D11", what: "exec with all rights", enter: true, harm: execMade, near: []string{post("/containers/MINEID/exec", `{"Cmd":["true"]}`)},
			steps: []string{post("/containers/MINEID/exec", `{"Cmd":["true"],"Privileged":true}`)}},
		{id: "D11", what: "exec as root", enter: true, harm: execMade, near: []string{post("/containers/MINEID/exec", `{"Cmd":["true"],"User":"1000"}`)},
			steps: []string{post("/containers/MINEID/exec", `{"Cmd":["true"],"User":"00"}`)}},
		{id: "D11", what: "exec in another's", enter: true, harm: execMade, near: []string{post("/containers/MINEID/exec", `{"Cmd":["true"]}`)},
			steps: []string{post("/containers/VICTIMID/exec", `{"Cmd":["true"]}`)}},
		{id: "D11", what: "exec by who may not enter", harm: execMade, near: []string{get("/containers/MINEID/json")},
			steps: []string{post("/containers/MINEID/exec", `{"Cmd":["true"]}`)}},
		{id: "D11", what: "another's exec, by its id", enter: true, play: startExec, harm: copied, copies: true, near: []string{post("/containers/MINEID/exec", `{"Cmd":["true"]}`)}},
		{id: "D12", what: "limits taken away", steps: []string{post("/containers/VICTIMID/update", `{"CpuShares":77}`)}, near: []string{get("/containers/MINEID/json")},
			harm: func(s *scene) string {
				if strings.Contains(s.inspect("victim").HostConfig.raw, `"CpuShares":77`) {
					return "limits changed"
				}
				return ""
			}, tidy: []string{post("/containers/VICTIMID/update", `{"CpuShares":1024}`)}},
		{id: "D13", what: "a setuid file put into a container", enter: true, harm: copied, copies: true, near: []string{request("PUT", "/containers/MINEID/archive?path=/tmp", head+"Content-Type: application/x-tar\r\n", tarText("ok", "ok"))},
			steps: []string{request("PUT", "/containers/VICTIMID/archive?path=/tmp", head+"Content-Type: application/x-tar\r\n", tarText("copied", "owned"))}},
		{id: "D13", what: "secrets copied out", enter: true, harm: told("SECRET", "another's secret"), near: []string{get("/containers/MINEID/archive?path=/tmp/secret")},
			steps: []string{get("/containers/VICTIMID/archive?path=/tmp/secret")}},
	}
	for i := range cases {
		if cases[i].what == "a runtime of one's own" {
			cases[i].only = "modern"
		}
	}
	return cases
}
