package preflight

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// owner is what says who may use a file.
type owner struct {
	uid, gid int
	mode     uint32 // permission bits, and S_ISVTX
	kind     uint32 // S_IF…
	acl      bool   // there is an access control list, which the group's bits only bound
}

func statOwner(path string) (owner, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return owner{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	o := owner{uid: int(st.Uid), gid: int(st.Gid), mode: st.Mode &^ unix.S_IFMT, kind: st.Mode & unix.S_IFMT}
	n, err := unix.Getxattr(path, "system.posix_acl_access", nil)
	switch {
	case err == nil:
		o.acl = n > 0
	case !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP):
		return owner{}, &fs.PathError{Op: "getxattr", Path: path, Err: err}
	}
	return o, nil
}

// who says who besides root has bits (of one rwx triple) on a file; "": nobody.
func (l *look) who(o owner, bits uint32) string {
	var all []string
	if o.uid != 0 && o.mode>>6&bits == bits {
		all = append(all, fmt.Sprintf("uid %d", o.uid))
	}
	if o.gid != 0 && o.mode>>3&bits == bits {
		all = append(all, "group "+l.groupName(o.gid))
	}
	if o.acl {
		all = append(all, "whom its ACL names")
	}
	if o.mode&bits == bits {
		all = append(all, "everybody")
	}
	return strings.Join(all, ", ")
}

func (l *look) groupName(gid int) string {
	if g, ok := l.group[gid]; ok {
		return g.name
	}
	return fmt.Sprint(gid)
}

// reach tells who besides root can connect to a unix socket: connect(2) needs w on it and x
// on each folder above. "": nobody. gid is the group's, if it is one that may; else -1.
func (l *look) reach(path string) (who string, gid int, err error) {
	p := l.resolved(path)
	o, err := l.stat(l.path(p))
	if err != nil {
		return "", -1, err
	}
	if who = l.who(o, 2); who == "" {
		return "", -1, nil
	}
	gid = -1
	if o.gid != 0 && o.mode&0o020 != 0 {
		gid = o.gid
	}
	for dir := filepath.Dir(p); ; dir = filepath.Dir(dir) {
		d, err := l.stat(l.path(dir))
		if err != nil {
			return "", -1, err
		}
		through := l.who(d, 1)
		if through == "" {
			return "", -1, nil // a private folder: nobody gets so far
		}
		if dir == "/" {
			return who, gid, nil
		}
	}
}

// writable says who besides root can change or replace a file, or what is above it; "":
// nobody. A file that is not there is judged by its folder.
func (l *look) writable(path string) (string, error) {
	p := l.resolved(path)
	for first := true; ; first = false {
		o, err := l.stat(l.path(p))
		switch {
		case first && errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return "", err
		default:
			if o.uid != 0 {
				return fmt.Sprintf("%s belongs to uid %d", p, o.uid), nil
			}
			// In a folder such as /tmp nobody can replace what is another's.
			sticky := !first && o.mode&unix.S_ISVTX != 0
			if who := l.who(o, 2); who != "" && !sticky {
				return fmt.Sprintf("%s can be written by %s", p, who), nil
			}
		}
		if p == "/" {
			return "", nil
		}
		p = filepath.Dir(p)
	}
}
