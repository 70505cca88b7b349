package kernel

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

// privilegeCases are played by root with the capability that the act needs, where it needs one.
func privilegeCases() []attackCase {
	root := func(caps ...string) []string {
		out := []string{"--uid", "0"}
		for _, c := range caps {
			out = append(out, "--cap-add", c)
		}
		return out
	}
	var out []attackCase
	add := func(field string, rule verdict.Rule, flags []string, names ...string) {
		for _, n := range names {
			out = append(out, attackCase{name: n, rule: rule, policy: "  privileges: {" + field + "}\n", flags: flags, want: bySignal(unsupported)})
		}
	}
	add("mount: deny", verdict.RuleMount, root("SYS_ADMIN"), "priv-mount", "priv-bind", "priv-remount", "priv-umount", "priv-movemount", "priv-move", "priv-pivot", "priv-setattr", "priv-setattr-high", "priv-clonetree", "priv-detached")
	add("ptrace: deny", verdict.RulePtrace, nil, "priv-ptrace", "priv-mem", "priv-traceme")
	add("otherTasks: deny", verdict.RuleOtherTasks, append(root("SYS_NICE", "SYS_PTRACE"), "--pid", "host"), "priv-signal", "priv-nice", "priv-environ")
	add("otherTasks: deny", verdict.RuleOtherTasks, root("SYS_ADMIN"), "priv-cgroup")
	add("userNamespaces: deny", verdict.RuleUserNamespaces, nil, "priv-userns")
	add("modules: deny", verdict.RuleModules, root("SYS_MODULE"), "priv-module", "priv-module-fd")
	add("modules: deny", verdict.RuleModules, root("SYS_BOOT"), "priv-kexec")
	add("perfEvents: deny", verdict.RulePerfEvents, root("PERFMON", "SYS_ADMIN"), "priv-perf")
	add("keyctl: deny", verdict.RuleKeyctl, nil, "priv-keyctl")
	add("ioUring: deny", verdict.RuleIOUring, nil, "priv-uring")
	add("rawDevices: deny", verdict.RuleRawDevices, root(), "priv-block")
	add("rawDevices: deny", verdict.RuleRawDevices, root("SYS_RAWIO"), "priv-devmem", "priv-kcore")
	add("kernelControl: deny", verdict.RuleKernelControl, root(), "priv-corepattern", "priv-sysrq", "priv-modprobe")
	add("kernelControl: deny", verdict.RuleKernelControl, root("SYS_ADMIN"), "priv-binfmt", "priv-sysfs")
	add("kernelControl: deny", verdict.RuleKernelControl, root("SYS_ADMIN"), "priv-releaseagent", "priv-notify", "priv-ueventhelper")
	add("kernelControl: deny", verdict.RuleKernelControl, append(root(), "--net", "host", "--ipc", "host", "--uts", "host"), "priv-hostnet", "priv-hostipc", "priv-hostname")
	add("kernelControl: deny", verdict.RuleKernelControl, root("SYS_RESOURCE"), "priv-hostuser")
	out[len(out)-1].needs = sysResource
	add("setid: deny", verdict.RuleSetID, nil, "priv-setid", "priv-setgid")
	add("capabilities: {deny: [CHOWN]}", verdict.RuleCapabilities, root(), "priv-cap")
	add("capabilities: {deny: [SYS_RAWIO]}", verdict.RuleCapabilities, root("SYS_RAWIO"), "priv-fibmap")
	add("capabilities: {allow: [CHOWN]}", verdict.RuleCapabilities, root("SYS_CHROOT"), "priv-chroot")
	return out
}

// Enforced, each act is refused and recorded.
func TestPrivilegesEnforced(t *testing.T) {
	h := get(t)
	for _, c := range privilegeCases() {
		t.Run(c.name, func(t *testing.T) { enforced(t, h, c) })
	}
}

// Audited, each passes and is reported.
func TestPrivilegesAudited(t *testing.T) {
	h := get(t)
	for _, c := range privilegeCases() {
		t.Run(c.name, func(t *testing.T) { audited(t, h, c) })
	}
}

const allPrivileges = "  privileges: {mount: deny, ptrace: deny, otherTasks: deny, userNamespaces: deny, modules: deny, moduleAutoload: deny, " +
	"perfEvents: deny, keyctl: deny, ioUring: deny, rawDevices: deny, kernelControl: deny, setid: deny, capabilities: {allow: [CHOWN, " +
	"DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, NET_BIND_SERVICE, KILL, SETPCAP]}}\n"

// Ordinary work under all of these rules causes no record, nor does the start of a container:
// what the runtime does on the way in is not the container's.
func TestPrivilegesQuiet(t *testing.T) {
	h := get(t)
	h.enact(t, document("all", "enforce", allPrivileges))
	for _, c := range []struct {
		name    string
		flags   []string
		command []string
	}{
		{"a user's program", asUser, []string{"/bin/dyn-id"}},
		{"root's files", []string{"--uid", "0"}, []string{"/bin/sh", "-c", "cd /tmp && echo x > a && chmod 600 a && chown 5 a && mkdir b && rm -r b a"}},
		{"jobs", asUser, []string{"/bin/sh", "-c", "/bin/sleep 5 & kill $! ; echo x | cat > /dev/null; cat /proc/self/status > /dev/null; cat /proc/1/cmdline >/dev/null"}},
		{"a volume", append([]string{"--bind", "/usr:/v:ro", "--tmpfs", "/t"}, asUser...), []string{"/bin/sh", "-c", "echo x > /t/x; cat /t/x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := h.run(t, c.flags, c.command...)
			ran(t, r)
			h.none(t, r.id)
		})
	}
}

// otherTasks leaves a container the cgroups that are its own.
func TestOwnCgroups(t *testing.T) {
	h := get(t)
	h.enact(t, document("others", "enforce", "  privileges: {otherTasks: deny}\n"))
	id := newID()
	r := h.run(t, []string{"--id", id, "--uid", "0", "--bind", cgroupMount(t) + ":/cg"}, "/bin/sh", "-c", "cd /cg/"+h.scope+"/"+id+
		" && mkdir below && echo 0 > below/cgroup.procs && echo 1 > below/cgroup.freeze & sleep 1; echo 0 > /cg/"+h.scope+"/"+id+"/below/cgroup.freeze; wait $!")
	r.id = id
	ran(t, r)
	h.none(t, r.id)
}

// Devices that pass commands to disks have majors that the kernel chooses: the one of SCSI's is found by its name.
func TestRawMajors(t *testing.T) {
	h := get(t)
	devices, err := os.ReadFile("/proc/devices")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^ *(\d+) (bsg|nvme|nvme-generic|mtd|dax)$`).FindSubmatch(devices)
	testneed.Need(t, "raw-char-device", m != nil, "a kernel with bsg, NVMe, MTD or DAX devices")
	for mode, want := range map[string]verdict.Decision{"enforce": verdict.Denied, "audit": verdict.WouldDeny} {
		t.Run(mode, func(t *testing.T) {
			h.enact(t, document("raw", mode, "  privileges: {rawDevices: deny}\n"))
			r := h.run(t, []string{"--uid", "0", "--cap-add", "MKNOD"}, "/bin/sh", "-c", "mknod /disk c "+string(m[1])+" 250 && exec 3</disk")
			if h.kernel.Backend() == verdict.BackendSignal {
				h.none(t, r.id) // unsupported
				return
			}
			if refused := strings.Contains(r.out, "not permitted"); refused != (mode == "enforce") {
				t.Errorf("it says %q", r.out)
			}
			if evs := h.take(r.id, verdict.RuleRawDevices); len(evs) == 0 || evs[0].Decision != want {
				t.Errorf("records %v, want %s", evs, want)
			}
		})
	}
}

// ptrace: own lets a container's debugger work, and no more.
func TestPtraceOwn(t *testing.T) {
	h := get(t)
	h.enact(t, document("own", "enforce", "  privileges: {ptrace: own}\n"))
	for _, name := range []string{"priv-ptrace", "priv-mem", "priv-traceme"} {
		t.Run(name, func(t *testing.T) {
			r := h.run(t, asUser, "/bin/sh", "-c", "/bin/attack "+name+"; exit $?") // whose parent is the container's
			ran(t, r)
			h.none(t, r.id)
		})
	}
}

// A module that the kernel would load by itself is refused, which only a record shows: the caller
// is told that there is no such protocol, as where the module does not exist.
func TestModuleAutoload(t *testing.T) {
	h := get(t)
	for mode, want := range map[string]verdict.Decision{"enforce": verdict.Denied, "audit": verdict.WouldDeny} {
		t.Run(mode, func(t *testing.T) {
			h.enact(t, document("autoload", mode, "  privileges: {moduleAutoload: deny}\n"))
			r := h.run(t, asUser, "/bin/attack", "priv-autoload")
			ran(t, r)
			if h.kernel.Backend() == verdict.BackendSignal {
				h.none(t, r.id) // unsupported
				return
			}
			if evs := h.take(r.id, verdict.RuleModuleAutoload); len(evs) == 0 || evs[0].Decision != want {
				t.Errorf("records %v, want %s", evs, want)
			}
		})
	}
}
