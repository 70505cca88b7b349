package ci

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// maxEvents bounds what one notification tells of.
const maxEvents = 100

// pushed is one image of which a registry tells.
type pushed struct {
	host, repository, tag, digest string
	mediaType                     string // "" where the registry does not say
	skip                          string // why it is none to be scanned; "" if it is one
}

// envelope has the fields that are read of each kind of notification: those of Distribution
// (versions 1 and 2 of its envelope), Harbor's webhook in its own form and as CloudEvents, and
// the generic one.
type envelope struct {
	// Source: https://distribution.github.io/distribution/about/notifications/.
	Events []struct {
		Action string `json:"action"`
		Target struct {
			MediaType  string `json:"mediaType"`
			Digest     string `json:"digest"`
			Repository string `json:"repository"`
			URL        string `json:"url"`
			Tag        string `json:"tag"`
		} `json:"target"`
		Request struct {
			Host string `json:"host"`
		} `json:"request"`
	} `json:"events"`
	// Source: https://goharbor.io/docs/latest/working-with-projects/project-configuration/configure-webhooks/.
	Type      string       `json:"type"`
	EventData *harborEvent `json:"event_data"`
	Data      *harborEvent `json:"data"`
	Image     string       `json:"image"`
}

type harborEvent struct {
	Resources []struct {
		Digest      string `json:"digest"`
		Tag         string `json:"tag"`
		ResourceURL string `json:"resource_url"`
	} `json:"resources"`
	Repository struct {
		FullName string `json:"repo_full_name"`
	} `json:"repository"`
}

// parseNotification reads the events of a notification. registry, if not "", is the host that
// they are about, whatever they say: a registry may know itself by a name of its own.
//
// Errors say what is wanted.
func parseNotification(body []byte, registry string) ([]pushed, error) {
	var e envelope
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, errors.New("the notification is no JSON of a form that is known: " + err.Error())
	}
	var out []pushed
	switch {
	case e.Events != nil:
		out = e.distribution()
	case e.EventData != nil || e.Data != nil:
		out = e.harbor()
	case e.Image != "":
		ref, err := parseImage(e.Image)
		if err != nil {
			return nil, err
		}
		name, digest, ok := strings.Cut(ref.name, "@")
		if ref.host == "" || !ok {
			return nil, errors.New("image: want HOST/NAME@DIGEST")
		}
		_, repo, _ := strings.Cut(name, "/")
		repo, tag, _ := strings.Cut(repo, ":")
		out = []pushed{{host: ref.host, repository: repo, tag: tag, digest: digest}}
	default:
		return nil, errors.New("want events of Distribution, an event of Harbor, or {\"image\": \"HOST/NAME@DIGEST\"}")
	}
	if len(out) > maxEvents {
		return nil, errors.New("more than " + strconv.Itoa(maxEvents) + " events in one notification")
	}
	for i := range out {
		if registry != "" {
			out[i].host = registry
		}
		out[i].check()
	}
	return out, nil
}

func (e *envelope) distribution() []pushed {
	out := make([]pushed, 0, min(len(e.Events), maxEvents+1))
	for i := range e.Events[:min(len(e.Events), maxEvents+1)] {
		ev := &e.Events[i]
		p := pushed{host: ev.Request.Host, repository: ev.Target.Repository, tag: ev.Target.Tag, digest: ev.Target.Digest, mediaType: ev.Target.MediaType}
		if ev.Action != "push" {
			p.skip = "it is no push"
		}
		if u, err := url.Parse(ev.Target.URL); p.host == "" && err == nil {
			p.host = u.Host
		}
		out = append(out, p)
	}
	return out
}

func (e *envelope) harbor() []pushed {
	d := e.EventData
	if d == nil {
		d = e.Data
	}
	out := make([]pushed, 0, min(len(d.Resources), maxEvents+1))
	for i := range d.Resources[:min(len(d.Resources), maxEvents+1)] {
		r := &d.Resources[i]
		p := pushed{repository: d.Repository.FullName, tag: r.Tag, digest: r.Digest}
		p.host, _, _ = strings.Cut(r.ResourceURL, "/")
		if e.Type != "PUSH_ARTIFACT" && e.Type != "harbor.artifact.pushed" {
			p.skip = "it is no push"
		}
		out = append(out, p)
	}
	return out
}

// manifestTypes are those of things that can be images.
var manifestTypes = map[string]bool{
	"": true, "application/vnd.oci.image.index.v1+json": true, "application/vnd.docker.distribution.manifest.list.v2+json": true,
	"application/vnd.oci.image.manifest.v1+json": true, "application/vnd.docker.distribution.manifest.v2+json": true,
}

// check says of an event why it is none of an image that can be scanned.
func (p *pushed) check() {
	switch {
	case p.skip != "":
	case !manifestTypes[p.mediaType]:
		p.skip = "it is no manifest of an image"
	case !imageID.MatchString(p.digest):
		p.skip = "its digest is none of SHA-256"
	case len(p.repository) > 255 || !repository.MatchString(p.repository):
		p.skip = "its repository has no valid name"
	case len(p.host) > 255 || !host.MatchString(p.host) || !strings.ContainsAny(p.host, ".:") && p.host != "localhost":
		p.skip = "it names no registry; fix: say which with ?registry=HOST"
	case signature(p.tag):
		p.skip = "it is a signature or an attestation"
	}
}

// signature tells whether a tag is one of those by which cosign keeps what belongs to an image.
func signature(tag string) bool {
	rest, ok := strings.CutPrefix(tag, "sha256-")
	return ok && len(rest) > 64 && rest[64] == '.'
}

func (p *pushed) image() string { return p.host + "/" + p.repository + "@" + p.digest }

// notify queues a scan of each image that a registry tells of. It answers when all have been
// looked at; a full queue is an error, so that the registry tells again.
func (s *Service) notify(w http.ResponseWriter, r *http.Request, sub *apicall.Subject) error {
	body, err := io.ReadAll(r.Body) // bounded by its route
	if err != nil {
		return refuse(http.StatusRequestEntityTooLarge, "the notification cannot be read, or is larger than %d bytes", maxNotifyBody)
	}
	q := r.URL.Query()
	list, err := parseNotification(body, q.Get("registry"))
	if err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	incomplete := q.Get("allowIncomplete")
	if incomplete != "" && incomplete != "true" && incomplete != "false" {
		return refuse(http.StatusBadRequest, "allowIncomplete: want true or false")
	}
	s.count("notifications")
	out := Notified{Scans: []Scan{}, Skipped: []Skipped{}}
	for i := range list {
		p := &list[i]
		if p.skip != "" {
			out.Skipped = append(out.Skipped, Skipped{Reason: p.skip})
			continue
		}
		scan, err := s.notified(sub, p, &Request{Image: registryPrefix + p.image(), FailOn: q.Get("failOn"), AllowIncomplete: incomplete == "true", Platform: q.Get("platform")})
		switch e, known := errors.AsType[*Error](err); {
		case err == nil:
			out.Scans = append(out.Scans, scan)
		case known && (e.retry || e.Status == http.StatusBadRequest), !known && !errors.Is(err, ErrDenied):
			return err
		default:
			s.count("notifications_refused")
			out.Skipped = append(out.Skipped, Skipped{Image: p.image(), Reason: err.Error()})
		}
	}
	s.write(w, http.StatusAccepted, out)
	return nil
}

func (s *Service) notified(sub *apicall.Subject, p *pushed, q *Request) (Scan, error) {
	j, err := s.newJob(sub, q)
	if err != nil {
		return Scan{}, err
	}
	j.scan.Event, j.scan.Digest = true, p.digest
	if err := s.ask(sub, ActNotify, j); err != nil {
		return Scan{}, err
	}
	return s.add(j)
}
