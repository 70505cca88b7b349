package peer

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// ErrNoSession is returned if a process is in no login session that can be told from others.
var ErrNoSession = errors.New("the process is in no login session that can be known")

// unset is what the kernel writes for a login uid or an audit session that nobody has set:
// (unsigned int)-1, see AUDIT_SID_UNSET in include/uapi/linux/audit.h.
const unset = "4294967295"

// Session returns the login session of a caller, as a text that is equal for two processes
// if and only if they are in the same one, for one boot.
//
// Where PAM (pam_loginuid) has set the kernel's audit session it is "audit:N": everything
// that was started from one login, however many terminals it has. A process cannot join
// another's: the kernel gives each login a new number. Elsewhere it is "leader:PID:START",
// the session of setsid(2) with the start time of its leader in ticks since boot: what was
// started from one terminal, or by one service. Without its leader there is no session.
//
// Sources: proc_pid_loginuid(5), /proc/PID/sessionid, proc_pid_stat(5) fields 6 and 22.
// Errors: [ErrEnded] if the process is not the one any more that connected, [ErrNoSession].
func (id *Identifier) Session(sub *apicall.Subject) (string, error) {
	if sub.Kind != apicall.User || sub.PID <= 0 {
		return "", ErrNoSession
	}
	proc := id.proc()
	dir := proc + "/" + strconv.Itoa(int(sub.PID))
	if err := stillThere(dir, sub.PIDStart); err != nil {
		return "", err
	}
	s, err := auditSession(dir)
	if err == nil && s == "" {
		s, err = leaderSession(proc, dir)
	}
	if err != nil {
		return "", err
	}
	// What was read was the caller's only if the number is its own still.
	return s, stillThere(dir, sub.PIDStart)
}

// Login returns the uid of the user who logged in to start a process, which su and sudo do not
// change; nil if there is none, or if it cannot be read. It is for the record.
//
// Whoever has none yet, such as a service, may set it to any uid, once and without privilege
// (audit_set_loginuid_perm in kernel/audit.c). known says that systemd-logind knows the session, of
// that uid: it was set by a login.
//
// Sources: proc_pid_loginuid(5), /proc/PID/sessionid, /run/systemd/sessions (sd-login(3)).
func (id *Identifier) Login(sub *apicall.Subject) (uid *uint32, known bool) {
	dir := id.proc() + "/" + strconv.Itoa(int(sub.PID))
	n, err := loginOf(dir)
	if err != nil || sub.PID <= 0 || n == noLogin {
		return nil, false
	}
	session, err := auditSession(dir)
	if stillThere(dir, sub.PIDStart) != nil {
		return nil, false
	}
	name, audited := strings.CutPrefix(session, "audit:")
	return &n, err == nil && audited && id.isSession(name, strconv.FormatUint(uint64(n), 10))
}

// isSession tells whether systemd-logind knows a session, named as the audit session that it has,
// of a user.
func (id *Identifier) isSession(name, uid string) bool {
	dir := id.sessions
	if dir == "" {
		dir = "/run/systemd/sessions"
	}
	text, err := readProc(dir + "/" + name)
	if err != nil {
		return false
	}
	lines := strings.Split(text, "\n")
	return slices.Contains(lines, "UID="+uid) && slices.Contains(lines, "AUDIT="+name)
}

func stillThere(dir string, start uint64) error {
	now, err := startTime(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ErrEnded
	case err != nil:
		return err
	case now != start:
		return ErrEnded
	}
	return nil
}

// auditSession returns "" if there is none.
func auditSession(dir string) (string, error) {
	var both [2]string
	for i, name := range []string{"/loginuid", "/sessionid"} {
		text, err := readProc(dir + name)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil // a kernel without audit
		}
		if err != nil {
			return "", err
		}
		both[i] = strings.TrimSpace(text)
		if _, err := strconv.ParseUint(both[i], 10, 32); err != nil {
			return "", fmt.Errorf("%s%s holds no number", dir, name)
		}
	}
	if both[0] == unset || both[1] == unset {
		return "", nil
	}
	return "audit:" + both[1], nil
}

func leaderSession(proc, dir string) (string, error) {
	sid, err := sessionID(dir)
	if err != nil {
		return "", err
	}
	// 0: the leader is in a PID namespace that is not below ours.
	if sid == 0 {
		return "", ErrNoSession
	}
	leader := proc + "/" + strconv.FormatUint(sid, 10)
	// The kernel gives no new process the number of a session that has members, so that
	// whoever has it is the leader, or has ended.
	start, err := startTime(leader)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrEnded) {
		return "", fmt.Errorf("%w: the one that began it has ended", ErrNoSession)
	}
	if err != nil {
		return "", err
	}
	if own, err := sessionID(leader); err != nil || own != sid {
		return "", ErrNoSession
	}
	return fmt.Sprintf("leader:%d:%d", sid, start), nil
}

// sessionID reads field 6 of /proc/PID/stat.
func sessionID(dir string) (uint64, error) {
	text, err := readProc(dir + "/stat")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 4 {
		return 0, fmt.Errorf("%s/stat has another form", dir)
	}
	return strconv.ParseUint(f[3], 10, 31)
}
