// Package apicall holds what a call to a container daemon's API is to policies: who
// calls (Subject), what is asked (an action name) of what (Resource), and what the
// request would give a container (Facts).
//
// It is the vocabulary that the request parser (dockerapi), the policy engine
// (policy) and the front ends (gate) share, so that none of them needs to know
// another. It owns no state, does no I/O and imports the standard library
// only (bottom row).
package apicall

import (
	"net/netip"
)

// SubjectKind says how a caller is known. The zero value is nobody: no rule but a
// deny matches it.
type SubjectKind uint8

// The kinds of callers.
const (
	Nobody      SubjectKind = iota
	User                    // a process of the host, by its credentials on a unix socket
	Certificate             // a TLS client certificate that the gate's CA signed
	Token                   // a bearer token that the gate issued
	Container               // a process inside a container, whatever its uid
)

// Subject is the caller of a request.
type Subject struct {
	Kind SubjectKind

	// User: from SO_PEERCRED and SO_PEERGROUPS, names from the host's databases
	// (empty where the host knows none).
	UID    uint32
	GID    uint32
	GIDs   []uint32 // supplementary
	Name   string
	Groups []string // names of GID and GIDs
	PID    int32    // for the record only: a decision never rests on it
	// PIDStart is when that process started, in clock ticks since boot: with it the number
	// stands for one process.
	PIDStart uint64

	// Certificate: fields of the verified leaf certificate.
	CN   string
	Orgs []string
	SANs []string // DNS names, mail addresses, URIs and IP addresses

	// Token: its name, never its secret.
	Token string

	// Container: where the peer's process runs.
	ContainerID     string // 64 hex digits
	ContainerName   string
	ContainerLabels map[string]string
	ImageDigest     string // "sha256:..."

	// Remote is the peer's address on TCP.
	Remote netip.Addr
}

// ResourceKind is the kind of thing that a call is about.
type ResourceKind uint8

// The kinds of resources. None is for calls that are about the daemon as a whole.
const (
	None ResourceKind = iota
	ResourceContainer
	ResourceExec
	ResourceImage
	ResourceVolume
	ResourceNetwork
	ResourcePlugin
	ResourceService
	ResourceTask
	ResourceNode
	ResourceSecret
	ResourceConfig
	ResourceSwarm
	ResourceBuild
	ResourceSession
	ResourceSystem
	ResourceDistribution
	ResourceRuntimePolicy // Belay's own policies, by kind
	ResourceAccessPolicy
	ResourceImagePolicy
	ResourceScan // a scan that was asked of the agent
	ResourceLoadPolicy
)

// Resource is one thing that a call reads or changes, resolved to what the daemon
// knows it by.
type Resource struct {
	Kind ResourceKind
	// Asked is the name as the caller wrote it; ID is what the daemon resolved it
	// to (empty while unresolved, or where the thing does not exist yet).
	Asked string
	ID    string
	Names []string
	// Labels are the thing's own; Owner is the value of the gate's owner label.
	Labels map[string]string
	Owner  string
	// Image and ImageDigest are a container's image, or the image itself.
	Image       string
	ImageDigest string
	// ContainerID is the container of an exec.
	ContainerID string
}

// HostMount is a piece of the host that a request would put into a container.
type HostMount struct {
	// Via says how: "bind" (HostConfig.Binds or Mounts), "volume" (a volume whose
	// driver options name a device), "device", "cluster", "npipe", "image",
	// "volumesFrom", "checkpoint".
	Via string
	// Source is the host path or device as asked; Resolved is the path without
	// symbolic links, filled in by the gate ("" while unresolved: a check on it fails).
	Source   string
	Resolved string
	Target   string
	ReadOnly bool
	// Shallow says that ReadOnly does not reach mounts below the source: they stay
	// writable.
	Shallow bool
	// Propagation is "", "rprivate", "shared", "rshared", "slave", "rslave", "private".
	Propagation string
	// GateSocket says that the source is the gate's own socket: the gate put it there in
	// place of the daemon's, as a policy asks it to, or the request names it.
	GateSocket bool
	// Driver and Options are those of a volume.
	Driver  string
	Options map[string]string
}

// PortBinding is one port of the host that a request would publish.
type PortBinding struct {
	HostIP   string // "" is every address
	HostPort string // "" or "0" is any free port; may be a range
	Port     string // "80/tcp"
}

// Limits are the caps that a request sets; 0 is unset (unlimited).
type Limits struct {
	MemoryBytes int64
	NanoCPUs    int64
	CPUQuota    int64
	CPUPeriod   int64
	CPUShares   int64
	PIDs        int64 // -1 is unlimited, said outright
}

// Facts are what a request would give, in the terms that checks ask about: the same
// whichever of the API's many spellings the request used. A field's zero value means
// that the request does not ask for it.
type Facts struct {
	// Image as written, and what the gate resolved it to.
	Image       string
	ImageDigest string
	// User is the user as written; UserSet tells "" from unset. ImageUser is that of
	// the image's configuration, and for an exec the container's own, filled in by the
	// gate (with ImageUserKnown).
	User           string
	UserSet        bool
	ImageUser      string
	ImageUserKnown bool
	// NamedUID is the number that a user given by name has in the container of an exec,
	// filled in by the gate; "" if it is not known.
	NamedUID string

	Privileged bool
	ReadOnly   bool // read-only root file system
	Init       *bool

	// Namespaces names each namespace that is not the container's own: "pid=host",
	// "net=container:ID", "net=ns:/path", "ipc=host", "ipc=shareable", "uts=host",
	// "cgroup=host", "userns=host".
	Namespaces []string
	Networks   []string // names of networks to join, "host" and "none" included

	CapAdd  []string // upper case, with "CAP_"; "ALL" as it is
	CapDrop []string

	// SecurityOpt holds each option as KEY=VALUE, in the daemon's own reading (":"
	// separators turned, "no-new-privileges" as "no-new-privileges=true").
	SecurityOpt     []string
	NoNewPrivileges bool
	Seccomp         string // "" default, "unconfined", "custom" (inline JSON), "builtin"
	AppArmor        string // "" default, "unconfined" or a profile
	SELinuxDisabled bool
	// SystemPaths is true if /proc and /sys paths are unmasked, by
	// systempaths=unconfined or by empty MaskedPaths or ReadonlyPaths.
	SystemPathsOpen bool

	HostMounts        []HostMount
	Volumes           []string // named volumes to mount
	VolumesFrom       []string // containers whose volumes to take
	Devices           []string // host paths of devices
	DeviceCgroupRules []string
	DeviceRequests    []string // "driver:id" or "driver:count", CDI names included
	Tmpfs             []string

	Runtime       string
	CgroupParent  string
	Annotations   map[string]string
	Sysctls       map[string]string
	Labels        map[string]string
	Env           []string // KEY=VALUE
	Cmd           []string
	Entrypoint    []string
	ExtraHosts    []string
	GroupAdd      []string
	StorageOpt    map[string]string
	LogDriver     string
	LogOptions    map[string]string
	Healthcheck   []string
	RestartPolicy string
	AutoRemove    bool
	OOMScoreAdj   int
	OOMKillOff    bool
	Isolation     string
	Platform      string
	Name          string // the name to give

	PublishAll bool
	Ports      []PortBinding
	Limits     Limits
	LimitsSet  bool // the request says something of limits (update)

	// Exec, attach, copy.
	TTY, Stdin bool
	Detach     bool
	WorkingDir string
	Path       string // of a copy
	Compressed string // Content-Encoding or archive compression of a copied body: "", "gzip", "xz", ...

	// Builds, pulls, commits, imports.
	Remote     string // build context, import source or plugin reference that the daemon would fetch
	Registry   string // host of the image's registry, "docker.io" by default, "?" for an image that is named by its id
	Repository string // without registry and tag
	Tag        string
	BuildArgs  map[string]string
	Frontend   string
	Entitled   []string // BuildKit entitlements
	Changes    []string
	Outputs    string
	Squash     bool
	Tags       []string // all names that a build gives
	BuildKit   bool     // the build is BuildKit's, with a session
	SessionID  string
	Secrets    []string // ids of secrets that a build asks the caller's session for
	SSH        []string // ids of SSH agents that a build asks the caller's session for

	// Filters and bulk calls.
	Filters map[string][]string
	Force   bool
	Bulk    bool // touches things that the call does not name (prune)

	// Volumes, networks, secrets: the driver and its options. HostMounts and Sysctls
	// have what of them reaches a container.
	Driver        string
	DriverOptions map[string]string
	IPAMDriver    string // "" is the default one
	Attachable    bool   // a network that containers of other nodes may join
	Scope         string
	Checkpoint    string // name of a checkpoint

	// Plugins and swarm.
	PluginPrivileges []string // "name=value", and "runtime=plugin" for a service that installs one
	TaskLabels       map[string]string
	Role             string   // of a node
	Availability     string   // of a node or cluster volume
	Addresses        []string // that the daemon would listen on or advertise
	Remotes          []string // that the daemon would join or trust
	Rollback         bool     // runs the specification that the daemon kept, not the one here
	// Paths are host paths that the daemon itself would read or write (checkpoint
	// directories and the like).
	Paths []string
	// NamesCaller: the AccessPolicy that is changed names the caller among its subjects,
	// before the change or after it.
	NamesCaller bool
	// Loosens: the RuntimePolicy that is changed takes away what others deny, before the
	// change or after it.
	Loosens bool
	// SelectorChanges: the policy that is changed is for others after the change than before
	// it. One that is made or deleted is.
	SelectorChanges bool
	// DroppedFields are fields that no API version knows, where the option to drop
	// them is on.
	DroppedFields []string
}

// Call is one request, ready to be judged.
type Call struct {
	Subject   Subject
	Action    string // of dockerapi's table: "container.create"
	Method    string
	Path      string // decoded, without the version prefix
	Version   string // "1.44"; "" if the request has none
	Resources []Resource
	Facts     Facts
	// Elevated says that a live second-factor elevation covers this call.
	Elevated bool
}

// FrontendImage returns how an image that runs as a build's front end is named in
// [Facts.Frontend]: as the request names it, unless that is the name of something else there.
func FrontendImage(image string) string {
	switch image {
	case "", "dockerfile.v0", "gateway.v0", "llb", "?":
		return "docker.io/library/" + image
	}
	return image
}
