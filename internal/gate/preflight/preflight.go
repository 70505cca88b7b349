// Package preflight tells whether a host's Docker daemon is configured so that the gate
// cannot be walked around: who can reach the daemon's own sockets, whether it asks the
// plugin, and what already has a way past both.
//
// It reads /proc, /etc, sockets' modes and the daemon's answers, and changes nothing. It
// owns no state and starts no program. What it cannot read is unknown and never ok. Row:
// feature; it imports the standard library and golang.org/x/sys only.
package preflight

import (
	"cmp"
	"context"
	"os"
	"slices"
)

// Severity is how bad a finding is. The zero value is [Unknown].
type Severity int

// The severities, of which only Fail says that there is a way around.
const (
	Unknown Severity = iota // it could not be read
	OK
	Warn // a way that only root has, or that something else closes
	Fail // somebody can walk around the gate
)

var severities = [...]string{"unknown", "ok", "warn", "fail"}

// String returns unknown, ok, warn or fail.
func (s Severity) String() string {
	if s < 0 || int(s) >= len(severities) {
		return severities[Unknown]
	}
	return severities[s]
}

// MarshalText implements [encoding.TextMarshaler].
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; what it does not know is Unknown.
func (s *Severity) UnmarshalText(b []byte) error {
	*s = Severity(max(0, slices.Index(severities[:], string(b))))
	return nil
}

// Finding is one thing that was looked at. Its ID is stable; one ID may appear more than
// once, for several sockets or containers.
type Finding struct {
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	What     string   `json:"what"`
	Why      string   `json:"why"`           // it matters
	Fix      string   `json:"fix,omitempty"` // exactly; empty if ok
}

// Report is what was found, worst first.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Failed tells whether any finding is a [Fail].
func (r Report) Failed() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == Fail })
}

// Options says where to look. Zero values have the defaults that the fields name.
type Options struct {
	Socket string // the daemon's own: /run/docker.sock
	// Gate is the gate's socket; "none": there is no gate. Empty: Docker's usual
	// place if an agent listens there, as after "belay enable-gate", and else docker.sock in RunDir.
	Gate   string
	RunDir string // the agent's: /run/belay
	Plugin string // the plugin's socket; empty: where daemons look for Name
	Name   string // of the plugin: belay

	root string // prefix of all paths, for tests
	stat func(path string) (owner, error)
	api  func(ctx context.Context, socket, target string) (status int, body []byte, err error)
}

func (o *Options) fill() {
	o.Socket = cmp.Or(o.Socket, "/run/docker.sock")
	o.RunDir = cmp.Or(o.RunDir, "/run/belay")
	o.Name = cmp.Or(o.Name, "belay")
	if o.stat == nil {
		o.stat = statOwner
	}
	if o.api == nil {
		o.api = get
	}
}

// look is one preflight.
type look struct {
	Options
	daemon *daemon  // nil: none found
	agents []string // paths that agents listen on
	conf   config
	group  map[int]group // by id; nil: unreadable
	info   *info         // nil: the daemon did not say
	// pluginAnswers: the daemon's own socket refused a question in the plugin's words.
	pluginAnswers bool
	out           []Finding
}

// Run looks at the host. It always has findings.
func Run(ctx context.Context, o Options) Report {
	o.fill()
	l := &look{Options: o}
	l.findDaemon()
	l.findGate()
	l.readConfig()
	l.readGroups()
	l.ask(ctx)
	l.checkListeners()
	l.checkGroups()
	l.checkPlugin(ctx)
	l.checkPluginPlace()
	l.checkGate(ctx)
	l.checkRuntimes()
	l.checkUnit()
	l.checkContainers(ctx)
	slices.SortStableFunc(l.out, func(a, b Finding) int { return rank(b.Severity) - rank(a.Severity) })
	return Report{Findings: l.out}
}

// rank puts what is unknown between a warning and a failure.
func rank(s Severity) int {
	return [...]int{Unknown: 2, OK: 0, Warn: 1, Fail: 3}[s]
}

func (l *look) add(id string, s Severity, what, why, fix string) {
	if s == OK {
		fix = ""
	}
	l.out = append(l.out, Finding{ID: id, Severity: s, What: what, Why: why, Fix: fix})
}

func (l *look) path(p string) string {
	if l.root == "" {
		return p
	}
	return l.root + p
}

func (l *look) readFile(p string) ([]byte, error) { return readBounded(l.path(p)) }

func (l *look) exists(p string) bool {
	_, err := os.Lstat(l.path(p))
	return err == nil
}
