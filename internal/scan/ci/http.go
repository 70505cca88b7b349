package ci

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/accept"
)

const (
	maxHeaderBytes = 16 << 10
	maxBody        = 16 << 10  // of a request for a scan without ignore rules and a baseline
	maxLarge       = 6 << 20   // of one with them
	maxNotifyBody  = 256 << 10 // of a registry's events
	headerTime     = 5 * time.Second
	requestTime    = 15 * time.Second
	answerTime     = 2 * time.Minute // a result may be large and its reader slow
	idleTime       = 30 * time.Second
)

type connKey struct{}

func (s *Service) server(ctx context.Context) *http.Server {
	return &http.Server{
		Handler: s, ReadHeaderTimeout: headerTime, ReadTimeout: requestTime, WriteTimeout: answerTime, IdleTimeout: idleTime,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
		BaseContext:  func(net.Listener) context.Context { return ctx },
		ConnContext:  func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 alone
	}
}

// handler answers one route for a caller who is known. What it returns is sent as JSON.
type handler func(s *Service, w http.ResponseWriter, r *http.Request, sub *apicall.Subject) error

type route struct {
	pattern string // of http.ServeMux
	params  []string
	body    int64
	serve   handler
}

// routes is all that the API answers.
var routes = []route{
	{"POST /v1/scans", nil, maxLarge, (*Service).create},
	{"GET /v1/scans", []string{"image", "digest"}, 0, (*Service).list},
	{"GET /v1/scans/{id}", []string{"format"}, 0, (*Service).show},
	{"GET /v1/scans/{id}/events", nil, 0, (*Service).follow},
	{"GET " + harborPrefix + "metadata", nil, 0, (*Service).harborDescribe},
	{"POST " + harborPrefix + "scan", nil, maxBody, (*Service).harborScan},
	{"GET " + harborPrefix + "scan/{id}/report", nil, 0, (*Service).harborReport},
	{"POST /v1/notifications/registry", []string{"registry", "failOn", "allowIncomplete", "platform"}, maxNotifyBody, (*Service).notify},
}

// ServeHTTP implements [http.Handler].
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.count("requests")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := s.serve(w, r); err != nil {
		s.fail(w, r, err)
	}
}

func (s *Service) serve(w http.ResponseWriter, r *http.Request) error {
	// A page in a browser that holds a certificate must not make its calls.
	if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
		return refuse(http.StatusForbidden, "the API is not for web pages")
	}
	sub, err := s.authenticate(r)
	if err != nil {
		return err
	}
	if !s.rates.Take(shareOf(&sub), s.o.Now()) {
		s.count("limited")
		return &Error{http.StatusTooManyRequests, "too many requests: wait some seconds", true}
	}
	for _, rt := range routes {
		method, path, _ := strings.Cut(rt.pattern, " ")
		id, ok := matchPath(path, r.URL.Path)
		if !ok || method != r.Method {
			continue
		}
		if err := checkQuery(r.URL.RawQuery, rt.params); err != nil {
			return err
		}
		if rt.body == 0 && r.ContentLength != 0 {
			return refuse(http.StatusBadRequest, "%s takes no body", rt.pattern)
		}
		r.Body = http.MaxBytesReader(w, r.Body, rt.body)
		r.SetPathValue("id", id)
		return rt.serve(s, w, r, &sub)
	}
	return refuse(http.StatusNotFound, "no such path, or not with this method: %s %.100q", r.Method, r.URL.Path)
}

// matchPath compares a path with a pattern in which {id} stands for one part.
func matchPath(pattern, path string) (id string, ok bool) {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return "", false
	}
	for i := range want {
		if want[i] == "{id}" {
			id = got[i]
		} else if want[i] != got[i] {
			return "", false
		}
	}
	return id, true
}

// authenticate says who calls: the holder of a token that the request shows, else whoever is at
// the other end. A token that is not valid is refused, whoever shows it.
func (s *Service) authenticate(r *http.Request) (apicall.Subject, error) {
	c, ok := r.Context().Value(connKey{}).(net.Conn)
	if !ok {
		return apicall.Subject{}, refuse(http.StatusForbidden, "who is calling is unknown")
	}
	sub, err := s.o.Identify(c)
	var remote netip.Addr
	if a, perr := netip.ParseAddrPort(r.RemoteAddr); perr == nil {
		remote = a.Addr().Unmap()
	}
	value := r.Header.Get("Authorization")
	if value == "" {
		switch {
		case err == nil && sub.Kind != apicall.Nobody:
			return sub, nil
		case remote.IsValid():
			return sub, refuse(http.StatusUnauthorized, "show a client certificate, or a bearer token: root of the host makes one with belay token create")
		}
		s.count("denied")
		return sub, refuse(http.StatusForbidden, "who is calling is unknown")
	}
	guesser := "somebody"
	switch {
	case err == nil && sub.Kind != apicall.Nobody:
		guesser = shareOf(&sub)
	case remote.IsValid():
		guesser = shareOfAddress(remote)
	}
	if !s.guesses.Has(guesser, s.o.Now()) {
		s.count("limited")
		return sub, &Error{http.StatusTooManyRequests, "too many tokens were wrong: wait a minute", true}
	}
	scheme, secret, _ := strings.Cut(value, " ")
	name := ""
	if s.o.Verify != nil && strings.EqualFold(scheme, "Bearer") && len(r.Header.Values("Authorization")) == 1 {
		if name, err = s.o.Verify(strings.TrimSpace(secret), s.o.Now()); err != nil {
			name = ""
		}
	}
	if name == "" {
		s.guesses.Take(guesser, s.o.Now())
		s.count("tokens_wrong")
		return sub, refuse(http.StatusUnauthorized, "the request's Authorization is no valid bearer token: it is wrong, has expired or was revoked; "+
			"root of the host makes one with belay token create")
	}
	return apicall.Subject{Kind: apicall.Token, Token: name, PID: sub.PID, PIDStart: sub.PIDStart, Remote: remote}, nil
}

func checkQuery(raw string, known []string) error {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return refuse(http.StatusBadRequest, "query: %v", err)
	}
	for k, v := range q {
		if !slices.Contains(known, k) {
			return refuse(http.StatusBadRequest, "unknown parameter %.100q", k)
		}
		if len(v) > 1 {
			return refuse(http.StatusBadRequest, "parameter %s is given more than once", k)
		}
	}
	return nil
}

// create puts a scan into the queue.
func (s *Service) create(w http.ResponseWriter, r *http.Request, sub *apicall.Subject) error {
	var q Request
	free, err := s.large(r, sub)
	if err != nil {
		return err
	}
	defer free()
	if err := decode(r.Body, &q, true); err != nil {
		return err
	}
	j, err := s.newJob(sub, &q)
	if err != nil {
		return err
	}
	if q.Webhook != nil {
		if j.hook, err = s.newHook(q.Webhook); err != nil {
			return err
		}
	}
	if err := s.ask(sub, ActCreate, j); err != nil {
		return err
	}
	if err := s.accepts(sub, j, &q); err != nil {
		return err
	}
	scan, err := s.add(j)
	if err != nil {
		return err
	}
	w.Header().Set("Location", scan.Links["self"])
	s.write(w, http.StatusAccepted, scan)
	return nil
}

// newJob checks what was asked for.
func (s *Service) newJob(sub *apicall.Subject, q *Request) (*job, error) {
	ref, err := parseImage(q.Image)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	if q.Platform != "" && (len(q.Platform) > maxPlatform || !platform.MatchString(q.Platform)) {
		return nil, refuse(http.StatusBadRequest, "platform: want os/arch[/variant], as linux/arm64")
	}
	if ref.remote && !s.permits(ref.host) {
		return nil, refuse(http.StatusForbidden, "no image is fetched from %s; fix: belay-agent run --scan-registry %s", ref.host, ref.host)
	}
	j := &job{ref: ref, share: shareOf(sub), scan: Scan{Image: q.Image, Platform: q.Platform, AllowIncomplete: q.AllowIncomplete, Owner: policy.Owner(sub)}}
	if q.FailOn != "" {
		if j.rule, err = accept.Compile(q.FailOn); err != nil {
			return nil, refuse(http.StatusBadRequest, "failOn: %v", err)
		}
		j.scan.FailOn = j.rule.String()
	}
	return j, nil
}

// ask asks the policies about a scan that is to be made.
func (s *Service) ask(sub *apicall.Subject, action string, j *job) error {
	facts := apicall.Facts{Image: j.ref.name, Platform: j.scan.Platform, Registry: j.ref.host}
	if imageID.MatchString(j.ref.name) {
		facts.Registry, facts.ImageDigest = "?", j.ref.name
	}
	err := s.o.Access.Ask(sub, action, facts, apicall.Resource{Kind: apicall.ResourceScan, Asked: j.ref.name, Image: j.ref.name})
	if errors.Is(err, ErrDenied) {
		s.count("denied")
	}
	return err
}

// find returns a scan that the caller may read. One that it may not read is not there.
func (s *Service) find(r *http.Request, sub *apicall.Subject) (*job, error) {
	none := refuse(http.StatusNotFound, "no such scan: it was forgotten, or is somebody else's")
	s.mu.Lock()
	j := s.jobs[r.PathValue("id")]
	var res apicall.Resource
	if j != nil {
		res = j.resource()
	}
	s.mu.Unlock()
	if j == nil {
		return nil, none
	}
	if err := s.o.Access.Ask(sub, ActRead, apicall.Facts{}, res); err != nil {
		s.count("denied")
		if errors.Is(err, ErrDenied) {
			return nil, none
		}
		return nil, err
	}
	return j, nil
}

func (s *Service) show(w http.ResponseWriter, r *http.Request, sub *apicall.Subject) error {
	form := r.URL.Query().Get("format")
	if _, ok := formats[form]; !ok && form != "" && form != "json" {
		return refuse(http.StatusBadRequest, "format: want json, report, sarif, junit or cyclonedx")
	}
	j, err := s.find(r, sub)
	if err != nil {
		return err
	}
	s.mu.Lock()
	scan, sum := j.copied(), j.sum
	s.mu.Unlock()
	if _, ok := formats[form]; ok && scan.State != StateDone {
		return refuse(http.StatusConflict, "the scan is %s: there is no %s of it", scan.State, form)
	}
	if scan.State == StateDone {
		free, err := s.reading(r)
		if err != nil {
			return err
		}
		defer free()
	}
	media, body, err := s.render(j, &scan, sum, form)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // who is gone needs nothing
	return nil
}

// reading waits until a result may be read into memory. The caller calls free.
func (s *Service) reading(r *http.Request) (free func(), err error) {
	select {
	case s.reads <- struct{}{}:
		return func() { <-s.reads }, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case <-time.After(requestTime):
		return nil, &Error{http.StatusServiceUnavailable, "too many results are read at a time: try again", true}
	}
}

func (s *Service) list(w http.ResponseWriter, r *http.Request, sub *apicall.Subject) error {
	if err := s.o.Access.Ask(sub, ActList, apicall.Facts{}); err != nil {
		s.count("denied")
		return err
	}
	q := r.URL.Query()
	s.mu.Lock()
	var found []*job
	for _, j := range s.jobs {
		if v := q.Get("digest"); v != "" && v != j.scan.Digest && !strings.HasSuffix(j.scan.Image, "@"+v) {
			continue
		}
		if v := q.Get("image"); v != "" && v != j.scan.Image && v != j.ref.name {
			continue
		}
		found = append(found, j)
	}
	slices.SortFunc(found, func(a, b *job) int { return b.scan.Created.Compare(a.scan.Created) })
	scans, seen := make([]Scan, len(found)), make([]apicall.Resource, len(found))
	for i, j := range found {
		scans[i], seen[i] = j.copied(), j.resource()
	}
	s.mu.Unlock()
	out := List{Scans: []Scan{}}
	for i := range scans {
		if s.o.Access.Sees(sub, seen[i]) {
			out.Scans = append(out.Scans, scans[i])
		}
	}
	s.write(w, http.StatusOK, out)
	return nil
}

// decode reads one document; strict: with fields that are known only.
func decode(r io.Reader, into any, strict bool) error {
	dec := json.NewDecoder(r)
	if strict {
		dec.DisallowUnknownFields()
	}
	err := dec.Decode(into)
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return refuse(http.StatusRequestEntityTooLarge, "the body is too large")
	}
	if err != nil {
		return refuse(http.StatusBadRequest, "the body: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "the body: more than one document")
	}
	return nil
}

func (s *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	e, known := errors.AsType[*Error](err)
	switch {
	case known:
		status = e.Status
	case errors.Is(err, ErrDenied):
		status = http.StatusForbidden
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		status = http.StatusServiceUnavailable
	default:
		s.o.Log.Error("a request to the scan API failed", attr.Error, err.Error())
	}
	if known && e.retry {
		w.Header().Set("Retry-After", "5")
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if status >= http.StatusBadRequest && status != http.StatusNotFound && status != http.StatusConflict {
		w.Header().Set("Connection", "close") // a body that nobody reads may follow
	}
	if strings.HasPrefix(r.URL.Path, harborPrefix) {
		var body harborErrorBody
		body.Error.Message = err.Error()
		s.writeAs(w, harborError, status, body)
		return
	}
	s.write(w, status, errorBody{err.Error()})
}

func (s *Service) write(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		s.o.Log.Error("an answer of the scan API cannot be encoded", attr.Error, err.Error())
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "%s\n", b) // the client is gone if this fails
}
