package move

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/load/treedigest"
)

// errNotWhole is for a target that has ended before it read all that was packed.
var errNotWhole = errors.New("it has not read the whole volume")

// sendFromHere is [run.send] of a volume whose files are on this host: they are read where they lie, once for the archive and its
// digest, and not by the engine, which hands each byte through two processes.
//
// Errors: [errNotHere], also where the files cannot be read to their end, which is known before the first byte unless it is reading
// that fails: the engine's archive decides then, and its errors do.
func (r *run) sendFromHere(ctx context.Context, name, src, dst string) (digest string, n int64, err error) {
	dir, err := r.volumeHere(ctx, name)
	if err == nil {
		err = r.sameDir(ctx, src, dir)
	}
	if err == nil { // before the first byte: the engine would have to send them all again
		err = fits(ctx, dir)
	}
	if err != nil {
		dir.Close() // of none, too
		return "", 0, fmt.Errorf("source: %w: %w", errNotHere, err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop() // the packing, where it was not waited for
	pr, pw := io.Pipe()
	read := r.counted(name, nil)
	packed := make(chan sending, 1)
	go func() {
		defer dir.Close()
		d, err := treedigest.Pack(pw, dir, path.Base(volumeAt), func(n int) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			read.add(n, false)
			return nil
		})
		pw.CloseWithError(err)
		packed <- sending{d, err}
	}()
	err = r.to.Extract(ctx, dst, "/", pr)
	if err == nil {
		_, err = io.Copy(io.Discard, pr) // it may be content before the end of the stream
	}
	pr.CloseWithError(errNotWhole)
	var got sending
	select {
	case got = <-packed:
		read.add(0, true)
	case <-time.After(r.o.streamEnd): // a disk that does not answer
		return "", 0, fmt.Errorf("source: read %s: %w", dir.Name(), errNotHere)
	}
	switch {
	case ctx.Err() != nil:
		return "", 0, fmt.Errorf("interrupted: %w", ctx.Err())
	case got.err != nil && !errors.Is(got.err, errNotWhole):
		return "", 0, fmt.Errorf("source: %w: %w", errNotHere, got.err)
	case err != nil:
		return "", 0, fmt.Errorf("target: %w", err)
	case got.err != nil:
		return "", 0, fmt.Errorf("target: %w", got.err)
	}
	return got.digest, read.n, nil
}

// fits is [treedigest.Fits] for as long as ctx lasts: a disk that does not answer is not waited for.
func fits(ctx context.Context, dir *os.File) error {
	own, err := openDir(int(dir.Fd()), ".")
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer own.Close()
		done <- treedigest.Fits(own, path.Base(volumeAt), func(int) error { return ctx.Err() })
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// volumeHere opens the directory of a source's volume, if that is on this host for certain: beside it lies the lease, a volume that
// this move had the engine make. A socket may lead to another host, or to an engine of somebody with fewer rights than this process:
// what leads to the directory is root's to change alone.
func (r *run) volumeHere(ctx context.Context, name string) (*os.File, error) {
	if remapped(r.from.Info.SecurityOptions) || !strings.HasPrefix(r.from.Address.URL, "unix://") || !r.hostsMounts() {
		return nil, errNotHere
	}
	v, err := r.from.Volume(ctx, name)
	if err != nil {
		return nil, err
	}
	own := leaseName(r.j.Container)
	lease, err := r.from.Volume(ctx, own)
	if err != nil {
		return nil, err
	}
	at := filepath.Dir(filepath.Dir(v.Mountpoint))
	switch {
	case v.Driver != "local" || len(v.Options) > 0 || !filepath.IsAbs(v.Mountpoint):
		return nil, errNotHere
	case v.Mountpoint != filepath.Join(at, name, dataDir) || lease.Mountpoint != filepath.Join(at, own, dataDir):
		return nil, errNotHere
	}
	volumes, err := r.openRoots(unix.AT_FDCWD, at)
	if err != nil {
		return nil, err
	}
	defer volumes.Close()
	volume, err := r.openRoots(int(volumes.Fd()), name)
	if err != nil {
		return nil, err
	}
	defer volume.Close()
	beside, err := openDir(int(volumes.Fd()), filepath.Join(own, dataDir))
	if err != nil {
		return nil, err
	}
	defer beside.Close()
	return openDir(int(volume.Fd()), dataDir)
}

// hostsMounts reports whether this process sees what the host has mounted: of what is mounted in a volume it would read what lies below.
// Whoever may not be told what the host's first process sees is taken for one who does.
func (r *run) hostsMounts() bool {
	own, err := os.Readlink(filepath.Join(r.o.proc, "self/ns/mnt"))
	if err != nil {
		return false
	}
	hosts, err := os.Readlink(filepath.Join(r.o.proc, "1/ns/mnt"))
	return err != nil || own == hosts
}

// dataDir is the directory of a volume's files in its own. Source: moby, daemon/volume/local.
const dataDir = "_data"

// openRoots is [openDir] of a directory in which nobody but root makes or renames anything.
func (r *run) openRoots(at int, name string) (*os.File, error) {
	dir, err := openDir(at, name)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(dir.Fd()), &st); err == nil && (int(st.Uid) != r.o.owner || st.Mode&0o022 != 0) {
		err = fmt.Errorf("%s: others than root may change it", name)
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// openDir opens a directory to which no link leads, to look from there.
func openDir(at int, name string) (*os.File, error) {
	fd, err := unix.Openat2(at, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// sameDir asks the engine for the volume's archive, which whoever stands before it may refuse, and reads its first entry: it is
// the directory here, unless the engine has something else mounted there.
func (r *run) sameDir(ctx context.Context, helper string, dir *os.File) error {
	body, err := r.from.Archive(ctx, helper, volumeAt)
	if err != nil {
		return err
	}
	defer body.Close()
	h, err := tar.NewReader(body).Next()
	if err != nil {
		return fmt.Errorf("read the archive: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return err
	}
	is := entryOf(h, nil)
	if is.Kind != treedigest.Dir || is.Mode&0o7777 != int64(st.Mode&0o7777) || is.UID != int64(st.Uid) || is.GID != int64(st.Gid) || is.Time != st.Mtim.Sec {
		return errNotHere
	}
	return nil
}
