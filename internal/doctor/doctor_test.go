package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/preflight"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
)

var now = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// fakeAgent answers with what it holds; it has no state of its own.
type fakeAgent struct {
	status     *control.Status
	containers []control.Container
	canary     *control.Canary
	err        error // of Status
	canaryErr  error
	listErr    error
}

func (f *fakeAgent) Status(context.Context) (*control.Status, error) {
	if f.err != nil {
		return nil, f.err
	}
	return f.status, nil
}

func (f *fakeAgent) Containers(context.Context) ([]control.Container, error) {
	return f.containers, f.listErr
}

func (f *fakeAgent) RunCanary(context.Context) (*control.Canary, error) {
	return f.canary, f.canaryErr
}

// fakeSystem answers alike for all paths.
type fakeSystem struct {
	space    Space
	spaceErr error
	synced   bool
	clockErr error
	acl      bool
	aclErr   error
}

func (f *fakeSystem) Space(string) (Space, error) { return f.space, f.spaceErr }
func (f *fakeSystem) Synchronised() (bool, error) { return f.synced, f.clockErr }
func (f *fakeSystem) ACL(string) (bool, error)    { return f.acl, f.aclErr }
func file(s string) *fstest.MapFile               { return &fstest.MapFile{Data: []byte(s), Mode: 0o644} }
func socket(mode fs.FileMode, gid uint32) *fstest.MapFile {
	return &fstest.MapFile{Mode: fs.ModeSocket | mode, Sys: &syscall.Stat_t{Gid: gid}}
}

// patient is a host on which all is well, to be made ill by a test.
type patient struct {
	files     fstest.MapFS
	system    fakeSystem
	agent     fakeAgent
	preflight []preflight.Finding
	built     time.Time
	builtErr  error
	leftOut   int // records
	opt       Options
}

func healthy() *patient {
	return &patient{
		files: fstest.MapFS{
			"proc/sys/kernel/osrelease":                 file("6.12.57+deb13-amd64\n"),
			"proc/sys/kernel/version":                   file("#1 SMP PREEMPT_DYNAMIC Debian 6.12.57-1 (2025-11-05)\n"),
			"proc/cmdline":                              file("ro quiet preempt=voluntary\n"),
			"proc/sys/kernel/unprivileged_bpf_disabled": file("2\n"),
			"proc/sys/net/core/bpf_jit_enable":          file("1\n"),
			"proc/filesystems":                          file("nodev\tbpf\n\text4\n"),
			"proc/self/mountinfo": file("30 1 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n" +
				"31 1 0:27 / /run/belay/bpf rw - bpf bpf rw\n"),
			"sys/kernel/security/lsm":        file("lockdown,capability,landlock,yama,apparmor,bpf"),
			"sys/kernel/security/lockdown":   file("none [integrity] confidentiality\n"),
			"sys/kernel/btf/vmlinux":         file("btf"),
			"etc/group":                      file("root:x:0:\ndocker:x:998:alice,bob\n"),
			"etc/passwd":                     file("root:x:0:0::/root:/bin/sh\ncarol:x:1003:998::/:/bin/sh\n"),
			"run/docker.sock":                socket(0o660, 998),
			"run/containerd/containerd.sock": socket(0o660, 0),
			"usr/bin/belay-scanner":          {Mode: 0o755},
		},
		system: fakeSystem{synced: true, space: Space{Free: 10 << 30, Inodes: 1 << 20, Counted: true}},
		agent: fakeAgent{
			status: &control.Status{
				Version: "1.2.3", PID: 812, Enforcing: true, Backend: "lsm",
				Backends: []control.BackendStatus{{Name: "lsm", Usable: true}},
				Levels:   []control.Level{{Rule: "exec.asRoot", Level: "prevent"}},
				Policies: control.PolicySet{Dir: "/etc/belay/policies", Revision: "r1", Loaded: now,
					Policies: []control.PolicyStatus{{Name: "hardened", Revision: "r1", Mode: "enforce"}}},
				Sources: []control.SourceStatus{{Name: "docker", Connected: true}},
				Journal: journal.Stats{Written: 3, Dropped: map[string]uint64{}},
				Health:  health.Snapshot{State: health.OK, Components: []health.Component{{Name: "kernel", State: health.OK}}},
				Canary:  &control.Canary{Time: now.Add(-time.Minute), Denied: true, Count: 5},
			},
			containers: []control.Container{{ID: strings.Repeat("a", 64), Name: "web-1"}},
			canary:     &control.Canary{Time: now, Denied: true, Count: 6},
		},
		preflight: []preflight.Finding{{ID: "daemon.tcp", Severity: preflight.OK, What: "it does not listen on TCP", Why: "why"}},
		built:     now.Add(-time.Hour),
		opt:       Options{Version: "1.2.3", Scanner: "/usr/bin/belay-scanner"},
	}
}

func (p *patient) examine(t *testing.T) Report {
	t.Helper()
	o := p.opt
	o.Root, o.System, o.Agent, o.Now = p.files, &p.system, &p.agent, func() time.Time { return now }
	o.Database = func() (time.Time, int, error) { return p.built, p.leftOut, p.builtErr }
	o.Preflight = func(context.Context) preflight.Report { return preflight.Report{Findings: p.preflight} }
	return Run(t.Context(), o)
}

func find(r Report, id string) (out []Finding) {
	for _, f := range r.Findings {
		if f.ID == id {
			out = append(out, f)
		}
	}
	return out
}

func TestHealthy(t *testing.T) {
	r := healthy().examine(t)
	for _, f := range r.Findings {
		if f.Severity < Info {
			t.Errorf("got %s %s: %s (%s), want nothing wrong", f.Severity, f.ID, f.Text, f.Detail)
		}
		if f.Severity == OK && f.Fix != "" {
			t.Errorf("%s is ok and has the fix %q", f.ID, f.Fix)
		}
	}
	if r.Worst != Info {
		t.Errorf("worst is %s, want info (members of the docker group)", r.Worst)
	}
	g := find(r, "engine.group")
	if len(g) != 1 || g[0].Detail != "docker: alice, bob, carol" {
		t.Errorf("members: got %+v, want those of group and passwd", g)
	}
}

// illness is one thing that is wrong, and the finding that must say so.
type illness struct {
	name string
	make func(p *patient)
	id   string
	want Severity
	fix  string // part of it
}

func drop(name string) func(p *patient) { return func(p *patient) { delete(p.files, name) } }
func preempted(backend, release string) func(p *patient) {
	return func(p *patient) {
		p.files["proc/cmdline"], p.files["proc/sys/kernel/osrelease"] = file("preempt=full"), file(release)
		p.agent.status.Backend = backend
	}
}

func put(name, text string) func(p *patient) {
	return func(p *patient) { p.files[name] = file(text) }
}
func status(f func(s *control.Status)) func(p *patient) {
	return func(p *patient) { f(p.agent.status) }
}

var illnesses = slices.Concat(kernelIllnesses, agentIllnesses, machineIllnesses)

func TestIllnesses(t *testing.T) {
	for _, tt := range illnesses {
		t.Run(tt.name, func(t *testing.T) {
			p := healthy()
			tt.make(p)
			got := find(p.examine(t), tt.id)
			if !slices.ContainsFunc(got, func(f Finding) bool { return f.Severity == tt.want && strings.Contains(f.Fix, tt.fix) }) {
				t.Errorf("got %+v, want %s %s with a fix that has %q", got, tt.want, tt.id, tt.fix)
			}
			for _, f := range got {
				if f.Severity < Info && f.Fix == "" {
					t.Errorf("%s %s has no fix", f.Severity, f.ID)
				}
			}
		})
	}
}

var kernelIllnesses = []illness{
	{"5.15", put("proc/sys/kernel/osrelease", "5.15.0-91-generic"), "kernel.release", Info, "6.1"},
	{"5.10", put("proc/sys/kernel/osrelease", "5.10.0-8"), "kernel.release", Fail, "6.1"},
	{"odd release", put("proc/sys/kernel/osrelease", "next"), "kernel.release", Warn, "docs"},
	{"no release", drop("proc/sys/kernel/osrelease"), "kernel.release", Warn, "as root"},
	{"no bpf in lsm", put("sys/kernel/security/lsm", "lockdown,capability,yama\n"), "kernel.lsm", Warn, "lsm=lockdown,yama,bpf "},
	{"a module that only ends alike", put("sys/kernel/security/lsm", "capability,xbpf"), "kernel.lsm", Warn, "lsm=xbpf,bpf "},
	{"no bpf in lsm under modret", func(p *patient) {
		put("sys/kernel/security/lsm", "capability,yama")(p)
		p.agent.status.Backend = "modret"
	}, "kernel.lsm", Info, "lsm=yama,bpf "},
	{"built without BPF LSM", func(p *patient) {
		put("sys/kernel/security/lsm", "capability")(p)
		put("boot/config-6.12.57+deb13-amd64", "CONFIG_BPF=y\n# CONFIG_BPF_LSM is not set\n")(p)
	}, "kernel.lsm", Warn, "CONFIG_BPF_LSM=y"},
	{"no securityfs", drop("sys/kernel/security/lsm"), "kernel.lsm", Warn, "securityfs"},
	{"signal", status(func(s *control.Status) { s.Backend = "signal" }), "kernel.backend", Warn, "lsm="},
	{"no backend", status(func(s *control.Status) { s.Backend = "" }), "kernel.backend", Fail, "kernel-support"},
	{"nobody has tried", func(p *patient) { p.agent.err = control.ErrNotRunning }, "kernel.backend", Info, "preflight"},
	{"preempted, modret", preempted("modret", "6.12.57"), "kernel.preemption", Warn, "preempt=voluntary"},
	{"preempted, lsm", preempted("lsm", "6.12.57"), "kernel.preemption", OK, ""},
	{"preempted, lsm of 6.1", preempted("lsm", "6.1.0-40-amd64"), "kernel.preemption", Warn, "6.2"},
	{"preempted, signal", preempted("signal", "6.1.0-40-amd64"), "kernel.preemption", OK, ""},
	{"preempted, and nobody says for what", func(p *patient) {
		preempted("modret", "6.12.57")(p)
		p.agent.err = control.ErrNotRunning
	}, "kernel.preemption", Info, "preempt=voluntary"},
	{"preempted or not", drop("proc/cmdline"), "kernel.preemption", Info, "as root"},
	{"no BTF", drop("sys/kernel/btf/vmlinux"), "kernel.btf", Fail, "CONFIG_DEBUG_INFO_BTF"},
	{"cgroup v1", put("proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"), "kernel.cgroup", Warn, "unified_cgroup_hierarchy"},
	{"cgroup hybrid", put("proc/self/mountinfo", "1 1 0:2 / /a rw - cgroup c rw\n2 1 0:3 / /b rw - cgroup2 c rw\n"), "kernel.cgroup", OK, ""},
	{"no cgroup", put("proc/self/mountinfo", "30 1 0:26 / / rw - ext4 /dev/sda rw\nbad line\n"), "kernel.cgroup", Fail, "mount"},
	{"no mountinfo", drop("proc/self/mountinfo"), "kernel.cgroup", Warn, "as root"},
	{"confidentiality", func(p *patient) {
		put("sys/kernel/security/lockdown", "none integrity [confidentiality]")(p)
		p.agent.err = control.ErrNotRunning
	}, "kernel.lockdown", Fail, "lockdown=integrity"},
	{"confidentiality, and it enforces", put("sys/kernel/security/lockdown", "none integrity [confidentiality]"), "kernel.lockdown", Warn, "lockdown=integrity"},
	{"no lockdown", drop("sys/kernel/security/lockdown"), "kernel.lockdown", Info, ""},
	{"bpffs elsewhere", put("proc/self/mountinfo", "30 1 0:26 / /c rw - cgroup2 c rw\n"), "kernel.bpffs", Warn, "PrivateMounts"},
	{"no bpffs", func(p *patient) {
		put("proc/self/mountinfo", "30 1 0:26 / /c rw - cgroup2 c rw\n")(p)
		put("proc/filesystems", "nodev\ttmpfs\n")(p)
	}, "kernel.bpffs", Fail, "CONFIG_BPF_SYSCALL"},
	{"no JIT", put("proc/sys/net/core/bpf_jit_enable", "0\n"), "kernel.jit", Warn, "bpf_jit_enable=1"},
	{"JIT unreadable", drop("proc/sys/net/core/bpf_jit_enable"), "kernel.jit", Warn, "as root"},
	{"BPF for all", put("proc/sys/kernel/unprivileged_bpf_disabled", "0\n"), "kernel.unprivileged", Warn, "unprivileged_bpf_disabled=1"},
	{"BPF for whom", drop("proc/sys/kernel/unprivileged_bpf_disabled"), "kernel.unprivileged", Warn, "as root"},
}

var agentIllnesses = []illness{
	{"not running", func(p *patient) { p.agent.err = control.ErrNotRunning }, "agent.running", Fail, "systemctl"},
	{"no permission", func(p *patient) { p.agent.err = errors.New("no permission") }, "agent.running", Fail, "as root"},
	{"not enforcing", status(func(s *control.Status) { s.Enforcing, s.Why = false, "kernel: gone" }), "agent.enforcing", Fail, "log"},
	{"other version", status(func(s *control.Status) { s.Version = "1.2.2" }), "agent.version", Warn, "restart"},
	{"no canary", status(func(s *control.Status) { s.Canary = nil }), "agent.canary", Fail, "log"},
	{"canary never ran", status(func(s *control.Status) { s.Canary = &control.Canary{} }), "agent.canary", Fail, "log"},
	{"canary ran", status(func(s *control.Status) { s.Canary = &control.Canary{Time: now, Count: 2, Failed: 1} }), "agent.canary", Fail, "detached"},
	{"canary cannot", status(func(s *control.Status) { s.Canary = &control.Canary{Time: now, Count: 2, Error: "v1"} }), "agent.canary", Warn, "cgroup v2"},
	{"canary was mended", status(func(s *control.Status) { s.Canary.Failed = 1 }), "agent.canary", Warn, "detached"},
	{"canary is old", status(func(s *control.Status) { s.Canary.Time = now.Add(-time.Hour) }), "agent.canary", Warn, "--canary"},
	{"canary is not old yet", status(func(s *control.Status) { s.Canary.Time, s.Canary.EverySeconds = now.Add(-time.Hour), 1800 }), "agent.canary", OK, ""},
	{"canary is old for its time", status(func(s *control.Status) { s.Canary.Time, s.Canary.EverySeconds = now.Add(-2*time.Hour), 1800 }), "agent.canary", Warn, "--canary"},
	{"canary on demand ran", func(p *patient) {
		p.opt.Canary, p.agent.canary = true, &control.Canary{Time: now, Count: 6, Failed: 1}
	}, "agent.canary", Fail, "detached"},
	{"no canary on demand", func(p *patient) { p.opt.Canary, p.agent.canaryErr = true, errors.New("no") }, "agent.canary", Fail, "again"},
	{"degraded", status(func(s *control.Status) { s.Health.Components[0].State = health.Degraded }), "agent.health", Warn, "log"},
	{"failed", status(func(s *control.Status) { s.Health.Components[0].State = health.Failed }), "agent.health", Fail, "log"},
	{"says nothing", status(func(s *control.Status) { s.Health.Components = nil }), "agent.health", Fail, "log"},
	{"failures", status(func(s *control.Status) { s.Failures = map[string]uint64{"map_full": 2} }), "agent.failures", Warn, "failure-codes"},
	{"sockets are only watched", status(func(s *control.Status) { s.Guard = &control.GuardStatus{Mode: "audit", Level: "prevent"} }), "agent.sockets", Warn, "enforce"},
	{"sockets cannot be guarded", status(func(s *control.Status) { s.Guard = &control.GuardStatus{Mode: "enforce", Level: "unsupported"} }), "agent.sockets", Fail, "kernel-support"},
	{"no runtime", status(func(s *control.Status) { s.Sources = nil }), "agent.runtime", Warn, "--docker-host"},
	{"runtime away", status(func(s *control.Status) { s.Sources[0].Connected = false }), "agent.runtime", Warn, "docker"},
	{"journal fails", status(func(s *control.Status) { s.Journal.LastError = "disk" }), "journal.error", Fail, "room"},
	{"journal damaged", status(func(s *control.Status) { s.Journal.Damaged = 1 }), "journal.error", Warn, "verify"},
	{"records lost", status(func(s *control.Status) { s.Journal.Dropped["journal_queue_full"] = 1 }), "journal.lost", Warn, "disk"},
	{"bad policies", status(func(s *control.Status) { s.Policies.Error = "a.yaml:1: no" }), "policy.loaded", Fail, "policy check"},
	{"not loaded", status(func(s *control.Status) { s.Policies.Loaded = time.Time{} }), "policy.loaded", Fail, "log"},
	{"no policy", status(func(s *control.Status) { s.Policies.Policies = nil }), "policy.inforce", Warn, "policy-reference"},
	{"refused", status(func(s *control.Status) { s.Policies.Policies[0].Refused = "no" }), "policy.refused", Fail, "require"},
	{"kill", status(func(s *control.Status) { s.Levels[0].Level = "kill" }), "policy.level", Info, ""},
	{"detect", status(func(s *control.Status) { s.Levels[0].Level = "detect" }), "policy.level", Warn, "require"},
	{"unsupported", status(func(s *control.Status) { s.Levels[0].Level = "unsupported" }), "policy.level", Warn, "require"},
	{"problem", func(p *patient) { p.agent.containers[0].Problems = []string{"exec.drift: unsupported"} }, "policy.container", Warn, "belay explain aaaaaaaaaaaa"},
	{"lost for one", func(p *patient) { p.agent.containers[0].Lost = 1 }, "policy.container", Warn, "belay explain"},
	{"many", func(p *patient) {
		p.agent.containers = slices.Repeat([]control.Container{{ID: "b", Lost: 1}}, maxNamed+1)
	}, "policy.container", Warn, "belay containers"},
	{"bpf() is denied to one made for it", denied(capsAll, hostUsers), "policy.bpf", Warn, "allow-bpf.yaml"},
	{"bpf() is let", func(p *patient) {
		denied(capsAll, hostUsers)(p)
		p.agent.containers[0].BPFAllowed = true
	}, "policy.bpf", OK, ""},
	{"capabilities of Docker's default", denied("00000000a80425fb", hostUsers), "policy.bpf", OK, ""},
	{"all capabilities in a user namespace", denied(capsAll, "0 100000 65536"), "policy.bpf", OK, ""},
	{"no capabilities to be read", denied("?", hostUsers), "policy.bpf", Warn, "as root"},
	{"it has ended", func(p *patient) {
		denied(capsAll, hostUsers)(p)
		delete(p.files, "proc/4711/status")
	}, "policy.bpf", OK, ""},
	{"no list", func(p *patient) { p.agent.listErr = errors.New("no") }, "policy.container", Warn, "log"},
}

const (
	capsAll   = "000001ffffffffff"
	hostUsers = "         0          0 4294967295\n"
)

// denied has a container run with capabilities and a map of user IDs, on a kernel that denies it bpf(2).
func denied(caps, users string) func(p *patient) {
	return func(p *patient) {
		p.agent.status.Levels = append(p.agent.status.Levels, control.Level{Rule: "guard.bpf", Level: "prevent"})
		p.agent.containers[0].PID, p.agent.containers[0].Armed = 4711, now
		p.files["proc/4711/status"] = file("Name:\tcilium-agent\nCapPrm:\t0\nCapEff:\t" + caps + "\nCapBnd:\t0\n")
		p.files["proc/4711/uid_map"] = file(users)
	}
}

// TestBPFUnderSignal: where bpf(2) is not denied nobody is warned of it.
func TestBPFUnderSignal(t *testing.T) {
	p := healthy()
	denied(capsAll, hostUsers)(p)
	p.agent.status.Levels[1].Level = "detect"
	if got := find(p.examine(t), "policy.bpf"); len(got) != 0 {
		t.Errorf("got %+v, want no finding", got)
	}
}

// TestBPFNames: the finding has what a policy that lets the container needs.
func TestBPFNames(t *testing.T) {
	p := healthy()
	denied(capsAll, hostUsers)(p)
	p.agent.containers[0].ImageDigest = "sha256:ab"
	got := find(p.examine(t), "policy.bpf")
	if want := "aaaaaaaaaaaa web-1 sha256:ab"; len(got) != 1 || got[0].Detail != want {
		t.Errorf("got %+v, want one with %q", got, want)
	}
}

// usualSocket is what preflight says of each host whose daemon is as Debian installs it.
var usualSocket = preflight.Finding{ID: "daemon.socket", Severity: preflight.Fail, What: "reached by group docker", Why: "why", Fix: "move it"}

var machineIllnesses = []illness{
	{"world-writable socket", func(p *patient) { p.files["run/docker.sock"] = socket(0o666, 998) }, "engine.socket", Warn, "chmod o-w"},
	{"no socket", put("run/docker.sock", ""), "engine.socket", Warn, "remove"},
	{"ACL", func(p *patient) { p.system.acl = true }, "engine.socket", Warn, "setfacl"},
	{"ACL unreadable", func(p *patient) { p.system.aclErr = errors.New("no") }, "engine.socket", Warn, "as root"},
	{"whose socket", func(p *patient) { p.files["run/docker.sock"].Sys = nil }, "engine.socket", Warn, "as root"},
	{"no engine", func(p *patient) { drop("run/docker.sock")(p); drop("run/containerd/containerd.sock")(p) }, "engine.socket", Info, "--docker-host"},
	{"no groups", drop("etc/group"), "engine.group", Warn, "as root"},
	{"no Docker", func(p *patient) { drop("run/docker.sock")(p) }, "gate.docker", Info, "again"},
	{"Docker's socket elsewhere", func(p *patient) {
		drop("run/docker.sock")(p)
		put("proc/77/comm", "dockerd\n")(p)
		p.preflight[0].Severity = preflight.Fail
		p.preflight[0].Fix = "use TLS"
	}, "daemon.tcp", Fail, "TLS"},
	{"the usual socket before the gate is used", func(p *patient) { p.preflight[0] = usualSocket }, "daemon.socket", Info, "move it"},
	{"the usual socket under access policies", func(p *patient) {
		p.preflight[0] = usualSocket
		p.agent.status.Policies.Policies = append(p.agent.status.Policies.Policies, control.PolicyStatus{Kind: policy.AccessKind, Name: "who"})
	}, "daemon.socket", Fail, "move it"},
	{"the usual socket, and no agent", func(p *patient) {
		p.preflight[0] = usualSocket
		p.agent.err = control.ErrNotRunning
	}, "daemon.socket", Fail, "move it"},
	{"TCP for all before the gate is used", func(p *patient) {
		p.preflight[0].Severity, p.preflight[0].Fix = preflight.Fail, "x"
	}, "daemon.tcp", Fail, "x"},
	{"preflight warns", func(p *patient) { p.preflight[0].Severity, p.preflight[0].Fix = preflight.Warn, "x" }, "daemon.tcp", Warn, "x"},
	{"preflight cannot tell", func(p *patient) { p.preflight[0].Severity, p.preflight[0].Fix = preflight.Unknown, "x" }, "daemon.tcp", Warn, "x"},
	{"nobody keeps the clock", func(p *patient) { p.system.synced = false }, "clock.synchronised", Warn, "chrony"},
	{"clock unreadable", func(p *patient) { p.system.clockErr = errors.New("no") }, "clock.synchronised", Warn, "as root"},
	{"little room", func(p *patient) { p.system.space.Free = 100 << 20 }, "disk.state", Warn, "room"},
	{"no room", func(p *patient) { p.system.space.Free = 1 << 20 }, "disk.journal", Fail, "room"},
	{"no inodes", func(p *patient) { p.system.space.Inodes = 0 }, "disk.state", Fail, "room"},
	{"few inodes", func(p *patient) { p.system.space.Inodes = 10 }, "disk.state", Warn, "room"},
	{"inodes are not counted", func(p *patient) { p.system.space = Space{Free: 1 << 40} }, "disk.state", OK, ""},
	{"no directory", func(p *patient) { p.system.spaceErr = fs.ErrNotExist }, "disk.state", Warn, "--state-dir"},
	{"no directory yet", func(p *patient) { p.system.spaceErr, p.agent.err = fs.ErrNotExist, control.ErrNotRunning }, "disk.state", Info, "start"},
	{"no database", func(p *patient) { p.builtErr = fs.ErrNotExist }, "scan.database", Warn, "db update"},
	{"broken database", func(p *patient) { p.builtErr = errors.New("no") }, "scan.database", Warn, "db verify"},
	{"old database", func(p *patient) { p.built = now.Add(-8 * 24 * time.Hour) }, "scan.database", Warn, "db update"},
	{"database of tomorrow", func(p *patient) { p.built = now.Add(24 * time.Hour) }, "scan.database", Warn, "clock"},
	{"database without some records", func(p *patient) { p.leftOut = 2 }, "scan.database", Warn, "publisher"},
	{"no scanner", drop("usr/bin/belay-scanner"), "scan.scanner", Warn, "install"},
	{"scanner is no program", func(p *patient) { p.files["usr/bin/belay-scanner"].Mode = 0o644 }, "scan.scanner", Warn, "install"},
	{"scanner that cannot be started", status(func(s *control.Status) { s.ScannerError = "no cgroup" }), "scan.scanner", Warn, "--sandbox-without cgroup"},
	{"scanner for all", func(p *patient) { p.files["usr/bin/belay-scanner"].Mode = 0o757 }, "scan.scanner", Fail, "chmod"},
}

// TestIDs: every finding has an ID that is known, can be made to appear by a test, and is
// in docs/doctor.md.
func TestIDs(t *testing.T) {
	doc, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	tried := map[string]bool{}
	for _, tt := range illnesses {
		tried[tt.id] = true
		p := healthy()
		tt.make(p)
		for _, f := range p.examine(t).Findings {
			if !slices.Contains(ids, f.ID) {
				t.Errorf("%s is not in ids", f.ID)
			}
		}
	}
	ours := true
	for _, id := range ids {
		if !strings.Contains(string(doc), "| `"+id+"` |") {
			t.Errorf("%s is not in docs/doctor.md", id)
		}
		if ours && !tried[id] {
			t.Errorf("no test makes %s appear", id)
		}
		ours = ours && id != "gate.docker"
	}
}

func TestOnly(t *testing.T) {
	p := healthy()
	p.opt.Only = []string{"kernel", "disk.state"}
	r := p.examine(t)
	if len(find(r, "kernel.lsm")) != 1 || len(find(r, "disk.state")) != 1 {
		t.Errorf("findings that were asked for are missing: %+v", r.Findings)
	}
	for _, f := range r.Findings {
		if !strings.HasPrefix(f.ID, "kernel.") && f.ID != "disk.state" {
			t.Errorf("got %s, which was not asked for", f.ID)
		}
	}
	for only, known := range map[string]bool{"kernel": true, "kernel.lsm": true, "daemon": true, "kern": false, "": false, "kernel.": false} {
		if err := Known(only); (err == nil) != known {
			t.Errorf("Known(%q) = %v", only, err)
		}
	}
}

// TestZero: what nobody has filled in must not look well.
func TestZero(t *testing.T) {
	var s Severity
	if s != Fail || Severity(99).String() != "fail" {
		t.Errorf("zero is %s, 99 is %s, want fail", s, Severity(99))
	}
	if err := s.UnmarshalText([]byte("fine")); err != nil || s != Fail {
		t.Errorf("an unknown word gave %s, %v, want fail", s, err)
	}
	p := &patient{agent: fakeAgent{status: &control.Status{}}, files: fstest.MapFS{}}
	if r := p.examine(t); r.Worst != Fail {
		t.Errorf("an empty host and an agent that says nothing: worst is %s, want fail", r.Worst)
	}
}

// TestHost: this machine answers, whatever it says.
func TestHost(t *testing.T) {
	if _, err := (Host{}).Synchronised(); err != nil {
		t.Error(err)
	}
	s, err := (Host{}).Space(t.TempDir())
	if err != nil || s.Free == 0 {
		t.Errorf("got %+v, %v", s, err)
	}
	if acl, err := (Host{}).ACL(t.TempDir()); acl || err != nil {
		t.Errorf("got %v, %v", acl, err)
	}
	if _, err := (Host{}).Space("/does/not/exist"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
