package factor

import (
	"strings"
	"testing"
	"time"
)

// The vectors of RFC 6238, appendix B, for SHA-1.
func TestRFC6238(t *testing.T) {
	secret := []byte("12345678901234567890")
	for _, tt := range []struct {
		unix int64
		want string
	}{
		{59, "94287082"},
		{1111111109, "07081804"},
		{1111111111, "14050471"},
		{1234567890, "89005924"},
		{2000000000, "69279037"},
		{20000000000, "65353130"},
	} {
		if got := codeAt(secret, step(time.Unix(tt.unix, 0)), 8); got != tt.want {
			t.Errorf("at %d: got %s, want %s", tt.unix, got, tt.want)
		}
	}
}

// The vectors of RFC 4226, appendix D.
func TestRFC4226(t *testing.T) {
	want := strings.Fields("755224 287082 359152 969429 338314 254676 287922 162583 399871 520489")
	for i, w := range want {
		if got := codeAt([]byte("12345678901234567890"), int64(i), Digits); got != w {
			t.Errorf("counter %d: got %s, want %s", i, got, w)
		}
	}
}

func TestSkew(t *testing.T) {
	secret, now := random(secretBytes), time.Unix(1_700_000_010, 0)
	for _, tt := range []struct {
		name string
		off  time.Duration
		ok   bool
	}{
		{"now", 0, true},
		{"one period behind", -Period, true},
		{"one period ahead", Period, true},
		{"two periods behind", -2 * Period, false},
		{"two periods ahead", 2 * Period, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at, ok := matchStep(secret, codeAt(secret, step(now.Add(tt.off)), Digits), now)
			if ok != tt.ok || ok && at != step(now.Add(tt.off)) {
				t.Errorf("got %d, %v, want %d, %v", at, ok, step(now.Add(tt.off)), tt.ok)
			}
		})
	}
}

func TestIsCode(t *testing.T) {
	for text, want := range map[string]bool{
		"123456": true, "000000": true, "": false, "12345": false, "1234567": false, "12345a": false, "１２": false, " 12345": false,
	} {
		if got := isCode(text); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

func TestKeyURI(t *testing.T) {
	got := keyURI("Belay host-1", "alice@host-1", "ABC")
	if want := "otpauth://totp/Belay%20host-1:alice@host-1?secret=ABC&issuer=Belay%20host-1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRecoveryCodes(t *testing.T) {
	salt := random(saltBytes)
	codes, hashes := newRecoveryCodes(salt)
	if len(codes) != recoveryCodes || len(hashes) != recoveryCodes {
		t.Fatalf("got %d codes and %d hashes", len(codes), len(hashes))
	}
	for i, c := range codes {
		for _, text := range []string{c, strings.ToUpper(c), strings.ReplaceAll(c, "-", ""), strings.ReplaceAll(c, "-", " ")} {
			if got := matchRecovery(salt, hashes, text); got != i {
				t.Errorf("code %d as %q: got %d", i, text, got)
			}
		}
		if got := matchRecovery(random(saltBytes), hashes, c); got != -1 {
			t.Errorf("under another salt: got %d, want -1", got)
		}
	}
	for _, text := range []string{"", "-", "aaaa-aaaa-aaaa-aaaa", codes[0] + "a", codes[0][1:]} {
		if got := matchRecovery(salt, hashes, text); got != -1 {
			t.Errorf("%q: got %d, want -1", text, got)
		}
	}
}
