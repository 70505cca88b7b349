package output

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

const dialTime = 10 * time.Second

// Severities of RFC 5424, table 2.
const (
	severityError   = 3
	severityWarning = 4
	severityNotice  = 5
	severityInfo    = 6
)

func severity(r *journal.Record) int {
	switch {
	case r.Kind == journal.KindLoss:
		return severityError
	case r.Load != nil && (r.Load.Event == "over" || r.Load.Event == "unreadable"):
		return severityWarning
	case r.Decision == verdict.Denied || r.Decision == verdict.Killed:
		return severityWarning
	case r.Decision == verdict.WouldDeny:
		return severityNotice
	}
	return severityInfo
}

// message appends a record as a message of RFC 5424. The message itself is JSON without a byte
// order mark (MSG-ANY), since readers of JSON take none. The process is left out: a replay of
// the record is the same message.
//
// It is code of its own, as is the framing: the standard library's log/syslog writes the form of
// RFC 3164, and the libraries that write this one bring queues of theirs that do not count.
func message(dst []byte, r *journal.Record, facility int, body []byte) []byte {
	dst = fmt.Appendf(dst, "<%d>1 %s %s belay-agent - %s [origin software=\"belay-agent\"] ",
		facility*8+severity(r), r.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), printable(r.Host, 255), printable(string(r.Kind), 32))
	return append(dst, body...)
}

// printable makes a header's field of a text: RFC 5424, 6, PRINTUSASCII.
func printable(s string, longest int) string {
	b := []byte(s[:min(len(s), longest)])
	for i := range b {
		if b[i] < 33 || b[i] > 126 {
			b[i] = '_'
		}
	}
	if len(b) == 0 {
		return "-"
	}
	return string(b)
}

func newSyslog(spec Spec, enc encode, resent *atomic.Uint64) (sink, error) {
	m := messenger{enc: enc, facility: spec.Facility}
	if spec.network == "unixgram" || spec.network == "udp" {
		return &datagrams{messenger: m, network: spec.network, addr: spec.addr}, nil
	}
	s := &connection{messenger: m, network: "tcp", addr: spec.addr, resent: resent}
	if spec.network == "tls" {
		var err error
		if s.tls, err = clientTLS(&spec); err != nil {
			return nil, err
		}
		s.tls.ServerName, _, _ = net.SplitHostPort(spec.addr)
	}
	return s, nil
}

// clientTLS returns the TLS settings of a spec; the host's own authorities hold unless it names
// others.
func clientTLS(spec *Spec) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if spec.CAFile != "" {
		pem, err := os.ReadFile(spec.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no certificate", spec.CAFile)
		}
	}
	if (spec.CertFile == "") != (spec.KeyFile == "") {
		return nil, errors.New("cert needs key, and key needs cert")
	}
	if spec.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(spec.CertFile, spec.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

type messenger struct {
	enc      encode
	facility int
	buf      []byte
}

// datagrams sends a record a datagram: to a socket of this host, such as /dev/log, which says when
// nobody is there, or over UDP, which does not.
type datagrams struct {
	messenger
	network, addr string
	conn          net.Conn // nil: none
	progress
}

func (s *datagrams) send(ctx context.Context, batch []*journal.Record) error {
	s.progress = progress{}
	return s.end(len(batch), s.write(ctx, batch))
}

func (s *datagrams) write(ctx context.Context, batch []*journal.Record) error {
	if s.conn == nil {
		c, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, s.network, s.addr)
		if err != nil {
			return err
		}
		s.conn = c
	}
	if err := s.conn.SetWriteDeadline(deadline(ctx)); err != nil {
		return errors.Join(err, s.close())
	}
	conn := s.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Now()) })
	defer stop()
	for s.done < len(batch) {
		r := batch[s.done]
		body, err := s.enc(r)
		if err != nil {
			s.refuse(err)
			continue
		}
		s.buf = message(s.buf[:0], r, s.facility, body)
		_, err = s.conn.Write(s.buf)
		switch {
		case errors.Is(err, syscall.EMSGSIZE):
			s.refuse(fmt.Errorf("too long for a datagram: %w", err))
			continue
		case err != nil:
			return errors.Join(err, s.close())
		}
		s.done++
	}
	return nil
}

func (s *datagrams) close() error {
	if s.conn == nil {
		return nil
	}
	c := s.conn
	s.conn = nil
	return c.Close()
}

// deadline is when the writes of a send have to be done; that it is earlier once ctx ends is said after it was set.
func deadline(ctx context.Context) time.Time {
	d := time.Now().Add(writeTime)
	if end, ok := ctx.Deadline(); ok && end.Before(d) {
		return end
	}
	return d
}

// frame appends a message with octet counting: RFC 5425, 4.3, and RFC 6587, 3.4.1.
func (m *messenger) frame(dst []byte, r *journal.Record) ([]byte, error) {
	body, err := m.enc(r)
	if err != nil {
		return dst, err
	}
	m.buf = message(m.buf[:0], r, m.facility, body)
	dst = strconv.AppendInt(dst, int64(len(m.buf)), 10)
	return append(append(dst, ' '), m.buf...), nil
}
