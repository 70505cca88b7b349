// Package telemetry holds what telemetry is worth against the OpenTelemetry Collector's own
// receiver: every kind of signal arrives, and a receiver that is dead, slow or refuses
// costs counted drops and nobody's time.
//
// It starts bin/otlpreceiver (tools/otlpreceiver) on loopback addresses. Row: tests.
package telemetry

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// Receiver is a running receiver.
type Receiver struct {
	*lab.Receiver
	Out  string // file of items
	args []string
	bin  string
}

// Start starts a receiver, which ends with the test. Args are further flags.
func Start(t *testing.T, args ...string) *Receiver {
	t.Helper()
	bin := os.Getenv("BELAY_OTLP_RECEIVER")
	if bin == "" {
		bin = filepath.Join("..", "..", "bin", "otlpreceiver")
	}
	_, err := os.Stat(bin)
	testneed.Need(t, "otlpreceiver", err == nil, lab.ErrNoReceiver.Error())
	r := &Receiver{bin: bin, args: args, Out: filepath.Join(t.TempDir(), "items.jsonl")}
	r.run(t, "127.0.0.1:0", "127.0.0.1:0")
	t.Cleanup(func() { r.Kill() })
	return r
}

// Again starts it on the addresses that it had.
func (r *Receiver) Again(t *testing.T) { t.Helper(); r.run(t, r.GRPC, r.HTTP) }

func (r *Receiver) run(t *testing.T, grpc, web string) {
	t.Helper()
	var err error
	if r.Receiver, err = lab.RunReceiver(r.bin, append([]string{"-grpc", grpc, "-http", web, "-out", r.Out}, r.args...)...); err != nil {
		t.Fatal(err)
	}
}

// Mode makes it take, slow, refuse or reject.
func (r *Receiver) Mode(t *testing.T, mode string) {
	t.Helper()
	if err := r.Receiver.Mode(t.Context(), mode); err != nil {
		t.Fatal(err)
	}
}

// Counts asks what it took.
func (r *Receiver) Counts(t *testing.T) lab.ReceiverCounts {
	t.Helper()
	c, err := r.Receiver.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Item is one that it took.
type Item struct {
	Signal, Name        string
	Attributes          map[string]any
	Resource            map[string]any
	Body, Error         string
	Trace, Span, Parent string
	Events, Exemplars   []string
	Links               int
	Value               float64
}

// Items reads what it wrote down.
func (r *Receiver) Items(t *testing.T) []Item {
	t.Helper()
	raw, err := os.ReadFile(r.Out)
	if err != nil {
		t.Fatal(err)
	}
	var out []Item
	for line := range strings.Lines(string(raw)) {
		var i Item
		if err := json.Unmarshal([]byte(line), &i); err != nil {
			t.Fatal(fmt.Errorf("%q: %w", line, err))
		}
		out = append(out, i)
	}
	return out
}
