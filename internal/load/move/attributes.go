package move

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/load/recreate"
)

// Bounds of the look at a volume's files, which are as many as a container chose to make.
const (
	maxAttributeFiles = 1 << 20
	maxAttributeTime  = time.Minute
	maxAttributeNames = 3 // that a refusal names
	maxAttributePath  = unix.PathMax
	maxAttributeTodo  = 4 << 20 // bytes of the paths of directories that are still to be looked at
	maxShown          = 256     // bytes of a name in a refusal
)

// errNotHere is for a volume whose files are not this process's to look at.
var errNotHere = errors.New("its files cannot be looked at from here")

// attributes says of the files of each volume which have ACLs or extended attributes that engines' archives leave out,
// and so the copy would not have. Notes are of volumes of which that cannot be told.
func (r *run) attributes(ctx context.Context, recipe *recreate.Recipe) (why []recreate.Refusal, notes []string) {
	ctx, cancel := context.WithTimeout(ctx, maxAttributeTime)
	defer cancel()
	for _, v := range recipe.Volumes {
		found, err := r.attributesOf(ctx, v.Name)
		if err != nil {
			notes = append(notes, fmt.Sprintf("volume %q: ACLs and extended attributes are not copied, and whether files have any is not known: %v", v.Name, err))
		}
		if len(found) > 0 {
			why = append(why, recreate.Refusal{
				Reason: fmt.Sprintf("its volume %q has files with ACLs or extended attributes, which are not copied, such as %s", v.Name, strings.Join(found, ", ")),
				Fix:    "--lose-attributes, if it can do without them",
			})
		}
	}
	return why, notes
}

func (r *run) attributesOf(ctx context.Context, name string) ([]string, error) {
	host, err := os.Hostname()
	if err != nil || host != r.from.Info.Name || !strings.HasPrefix(r.from.Address.URL, "unix://") {
		return nil, fmt.Errorf("%w: its engine is not of this host", errNotHere)
	}
	v, err := r.from.Volume(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(v.Options) > 0 || v.Mountpoint == "" {
		return nil, errNotHere
	}
	return lostAttributes(ctx, v.Mountpoint, maxAttributeFiles)
}

// lostAttributes returns some files below a directory with the attributes that a copy would lose. It opens directories
// alone, and none outside: a container may swap its files meanwhile.
//
// Errors: [errNotHere]; that there are more than most files, that they take too long, or paths more memory than they should.
func lostAttributes(ctx context.Context, dir string, most int) (found []string, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotHere, err)
	}
	defer root.Close()
	look := func(at *os.File, name, shown string) error {
		names, err := listAttributes(fmt.Sprintf("/proc/self/fd/%d/%s", at.Fd(), name))
		names = slices.DeleteFunc(names, isCopied)
		if len(names) > 0 {
			found = append(found, fmt.Sprintf("%q (%s)", shorten(shown), shorten(strings.Join(names, ", "))))
		}
		return err
	}
	seen, waiting := 0, 0
	inside := func(rel string) (more []string, err error) {
		d, err := root.OpenFile(rel, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return nil, nil // it was a directory
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotHere, err)
		}
		defer d.Close()
		if rel == "." {
			if err := look(d, ".", "."); err != nil {
				return nil, err
			}
		}
		for {
			entries, err := d.ReadDir(1000)
			for _, e := range entries {
				if seen++; seen > most {
					return nil, fmt.Errorf("it has more than %d files", most)
				}
				at := path.Join(rel, e.Name())
				if err := look(d, e.Name(), at); err != nil {
					return nil, err
				}
				if e.IsDir() {
					if waiting += len(at); len(at) > maxAttributePath || waiting > maxAttributeTodo {
						return nil, errors.New("its directories are too many or too deep")
					}
					more = append(more, at)
				}
			}
			if errors.Is(err, io.EOF) || len(found) >= maxAttributeNames {
				return more, nil
			}
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errNotHere, err)
			}
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("it took too long to look at its files: %w", err)
			}
		}
	}
	for todo := []string{"."}; len(todo) > 0 && len(found) < maxAttributeNames; {
		last := len(todo) - 1
		rel := todo[last]
		waiting -= len(rel)
		more, err := inside(rel)
		if err != nil {
			return found, err
		}
		todo = append(todo[:last], more...)
	}
	return found, nil
}

// shorten cuts what a container has named.
func shorten(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "…"
}

// isCopied reports whether an attribute is in engines' archives, or is the host's own label, which the target's kernel
// gives anew.
func isCopied(name string) bool {
	switch name {
	case "security.capability", "security.selinux", "security.SMACK64", "security.apparmor", "security.ima", "security.evm":
		return true
	}
	return false
}

// listAttributes returns the names of the extended attributes of a file itself, not of what it links to; none if it is gone, or its file
// system has none.
func listAttributes(file string) ([]string, error) {
	buf := make([]byte, 1024)
	for {
		n, err := unix.Llistxattr(file, buf)
		switch {
		case errors.Is(err, unix.ERANGE) && len(buf) < 1<<16: // XATTR_LIST_MAX: listxattr(2)
			buf = make([]byte, 1<<16)
			continue
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTSUP):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("%w: list attributes: %w", errNotHere, err)
		}
		var names []string
		for b := range bytes.SplitSeq(buf[:n], []byte{0}) {
			if len(b) > 0 {
				names = append(names, string(b))
			}
		}
		return names, nil
	}
}
