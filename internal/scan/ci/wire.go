package ci

import (
	"encoding/json"
	"time"

	"github.com/belay-project/belay/internal/scan/vulndb"
)

// Request asks for a scan.
type Request struct {
	// Image is an ID (sha256:...) or a name of an image of this host, the name of one in a
	// registry (HOST/NAME[:TAG][@DIGEST]), which is fetched if this host has none of that name, or
	// registry:NAME, which is fetched whatever is here.
	Image    string `json:"image"`
	Platform string `json:"platform,omitempty"` // os/arch[/variant], to choose from several
	// FailOn is a severity or an expression, as of belay scan --fail-on; "": nothing fails it.
	FailOn string `json:"failOn,omitempty"`
	// AllowIncomplete lets it pass though something could not be read or matched.
	AllowIncomplete bool `json:"allowIncomplete,omitempty"`
	// Ignore is the text of an ignore file, as of belay scan --ignore.
	Ignore string `json:"ignore,omitempty"`
	// Baseline is a report of belay scan -o json, or what accept.Reduce leaves of one.
	Baseline json.RawMessage `json:"baseline,omitempty"`
	Webhook  *Webhook        `json:"webhook,omitempty"`
}

// Webhook is where a result is sent to.
type Webhook struct {
	URL string `json:"url"`
	// Secret is the key of the signature, 16 to 256 bytes.
	Secret string `json:"secret"`
}

// The states of a scan.
const (
	StateQueued  = "queued"
	StateRunning = "running"
	StateDone    = "done"
	StateFailed  = "failed" // there is no result, and why is in Error
)

// The verdicts of a scan that is done. One that is not has none, and has not passed.
const (
	VerdictPass       = "pass"
	VerdictFail       = "fail"       // there are findings that FailOn means
	VerdictIncomplete = "incomplete" // there are none, but something could not be read or matched
)

// Scan is one scan, as the API tells of it.
type Scan struct {
	ID    string `json:"id"`
	Image string `json:"image"` // as asked for
	// Digest is the ID of an image of this host, or the digest of one in its registry; "" until it
	// is known.
	Digest          string `json:"digest,omitempty"`
	Platform        string `json:"platform,omitempty"`
	FailOn          string `json:"failOn,omitempty"` // as an expression
	AllowIncomplete bool   `json:"allowIncomplete,omitempty"`
	// Ignore and Baseline say that the verdict does not count all findings: those that the caller
	// ignored, or that its baseline had.
	Ignore   bool `json:"ignore,omitempty"`
	Baseline bool `json:"baseline,omitempty"`
	// IgnoreNotes are lines about rules that have expired, or match nothing.
	IgnoreNotes []string  `json:"ignoreNotes,omitempty"`
	Owner       string    `json:"owner"` // uid:1000, token:NAME, cert:CN, container:ID
	Event       bool      `json:"event,omitempty"`
	State       string    `json:"state"`
	Verdict     string    `json:"verdict,omitempty"`
	Error       string    `json:"error,omitempty"`
	Created     time.Time `json:"created"`
	Started     time.Time `json:"started,omitzero"`
	Ended       time.Time `json:"ended,omitzero"`
	Database    time.Time `json:"database,omitzero"` // when it was built
	Counts      *Counts   `json:"counts,omitempty"`
	// Webhook is pending, sent or failed; "" if there is none.
	Webhook string            `json:"webhook,omitempty"`
	Links   map[string]string `json:"links"`
}

// Over tells whether the scan is done or has failed.
func (s *Scan) Over() bool { return s.State == StateDone || s.State == StateFailed }

// Counts are the figures of a result.
type Counts struct {
	Packages  int            `json:"packages"`
	Findings  map[string]int `json:"findings"` // by severity
	Fixable   int            `json:"fixable"`
	Exploited int            `json:"exploited"`
	Failing   int            `json:"failing"` // for which FailOn holds
	Ignored   int            `json:"ignored,omitempty"`
	Known     int            `json:"known,omitempty"` // to the baseline
	Notes     int            `json:"notes"`           // on what could not be read or matched
}

// accept counts something that is ignored for a reason, or else known.
func (c *Counts) accept(ignored string, known bool) {
	switch {
	case ignored != "":
		c.Ignored++
	case known:
		c.Known++
	}
}

// Result is a scan with what it has found.
type Result struct {
	Scan
	Findings []Finding `json:"findings"`
	// LeftOut is how many findings more the report has.
	LeftOut int `json:"findingsLeftOut,omitempty"`
	// Misconfigurations are secrets, and what else is wrong with the configuration and the files.
	Misconfigurations []Misconfiguration `json:"misconfigurations,omitempty"`
	Notes             []string           `json:"notes"`
}

// Misconfiguration is one of them. It never has the value of a secret.
type Misconfiguration struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Where    string `json:"where,omitempty"`
	Text     string `json:"text"`
	// As of a [Finding].
	Ignored   string `json:"ignored,omitempty"`
	IgnoredBy string `json:"ignoredBy,omitempty"`
	Known     bool   `json:"known,omitempty"`
}

// Finding is one vulnerability in one package.
type Finding struct {
	IDs       []string `json:"ids"`
	About     []string `json:"about,omitempty"` // the vulnerabilities that it is about, if it is an advisory of several
	Severity  string   `json:"severity"`
	State     string   `json:"state"`
	Package   string   `json:"package"`
	Version   string   `json:"version"`
	Kind      string   `json:"kind"`
	Path      string   `json:"path,omitempty"`
	Fixed     string   `json:"fixed,omitempty"`
	Exploited bool     `json:"exploited,omitempty"`
	// Ignored is the reason for which it does not count, IgnoredBy the rule: ignore:LINE.
	Ignored   string `json:"ignored,omitempty"`
	IgnoredBy string `json:"ignoredBy,omitempty"`
	Known     bool   `json:"known,omitempty"` // to the baseline
	// Symbols tells whether a Go program has the vulnerable functions.
	Symbols *vulndb.Symbols `json:"symbols,omitempty"`
}

// List is the answer to GET /v1/scans, the newest first.
type List struct {
	Scans []Scan `json:"scans"`
}

// Notified is the answer to a registry's notification.
type Notified struct {
	Scans   []Scan    `json:"scans"`
	Skipped []Skipped `json:"skipped"`
}

// Skipped is an event of which no scan came.
type Skipped struct {
	Image  string `json:"image,omitempty"`
	Reason string `json:"reason"`
}

type errorBody struct {
	Error string `json:"error"`
}
