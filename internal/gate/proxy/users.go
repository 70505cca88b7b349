package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/attr"
)

// maxPasswd bounds what is read of a container's /etc/passwd.
const maxPasswd = 1 << 20

// resolveUser tells the policy which user an exec without -u gets, and which number a name
// stands for in that container. What cannot be found out stays unknown: notRoot fails.
func (x *exchange) resolveUser(f *found) {
	facts := &x.req.Call.Facts
	// The container's own user has the image's in it.
	facts.ImageUser, facts.ImageUserKnown = f.User, true
	user := facts.User
	if user == "" {
		user = f.User
	}
	name, _, _ := strings.Cut(user, ":")
	if name == "" {
		return
	}
	if _, err := strconv.Atoi(name); err == nil {
		return
	}
	uid, err := x.c.s.uidIn(f, name)
	if err != nil {
		x.c.s.o.Log.Info("the user of an exec is not known by number", attr.ContainerID, f.ID, attr.Error, err.Error())
		return
	}
	facts.NamedUID = strconv.Itoa(uid)
}

// uidIn looks a name up in the /etc/passwd of a container that runs, as the engine does: in
// the first line of that name, and 0 for what is no number.
//
// The file is the container's own, which can change it at once: where a program must not be
// root for certain, the kernel sees to it.
func (s *Server) uidIn(f *found, name string) (int, error) {
	if f.PID <= 0 {
		return 0, errors.New("the container does not run")
	}
	proc := s.o.proc
	if proc == "" {
		proc = "/proc"
	}
	dir := proc + "/" + strconv.Itoa(f.PID)
	root, err := unix.Open(dir+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("root of the container: %w", err)
	}
	defer unix.Close(root)
	// The number may be another process's by now: not while it is in the container's cgroup.
	cgroups, err := readSome(dir+"/cgroup", 64<<10)
	if err != nil || !bytes.Contains(cgroups, []byte(f.ID)) {
		return 0, errors.Join(errors.New("the container's process is not there any more"), err)
	}
	// Never over a mount: the container may have one there that does not answer.
	fd, err := unix.Openat2(root, "etc/passwd", &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return 0, fmt.Errorf("/etc/passwd of the container: %w", err)
	}
	file := os.NewFile(uintptr(fd), "passwd")
	defer file.Close()
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		return 0, errors.Join(errors.New("/etc/passwd of the container is no file"), err)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxPasswd+1))
	if err != nil || len(text) > maxPasswd {
		return 0, errors.Join(errors.New("/etc/passwd of the container cannot be read whole"), err)
	}
	return uidOf(text, name)
}

// uidOf finds a name in the text of a passwd file; see passwd(5) and, for what is no
// number, github.com/moby/sys/user.
func uidOf(passwd []byte, name string) (int, error) {
	for line := range bytes.Lines(passwd) {
		fields := strings.Split(string(bytes.TrimSpace(line)), ":")
		if fields[0] != name {
			continue
		}
		if len(fields) < 3 {
			return 0, nil
		}
		uid, err := strconv.Atoi(fields[2])
		if err != nil {
			return 0, nil //nolint:nilerr // the engine takes it for 0
		}
		return uid, nil
	}
	return 0, fmt.Errorf("the container has no user %q", name)
}

// readSome reads a file of procfs.
func readSome(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
