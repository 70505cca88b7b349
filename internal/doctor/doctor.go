// Package doctor looks at a host and says what keeps Belay from working well on it, each
// finding with its fix, and packs what somebody who helps needs into a file without
// secrets.
//
// It reads files below a root, asks the agent over the control socket and reuses
// gate/preflight; what it cannot read is a warning and never ok. It loads no program,
// starts none, changes nothing and owns no state. Row: assembly, because it joins the
// control socket's answers with preflight's.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/preflight"
)

// Severity is how bad a finding is. The zero value is [Fail].
type Severity int

// The severities, worst first.
const (
	Fail Severity = iota // something that should be enforced is not, or can be walked around
	Warn                 // it works in part, will stop, or could not be looked at
	Info                 // good to know; nothing to do
	OK
)

var severities = [...]string{"fail", "warn", "info", "ok"}

// String returns fail, warn, info or ok.
func (s Severity) String() string {
	if s < 0 || int(s) >= len(severities) {
		return severities[Fail]
	}
	return severities[s]
}

// MarshalText implements [encoding.TextMarshaler].
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; what it does not know is [Fail].
func (s *Severity) UnmarshalText(b []byte) error {
	*s = Severity(max(0, slices.Index(severities[:], string(b))))
	return nil
}

// Finding is one thing that was looked at. Its ID is stable and listed in docs/doctor.md;
// one ID may appear more than once.
type Finding struct {
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	// Detail is what others wrote: errors, paths, names. A support bundle leaves it out.
	Detail string `json:"detail,omitempty"`
	Why    string `json:"why,omitempty"` // it matters, in Belay's own words; of gate/preflight's only
	Fix    string `json:"fix,omitempty"` // empty if there is nothing to do
	// own: Text is Belay's own words, with numbers and names that the kernel or Belay gave.
	// Else a support bundle has Why in its place.
	own bool
}

// Report is what was found, worst first.
type Report struct {
	Version  string    `json:"version"` // of the command
	Time     time.Time `json:"time"`
	Worst    Severity  `json:"worst"`
	Findings []Finding `json:"findings"`
	// Facts and Status are what findings were made from, for [WriteBundle].
	Facts  Facts           `json:"-"`
	Status *control.Status `json:"-"` // nil: the agent did not answer
}

// Count returns how many findings have a severity.
func (r *Report) Count(s Severity) (n int) {
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Agent is who is asked about the running agent; [control.Client] is one.
type Agent interface {
	Status(ctx context.Context) (*control.Status, error)
	Containers(ctx context.Context) ([]control.Container, error)
	RunCanary(ctx context.Context) (*control.Canary, error)
}

// Space is what is left on a file system.
type Space struct {
	Free   uint64 // bytes that others than root may use
	Inodes uint64 // free
	// Counted: the file system has a number of inodes at all. btrfs has none.
	Counted bool
}

// System answers what no file says; [Host] is this machine.
type System interface {
	// Space tells of the file system that a path is on.
	Space(path string) (Space, error)
	// Synchronised tells whether the kernel's clock is disciplined by somebody.
	Synchronised() (bool, error)
	// ACL tells whether a file has an access control list.
	ACL(path string) (bool, error)
}

// Options says where to look and whom to ask. Fields without a default are required.
type Options struct {
	Root   fs.FS  // of the host; os.DirFS("/")
	System System // likewise
	Agent  Agent
	// Preflight looks for ways around the gate; nil: there is no Docker to look at.
	Preflight func(ctx context.Context) preflight.Report
	// Database returns of which time the vulnerability database is, and how many records were left out
	// of it since they could not be read.
	Database func() (asOf time.Time, leftOut int, err error)

	RunDir   string // /run/belay
	StateDir string // /var/lib/belay
	Journal  string // journal in StateDir
	Scanner  string // path of belay-scanner
	Version  string // of the command
	Canary   bool   // run the agent's canary now
	// Only keeps findings whose ID is one of these, or begins with one and a dot; empty:
	// all. See [Known].
	Only []string
	Now  func() time.Time // time.Now
}

func (o *Options) fill() {
	o.RunDir = cmp.Or(o.RunDir, "/run/belay")
	o.StateDir = cmp.Or(o.StateDir, "/var/lib/belay")
	o.Journal = cmp.Or(o.Journal, strings.TrimSuffix(o.StateDir, "/")+"/journal")
	if o.Now == nil {
		o.Now = time.Now
	}
}

// examination is one run of the doctor.
type examination struct {
	Options
	mounts []mount
	facts  Facts
	status *control.Status // nil: the agent does not answer
	asked  error           // why it does not
	out    []Finding
}

// Run examines the host. It always has findings, unless Only names none of them.
func Run(ctx context.Context, o Options) Report {
	o.fill()
	e := &examination{Options: o}
	e.status, e.asked = o.Agent.Status(ctx)
	e.collect()
	e.checkKernel()
	e.checkAgent(ctx)
	e.checkPolicies(ctx)
	e.checkEngines()
	e.checkGate(ctx)
	e.checkMachine()
	e.checkScanner()
	r := Report{Version: o.Version, Time: o.Now().UTC(), Worst: OK, Facts: e.facts, Status: e.status, Findings: []Finding{}}
	for _, f := range e.out {
		if o.wants(f.ID) {
			r.Findings = append(r.Findings, f)
			r.Worst = min(r.Worst, f.Severity)
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return int(a.Severity) - int(b.Severity) })
	return r
}

// wants tells whether findings of an ID, or of any that begin with it and a dot, are kept.
func (o *Options) wants(id string) bool {
	return len(o.Only) == 0 || slices.ContainsFunc(o.Only, func(only string) bool {
		return id == only || strings.HasPrefix(id, only+".")
	})
}

// add notes a finding. The fix of what is well is left out.
func (e *examination) add(id string, s Severity, text, detail, fix string) {
	if s == OK {
		fix = ""
	}
	e.out = append(e.out, Finding{ID: id, Severity: s, Text: text, Detail: detail, Fix: fix, own: true})
}

// ids are all that findings are called, in the order of docs/doctor.md. The last ones
// are those of gate/preflight.
var ids = []string{
	"kernel.release", "kernel.lsm", "kernel.backend", "kernel.preemption", "kernel.btf", "kernel.cgroup", "kernel.lockdown", "kernel.bpffs",
	"kernel.jit", "kernel.unprivileged",
	"agent.running", "agent.enforcing", "agent.version", "agent.canary", "agent.health", "agent.runtime", "agent.failures", "agent.sockets",
	"policy.loaded", "policy.inforce", "policy.refused", "policy.level", "policy.container", "policy.bpf",
	"engine.socket", "engine.group",
	"clock.synchronised", "disk.state", "disk.journal", "journal.error", "journal.lost",
	"scan.database", "scan.scanner",
	"gate.docker",
	"daemon.process", "daemon.config", "daemon.socket", "daemon.tcp", "daemon.security", "daemon.live-restore", "docker.group",
	"plugin.inforce", "plugin.order", "plugin.namesake", "plugin.place",
	"gate.socket", "containerd.socket", "runtime.other", "systemd.socket", "container.bypass",
}

// Known tells whether findings can be called so, or have a name that begins so: what
// --only takes.
func Known(only string) error {
	if slices.ContainsFunc(ids, func(id string) bool { return id == only || strings.HasPrefix(id, only+".") }) {
		return nil
	}
	var groups []string
	for _, id := range ids {
		group, _, _ := strings.Cut(id, ".")
		if !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	return fmt.Errorf("no finding is called %q: want one of docs/doctor.md, or a group of them: %s", only, strings.Join(groups, ", "))
}
