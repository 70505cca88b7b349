package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// supplier signs statements with a key of its own.
type supplier struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	path string // of the public key
}

func newSupplier(t *testing.T) *supplier {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	s := &supplier{t, k, filepath.Join(t.TempDir(), "key.pub")}
	if err := os.WriteFile(s.path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

const inToto = "application/vnd.in-toto+json"

func statementOf(subject, predicateType, predicate string) string {
	return fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"app","digest":{"sha256":%q}}],"predicateType":%q,"predicate":%s}`,
		strings.TrimPrefix(subject, "sha256:"), predicateType, predicate)
}

// seal puts a statement into an envelope; change may alter what is in it after it was signed.
func (s *supplier) seal(statement string, change func(string) string) []byte {
	s.t.Helper()
	sum := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(inToto), inToto, len(statement), statement))
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, sum[:])
	if err != nil {
		s.t.Fatal(err)
	}
	if change != nil {
		statement = change(statement)
	}
	b, err := json.Marshal(map[string]any{
		"payloadType": inToto, "payload": base64.StdEncoding.EncodeToString([]byte(statement)),
		"signatures": []any{map[string]string{"keyid": "", "sig": base64.StdEncoding.EncodeToString(sig)}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

const (
	predicateBill = "https://cyclonedx.org/bom"
	predicateVEX  = "https://openvex.dev/ns/v0.2.0"
)

// sealed is an attached envelope.
type sealed struct {
	predicate string
	b         []byte
}

// cosign puts envelopes under the tag where cosign has them.
func (r *testRegistry) cosign(t *testing.T, repo, digest string, list ...sealed) {
	t.Helper()
	config, layers := []byte("{}"), []any{}
	r.put(t, http.MethodPost, repo+"/blobs/uploads/?digest="+sha(config), "application/octet-stream", config)
	for _, e := range list {
		r.put(t, http.MethodPost, repo+"/blobs/uploads/?digest="+sha(e.b), "application/octet-stream", e.b)
		layers = append(layers, map[string]any{
			"mediaType": "application/vnd.dsse.envelope.v1+json", "digest": sha(e.b), "size": len(e.b), "annotations": map[string]string{"predicateType": e.predicate},
		})
	}
	m, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": layers,
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha(config), "size": len(config)},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, http.MethodPut, repo+"/manifests/"+strings.Replace(digest, ":", "-", 1)+".att", "application/vnd.oci.image.manifest.v1+json", m)
}

// TestScanAttestations: what is signed with a key that was given counts, and with a key nothing else
// does: not another's, not what was altered, not what is about another image.
func TestScanAttestations(t *testing.T) {
	f := newScanFixture(t)
	r := newTestRegistry(t)
	index := r.push(t, "team/app", "1", f.root)
	us, other := newSupplier(t), newSupplier(t)
	const bill = `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"type":"library","name":"only-here","version":"1","purl":"pkg:npm/only-here@1"}]}`
	const vex = `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"https://x.example/1","author":"us","timestamp":"2026-01-01T00:00:00Z","version":1,
		"statements":[{"vulnerability":{"name":"CVE-2024-28085"},"products":[{"@id":"pkg:deb/debian/bsdutils"}],"status":"not_affected","justification":"vulnerable_code_not_present"}]}`
	another := sha([]byte("another image"))
	forged := func(s string) string { return strings.Replace(s, "only-here", "not-there", -1) }
	worse := func(s string) string { return strings.Replace(s, "28085", "28086", 1) }

	goodBill := sealed{predicateBill, us.seal(statementOf(index, predicateBill, bill), nil)}
	goodVEX := sealed{predicateVEX, us.seal(statementOf(index, predicateVEX, vex), nil)}
	otherVEX := sealed{predicateVEX, other.seal(statementOf(index, predicateVEX, vex), nil)}
	key, useBill, useVEX := []string{"--attestation-key", us.path}, []string{"--attached-sbom", "use"}, []string{"--attached-vex", "use", "--fail-on", "low"}
	join := func(lists ...[]string) (out []string) {
		for _, l := range lists {
			out = append(out, l...)
		}
		return out
	}
	for _, tt := range []struct {
		name   string
		there  []sealed
		args   []string
		code   int
		want   string
		absent string
	}{
		{"a bill, not verified", []sealed{goodBill}, useBill, exitOK, "whose signature was not verified", "bsdutils"},
		{"a bill, verified", []sealed{goodBill}, join(useBill, key), exitOK, "which is signed with the key sha256:", "bsdutils"},
		{"a bill, verified, among others", []sealed{{predicateBill, other.seal(statementOf(index, predicateBill, bill), nil)}, goodVEX, goodBill}, join(useBill, key), exitOK, "1 other is attached too", "bsdutils"},
		{"another's bill", []sealed{{predicateBill, other.seal(statementOf(index, predicateBill, bill), nil)}}, join(useBill, key), exitOK, "the image is read alone", "only-here"},
		{"a forged bill", []sealed{{predicateBill, us.seal(statementOf(index, predicateBill, bill), forged)}}, join(useBill, key), exitOK, "the image is read alone", "not-there"},
		{"a bill of another image", []sealed{{predicateBill, us.seal(statementOf(another, predicateBill, bill), nil)}}, join(useBill, key), exitOK, "the image is read alone", "only-here"},
		{"a bill of another image, not verified", []sealed{{predicateBill, us.seal(statementOf(another, predicateBill, bill), nil)}}, useBill, exitFailed, "says that it is about", ""},
		{"VEX that nobody asked for", []sealed{goodVEX}, []string{"--fail-on", "low"}, exitFindings, "CVE-2024-28085", "VEX"},
		{"VEX, not verified", []sealed{goodVEX}, useVEX, exitOK, "no signature was verified", ""},
		{"VEX, verified", []sealed{otherVEX, goodVEX}, join(useVEX, key), exitOK, "1 document of VEX attached", ""},
		{"another's VEX", []sealed{otherVEX}, join(useVEX, key), exitFindings, "not signed with a key", "VEX: not affected"},
		{"forged VEX", []sealed{{predicateVEX, us.seal(strings.Replace(statementOf(index, predicateVEX, vex), "28085", "28086", 1), func(s string) string { return strings.Replace(s, "28086", "28085", 1) })}},
			join(useVEX, key), exitFindings, "not signed with a key", "VEX: not affected"},
		{"VEX about another flaw", []sealed{{predicateVEX, us.seal(worse(statementOf(index, predicateVEX, vex)), nil)}}, join(useVEX, key), exitFindings, "about no finding", "VEX: not affected"},
		{"VEX of another image", []sealed{{predicateVEX, us.seal(statementOf(another, predicateVEX, vex), nil)}}, join(useVEX, key), exitFindings, "not signed with a key", "VEX: not affected"},
		{"VEX of another image, not verified", []sealed{{predicateVEX, us.seal(statementOf(another, predicateVEX, vex), nil)}}, useVEX, exitFailed, "not about", ""},
		{"VEX of another type", []sealed{{predicateVEX, us.seal(statementOf(index, "https://x.example/draft", vex), nil)}}, join(useVEX, key), exitFindings, "not signed with a key", "VEX: not affected"},
		{"VEX of another type, not verified", []sealed{{predicateVEX, us.seal(statementOf(index, "https://x.example/draft", vex), nil)}}, useVEX, exitFailed, "its predicate is", ""},
		{"broken VEX", []sealed{{predicateVEX, us.seal(statementOf(index, predicateVEX, `{"@context":"https://openvex.dev/ns/v0.2.0"}`), nil)}}, join(useVEX, key), exitFailed, "no author", ""},
		{"nothing", nil, join(useVEX, key), exitFindings, "no VEX is attached", "VEX: not affected"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.cosign(t, "team/app", index, tt.there...)
			code, out, msg := belay(t, append([]string{"scan", "registry:" + r.host + "/team/app:1", "--db", f.db, "--scanner", f.scanner, "--platform", "linux/amd64"}, tt.args...)...)
			if code != tt.code || !strings.Contains(out+msg, tt.want) || tt.absent != "" && strings.Contains(out, tt.absent) {
				t.Errorf("exit status %d, want %d, with %q and without %q:\n%s%s", code, tt.code, tt.want, tt.absent, out, msg)
			}
		})
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"a key for nothing": {key, exitUsage, "say --attached-sbom or --attached-vex too"},
		"no key":            {join(useBill, []string{"--attestation-key", f.scanner}), exitFailed, "--attestation-key"},
		"no findings":       {[]string{"--attached-vex", "use", "--packages-only"}, exitUsage, "need findings"},
	} {
		if code, _, msg := belay(t, append([]string{"scan", "registry:" + r.host + "/team/app:1", "--db", f.db, "--scanner", f.scanner}, tt.args...)...); code != tt.code || !strings.Contains(msg, tt.want) {
			t.Errorf("%s: exit status %d, %s", name, code, msg)
		}
	}
}
