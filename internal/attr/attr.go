// Package attr holds the keys of log records, so that one fact has one key in the
// whole program and a log can be searched by it.
//
// A key is snake_case, names a fact and not a place, and carries its unit where the
// value has none of its own. Values that a container chose (names, paths, arguments)
// are logged as values, never as part of a message.
//
// It owns no state, does no I/O and imports the standard library only (bottom row).
package attr

// Who: containers and processes.
const (
	ContainerID   = "container_id"   // full ID, 64 hexadecimal digits
	ContainerName = "container_name" // as the runtime says it, without a leading slash
	CgroupID      = "cgroup_id"
	CgroupPath    = "cgroup_path"
	Image         = "image"        // reference as the client wrote it
	ImageDigest   = "image_digest" // sha256:...
	Namespace     = "namespace"    // containerd's or Kubernetes' namespace
	Runtime       = "runtime"      // docker, containerd
	Class         = "class"        // container, build
	PID           = "pid"
	UID           = "uid"
	Comm          = "comm"
	BoundLate     = "bound_late" // own policy bound after the container's start
)

// What was decided, and why.
const (
	Policy   = "policy"            // name
	Revision = "revision"          // of a policy or a set
	Rule     = "rule"              // place in the policy document, such as exec.asRoot
	Mode     = "mode"              // enforce, audit
	Decision = "decision"          // allowed, denied, killed, would_deny
	Level    = "enforcement_level" // prevent, kill, detect, unsupported; "level" is slog's own
	Backend  = "backend"           // lsm, modret, signal
	Hook     = "hook"              // attach point in the kernel
	Errno    = "errno"
)

// Where: the machine and its files.
const (
	Host          = "host"
	BootID        = "boot_id"
	KernelRelease = "kernel_release"
	Path          = "path"
	File          = "file" // a policy file
	Line          = "line"
	Dir           = "dir"
	Map           = "map"     // BPF map
	Program       = "program" // BPF program
	Socket        = "socket"
	Addr          = "addr"
	Port          = "port"
)

// How it went.
const (
	Error      = "error"
	Stack      = "stack"
	Reason     = "reason"
	Component  = "component" // of internal/health
	State      = "state"
	Cause      = "cause" // of a loss
	Count      = "count"
	Bytes      = "bytes"
	Seq        = "seq" // of an event
	Segment    = "segment"
	Attempt    = "attempt"
	DurationMS = "duration_ms"
	RetryInMS  = "retry_in_ms"
	Version    = "version"
	Signal     = "signal"
)
