package ci

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/hooksig"
)

// The states of a delivery.
const (
	hookPending = "pending"
	hookSent    = "sent"
	hookFailed  = "failed"
)

// The fields of a delivery: those of [hooksig], of which the ID is the scan's.
const (
	HeaderSignature = hooksig.HeaderSignature
	HeaderTimestamp = hooksig.HeaderTimestamp
	HeaderDelivery  = hooksig.HeaderDelivery
)

const (
	maxURL    = 2048
	minSecret = 16
	maxSecret = 256
	hookTime  = 10 * time.Second // of one try
)

// hook is where the result of a scan is sent to.
type hook struct {
	url    string
	secret []byte
	named  bool // the host was named by the operator, not by "*"
	host   string
}

// newHook checks where somebody wants a result sent to.
func (s *Service) newHook(w *Webhook) (*hook, error) {
	bad := func(format string, args ...any) error {
		return refuse(http.StatusBadRequest, "webhook: "+format, args...)
	}
	if len(w.Secret) < minSecret || len(w.Secret) > maxSecret {
		return nil, bad("want a secret of %d to %d bytes: the result is signed with it", minSecret, maxSecret)
	}
	u, err := url.Parse(w.URL)
	if err != nil || len(w.URL) > maxURL {
		return nil, bad("want a URL of at most %d bytes", maxURL)
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", u.Opaque != "":
		return nil, bad("want a URL of https or http")
	case u.User != nil:
		return nil, bad("its URL must not hold a name or a password")
	case u.Fragment != "":
		return nil, bad("its URL must not have a fragment")
	}
	h := &hook{url: u.String(), secret: []byte(w.Secret), host: u.Hostname()}
	allowed := false
	for _, a := range s.o.WebhookHosts {
		switch {
		case a == "*":
			allowed = true
		case strings.EqualFold(a, u.Host), strings.EqualFold(a, u.Hostname()):
			allowed, h.named = true, true
		}
	}
	switch {
	case !allowed:
		return nil, refuse(http.StatusForbidden, "webhook: no result is sent to %s; fix: belay-agent run --scan-webhook-host %s", u.Host, u.Host)
	case u.Scheme == "http" && !h.named:
		return nil, refuse(http.StatusForbidden, "webhook: plain HTTP only to a host that is named; fix: belay-agent run --scan-webhook-host %s", u.Host)
	}
	return h, nil
}

// metadata are addresses at which clouds give away a host's credentials, beside link-local
// ones. Sources: the instance metadata services of AWS (IPv6), Alibaba Cloud and Oracle Cloud.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192")}

// nat64 is the well-known prefix of RFC 6052, behind which any IPv4 address may be.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// special tells whether an address leads to this host, its link or nowhere, where no result
// may go unless the operator has named that address itself (or localhost).
func special(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	for _, m := range metadata {
		if a == m {
			return true
		}
	}
	return a.Is4() && a.As4()[0] == 0 // "this network", RFC 1122, 3.2.1.3
}

// reaches decides on the address that a name has led to, when it is connected to: what a name
// means may change between two looks.
func (h *hook) reaches(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("webhook: the address %q: %w", address, err)
	}
	if !special(ap.Addr()) {
		return nil
	}
	literal, err := netip.ParseAddr(h.host)
	itself := err == nil && literal.Unmap() == ap.Addr().Unmap()
	home := strings.EqualFold(h.host, "localhost") && ap.Addr().Unmap().IsLoopback()
	if h.named && (itself || home) {
		return nil
	}
	return fmt.Errorf("webhook: %s is of this host, of its link or of a metadata service: no result is sent there", ap.Addr())
}

// client returns a client that goes where the hook may. It uses no proxy, which would resolve
// names itself, and follows no redirect.
func (h *hook) client() *http.Client {
	d := &net.Dialer{Timeout: hookTime, Control: func(_, address string, _ syscall.RawConn) error { return h.reaches(address) }}
	return &http.Client{
		Timeout: hookTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSHandshakeTimeout: hookTime, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		},
	}
}

// send has the result delivered in the background. s.mu is held.
func (s *Service) send(ctx context.Context, j *job) {
	scan := j.copied()
	scan.Webhook = ""
	key := "hook " + j.share
	room := !s.ended && s.open[key] < maxOwnOpen
	if room {
		select {
		case s.hooks <- struct{}{}:
		default:
			room = false
		}
	}
	if !room {
		j.scan.Webhook = hookFailed
		s.count("webhooks_dropped")
		return
	}
	s.open[key]++
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer func() { <-s.hooks }()
		defer s.leave(key)
		err := s.deliver(ctx, j.hook, &scan)
		s.mu.Lock()
		defer s.mu.Unlock()
		j.scan.Webhook = hookSent
		s.count("webhooks")
		if err != nil {
			j.scan.Webhook = hookFailed
			s.count("webhooks_failed")
			s.o.Log.Warn("a result was not delivered to its webhook", attr.Error, short(err.Error()))
		}
		if s.jobs[j.scan.ID] == j {
			s.save(j)
		}
	}()
}

// errNoRetry wraps what another try will not mend.
var errNoRetry = errors.New("not tried again")

func (s *Service) deliver(ctx context.Context, h *hook, scan *Scan) error {
	body, err := json.Marshal(scan)
	if err != nil {
		return err
	}
	c := h.client()
	for n := 0; ; n++ {
		err := s.try(ctx, c, h, scan.ID, body)
		if err == nil || errors.Is(err, errNoRetry) || n >= len(s.o.retry) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(s.o.retry[n]):
		}
	}
}

func (s *Service) try(ctx context.Context, c *http.Client, h *hook, id string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %w", errNoRetry, err)
	}
	stamp := strconv.FormatInt(s.o.Now().Unix(), 10)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "belay/"+s.o.Version)
	r.Header.Set(HeaderDelivery, id)
	r.Header.Set(HeaderTimestamp, stamp)
	r.Header.Set(HeaderSignature, Sign(h.secret, stamp, body))
	res, err := c.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 4<<10)
	switch {
	case res.StatusCode < 300:
		return nil
	case res.StatusCode == http.StatusRequestTimeout, res.StatusCode == http.StatusTooManyRequests, res.StatusCode >= 500:
		return fmt.Errorf("the webhook answers %d", res.StatusCode)
	}
	return fmt.Errorf("the webhook answers %d: %w", res.StatusCode, errNoRetry)
}

// Sign returns the value of [HeaderSignature].
func Sign(secret []byte, timestamp string, body []byte) string {
	return hooksig.Sign(secret, timestamp, body)
}
