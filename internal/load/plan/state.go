package plan

import "time"

// State is all that a plan is made from.
type State struct {
	// Now is the moment for which the plan is made. Nothing else tells the time.
	Now   time.Time `json:"now"`
	Nodes []Node    `json:"nodes"`
	// Sources are the nodes to relieve, by name; none is every node over a cap. A node that
	// is named and not over a cap stays as it is.
	Sources []string `json:"sources,omitempty"`

	Caps Caps `json:"caps"` // of nodes that have none of their own
	// Hysteresis is how many points of percent below its cap a node is brought, and below
	// theirs targets stay. It is less than each cap.
	Hysteresis int      `json:"hysteresis"`
	Limits     Limits   `json:"limits"`
	Rules      Rules    `json:"rules"`
	Windows    []Window `json:"windows,omitempty"` // when moves may start; none is always
	// History are moves of the last days, under way, done and failed.
	History []Past `json:"history,omitempty"`
	// Reasons asks for a verdict on each target for each container that could leave, which
	// costs time and memory: [NodePlan.Containers] has them then, up to [MaxVerdicts].
	Reasons bool `json:"reasons,omitempty"`
}

// Node is one host: one that is full, one that may take containers, or both.
type Node struct {
	Name string `json:"name"`
	// Accepts says that it may take containers: a target of the LoadPolicy, not cordoned.
	Accepts bool `json:"accepts,omitempty"`
	// Refuses says in words why it takes none, where that is known; it then takes none.
	Refuses string `json:"refuses,omitempty"`
	// Places says that it is no node but an orchestrator, which finds room itself, for what it has
	// placed and nothing else.
	Places bool `json:"places,omitempty"`
	// Enforces says that Belay enforces policies there.
	Enforces bool `json:"enforces,omitempty"`
	// Seen is when its readings were made; those older than [Limits.MaxAge] are not trusted.
	Seen time.Time `json:"seen"`

	Has      Amounts  `json:"has"`
	Use      Amounts  `json:"use"` // of all that runs there, not of the containers alone
	Pressure Pressure `json:"pressure"`
	Caps     *Caps    `json:"caps,omitempty"`

	Host Platform `json:"host"`
	Site Site     `json:"site"`
	Gate Gate     `json:"gate"`

	Containers []Container `json:"containers,omitempty"`
}

// Platform is what a node's kernel and engine are.
type Platform struct {
	Architecture string   `json:"architecture"`     // GOARCH
	Cgroup       int      `json:"cgroup"`           // 1 or 2
	Engine       string   `json:"engine"`           // its version, such as 28.5.1
	Offers       []string `json:"offers,omitempty"` // see [Container.Needs]
	// ContainerdStore says that containerd keeps the engine's images and layers, at a place of its own.
	ContainerdStore bool `json:"containerdStore,omitempty"`
}

// Site is what is at a node already.
type Site struct {
	// Ports are taken by others than the containers that the node lists.
	Ports         []Port       `json:"ports,omitempty"`
	Networks      []Attachment `json:"networks,omitempty"` // Fixed says nothing here
	VolumeDrivers []string     `json:"volumeDrivers,omitempty"`
	Volumes       []string     `json:"volumes,omitempty"` // names
	// FreeBytes is how much more can be written where the engine keeps volumes and images; 0: not known.
	FreeBytes int64 `json:"freeBytes,omitempty"`
	// SharedPaths are paths at which binds find the same data as on other nodes.
	SharedPaths []string `json:"sharedPaths,omitempty"`
}

// Gate is what a node's policies and scanner say.
type Gate struct {
	// Policies is the revision of the set of policies in force there; two nodes with one
	// revision decide alike.
	Policies string `json:"policies"`
	// Images are the verdicts on images by digest, by policies and scans there.
	Images map[string]Answer `json:"images,omitempty"`
	// Admits are the verdicts on the creation of containers, by their IDs. They are needed
	// where the node's policies are not those of the source.
	Admits map[string]Answer `json:"admits,omitempty"`
}

// Answer is a verdict of a node that was asked. The zero value is no.
type Answer struct {
	Allow bool   `json:"allow"`
	Why   string `json:"why,omitempty"`
}

// Limits bound moves; the zero value lets none start.
type Limits struct {
	AtOnce       int           `json:"atOnce"`       // moves under way at one node, from it or to it
	PerHour      int           `json:"perHour"`      // containers that leave one node in any hour
	PerContainer time.Duration `json:"perContainer"` // between two moves of one container
	// NoReturn is how long a container does not go back to a node that it has left.
	NoReturn time.Duration `json:"noReturn"`
	// CoolDown is how long a node that containers have left takes none.
	CoolDown time.Duration `json:"coolDown"`
	MaxAge   time.Duration `json:"maxAge"` // of readings
}

// DefaultLimits are those of a LoadPolicy, with a day in which no container goes back and
// readings of five minutes.
func DefaultLimits() Limits {
	return Limits{
		AtOnce: 1, PerHour: 4, PerContainer: time.Hour, NoReturn: 24 * time.Hour, CoolDown: 15 * time.Minute, MaxAge: 5 * time.Minute,
	}
}

// Past is a move of a container that was begun.
type Past struct {
	// Move is the ID of the move. Containers that move as one have one in common, and count as one that is
	// under way. Empty: it moves alone.
	Move   string    `json:"move,omitempty"`
	Name   string    `json:"name"` // of the container, which it keeps
	From   string    `json:"from"`
	To     string    `json:"to"`
	Began  time.Time `json:"began"`
	Ended  time.Time `json:"ended"` // zero: it is under way
	Failed bool      `json:"failed,omitempty"`
	// Use is what the container used. Readings that do not know of the move yet are corrected by it.
	Use Amounts `json:"use"`
}

func (p *Past) underWay() bool { return p.Ended.IsZero() }

// Window is a span of a day in UTC in which moves may start. One that ends before it begins
// goes over midnight and belongs to the day on which it begins.
type Window struct {
	Days     [7]bool // by time.Weekday
	From, To int     // minutes after midnight, 0 to 1439; never equal
}

const dayMinutes = 24 * 60

// contains reports whether t is in the window; its end is not.
func (w *Window) contains(t time.Time) bool {
	t = t.UTC()
	day, m := t.Weekday(), t.Hour()*60+t.Minute()
	if w.From < w.To {
		return w.Days[day] && m >= w.From && m < w.To
	}
	return w.Days[day] && m >= w.From || w.Days[(day+6)%7] && m < w.To
}

// opens returns when the window next opens after t, within eight days.
func (w *Window) opens(t time.Time) (at time.Time, ok bool) {
	t = t.UTC()
	midnight := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	for i := range 8 {
		at := midnight.AddDate(0, 0, i).Add(time.Duration(w.From) * time.Minute)
		if w.Days[at.Weekday()] && at.After(t) {
			return at, true
		}
	}
	return time.Time{}, false
}

// closed says why no move may start at this moment, or nothing.
func (s *State) closed() string {
	if len(s.Windows) == 0 {
		return ""
	}
	var next time.Time
	for i := range s.Windows {
		if s.Windows[i].contains(s.Now) {
			return ""
		}
		if at, ok := s.Windows[i].opens(s.Now); ok && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if next.IsZero() {
		return "no maintenance window ever opens"
	}
	return "outside of the maintenance windows, of which the next opens at " + next.Format("Mon 15:04") + " UTC"
}
