package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/scan/ci"
)

// clientCert is a certificate of a client, signed by the pair in these files.
func clientCert(t *testing.T, cn, certFile, keyFile string, notAfter time.Time) tls.Certificate {
	t.Helper()
	ca, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := x509.ParseCertificate(ca.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestScanAPIClientCertificates: on TCP a client is who its certificate says, if the operator's
// CA signed it and it holds; one of another CA, an old one and none get nothing, with a token either.
func TestScanAPIClientCertificates(t *testing.T) {
	s := startScanAgent(t, "reg.example")
	m := newManaged(t, "", map[string]string{"ci.yaml": `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: ci}
spec:
  mode: enforce
  subjects: {certificates: [{cn: pipeline}]}
  rules: [{name: scans, effect: allow, actions: [scan.list]}]
`})
	s.manager, s.policies = m.manager, m.policies
	dir := s.cfg.RunDir
	s.cfg.ScanTLS.TokensAlone = false
	if l, err := s.listenScansTLS(); !errors.Is(err, proxy.ErrNoClientCA) {
		if err == nil {
			l.Close()
		}
		t.Fatalf("without a CA and a word that tokens are enough: %v", err)
	}
	s.cfg.ScanTLS.ClientCAFile = filepath.Join(dir, "cert")
	other := t.TempDir()
	serverCert(t, filepath.Join(other, "cert"), filepath.Join(other, "key"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.serveScans(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	good := s.token(t, "pipeline")
	list := func(cert *tls.Certificate, token string) error {
		cfg := s.tls.Clone()
		if cert != nil {
			// Shown whoever the server says it trusts, as an attacker would.
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
		c, err := ci.NewClient(ci.ClientOptions{Server: "https://" + s.addr, TLS: cfg, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 { // until it listens
			if _, err = c.List(ctx, ""); err == nil || !strings.Contains(err.Error(), "connection refused") {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		return err
	}
	hour := time.Now().Add(time.Hour)
	mine := func(cn string, notAfter time.Time) *tls.Certificate {
		c := clientCert(t, cn, filepath.Join(dir, "cert"), filepath.Join(dir, "key"), notAfter)
		return &c
	}
	stranger := clientCert(t, "pipeline", filepath.Join(other, "cert"), filepath.Join(other, "key"), hour)
	for _, tt := range []struct {
		name  string
		cert  *tls.Certificate
		token string
		want  string // of the error; none: it is answered
	}{
		{"the pipeline", mine("pipeline", hour), "", ""},
		{"somebody else of the same CA", mine("deploy", hour), "", "scan.list"},
		{"the pipeline's name, of another CA", &stranger, "", "tls: "},
		{"an old one", mine("pipeline", time.Now().Add(-time.Hour)), "", "tls: "},
		{"none", nil, "", "tls: "},
		{"a token alone", nil, good, "tls: "},
	} {
		err := list(tt.cert, tt.token)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
