package engine

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// fake answers by method and path.
func fake(t *testing.T, answers map[string]string) (http.Handler, *[]string) {
	t.Helper()
	asked := new([]string)
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Method + " " + r.URL.Path
		mu.Lock()
		*asked = append(*asked, key)
		mu.Unlock()
		a, ok := answers[key]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message": "no such thing"}`)
			return
		}
		fmt.Fprint(w, a)
	}), asked
}

func open(t *testing.T, h http.Handler) (*Engine, error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	e, err := Open(t.Context(), Address{URL: "unix://" + filepath.Join(dir, "s")})
	if err == nil {
		t.Cleanup(e.Close)
	}
	return e, err
}

func TestVersions(t *testing.T) {
	tests := []struct {
		has, least string
		want       int
	}{{"1.41", "1.12", 41}, {"1.56", "1.44", 56}, {"1.70", "1.44", 56}, {"1.70", "1.60", 0}, {"1.39", "1.12", 0}, {"2.0", "", 0}, {"", "", 0}}
	for _, tt := range tests {
		got, err := choose(tt.has, tt.least)
		if got != tt.want || (err == nil) != (tt.want != 0) {
			t.Errorf("%q, %q: got %d, %v", tt.has, tt.least, got, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, u := range []string{"", "unix://x", "tcp://h:1", "http://h:1", "tcp://h", "ssh://root@h"} {
		if _, err := Open(t.Context(), Address{URL: u}); err == nil {
			t.Errorf("%q is taken", u)
		}
	}
}

const version41 = `{"ApiVersion": "1.41", "MinAPIVersion": "1.12"}`

func TestAnswers(t *testing.T) {
	h, asked := fake(t, map[string]string{
		"GET /version": version41, "GET /v1.41/info": `{"ID": "E1", "CgroupVersion": "1"}`, "GET /v1.41/networks/mine": `{"Name": "mine-too", "Id": "n1"}`,
		"POST /v1.41/containers/create": `{"Id": "c1"}`, "POST /v1.41/networks/b/connect": "", "POST /v1.41/images/load": `{"stream": "Loaded image: web:1\n"}`,
		"POST /v1.41/images/create": `{"status": "Pulling"}` + "\n" + `{"error": "denied"}`,
	})
	e, err := open(t, h)
	if err != nil {
		t.Fatal(err)
	}
	if e.API != 41 || e.Info.ID != "E1" || !e.Host().CgroupV1 {
		t.Errorf("got %+v", e)
	}
	if _, err := e.Container(t.Context(), "x/../y"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("got %v", err)
	}
	if _, err := e.Network(t.Context(), "mine"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a network of another name is taken: %v", err)
	}
	if err := e.Remove(t.Context(), "gone"); err != nil {
		t.Errorf("what is gone is removed: %v", err)
	}
	if err := e.Pull(t.Context(), "web@sha256:0"); err == nil || !strings.Contains(err.Error(), "denied") {
		t.Errorf("a failure in the stream is lost: %v", err)
	}
	if names, err := e.Load(t.Context(), strings.NewReader("")); err != nil || len(names) != 1 || names[0] != "web:1" {
		t.Errorf("got %q, %v", names, err)
	}
	// An engine of its time takes one network with the create, the others after it.
	req := container.CreateRequest{Config: &container.Config{}, HostConfig: &container.HostConfig{}, NetworkingConfig: &network.NetworkingConfig{
		EndpointsConfig: map[string]*network.EndpointSettings{"a": {}, "b": {}},
	}}
	if id, err := e.Create(t.Context(), "web", req, "a"); err != nil || id != "c1" {
		t.Errorf("got %q, %v", id, err)
	}
	if last := (*asked)[len(*asked)-1]; last != "POST /v1.41/networks/b/connect" {
		t.Errorf("last asked %q", last)
	}
}

func TestBound(t *testing.T) {
	e, err := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			fmt.Fprint(w, version41)
			return
		}
		chunk := strings.Repeat(" ", 1<<20)
		for range maxAnswer>>20 + 2 {
			if _, err := fmt.Fprint(w, chunk); err != nil {
				return
			}
		}
	}))
	if err == nil || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("got %v, %v", e, err)
	}
}

func TestUnreachable(t *testing.T) {
	cause := errors.New("down")
	e := Unreachable(Address{URL: "unix:///x"}, cause)
	if err := e.Start(t.Context(), "x"); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	e.Close()
}

// TestMayBeGone: an engine that refuses, or speaks another version, is there.
func TestMayBeGone(t *testing.T) {
	for _, answers := range []map[string]string{
		{},
		{"GET /version": `{"ApiVersion": "1.70", "MinAPIVersion": "1.60"}`},
		{"GET /version": version41},
	} {
		h, _ := fake(t, answers)
		if _, err := open(t, h); err == nil || MayBeGone(err) {
			t.Errorf("%v: got %v", answers, err)
		}
	}
	if _, err := Open(t.Context(), Address{URL: "unix:///none"}); !MayBeGone(err) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Address{URL: "unix:///none"}); err == nil || MayBeGone(err) {
		t.Errorf("got %v", err)
	}
}

// TestMutualTLS: the engine is who its certificate says, and asks for ours.
func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	ca := issue(t, dir, "ca", nil)
	issue(t, dir, "server", ca)
	issue(t, dir, "client", ca)
	other := issue(t, dir, "other-ca", nil)
	issue(t, dir, "stranger", other)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	h, _ := fake(t, map[string]string{"GET /version": version41, "GET /v1.41/info": "{}"})
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	at := func(ca, name string) Address {
		return Address{URL: "tcp://" + s.Listener.Addr().String(), CAFile: filepath.Join(dir, ca+".pem"), CertFile: filepath.Join(dir, name+".pem"), KeyFile: filepath.Join(dir, name+".key")}
	}
	e, err := Open(t.Context(), at("ca", "client"))
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	for _, a := range []Address{at("ca", "stranger"), at("other-ca", "client"), at("ca", "none"), {URL: at("ca", "client").URL}} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := Open(ctx, a); err == nil || MayBeGone(err) {
			t.Errorf("%+v is let in, or its engine counts as gone: %v", a, err)
		}
		cancel()
	}
	s.Close()
	if _, err := Open(t.Context(), at("ca", "client")); !MayBeGone(err) {
		t.Errorf("got %v", err)
	}
}

type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func issue(t *testing.T, dir, name string, by *issued) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA: by == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, signer := tmpl, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "EC PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issued{cert, key}
}

func TestSetRestart(t *testing.T) {
	for _, c := range []struct {
		name, has string
		want      container.RestartPolicy
		changes   bool
	}{
		{"as it is", `{"Name": "on-failure", "MaximumRetryCount": 3}`, container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}, false},
		{"none, as old engines say it", `{"Name": ""}`, container.RestartPolicy{Name: container.RestartPolicyDisabled}, false},
		{"another", `{"Name": "no"}`, container.RestartPolicy{Name: "always"}, true},
		{"another count", `{"Name": "on-failure", "MaximumRetryCount": 3}`, container.RestartPolicy{Name: "on-failure"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, asked := fake(t, map[string]string{
				"GET /version": `{"ApiVersion": "1.41"}`, "GET /v1.41/info": `{}`,
				"GET /v1.41/containers/c/json": `{"HostConfig": {"RestartPolicy": ` + c.has + `}}`, "POST /v1.41/containers/c/update": `{}`,
			})
			e, err := open(t, h)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.SetRestart(t.Context(), "c", c.want); err != nil {
				t.Fatal(err)
			}
			if got := slices.Contains(*asked, "POST /v1.41/containers/c/update"); got != c.changes {
				t.Errorf("asked %v, want a change: %v", *asked, c.changes)
			}
		})
	}
}
