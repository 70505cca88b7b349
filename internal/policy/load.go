package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// LoadKind is the kind of documents that say when a node is full and what to do then.
const LoadKind = "LoadPolicy"

// LoadPolicy is one parsed and validated document of kind [LoadKind].
//
// It has no mode: what it may do is what [LoadSpec.Actions] lists.
type LoadPolicy struct {
	File        string // as given to Parse
	Line        int    // first line of the document, from 1
	Revision    string // as that of a RuntimePolicy
	Name        string
	Annotations map[string]string
	Spec        LoadSpec
}

// LoadSpec is the body of a LoadPolicy.
type LoadSpec struct {
	// Caps are in the order of [CapNames], at most one a name and at least one.
	Caps []Cap
	// Hysteresis is how many points of percent below its cap a reading must fall before the
	// node counts as relieved of it. It is less than each cap.
	Hysteresis int
	// For is how long a reading must stay over a cap that names no duration of its own.
	For time.Duration
	// CoolDown is how long after an action none is taken again for the same cap.
	CoolDown time.Duration
	// Actions are without repetition and never empty.
	Actions []LoadAction
	Movable Movable
	// Orchestrator places the containers of this node; zero: nobody does, and Targets say where
	// they may go.
	Orchestrator Orchestrator
	Targets      []LoadTarget
	Limits       MoveLimits
	Moves        MoveSettings
	// Windows are when moves may start; none is always.
	Windows []Window
	Alerts  Alerts
}

// Cap is one limit of the node.
type Cap struct {
	Name    string // of CapNames
	Percent int    // 1 to 99, of what the node has; of time, for CPU and PSI
	// For is how long the reading must stay over it; 0: as [LoadSpec.For] says.
	For  time.Duration
	Line int
}

// CapNames returns the names that caps may have: cpu, memory, pids, disk, inodes, and
// psi.cpu, psi.memory, psi.io for the share of time in which some task waited.
func CapNames() []string { return slices.Clone(capNames) }

var capNames = []string{"cpu", "memory", "pids", "disk", "inodes", "psi.cpu", "psi.memory", "psi.io"}

// LoadAction is something that a LoadPolicy has done when a node is over a cap.
type LoadAction string

// The actions.
const (
	LoadAlert   LoadAction = "alert"   // tell the administrator
	LoadCordon  LoadAction = "cordon"  // start no new containers here
	LoadPropose LoadAction = "propose" // plan moves and wait for approval
	LoadMigrate LoadAction = "migrate" // plan moves and carry them out
)

// Movable says which containers moves may be planned for. All that is set must hold;
// nothing set is no container: whoever writes the policy has to say which.
type Movable struct {
	Images []string          `yaml:"images,omitempty"` // image globs
	Labels map[string]string `yaml:"labels,omitempty"`
	Names  []string          `yaml:"names,omitempty"` // globs
}

// Empty reports whether nothing is set.
func (m *Movable) Empty() bool { return len(m.Images)+len(m.Labels)+len(m.Names) == 0 }

// Matches reports whether a container may move, by its name, its image as the runtime shows
// it, and its labels.
func (m *Movable) Matches(name, image string, labels map[string]string) bool {
	if m.Empty() || !hasLabels(labels, m.Labels) {
		return false
	}
	if len(m.Images) > 0 && !slices.ContainsFunc(m.Images, func(g string) bool { return matchImage(g, image) }) {
		return false
	}
	name = strings.TrimPrefix(name, "/")
	return len(m.Names) == 0 || slices.ContainsFunc(m.Names, func(g string) bool { return matchGlob(g, name) })
}

// LoadTarget is another node that may take containers: the gate in front of its engine.
type LoadTarget struct {
	Name   string
	Engine string // tcp://host:port or unix:///path, of its gate
	// Files in PEM, for tcp: the authority that signed the gate's certificate, and our own
	// certificate and key.
	CA, Cert, Key string
	// NanoCPUs and MemoryBytes bound what of it counts, in billionths of a CPU and bytes; 0: all
	// that it says it has.
	NanoCPUs     int64
	MemoryBytes  int64
	Architecture string // GOARCH that it must have; empty: whichever it says
	Line         int
}

// Orchestrator is what schedules containers already: it is asked to have some leave this node, and
// says itself where they go. At most one of its kinds is set.
type Orchestrator struct {
	Swarm *Swarm // nil: it is not Swarm
	// Within is how long what was asked to leave may take.
	Within time.Duration
}

// None reports whether nothing places the containers.
func (o *Orchestrator) None() bool { return o.Kind() == "" }

// Kind names what places the containers, as the policy does; empty: nothing.
func (o *Orchestrator) Kind() string {
	if o.Swarm != nil {
		return "swarm"
	}
	return ""
}

// Arguments are those by which belay load leave is told of it; engine is the address of this node's.
func (o *Orchestrator) Arguments(engine string) []string {
	args := []string{"--orchestrator", o.Kind(), "--engine", engine}
	if s := o.Swarm; s != nil && s.Manager != "" {
		args = append(args, "--manager", s.Manager)
		if s.CA != "" {
			args = append(args, "--tlscacert", s.CA, "--tlscert", s.Cert, "--tlskey", s.Key)
		}
	}
	return args
}

// Swarm says how the API of a swarm's manager is reached.
type Swarm struct {
	Manager string // tcp://host:port or unix:///path; empty: this node's own engine, which is one then
	// Files in PEM, for tcp, as those of a [LoadTarget].
	CA, Cert, Key string
}

// MoveSettings say how containers are moved. See docs/moving.md.
type MoveSettings struct {
	CopyVolumes, LoseLayer, LoseAttributes, SplitNetworks bool
	Image                                                 string   // auto, pull or stream
	Hook                                                  []string // a program of root's with its first arguments; empty: none
	Drain, Healthy, Settle, Keep                          time.Duration
}

// MoveLimits bound how much may be moved.
type MoveLimits struct {
	AtOnce       int           // moves at one time
	PerHour      int           // moves in any hour
	PerContainer time.Duration // between two moves of one container
}

// Window is a span of a day, in UTC. One that ends before it begins goes over midnight and
// belongs to the day on which it begins.
type Window struct {
	Days     [7]bool // by time.Weekday
	From, To int     // minutes after midnight, 0 to 1439; never equal
	Line     int
}

// Contains reports whether t is in the window; its end is not.
func (w *Window) Contains(t time.Time) bool {
	t = t.UTC()
	day, m := t.Weekday(), t.Hour()*60+t.Minute()
	if w.From < w.To {
		return w.Days[day] && m >= w.From && m < w.To
	}
	return w.Days[day] && m >= w.From || w.Days[(day+6)%7] && m < w.To
}

// Open reports whether moves may start at t.
func (s *LoadSpec) Open(t time.Time) bool {
	return len(s.Windows) == 0 || slices.ContainsFunc(s.Windows, func(w Window) bool { return w.Contains(t) })
}

// Alerts are where alerts go besides the journal.
type Alerts struct {
	Webhook string // an https URL; empty: none
	// EmailCommand is the absolute path of a program that takes a message on its standard
	// input and the addresses of EmailTo as arguments; empty: none.
	EmailCommand string
	EmailTo      []string
}

// Defaults of a LoadPolicy.
const (
	DefaultHysteresis   = 5
	DefaultLoadFor      = time.Minute
	DefaultCoolDown     = 15 * time.Minute
	DefaultAtOnce       = 1
	DefaultPerHour      = 4
	DefaultPerContainer = time.Hour
	DefaultHealthy      = 5 * time.Minute
	DefaultSettle       = 10 * time.Second
	DefaultKeep         = 24 * time.Hour
	DefaultLeaveWithin  = 15 * time.Minute
)

// Plans reports whether the policy has moves planned: to be approved, or carried out.
func (s *LoadSpec) Plans() bool { return s.Does(LoadPropose) || s.Does(LoadMigrate) }

// Does reports whether the policy lists the action.
func (s *LoadSpec) Does(a LoadAction) bool { return slices.Contains(s.Actions, a) }

// String says which containers may move.
func (m *Movable) String() string {
	var parts []string
	if len(m.Images) > 0 {
		parts = append(parts, "image="+strings.Join(m.Images, ","))
	}
	if len(m.Names) > 0 {
		parts = append(parts, "name="+strings.Join(m.Names, ","))
	}
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		parts = append(parts, "label:"+k+"="+m.Labels[k])
	}
	if len(parts) == 0 {
		return "no container"
	}
	return strings.Join(parts, " and ")
}

// Rules lists what the policy sets, each as "rule=value".
func (s *LoadSpec) Rules() []string {
	var out []string
	for _, c := range s.Caps {
		d := c.For
		if d == 0 {
			d = s.For
		}
		out = append(out, fmt.Sprintf("%s=%d%%/%s", c.Name, c.Percent, d))
	}
	var acts []string
	for _, a := range s.Actions {
		acts = append(acts, string(a))
	}
	out = append(out, "actions="+strings.Join(acts, ","))
	if len(s.Targets) > 0 {
		out = append(out, "targets="+strconv.Itoa(len(s.Targets)))
	}
	if !s.Orchestrator.None() {
		out = append(out, "orchestrator="+s.Orchestrator.Kind())
	}
	return out
}

func orderLoads(ps []*LoadPolicy) {
	slices.SortFunc(ps, func(a, b *LoadPolicy) int { return cmp.Compare(a.Name, b.Name) })
}

type canonLoadDoc struct {
	APIVersion string        `yaml:"apiVersion"`
	Kind       string        `yaml:"kind"`
	Metadata   canonMeta     `yaml:"metadata"`
	Spec       canonLoadSpec `yaml:"spec"`
}

type canonLoadSpec struct {
	Caps         canonLoadCaps      `yaml:"caps"`
	Hysteresis   string             `yaml:"hysteresis"`
	For          string             `yaml:"for"`
	CoolDown     string             `yaml:"coolDown"`
	Actions      []LoadAction       `yaml:"actions"`
	Movable      *Movable           `yaml:"movable,omitempty"`
	Orchestrator *canonOrchestrator `yaml:"orchestrator,omitempty"`
	Targets      []canonTarget      `yaml:"targets,omitempty"`
	Limits       *canonLimits       `yaml:"limits,omitempty"`
	Moves        *canonMoves        `yaml:"moves,omitempty"`
	Windows      []canonWindow      `yaml:"windows,omitempty"`
	Alerts       *canonAlerts       `yaml:"alerts,omitempty"`
}

type canonLoadCaps struct {
	Flat map[string]string `yaml:",inline"`
	PSI  map[string]string `yaml:"psi,omitempty"`
}

type canonTarget struct {
	Name         string `yaml:"name"`
	Engine       string `yaml:"engine"`
	CA           string `yaml:"ca,omitempty"`
	Cert         string `yaml:"cert,omitempty"`
	Key          string `yaml:"key,omitempty"`
	CPUs         string `yaml:"cpus,omitempty"`
	Memory       string `yaml:"memory,omitempty"`
	Architecture string `yaml:"architecture,omitempty"`
}

type canonOrchestrator struct {
	Swarm  *canonSwarm `yaml:"swarm,omitempty"`
	Within string      `yaml:"within"`
}

type canonSwarm struct {
	Manager string `yaml:"manager,omitempty"`
	CA      string `yaml:"ca,omitempty"`
	Cert    string `yaml:"cert,omitempty"`
	Key     string `yaml:"key,omitempty"`
}

type canonMoves struct {
	CopyVolumes    bool     `yaml:"copyVolumes"`
	LoseLayer      bool     `yaml:"loseLayer"`
	LoseAttributes bool     `yaml:"loseAttributes,omitempty"`
	SplitNetworks  bool     `yaml:"splitNetworks"`
	Image          string   `yaml:"image"`
	Hook           []string `yaml:"hook,omitempty"`
	Drain          string   `yaml:"drain"`
	Healthy        string   `yaml:"healthy"`
	Settle         string   `yaml:"settle"`
	Keep           string   `yaml:"keep"`
}

type canonLimits struct {
	AtOnce       int    `yaml:"atOnce"`
	PerHour      int    `yaml:"perHour"`
	PerContainer string `yaml:"perContainer"`
}

type canonWindow struct {
	Days []string `yaml:"days"`
	From string   `yaml:"from"`
	To   string   `yaml:"to"`
}

type canonAlerts struct {
	Webhook string      `yaml:"webhook,omitempty"`
	Email   *canonEmail `yaml:"email,omitempty"`
}

type canonEmail struct {
	Command string   `yaml:"command"`
	To      []string `yaml:"to"`
}

// Canonical returns the document in its normal form; see [RuntimePolicy.Canonical].
func (p *LoadPolicy) Canonical() []byte {
	s := &p.Spec
	d := canonLoadDoc{APIVersion: APIVersion, Kind: LoadKind, Metadata: canonMeta{Name: p.Name, Annotations: p.Annotations}}
	d.Spec = canonLoadSpec{
		Caps:       canonLoadCaps{Flat: map[string]string{}, PSI: map[string]string{}},
		Hysteresis: strconv.Itoa(s.Hysteresis) + "%", For: s.For.String(), CoolDown: s.CoolDown.String(), Actions: s.Actions,
	}
	for _, c := range s.Caps {
		text := strconv.Itoa(c.Percent) + "%"
		if c.For != 0 {
			text += " for " + c.For.String()
		}
		if name, psi := strings.CutPrefix(c.Name, "psi."); psi {
			d.Spec.Caps.PSI[name] = text
		} else {
			d.Spec.Caps.Flat[c.Name] = text
		}
	}
	if s.Plans() {
		d.Spec.Movable = &s.Movable
		d.Spec.Limits = &canonLimits{s.Limits.AtOnce, s.Limits.PerHour, s.Limits.PerContainer.String()}
	}
	if o := &s.Orchestrator; !o.None() {
		d.Spec.Orchestrator = &canonOrchestrator{Within: o.Within.String()}
		if o.Swarm != nil {
			d.Spec.Orchestrator.Swarm = (*canonSwarm)(o.Swarm)
		}
	} else if s.Plans() {
		m := &s.Moves
		d.Spec.Moves = &canonMoves{m.CopyVolumes, m.LoseLayer, m.LoseAttributes, m.SplitNetworks, m.Image, m.Hook, m.Drain.String(), m.Healthy.String(), m.Settle.String(), m.Keep.String()}
	}
	for _, t := range s.Targets {
		c := canonTarget{Name: t.Name, Engine: t.Engine, CA: t.CA, Cert: t.Cert, Key: t.Key, Architecture: t.Architecture}
		if t.NanoCPUs > 0 {
			c.CPUs = formatCPUs(t.NanoCPUs)
		}
		if t.MemoryBytes > 0 {
			c.Memory = formatBytes(t.MemoryBytes)
		}
		d.Spec.Targets = append(d.Spec.Targets, c)
	}
	for _, w := range s.Windows {
		c := canonWindow{From: clock(w.From), To: clock(w.To)}
		for i, day := range dayNames {
			if w.Days[i] {
				c.Days = append(c.Days, day)
			}
		}
		d.Spec.Windows = append(d.Spec.Windows, c)
	}
	if a := &s.Alerts; a.Webhook != "" || a.EmailCommand != "" {
		d.Spec.Alerts = &canonAlerts{Webhook: a.Webhook}
		if a.EmailCommand != "" {
			d.Spec.Alerts.Email = &canonEmail{a.EmailCommand, a.EmailTo}
		}
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&d); err != nil {
		// Only strings, numbers and maps of strings are in there: none can fail.
		panic(fmt.Sprintf("encode policy %s: %v", p.Name, err))
	}
	return b.Bytes()
}

// dayNames are by time.Weekday.
var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func clock(minutes int) string { return fmt.Sprintf("%02d:%02d", minutes/60, minutes%60) }
