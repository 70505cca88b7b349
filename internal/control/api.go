// Package control is the agent's control socket: HTTP with JSON bodies over a unix
// socket that only root (and the socket's group) can open, and the client that `belay`
// uses.
//
// It owns the socket file. It decides nothing: every answer comes from the [Agent]
// that it is given. Row: features.
package control

import (
	"context"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
)

// Agent is what the control socket serves; internal/agent implements it.
type Agent interface {
	Status(ctx context.Context) (*Status, error)
	Containers(ctx context.Context) ([]Container, error)
	// Explain answers for a container by name, ID or unique prefix of its ID.
	Explain(ctx context.Context, ref string) (*Explanation, error)
	// Events calls emit for each record, oldest first, until ctx ends (Follow) or the
	// journal does.
	Events(ctx context.Context, q journal.ReadOptions, emit func(*journal.Record) error) error
	// Images returns what is known of the images that containers use or that were scanned.
	Images(ctx context.Context) ([]Image, error)
	// ExplainImage answers for an image by ID or name.
	ExplainImage(ctx context.Context, ref string) (*ImageExplanation, error)
	// ContainerUse answers for a container like Explain: which files its processes use.
	ContainerUse(ctx context.Context, ref string) (*ContainerUse, error)
	// Reload reads the policy directory again. On an error the old policies stay. who asked for it is
	// the zero value if the server cannot tell.
	Reload(ctx context.Context, who *Caller) (*PolicySet, error)
}

// CanaryRunner is what an [Agent] also is if it tests on demand whether a denial works.
type CanaryRunner interface {
	// RunCanary tries an act that must be denied, and returns how that went. A failed test
	// is an answer (Denied is false), not an error.
	RunCanary(ctx context.Context) (*Canary, error)
}

// Status is the answer of `belay status`.
type Status struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Host    string    `json:"host"`
	Kernel  string    `json:"kernel"`
	BootID  string    `json:"bootId"`
	// Enforcing is the one answer that `belay status` turns into its exit status: the
	// kernel side is attached, its canary was denied, and the policies are loaded.
	Enforcing  bool              `json:"enforcing"`
	Why        string            `json:"why,omitempty"` // why not
	Backend    string            `json:"backend"`
	Backends   []BackendStatus   `json:"backends"` // what each came to on this kernel
	Adopted    bool              `json:"adopted"`  // took over the kernel state of an earlier agent
	Scopes     []string          `json:"scopes,omitempty"`
	Levels     []Level           `json:"levels"`
	Policies   PolicySet         `json:"policies"`
	Sources    []SourceStatus    `json:"sources"` // the runtimes' APIs
	Containers int               `json:"containers"`
	Failures   map[string]uint64 `json:"failures,omitempty"` // of the kernel side, see docs/failure-codes.md
	Journal    journal.Stats     `json:"journal"`
	Health     health.Snapshot   `json:"health"`
	Canary     *Canary           `json:"canary,omitempty"`
	Factor     *FactorStatus     `json:"secondFactor,omitempty"` // nil: without a gate there is none
	Guard      *GuardStatus      `json:"socketGuard,omitempty"`  // nil: the agent is older than it
	Outputs    []OutputStatus    `json:"outputs,omitempty"`      // where records go besides the journal
	// ScannerError is why the scanner cannot be started on this host, where it is installed.
	ScannerError string `json:"scannerError,omitempty"`
}

// OutputStatus tells what an output did since the agent's start. Offered is Sent, what was dropped,
// and what waits or is under way.
type OutputStatus struct {
	Name    string            `json:"name"` // without credentials
	Format  string            `json:"format"`
	Offered uint64            `json:"offered"`
	Sent    uint64            `json:"sent"`
	Resent  uint64            `json:"resent,omitempty"` // once more, after a connection had broken
	Queued  int               `json:"queued"`
	Dropped map[string]uint64 `json:"dropped"`         // by cause
	Error   string            `json:"error,omitempty"` // why nothing is sent now
	Since   time.Time         `json:"since,omitzero"`  // of the error
}

// GuardStatus tells of the guard of the engine's own sockets on the host.
type GuardStatus struct {
	Mode     string `json:"mode"`  // in force: off, audit, enforce
	Level    string `json:"level"` // what this host can do about a connection; of guard.sockets too
	Note     string `json:"note,omitempty"`
	Refused  uint64 `json:"refused"`  // connections, since the agent was started
	Reported uint64 `json:"reported"` // that passed in audit
}

// BackendStatus tells whether a backend works on this kernel.
type BackendStatus struct {
	Name   string `json:"name"`
	Usable bool   `json:"usable"`
	Why    string `json:"why,omitempty"`
}

// Level is what this host can do about one rule.
type Level struct {
	Rule  string `json:"rule"`
	Level string `json:"level"`
	Note  string `json:"note,omitempty"`
}

// PolicySet tells which policies are in force.
type PolicySet struct {
	Dir      string         `json:"dir"`
	Revision string         `json:"revision"`
	Loaded   time.Time      `json:"loaded"`
	Policies []PolicyStatus `json:"policies"`
	// Error is why the directory's present content is not in force; the policies above
	// are the last good ones.
	Error string `json:"error,omitempty"`
}

// PolicyStatus is one policy, in total order.
type PolicyStatus struct {
	Kind     string `json:"kind,omitempty"` // "" is RuntimePolicy
	Name     string `json:"name"`
	Revision string `json:"revision"`
	Mode     string `json:"mode"`
	File     string `json:"file"`
	Line     int    `json:"line"`
	Refused  string `json:"refused,omitempty"` // this host cannot give the level that it requires
}

// SourceStatus is the state of the connection to a container runtime.
type SourceStatus struct {
	Name      string    `json:"name"` // docker, containerd
	Address   string    `json:"address"`
	Connected bool      `json:"connected"`
	Error     string    `json:"error,omitempty"`
	Since     time.Time `json:"since"`
}

// Canary is the last test of whether a denial still works.
type Canary struct {
	Time   time.Time `json:"time"`
	Denied bool      `json:"denied"`
	Error  string    `json:"error,omitempty"`
	Count  uint64    `json:"count"`
	Failed uint64    `json:"failed"`
	// EverySeconds is the time between two tests; 0: the agent is of a version that does not say.
	EverySeconds float64 `json:"everySeconds"`
}

// Container is one line of `belay containers`.
type Container struct {
	ID          string    `json:"id"`
	Name        string    `json:"name,omitempty"`
	Image       string    `json:"image,omitempty"`
	ImageDigest string    `json:"imageDigest,omitempty"`
	Runtime     string    `json:"runtime,omitempty"`
	Cgroup      uint64    `json:"cgroupId"`
	PID         uint32    `json:"pid,omitempty"`
	Armed       time.Time `json:"armed,omitzero"` // its first exec; zero: not started
	Build       bool      `json:"build,omitempty"`
	Policy      string    `json:"policy"` // own, floor or build
	Policies    []string  `json:"policies"`
	Mode        string    `json:"mode"` // enforce, audit, mixed or none
	// Phase is start while some of its policies do not hold yet, then after; empty if all hold
	// from its start on. PhaseEnds is when all of them hold at the latest.
	Phase     string    `json:"phase,omitempty"`
	PhaseEnds time.Time `json:"phaseEnds,omitzero"`
	BoundLate bool      `json:"boundLate,omitempty"`
	// BPFAllowed is that a loosening policy lets it call bpf(2); else guard.bpf denies it.
	BPFAllowed bool     `json:"bpfAllowed,omitempty"`
	Binding    *Binding `json:"binding,omitempty"`  // what the gate bound at create; nil: nothing
	Problems   []string `json:"problems,omitempty"` // rules that do not hold here, and why
	Lost       uint64   `json:"lostRecords,omitempty"`
}

// Binding is what the gate's create has put on a container, until it is destroyed.
type Binding struct {
	Time   time.Time         `json:"time,omitzero"`
	Owner  string            `json:"owner,omitempty"`  // "uid:1000"
	Rules  []string          `json:"rules,omitempty"`  // what its checks are worth in the kernel, one a policy
	Labels map[string]string `json:"labels,omitempty"` // those that the gate set
	// Lost: the record is gone, and the rules are those that the container's label names.
	Lost bool `json:"lost,omitempty"`
}

// Explanation is the answer of `belay explain`.
type Explanation struct {
	Container Container     `json:"container"`
	Revision  string        `json:"revision"`
	Lines     []policy.Line `json:"lines"`
	Levels    []Level       `json:"levels"`
}
