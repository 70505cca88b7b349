package output

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Kinds of outputs.
const (
	KindStdout  = "stdout"
	KindFile    = "file"
	KindSyslog  = "syslog"
	KindWebhook = "webhook"
)

// Formats of records.
const (
	FormatBelay = "belay" // docs/event-schema.md
	FormatOCSF  = "ocsf"
	FormatECS   = "ecs"
)

// Spec is one output, as the operator wrote it: KIND[:TARGET][,OPTION=VALUE...].
type Spec struct {
	Kind   string // Kind* constants
	Target string // path, URL or, of a webhook, @FILE that holds the URL
	Format string // Format* constants; belay

	Size int64 // of a file, in bytes, when the next one is begun; 64 MiB
	Keep int   // files, the current one included; 5

	Facility int // of syslog: RFC 5424, table 1; 10, authpriv

	SecretFile                string // of a webhook
	CAFile, CertFile, KeyFile string // of syslog over TLS and of webhooks

	network, addr string // of syslog, for net.Dial: unixgram, udp, tcp or tls
}

// Usage is what a flag says of the form.
const Usage = "stdout, file:/PATH[,size=64MiB,keep=5], syslog:/dev/log, syslog:udp|tcp|tls://HOST:PORT[,facility=authpriv,ca=,cert=,key=] or " +
	"webhook:URL,secret=FILE[,ca=,cert=,key=] (webhook:@FILE reads the URL from a file); each with ,format=belay|ocsf|ecs"

// Parse reads a spec. An error never has what may be a credential.
func Parse(text string) (Spec, error) {
	s := Spec{Format: FormatBelay, Size: 64 << 20, Keep: 5, Facility: facilities["authpriv"]}
	head, options, _ := strings.Cut(text, ",")
	s.Kind, s.Target, _ = strings.Cut(head, ":")
	fail := func(err error) (Spec, error) { return Spec{}, fmt.Errorf("output %s: %w", s.Name(), err) }
	var err error
	switch s.Kind {
	case KindStdout:
		if s.Target != "" {
			err = errors.New("stdout has no target")
		}
	case KindFile:
		if !filepath.IsAbs(s.Target) || filepath.Clean(s.Target) != s.Target || s.Target == "/" {
			err = errors.New("want an absolute path without . and .., such as file:/var/log/belay/events.json")
		}
	case KindSyslog:
		err = s.syslogTarget()
	case KindWebhook:
		if !strings.HasPrefix(s.Target, "@") {
			_, err = webhookURL(s.Target, false)
		} else if !filepath.IsAbs(s.Target[1:]) {
			err = errors.New("want the absolute path of a file with the URL after the @")
		}
	default:
		return Spec{}, fmt.Errorf("output %q: want %s", firstWord(s.Kind), Usage)
	}
	if err != nil {
		return fail(err)
	}
	if options != "" {
		for o := range strings.SplitSeq(options, ",") {
			if err := s.option(o); err != nil {
				return fail(err)
			}
		}
	}
	if err := s.check(); err != nil {
		return fail(err)
	}
	return s, nil
}

// firstWord is what may be shown of a text that is not understood.
func firstWord(s string) string {
	i := strings.IndexFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
	if i < 0 {
		i = len(s)
	}
	return s[:min(i, 16)]
}

// kindsOf says which kinds have an option.
var kindsOf = map[string][]string{
	"format": {KindStdout, KindFile, KindSyslog, KindWebhook},
	"size":   {KindFile}, "keep": {KindFile},
	"facility": {KindSyslog},
	"secret":   {KindWebhook},
	"ca":       {KindSyslog, KindWebhook}, "cert": {KindSyslog, KindWebhook}, "key": {KindSyslog, KindWebhook},
}

func (s *Spec) option(text string) error {
	name, value, ok := strings.Cut(text, "=")
	kinds, known := kindsOf[name]
	switch {
	case !known && s.Kind == KindWebhook: // it may be a part of the URL, and that a credential
		return errors.New("unknown option; a comma in a URL is written %2C")
	case !known:
		return fmt.Errorf("unknown option %q", firstWord(name))
	case !slices.Contains(kinds, s.Kind):
		return fmt.Errorf("%s has no option %s", s.Kind, name)
	case !ok || value == "":
		return fmt.Errorf("the option %s has no value", name)
	}
	var err error
	switch name {
	case "format":
		s.Format = value
	case "size":
		s.Size, err = parseSize(value)
	case "keep":
		if s.Keep, err = strconv.Atoi(value); err != nil || s.Keep < 1 || s.Keep > 1000 {
			err = errors.New("keep: want 1 to 1000 files")
		}
	case "facility":
		n, ok := facilities[value]
		if !ok {
			return errors.New("facility: want a name of RFC 5424, such as authpriv, daemon or local0")
		}
		s.Facility = n
	case "secret":
		s.SecretFile = value
	case "ca":
		s.CAFile = value
	case "cert":
		s.CertFile = value
	case "key":
		s.KeyFile = value
	}
	return err
}

func (s *Spec) check() error {
	if s.Format != FormatBelay && s.Format != FormatOCSF && s.Format != FormatECS {
		return fmt.Errorf("format: want %s, %s or %s", FormatBelay, FormatOCSF, FormatECS)
	}
	if s.Kind == KindWebhook && s.SecretFile == "" {
		return errors.New("a webhook needs secret=FILE: what it gets is signed with it")
	}
	if s.Kind == KindSyslog && s.network != "tls" && s.CAFile+s.CertFile+s.KeyFile != "" {
		return errors.New("ca, cert and key are for syslog:tls://")
	}
	for _, f := range []string{s.SecretFile, s.CAFile, s.CertFile, s.KeyFile} {
		if f != "" && !filepath.IsAbs(f) {
			return errors.New("want absolute paths of files")
		}
	}
	return nil
}

func parseSize(text string) (int64, error) {
	const least, most = 64 << 10, 1 << 40
	bad := errors.New("size: want 64KiB to 1TiB, such as 64MiB")
	n, shift := text, 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if digits, ok := strings.CutSuffix(text, unit); ok {
			n, shift = digits, 10*(i+1)
		}
	}
	v, err := strconv.ParseInt(n, 10, 64)
	if err != nil || v <= 0 || v > most>>shift {
		return 0, bad
	}
	if v <<= shift; v < least {
		return 0, bad
	}
	return v, nil
}

// facilities are those of RFC 5424, table 1, by the names of syslog(3).
var facilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
	"ntp": 12, "audit": 13, "alert": 14, "local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}

// syslogTarget takes a path or a URL apart.
func (s *Spec) syslogTarget() error {
	if s.Target == "" {
		s.Target = "/dev/log"
	}
	if filepath.IsAbs(s.Target) {
		s.network, s.addr = "unixgram", s.Target
		return nil
	}
	u, err := url.Parse(s.Target)
	if err != nil || !slices.Contains([]string{"udp", "tcp", "tls"}, u.Scheme) || u.Hostname() == "" || u.User != nil ||
		strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" {
		s.Target = ""
		return errors.New("want a socket's path, or udp://HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT")
	}
	port := u.Port()
	if port == "" {
		// RFC 5426, 3.3; RFC 6587 has none of its own, and 601 is IANA's; RFC 5425, 4.1.
		port = map[string]string{"udp": "514", "tcp": "601", "tls": "6514"}[u.Scheme]
	}
	s.network, s.addr = u.Scheme, net.JoinHostPort(u.Hostname(), port)
	s.Target = u.Scheme + "://" + s.addr
	return nil
}

// webhookURL checks a webhook's URL. What is on a command line is for every user of the host to
// read: credentials are taken from a file only.
func webhookURL(text string, secret bool) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "" || u.Fragment != "" || len(text) > 4096 {
		return nil, errors.New("want a URL of https or http, without a fragment")
	}
	if u.User != nil && !secret {
		return nil, errors.New("its URL must not hold a name or a password, which every user of this host could read: write the URL into a file and give webhook:@FILE")
	}
	return u, nil
}

// Name tells which output it is, without what may be a credential: of a webhook the scheme and
// the host alone.
func (s *Spec) Name() string {
	switch {
	case s.Kind == KindWebhook && !strings.HasPrefix(s.Target, "@"):
		u, err := url.Parse(s.Target)
		if err != nil {
			return s.Kind
		}
		return s.Kind + ":" + u.Scheme + "://" + u.Host
	case s.Target == "" || s.Kind == KindStdout:
		return s.Kind
	}
	return s.Kind + ":" + s.Target
}

// key is the same for two specs of one target.
func (s *Spec) key() string { return s.Kind + ":" + s.Target }

// exposed tells whether events leave this machine without TLS by syslog.
func (s *Spec) exposed() bool {
	return s.Kind == KindSyslog && (s.network == "udp" || s.network == "tcp") && !loopback(s.addr)
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.IsLoopback() || host == "localhost"
}
