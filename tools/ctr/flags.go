package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"
)

// runFlags is what `ctr run` was asked for. It is handed to the container's first
// process as it is, so its fields are exported for encoding/json.
type runFlags struct {
	CgroupParent, CgroupName string // below the cgroup v2 root
	ID                       string
	UID, GID                 int
	Rootfs, State            string
	Binds, Tmpfs, Env        []string
	CapAdd                   []string
	Userns, Detach           bool
	IntoCgroup               bool
	Net, PIDNS, IPC, UTS     string
	Leak, Upper              string
	Args                     []string
}

// usernsBase is the host ID that a container's ID 0 has under --userns, and
// usernsSize how many IDs follow it: the range that Docker's userns-remap uses.
const (
	usernsBase = 100000
	usernsSize = 65536
)

// listFlag collects the values of a flag that may be repeated.
type listFlag struct{ values *[]string }

func (l listFlag) String() string { return "" }

func (l listFlag) Set(s string) error {
	*l.values = append(*l.values, s)
	return nil
}

func parseRun(args []string) (*runFlags, error) {
	f := &runFlags{}
	fs := flag.NewFlagSet("ctr run", flag.ContinueOnError)
	fs.StringVar(&f.CgroupParent, "cgroup-parent", defaultParent, "the cgroup the container's own is made in")
	fs.StringVar(&f.CgroupName, "cgroup-name", "", "name of the container's cgroup (default its ID), e.g. docker-<ID>.scope")
	fs.StringVar(&f.ID, "id", "", "container ID, 64 hex digits (default: random)")
	fs.IntVar(&f.UID, "uid", 0, "user ID of CMD")
	fs.IntVar(&f.GID, "gid", -1, "group ID of CMD (default: as --uid)")
	fs.StringVar(&f.Rootfs, "rootfs", "", "lower layer of the root file system (see ctr mkroot)")
	fs.StringVar(&f.State, "state", defaultState, "where containers are recorded")
	fs.Var(listFlag{&f.Binds}, "bind", "SRC:DST[:ro|:rshared], a volume; rshared: what is mounted below SRC or DST is seen at both, if SRC is a shared mount; repeatable")
	fs.Var(listFlag{&f.Tmpfs}, "tmpfs", "DST[:noexec], an empty tmpfs; repeatable")
	fs.Var(listFlag{&f.Env}, "env", "K=V; repeatable")
	fs.Var(listFlag{&f.CapAdd}, "cap-add", "capability name such as SYS_ADMIN; repeatable")
	for _, name := range []string{"userns", "user-ns"} {
		fs.BoolVar(&f.Userns, name, false, fmt.Sprintf("own user namespace: 0 there is %d here", usernsBase))
	}
	fs.BoolVar(&f.Detach, "detach", false, "print the ID once CMD runs, and leave it running; its output goes to <state>/<ID>/log")
	fs.BoolVar(&f.IntoCgroup, "clone-into-cgroup", false, "the child is born in the cgroup, as with newer runc")
	fs.StringVar(&f.Net, "net", "none", "none (own namespace, loopback only) or host")
	fs.StringVar(&f.PIDNS, "pid", "own", "own (namespace) or host")
	fs.StringVar(&f.IPC, "ipc", "own", "own (namespace) or host")
	fs.StringVar(&f.UTS, "uts", "own", "own (namespace) or host")
	fs.StringVar(&f.Leak, "leak", "", "a directory of the host that CMD has as working directory, as of a runtime that leaves one open (CVE-2024-21626)")
	fs.StringVar(&f.Upper, "upper", "", "an empty directory of the host for the writable layer, as an engine's (default: a tmpfs of its own)")
	if err := parseFlags(fs, args); err != nil {
		return nil, err
	}
	f.Args = fs.Args()
	if f.GID < 0 {
		f.GID = f.UID
	}
	return f, f.check()
}

func (f *runFlags) check() error {
	switch {
	case len(f.Args) == 0:
		return &statusError{exitUsage, "no command given; write it after --"}
	case f.Rootfs == "":
		return &statusError{exitUsage, "--rootfs is required; ctr mkroot DIR makes one"}
	case strings.ContainsAny(f.Rootfs+f.State, ":,\\"):
		return &statusError{exitUsage, "--rootfs and --state: overlay takes no ':', ',' or '\\' in a path"}
	case f.PIDNS != "own" && f.PIDNS != "host":
		return &statusError{exitUsage, fmt.Sprintf("--pid %s: want own or host", f.PIDNS)}
	case f.IPC != "own" && f.IPC != "host" || f.UTS != "own" && f.UTS != "host":
		return &statusError{exitUsage, fmt.Sprintf("--ipc %s --uts %s: want own or host", f.IPC, f.UTS)}
	case f.Net != "none" && f.Net != "host":
		return &statusError{exitUsage, fmt.Sprintf("--net %s: want none or host", f.Net)}
	case f.ID != "" && !isID(f.ID):
		return &statusError{exitUsage, fmt.Sprintf("--id %s: want 64 lower-case hex digits", f.ID)}
	}
	for _, b := range f.Binds {
		if _, err := parseBind(b); err != nil {
			return &statusError{exitUsage, err.Error()}
		}
	}
	if _, err := capMask(f.CapAdd); err != nil {
		return &statusError{exitUsage, err.Error()}
	}
	return nil
}

// parseFlags turns the errors of package flag, which it has printed already, into a
// status.
func parseFlags(fs *flag.FlagSet, args []string) error {
	switch err := fs.Parse(args); {
	case err == nil:
		return nil
	case errors.Is(err, flag.ErrHelp):
		return &statusError{status: 0}
	default:
		return &statusError{status: exitUsage}
	}
}

// bind is one parsed --bind.
type bind struct {
	src, dst string
	readOnly bool
	shared   bool
	tree     int // its descriptor, if it is shared
}

func parseBind(s string) (bind, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || !strings.HasPrefix(parts[1], "/") ||
		(len(parts) == 3 && parts[2] != "ro" && parts[2] != "rshared") {
		return bind{}, fmt.Errorf("--bind %s: want SRC:DST[:ro|:rshared] with an absolute DST", s)
	}
	b := bind{src: parts[0], dst: parts[1]}
	if len(parts) == 3 {
		b.readOnly, b.shared = parts[2] == "ro", parts[2] == "rshared"
	}
	return b, nil
}

func isID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
