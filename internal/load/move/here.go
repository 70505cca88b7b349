package move

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
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
// Errors: [errNotHere], also where the files cannot be read to their end: the engine's archive decides then, and its errors do.
func (r *run) sendFromHere(ctx context.Context, name, src, dst string) (digest string, n int64, err error) {
	dir, err := r.volumeHere(ctx, name)
	if err == nil {
		err = r.sameDir(ctx, src, dir)
	}
	if err != nil {
		return "", 0, fmt.Errorf("source: %w: %w", errNotHere, err)
	}
	pr, pw := io.Pipe()
	read := r.counted(name, nil)
	packed := make(chan sending, 1)
	go func() {
		d, err := treedigest.Pack(pw, dir, path.Base(volumeAt), func(n int) error {
			read.add(n, false)
			return ctx.Err()
		})
		read.add(0, true)
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
	case <-time.After(streamEnd): // a disk that does not answer
		return "", 0, fmt.Errorf("source: read %s: %w", dir, errNotHere)
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

// volumeHere returns the directory of a source's volume, if that is on this host for certain: beside it lies the lease, a volume that
// this move had the engine make. A socket may lead to another host.
func (r *run) volumeHere(ctx context.Context, name string) (string, error) {
	if remapped(r.from.Info.SecurityOptions) || !strings.HasPrefix(r.from.Address.URL, "unix://") {
		return "", errNotHere
	}
	v, err := r.from.Volume(ctx, name)
	if err != nil {
		return "", err
	}
	lease, err := r.from.Volume(ctx, leaseName(r.j.Container))
	if err != nil {
		return "", err
	}
	volumes := filepath.Dir(filepath.Dir(v.Mountpoint))
	switch {
	case v.Driver != "local" || len(v.Options) > 0 || !filepath.IsAbs(v.Mountpoint):
		return "", errNotHere
	case v.Mountpoint != filepath.Join(volumes, name, "_data") || lease.Mountpoint != filepath.Join(volumes, lease.Name, "_data"):
		return "", errNotHere
	}
	var st unix.Stat_t
	if err := unix.Lstat(lease.Mountpoint, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", errNotHere
	}
	return v.Mountpoint, nil
}

// sameDir asks the engine for the volume's archive, which whoever stands before it may refuse, and reads its first entry: it is
// the directory here, unless the engine has something else mounted there.
func (r *run) sameDir(ctx context.Context, helper, dir string) error {
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
	if err := unix.Lstat(dir, &st); err != nil {
		return err
	}
	is := entryOf(h, nil)
	if is.Kind != treedigest.Dir || is.Mode&0o7777 != int64(st.Mode&0o7777) || is.UID != int64(st.Uid) || is.GID != int64(st.Gid) || is.Time != st.Mtim.Sec {
		return errNotHere
	}
	return nil
}
