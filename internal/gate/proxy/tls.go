package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/attr"
)

// TLSOptions is a TCP listener with client certificates.
type TLSOptions struct {
	Addr string // "host:port"
	// CertFile and KeyFile are the gate's certificate, ClientCAFile those that sign
	// clients'. They are read again when they change.
	CertFile, KeyFile, ClientCAFile string
	// TokensAlone lets in clients that show no certificate, whom who takes their connections
	// must ask for a token then. The gate itself does not mind it: it takes nobody without one.
	TokensAlone bool
}

// ErrNoClientCA says that nothing tells which clients a listener is for.
var ErrNoClientCA = errors.New("without the certificates that sign those of clients (--scan-tls-client-ca) everybody who has a token may connect, from wherever it was stolen to: name them, or --scan-tls-tokens")

// TLSConfig returns the configuration of a listener of another server than the gate, with
// files that are read again when they change. Clients need a certificate of ClientCAFile, unless
// TokensAlone is set.
//
// Errors: [ErrNoClientCA] with neither of the two, and those of the files.
func TLSConfig(o *TLSOptions, log *slog.Logger) (*tls.Config, error) {
	if o.CertFile == "" || o.KeyFile == "" {
		return nil, errors.New("a TCP listener needs a certificate and its key")
	}
	if o.ClientCAFile == "" && !o.TokensAlone {
		return nil, ErrNoClientCA
	}
	certs, err := newCertificates(o, log)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: certs.config.Certificates,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := certs.current(hello)
			if err != nil {
				return nil, err
			}
			c = c.Clone()
			switch {
			case o.ClientCAFile == "":
				c.ClientAuth = tls.NoClientCert
			case o.TokensAlone:
				c.ClientAuth = tls.VerifyClientCertIfGiven
			default:
				c.ClientAuth = tls.RequireAndVerifyClientCert
			}
			return c, nil
		},
	}, nil
}

// maxShaking bounds the connections that have not shown a certificate yet, maxShakingEach
// those of one address.
const (
	maxShaking     = 512
	maxShakingEach = 128
)

// certCheck is how often the files are looked at, at most.
const certCheck = 2 * time.Second

// certificates holds what is read of the files of a [TLSOptions]. Files that are broken
// leave the last good ones in force.
type certificates struct {
	o   *TLSOptions
	log *slog.Logger

	// mu guards what follows.
	mu     sync.Mutex
	config *tls.Config
	stamp  string
	looked time.Time
	broken error
}

func newCertificates(o *TLSOptions, log *slog.Logger) (*certificates, error) {
	c := &certificates{o: o, log: log}
	c.stamp = c.fingerprint()
	var err error
	if c.config, err = c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *certificates) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.o.CertFile, c.o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the gate's certificate: %w", err)
	}
	pool := x509.NewCertPool() // empty: nobody is signed
	if c.o.ClientCAFile != "" {
		pem, err := os.ReadFile(c.o.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificates that sign clients': %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", c.o.ClientCAFile)
		}
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, NextProtos: []string{"http/1.1"},
		// A session that is resumed would outlive a CA that was taken out.
		SessionTicketsDisabled: true,
	}, nil
}

// fingerprint changes when a file does.
func (c *certificates) fingerprint() string {
	out := ""
	for _, f := range []string{c.o.CertFile, c.o.KeyFile, c.o.ClientCAFile} {
		st, err := os.Stat(f)
		if err != nil {
			out += err.Error()
			continue
		}
		out += fmt.Sprint(st.ModTime().UnixNano(), st.Size(), ";")
	}
	return out
}

// current returns the configuration for one handshake.
func (c *certificates) current(*tls.ClientHelloInfo) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.looked) < certCheck {
		return c.config, nil
	}
	c.looked = now
	if stamp := c.fingerprint(); stamp != c.stamp {
		c.stamp = stamp
		fresh, err := c.load()
		if c.broken = err; err != nil {
			c.log.Error("changed certificates cannot be read; the former ones stay", attr.Error, err.Error())
		} else {
			c.config = fresh
			c.log.Info("certificates were read again")
		}
	}
	return c.config, nil
}

// listenTLS opens the TCP listener.
func listenTLS(o *TLSOptions, log *slog.Logger) (*tlsListener, error) {
	if o.CertFile == "" || o.KeyFile == "" || o.ClientCAFile == "" {
		return nil, errors.New("a TCP listener needs a certificate, its key, and the certificates that sign clients'")
	}
	certs, err := newCertificates(o, log)
	if err != nil {
		return nil, err
	}
	return newTLSListener(o.Addr, &tls.Config{
		MinVersion: tls.VersionTLS12, GetConfigForClient: certs.current,
		// tls.Server wants one or the other, though GetConfigForClient answers.
		Certificates: certs.config.Certificates,
	})
}
