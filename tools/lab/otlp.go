package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// ErrNoReceiver says that tools/otlpreceiver, a module of its own, is not built.
var ErrNoReceiver = errors.New("bin/otlpreceiver is not built: make build-test")

// Receiver is the OTLP receiver of the OpenTelemetry Collector, which counts what it takes.
type Receiver struct {
	GRPC, HTTP string // addresses

	control string
	cmd     *exec.Cmd
}

// ReceiverCounts is what a receiver took since it was started.
type ReceiverCounts struct {
	Counts map[string]int `json:"counts"` // log, span, metric
	Names  map[string]int `json:"names"`  // "span gate container.start"
}

// StartReceiver starts the receiver that is built beside the agent. It ends with the lab.
//
// Errors: [ErrNoReceiver].
func (l *Lab) StartReceiver() (*Receiver, error) {
	dir := l.opts.BinDir
	if dir == "" {
		dir = filepath.Join(l.opts.Source, "bin")
	}
	r, err := RunReceiver(filepath.Join(dir, "otlpreceiver"))
	if err == nil {
		l.push(func() error { r.Kill(); return nil })
	}
	return r, err
}

// RunReceiver starts the receiver at a path. It ends by [Receiver.Kill], or with this process.
//
// Errors: [ErrNoReceiver].
func RunReceiver(bin string, flags ...string) (*Receiver, error) {
	if _, err := os.Stat(bin); errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoReceiver
	}
	r := &Receiver{cmd: exec.Command(bin, flags...)}
	r.cmd.Stderr = os.Stderr
	// It ends with its input, so also when this process is killed.
	if _, err := r.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start the receiver: %w", err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the receiver: %w", err)
	}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the receiver: %w", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		r.Kill()
		return nil, fmt.Errorf("the receiver did not start: %w", err)
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
	return r, nil
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
func (r *Receiver) Mode(ctx context.Context, mode string) error {
	_, err := r.ask(ctx, http.MethodPost, "/mode/"+mode)
	return err
}

// Counts asks what it took.
func (r *Receiver) Counts(ctx context.Context) (c ReceiverCounts, err error) {
	raw, err := r.ask(ctx, http.MethodGet, "/counts")
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(raw, &c)
}

func (r *Receiver) ask(ctx context.Context, method, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.control+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return raw, err
}
