package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/scan/ci"
	"github.com/belay-project/belay/internal/scan/osvdir"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// ciRegistry is a registry on a loopback address, with blobs on disk, that tells of what is
// pushed to it as Distribution does.
type ciRegistry struct {
	t      *testing.T
	host   string
	notify func(body []byte)
	auth   string // the Authorization that it wants; "": none
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func newCIRegistry(t *testing.T) *ciRegistry {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r := &ciRegistry{t: t}
	h := ggcr.New(ggcr.WithBlobHandler(ggcr.NewDiskBlobHandler(t.TempDir())), ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if r.auth != "" && q.Header.Get("Authorization") != r.auth {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, q)
	}))
	t.Cleanup(s.Close)
	r.host = strings.TrimPrefix(s.URL, "http://")
	return r
}

func (r *ciRegistry) put(method, path, media string, b []byte) {
	r.t.Helper()
	q, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.host+"/v2/"+path, bytes.NewReader(b))
	if err != nil {
		r.t.Fatal(err)
	}
	q.Header.Set("Content-Type", media)
	q.Header.Set("Authorization", r.auth)
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		r.t.Fatalf("%s %s: %s", method, path, res.Status)
	}
}

const ociImage = "application/vnd.oci.image."

// shopImage makes an image of one Debian package.
func shopImage(t *testing.T, version string) (manifest, config, layer []byte) {
	t.Helper()
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	for name, body := range map[string]string{
		"etc/os-release":      "ID=debian\nVERSION_ID=12\n",
		"var/lib/dpkg/status": "Package: shop\nStatus: install ok installed\nVersion: " + version + "\n\n",
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	w.Close()
	z := gzip.NewWriter(&packed)
	z.Write(plain.Bytes())
	z.Close()
	config, _ = json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{digestOf(plain.Bytes())}}})
	desc := func(media string, b []byte) map[string]any {
		return map[string]any{"mediaType": ociImage + media, "digest": digestOf(b), "size": len(b)}
	}
	manifest, _ = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ociImage + "manifest.v1+json", "config": desc("config.v1+json", config),
		"layers": []any{desc("layer.v1.tar+gzip", packed.Bytes())},
	})
	return manifest, config, packed.Bytes()
}

// push puts an image of one Debian package there, tells of it, and returns its digest.
func (r *ciRegistry) push(repo, version string) string {
	r.t.Helper()
	manifest, config, layer := shopImage(r.t, version)
	for _, b := range [][]byte{config, layer} {
		r.put(http.MethodPost, repo+"/blobs/uploads/?digest="+digestOf(b), "application/octet-stream", b)
	}
	r.put(http.MethodPut, repo+"/manifests/"+version, ociImage+"manifest.v1+json", manifest)
	event, _ := json.Marshal(map[string]any{"events": []any{map[string]any{
		"action": "push", "request": map[string]any{"host": r.host},
		"target": map[string]any{"mediaType": ociImage + "manifest.v1+json", "digest": digestOf(manifest), "repository": repo, "tag": version},
	}}})
	r.notify(event)
	return digestOf(manifest)
}

// serverCert writes a certificate for 127.0.0.1 and its key, and returns what trusts it.
func serverCert(t *testing.T, certFile, keyFile string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "scan"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})))
	pool := x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(cert)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// scanAgent is as much of an agent as the scan API needs, under the shipped policy for CI.
type scanAgent struct {
	*Agent
	managed *managed
	addr    string
	tls     *tls.Config
}

func startScanAgent(t *testing.T, registry string) *scanAgent {
	t.Helper()
	dir := t.TempDir()
	scanner := filepath.Join(dir, "belay-scanner")
	cmd := exec.Command("go", "build", "-o", scanner, "github.com/belay-project/belay/cmd/scanner")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the scanner: %v\n%s", err, out)
	}
	osv := t.TempDir()
	write(t, filepath.Join(osv, "1.json"), `{"id":"CVE-2026-1","affected":[{"package":{"ecosystem":"Debian:12","name":"shop"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"2"}]}]}],"database_specific":{"severity":"CRITICAL"}}`)
	db := filepath.Join(dir, "vuln.db")
	if _, err := vulndb.Build(t.Context(), db, vulndb.BuildOptions{Walk: osvdir.Walk, Dir: osv, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../../policies/access-ci.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m := newManaged(t, "", map[string]string{"access-ci.yaml": string(shipped)})
	var mu sync.Mutex
	record := m.manager.record
	m.manager.record = func(ev *proxy.Event) {
		mu.Lock()
		defer mu.Unlock()
		record(ev)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a free port
	if err != nil {
		t.Fatal(err)
	}
	s := &scanAgent{managed: m, addr: l.Addr().String()}
	l.Close()
	s.tls = serverCert(t, filepath.Join(dir, "cert"), filepath.Join(dir, "key"))
	s.Agent = &Agent{
		cfg: Config{
			RunDir: dir, StateDir: dir, Scanner: scanner, VulnDB: db, ScanRegistries: []string{registry},
			ScanTLS: &proxy.TLSOptions{Addr: s.addr, CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key"), TokensAlone: true},
		},
		log: slog.New(slog.DiscardHandler), health: health.New(nil), manager: m.manager, images: &images{}, policies: m.policies,
	}
	s.images.a = s.Agent
	s.binder = newBinder(s.Agent)
	s.openTokens()
	s.tokens.note = func(string) {}
	return s
}

func (s *scanAgent) token(t *testing.T, name string) string {
	t.Helper()
	_, text, err := s.tokens.store.Create(name, time.Hour, 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (s *scanAgent) client(t *testing.T, token string) *ci.Client {
	t.Helper()
	c, err := ci.NewClient(ci.ClientOptions{Server: "https://" + s.addr, Token: token, TLS: s.tls})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestScanAPI: a build pushes, the registry tells with a token of its own, the image is fetched
// by digest and scanned in the sandbox, and the pipeline has the verdict; who has no right to it
// has nothing.
func TestScanAPI(t *testing.T) {
	reg := newCIRegistry(t)
	s := startScanAgent(t, reg.host)
	pipeline, registry, other := s.token(t, "ci-build"), s.token(t, "registry-main"), s.token(t, "deploy")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.serveScans(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(s.cfg.scansSocket()); err == nil {
			t.Error("the socket is left behind")
		}
	})
	reg.notify = func(body []byte) {
		code := 0
		for range 100 { // until it listens
			r, _ := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+s.addr+"/v1/notifications/registry?failOn=high", bytes.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+registry)
			res, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: s.tls, DisableKeepAlives: true}}).Do(r)
			if err == nil {
				res.Body.Close()
				code = res.StatusCode
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if code != http.StatusAccepted {
			t.Errorf("the notification: %d", code)
		}
	}
	for version, want := range map[string]string{"1": ci.VerdictFail, "2": ci.VerdictPass} {
		digest := reg.push("team/shop", version)
		c := s.client(t, pipeline)
		l, err := c.List(ctx, "registry:"+reg.host+"/team/shop@"+digest)
		if err != nil || len(l.Scans) != 1 {
			t.Fatalf("%v, %+v", err, l)
		}
		r, err := c.Wait(ctx, l.Scans[0].ID)
		if err != nil || r.Verdict != want || r.Digest != digest || r.Counts.Packages != 1 || len(r.Findings) != r.Counts.Failing {
			t.Fatalf("%s: %v, %+v", version, err, r)
		}
		if b, err := c.Format(ctx, r.ID, "sarif"); err != nil || strings.Contains(string(b), "CVE-2026-1") != (want == ci.VerdictFail) {
			t.Errorf("SARIF: %v, %s", err, b)
		}
		for who, tok := range map[string]string{"another token": other, "no token": "", "a wrong one": "belay_x"} {
			if _, err := s.client(t, tok).Get(ctx, r.ID); err == nil {
				t.Errorf("%s reads it", who)
			}
		}
	}
	// The pipeline may also ask itself; a token that no policy names may not.
	q := &ci.Request{Image: reg.host + "/team/shop:1", FailOn: "exploited"}
	got, err := s.client(t, pipeline).Create(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := s.client(t, pipeline).Wait(ctx, got.ID); err != nil || r.Verdict != ci.VerdictPass {
		t.Errorf("%v, %+v", err, r)
	}
	if _, err := s.client(t, other).Create(ctx, q); err == nil || !strings.Contains(err.Error(), "scan.create") {
		t.Errorf("another token asks: %v", err)
	}
	if _, err := s.client(t, registry).Create(ctx, q); err == nil {
		t.Error("a registry's token asks for a scan")
	}
	denied := 0
	for _, ev := range s.managed.events {
		if ev.Decision == proxy.Denied && strings.HasPrefix(ev.Action, "scan.") {
			denied++
		}
	}
	if denied < 4 {
		t.Errorf("%d denials recorded: %+v", denied, s.managed.events)
	}
}

// TestScanAPIAudit: what a policy in audit denies takes place, and is recorded as such.
func TestScanAPIAudit(t *testing.T) {
	const audit = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: watch}
spec:
  mode: %s
  subjects: {users: ["*"]}
  rules: [{name: none, effect: forbid, actions: [scan.create]}]
`
	for mode, allowed := range map[string]bool{"audit": true, "enforce": false} {
		m := newManaged(t, "", map[string]string{"admins.yaml": admins, "watch.yaml": fmt.Sprintf(audit, mode)})
		err := scanAccess{m.manager}.Ask(&rootCaller.Subject, ci.ActCreate, apicall.Facts{})
		if (err == nil) != allowed {
			t.Errorf("%s: %v", mode, err)
		}
		want := proxy.Denied
		if allowed {
			want = proxy.WouldDeny
		}
		if n := len(m.events); n != 1 || m.events[0].Decision != want {
			t.Errorf("%s: %+v", mode, m.events)
		}
	}
}

// TestScanAPINobody: while no AccessPolicy is enforced only root of the host asks for scans, and
// no container, whatever its uid.
func TestScanAPINobody(t *testing.T) {
	m := newManaged(t, "", nil)
	s := scanAccess{m.manager}
	if err := s.Ask(&rootCaller.Subject, ci.ActCreate, apicall.Facts{}); err != nil {
		t.Errorf("root: %v", err)
	}
	for _, c := range []string{"alice", "inside"} {
		sub := &alice.Subject
		if c == "inside" {
			sub = &inside.Subject
		}
		if err := s.Ask(sub, ci.ActCreate, apicall.Facts{}); err == nil {
			t.Errorf("%s may", c)
		}
	}
}
