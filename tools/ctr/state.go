package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const defaultState = "/run/belay-ctr"

// container is what state.json records.
type container struct {
	ID         string
	PID        int
	Start      uint64 // of PID, in clock ticks since boot: a PID is used again
	Cgroup     string
	MadeParent []string // cgroups above Cgroup that this container's start made
	Userns     bool
	CapAdd     []string

	dir string
}

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return hex.EncodeToString(b[:])
}

func (c *container) save() error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	// Renamed, so that a reader never meets half a record.
	tmp := filepath.Join(c.dir, "state.tmp")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(c.dir, "state.json"))
}

// find returns the container whose ID starts with id.
func find(state, id string) (*container, error) {
	entries, err := os.ReadDir(state)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		if id != "" && strings.HasPrefix(e.Name(), id) {
			found = append(found, e.Name())
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("container %q: %d match in %s", id, len(found), state)
	}
	c := &container{dir: filepath.Join(state, found[0])}
	data, err := os.ReadFile(filepath.Join(c.dir, "state.json"))
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", found[0], err)
	}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("container %s: state.json: %w", found[0], err)
	}
	return c, nil
}

// running reports whether the container's first process is there still.
func (c *container) running() bool {
	start, err := startTime(c.PID)
	return err == nil && start == c.Start
}

// remove kills the container and takes away all that it has on the host.
func (c *container) remove() error {
	var errs []error
	if c.Cgroup != "" {
		errs = append(errs, killCgroup(c.Cgroup, c.MadeParent))
	}
	errs = append(errs, os.RemoveAll(c.dir))
	// Not an error when it stays: other containers have their folders in it.
	_ = os.Remove(filepath.Dir(c.dir))
	return errors.Join(errs...)
}

// startTime is field 22 of /proc/PID/stat; see proc_pid_stat(5). The name in field 2
// may hold spaces and brackets, so fields are counted from the last bracket.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	s := string(data)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

func cmdRm(args []string) error {
	fs := flag.NewFlagSet("ctr rm", flag.ContinueOnError)
	id := fs.String("id", "", "container ID or the beginning of one")
	state := fs.String("state", defaultState, "where containers are recorded")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	c, err := find(*state, *id)
	if err != nil {
		return err
	}
	return c.remove()
}
