package plan

import "time"

// Container is what a plan has to know of a container: what of its inspection ties it to its
// node, and what it uses. Its fields are those of the engine's inspection, in short; whoever
// fills it leaves out nothing that is set there.
type Container struct {
	ID       string `json:"id"`
	Name     string `json:"name"`     // without the slash
	State    string `json:"state"`    // the engine's word: running, paused, restarting, exited
	Selected bool   `json:"selected"` // the LoadPolicy's movable matches it
	Priority int    `json:"priority,omitempty"`

	Image   Image   `json:"image"`
	Host    Host    `json:"host"`
	Net     Net     `json:"net"`
	Storage Storage `json:"storage"`
	Life    Life    `json:"life"`
	// Placed says that an orchestrator has placed it here, and is asked to have it leave; nil: nobody is.
	Placed *Placed `json:"placed,omitempty"`
	// Other are reasons to stay that no field here tells, in words.
	Other []string `json:"other,omitempty"`

	// Needs are things that an engine or kernel must have to run it, as words that
	// [Node.Offers] has too, such as runtime:runsc, log-driver:journald, lsm:apparmor.
	Needs []string `json:"needs,omitempty"`

	// Use is what it uses, averaged over the time that the policy's `for` says. Peak is the
	// most of that time; what is less than Use counts as Use.
	Use  Amounts `json:"use"`
	Peak Amounts `json:"peak"`
}

// Placed is what an orchestrator says of a container. What ties others to their node is no matter
// then: it makes them anew elsewhere.
type Placed struct {
	Unit string `json:"unit"` // what leaves as one has one
	// Name is what its past is known by: containers that an orchestrator makes anew have other names.
	Name  string `json:"name"`
	Stays string `json:"stays,omitempty"` // why it may not be asked to leave
}

// Image is what a container runs.
type Image struct {
	Ref    string `json:"ref,omitempty"`
	Digest string `json:"digest"` // of the manifest, or of the configuration if built here
	// Architecture is GOARCH; empty: that of the node.
	Architecture string `json:"architecture,omitempty"`
}

// Host is what of the host a container has.
type Host struct {
	Privileged bool     `json:"privileged,omitempty"`
	PIDMode    string   `json:"pidMode,omitempty"`  // HostConfig.PidMode: "", host, container:ID
	IPCMode    string   `json:"ipcMode,omitempty"`  // HostConfig.IpcMode: "", private, shareable, none, host, container:ID
	UTSMode    string   `json:"utsMode,omitempty"`  // HostConfig.UTSMode: "", host
	UserMode   string   `json:"userMode,omitempty"` // HostConfig.UsernsMode: "", host
	CgroupMode string   `json:"cgroupMode,omitempty"`
	CgroupPath string   `json:"cgroupParent,omitempty"` // HostConfig.CgroupParent, if it is not the engine's default
	Hostname   bool     `json:"hostname,omitempty"`     // it was given the host's own name
	Devices    []string `json:"devices,omitempty"`      // paths on the host, and rules of DeviceCgroupRules
	GPUs       []string `json:"gpus,omitempty"`         // DeviceRequests: drivers, or CDI names
	CPUSet     string   `json:"cpuset,omitempty"`       // CpusetCpus or CpusetMems
}

// Net is how a container is reached.
type Net struct {
	Mode     string       `json:"mode,omitempty"` // HostConfig.NetworkMode
	Networks []Attachment `json:"networks,omitempty"`
	Ports    []Port       `json:"ports,omitempty"` // published, with the ports of the host
	Links    []string     `json:"links,omitempty"` // containers that it names by --link, or by links on a network
}

// Attachment is a network that a container is on.
type Attachment struct {
	Name   string `json:"name"`
	Driver string `json:"driver"`
	// Global says that the network spans hosts (overlay), and is the same on all that have it.
	Global bool `json:"global,omitempty"`
	// Config is a digest of driver, options and addresses, equal for equal networks.
	Config string `json:"config,omitempty"`
	// Fixed says that the container was given an address or a MAC of its own.
	Fixed bool `json:"fixed,omitempty"`
}

// Port is a port of a host.
type Port struct {
	IP       string `json:"ip,omitempty"` // empty, 0.0.0.0 and :: are all addresses
	Port     int    `json:"port"`         // 0: whichever is free
	Protocol string `json:"protocol"`     // tcp, udp or sctp
}

// Storage is what a container keeps.
type Storage struct {
	Mounts []Mount `json:"mounts,omitempty"`
	// VolumesFrom are containers whose volumes it was given.
	VolumesFrom []string `json:"volumesFrom,omitempty"`
	// LayerKnown says that `docker diff` was asked, and LayerBytes what it has written to its
	// own layer, which does not move.
	LayerKnown bool  `json:"layerKnown"`
	LayerBytes int64 `json:"layerBytes,omitempty"`
}

// Mount is one mount of a container.
type Mount struct {
	Type        string `json:"type"`             // bind, volume, tmpfs, image, npipe, cluster
	Name        string `json:"name,omitempty"`   // of a volume
	Source      string `json:"source,omitempty"` // of a bind
	Destination string `json:"destination"`
	Driver      string `json:"driver,omitempty"` // of a volume
	Anonymous   bool   `json:"anonymous,omitempty"`
	// Shared says that targets which list the volume have the same data under its name.
	Shared bool  `json:"shared,omitempty"`
	Bytes  int64 `json:"bytes,omitempty"` // what would be copied of it
}

// Life is who made a container, and what its end means.
type Life struct {
	Manager     string   `json:"manager,omitempty"` // swarm, kubernetes, compose, or another that would make it anew
	Project     string   `json:"project,omitempty"` // of compose
	DependsOn   []string `json:"dependsOn,omitempty"`
	AutoRemove  bool     `json:"autoRemove,omitempty"`
	Interactive bool     `json:"interactive,omitempty"` // somebody's terminal: OpenStdin
	Own         bool     `json:"own,omitempty"`         // one of Belay's own
	Health      string   `json:"health,omitempty"`      // of its health check; empty: it has none
	// Arrived is when a move brought it to its node; zero: it was made there.
	Arrived time.Time `json:"arrived,omitzero"`
	// Together are keys that the operator gave: containers with one in common move as one.
	Together []string `json:"together,omitempty"`
}

// Rules say what an operator allows beyond what is safe without asking. The zero value
// allows nothing.
type Rules struct {
	// CopyVolumes allows local volumes to be copied while the container is stopped.
	CopyVolumes bool `json:"copyVolumes,omitempty"`
	// LoseLayer allows moves that leave behind what was written to the container's own layer
	// and in its tmpfs mounts.
	LoseLayer bool `json:"loseLayer,omitempty"`
	// WholeProjects allows all containers of a compose project to move together.
	WholeProjects bool `json:"wholeProjects,omitempty"`
	// SplitNetworks allows containers to leave the others of a network that is on one host
	// alone: by their names they then no longer find each other.
	SplitNetworks bool `json:"splitNetworks,omitempty"`
}
