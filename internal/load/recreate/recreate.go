// Package recreate turns what an engine says of a container into the request that makes the
// same container on another engine, or into the reasons why that cannot be.
//
// It is a pure function of its input: no clock, no network, no state. Whatever it does not
// know counts against the move, and nothing of the container is changed that is not listed
// in docs/moving.md. It holds environment values, which may be secrets: what it says in words
// (reasons, notes, differences) never has a value of them.
//
// Row: core.
package recreate

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
)

// Labels of Belay's. What begins with the first is the gate's own, and only the gate of the
// target may write it; what begins with the second says by which move a thing came.
const (
	GateLabels  = "belay.dev/"
	MoveLabels  = "move.belay.dev/"
	LabelMove   = MoveLabels + "id"
	LabelOrigin = MoveLabels + "container" // the ID that it had on the source
	LabelHelper = MoveLabels + "helper"    // a container that reaches a volume and never starts, with its name
)

// Rules are what the operator allows beyond what is safe without asking.
type Rules struct {
	CopyVolumes bool `json:"copyVolumes,omitempty"` // copy local volumes, with the container stopped
	LoseLayer   bool `json:"loseLayer,omitempty"`   // leave behind what is in its own layer and in its tmpfs mounts
	// LoseAttributes leaves behind ACLs and extended attributes of files in volumes.
	LoseAttributes bool `json:"loseAttributes,omitempty"`
	Compose        bool `json:"compose,omitempty"` // move a container that compose made, and may make again here
}

// Host is what has to be known of the engine that an inspection is from.
type Host struct {
	// CgroupV1 says that the host has cgroups of version 1, where a container has the host's
	// cgroup namespace unless told otherwise.
	CgroupV1 bool
}

// Refusal is one reason why a container cannot be moved, and what can be done.
type Refusal struct {
	Reason string `json:"reason"`
	Fix    string `json:"fix,omitempty"`
}

// String returns both in one line.
func (r Refusal) String() string {
	if r.Fix == "" {
		return r.Reason
	}
	return r.Reason + "; fix: " + r.Fix
}

// Volume is a volume of the container, on the engine that the inspection is from.
type Volume struct {
	Name        string `json:"name"`
	Destination string `json:"destination"`
	// Anonymous says that no request named it: the engine made it, and would make an empty one
	// on the target unless told the name.
	Anonymous bool `json:"anonymous,omitempty"`
	ReadOnly  bool `json:"readOnly,omitempty"`
}

// Recipe is how a container is made again.
type Recipe struct {
	ID, Name string
	// Request makes it. It has no restart policy: Restart is set when the move is committed.
	// Its image is as the operator wrote it, and may stand for another image on the target.
	Request container.CreateRequest
	Restart container.RestartPolicy
	ImageID string
	Volumes []Volume
	// Networks are those that a user has made, sorted.
	Networks []string
	// Ports are the published ports with a number, as "address:port/protocol", sorted.
	Ports []Port
	// Bound are the gate's labels that it has: the gate on the target owes it the same.
	Bound map[string]string
	// Notes are what will be different, in words.
	Notes []string
	// Check says that the image or the operator gave it a health check.
	Check bool
	// StopSeconds is how long it has to stop; 10 unless it says otherwise.
	StopSeconds int
}

// Stateful reports whether it has data that must have one writer.
func (r *Recipe) Stateful() bool { return len(r.Volumes) > 0 }

// Port is a port of the host.
type Port struct {
	IP       string // empty: all addresses
	Port     string
	Protocol string
}

// Container is an inspection, as it came and as it is understood.
type Container struct {
	container.InspectResponse
	unknown []string
	mac     bool
}

// ErrFormat is returned for an inspection that lacks what every one has.
var ErrFormat = errors.New("it is no inspection of a container")

// Read reads the answer of an engine to GET /containers/ID/json.
//
// Errors: of encoding/json; [ErrFormat].
func Read(raw []byte) (*Container, error) {
	c := new(Container)
	if err := json.Unmarshal(raw, &c.InspectResponse); err != nil {
		return nil, fmt.Errorf("read the inspection of a container: %w", err)
	}
	if len(c.ID) < shortID || c.Config == nil || c.HostConfig == nil || c.State == nil || c.NetworkSettings == nil || len(c.Name) < 2 {
		return nil, fmt.Errorf("read the inspection of a container: %w", ErrFormat)
	}
	var parts struct{ Config, HostConfig map[string]json.RawMessage }
	if err := json.Unmarshal(raw, &parts); err != nil {
		return nil, fmt.Errorf("read the inspection of a container: %w", err)
	}
	if v, ok := parts.Config["MacAddress"]; ok { // engines before 25 have it there, if it was given
		c.mac = !empty(v)
		delete(parts.Config, "MacAddress")
	}
	c.unknown = append(unknownFields("Config", parts.Config, *c.Config), unknownFields("HostConfig", parts.HostConfig, *c.HostConfig)...)
	return c, nil
}

// ShortName returns the container's name without the slash.
func (c *Container) ShortName() string { return strings.TrimPrefix(c.Name, "/") }

// shortID is how many digits of its ID a container has for a hostname and an alias.
const shortID = 12

// Make returns how c is made again, or why it cannot be: all reasons, in a fixed order. With
// a refusal the recipe is nil.
//
// img is the image of c, inspected on the same engine, and g are those with which it moves as one.
func Make(c *Container, img *image.InspectResponse, h Host, r Rules, g Group) (*Recipe, []Refusal) {
	volumes, mounts := c.volumes()
	var why []Refusal
	why = append(why, c.aboutState()...)
	why = append(why, c.aboutHost(h, g)...)
	why = append(why, c.aboutStorage(r, mounts, g)...)
	why = append(why, c.aboutNetworks(g)...)
	why = append(why, c.aboutLife(r)...)
	if len(why) > 0 {
		return nil, why
	}
	return c.recipe(img, h, volumes), nil
}

// Of returns how c was made, without asking whether it can be moved: it is for comparing.
func Of(c *Container, img *image.InspectResponse, h Host) *Recipe {
	volumes, _ := c.volumes()
	return c.recipe(img, h, volumes)
}

func (c *Container) recipe(img *image.InspectResponse, h Host, volumes []Volume) *Recipe {
	cfg, host := *c.Config, *c.HostConfig
	r := &Recipe{
		ID: c.ID, Name: c.ShortName(), ImageID: c.Image, Restart: host.RestartPolicy, Volumes: volumes,
		Check: cfg.Healthcheck != nil && len(cfg.Healthcheck.Test) > 0 && cfg.Healthcheck.Test[0] != "NONE", StopSeconds: 10,
	}
	if cfg.StopTimeout != nil {
		r.StopSeconds = *cfg.StopTimeout
	}
	// The engine calls a container by its ID unless it has a name of its own.
	if len(c.ID) >= shortID && cfg.Hostname == c.ID[:shortID] {
		cfg.Hostname = ""
	}
	// An entry point that was taken away comes back with the image, unless it is said so.
	if len(cfg.Entrypoint) == 0 && img != nil && img.Config != nil && len(img.Config.Entrypoint) > 0 {
		cfg.Entrypoint = []string{""}
	}
	cfg.Labels, r.Bound = OwnLabels(cfg.Labels)
	host.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyDisabled}
	host.ContainerIDFile = "" // a file of whoever ran docker run
	host.Links = asked(host.Links)
	host.VolumesFrom = nil // its volumes are named
	if host.NetworkMode.IsContainer() {
		inAnothers(&cfg)
	}
	if defaultCgroupns(h) == host.CgroupnsMode {
		host.CgroupnsMode = ""
	}
	host.Binds, host.Mounts = explicit(&host, volumes)
	r.Request = container.CreateRequest{Config: &cfg, HostConfig: &host}
	c.networks(r)
	r.Ports = ports(host.PortBindings)
	if host.PublishAllPorts || randomPort(host.PortBindings) {
		r.Notes = append(r.Notes, "it has published ports without a number: the target picks others")
	}
	if cfg.Hostname == "" && !host.NetworkMode.IsContainer() {
		r.Notes = append(r.Notes, "its hostname is its ID, and will be the new one")
	}
	return r
}

// defaultCgroupns is what an engine writes into a container that asked for nothing.
func defaultCgroupns(h Host) container.CgroupnsMode {
	if h.CgroupV1 {
		return container.CgroupnsModeHost
	}
	return container.CgroupnsModePrivate
}

// OwnLabels returns labels without those that Belay wrote, and those of the gate.
func OwnLabels(labels map[string]string) (own, gate map[string]string) {
	if labels == nil {
		return nil, nil
	}
	own = make(map[string]string, len(labels))
	for k, v := range labels {
		switch low := strings.ToLower(strings.TrimSpace(k)); {
		case strings.HasPrefix(low, GateLabels):
			if gate == nil {
				gate = map[string]string{}
			}
			gate[k] = v
		case strings.HasPrefix(low, MoveLabels):
		default:
			own[k] = v
		}
	}
	return own, gate
}

// networks fills in what the container is on: names and options that were given, never what
// the engine gave it.
func (c *Container) networks(r *Recipe) {
	mode := c.HostConfig.NetworkMode
	if mode == "" || mode == network.NetworkDefault { // newer engines write it out
		r.Request.HostConfig.NetworkMode = network.NetworkBridge
	}
	ends := map[string]*network.EndpointSettings{}
	for name, e := range c.NetworkSettings.Networks {
		if e == nil {
			e = &network.EndpointSettings{}
		}
		out := &network.EndpointSettings{DriverOpts: maps.Clone(e.DriverOpts), GwPriority: e.GwPriority}
		if userDefined(name) {
			r.Networks = append(r.Networks, name)
			for _, a := range e.Aliases {
				// Engines before 25 list the short ID among the names that were given.
				if a != c.ID[:shortID] && a != "" {
					out.Aliases = append(out.Aliases, a)
				}
			}
			slices.Sort(out.Aliases)
			out.Aliases = slices.Compact(out.Aliases)
			out.Links = asked(e.Links)
		}
		ends[name] = out
		// A network may have been named by its ID, which is another one on the target.
		if e.NetworkID != "" && string(mode) == e.NetworkID {
			r.Request.HostConfig.NetworkMode = container.NetworkMode(name)
		}
	}
	slices.Sort(r.Networks)
	if len(ends) > 0 && !mode.IsNone() && !mode.IsContainer() {
		r.Request.NetworkingConfig = &network.NetworkingConfig{EndpointsConfig: ends}
	}
}

// Primary returns the network that a container is created on: engines before API 1.44 take
// only one, and are told of the others afterwards.
func (r *Recipe) Primary() string {
	return string(r.Request.HostConfig.NetworkMode)
}

func userDefined(name string) bool {
	switch name {
	case network.NetworkBridge, network.NetworkHost, network.NetworkNone, network.NetworkDefault:
		return false
	}
	return true
}

func ports(m network.PortMap) []Port {
	var out []Port
	for p, list := range m {
		for _, b := range list {
			if b.HostPort == "" || b.HostPort == "0" {
				continue
			}
			ip := ""
			if b.HostIP.IsValid() && !b.HostIP.IsUnspecified() {
				ip = b.HostIP.String()
			}
			out = append(out, Port{IP: ip, Port: b.HostPort, Protocol: string(p.Proto())})
		}
	}
	slices.SortFunc(out, func(a, b Port) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

// String returns a port as docker writes it.
func (p Port) String() string {
	if p.IP == "" {
		return p.Port + "/" + p.Protocol
	}
	return p.IP + ":" + p.Port + "/" + p.Protocol
}

func randomPort(m network.PortMap) bool {
	for _, list := range m {
		if slices.ContainsFunc(list, func(b network.PortBinding) bool { return b.HostPort == "" || b.HostPort == "0" }) {
			return true
		}
	}
	return false
}
