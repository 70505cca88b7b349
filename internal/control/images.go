package control

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/belay-project/belay/internal/scan/inuse"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// Image is one line of `belay images`.
type Image struct {
	ID      string    `json:"id"` // sha256:...
	Names   []string  `json:"names,omitempty"`
	Scanned time.Time `json:"scanned,omitzero"` // zero: never
	Queued  bool      `json:"queued,omitempty"`
	Error   string    `json:"error,omitempty"` // why the last scan failed
	OS      string    `json:"os,omitempty"`
	// Packages is how many were found, Findings how many by severity, Fixable and Exploited
	// how many of them.
	Packages  int            `json:"packages"`
	Findings  map[string]int `json:"findings"`
	Fixable   int            `json:"fixable"`
	Exploited int            `json:"exploited"`
	Complete  bool           `json:"complete"`
	Database  time.Time      `json:"database,omitzero"` // by which it is matched; zero: by none
	// UsedBy names the containers that have it, Running how many of them run.
	UsedBy  []string `json:"usedBy"`
	Running int      `json:"running"`
	// Decision is what the image policies say of it today: allowed, denied, would_deny.
	Decision string `json:"decision,omitempty"`
	Policy   string `json:"policy,omitempty"`
	Rule     string `json:"rule,omitempty"`
}

// ImageExplanation is the answer of `belay explain --image`.
type ImageExplanation struct {
	Image Image `json:"image"`
	// Judged tells whether there is any image policy.
	Judged  bool           `json:"judged"`
	Reason  string         `json:"reason"`
	Details []string       `json:"details"`
	Expired []string       `json:"expired"` // exceptions that would have let it pass and are over
	Notes   []string       `json:"notes"`   // what could not be read or matched
	List    []ImageFinding `json:"findings"`
	// Level is how a denial holds for what does not come through the gate.
	Level string `json:"level"`
}

// ContainerUse is what the processes of a running container use, as was seen so far.
type ContainerUse struct {
	ID    string     `json:"id"`
	Name  string     `json:"name,omitempty"`
	Image string     `json:"image,omitempty"` // its ID
	Seen  inuse.Seen `json:"seen"`
}

// ImageFinding is one vulnerability in one package of an image.
type ImageFinding struct {
	IDs       []string `json:"ids"`
	About     []string `json:"about,omitempty"` // the vulnerabilities that it is about, if it is an advisory of several
	Severity  string   `json:"severity"`
	Package   string   `json:"package"`
	Version   string   `json:"version"`
	Fixed     string   `json:"fixed,omitempty"`
	Exploited bool     `json:"exploited,omitempty"`
	EPSS      float64  `json:"epss,omitempty"` // 0: nobody has estimated it
	// Use is what was observed of the package in containers of the image.
	Use inventory.Use `json:"use"`
	// Symbols tells whether a Go program has the vulnerable functions: present, absent, unknown.
	Symbols   string    `json:"symbols,omitempty"`
	FirstSeen time.Time `json:"firstSeen,omitzero"` // on this host; zero: not known
}

func images(s *Server, r *http.Request) (any, error) {
	list, err := s.agent.Images(r.Context())
	if list == nil {
		list = []Image{}
	}
	return list, err
}

func explainImage(s *Server, r *http.Request) (any, error) {
	ref := r.URL.Query().Get("image")
	if ref == "" || len(ref) > maxRefBytes {
		return nil, badRequest("image: want a name or an ID")
	}
	return s.agent.ExplainImage(r.Context(), ref)
}

func containerUse(s *Server, r *http.Request) (any, error) {
	ref := r.URL.Query().Get("container")
	if ref == "" || len(ref) > maxRefBytes {
		return nil, badRequest("container: want a name, an ID or the beginning of an ID")
	}
	return s.agent.ContainerUse(r.Context(), ref)
}

// ContainerUse returns what the processes of a container use.
//
// Errors: [ErrNotFound].
func (c *Client) ContainerUse(ctx context.Context, ref string) (*ContainerUse, error) {
	var u ContainerUse
	if err := c.ask(ctx, http.MethodGet, "/v1/containers/use", url.Values{"container": {ref}}, &u); err != nil {
		return nil, err
	}
	if err := u.Seen.Check(); err != nil {
		return nil, err
	}
	return &u, nil
}

// Images returns what the agent knows of images.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	var list []Image
	if err := c.ask(ctx, http.MethodGet, "/v1/images", nil, &list); err != nil {
		return nil, err
	}
	return list, nil
}

// ExplainImage says what the image policies say of an image, and why.
//
// Errors: [ErrNotFound].
func (c *Client) ExplainImage(ctx context.Context, ref string) (*ImageExplanation, error) {
	var e ImageExplanation
	if err := c.ask(ctx, http.MethodGet, "/v1/images/explain", url.Values{"image": {ref}}, &e); err != nil {
		return nil, err
	}
	return &e, nil
}
