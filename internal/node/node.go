// Package node puts Belay on the host that a container runs on, as a service of its systemd, and
// takes it away again: the way onto the nodes of a cluster. The agent cannot run in a container
// itself, since no container may call bpf(), and so that no container is more than the others.
//
// It owns the files that it has written, whose names are in one manifest beside the programs. It never
// follows a link out of the host's root, never replaces a file that somebody else has put there, and
// stops nothing that enforces: what is pinned stays until the next agent has taken it over.
//
// Row: feature. It imports daemonjson and policy.
package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/daemonjson"
	"github.com/belay-project/belay/internal/policy"
)

// Errors of [Install] and [Remove].
var (
	// ErrNotPossible is for a host on which Belay cannot be a service.
	ErrNotPossible = errors.New("Belay cannot be put on this host")
	// ErrBusy is for a host on which another process installs or removes.
	ErrBusy = errors.New("another install or remove is at work on this host")
	// ErrForeign is for a file in the way that somebody else has made.
	ErrForeign = errors.New("a file of somebody else is in the way")
)

// Options says what is put where. The zero value of a field has the default that it names.
type Options struct {
	Root     string // the host's root as it is mounted here; /host
	From     string // where usr/sbin/belay-agent and the others are; /
	Policies string // directory whose *.yaml become the host's; empty: none are put there
	Flags    []string
	// Timeout is for each call of systemctl; 6 min: longer than the unit may take to start (TimeoutStartSec),
	// so that an agent that is slow is not restarted for ever by the next try.
	Timeout time.Duration
	host    host
}

// Report is what Install has done.
type Report struct {
	Written, Removed []string // paths on the host
	Restarted        bool
}

// host starts the host's own programs.
type host interface {
	run(ctx context.Context, name string, args ...string) error
}

const (
	dir       = "opt/belay"
	binaries  = dir + "/bin"
	manifest  = dir + "/node.json"
	units     = "etc/systemd/system"
	policies  = "etc/belay/policies"
	agentConf = "etc/belay/agent.conf"
	agentUnit = "belay-agent.service"
)

var programs = map[string]string{
	binaries + "/belay-agent":   "usr/sbin/belay-agent",
	binaries + "/belay":         "usr/bin/belay",
	binaries + "/belay-scanner": "usr/bin/belay-scanner",
}

// file is one that the host is to have: a text, or a copy of another file, which may be larger than the
// memory that an init container has.
type file struct {
	data []byte
	from string
	mode fs.FileMode
}

func (f file) open() (io.ReadCloser, error) {
	if f.from == "" {
		return io.NopCloser(bytes.NewReader(f.data)), nil
	}
	return os.Open(f.from)
}

// same tells whether the host's file has what f has.
func (f file) same(root *os.Root, name string) (bool, error) {
	want, err := f.open()
	if err != nil {
		return false, err
	}
	defer want.Close()
	have, err := root.Open(name)
	if err != nil {
		return false, err
	}
	defer have.Close()
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err1 := io.ReadFull(want, a)
		m, err2 := io.ReadFull(have, b)
		if !bytes.Equal(a[:n], b[:m]) {
			return false, nil
		}
		for _, err := range []error{err1, err2} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if err1 != nil { // both have ended, for as much was read of one as of the other
			return true, nil
		}
	}
}

func (o *Options) fill() {
	for _, d := range []struct {
		to  *string
		def string
	}{{&o.Root, "/host"}, {&o.From, "/"}} {
		if *d.to == "" {
			*d.to = d.def
		}
	}
	if o.Timeout <= 0 {
		o.Timeout = 6 * time.Minute
	}
	if o.host == nil {
		o.host = chroot{o.Root}
	}
}

// Install brings the host to what the options say, and has systemd run the agent. Nothing is
// changed if the policies have an error. Called again it does what is missing.
//
// Errors: [ErrNotPossible]; [ErrForeign]; [ErrBusy]; the policies' own, with file and line.
func Install(ctx context.Context, o Options) (*Report, error) {
	o.fill()
	want, err := o.wanted()
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(o.Root)
	if err != nil {
		return nil, fmt.Errorf("the host's root: %w; fix: mount it and name it with --root", err)
	}
	defer root.Close()
	if err := possible(root); err != nil {
		return nil, err
	}
	unlock, err := lock(root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	old, err := readManifest(root)
	if err != nil {
		return nil, err
	}
	changed, err := compare(root, want, old)
	if err != nil {
		return nil, err
	}
	gone := without(old.Files, want)
	restart := old.Pending || slices.ContainsFunc(slices.Concat(changed, gone), isAgents)
	// Names first: what a process that is killed has written is known to the next one.
	now := kept{Files: slices.Sorted(maps.Keys(want)), Pending: restart}
	if err := writeManifest(root, kept{Files: slices.Compact(slices.Sorted(slices.Values(slices.Concat(now.Files, old.Files)))), Pending: restart}); err != nil {
		return nil, err
	}
	for _, name := range changed {
		if err := write(root, name, want[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range gone {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove what an earlier version had: %w", err)
		}
	}
	r := &Report{Written: changed, Removed: gone, Restarted: restart}
	if err := o.start(ctx, restart); err != nil {
		return r, err
	}
	now.Pending = false
	return r, writeManifest(root, now)
}

// start has systemd run the agent that is there now. A reload of units that have not changed is cheap,
// and makes good for one that an earlier call did not come to.
func (o *Options) start(ctx context.Context, restart bool) error {
	act := "start"
	if restart {
		act = "restart"
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", agentUnit}, {act, agentUnit}} {
		if err := o.systemctl(ctx, args...); err != nil {
			return fmt.Errorf("%w; fix: see journalctl -u belay-agent on the host", err)
		}
	}
	return nil
}

func (o *Options) systemctl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	return o.host.run(ctx, "/usr/bin/systemctl", args...)
}

// Remove ends enforcement on the host and takes away what Install has put there. Policies of others,
// the journal and the state stay.
func Remove(ctx context.Context, o Options) error {
	o.fill()
	root, err := os.OpenRoot(o.Root)
	if err != nil {
		return fmt.Errorf("the host's root: %w; fix: mount it and name it with --root", err)
	}
	defer root.Close()
	if _, err := root.Lstat(manifest); errors.Is(err, fs.ErrNotExist) {
		return nil // no lock, which would make a directory
	}
	unlock, err := lock(root)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := readManifest(root)
	if err != nil || len(old.Files) == 0 {
		return err
	}
	if err := dispensable(root); err != nil {
		return fmt.Errorf("%w; nothing was removed", err)
	}
	if err := o.end(ctx, root); err != nil {
		return err
	}
	for _, name := range append(old.Files, manifest) {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove: %w", err)
		}
	}
	_ = root.Remove(binaries) // somebody else's files may be in them
	_ = root.Remove(dir)
	return o.systemctl(ctx, "daemon-reload")
}

// end stops the agent, ends enforcement and takes the unit out of the boot, in this order: until all of it has
// succeeded the node is one with an agent, which is started again.
func (o *Options) end(ctx context.Context, root *os.Root) error {
	// A call that was interrupted may have taken the unit away, or the agent.
	unit, agent := there(root, units+"/"+agentUnit), there(root, binaries+"/belay-agent")
	var err error
	if unit {
		err = o.systemctl(ctx, "stop", agentUnit)
	}
	if err == nil && agent {
		uctx, cancel := context.WithTimeout(ctx, o.Timeout)
		defer cancel()
		// By systemd, which may unmount: this process has next to no capability.
		err = o.host.run(uctx, "/usr/bin/systemd-run", "--quiet", "--collect", "--wait", "--unit=belay-unload",
			"/"+binaries+"/belay-agent", "run", "--unload")
	}
	if err == nil && unit {
		err = o.systemctl(ctx, "disable", agentUnit)
	}
	if err == nil {
		return nil
	}
	if !unit {
		return fmt.Errorf("end enforcement: %w; nothing was removed", err)
	}
	// The caller may be gone (an interrupt); the agent must come back all the same.
	if serr := o.systemctl(context.WithoutCancel(ctx), "start", agentUnit); serr != nil {
		return fmt.Errorf("end enforcement: %w; nothing was removed, and the agent does not start again: %w; fix: see journalctl -u belay-agent on the host", err, serr)
	}
	return fmt.Errorf("end enforcement: %w; nothing was removed, and the agent runs again", err)
}

// there tells whether the host has a file; what cannot be looked at counts as there.
func there(root *os.Root, name string) bool {
	_, err := root.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// dispensable says why Docker would be reachable by nobody without the agent.
func dispensable(root *os.Root) error {
	for _, f := range []string{units + "/" + agentUnit + ".d/gate.conf", "var/lib/belay/gate.json"} {
		if _, err := root.Lstat(f); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the gate is in front of Docker (/%s), which would be reachable by nobody; fix: /%s/belay disable-gate on the host first", f, binaries)
		}
	}
	text, err := root.ReadFile(strings.TrimPrefix(daemonjson.Path, "/"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("whether Docker asks the plugin: %w; fix: let %s be a file that can be read below --root, or none", err, daemonjson.Path)
	}
	if daemonjson.AsksPlugin(text) {
		return fmt.Errorf(`%s has belay in "authorization-plugins", and without the agent Docker would refuse everybody; fix: take it out on the host and systemctl reload docker first`, daemonjson.Path)
	}
	return nil
}

// wanted is every file that the host is to have, by its path below the root.
func (o *Options) wanted() (map[string]file, error) {
	want := map[string]file{}
	for to, from := range programs {
		from = filepath.Join(o.From, from)
		if _, err := os.Stat(from); err != nil {
			return nil, fmt.Errorf("the programs: %w; fix: name the root of the image with --from", err)
		}
		want[to] = file{from: from, mode: 0o755}
	}
	for _, unit := range []string{agentUnit, "belay.slice"} {
		text, err := os.ReadFile(filepath.Join(o.From, "usr/share/belay/systemd", unit))
		if err != nil {
			return nil, fmt.Errorf("the units: %w; fix: name the root of the image with --from", err)
		}
		for to, from := range programs {
			text = bytes.ReplaceAll(text, []byte("/"+from+" "), []byte("/"+to+" "))
		}
		want[units+"/"+unit] = file{data: text, mode: 0o644}
	}
	conf, err := environment(o.Flags)
	if err != nil {
		return nil, err
	}
	want[agentConf] = file{data: conf, mode: 0o644}
	if o.Policies == "" {
		return want, nil
	}
	names, err := filepath.Glob(filepath.Join(o.Policies, "*.yaml"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s holds no policy (*.yaml); fix: name another directory with --policies, or none", o.Policies)
	}
	if _, err := policy.ParseFiles(names...); err != nil {
		return nil, fmt.Errorf("nothing was changed: %w", err)
	}
	for _, name := range names {
		data, err := policy.ReadFile(name)
		if err != nil {
			return nil, err
		}
		want[path.Join(policies, filepath.Base(name))] = file{data: data, mode: 0o600}
	}
	return want, nil
}

// fixed are flags that Remove, the unit and the probes know the value of.
var fixed = []string{"--config", "--run-dir", "--state-dir", "--policy-dir", "--scanner", "--unload"}

// environment is the file of the unit that holds the agent's flags. systemd splits the value at white
// space and takes quotes and backslashes for its own, so that a flag with one of them is refused.
func environment(flags []string) ([]byte, error) {
	for _, f := range flags {
		if name, _, _ := strings.Cut(f, "="); slices.Contains(fixed, name) {
			return nil, fmt.Errorf("flag %s: a node has that where the package has it; fix: leave it out", name)
		}
		if !strings.HasPrefix(f, "-") || strings.ContainsFunc(f, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'\\$#;`", r) }) {
			return nil, fmt.Errorf("flag %q: want --NAME=VALUE without spaces, quotes, $, #, ; or backslashes", f)
		}
	}
	return fmt.Appendf(nil, "# Written by belay node install, which replaces it.\nBELAY_AGENT_FLAGS=%s\n", strings.Join(flags, " ")), nil
}

// possible says why the agent cannot be a service here.
func possible(root *os.Root) error {
	if st, err := root.Stat("run/systemd/system"); err != nil || !st.IsDir() {
		return fmt.Errorf("%w: systemd does not run there, or its /run is not mounted below --root", ErrNotPossible)
	}
	if _, err := root.Lstat("usr/sbin/belay-agent"); err == nil {
		return fmt.Errorf("%w: the package belay is installed; fix: use it, or remove it first", ErrNotPossible)
	}
	return nil
}

// compare returns which files are not yet as they should be, programs last: what describes them is
// there before they are.
//
// Errors: [ErrForeign] for one that no manifest has.
func compare(root *os.Root, want map[string]file, old kept) ([]string, error) {
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		st, err := root.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			changed = append(changed, name)
			continue
		case err != nil:
			return nil, err
		case !st.Mode().IsRegular():
			return nil, fmt.Errorf("%w: %s is no file; fix: move it away", ErrForeign, name)
		}
		same, err := want[name].same(root, name)
		if err != nil {
			return nil, err
		}
		if same && st.Mode().Perm() == want[name].mode {
			continue
		}
		if !slices.Contains(old.Files, name) {
			return nil, fmt.Errorf("%w: %s; fix: move it away", ErrForeign, name)
		}
		changed = append(changed, name)
	}
	return changed, nil
}

// without are the names that want has not.
func without(names []string, want map[string]file) []string {
	var out []string
	for _, n := range names {
		if _, ok := want[n]; !ok {
			out = append(out, n)
		}
	}
	return out
}

// isAgents tells whether the agent takes a change of the file only at its start. Policies it reads again itself.
func isAgents(name string) bool { return !strings.HasPrefix(name, policies+"/") }

// write puts a file in place whole: a program that runs stays what it is.
func write(root *os.Root, name string, f file) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return fmt.Errorf("make the directory of %s: %w", name, err)
	}
	tmp := path.Join(path.Dir(name), "."+path.Base(name)+".belay-new")
	if err := root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	in, err := f.open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(f.mode), out.Sync(), out.Close())
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		_ = root.Remove(tmp)
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
