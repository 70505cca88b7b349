package journal

// Image is something that became known of an image, of [KindImage].
type Image struct {
	Event string   `json:"event"` // verdict, finding
	ID    string   `json:"id"`    // sha256:...
	Names []string `json:"names,omitempty"`
	// Of a finding: a vulnerability that the image was not known to have.
	Vulnerability string   `json:"vulnerability,omitempty"`
	Aliases       []string `json:"aliases,omitempty"`
	About         []string `json:"about,omitempty"`    // of an advisory: the flaws that it is about, at most 64
	Severity      string   `json:"severity,omitempty"` // unknown, negligible, low, medium, high, critical
	Package       string   `json:"package,omitempty"`
	Version       string   `json:"version,omitempty"`
	Fixed         string   `json:"fixed,omitempty"` // first version without it
	Exploited     bool     `json:"exploited,omitempty"`
	EPSS          float64  `json:"epss,omitempty"`
	// InUse says whether a container uses the package: in-use, not-seen, unknown. Use says how it
	// was observed, and Reachable by which published ports.
	InUse     string   `json:"inUse,omitempty"`
	Use       string   `json:"use,omitempty"`
	Reachable []string `json:"reachable,omitempty"`
	// Details are what a verdict rests on: findings, variables.
	Details []string `json:"details,omitempty"`
	// Containers are the full IDs of those that run the image, at most 32.
	Containers []string `json:"containers,omitempty"`
}
