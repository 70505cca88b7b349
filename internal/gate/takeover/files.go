package takeover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/daemonjson"
)

// Where drop-ins are: those of a takeover that has not proved itself are gone after a reboot.
const (
	volatile   = "/run/systemd/system"
	persistent = "/etc/systemd/system"
)

const (
	phaseEnabling  = "enabling"
	phaseEnabled   = "enabled"
	phaseDisabling = "disabling"
)

// state is the record of a takeover, written before each step that it tells of.
type state struct {
	Phase   string    `json:"phase"`
	Since   time.Time `json:"since"`
	Group   string    `json:"group"`
	Mode    string    `json:"mode"`
	Running []string  `json:"running,omitempty"` // containers, before
}

// files are the drop-ins, by unit.
func (s state) files() map[string]string {
	return map[string]string{
		socketUnit: `# ` + persistent + `/docker.socket.d/belay.conf: the daemon's socket where only root comes,
# its usual place left to the gate (docs/gate.md). docker.service requires docker.socket and a
# drop-in cannot take that away, so the socket unit stays and moves.
[Socket]
ListenStream=
ListenStream=` + Upstream + `
DirectoryMode=0700
SocketMode=0600
SocketUser=root
SocketGroup=root
`,
		agentUnit: `# ` + persistent + `/belay-agent.service.d/gate.conf: the gate in the daemon's old place,
# and the plugin (docs/gate.md). "belay enable-gate" writes it.
[Service]
Environment="BELAY_GATE_FLAGS=--docker-host unix://` + Upstream + ` --gate-socket ` + Socket + ` --gate-group ` + s.Group + ` --gate-mode ` + s.Mode + ` --authz-plugin ` + plugin + `"
`,
	}
}

func (h *Host) path(p string) string { return filepath.Join(h.opts.Root, p) }

func (h *Host) dropIn(tree, unit string) string {
	name := "gate.conf"
	if unit == socketUnit {
		name = "belay.conf"
	}
	return filepath.Join(tree, unit+".d", name)
}

func (h *Host) writeDropIns(tree string, files map[string]string) error {
	for unit, text := range files {
		p := h.path(h.dropIn(tree, unit))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return fmt.Errorf("write drop-in: %w", err)
		}
		if err := atomicfile.WriteFile(p, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write drop-in: %w", err)
		}
	}
	return nil
}

// removeDropIns removes the files, and their folders if nobody else has one there.
func (h *Host) removeDropIns(tree string) error {
	var errs []error
	for _, unit := range []string{socketUnit, agentUnit} {
		p := h.path(h.dropIn(tree, unit))
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove drop-in: %w", err))
		}
		if err := os.Remove(filepath.Dir(p)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			errs = append(errs, fmt.Errorf("remove drop-in: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (h *Host) inPlace(tree string, files map[string]string) bool {
	for unit, text := range files {
		b, err := os.ReadFile(h.path(h.dropIn(tree, unit)))
		if err != nil || string(b) != text {
			return false
		}
	}
	return true
}

func (h *Host) anyDropIn() bool {
	for _, tree := range []string{volatile, persistent} {
		for _, unit := range []string{socketUnit, agentUnit} {
			if _, err := os.Lstat(h.path(h.dropIn(tree, unit))); err == nil {
				return true
			}
		}
	}
	return false
}

// removeMoved removes the daemon's moved socket, which nobody listens on any more.
func (h *Host) removeMoved() {
	_ = os.Remove(h.path(Upstream))
	_ = os.Remove(filepath.Dir(h.path(Upstream)))
}

func (h *Host) statePath() string { return filepath.Join(h.path(h.opts.StateDir), "gate.json") }

func (h *Host) readState() (state, error) {
	var st state
	b, err := os.ReadFile(h.statePath())
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err == nil && !slices.Contains([]string{phaseEnabling, phaseEnabled, phaseDisabling}, st.Phase) {
		err = fmt.Errorf("phase %q is none", st.Phase)
	}
	if err != nil {
		return state{}, fmt.Errorf("read %s: %w; `belay disable-gate` starts over", h.statePath(), err)
	}
	return st, nil
}

func (h *Host) writeState(st state) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.WriteFile(h.statePath(), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("record the step: %w", err)
	}
	return nil
}

func (h *Host) removeState() error {
	if err := os.Remove(h.statePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record: %w", err)
	}
	return nil
}

// lock keeps a second run, or the timer's, out. It is on the state directory itself, so that no
// lock file is left. Without create and the directory there is nothing to keep anybody out of. most bounds
// the wait.
func (h *Host) lock(ctx context.Context, create bool, most time.Duration) (unlock func(), err error) {
	dir := h.path(h.opts.StateDir)
	if create {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !wait(ctx) {
			f.Close()
			return nil, fmt.Errorf("another enable-gate or disable-gate is at work: %w", err)
		}
	}
}

var groupName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,31}$`)

// socketAccess returns group and mode of what is at Docker's usual place.
func (h *Host) socketAccess() (group, mode string, err error) {
	var s unix.Stat_t
	if err := unix.Lstat(h.path(Socket), &s); err != nil {
		return "", "", fmt.Errorf("%w: look at %s: %w", ErrNotPossible, Socket, err)
	}
	if s.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return "", "", fmt.Errorf("%w: %s is no socket", ErrNotPossible, Socket)
	}
	if int(s.Uid) != os.Geteuid() {
		return "", "", fmt.Errorf("%w: %s belongs to uid %d and not to root", ErrNotPossible, Socket, s.Uid)
	}
	g, err := user.LookupGroupId(strconv.Itoa(int(s.Gid)))
	if err != nil || !groupName.MatchString(g.Name) {
		return "", "", fmt.Errorf("%w: the group %d of %s has no name that the agent could be given", ErrNotPossible, s.Gid, Socket)
	}
	return g.Name, fmt.Sprintf("%04o", s.Mode&0o777), nil
}

// asksPlugin tells whether the daemon's file names the plugin; one that cannot be read names none.
func (h *Host) asksPlugin() bool {
	b, err := os.ReadFile(h.path(daemonjson.Path))
	return err == nil && daemonjson.AsksPlugin(b)
}
