package doctor

import (
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/secretname"
)

// What a bundle holds is copied, field by field, into the types below. A field that a
// type of another package grows is left out until somebody adds it here.

// sharedFinding is a [Finding] without what others wrote. A fix can name paths and groups,
// and is left to docs/doctor.md.
type sharedFinding struct {
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
}

type sharedReport struct {
	Version  string          `json:"version"`
	Time     time.Time       `json:"time"`
	Worst    Severity        `json:"worst"`
	Findings []sharedFinding `json:"findings"`
}

func shareReport(r *Report) sharedReport {
	s := sharedReport{Version: safeName(r.Version), Time: r.Time, Worst: r.Worst, Findings: []sharedFinding{}}
	for _, f := range r.Findings {
		text := f.Why
		if f.own {
			text = f.Text
		}
		s.Findings = append(s.Findings, sharedFinding{ID: f.ID, Severity: f.Severity, Text: text})
	}
	return s
}

type sharedState struct {
	Name  string `json:"name"`
	State string `json:"state"`
}

type sharedLevel struct {
	Rule  string `json:"rule"`
	Level string `json:"level"`
}

type sharedCanary struct {
	Time   time.Time `json:"time"`
	Denied bool      `json:"denied"`
	Count  uint64    `json:"count"`
	Failed uint64    `json:"failed"`
}

type sharedJournal struct {
	Seq        uint64            `json:"seq"`
	Written    uint64            `json:"written"`
	Dropped    map[string]uint64 `json:"dropped"`
	Bytes      int64             `json:"bytes"`
	SyncErrors uint64            `json:"syncErrors"`
	Damaged    uint64            `json:"damagedLines"`
	Failing    bool              `json:"failing"`
}

// sharedStatus is a [control.Status] without names, addresses and reasons.
type sharedStatus struct {
	Version    string            `json:"version"`
	Started    time.Time         `json:"started"`
	Kernel     string            `json:"kernel"`
	Enforcing  bool              `json:"enforcing"`
	Backend    string            `json:"backend"`
	Usable     map[string]bool   `json:"backendsUsable"`
	Adopted    bool              `json:"adopted"`
	Scopes     int               `json:"scopes"`
	Containers int               `json:"containers"`
	Levels     []sharedLevel     `json:"levels"`
	Runtimes   []sharedState     `json:"runtimes"`
	Health     []sharedState     `json:"health"`
	Counters   map[string]uint64 `json:"counters"`
	Failures   map[string]uint64 `json:"failures"`
	Journal    sharedJournal     `json:"journal"`
	Canary     *sharedCanary     `json:"canary,omitempty"`
	Gate       bool              `json:"gate"`
}

func shareStatus(st *control.Status) *sharedStatus {
	j := st.Journal
	s := &sharedStatus{
		Version: safeName(st.Version), Started: st.Started, Kernel: safeName(st.Kernel), Enforcing: st.Enforcing, Backend: safeName(st.Backend),
		Usable: map[string]bool{}, Adopted: st.Adopted, Scopes: len(st.Scopes), Containers: st.Containers,
		Counters: map[string]uint64{}, Failures: shareCounts(st.Failures), Gate: st.Factor != nil,
		Journal: sharedJournal{Seq: j.Seq, Written: j.Written, Dropped: shareCounts(j.Dropped), Bytes: j.Bytes, SyncErrors: j.SyncErrors, Damaged: j.Damaged, Failing: j.LastError != ""},
	}
	for _, b := range st.Backends {
		s.Usable[safeName(b.Name)] = b.Usable
	}
	for _, l := range st.Levels {
		s.Levels = append(s.Levels, sharedLevel{Rule: safeName(l.Rule), Level: safeName(l.Level)})
	}
	for _, r := range st.Sources {
		state := "not connected"
		if r.Connected {
			state = "connected"
		}
		s.Runtimes = append(s.Runtimes, sharedState{Name: safeName(r.Name), State: state})
	}
	for _, c := range st.Health.Components {
		s.Health = append(s.Health, sharedState{Name: safeName(c.Name), State: c.State.String()})
	}
	for _, c := range st.Health.Counters {
		s.Counters[safeName(c.Name)] = c.Value
	}
	if c := st.Canary; c != nil {
		s.Canary = &sharedCanary{Time: c.Time, Denied: c.Denied, Count: c.Count, Failed: c.Failed}
	}
	return s
}

func shareCounts(m map[string]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for k, v := range m {
		out[safeName(k)] = v
	}
	return out
}

type sharedPolicy struct {
	Kind     string `json:"kind,omitempty"`
	Name     string `json:"name"`
	Revision string `json:"revision"`
	Mode     string `json:"mode"`
	Refused  bool   `json:"refused"`
}

type sharedPolicies struct {
	Revision string         `json:"revision"`
	Loaded   time.Time      `json:"loaded"`
	Bad      bool           `json:"bad"` // what is written is not in force
	Policies []sharedPolicy `json:"policies"`
}

func sharePolicies(set *control.PolicySet) sharedPolicies {
	s := sharedPolicies{Revision: safeName(set.Revision), Loaded: set.Loaded, Bad: set.Error != "", Policies: []sharedPolicy{}}
	for _, p := range set.Policies {
		s.Policies = append(s.Policies, sharedPolicy{Kind: safeName(p.Kind), Name: p.Name, Revision: p.Revision, Mode: safeName(p.Mode), Refused: p.Refused != ""})
	}
	return s
}

// sharedRecord is a [journal.Record] without what containers, users and clients wrote:
// arguments, labels, names, addresses, messages. Paths are kept as [safePath] leaves them.
type sharedRecord struct {
	Seq        uint64            `json:"seq"`
	Time       time.Time         `json:"time"`
	Kind       string            `json:"kind"`
	Hook       string            `json:"hook,omitempty"`
	Decision   string            `json:"decision,omitempty"`
	Errno      int               `json:"errno,omitempty"`
	Level      string            `json:"level,omitempty"`
	Backend    string            `json:"backend,omitempty"`
	Flags      []string          `json:"flags,omitempty"`
	Lost       map[string]uint64 `json:"lost,omitempty"`
	Container  string            `json:"container,omitempty"` // its ID
	Class      string            `json:"class,omitempty"`
	PID        uint32            `json:"pid,omitempty"`
	UID        *uint32           `json:"uid,omitempty"`
	EUID       *uint32           `json:"euid,omitempty"`
	Args       int               `json:"args,omitempty"` // how many
	Executable string            `json:"executable,omitempty"`
	ExecLayer  string            `json:"executableLayer,omitempty"`
	Policy     string            `json:"policy,omitempty"`
	Revision   string            `json:"revision,omitempty"`
	Rule       string            `json:"rule,omitempty"`
	Mode       string            `json:"mode,omitempty"`
	Object     string            `json:"object,omitempty"` // its type
	Path       string            `json:"path,omitempty"`
	Layer      string            `json:"layer,omitempty"`
	Port       uint16            `json:"port,omitempty"`
	Protocol   string            `json:"protocol,omitempty"`
	Action     string            `json:"action,omitempty"`
	Status     int               `json:"status,omitempty"`
	Cause      string            `json:"cause,omitempty"`
}

func shareRecord(r *journal.Record) sharedRecord {
	s := sharedRecord{
		Seq: r.Seq, Time: r.Time, Kind: safeName(string(r.Kind)), Hook: safeName(r.Hook), Decision: safeName(string(r.Decision)),
		Errno: r.Errno, Level: safeName(r.Level), Backend: safeName(string(r.Backend)), Lost: shareCounts(r.Lost),
	}
	for _, f := range r.Flags {
		s.Flags = append(s.Flags, safeName(f))
	}
	if c := r.Container; c != nil {
		s.Container, s.Class = containerID(string(c.ID)), safeName(c.Class)
	}
	if p := r.Process; p != nil {
		s.PID, s.UID, s.EUID, s.Args = p.PID, &p.UID, &p.EUID, len(p.Args)
		if x := p.Executable; x != nil {
			s.Executable, s.ExecLayer = safePath(x.Path), safeName(string(x.Layer))
		}
	}
	if p := r.Policy; p != nil {
		s.Policy, s.Revision, s.Rule, s.Mode = p.Name, p.Revision, safeName(p.Rule), safeName(p.Mode)
	}
	if o := r.Object; o != nil {
		s.Object, s.Path, s.Layer, s.Port, s.Protocol = safeName(o.Type), safePath(o.Path), safeName(string(o.Layer)), o.Port, safeName(o.Protocol)
	}
	if a := r.API; a != nil {
		s.Action, s.Status, s.Cause = safeName(a.Action), a.Status, safeName(a.Cause)
	}
	return s
}

// gone stands for what may not be shared.
const gone = "[redacted]"

const (
	maxName  = 64 // of Belay's own words; longer ones are none
	maxPlain = 32 // of a file's name
	maxDense = 15 // of a part of a file's name with digits and without a separator
)

// safeName returns one of Belay's own words, or a version, unchanged. Anything else that
// has come into its place is redacted.
func safeName(s string) string {
	if len(s) <= maxName && plainName(s) {
		return s
	}
	return gone
}

func plainName(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-+~() ", r)
	})
}

// containerID returns 64 hexadecimal digits as they are; anything else is redacted.
func containerID(s string) string {
	if len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" {
		return s
	}
	return gone
}

// afterNames are directories whose entries are called after users and volumes.
var afterNames = []string{"home", "users", "Users", "volumes", "media", "mail", "crontabs", "linger"}

// safePath returns a path whose components look like names of files. One that looks like a
// value (key=value, a token, an identifier) is redacted: a container chooses its paths. So is the name of
// a user or a volume, where a directory says that it is one.
func safePath(p string) string {
	if p == "" {
		return ""
	}
	parts := strings.Split(p, "/")
	for i, part := range parts {
		named := i > 0 && part != "" && slices.Contains(afterNames, parts[i-1])
		if named || len(part) > maxPlain || valued(part) || !plainName(part) || strings.Contains(part, " ") {
			parts[i] = gone
		}
	}
	return strings.Join(parts, "/")
}

// valued tells whether a file's name is or has a token, or a run of characters as keys and digests have them.
func valued(name string) bool {
	const separators = "._-"
	for rest := name; rest != ""; {
		if secretname.Token(rest) {
			return true
		}
		end := strings.IndexAny(rest, separators) + 1
		if end == 0 {
			end = len(rest)
		}
		if word := strings.TrimRight(rest[:end], separators); len(word) > maxDense && strings.ContainsAny(word, "0123456789") {
			return true
		}
		rest = rest[end:]
	}
	return false
}
