package hooksig

import "testing"

// TestSign: the value is that of openssl dgst -sha256 -hmac 0123456789abcdef over "1.{}".
func TestSign(t *testing.T) {
	const want = "sha256=2af693cb56b22c16912222aeefdc75a01de562bf70ee2015f41ecea48382997f"
	if got := Sign([]byte("0123456789abcdef"), "1", []byte("{}")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
