package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
)

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	return a
}

func issue(t *testing.T, c *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *authority) client(t *testing.T, cn string) tls.Certificate {
	t.Helper()
	cert, key := issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: cn, Organization: []string{"ops"}}, DNSNames: []string{cn + ".example"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) server(t *testing.T, certFile, keyFile string) {
	t.Helper()
	cert, key := issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "gate"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert.Raw}, keyFile: {Type: "EC PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func overTLS(t *testing.T, g *testGate, ca *authority, cert *tls.Certificate, max uint16, header http.Header) (int, error) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	conf := &tls.Config{RootCAs: pool, MaxVersion: max}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	tr := &http.Transport{TLSClientConfig: conf}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodGet, "https://"+g.Addr().String()+"/_ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	for k := range header {
		req.Header.Set(k, header.Get(k))
	}
	r, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return r.StatusCode, err
}

const certPolicy = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: certs}
spec:
  mode: enforce
  subjects: {certificates: [{cn: alice, o: ops}]}
  rules:
    - {name: ping, effect: allow, actions: [system.ping]}
`

func tlsGate(t *testing.T) (g *testGate, ca *authority, o *TLSOptions) {
	t.Helper()
	dir := t.TempDir()
	o = &TLSOptions{
		Addr: "127.0.0.1:0", CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key"), ClientCAFile: filepath.Join(dir, "ca"),
	}
	ca = newAuthority(t, "ca")
	ca.write(t, o.ClientCAFile)
	ca.server(t, o.CertFile, o.KeyFile)
	return startGate(t, certPolicy, func(opt *Options) { opt.TLS = o }), ca, o
}

func TestTLS(t *testing.T) {
	g, ca, o := tlsGate(t)
	other := newAuthority(t, "other")
	alice, bob, stranger := ca.client(t, "alice"), ca.client(t, "bob"), other.client(t, "alice")
	if status, err := overTLS(t, g, ca, &alice, 0, nil); err != nil || status != 200 {
		t.Fatalf("alice: %d, %v", status, err)
	}
	ev := g.rec.all()[0]
	if s := ev.Subject; s.Kind != apicall.Certificate || s.CN != "alice" || !slices.Equal(s.SANs, []string{"alice.example"}) || !s.Remote.IsLoopback() {
		t.Errorf("subject %+v", s)
	}
	if status, err := overTLS(t, g, ca, &alice, tls.VersionTLS12, nil); err != nil || status != 200 {
		t.Errorf("TLS 1.2: %d, %v", status, err)
	}
	if _, err := overTLS(t, g, ca, &alice, tls.VersionTLS11, nil); err == nil {
		t.Error("TLS 1.1 is taken")
	}
	if status, err := overTLS(t, g, ca, &bob, 0, nil); err != nil || status != 403 {
		t.Errorf("bob: %d, %v", status, err)
	}
	if _, err := overTLS(t, g, ca, &stranger, 0, nil); err == nil {
		t.Error("a certificate of another authority is taken")
	}
	if _, err := overTLS(t, g, ca, nil, 0, nil); err == nil {
		t.Error("no certificate is taken")
	}
	t.Run("B14 a web page", func(t *testing.T) {
		if status, err := overTLS(t, g, ca, &alice, 0, http.Header{"Origin": {"https://evil.example"}}); err != nil || status != 403 {
			t.Errorf("%d, %v", status, err)
		}
	})
	t.Run("certificates are read again", func(t *testing.T) {
		other.write(t, o.ClientCAFile)
		time.Sleep(certCheck + 100*time.Millisecond)
		if _, err := overTLS(t, g, ca, &alice, 0, nil); err == nil {
			t.Error("the former authority is still taken")
		}
		if status, err := overTLS(t, g, ca, &stranger, 0, nil); err != nil || status != 200 {
			t.Errorf("the new one: %d, %v", status, err)
		}
	})
}

// A listener goes from one gate to the next without a moment in which nobody listens, and
// streams of the first go on.
func TestHandover(t *testing.T) {
	g := startGate(t, own)
	c, br := attach(t, g, true)
	kept := keep(t, g.Server)
	next := startGate(t, own, func(o *Options) { o.Socket, o.Upstream, o.Inherited = g.socket, g.d.socket, kept })
	next.socket = g.socket
	g.stopAccepting()
	if status, _ := do(t, next.client(t), "GET", "/_ping", ""); status != 200 {
		t.Errorf("status %d", status)
	}
	if g.rec.all() == nil || len(next.rec.all()) != 1 {
		t.Errorf("the next gate has %d records", len(next.rec.all()))
	}
	io.WriteString(c, "still")
	got := make([]byte, 5)
	if _, err := io.ReadFull(br, got); err != nil || string(got) != "still" {
		t.Errorf("the old stream: %q, %v", got, err)
	}
}

// A gate that cannot open leaves what it was handed to the next try; whoever connects meanwhile waits for that.
func TestHandoverAfterFailure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker.sock")
	handed, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	handed.SetUnlinkOnClose(false)
	inherit := func(o *Options) { o.Socket, o.Inherited = path, []net.Listener{handed} }
	o := Options{Upstream: path + ".upstream", TLS: &TLSOptions{Addr: "127.0.0.1:0", CertFile: path + ".none", KeyFile: path + ".none", ClientCAFile: path + ".none"}}
	inherit(&o)
	if s, err := Listen(o); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			s.Close()
		}
		t.Fatalf("a gate without its certificate: %v, want that it does not exist", err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the socket is closed by the failure: %v", err)
	}
	c.Close()
	next := startGate(t, own, inherit)
	next.socket = path
	if status, _ := do(t, next.client(t), "GET", "/_ping", ""); status != 200 {
		t.Errorf("status %d", status)
	}
}

func TestActivated(t *testing.T) {
	if ls, err := Activated("x"); err != nil || ls != nil {
		t.Errorf("without systemd: %v, %v", ls, err)
	}
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	if ls, err := Activated("x"); err != nil || ls != nil {
		t.Errorf("for another process: %v, %v", ls, err)
	}
}

func TestSocket(t *testing.T) {
	g := startGate(t, own, func(o *Options) { o.Mode = 0o664 })
	st, err := os.Lstat(g.socket)
	if err != nil || st.Mode().Perm() != 0o664 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := Listen(Options{Upstream: g.d.socket, Socket: g.socket}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second gate: %v", err)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Options{Upstream: g.d.socket, Socket: file}); err == nil {
		t.Error("a file was replaced")
	}
}
