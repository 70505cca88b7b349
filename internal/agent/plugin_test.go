package agent

import (
	"bytes"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// TestReadCAs: a file of certificates that is too large is refused, and not read in part.
func TestReadCAs(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "ca.pem")
	for _, tt := range []struct {
		name    string
		content []byte
		want    bool
	}{
		{"one certificate", one, true},
		{"as large as may be", append(bytes.Repeat([]byte("\n"), maxCAFile-len(one)), one...), true},
		{"larger", append(bytes.Clone(one), bytes.Repeat([]byte("\n"), maxCAFile-len(one)+1)...), false},
		{"no certificate", []byte("x"), false},
	} {
		if err := os.WriteFile(file, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readCAs(file); (err == nil) != tt.want {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
