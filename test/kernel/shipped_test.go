package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/verdict"
)

// shippedCase is a field of a policy that ships, an act that it must refuse, and an ordinary one
// beside it that must pass.
type shippedCase struct {
	field string // as section.field
	rule  verdict.Rule
	// inMemory is the rule that says it where the container's files lie in memory, as in the guests.
	inMemory verdict.Rule
	// attack is what bin/attack is given, or a program of its own that begins with a slash.
	attack []string
	flags  []string
	// old: under this policy the attacker could not start, so it is there before the policy comes.
	old bool
	// first are fields whose rules refuse the act before this one. Then both are shown: the whole policy refuses the act, and without them it does by this rule.
	first     string
	volume    bool
	socket    bool // the container has the engine's socket; the ordinary act is on another's
	host      bool // the container has the directories of a host; the ordinary act is beside what is guarded
	other     bool // the attack is on the process of another container
	silent    bool // the attack is told the same whether it was refused or not
	ordinary  []string
	flagsOf   []string // of the ordinary container; default user 1000
	oldAttack []string // instead of ordinary: an attack that passes, of one who was there before
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

var (
	hostPID    = []string{"--uid", "0", "--cap-add", "SYS_NICE", "--cap-add", "SYS_PTRACE", "--pid", "host"}
	asRootUser = []string{"--uid", "0"}
	loopback   = sh("(echo hello | nc -l -p 8080 >/dev/null & ); sleep 0.2; echo hi | nc 127.0.0.1 8080")
	someFiles  = sh("cd /tmp && echo x > a && chmod 600 a && mv a b && ln -s b c && cat c /etc/passwd && rm b c")
	owned      = sh("cd /tmp && echo x > a && chown 5 a && chmod 600 a && rm a")
	jobs       = sh("/bin/sleep 5 & kill $!; cat /proc/self/status /proc/1/cmdline >/dev/null; echo x | cat")
)

func capOf(names ...string) []string {
	out := []string{"--uid", "0"}
	for _, n := range names {
		out = append(out, "--cap-add", n)
	}
	return out
}

// baselineCases: nothing in this policy is about who the attacker is, so it is root where it must be.
func baselineCases() []shippedCase {
	return []shippedCase{
		{field: "exec.memfd", rule: verdict.RuleMemfd, attack: []string{"e7-memfd"}, ordinary: sh("/bin/prim jit && /bin/dyn-id")},
		{field: "ssh.server", rule: verdict.RuleSSHServer, attack: []string{"n2-server"}, ordinary: loopback},
		{field: "privileges.mount", rule: verdict.RuleMount, attack: []string{"priv-mount"}, flags: capOf("SYS_ADMIN"), ordinary: sh("cat /proc/mounts && df /")},
		{field: "privileges.ptrace", rule: verdict.RulePtrace, attack: []string{"priv-other-ptrace"}, other: true, flags: hostPID, ordinary: sh("/bin/attack priv-ptrace; exit $?")},
		{field: "privileges.otherTasks", rule: verdict.RuleOtherTasks, attack: []string{"priv-signal"}, flags: hostPID, ordinary: jobs},
		{field: "privileges.modules", rule: verdict.RuleModules, attack: []string{"priv-module"}, flags: capOf("SYS_MODULE"), first: "privileges.capabilities", ordinary: sh("cat /proc/modules || true")},
		{field: "privileges.perfEvents", rule: verdict.RulePerfEvents, attack: []string{"priv-perf"}, flags: capOf("PERFMON", "SYS_ADMIN"), ordinary: sh("cat /proc/stat /proc/loadavg")},
		{field: "privileges.rawDevices", rule: verdict.RuleRawDevices, attack: []string{"priv-block"}, flags: capOf(), ordinary: sh("head -c 9 /dev/urandom > /dev/null && cat /dev/zero | head -c 9")},
		{field: "privileges.kernelControl", rule: verdict.RuleKernelControl, attack: []string{"priv-corepattern"}, flags: capOf(), ordinary: sh("cat /proc/sys/kernel/osrelease && echo 32768 60999 > /proc/sys/net/ipv4/ip_local_port_range"), flagsOf: asRootUser},
		{field: "privileges.capabilities", rule: verdict.RuleCapabilities, attack: []string{"file-handle"}, flags: capOf("DAC_READ_SEARCH"), volume: true, ordinary: owned, flagsOf: asRootUser},
		{field: "privileges.capabilities", rule: verdict.RuleCapabilities, attack: []string{"priv-module"}, flags: capOf("SYS_MODULE"), ordinary: owned, flagsOf: asRootUser},
		{field: "privileges.capabilities", rule: verdict.RuleCapabilities, attack: []string{"priv-fibmap"}, flags: capOf("SYS_RAWIO"), ordinary: sh("chroot / /bin/id"), flagsOf: asRootUser},
		{field: "privileges.capabilities", rule: verdict.RuleCapabilities, attack: []string{"priv-kexec"}, flags: capOf("SYS_BOOT"), ordinary: owned, flagsOf: asRootUser},
		{field: "network.packetSockets", rule: verdict.RulePacketSockets, attack: []string{"net-packet"}, flags: capOf("NET_RAW"), ordinary: loopback, flagsOf: asRootUser},
		{field: "guard.sockets", rule: verdict.RuleSockets, socket: true, attack: []string{"sock-connect"}, flags: capOf()},
		{field: "host.agent", rule: verdict.RuleHostAgent, host: true, attack: []string{"host-agent-write"}},
		{field: "host.runtimes", rule: verdict.RuleHostRuntimes, host: true, attack: []string{"host-runtime-write"}},
		{field: "host.engineConfig", rule: verdict.RuleHostEngine, host: true, attack: []string{"host-config-write"}},
	}
}

// strictCases: no program starts as root, so what only root could do is done by one that was there.
func strictCases() []shippedCase {
	out := []shippedCase{
		{field: "exec.asRoot", rule: verdict.RuleAsRoot, attack: []string{"/bin/id"}, flags: asRootUser, ordinary: []string{"/bin/id"}},
		{field: "exec.nested", rule: verdict.RuleAsRoot, attack: []string{"p7-userns"}, first: "privileges.userNamespaces privileges.capabilities", ordinary: []string{"/bin/id"}},
		{field: "exec.fileCaps", rule: verdict.RuleFileCaps, attack: []string{"p7-filecaps"}, ordinary: []string{"/bin/dyn-id"}},
		{field: "exec.drift", rule: verdict.RuleDrift, inMemory: verdict.RuleMemfd, attack: []string{"e1-copy"}, ordinary: someFiles},
		{field: "exec.volumes", rule: verdict.RuleDrift, inMemory: verdict.RuleMemfd, attack: []string{"--dir", "/home/app", "e1-copy"}, volume: true, ordinary: []string{"/v/bin/busybox", "true"}, flagsOf: []string{"--uid", "1000", "--bind", "/usr:/v:ro"}},
		{field: "exec.memfd", rule: verdict.RuleMemfd, attack: []string{"e7-memfd"}, ordinary: sh("echo x > /dev/shm/f && cat /dev/shm/f")},
		{field: "ssh.server", rule: verdict.RuleSSHServer, attack: []string{"n2-server"}, ordinary: loopback},
		{field: "ssh.client", rule: verdict.RuleSSHClient, attack: []string{"n2-client"}, ordinary: loopback},
		{field: "ssh.keys", rule: verdict.RuleSSHKeys, attack: []string{"keys-read"}, ordinary: sh("cat /home/app/.ssh/id_rsa.pub")},
		{field: "privileges.mount", rule: verdict.RuleMount, attack: []string{"--late", "priv-mount"}, old: true, flags: capOf("SYS_ADMIN"), ordinary: sh("cat /proc/mounts && df /")},
		{field: "privileges.userNamespaces", rule: verdict.RuleUserNamespaces, attack: []string{"priv-userns"}, ordinary: jobs},
		{field: "privileges.ptrace", rule: verdict.RulePtrace, attack: []string{"priv-ptrace"}, ordinary: jobs},
		{field: "privileges.otherTasks", rule: verdict.RuleOtherTasks, attack: []string{"--late", "priv-other-signal"}, other: true, old: true, flags: hostPID, ordinary: jobs},
		{field: "privileges.modules", rule: verdict.RuleModules, attack: []string{"--late", "priv-module"}, old: true, flags: capOf("SYS_MODULE"), first: "privileges.capabilities", ordinary: sh("cat /proc/modules || true")},
		{field: "privileges.moduleAutoload", rule: verdict.RuleModuleAutoload, attack: []string{"priv-autoload"}, silent: true, ordinary: loopback},
		{field: "privileges.perfEvents", rule: verdict.RulePerfEvents, attack: []string{"--late", "priv-perf"}, old: true, flags: capOf("PERFMON", "SYS_ADMIN"), first: "privileges.capabilities", ordinary: sh("cat /proc/stat /proc/loadavg")},
		{field: "privileges.keyctl", rule: verdict.RuleKeyctl, attack: []string{"priv-keyctl"}, ordinary: jobs},
		{field: "privileges.ioUring", rule: verdict.RuleIOUring, attack: []string{"priv-uring"}, ordinary: someFiles},
		{field: "privileges.rawDevices", rule: verdict.RuleRawDevices, attack: []string{"--late", "priv-kcore"}, old: true, flags: capOf("SYS_RAWIO"), ordinary: sh("head -c 9 /dev/urandom > /dev/null")},
		{field: "privileges.kernelControl", rule: verdict.RuleKernelControl, attack: []string{"--late", "priv-corepattern"}, old: true, flags: capOf(), ordinary: sh("cat /proc/sys/kernel/osrelease")},
		{field: "privileges.setid", rule: verdict.RuleSetID, attack: []string{"priv-setgid"}, ordinary: []string{"/bin/id"}},
		{field: "privileges.capabilities", rule: verdict.RuleCapabilities, attack: []string{"--late", "priv-chroot"}, old: true, flags: capOf("SYS_CHROOT"), oldAttack: []string{"--late", "priv-cap"}},
		{field: "network.egress", rule: verdict.RuleEgress, attack: []string{"net-metadata"}, old: true, flags: capOf("NET_ADMIN"), ordinary: loopback},
		{field: "network.rawSockets", rule: verdict.RuleRawSockets, attack: []string{"--late", "net-rawsocket"}, old: true, flags: rawNet, first: "privileges.capabilities", ordinary: loopback},
		{field: "network.packetSockets", rule: verdict.RulePacketSockets, attack: []string{"--late", "net-packet"}, old: true, flags: rawNet, ordinary: loopback},
		{field: "guard.sockets", rule: verdict.RuleSockets, socket: true, attack: []string{"sock-connect"}},
		{field: "host.agent", rule: verdict.RuleHostAgent, host: true, attack: []string{"host-agent-write"}, first: "exec.asRoot"},
		{field: "host.runtimes", rule: verdict.RuleHostRuntimes, host: true, attack: []string{"host-runtime-write"}, first: "exec.asRoot"},
		{field: "host.engineConfig", rule: verdict.RuleHostEngine, host: true, attack: []string{"host-config-write"}, first: "exec.asRoot"},
	}
	for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/boot"} {
		out = append(out, shippedCase{
			field: "files.readOnly", rule: verdict.RuleFiles, attack: []string{"--at", dir, "file-plant"}, old: true, flags: capOf(), ordinary: someFiles,
		})
	}
	for _, file := range []string{"/etc/shadow", "/etc/gshadow"} {
		out = append(out, shippedCase{
			field: "files.rules", rule: verdict.RuleFiles, attack: []string{"--at", file, "file-shadow"}, old: true, flags: capOf(), ordinary: sh("cat /etc/passwd /etc/group"),
		})
	}
	return out
}

func shippedCases() map[string][]shippedCase {
	return map[string][]shippedCase{"baseline.yaml": baselineCases(), "strict.yaml": strictCases()}
}

// Each field of the two policies has a case, and each case is of a field that is there: a rule that is
// added is tried before it ships.
func TestShippedHasCases(t *testing.T) {
	for file, cases := range shippedCases() {
		var doc struct {
			Spec map[string]yaml.Node `yaml:"spec"`
		}
		if err := yaml.Unmarshal([]byte(shipped(t, file)), &doc); err != nil {
			t.Fatal(err)
		}
		var fields []string
		for section, n := range doc.Spec {
			for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
				fields = append(fields, section+"."+n.Content[i].Value)
			}
		}
		for _, f := range fields {
			if !slices.ContainsFunc(cases, func(c shippedCase) bool { return c.field == f }) {
				t.Errorf("%s: no act is tried against %s", file, f)
			}
		}
		for _, c := range cases {
			if !slices.Contains(fields, c.field) {
				t.Errorf("%s has no %s", file, c.field)
			}
		}
	}
}

// without takes a field of one line out of a policy.
func without(t *testing.T, text, field string) string {
	t.Helper()
	_, key, _ := strings.Cut(field, ".")
	var out []string
	for _, l := range strings.SplitAfter(text, "\n") {
		if !strings.HasPrefix(l, "    "+key+":") {
			out = append(out, l)
		}
	}
	if len(out) != strings.Count(text, "\n") {
		t.Fatalf("%s is not one line", field)
	}
	return strings.Join(out, "")
}

// Of each rule of the policies that ship, as they ship: one act is refused, and its record is that
// rule's; an ordinary act beside it passes without a record. What a backend has no level for, its table
// of levels says; the act passes there without a record of that rule.
func TestShipped(t *testing.T) {
	h := get(t)
	for _, file := range []string{"baseline.yaml", "strict.yaml"} {
		for _, c := range shippedCases()[file] {
			t.Run(file+"/"+c.field+" "+strings.Join(c.attack, " "), func(t *testing.T) {
				text := shipped(t, file)
				if c.socket {
					shippedSocket(t, h, c, text)
					return
				}
				if c.host {
					shippedHost(t, h, c, text)
					return
				}
				if c.first != "" {
					won, id := h.tried(t, c, text)
					if c.old {
						h.remove(t, id)
					}
					if h.unsupported(t, c.rule) {
						return
					}
					if won || len(h.take(id, verdict.RuleNone)) == 0 {
						t.Errorf("won %v under the whole policy, or no record", won)
					}
					for _, field := range strings.Fields(c.first) {
						text = without(t, text, field)
					}
				}
				h.refuses(t, c, text)
				h.passes(t, c, shipped(t, file))
			})
		}
	}
}

// unsupported says whether the table of levels says that a rule has no effect here.
func (h *host) unsupported(t *testing.T, rule verdict.Rule) bool {
	t.Helper()
	l := h.level(rule)
	if l.Level == verdict.Unsupported {
		t.Logf("%s has %s here: %s", l.Name, l.Level, l.Note)
	}
	return l.Level == verdict.Unsupported
}

// tried plays the attack of a case under policies. The container is left for the caller to remove.
func (h *host) tried(t *testing.T, c shippedCase, text string) (won bool, id string) {
	t.Helper()
	words := c.attack
	if c.other {
		words = append([]string{"--pid", strconv.Itoa(h.victim(t))}, words...)
	}
	if c.old {
		id, said := h.between(t, words, text, c.flags...)
		return strings.Contains(said, "WON"), id
	}
	h.enact(t, text)
	flags := slices.Concat([]string{"--uid", "1000"}, c.flags)
	if c.volume {
		flags = append(flags, "--bind", h.home(t)+":/home/app")
	}
	command := words
	if !strings.HasPrefix(command[0], "/") {
		command = append([]string{"/bin/attack"}, command...)
	}
	r := h.run(t, flags, command...)
	return r.code == 0 || strings.Contains(r.out, "WON"), r.id
}

func (h *host) refuses(t *testing.T, c shippedCase, text string) {
	t.Helper()
	won, id := h.tried(t, c, text)
	if c.old {
		h.remove(t, id)
	}
	if h.unsupported(t, c.rule) {
		return
	}
	if won && !c.silent {
		t.Fatal("the attack WON")
	}
	evs := h.take(id, c.rule)
	if len(evs) == 0 && c.inMemory != verdict.RuleNone {
		evs = h.take(id, c.inMemory)
	}
	if len(evs) == 0 {
		var others []string
		for _, ev := range h.take(id, verdict.RuleNone) {
			others = append(others, fmt.Sprintf("%s at %s", ev.Rule, ev.Hook))
		}
		t.Fatalf("no record of %s, but of %q", c.rule, others)
	}
	if d := evs[0].Decision; d != verdict.Denied && d != verdict.Killed {
		t.Errorf("decision %s by %s", d, evs[0].Hook)
	}
}

func (h *host) passes(t *testing.T, c shippedCase, text string) {
	t.Helper()
	if c.oldAttack != nil {
		id, said := h.between(t, c.oldAttack, text, c.flags...)
		h.remove(t, id)
		if !strings.Contains(said, "WON") {
			t.Errorf("an ordinary act does not pass: %s", said)
		}
		h.none(t, id)
		return
	}
	h.enact(t, text)
	flags := c.flagsOf
	if flags == nil {
		flags = asUser
	}
	r := h.run(t, flags, c.ordinary...)
	ran(t, r)
	h.none(t, r.id)
}

// shippedSocket: the engine's socket is refused, and another of the same name is not.
func shippedSocket(t *testing.T, h *host, c shippedCase, text string) {
	t.Helper()
	engine, other := startDaemon(t, "docker.sock"), startDaemon(t, "docker.sock")
	for _, d := range []*daemon{engine, other} {
		if err := openToAll(d); err != nil {
			t.Fatal(err)
		}
	}
	h.guard(t, enforce.Guard{Sockets: []string{engine.socket}})
	h.enact(t, text)
	play := func(d *daemon) result {
		return h.run(t, slices.Concat(asUser, c.flags, []string{"--bind", d.dir + ":/run/engine"}), append([]string{"/bin/attack"}, c.attack...)...)
	}
	r := play(engine)
	h.stops(t, r)
	if evs := h.take(r.id, c.rule); len(evs) == 0 {
		t.Errorf("no record of %s", c.rule)
	}
	r = play(other)
	ran(t, r)
	h.none(t, r.id)
}

// shippedHost: what is guarded on a host is refused to root, and what lies beside it is not.
func shippedHost(t *testing.T, h *host, c shippedCase, text string) {
	t.Helper()
	if c.first != "" {
		text = without(t, without(t, text, "exec.nested"), c.first) // nested is an option of asRoot
	}
	w := newHostWorld(t, h)
	h.enact(t, text)
	flags := []string{"--uid", "0", "--bind", w.dir + ":/host"}
	r := h.run(t, flags, append([]string{"/bin/attack"}, c.attack...)...)
	if h.unsupported(t, c.rule) {
		ran(t, r)
	} else {
		h.stops(t, r)
		if evs := h.take(r.id, c.rule); len(evs) == 0 {
			t.Errorf("no record of %s", c.rule)
		}
	}
	r = h.run(t, flags, "/bin/sh", "-c", "echo x >/host/tmp/x && cat /host/etc/docker/daemon.json")
	ran(t, r)
	h.none(t, r.id)
}

// openToAll lets every user reach a daemon.
func openToAll(d *daemon) error {
	return errors.Join(os.Chmod(d.dir, 0o755), os.Chmod(d.socket, 0o666))
}
