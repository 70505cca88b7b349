package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func keyFile(t *testing.T, keys ...crypto.PublicKey) string {
	t.Helper()
	var text []byte
	for _, k := range keys {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// signer signs a message as a tool would.
type signer struct {
	name string
	pub  crypto.PublicKey
	sign func(m []byte) []byte
}

func signers(t *testing.T) []signer {
	t.Helper()
	edPub, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	out := []signer{{"ed25519", edPub, func(m []byte) []byte { return ed25519.Sign(ed, m) }}}
	for _, c := range []struct {
		name  string
		curve elliptic.Curve
		hash  func([]byte) []byte
	}{
		{"P-256", elliptic.P256(), func(m []byte) []byte { h := sha256.Sum256(m); return h[:] }},
		{"P-384", elliptic.P384(), func(m []byte) []byte { h := sha512.Sum384(m); return h[:] }},
		{"P-384 with SHA-256", elliptic.P384(), func(m []byte) []byte { h := sha256.Sum256(m); return h[:] }},
		{"P-521", elliptic.P521(), func(m []byte) []byte { h := sha512.Sum512(m); return h[:] }},
	} {
		k, err := ecdsa.GenerateKey(c.curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, signer{c.name, k.Public(), func(m []byte) []byte {
			sig, err := ecdsa.SignASN1(rand.Reader, k, c.hash(m))
			if err != nil {
				t.Fatal(err)
			}
			return sig
		}})
	}
	return out
}

func seal(payloadType, payload string, enc *base64.Encoding, sigs ...[]byte) []byte {
	list := []map[string]string{}
	for _, s := range sigs {
		list = append(list, map[string]string{"keyid": "", "sig": enc.EncodeToString(s)})
	}
	b, err := json.Marshal(map[string]any{"payloadType": payloadType, "payload": enc.EncodeToString([]byte(payload)), "signatures": list})
	if err != nil {
		panic(err)
	}
	return b
}

// TestPAE: the vector of the DSSE specification.
func TestPAE(t *testing.T) {
	const want = "DSSEv1 29 http://example.com/HelloWorld 11 hello world"
	if got := string(pae("http://example.com/HelloWorld", []byte("hello world"))); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOpen(t *testing.T) {
	const payload = `{"_type":"x"}?>~`
	for _, s := range signers(t) {
		t.Run(s.name, func(t *testing.T) {
			other := signers(t)[0]
			keys, err := ReadKeys(keyFile(t, other.pub, s.pub))
			if err != nil || len(keys) != 2 {
				t.Fatalf("keys: %v, %v", keys, err)
			}
			good := s.sign(pae(TypeInToto, []byte(payload)))
			for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
				b := seal(TypeInToto, payload, enc, []byte("of somebody else"), good)
				e, err := Open(b, keys)
				if err != nil || string(e.Payload) != payload || e.Key != keys[1].ID {
					t.Errorf("got %+v, %v", e, err)
				}
				bundle := []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{},"dsseEnvelope":` + string(b) + `}`)
				if e, err = Open(bundle, keys); err != nil || e.Key != keys[1].ID {
					t.Errorf("a bundle: %+v, %v", e, err)
				}
			}
			for name, b := range map[string][]byte{
				"another payload":      seal(TypeInToto, payload+" ", base64.StdEncoding, good),
				"no signature":         seal(TypeInToto, payload, base64.StdEncoding),
				"an empty signature":   seal(TypeInToto, payload, base64.StdEncoding, nil),
				"the payload's own":    seal(TypeInToto, payload, base64.StdEncoding, s.sign([]byte(payload))),
				"signed as other type": seal(TypeInToto, payload, base64.StdEncoding, s.sign(pae("text/plain", []byte(payload)))),
			} {
				if e, err := Open(b, keys); !errors.Is(err, ErrUnverified) {
					t.Errorf("%s: %+v, %v", name, e, err)
				}
				if e, err := Open(b, nil); err != nil || e.Key != "" {
					t.Errorf("%s without a key: %+v, %v", name, e, err)
				}
			}
			if e, err := Open(seal(TypeInToto, payload, base64.StdEncoding, good), keys[:1]); !errors.Is(err, ErrUnverified) {
				t.Errorf("another key: %+v, %v", e, err)
			}
		})
	}
}

func TestOpenBroken(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "x", "another document": `{"bomFormat":"CycloneDX"}`, "no payload": `{"payloadType":"application/vnd.in-toto+json"}`,
		"two":            `{"payloadType":"application/vnd.in-toto+json","payload":"e30=","dsseEnvelope":{"payloadType":"application/vnd.in-toto+json","payload":"e30="}}`,
		"something more": `{"payloadType":"application/vnd.in-toto+json","payload":"e30="}{}`,
	} {
		if e, err := Open([]byte(text), nil); !errors.Is(err, ErrNoEnvelope) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	for name, text := range map[string]string{
		"another type": `{"payloadType":"text/plain","payload":"e30="}`, "no base64": `{"payloadType":"application/vnd.in-toto+json","payload":"?"}`,
	} {
		if e, err := Open([]byte(text), nil); err == nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestReadKeys(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) string {
		p := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good, err := os.ReadFile(keyFile(t, signers(t)[0].pub))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ path, want string }{
		"RSA":         {keyFile(t, rsaKey.Public()), "want ECDSA or Ed25519"},
		"private":     {write(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))), "want \"PUBLIC KEY\""},
		"broken":      {write(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}))), "read the public key"},
		"no PEM":      {write("x"), "in PEM"},
		"empty":       {write(""), "in PEM"},
		"and a text":  {write(string(good) + "x"), "in PEM alone"},
		"not there":   {"/nowhere", "no such file"},
		"much larger": {write(strings.Repeat("x", maxKeyFile+1)), "larger than its bound"},
	} {
		if _, err := ReadKeys(tt.path); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestStatement(t *testing.T) {
	s, err := ReadStatement([]byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"p","predicate":{"a":1},"subject":[{"digest":{"sha256":"aa"}},{"digest":{"sha512":"bb"}}]}`))
	if err != nil || string(s.Predicate) != `{"a":1}` || s.About("sha256:zz", "sha256:aa") != nil || s.About("sha256:bb") == nil || s.About("sha256:") == nil {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, text := range []string{"x", "{}", `{"_type":"https://in-toto.io/Statement/v1","predicateType":"p"}`, `{"_type":"other","predicateType":"p","predicate":{}}`} {
		if s, err := ReadStatement([]byte(text)); err == nil {
			t.Errorf("%s: %+v", text, s)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(seal(TypeInToto, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"p","predicate":{}}`, base64.StdEncoding, []byte("s")))
	f.Add([]byte(`{"dsseEnvelope":{"payloadType":"application/vnd.in-toto+json","payload":"e30="}}`))
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	keys := []Key{{ID: "k", verify: func(m, sig []byte) bool { return ed25519.Verify(pub, m, sig) }}}
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := Open(b, keys); err == nil {
			t.Errorf("an envelope that nobody signed was taken: %+v", e)
		}
		if e, err := Open(b, nil); err == nil {
			if s, err := ReadStatement(e.Payload); err == nil {
				_ = s.About("sha256:x")
			}
		}
	})
}
