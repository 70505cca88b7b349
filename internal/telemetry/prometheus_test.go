package telemetry

import (
	"log/slog"
	"net/http"
	"testing"
)

func TestHealthz(t *testing.T) {
	enforcing := false
	s, err := listenProm("127.0.0.1:0", func() bool { return enforcing }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	go s.serve(t.Context())
	for _, want := range []int{http.StatusServiceUnavailable, http.StatusOK} {
		r, err := http.Get("http://" + s.l.Addr().String() + "/healthz") //nolint:noctx // a test's own server
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("enforcing %v: status %d, want %d", enforcing, r.StatusCode, want)
		}
		enforcing = true
	}
}
