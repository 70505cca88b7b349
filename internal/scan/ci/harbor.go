package ci

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/scan/report"
)

// Harbor's Scanner Adapter API, by which a registry asks for scans and fetches reports.
//
// Source: https://github.com/goharbor/pluggable-scanner-spec, version 1.1, and Harbor's client
// of it (src/pkg/scan/rest/v1).
const (
	harborPrefix   = "/api/v1/"
	harborMetadata = "application/vnd.scanner.adapter.metadata+json; version=1.1"
	harborResponse = "application/vnd.scanner.adapter.scan.response+json; version=1.1"
	harborError    = "application/vnd.scanner.adapter.error; version=1.1"
	// refreshAfter is when a report that is not there yet is to be asked for again, in seconds.
	refreshAfter = "5"
	maxAuthority = 8 << 10 // a registry's Authorization, in bytes
)

// harborReports are the media types of the vulnerability report: the older has the same fields.
var harborReports = []string{
	"application/vnd.security.vulnerability.report; version=1.1",
	"application/vnd.scanner.adapter.vuln.report.harbor+json; version=1.0",
}

// harborConsumes are the forms of images that Harbor asks about; an index comes as its parts.
var harborConsumes = []string{"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}

type harborCapability struct {
	Type     string   `json:"type"`
	Consumes []string `json:"consumes_mime_types"`
	Produces []string `json:"produces_mime_types"`
}

type harborAdapter struct {
	Scanner      report.HarborScanner `json:"scanner"`
	Capabilities []harborCapability   `json:"capabilities"`
	Properties   map[string]string    `json:"properties"`
}

type harborRequest struct {
	Registry struct {
		URL           string `json:"url"`
		Authorization string `json:"authorization"`
	} `json:"registry"`
	Artifact report.HarborArtifact `json:"artifact"`
}

type harborErrorBody struct {
	Error struct {
		Message string `json:"message"`
	} `json:"error"`
}

// harborDescribe tells what the adapter can do.
func (s *Service) harborDescribe(w http.ResponseWriter, _ *http.Request, sub *apicall.Subject) error {
	if err := s.o.Access.Ask(sub, ActList, apicall.Facts{}); err != nil {
		s.count("denied")
		return err
	}
	out := harborAdapter{
		Scanner:      report.Harbor(s.o.Version),
		Capabilities: []harborCapability{{"vulnerability", harborConsumes, harborReports}},
		Properties:   map[string]string{"harbor.scanner-adapter/scanner-type": "os-package-vulnerability"},
	}
	if s.o.Database != nil {
		if built, err := s.o.Database(); err == nil {
			out.Properties["harbor.scanner-adapter/vulnerability-database-updated-at"] = built.UTC().Format(time.RFC3339)
		}
	}
	s.writeAs(w, harborMetadata, http.StatusOK, out)
	return nil
}

// harborScan queues a scan of an image in a registry, with the credentials that come along.
func (s *Service) harborScan(w http.ResponseWriter, r *http.Request, sub *apicall.Subject) error {
	var q harborRequest
	if err := decode(r.Body, &q, false); err != nil {
		return err
	}
	p, err := q.image()
	if err != nil {
		return err
	}
	j, err := s.newJob(sub, &Request{Image: registryPrefix + p.image()})
	if err != nil {
		return err
	}
	j.authority = q.Registry.Authorization
	if err := s.ask(sub, ActCreate, j); err != nil {
		return err
	}
	scan, err := s.add(j)
	if err != nil {
		return err
	}
	s.count("harbor")
	s.writeAs(w, harborResponse, http.StatusAccepted, struct {
		ID string `json:"id"`
	}{scan.ID})
	return nil
}

// image checks what is to be scanned.
func (q *harborRequest) image() (*pushed, error) {
	bad := func(format string, args ...any) error {
		return refuse(http.StatusUnprocessableEntity, format, args...)
	}
	u, err := url.Parse(q.Registry.URL)
	if err != nil || len(q.Registry.URL) > maxURL || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return nil, bad("registry.url: want https://HOST[:PORT]")
	}
	addr, err := netip.ParseAddr(u.Hostname())
	home := err == nil && addr.IsLoopback() || u.Hostname() == "localhost"
	if u.Scheme != "https" && (u.Scheme != "http" || !home) {
		return nil, bad("registry.url: want https: no image is fetched without encryption but of this host; fix: set Harbor's external URL to one of https")
	}
	if a := q.Registry.Authorization; len(a) > maxAuthority || strings.ContainsFunc(a, func(c rune) bool { return c < ' ' || c > '~' }) {
		return nil, bad("registry.authorization: want at most %d printable characters", maxAuthority)
	}
	p := &pushed{host: strings.ToLower(u.Host), repository: q.Artifact.Repository, tag: q.Artifact.Tag, digest: q.Artifact.Digest, mediaType: q.Artifact.MimeType}
	if p.check(); p.skip != "" {
		return nil, bad("artifact: %s", p.skip)
	}
	return p, nil
}

// harborReport answers with the report of a scan, or says when to ask again.
func (s *Service) harborReport(w http.ResponseWriter, r *http.Request, sub *apicall.Subject) error {
	media, ok := harborAccepts(r.Header.Values("Accept"))
	if !ok {
		return refuse(http.StatusNotAcceptable, "there is no report of this media type: want %s", harborReports[0])
	}
	j, err := s.find(r, sub)
	if err != nil {
		return err
	}
	s.mu.Lock()
	scan, sum := j.copied(), j.sum
	s.mu.Unlock()
	switch scan.State {
	case StateDone:
	case StateFailed:
		return refuse(http.StatusInternalServerError, "the scan has failed: %s", scan.Error)
	default:
		w.Header().Set("Refresh-After", refreshAfter)
		w.WriteHeader(http.StatusFound)
		return nil
	}
	free, err := s.reading(r)
	if err != nil {
		return err
	}
	defer free()
	rep, err := s.openResult(j, &scan, sum)
	if err != nil {
		return err
	}
	name, digest, _ := strings.Cut(j.ref.name, "@")
	_, repo, _ := strings.Cut(name, "/")
	var b bytes.Buffer
	if err := rep.WriteHarbor(&b, s.o.Version, report.HarborArtifact{Repository: repo, Digest: digest}); err != nil {
		return err
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	_, _ = w.Write(b.Bytes()) // who is gone needs nothing
	return nil
}

// harborAccepts returns the media type of a report that was asked for.
func harborAccepts(fields []string) (string, bool) {
	list := strings.Split(strings.Join(fields, ","), ",")
	for _, f := range list {
		f = strings.ReplaceAll(f, " ", "")
		if f == "" && len(list) == 1 || f == "*/*" || f == "application/*" || f == "application/json" {
			return harborReports[0], true
		}
		for _, media := range harborReports {
			if strings.EqualFold(f, strings.ReplaceAll(media, " ", "")) {
				return media, true
			}
		}
	}
	return "", false
}

func (s *Service) writeAs(w http.ResponseWriter, media string, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":{"message":"the answer cannot be encoded"}}`)
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client is gone if this fails
}
