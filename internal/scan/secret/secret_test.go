package secret

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/osv-scalibr/veles"
	"github.com/google/osv-scalibr/veles/secrets/anthropicapikey"
	"github.com/google/osv-scalibr/veles/secrets/digitaloceanapikey"
	"github.com/google/osv-scalibr/veles/secrets/dockerhubpat"
	"github.com/google/osv-scalibr/veles/secrets/github"
	"github.com/google/osv-scalibr/veles/secrets/gitlabpat"
	"github.com/google/osv-scalibr/veles/secrets/hashicorpvault"
	"github.com/google/osv-scalibr/veles/secrets/npmjsaccesstoken"
	"github.com/google/osv-scalibr/veles/secrets/privatekey"
	"github.com/google/osv-scalibr/veles/secrets/pypiapitoken"
	"github.com/google/osv-scalibr/veles/secrets/rubygemsapikey"
	"github.com/google/osv-scalibr/veles/secrets/sendgrid"
	"github.com/google/osv-scalibr/veles/secrets/stripeapikeys"

	"github.com/belay-project/belay/internal/testneed"
)

// drawn is a value of n characters, the same in every run: no real secret is in the tests.
func drawn(chars string, n int) string {
	r := rand.New(rand.NewPCG(7, uint64(n)))
	var b strings.Builder
	for range n {
		b.WriteByte(chars[r.IntN(len(chars))])
	}
	return b.String()
}

// summed adds the checksum that tokens of GitHub end with: CRC-32 in base 62, six digits.
func summed(v string) string {
	const base62 = digits + upper + lower
	sum := crc32.ChecksumIEEE([]byte(v))
	var end [6]byte
	for i := range end {
		end[len(end)-1-i] = base62[sum%62]
		sum /= 62
	}
	return v + string(end[:])
}

func pemKeyOf(tb testing.TB) string {
	tb.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		tb.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func wrap(label, body string) string {
	return "-----BEGIN " + label + "-----\n" + body + "\n-----END " + label + "-----\n"
}

func TestFind(t *testing.T) {
	key := pemKeyOf(t)
	body := drawn(alnum, 64)
	ghp := "ghp_" + drawn(alnum, 36)
	tests := []struct {
		name, file, text, want string // no want: nothing is found
		line                   int
		weak                   bool
	}{
		{"a key", "app/tls.key", "# mine\n" + key, "a private key", 2, false},
		{"a key in JSON", "app/sa.json", `{"private_key": "` + strings.ReplaceAll(key, "\n", `\n`) + `"}`, "a private key", 1, false},
		{"RSA", "k", wrap("RSA PRIVATE KEY", body), "a private key (RSA)", 1, false},
		{"RSA behind a passphrase", "k", wrap("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AB\n\n"+body), "behind a passphrase", 1, true},
		{"PKCS #8 behind a passphrase", "k", wrap("ENCRYPTED PRIVATE KEY", body), "behind a passphrase", 1, true},
		{"OpenSSH", "root/.ssh/id_ed25519", wrap("OPENSSH PRIVATE KEY", "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW"), "a private key (OPENSSH)", 1, false},
		{"OpenSSH behind a passphrase", "k", wrap("OPENSSH PRIVATE KEY", "b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABBQeQ"), "behind a passphrase", 1, true},
		{"OpenPGP", "k", wrap("PGP PRIVATE KEY BLOCK", "\n"+body), "OpenPGP", 1, false},
		{"a certificate", "k", wrap("CERTIFICATE", body), "", 0, false},
		{"a public key", "k", wrap("PUBLIC KEY", body), "", 0, false},
		{"code about keys", "app/x.js", "if (s.includes('-----BEGIN RSA PRIVATE KEY-----') && s.includes('-----END RSA PRIVATE KEY-----')) {}", "", 0, false},
		{"a token", "app/config.yml", "a: b\ntoken: " + ghp + "\n", "a personal token of GitHub (ghp_..., 40 characters)", 2, false},
		{"a token in JSON's escapes", "app/config.json", `{"x":"a\n` + ghp + `"}`, "GitHub", 1, false},
		{"a token within a word", "app/config.yml", "x" + ghp, "", 0, false},
		{"one that is too long", "app/config.yml", ghp + "aB3", "", 0, false},
		{"a placeholder", "app/config.yml", "ghp_" + strings.Repeat("x", 36), "", 0, false},
		{"an example", "app/config.yml", "ghp_EXAMPLE" + drawn(alnum, 29), "", 0, false},
		{"AWS", "root/.aws/credentials", "aws_access_key_id = AKIA" + drawn(upper, 16) + "\naws_secret_access_key = " + drawn(alnum, 40), "AWS", 1, false},
		{"AWS, one half alone", "x", "AKIA" + drawn(upper, 16), "", 0, false},
		{"a binary", "x", "\x00" + ghp, "", 0, false},
		{"registry", "root/.docker/config.json", `{"auths":{"r.example.com":{"auth":"` + drawn(alnum, 24) + `"}}}`, "credentials of a registry", 1, false},
		{"another config.json", "app/config.json", `{"auth":"` + drawn(alnum, 24) + `"}`, "", 0, false},
		{"git", "root/.git-credentials", "https://me:" + drawn(alnum, 12) + "@git.example.com", "a URL with a password", 1, false},
		{"npm", "app/.npmrc", "//r.example.com/:_authToken=" + drawn(alnum, 30), "a token of a registry", 1, false},
		{"npm, a reference", "app/.npmrc", "//r.example.com/:_authToken=${NPM_TOKEN}", "", 0, false},
		{"netrc", "root/.netrc", "machine x login y password " + drawn(alnum, 9), "a password", 1, false},
		{"shadow", "etc/shadow", "root:*:1::::::\napp:$6$abcdefgh$" + drawn(alnum, 40) + ":1::::::", "the hash of a password", 2, true},
		{"shadow without", "etc/shadow", "root:*:1::::::\napp:!:1::::::", "", 0, false},
		{".env", "app/.env", "PORT=80\nDB_PASSWORD=" + drawn(alnum, 9), "a variable that looks like a secret, DB_PASSWORD", 2, false},
		{".env, a reference", "app/.env", "DB_PASSWORD=${X}", "", 0, false},
		{".env.example", "app/.env.example", "DB_PASSWORD=hunter2", "", 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, more := Find(tt.file, []byte(tt.text))
			if tt.want == "" {
				if len(list) > 0 || more {
					t.Errorf("got %+v, want nothing", list)
				}
				return
			}
			if len(list) != 1 || !strings.Contains(list[0].What, tt.want) || list[0].Line != tt.line || list[0].Weak != tt.weak {
				t.Errorf("got %+v, want %q in line %d, weak %v", list, tt.want, tt.line, tt.weak)
			}
		})
	}
}

// TestNoValue: no part of a value is told, but what its issuer puts before every one.
func TestNoValue(t *testing.T) {
	for i := range tokens {
		tok := &tokens[i]
		v := drawn(tok.chars, tok.least)
		text := "x " + tok.prefix + v + " " + drawn(alnum+"+/", awsSecret) + "\n"
		list, _ := Find("app/x", []byte(text))
		if len(list) != 1 {
			t.Errorf("%s: got %+v, want one", tok.prefix, list)
			continue
		}
		for j := 0; j+4 <= len(v); j++ {
			if strings.Contains(list[0].What, v[j:j+4]) {
				t.Errorf("%s: %q has a part of the value", tok.prefix, list[0].What)
			}
		}
	}
}

func TestWants(t *testing.T) {
	for name, want := range map[string]bool{
		"app/config.yml": true, "root/.ssh/id_rsa": true, "etc/ssh/ssh_host_rsa_key": true, "usr/local/etc/x.conf": true, "usr/src/app/.env": true,
		"usr/share/doc/x/key.pem": false, "usr/lib/python3/x.py": false, "usr/local/lib/python3.12/test/keycert.pem": false,
		"usr/local/go/src/crypto/tls/tls_test.go": false, "app/node_modules/x/test/key.pem": false, "var/lib/dpkg/status": false, "app/logo.PNG": false,
		"etc/ssl/certs/ca.pem": false, "usrx/a": true,
	} {
		if got := Wants(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

// TestMany: there is an end to what is told of one file, and to the time that it takes.
func TestMany(t *testing.T) {
	one := "ghp_" + drawn(alnum, 36) + "\n"
	list, more := Find("app/x", []byte(strings.Repeat(one, 1000)))
	if len(list) != maxMatches || !more {
		t.Errorf("got %d, %v, want %d and more", len(list), more, maxMatches)
	}
	for _, s := range []string{"-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "AKIA", "ghp_", "SG.SG.", "AKIA" + drawn(upper, 16) + " "} {
		b := bytes.Repeat([]byte(s), MaxBytes/len(s))
		Find("app/.env", b)
	}
}

// TestVeles: values of forms that another search for secrets knows too are found by it.
func TestVeles(t *testing.T) {
	for _, tt := range []struct {
		prefix, value string
		d             veles.Detector
	}{
		{"ghp_", summed(drawn(alnum, 30)), github.NewClassicPATDetector()},
		{"gho_", summed(drawn(alnum, 30)), github.NewOAuthTokenDetector()},
		{"ghu_", summed(drawn(alnum, 30)), github.NewAppU2SDetector()},
		{"ghs_", summed(drawn(alnum, 30)), github.NewAppS2STokenDetector()},
		{"ghr_", summed(drawn(alnum, 70)), github.NewAppRefreshTokenDetector()},
		{"github_pat_", drawn(alnum, 22) + "_" + drawn(alnum, 59), github.NewFineGrainedPATDetector()},
		{"glpat-", drawn(alnum, 20), gitlabpat.NewDetector()},
		{"npm_", drawn(alnum, 36), npmjsaccesstoken.NewDetector()},
		{"sk_live_", drawn(alnum, 32), stripeapikeys.NewSecretKeyDetector()},
		{"rk_live_", drawn(alnum, 32), stripeapikeys.NewRestrictedKeyDetector()},
		{"dckr_pat_", drawn(alnum, 27), dockerhubpat.NewDetector()},
		{"dop_v1_", drawn(hexLower, 64), digitaloceanapikey.NewDetector()},
		{"SG.", drawn(alnum, 22) + "." + drawn(alnum, 43), sendgrid.NewDetector()},
		{"hvs.", drawn(alnum, 95), hashicorpvault.NewTokenDetector()},
		{"pypi-AgEIcHlwaS5vcmc", drawn(alnum, 120), pypiapitoken.NewDetector()},
		{"rubygems_", drawn(hexLower, 48), rubygemsapikey.NewDetector()},
		{"sk-ant-", "api03-" + drawn(alnum, 95), anthropicapikey.NewDetector()},
		{"", pemKeyOf(t), privatekey.NewDetector()},
	} {
		text := "value: " + tt.prefix + tt.value + "\n"
		ours, _ := Find("app/config.yml", []byte(text))
		e, err := veles.NewDetectionEngine([]veles.Detector{tt.d})
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := e.Detect(context.Background(), strings.NewReader(text))
		if err != nil || len(ours) != 1 || len(theirs) != 1 {
			t.Errorf("%s: %d found here, %d there, %v, want one each", tt.prefix, len(ours), len(theirs), err)
		}
	}
}

// TestOrdinaryDebian: no file that packages of Debian brought holds a secret. Those that the
// search leaves out are searched here too, and few are taken for secrets.
func TestOrdinaryDebian(t *testing.T) {
	lists, _ := filepath.Glob("/var/lib/dpkg/info/*.list")
	testneed.Need(t, "debian", len(lists) > 50, "this is no Debian with packages below /var/lib/dpkg")
	files, wanted, found := 0, 0, map[bool][]string{}
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for name := range strings.SplitSeq(string(b), "\n") {
			st, err := os.Lstat(name)
			if err != nil || !st.Mode().IsRegular() || st.Size() > MaxBytes || strings.Contains(name, "/testdata/") {
				continue
			}
			in := Wants(strings.TrimPrefix(name, "/"))
			// All of what is searched, and a part of the rest.
			if files++; !in && files%10 != 0 {
				continue
			}
			text, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			if in {
				wanted++
			}
			if got, _ := Find(strings.TrimPrefix(name, "/"), text); len(got) > 0 {
				found[in] = append(found[in], fmt.Sprintf("%s:%d: %s", name, got[0].Line, got[0].What))
			}
		}
	}
	t.Logf("%d files, %d of them searched; in a tenth of the others %d seem to have secrets: %.600s", files, wanted, len(found[false]), strings.Join(found[false], "; "))
	if len(found[true]) > 0 {
		t.Errorf("files of packages that are searched: %.2000s", strings.Join(found[true], "; "))
	}
}

func FuzzFind(f *testing.F) {
	f.Add(".env", []byte("DB_PASSWORD=hunter2"))
	f.Add("k", []byte(wrap("RSA PRIVATE KEY", drawn(alnum, 64))))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		list, _ := Find(name, b)
		lines := bytes.Count(b, []byte("\n")) + 1
		for _, m := range list {
			if m.Line < 1 || m.Line > lines || m.What == "" {
				t.Errorf("got %+v of %d lines", m, lines)
			}
		}
	})
}
