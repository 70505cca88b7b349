package peer

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/apicall"
)

// userNS is what is known of a process's user namespace.
type userNS struct {
	foreign bool // not the one that this process is in
	// owner made the outermost of the namespaces between it and ours, by effective uid.
	owner uint32
}

// maxUserNS is one more than user namespaces can be nested: user_namespaces(7).
const maxUserNS = 33

// userNSOf reads the user namespace of the process whose directory in procfs is dir.
//
// Sources: /proc/PID/ns/user, ioctl_nsfs(2).
// Errors: one if the namespace is not ours and not below ours.
func (id *Identifier) userNSOf(dir string) (userNS, error) {
	if id.userNS != nil {
		return id.userNS(dir)
	}
	var own, at unix.Stat_t
	switch err := unix.Stat(id.proc()+"/self/ns/user", &own); {
	case errors.Is(err, fs.ErrNotExist):
		return userNS{}, nil // a kernel without user namespaces
	case err != nil:
		return userNS{}, fmt.Errorf("our user namespace: %w", err)
	}
	fd, err := unix.Open(dir+"/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return userNS{}, fmt.Errorf("its user namespace: %w", err)
	}
	defer func() { unix.Close(fd) }()
	if err := unix.Fstat(fd, &at); err != nil {
		return userNS{}, fmt.Errorf("its user namespace: %w", err)
	}
	if at.Ino == own.Ino && at.Dev == own.Dev {
		return userNS{}, nil
	}
	for range maxUserNS {
		up, err := unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		if err != nil { // EPERM: it is not below ours
			return userNS{}, fmt.Errorf("the parent of its user namespace: %w", err)
		}
		if err := unix.Fstat(up, &at); err != nil {
			unix.Close(up)
			return userNS{}, fmt.Errorf("the parent of its user namespace: %w", err)
		}
		if at.Ino == own.Ino && at.Dev == own.Dev {
			unix.Close(up)
			owner, err := unix.IoctlGetUint32(fd, unix.NS_GET_OWNER_UID)
			if err != nil {
				return userNS{}, fmt.Errorf("the owner of its user namespace: %w", err)
			}
			return userNS{foreign: true, owner: owner}, nil
		}
		unix.Close(fd)
		fd = up
	}
	return userNS{}, errors.New("its user namespace is too deep")
}

// person fills in which user of the host a process is, so that nobody is two, and nobody another.
//
// Whoever has subordinate uids (subuid(5)) can be any of them in a user namespace of his own, and
// drop his groups there. So:
//   - In a user namespace that another than root made, a process is who made the outermost one,
//     whatever its uid, with the groups that the host's database gives him.
//   - In one that root made, a uid that the host's database names is that user, with the groups of
//     the database; any other is nobody, and so is root: it is not root of the host.
//   - In ours, it is what the kernel says, with the groups that it says. A uid without a name is a
//     user of a directory service more often than somebody's subordinate, whatever /etc/subuid says
//     of its number; see [Identifier.notLent].
//
// login is who logged in to start it, [noLogin] if that is not known.
//
// Errors: one if the process is nobody, or if it cannot be told who it is.
func (id *Identifier) person(sub *apicall.Subject, ns userNS, login uint32) (err error) {
	uid := sub.UID
	if ns.foreign && ns.owner != 0 {
		uid = ns.owner
	}
	name, err := id.names.user(uid)
	if err != nil {
		return fmt.Errorf("name of uid %d: %w", uid, err)
	}
	switch {
	case !ns.foreign:
		if name == "" {
			if err := id.notLent(uid, login); err != nil {
				return err
			}
		}
		sub.Name = name
		sub.Groups, err = id.names.groups(sub.GID, sub.GIDs)
		return err
	case uid == 0:
		return errors.New("root of a user namespace is not root of the host; fix: call from the host's own user namespace")
	case name == "":
		return fmt.Errorf("uid %d in a user namespace: the host's database names no user for it; fix: call from the host's own user namespace", uid)
	}
	sub.UID, sub.Name = uid, name
	if sub.GID, sub.GIDs, err = groupsOf(uid); err != nil {
		return fmt.Errorf("groups of uid %d: %w", uid, err)
	}
	sub.Groups, err = id.names.groups(sub.GID, sub.GIDs)
	return err
}

// groupsOf returns the groups that the host's database gives a user at a login.
func groupsOf(uid uint32) (gid uint32, gids []uint32, err error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return 0, nil, err
	}
	all, err := u.GroupIds()
	if err != nil {
		return 0, nil, err
	}
	for _, text := range append([]string{u.Gid}, all...) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return 0, nil, err
		}
		gids = append(gids, uint32(n))
	}
	return gids[0], gids, nil
}

// notLent returns an error if a uid without a name is a second one of the user who logged in: by
// a setuid file that he made in a user namespace of his own a process has one of his subordinate
// uids outside of it. A user of a directory service logs in as himself.
func (id *Identifier) notLent(uid, login uint32) error {
	if login == noLogin || login == 0 || login == uid {
		return nil
	}
	owner, found, err := id.subordinate(uid)
	switch {
	case err != nil:
		return fmt.Errorf("whose subordinate is uid %d: %w", uid, err)
	case found && owner == login:
		return fmt.Errorf("uid %d is a subordinate of uid %d, who logged in; fix: call as that user", uid, owner)
	}
	return nil
}

// noLogin is the login of a process that no login started: INVALID_UID, proc_pid_loginuid(5).
const noLogin = 1<<32 - 1

// loginOf returns who logged in to start the process whose directory in procfs is dir.
func loginOf(dir string) (uint32, error) {
	text, err := readProc(dir + "/loginuid")
	if errors.Is(err, fs.ErrNotExist) {
		return noLogin, nil // a kernel without audit
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
	return uint32(n), err
}

// Bounds of /etc/subuid: a host with tens of thousands of users has a line for each.
const maxSubuid = 4 << 20

// subordinate returns the user of whose subordinate uids uid is one, and false if it is nobody's.
// Lines of another form are passed over, as newuidmap(1) does.
//
// Source: /etc/subuid, subuid(5).
// Lines of users whom the host's database does not know are of nobody who could be found.
//
// Errors: one if the file cannot be read, and if it names two users.
func (id *Identifier) subordinate(uid uint32) (owner uint32, found bool, err error) {
	path := id.subuid
	if path == "" {
		path = "/etc/subuid"
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	in := &io.LimitedReader{R: f, N: maxSubuid}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		who, covers := subordinates(lines.Text(), uid)
		if !covers {
			continue
		}
		is, err := uidOf(who)
		if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
			continue
		}
		if err != nil {
			return 0, false, fmt.Errorf("%s gives it to %q: %w", path, who, err)
		}
		if found && is != owner {
			return 0, false, fmt.Errorf("%s gives it to uid %d and to uid %d", path, owner, is)
		}
		owner, found = is, true
	}
	if err := lines.Err(); err != nil {
		return 0, false, err
	}
	if in.N == 0 {
		return 0, false, fmt.Errorf("%s has more than %d bytes", path, maxSubuid)
	}
	return owner, found, nil
}

// subordinates reads one line, and returns whose it is and whether its uids have uid among them.
func subordinates(line string, uid uint32) (who string, covers bool) {
	f := strings.Split(strings.TrimSpace(line), ":")
	if len(f) != 3 || f[0] == "" {
		return "", false
	}
	start, err1 := strconv.ParseUint(f[1], 10, 32)
	count, err2 := strconv.ParseUint(f[2], 10, 33)
	n := uint64(uid)
	return f[0], err1 == nil && err2 == nil && start <= n && n-start < count
}

// uidOf reads a user as subuid(5) names one: by name or by number.
//
// Errors: [user.UnknownUserError].
func uidOf(who string) (uint32, error) {
	u, err := user.Lookup(who)
	if err == nil {
		who = u.Uid
	}
	n, nerr := strconv.ParseUint(who, 10, 32)
	if nerr == nil {
		return uint32(n), nil
	}
	return 0, cmp.Or(err, nerr)
}
