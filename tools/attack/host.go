package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What of a host is in --host. The process of --agent runs hostAgent.
const (
	hostRuntime = "usr/bin/dockerd"
	hostAlias   = "usr/bin/docker-was" // another name of the same file
	hostAgent   = "usr/sbin/belay-agent"
	hostConfig  = "etc/docker/daemon.json"
	hostDropIn  = "etc/systemd/docker.service.d" // is not there
	hostRecord  = "var/lib/docker/containers/c0ffee/hostconfig.json"
	hostJournal = "var/lib/belay/journal"
)

// hostAttacks reach for the host's own files and for the agent from a container that has the
// host's directories, namespaces or capabilities: H1 to H6, P3.
func hostAttacks() []attack {
	at := func(e *env, name string) string { return filepath.Join(e.host, name) }
	write := func(name string) func(*env) error {
		return func(e *env) error { return openForWriting(at(e, name)) }
	}
	return []attack{
		{"host-runtime-write", "H2", needHost, "open a program of the engine for writing through a host mount", write(hostRuntime)},
		{"host-runtime-alias", "H2", needHost, "the same by another hard link to it", write(hostAlias)},
		{"host-runtime-truncate", "H2", needHost, "truncate it", func(e *env) error { return os.Truncate(at(e, hostRuntime), 0) }},
		{"host-runtime-replace", "H2", needHost, "rename another program over it", func(e *env) error {
			planted := at(e, "usr/bin/planted")
			if err := os.WriteFile(planted, []byte("#!/bin/sh\n"), 0o755); err != nil {
				return untried(err)
			}
			return os.Rename(planted, at(e, hostRuntime))
		}},
		{"host-runtime-unlink", "H2", needHost, "remove it", func(e *env) error { return os.Remove(at(e, hostRuntime)) }},
		{"host-runtime-link", "H2", needHost, "make a hard link to it", func(e *env) error { return os.Link(at(e, hostRuntime), at(e, "usr/bin/again")) }},
		{"host-runtime-chmod", "H2", needHost, "let everybody write it", func(e *env) error { return os.Chmod(at(e, hostRuntime), 0o777) }},
		{"host-runtime-times", "H2", needHost, "set its times", func(e *env) error { return os.Chtimes(at(e, hostRuntime), time.Unix(1, 0), time.Unix(1, 0)) }},
		{"host-runtime-flags", "H2", needHost, "set a flag of its inode", func(e *env) error { return setFlag(at(e, hostRuntime)) }},
		{"host-above-rename", "H2", needHost, "rename the directory above it", func(e *env) error { return os.Rename(at(e, "usr/bin"), at(e, "usr/was")) }},
		{"host-above-exchange", "H2", needHost, "exchange that directory for another", func(e *env) error {
			if err := os.Mkdir(at(e, "usr/new"), 0o755); err != nil {
				return untried(err)
			}
			return unix.Renameat2(unix.AT_FDCWD, at(e, "usr/new"), unix.AT_FDCWD, at(e, "usr/bin"), unix.RENAME_EXCHANGE)
		}},
		{"host-runtime-cover", "H2", needHostAdmin, "mount another program over it", func(e *env) error {
			return unix.Mount(e.target, at(e, hostRuntime), "", unix.MS_BIND, "")
		}},
		{"host-above-cover", "H2", needHostAdmin, "mount over the directory above it", func(e *env) error {
			return unix.Mount("none", at(e, "usr"), "tmpfs", 0, "")
		}},
		{"host-overlay", "H2", needHostAdmin, "write it through an overlay that has its directory as upper layer", hostOverlay(openForWriting)},
		{"host-overlay-chmod", "H2", needHostAdmin, "let everybody write it through such an overlay", hostOverlay(func(path string) error { return os.Chmod(path, 0o777) })},
		{"host-handle", "H2", needHostHandle, "open it by handle for writing", func(e *env) error { return hostByHandle(e, at(e, hostRuntime)) }},
		{"host-self", "P3", needHost, "overwrite a program of the engine that the container has executed, by /proc/PID/exe", func(e *env) error {
			return hostSelf(at(e, hostRuntime))
		}},
		{"host-config-write", "H3", needHost, "open the engine's configuration for writing", write(hostConfig)},
		{"host-config-add", "H3", needHost, "add a file to it", func(e *env) error {
			return os.WriteFile(at(e, "etc/docker/key.json"), nil, 0o600)
		}},
		{"host-config-dropin", "H3", needHost, "make the directory of drop-ins of its unit", func(e *env) error { return os.Mkdir(at(e, hostDropIn), 0o755) }},
		{"host-config-symlink", "H3", needHost, "put a symbolic link in its place", func(e *env) error { return os.Symlink("/tmp", at(e, hostDropIn)) }},
		{"host-config-record", "H3", needHost, "open what the engine notes of a container for writing", write(hostRecord)},
		{"host-config-container", "H3", needHost, "rename the directory of a container", func(e *env) error {
			dir := filepath.Dir(at(e, hostRecord))
			return os.Rename(dir, dir+"-was")
		}},
		{"host-agent-write", "H1", needHost, "write the agent's journal", write(hostJournal)},
		{"host-agent-add", "H1", needHost, "add a file to its state", func(e *env) error { return os.WriteFile(at(e, "var/lib/belay/new"), nil, 0o600) }},
		{"host-agent-unlink", "H1", needHost, "remove its program", func(e *env) error { return os.Remove(at(e, hostAgent)) }},
		{"host-agent-signal", "H4", needAgent, "signal the agent", func(e *env) error { return unix.Kill(e.agent, unix.SIGWINCH) }},
		{"host-agent-stop", "H4", needAgent, "stop it", func(e *env) error { return unix.Kill(e.agent, unix.SIGSTOP) }},
		{"host-agent-sigio", "H4", needAgent, "have it sent a signal when something can be read (F_SETOWN)", func(e *env) error { return sigio(e.agent) }},
		{"host-agent-trace", "H4", needAgent, "trace it", func(e *env) error { return unix.PtraceSeize(e.agent) }},
		{"host-agent-mem", "H4", needAgent, "open its memory", func(e *env) error { return readMemory(e.agent) }},
		{"host-agent-nice", "H4", needAgent, "give it another priority", func(e *env) error { return unix.Setpriority(unix.PRIO_PROCESS, e.agent, 19) }},
		{"host-agent-limit", "H4", needAgent, "give it another limit", func(e *env) error {
			return unix.Prlimit(e.agent, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
		}},
		{"host-agent-oom", "H4", needAgent, "make it the first that the kernel kills for memory", func(e *env) error {
			return os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", e.agent), []byte("1000"), 0)
		}},
		{"host-agent-maps", "H5", needBPF, "open every BPF map of the host, the agent's among them", hostMaps},
		{"host-agent-links", "H5", needBPF, "open every BPF link", hostLinks},
	}
}

// hostOverlay acts on the file below the overlay, which no path of the container names.
func hostOverlay(act func(path string) error) func(*env) error {
	return func(e *env) error {
		// The work directory must be on the file system of the upper one.
		work := filepath.Join(e.host, "tmp", "work")
		if err := errors.Join(os.MkdirAll(work, 0o755), os.MkdirAll(e.path("lower"), 0o755), os.MkdirAll(e.path("merged"), 0o755)); err != nil {
			return untried(err)
		}
		opts := "lowerdir=" + e.path("lower") + ",upperdir=" + filepath.Join(e.host, filepath.Dir(hostRuntime)) + ",workdir=" + work
		// By a mount point of the container's own.
		if err := unix.Mount("overlay", e.path("merged"), "overlay", 0, opts); err != nil {
			return untried(err)
		}
		defer func() { _ = unix.Unmount(e.path("merged"), unix.MNT_DETACH) }()
		return act(e.path("merged/" + filepath.Base(hostRuntime)))
	}
}

func hostByHandle(e *env, path string) error {
	dir, err := os.Open(e.host)
	if err != nil {
		return untried(err)
	}
	defer dir.Close()
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		return untried(err)
	}
	fd, err := unix.OpenByHandleAt(int(dir.Fd()), handle, unix.O_WRONLY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// hostSelf has the shape of CVE-2019-5736: a descriptor without access, got while the program
// runs, is opened for writing when it runs no more.
func hostSelf(program string) error {
	c := exec.Command(program, "answer", "127.0.0.1:0")
	if err := c.Start(); err != nil {
		return untried(err)
	}
	exe, err := unix.Open(fmt.Sprintf("/proc/%d/exe", c.Process.Pid), unix.O_PATH|unix.O_CLOEXEC, 0)
	killed := c.Process.Kill()
	_ = c.Wait()
	if err := errors.Join(err, killed); err != nil {
		return untried(err)
	}
	defer unix.Close(exe)
	for range 1000 { // until the kernel has let the program go
		if err = openForWriting(fmt.Sprintf("/proc/self/fd/%d", exe)); !errors.Is(err, unix.ETXTBSY) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return untried(err)
}

// sigio makes a process the owner of a socket, and writes to the other end: it must be stopped then.
func sigio(pid int) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return untried(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	for _, c := range [][2]int{{unix.F_SETOWN, pid}, {unix.F_SETSIG, int(unix.SIGSTOP)}, {unix.F_SETFL, unix.O_ASYNC | unix.O_NONBLOCK}} {
		if _, err := unix.FcntlInt(uintptr(fds[0]), c[0], c[1]); refused(err) {
			return err
		} else if err != nil {
			return untried(err)
		}
	}
	if _, err := unix.Write(fds[1], []byte("x")); err != nil {
		return untried(err)
	}
	for range 50 {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return untried(err)
		}
		if _, state, _ := strings.Cut(string(status), ") "); strings.HasPrefix(state, "T") {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%w: it goes on", errRefused)
}

// hostMaps and hostLinks open what there is until something is refused.
func hostMaps(*env) error  { return hostObjects(unix.BPF_MAP_GET_NEXT_ID, unix.BPF_MAP_GET_FD_BY_ID) }
func hostLinks(*env) error { return hostObjects(unix.BPF_LINK_GET_NEXT_ID, unix.BPF_LINK_GET_FD_BY_ID) }

func hostObjects(next, open uintptr) error {
	opened := 0
	for id := uint32(0); ; {
		attr := [3]uint32{id}
		_, err := bpf(next, &attr)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		id = attr[1]
		attr = [3]uint32{id}
		fd, err := bpf(open, &attr)
		switch {
		case err == nil:
			opened++
			_ = unix.Close(fd)
		case refused(err):
			return err
		}
	}
	if opened == 0 {
		return untried(errors.New("the host has none"))
	}
	return nil
}
