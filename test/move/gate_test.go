package move

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/move"
	"github.com/belay-project/belay/internal/policy"
)

// noContainers says that nobody is in a container, wherever the tests run.
type noContainers struct{}

func (noContainers) ContainerOf(string) (string, bool) { return "", false }
func (noContainers) Describe(*apicall.Subject)         {}

// reads counts how often a gate was asked for what is in a container.
type reads struct{ atomic.Int64 }

// Record implements [proxy.Recorder].
func (r *reads) Record(ev *proxy.Event) {
	if ev.Method == "GET" && ev.Action == "container.copy.out" {
		r.Add(1)
	}
}

// gatePolicy lets a mover in by its certificate: without a policy nobody is whom the host does not know.
const gatePolicy = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: mover}
spec:
  mode: enforce
  subjects: {users: [root], certificates: [{cn: mover}]}
  rules:
    - {name: all, effect: allow, actions: ["*"]}
`

// ownCertificate writes a certificate for 127.0.0.1 that signs itself, for a gate and its client.
func ownCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mover"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &pair.PublicKey, pair)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestComparedByGate: the gate of a target, on its socket and by TLS, finds the digest that the source's engine has sent, whatever
// is in a volume, and nothing is read back over it.
func TestComparedByGate(t *testing.T) {
	w := need(t)
	socket, asked, counts := filepath.Join(t.TempDir(), "gate.sock"), new(reads), health.New(nil)
	cert, key := ownCertificate(t)
	file := filepath.Join(t.TempDir(), "access.yaml")
	if err := os.WriteFile(file, []byte(gatePolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := policy.ParseFiles(file)
	if err != nil {
		t.Fatal(err)
	}
	rules := proxy.RulesOf(set)
	g, err := proxy.Listen(proxy.Options{
		Upstream: w.to.Socket, Socket: socket, Workload: noContainers{}, Recorder: asked, Health: counts, Policies: func() proxy.Rules { return rules },
		TLS: &proxy.TLSOptions{Addr: "127.0.0.1:0", CertFile: cert, KeyFile: key, ClientCAFile: cert},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		g.Close()
	})
	for _, c := range []struct {
		name string
		to   engine.Address
	}{
		{"socket", engine.Address{URL: "unix://" + socket}},
		{"tls", engine.Address{URL: "tcp://" + g.Addr().String(), CAFile: cert, CertFile: cert, KeyFile: key}},
	} {
		t.Run(c.name, func(t *testing.T) {
			digests, archives := counts.Counter("gate_volume_digests"), asked.Load()
			before := digests.Load()
			name := w.run(t, "db", "-v", "records:/data", "-v", "/anon", image)
			ok(t, w.from, "exec", name, "sh", "-c", `cd /anon && busybox mkdir -p a/b a.d empty && echo x >a/b/z && busybox chown 7:8 a/b/z && busybox chmod 4751 a/b/z &&
				busybox ln a/b/z a.d/z && busybox ln a/b/z first && busybox ln -s ../gone soft && busybox ln -s /etc root && busybox mknod null c 1 3 && busybox mkfifo pipe && busybox chmod 1777 empty &&
				echo 'öé' >'a/ñ b' && busybox dd if=/dev/urandom of=big bs=64k count=40 2>/dev/null && busybox touch -d '2001-02-03 04:05:06' 'a/ñ b'`)
			from, _ := addresses(w)
			j, err := move.New(move.Options{Dir: t.TempDir()}).Move(t.Context(), name, from, c.to, with(quick, volumes))
			if err != nil {
				t.Fatal(err)
			}
			if n := digests.Load() - before; n != 2 || len(j.Volumes) != 2 {
				t.Errorf("%d digests of %d volumes", n, len(j.Volumes))
			}
			if n := asked.Load() - archives; n != 2 { // for the digests
				t.Errorf("%d archives were read back", n-2)
			}
		})
	}
}
