package output

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/pump"
	"github.com/belay-project/belay/internal/verdict"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

func record(seq uint64) *journal.Record {
	return &journal.Record{
		Schema: journal.Schema, BootID: "boot", Seq: seq, Time: at, Host: "web-1", Kind: journal.KindExec, Decision: verdict.Denied,
		Container: &journal.Container{ID: "5a9c", Name: "shop"}, Policy: &journal.Policy{Name: "hardened", Rule: "exec.drift", Mode: "enforce"},
		Process: &journal.Process{PID: 7, Comm: "sh\nx", Args: []string{"./m", "--password=hunter2"}},
	}
}

func records(n int) []*journal.Record {
	var out []*journal.Record
	for i := range n {
		out = append(out, record(uint64(i+1)))
	}
	return out
}

// quick are bounds for tests: an output that is away is tried often, and not given up.
var quick = pump.Options{Linger: 5 * time.Millisecond, RetryFirst: 5 * time.Millisecond, RetryMost: 20 * time.Millisecond, Batch: 16}

// world is a journal with outputs on its tap, and a log that is looked through for secrets.
type world struct {
	t       *testing.T
	dir     string
	journal *journal.Journal
	out     *Outputs
	health  *health.Registry
	log     *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func begin(t *testing.T, o Options) (w *world, end func()) {
	t.Helper()
	w = &world{t: t, dir: t.TempDir(), health: health.New(nil), log: &syncBuffer{}}
	o.Health, o.Log = w.health, slog.New(slog.NewTextHandler(w.log, nil))
	if o.Pump.Batch == 0 {
		o.Pump = quick
	}
	var err error
	if w.out, err = Open(o); err != nil {
		t.Fatal(err)
	}
	if w.journal, err = journal.Open(journal.Options{Dir: w.dir, BootID: "boot", Host: "web-1", Tap: w.out.Take}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.out.Run(ctx) })
	return w, func() {
		cancel()
		wg.Wait()
		if err := w.journal.Close(); err != nil && !errors.Is(err, journal.ErrClosed) {
			t.Error(err)
		}
	}
}

func (w *world) append(n int) {
	for range n {
		r := record(0)
		r.BootID, r.Time = "", time.Time{}
		w.journal.Append(r)
	}
}

// ids are those of the journal.
func (w *world) ids() map[string]bool {
	w.t.Helper()
	if err := w.journal.Flush(); err != nil && !errors.Is(err, journal.ErrClosed) {
		w.t.Fatal(err)
	}
	ids := map[string]bool{}
	if err := journal.Read(w.t.Context(), w.dir, journal.ReadOptions{}, func(r *journal.Record) error {
		ids[UID(r)] = true
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return ids
}

// received is what a receiver got, by id.
type received struct {
	mu  sync.Mutex // guards ids and all
	ids map[string]int
	all []string
}

func newReceived() *received { return &received{ids: map[string]int{}} }

func (r *received) add(line []byte) error {
	var rec journal.Record
	if err := json.Unmarshal(line, &rec); err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids[UID(&rec)]++
	r.all = append(r.all, string(line))
	return nil
}

func (r *received) distinct() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ids)
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("waited 30 s for %s", what)
}

// wantAll holds what a receiver got against the journal and the counts.
func (w *world) wantAll(got *received) {
	w.t.Helper()
	ids := w.ids()
	got.mu.Lock()
	defer got.mu.Unlock()
	for id := range ids {
		if got.ids[id] == 0 {
			w.t.Errorf("%s is in the journal and was not received", id)
		}
	}
	for id := range got.ids {
		if !ids[id] {
			w.t.Errorf("%s was received and is not in the journal", id)
		}
	}
	for _, st := range w.out.Status() {
		var dropped uint64
		for _, n := range st.Dropped {
			dropped += n
		}
		if st.Sent != uint64(len(ids)) || dropped != 0 || st.Offered != st.Sent {
			w.t.Errorf("%s: offered %d, sent %d, dropped %v, want all %d sent", st.Name, st.Offered, st.Sent, st.Dropped, len(ids))
		}
	}
}

// certificates writes a CA, and returns its file and a server's TLS settings for 127.0.0.1.
func certificates(t *testing.T) (caFile string, server *tls.Config) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	must(err)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	must(os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return caFile, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }
