package takeover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/daemonjson"
)

// system starts the host's own programs.
type system interface {
	run(ctx context.Context, name string, args ...string) (string, error)
}

type commands struct{}

// run starts a program of the host by its absolute path, with nothing of the caller's environment but how
// long systemctl waits for a busy systemd (25 s by default).
func (commands) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/"+name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "SYSTEMD_COLORS=0"}
	if patience, set := os.LookupEnv("SYSTEMD_BUS_TIMEOUT"); set {
		cmd.Env = append(cmd.Env, "SYSTEMD_BUS_TIMEOUT="+patience)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out[:min(len(out), 2000)]))
	}
	return string(out), nil
}

func (h *Host) systemctl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	_, err := h.sys.run(ctx, "systemctl", args...)
	return err
}

// systemd tells whether it is the host's init: sd_booted(3).
func (h *Host) systemd() bool {
	info, err := os.Lstat(h.path("/run/systemd/system"))
	return err == nil && info.IsDir()
}

// engineGone tells whether Docker was removed: neither of its units is there, or they are masked, as dpkg leaves
// those of a package that was not purged, and neither runs: an operator masks units too. A systemd that does not
// answer says nothing of the kind.
func (h *Host) engineGone(ctx context.Context) bool {
	if !h.systemd() {
		return false
	}
	for _, unit := range []string{dockerUnit, socketUnit} {
		state := h.unitState(ctx, unit)
		if !state("LoadState=not-found", "LoadState=masked") || !state("ActiveState=inactive", "ActiveState=failed") {
			return false
		}
	}
	return true
}

// idle tells whether a unit does not run. A systemd that does not answer says nothing of the kind.
func (h *Host) idle(ctx context.Context, unit string) bool {
	return h.unitState(ctx, unit)("ActiveState=inactive", "ActiveState=failed")
}

// unitState asks for a unit's state, and returns what tells whether it is one of some.
func (h *Host) unitState(ctx context.Context, unit string) func(of ...string) bool {
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	out, err := h.sys.run(ctx, "systemctl", "show", "--property=LoadState,ActiveState", unit)
	state := strings.Fields(out)
	return func(of ...string) bool {
		return err == nil && slices.ContainsFunc(of, func(s string) bool { return slices.Contains(state, s) })
	}
}

// rollbackAfter is longer than all waits of a takeover together: the timer is for a process
// that was killed.
func (h *Host) rollbackAfter() time.Duration { return 6 * h.opts.Timeout }

// armTimer has everything undone after a while. Whoever it starts waits for the end of this process.
func (h *Host) armTimer(ctx context.Context, after time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	h.disarmTimer(ctx) // one that an earlier run has left
	_, err := h.sys.run(ctx, "systemd-run", "--quiet", "--collect", "--unit="+rollbackUnit,
		fmt.Sprintf("--on-active=%d", int(after.Seconds())), "--timer-property=AccuracySec=1s",
		h.opts.Command, "disable-gate", "--if-unconfirmed")
	if err != nil {
		return fmt.Errorf("start the timer of the rollback: %w", err)
	}
	return nil
}

// disarmTimer stops the timer, and what it has started: that waits for us to end, unless it is us.
func (h *Host) disarmTimer(ctx context.Context) {
	// There may be none: it has run, or the machine was booted since.
	_ = h.systemctl(ctx, "stop", rollbackUnit+".timer")
	if !h.byTimer {
		_ = h.systemctl(ctx, "stop", rollbackUnit+".service")
	}
}

// possible tells whether the host is one whose daemon's socket systemd makes.
func (h *Host) possible(ctx context.Context) error {
	if !h.systemd() {
		return fmt.Errorf("%w: systemd does not run here; docs/gate.md has the steps by hand", ErrNotPossible)
	}
	for _, unit := range []string{socketUnit, dockerUnit, agentUnit} {
		ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
		out, err := h.sys.run(ctx, "systemctl", "show", "--property=ActiveState", unit)
		cancel()
		if err != nil {
			return err
		}
		if got := strings.TrimSpace(out); got != "ActiveState=active" {
			return fmt.Errorf("%w: %s is not active (%s): start it, or go by the steps in docs/gate.md", ErrNotPossible, unit, got)
		}
	}
	if h.asksPlugin() {
		return fmt.Errorf(`%w: /etc/docker/daemon.json has belay in "authorization-plugins" already: take it out until the gate is in place`, ErrNotPossible)
	}
	if _, err := os.Lstat(h.path(Upstream)); err == nil {
		return fmt.Errorf("%w: there is something at %s; docs/gate.md has the steps by hand", ErrNotPossible, Upstream)
	}
	return nil
}

// healthy waits until the engine answers at its moved socket and through the gate.
func (h *Host) healthy(ctx context.Context) error {
	if err := h.answers(ctx, Upstream); err != nil {
		return fmt.Errorf("the daemon does not answer at %s: %w", Upstream, err)
	}
	if err := h.answers(ctx, Socket); err != nil {
		return fmt.Errorf("the engine does not answer through the gate at %s: %w", Socket, err)
	}
	return h.isGate(ctx)
}

// isGate asks for what the gate alone refuses so: a daemon that listens at the old place too (a host in daemon.json or a flag,
// another drop-in) answers a ping as well as the gate does.
func (h *Host) isGate(ctx context.Context) error {
	_, err := engine{h.path(Socket)}.get(ctx, "//_ping")
	if refused := (*statusError)(nil); errors.As(err, &refused) && refused.code == http.StatusBadRequest && strings.Contains(refused.Error(), "belay") {
		return nil
	}
	return fmt.Errorf("who answers at %s is not the gate: take %s out of hosts in %s, of dockerd's flags and of the drop-ins of %s",
		Socket, Socket, daemonjson.Path, socketUnit)
}

// answers waits for a good answer to a ping.
func (h *Host) answers(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	e := engine{h.path(socket)}
	for {
		_, err := e.get(ctx, "/_ping")
		if err == nil {
			return nil
		}
		if !wait(ctx) {
			return err
		}
	}
}

// wait waits a moment; false says that ctx has ended.
func wait(ctx context.Context) bool {
	t := time.NewTimer(200 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// engine is asked over a socket.
type engine struct{ socket string }

const (
	maxAnswer     = 32 << 20 // bytes; a list of some ten thousand containers
	answerTimeout = 20 * time.Second
)

func (e engine) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", e.socket)
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1)) //nolint:forbidigo // bounded
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxAnswer:
		return nil, errors.New("the answer is too long")
	case resp.StatusCode != http.StatusOK:
		return nil, &statusError{resp.StatusCode, fmt.Sprintf("GET %s: %s: %s", path, resp.Status, bytes.TrimSpace(b[:min(len(b), 300)]))}
	}
	return b, nil
}

// statusError is an answer that is not 200.
type statusError struct {
	code int
	text string
}

// Error returns the request and the start of the answer.
func (e *statusError) Error() string { return e.text }

func (e engine) liveRestore(ctx context.Context) (bool, error) {
	var info struct{ LiveRestoreEnabled bool }
	b, err := e.get(ctx, "/info")
	if err == nil {
		err = json.Unmarshal(b, &info)
	}
	return info.LiveRestoreEnabled, err
}

// running lists the IDs of containers that run.
func (e engine) running(ctx context.Context) ([]string, error) {
	var list []struct{ Id string } //nolint:revive // the daemon's spelling
	b, err := e.get(ctx, "/containers/json")
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	ids := make([]string, 0, len(list))
	for _, c := range list {
		ids = append(ids, c.Id)
	}
	return ids, nil
}
