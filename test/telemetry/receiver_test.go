// Package telemetry holds what telemetry is worth against the OpenTelemetry Collector's own
// receiver: every kind of signal arrives, and a receiver that is dead, slow or refuses
// costs counted drops and nobody's time.
//
// It starts bin/otlpreceiver (tools/otlpreceiver) on loopback addresses. Row: tests.
package telemetry

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
)

// Receiver is a running receiver.
type Receiver struct {
	GRPC, HTTP, control string // addresses
	Out                 string // file of items
	cmd                 *exec.Cmd
	args                []string
	bin                 string
}

// Counts is what a receiver took since it was started.
type Counts struct {
	Counts map[string]int `json:"counts"` // log, span, metric
	Names  map[string]int `json:"names"`  // "span gate container.start"
}

// Start starts a receiver, which ends with the test. Args are further flags.
func Start(t *testing.T, args ...string) *Receiver {
	t.Helper()
	bin := os.Getenv("BELAY_OTLP_RECEIVER")
	if bin == "" {
		bin = filepath.Join("..", "..", "bin", "otlpreceiver")
	}
	_, err := os.Stat(bin)
	testneed.Need(t, "otlpreceiver", err == nil, "bin/otlpreceiver is not built: make build-test")
	r := &Receiver{bin: bin, args: args, Out: filepath.Join(t.TempDir(), "items.jsonl")}
	r.run(t, "127.0.0.1:0", "127.0.0.1:0")
	t.Cleanup(r.Kill)
	return r
}

// Again starts it on the addresses that it had.
func (r *Receiver) Again(t *testing.T) { t.Helper(); r.run(t, r.GRPC, r.HTTP) }

func (r *Receiver) run(t *testing.T, grpc, web string) {
	t.Helper()
	r.cmd = exec.Command(r.bin, append([]string{"-grpc", grpc, "-http", web, "-out", r.Out}, r.args...)...)
	r.cmd.Stderr = os.Stderr
	// It ends with its input, so also when this process is killed.
	if _, err := r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the receiver did not start: %v", err)
	}
	for _, f := range strings.Fields(line) {
		switch k, v, _ := strings.Cut(f, "="); k {
		case "grpc":
			r.GRPC = v
		case "http":
			r.HTTP = v
		case "control":
			r.control = v
		}
	}
}

// Kill ends it at once.
func (r *Receiver) Kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

// Mode makes it take, slow, refuse or reject.
func (r *Receiver) Mode(t *testing.T, mode string) {
	t.Helper()
	r.ask(t, http.MethodPost, "/mode/"+mode)
}

// Counts asks what it took.
func (r *Receiver) Counts(t *testing.T) Counts {
	t.Helper()
	var c Counts
	if err := json.Unmarshal(r.ask(t, http.MethodGet, "/counts"), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (r *Receiver) ask(t *testing.T, method, path string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.control+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %v", method, path, resp.Status, err)
	}
	return raw
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
