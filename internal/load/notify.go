package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/policy"
)

const (
	waiting     = 64               // alerts that may wait to be delivered
	sendTime    = 10 * time.Second // of one try
	commandTime = 30 * time.Second
	maxText     = 4 << 10 // of a message
)

// retries are the waits between tries to reach a webhook; after the last one it is given up.
var retries = []time.Duration{2 * time.Second, 10 * time.Second, 30 * time.Second}

// alertsComponent is the notifier's name in health.
const alertsComponent = "load_alerts"

// NotifyOptions say how a [Notifier] delivers.
type NotifyOptions struct {
	Host string
	// Run runs a program of the host with the arguments and the input, and waits for it.
	Run    func(ctx context.Context, path string, args []string, input []byte, timeout time.Duration) error
	Client *http.Client // nil: one that verifies certificates, uses no proxy and follows no redirect
	Health *health.Registry
	Log    *slog.Logger
}

// Notifier delivers alerts to the webhook and the email program of the policy they are of. The
// journal has them already: one that cannot be delivered is counted, and in health.
type Notifier struct {
	o       NotifyOptions
	queue   chan delivery
	retries []time.Duration
}

type delivery struct {
	alert Alert
	to    policy.Alerts
}

// NewNotifier returns a notifier that delivers once [Notifier.Run] is called.
func NewNotifier(o NotifyOptions) *Notifier {
	if o.Client == nil {
		o.Client = &http.Client{
			Timeout:       sendTime,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				TLSHandshakeTimeout: sendTime, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
				TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
			},
		}
	}
	return &Notifier{o: o, queue: make(chan delivery, waiting), retries: retries}
}

// Offer takes an alert of a policy. It does not block: what finds the queue full is dropped
// and counted.
func (n *Notifier) Offer(a *Alert, p *policy.LoadPolicy) {
	if p == nil || !p.Spec.Does(policy.LoadAlert) || p.Spec.Alerts.Webhook+p.Spec.Alerts.EmailCommand == "" {
		return
	}
	select {
	case n.queue <- delivery{*a, p.Spec.Alerts}:
	default:
		n.o.Health.Counter("load_alerts_dropped").Add(1)
		n.o.Health.SetDegraded(alertsComponent, "alerts are dropped: too many wait to be delivered")
	}
}

// Run delivers, one after the other, until ctx ends; then it returns nil. What still waits is
// in the journal.
func (n *Notifier) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-n.queue:
			n.deliver(ctx, &d)
		}
	}
}

func (n *Notifier) deliver(ctx context.Context, d *delivery) {
	var problems []string
	note := func(to string, err error) {
		if err == nil {
			n.o.Health.Counter("load_alerts_delivered").Add(1)
			return
		}
		n.o.Health.Counter("load_alerts_failed").Add(1)
		n.o.Log.Warn("an alert was not delivered; the journal has it", attr.Error, err.Error())
		problems = append(problems, to+": "+err.Error())
	}
	// The program first: it does not wait for a network.
	if d.to.EmailCommand != "" {
		note("email", n.mail(ctx, d))
	}
	if d.to.Webhook != "" {
		note("webhook", n.post(ctx, d))
	}
	if len(problems) > 0 {
		n.o.Health.SetDegraded(alertsComponent, "the last alert was not delivered by "+strings.Join(problems, "; "))
		return
	}
	n.o.Health.SetOK(alertsComponent)
}

// Message is the body that a webhook gets.
type Message struct {
	Schema string `json:"schema"` // MessageSchema
	Host   string `json:"host"`
	Text   string `json:"text"` // for people
	Event  string `json:"event"`
	Policy string `json:"policy"`
	Cap    string `json:"cap"`
	// Percent and Limit are in percent of what the node, or the container's limit, has.
	Percent   float64        `json:"percent"`
	Limit     int            `json:"limit"`
	Where     string         `json:"where,omitempty"`
	Time      time.Time      `json:"time"`
	Since     time.Time      `json:"since,omitzero"`
	Container *MessageName   `json:"container,omitempty"`
	Causes    []MessageCause `json:"causes"`
	Error     string         `json:"error,omitempty"`
}

// MessageSchema is the version of [Message].
const MessageSchema = "belay.dev/load-alert/v1"

// MessageName names a container.
type MessageName struct {
	ID    string `json:"id"`
	Name  string `json:"name,omitempty"`
	Image string `json:"image,omitempty"`
}

// MessageCause is a [Cause].
type MessageCause struct {
	MessageName
	Now   float64   `json:"now"`
	Grew  float64   `json:"grew"`
	Unit  string    `json:"unit"`
	Since time.Time `json:"since,omitzero"`
}

func (s *Subject) message() MessageName { return MessageName{string(s.ID), s.Name, s.Image} }

func messageOf(host string, a *Alert) *Message {
	m := &Message{
		Schema: MessageSchema, Host: host, Text: a.Text(), Event: a.Event, Policy: a.Policy, Cap: a.Cap, Percent: a.Percent, Limit: a.Limit,
		Where: a.Where, Time: a.Time.UTC(), Since: a.Since.UTC(), Error: a.Error, Causes: []MessageCause{},
	}
	if a.Container != nil {
		m.Container = new(a.Container.message())
	}
	for i := range a.Causes {
		c := &a.Causes[i]
		m.Causes = append(m.Causes, MessageCause{c.message(), c.Now, c.Grew, c.Unit, c.Since.UTC()})
	}
	return m
}

// post sends an alert to a webhook, and tries again where the receiver may come back.
func (n *Notifier) post(ctx context.Context, d *delivery) error {
	body, err := json.Marshal(messageOf(n.o.Host, &d.alert))
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		again, err := n.try(ctx, d.to.Webhook, body)
		if err == nil || !again || i == len(n.retries) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(n.retries[i]):
		}
	}
}

func (n *Notifier) try(ctx context.Context, url string, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "belay-agent")
	resp, err := n.o.Client.Do(req)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxText) // what it says is of no use
	switch {
	case resp.StatusCode/100 == 2:
		return false, nil
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode/100 == 5:
		return true, fmt.Errorf("it answered %d", resp.StatusCode)
	}
	return false, fmt.Errorf("it answered %d, which another try will not change", resp.StatusCode)
}

// mail gives the message to the email program: RFC 5322, with the addresses as arguments.
func (n *Notifier) mail(ctx context.Context, d *delivery) error {
	a := &d.alert
	subject := fmt.Sprintf("[belay] %s: %s %s", n.o.Host, a.Cap, a.Event)
	if a.Container != nil {
		subject += " in " + a.Container.shown()
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "To: %s\n", strings.Join(d.to.EmailTo, ", "))
	fmt.Fprintf(&b, "Subject: %s\n", mime.QEncoding.Encode("utf-8", line(subject)))
	fmt.Fprintf(&b, "Date: %s\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nAuto-Submitted: auto-generated\n\n", a.Time.Format(time.RFC1123Z))
	text := line(a.Text())
	// A line that is a dot alone ends the message for sendmail: the text is never only that.
	fmt.Fprintf(&b, "%s\n\nbelay load status, on %s, shows the node and its containers.\n", text[:min(len(text), maxText)], line(n.o.Host))
	return n.o.Run(ctx, d.to.EmailCommand, d.to.EmailTo, b.Bytes(), commandTime)
}

// line is a text without what could begin another line or header.
func line(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
