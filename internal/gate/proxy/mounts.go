package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/attr"
)

// resolveMounts finds out what the sources of binds really are, and puts that into the
// request: what is judged is what is mounted (D4). A source that cannot be resolved stays
// unresolved, and every check on it fails.
func (x *exchange) resolveMounts() *refusal {
	mounts := x.req.Call.Facts.HostMounts
	for i := range mounts {
		if mounts[i].Via != "bind" || !path.IsAbs(mounts[i].Source) || mounts[i].Resolved != "" {
			continue
		}
		real, err := realPath(mounts[i].Source)
		if err == nil {
			err = x.req.SetMountSource(i, real)
		}
		if err != nil {
			x.c.s.counts.unresolved.Add(1)
			x.c.s.o.Log.Warn("the source of a bind cannot be resolved", attr.Error, err.Error())
			return &refusal{status: http.StatusForbidden, cause: "unresolved_mount", msg: "belay: a bind's source cannot be resolved: " + err.Error()}
		}
	}
	return nil
}

// turned refuses the start of a container that the gate had made, if the source of a bind leads
// elsewhere than when it was judged: [Server] forwards sources without links, and the daemon goes to
// them by their path again at each start (D4). A volume that is a bind is made by another request and
// has the device that this one said, links and all: it starts from none that has any.
func (x *exchange) turned(ctx context.Context, f *found) *refusal {
	sources := f.Binds
	for _, name := range f.Volumes {
		v, err := x.c.s.findVolume(ctx, name)
		switch {
		case errors.Is(err, errNotFound):
			continue // the daemon makes it anew, with no options
		case err != nil:
			x.c.s.counts.unresolved.Add(1)
			return &refusal{status: http.StatusServiceUnavailable, cause: "unresolved", msg: "belay: a volume of the container: " + err.Error()}
		case v.binds():
			sources = append(sources, v.Options["device"])
		}
	}
	for _, source := range sources {
		real, err := realPath(source)
		if err == nil && real == source {
			continue
		}
		x.c.s.counts.unresolved.Add(1)
		x.c.s.o.Log.Warn("the source of a mount leads over a link", attr.ContainerID, f.ID, "source", source, "now", real)
		return &refusal{status: http.StatusConflict, cause: "mount_changed",
			msg: fmt.Sprintf("belay: the source of a mount, %q, leads over a link, to %q now: put it back as it was when the container was created; or create the container, and what it has the mount from, again without the link", source, real)}
	}
	return nil
}

// binds tells whether a volume is a bind of a path of the host.
func (f *found) binds() bool {
	return path.IsAbs(f.Options["device"]) && slices.ContainsFunc(strings.Split(f.Options["o"], ","), func(o string) bool { return o == "bind" || o == "rbind" })
}

// maxLevels bounds how much of a path may not exist yet.
const maxLevels = 64

// realPath returns the path without symbolic links that source stands for on this host.
// What does not exist is kept as it is: the daemon makes it. Links of /proc that lead
// elsewhere than their text says are not followed.
//
// The daemon mounts by path, a moment later, and again at each start: [exchange.turned]. Whoever can
// write to a directory on that path can still turn it within that moment, and before a restart that
// the daemon does by itself, so policies allow only roots that their users cannot write to.
func realPath(source string) (string, error) {
	clean := path.Clean(source) // as the daemon does, before it looks
	rest := ""
	for p := clean; ; {
		found, err := existing(p)
		if err == nil {
			return path.Join(found, rest), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || p == "/" || strings.Count(rest, "/") > maxLevels {
			return "", fmt.Errorf("%q: %w", source, err)
		}
		rest = path.Join(path.Base(p), rest)
		p = path.Dir(p)
		// A link that leads to nothing is there all the same, and would be followed once
		// somebody makes its target.
		var st unix.Stat_t
		if err := unix.Lstat(path.Join(p, strings.SplitN(rest, "/", 2)[0]), &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return "", fmt.Errorf("%q leads over a symbolic link to nothing", source)
		}
	}
}

// existing resolves a path that exists.
func existing(p string) (string, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, p, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), buf)
	if err != nil {
		return "", err
	}
	found := string(buf[:n])
	if !path.IsAbs(found) || path.Clean(found) != found {
		return "", errors.New("it has no path")
	}
	// The name must lead to the same thing over no link at all.
	again, err := unix.Openat2(unix.AT_FDCWD, found, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return "", fmt.Errorf("it has changed: %w", err)
	}
	defer unix.Close(again)
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &a), unix.Fstat(again, &b)); err != nil {
		return "", err
	}
	if a.Dev != b.Dev || a.Ino != b.Ino {
		return "", errors.New("it has changed")
	}
	return found, nil
}
