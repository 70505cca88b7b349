package control

import (
	"context"
	"net/http"
	"time"
)

// LoadWatcher is what an [Agent] also is if it watches how full the node is.
type LoadWatcher interface {
	// Load returns what the watcher knows. It samples nothing.
	Load(ctx context.Context) (*LoadStatus, error)
}

// LoadStatus is the answer of `belay load status`.
type LoadStatus struct {
	// Watching: a LoadPolicy is in force and a sample was taken. Without one nothing is sampled.
	Watching bool      `json:"watching"`
	Sampled  time.Time `json:"sampled,omitzero"`
	// PressureTriggers: the kernel tells of pressure by itself; else it is sampled.
	PressureTriggers bool      `json:"pressureTriggers"`
	MemoryBytes      uint64    `json:"memoryBytes"`     // that the node has
	NetworkBytes     float64   `json:"networkBytes"`    // a second, both directions
	Caps             []LoadCap `json:"caps"`            // by policy
	Containers       []LoadOf  `json:"containers"`      // by ID
	Error            string    `json:"error,omitempty"` // why what containers have cannot be read
}

// LoadCap is one cap of a LoadPolicy, held against the node.
type LoadCap struct {
	Policy string `json:"policy"`
	Cap    string `json:"cap"`
	// Percent is the reading; nil while there is none.
	Percent    *float64  `json:"percent"`
	Limit      int       `json:"limit"`
	Hysteresis int       `json:"hysteresis"`
	ForSeconds float64   `json:"forSeconds"`
	State      string    `json:"state"`          // calm, pending, over
	Since      time.Time `json:"since,omitzero"` // of pending and over
	// Told: the present over was told; over and not told is one that the cool-down holds back.
	Told     bool   `json:"told,omitempty"`
	HeldBack uint64 `json:"heldBack,omitempty"` // alerts that the cool-down has held back so far
	Where    string `json:"where,omitempty"`    // file system or cgroup that the reading is of
	Error    string `json:"error,omitempty"`    // why it cannot be read
}

// LoadOf is what one container has.
type LoadOf struct {
	ID           string             `json:"id"`
	Name         string             `json:"name,omitempty"`
	Image        string             `json:"image,omitempty"`
	CPUs         float64            `json:"cpus"`
	CPUQuota     float64            `json:"cpuQuota,omitempty"` // CPUs; left out: none
	MemoryBytes  uint64             `json:"memoryBytes"`
	MemoryMax    uint64             `json:"memoryMax,omitempty"` // bytes; left out: none
	PIDs         uint64             `json:"pids"`
	PIDsMax      uint64             `json:"pidsMax,omitempty"`      // left out: none
	NetworkBytes *float64           `json:"networkBytes,omitempty"` // a second; left out: the host's network, or not known
	WrittenBytes float64            `json:"writtenBytes"`           // a second, to block devices
	Pressure     map[string]float64 `json:"pressure"`               // percent of time, by cpu, memory, io; left out: not known
	Over         []string           `json:"over,omitempty"`         // caps that it is over, by limits of its own
	Error        string             `json:"error,omitempty"`
}

func loadStatus(s *Server, r *http.Request) (any, error) {
	a, ok := s.agent.(LoadWatcher)
	if !ok {
		return nil, &Error{Status: http.StatusNotImplemented, Message: "this agent does not watch load"}
	}
	return a.Load(r.Context())
}

// Load returns how full the node is, by the agent's watcher.
func (c *Client) Load(ctx context.Context) (*LoadStatus, error) {
	var st LoadStatus
	if err := c.ask(ctx, http.MethodGet, "/v1/load", nil, &st); err != nil {
		return nil, err
	}
	return &st, nil
}
