package journal

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/verdict"
)

// Schema is the version of [Record]. Fields are only ever added under one version;
// see docs/event-schema.md.
const Schema = "belay.dev/event/v1"

// Kind says what a record is about.
type Kind string

// The kinds.
const (
	KindExec      Kind = "exec"      // a program was or would have been executed
	KindMmap      Kind = "mmap"      // a file was or would have been mapped as code
	KindFile      Kind = "file"      // a file was opened, renamed, linked or cut
	KindNetwork   Kind = "network"   // a socket was bound, listened on, connected or spoke
	KindBPF       Kind = "bpf"       // bpf(2) was called
	KindPrivilege Kind = "privilege" // what the section privileges is about
	KindContainer Kind = "container" // a container came, started or went
	KindAgent     Kind = "agent"     // the agent itself: start, stop, policies, adoption
	KindLoss      Kind = "loss"      // records are missing here; see Record.Lost
	KindAPI       Kind = "api"       // a call of the container engine's API reached the gate
	KindFactor    Kind = "factor"    // a user's second factor: enrolled, shown, refused
	KindImage     Kind = "image"     // an image: what an ImagePolicy says of it, a new finding in it
	KindLoad      Kind = "load"      // how full the node is: a cap of a LoadPolicy was passed
	KindAnchor    Kind = "anchor"    // where the journal's chains end, to be noted elsewhere
)

// Layer says where in a container's view a file lies.
type Layer string

// The layers.
const (
	LayerImage   Layer = "image"   // a read-only layer of the image
	LayerUpper   Layer = "upper"   // the container's writable layer
	LayerVolume  Layer = "volume"  // a mount that was there at the start
	LayerMounted Layer = "mounted" // a mount made after the start
	LayerTmpfs   Layer = "tmpfs"   // tmpfs, ramfs, hugetlbfs
	LayerMemfd   Layer = "memfd"   // memfd_create(2)
	LayerDeleted Layer = "deleted" // no name is left
	LayerPlain   Layer = "plain"   // the root is no overlay: image and writable layer look alike
	LayerHost    Layer = "host"    // a file of the host, outside the container's root
	LayerUnknown Layer = "unknown"
)

// Values of [Record.Flags].
const (
	FlagBoundLate = "bound_late"       // the container's own policies were bound after its start
	FlagScript    = "script"           // object is the script, process.executable its interpreter
	FlagNoProcess = "no_process"       // seen where no process is known (softirq)
	FlagCwdCut    = "cwd_truncated"    // process.cwd is not whole
	FlagTrimmed   = "record_truncated" // the record was too long: labels, arguments or long texts were cut
)

// Values of [Record.Event], of [KindContainer].
const (
	EventCreated   = "created"    // its cgroup was made
	EventFirstExec = "first_exec" // its first program is executed: it is armed
	EventGone      = "gone"       // its cgroup was removed
	EventGivesUp   = "gives_up"   // of kind agent: near its own caps it gives up more
	EventTakesUp   = "takes_up"   // of kind agent: further from them it gives up less
)

// Record is one event: what happened, to whom, and what was decided. Its JSON form
// is [Schema], described field by field in docs/event-schema.md.
//
// Integers of 64 bits that can pass 2^53 are decimal strings in JSON, because
// JavaScript and jq would round them.
type Record struct {
	Schema    string           `json:"schema"` // filled in by Append
	BootID    string           `json:"bootId"` // filled in by Append if empty
	Seq       uint64           `json:"seq"`    // set by Append
	Time      time.Time        `json:"time"`   // of the event; filled in by Append if zero
	Host      string           `json:"host"`   // filled in by Append if empty
	Kind      Kind             `json:"kind"`
	Event     string           `json:"event,omitempty"`    // Event* constants; of [KindContainer] only
	Container *Container       `json:"container,omitzero"` // nil: none, or not known
	Process   *Process         `json:"process,omitzero"`   // nil: none, or not known
	Policy    *Policy          `json:"policy,omitzero"`    // nil: no rule matched
	Hook      string           `json:"hook,omitempty"`     // attach point, such as bprm_check_security
	Object    *Object          `json:"object,omitzero"`    // what was acted upon
	API       *API             `json:"api,omitzero"`       // the call; of [KindAPI] only
	Factor    *Factor          `json:"factor,omitzero"`    // of [KindFactor] only
	Image     *Image           `json:"image,omitzero"`     // of [KindImage] only
	Load      *Load            `json:"load,omitzero"`      // of [KindLoad] only
	Anchor    *Anchor          `json:"anchor,omitzero"`    // of [KindAnchor] only
	Decision  verdict.Decision `json:"decision,omitempty"`
	Errno     int              `json:"errno,omitempty"` // what the caller got, positive; 0: none
	Level     string           `json:"level,omitempty"` // what this host can do about it: verdict.Level's name
	Backend   verdict.Backend  `json:"backend,omitempty"`
	Message   string           `json:"message,omitempty"` // for people; never to be parsed
	Flags     []string         `json:"flags,omitempty"`   // Flag* constants
	// Lost counts missing records by cause; of [KindLoss] only.
	Lost map[string]uint64 `json:"lost,omitempty"`
}

// Container is the container of an event, as far as it was known at that moment.
type Container struct {
	ID       ident.ContainerID `json:"id"`
	Name     string            `json:"name,omitempty"`
	Image    string            `json:"image,omitempty"`
	Digest   string            `json:"digest,omitempty"`   // of the image: sha256:...
	Workload string            `json:"workload,omitempty"` // what the pod is of: deployment/web
	Labels   map[string]string `json:"labels,omitempty"`
	CgroupID ident.CgroupID    `json:"cgroupId,omitempty,string"`
	Class    string            `json:"class,omitempty"` // container, build
}

// Process is the task that acted.
type Process struct {
	PID           uint32      `json:"pid"` // thread group ID in the host's PID namespace
	TID           uint32      `json:"tid"`
	StartNS       uint64      `json:"startNs,string"` // since boot, of the thread group's leader
	UID           uint32      `json:"uid"`            // ids are those of the initial user namespace
	EUID          uint32      `json:"euid"`
	GID           uint32      `json:"gid"`
	EGID          uint32      `json:"egid"`
	CapEffective  Caps        `json:"capEffective"`
	CapPermitted  Caps        `json:"capPermitted"`
	Comm          string      `json:"comm"`
	Cwd           string      `json:"cwd,omitempty"`
	Args          []string    `json:"args,omitempty"` // chosen by the process: never evidence of what ran
	ArgsTruncated bool        `json:"argsTruncated,omitempty"`
	Executable    *Executable `json:"executable,omitzero"`
	Ancestors     []Ancestor  `json:"ancestors,omitempty"` // parent first
}

// Executable is the file that a process runs, or was about to run.
type Executable struct {
	Path          string `json:"path"` // in the container's view
	PathTruncated bool   `json:"pathTruncated,omitempty"`
	Dev           Dev    `json:"dev"`
	Ino           uint64 `json:"ino,string"`
	Layer         Layer  `json:"layer"`
}

// Ancestor is a parent, its parent, and so on. PID and StartNS together name a
// process for one boot.
type Ancestor struct {
	PID     uint32 `json:"pid"`
	StartNS uint64 `json:"startNs,string"`
	UID     uint32 `json:"uid"`
	Comm    string `json:"comm"`
}

// Policy says which rule decided.
type Policy struct {
	Name     string `json:"name"`
	Revision string `json:"revision"`
	Rule     string `json:"rule"` // verdict.Rule's name, such as exec.asRoot
	Mode     string `json:"mode"` // audit, enforce
	// Phase of the container, where its rules have phases: start (some did not hold yet) or
	// after; else empty.
	Phase string `json:"phase,omitempty"`
}

// Object is what an act was aimed at. Only the fields that its Type has are set.
type Object struct {
	Type          string `json:"type"`           // file, socket, bpf, capability, cgroup, process
	Name          string `json:"name,omitempty"` // of a capability: CAP_SYS_ADMIN
	Path          string `json:"path,omitempty"`
	PathTruncated bool   `json:"pathTruncated,omitempty"`
	Dev           Dev    `json:"dev,omitzero"`
	Ino           uint64 `json:"ino,omitempty,string"`
	Layer         Layer  `json:"layer,omitempty"`
	Addr          string `json:"addr,omitempty"` // remote end
	Port          uint16 `json:"port,omitempty"`
	LocalAddr     string `json:"localAddr,omitempty"`
	LocalPort     uint16 `json:"localPort,omitempty"`
	Protocol      string `json:"protocol,omitempty"` // tcp, udp, sctp, or a number
}

// API is a call that the gate judged. Its container, in Record.Container, is the caller's if
// the caller is in one.
type API struct {
	Action     string   `json:"action,omitempty"` // of docs/access-policy.md; empty if the call has no route
	Method     string   `json:"method"`
	Path       string   `json:"path"`                // as sent, without the query
	Resources  []string `json:"resources,omitempty"` // full IDs of what the call is about
	CallerKind string   `json:"callerKind"`          // user, certificate, token, container, nobody
	Caller     string   `json:"caller,omitempty"`    // user name, common name, token's name, container's name
	UID        *uint32  `json:"uid,omitempty"`       // of a user or of a process in a container
	PID        int32    `json:"pid,omitempty"`       // that connected
	Remote     string   `json:"remote,omitempty"`    // address on TCP
	Status     int      `json:"status,omitempty"`    // HTTP status that was answered; 0: the client had left
	DurationUS int64    `json:"durationUs"`          // until the head of the answer, in microseconds
	Cause      string   `json:"cause,omitempty"`     // stable word for what the gate itself refused
	Checks     []string `json:"checks,omitempty"`    // failed checks
	Direct     bool     `json:"direct,omitempty"`    // it did not come through the gate: the authorisation plugin judged it
	Unmanaged  bool     `json:"unmanaged,omitempty"` // no AccessPolicy is in force: the daemon's own rule was applied
	Elevation  string   `json:"elevation,omitempty"` // ID of the elevation that the call was made under
	// TraceParent is the caller's W3C trace context, if it sent a valid one; a claim, no evidence.
	TraceParent string `json:"traceparent,omitempty"`
}

// Denial reports whether the record tells of an act that a rule denies: it was
// refused, its task was killed, or it passed only because the rule audits or this
// host can merely detect it.
func (r *Record) Denial() bool {
	switch r.Decision {
	case verdict.Denied, verdict.Killed, verdict.WouldDeny:
		return true
	}
	return false
}

// Urgent reports whether r may use the part of the queue that ordinary records may
// not fill.
func (r *Record) Urgent() bool {
	switch r.Kind {
	case KindLoss, KindAgent, KindFactor, KindImage, KindLoad, KindAnchor:
		return true
	}
	return r.Denial()
}

// Caps is a set of capabilities, bit n being capability n of capabilities(7). Its
// text has 16 hexadecimal digits, as CapEff in /proc/pid/status.
type Caps uint64

// MarshalText returns the 16 digits.
func (c Caps) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(c)), nil }

// UnmarshalText reads at most 16 hexadecimal digits.
func (c *Caps) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 16, 64)
	if err != nil {
		return fmt.Errorf("capability set %q: %w", text, err)
	}
	*c = Caps(n)
	return nil
}

// Dev is a device number. Its text is major:minor, as in /proc/pid/mountinfo.
type Dev struct{ Major, Minor uint32 }

// KernelDev returns the device number that the kernel itself writes as d.
//
// Source: MINORBITS is 20 in include/linux/kdev_t.h.
func KernelDev(d uint32) Dev { return Dev{Major: d >> 20, Minor: d & (1<<20 - 1)} }

// String returns major:minor.
func (d Dev) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// MarshalText returns [Dev.String].
func (d Dev) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%d:%d", d.Major, d.Minor), nil }

// UnmarshalText reads major:minor.
func (d *Dev) UnmarshalText(text []byte) error {
	major, minor, _ := strings.Cut(string(text), ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("device number %q: want major:minor", text)
	}
	*d = Dev{Major: uint32(ma), Minor: uint32(mi)}
	return nil
}
