package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

// SSH runs the host's ssh program with arguments until it ends, or ctx does: then it has ended when SSH returns. Whoever opens
// engines gives it; without one no ssh is run, so that a daemon never does.
type SSH func(ctx context.Context, args []string) error

// gateSocket is where a target's gate listens unless the address names another socket.
const gateSocket = "/run/belay/docker.sock"

// Bounds of a tunnel. The first is that of its start, with whatever hosts it jumps over.
const (
	sshTime   = 40 * time.Second
	sshLook   = 20 * time.Millisecond
	maxSSHLog = 1 << 10 // of what ssh last said
	// maxSocketDir leaves room in 108 bytes for the socket's name and what ssh puts after it until it is bound.
	//
	// Source: sun_path, unix(7).
	maxSocketDir = 80
)

// sshPattern is of addresses of which no part can be taken for an option, a token (%), a separator (:) or a word of a shell by
// ssh, or by what its configuration has it run.
var sshPattern = regexp.MustCompile(`\Assh://(?:([A-Za-z0-9_][A-Za-z0-9_.-]*)@)?([A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(/[A-Za-z0-9_./+-]*)?\z`)

// dirPattern is of directories that ssh takes as they are.
var dirPattern = regexp.MustCompile(`\A/[A-Za-z0-9_./+-]*\z`)

// sshAddress is an address of the form ssh://[user@]host[:port][/path/of/socket].
type sshAddress struct{ user, host, port, socket string }

const sshForm = "want ssh://[user@]host[:port][/path/of/socket]"

func parseSSH(url string) (sshAddress, error) {
	m := sshPattern.FindStringSubmatch(url)
	if m == nil {
		return sshAddress{}, errors.New(sshForm + ", in letters, digits, '.', '_' and '-'")
	}
	a := sshAddress{user: m[1], host: strings.Trim(m[2], "[]"), port: m[3], socket: m[4]}
	if strings.HasPrefix(m[2], "[") && net.ParseIP(a.host) == nil {
		return sshAddress{}, fmt.Errorf("%s: %s is no IP address", sshForm, m[2])
	}
	if n, err := strconv.Atoi(a.port); a.port != "" && (err != nil || n < 1 || n > 65535) {
		return sshAddress{}, fmt.Errorf("%s: there is no port %s", sshForm, a.port)
	}
	if a.socket == "" {
		a.socket = gateSocket
	}
	if a.socket == "/" || path.Clean(a.socket) != a.socket {
		return sshAddress{}, fmt.Errorf("%s: %s is no path of a socket", sshForm, a.socket)
	}
	return a, nil
}

// args are those of an ssh that forwards the socket in dir. What is here the user's configuration cannot change: ssh takes the first
// value of an option.
func (a sshAddress) args(dir string) []string {
	args := []string{"-N", "-T", "-a", "-x", "-E", filepath.Join(dir, "log")}
	for _, o := range []string{
		"BatchMode=yes", "LogLevel=INFO", "StrictHostKeyChecking=yes", "NoHostAuthenticationForLocalhost=no", "VerifyHostKeyDNS=no", "UpdateHostKeys=no",
		"ControlMaster=no", "ControlPath=none", "PermitLocalCommand=no", "RemoteCommand=none", "Tunnel=no",
		"ExitOnForwardFailure=yes", "StreamLocalBindMask=0177", "StreamLocalBindUnlink=no",
		"ConnectTimeout=20", "ServerAliveInterval=15", "ServerAliveCountMax=3",
	} {
		args = append(args, "-o", o)
	}
	if a.user != "" {
		args = append(args, "-l", a.user)
	}
	if a.port != "" {
		args = append(args, "-p", a.port)
	}
	return append(args, "-L", filepath.Join(dir, "s")+":"+a.socket, "--", a.host)
}

// SSHError is a failure of the way to an engine over SSH.
type SSHError struct {
	Said string // by ssh: hostile text, bounded and without control characters
	Err  error
	// silent says that nothing answered: everything else, such as another host key, somebody has. Where ssh jumps over a host
	// it does not say so.
	silent bool
}

// Error returns what ssh said, or else what failed.
func (e *SSHError) Error() string {
	if e.Said == "" {
		return fmt.Sprintf("ssh: %v", e.Err)
	}
	return fmt.Sprintf("ssh: %s (%v)", e.Said, e.Err)
}

// Unwrap returns what failed.
func (e *SSHError) Unwrap() error { return e.Err }

// tunnel is a socket of this host that ssh forwards to one of a target. It is started by the first connection and by the first after it
// has broken: what is under way then fails, as if the network were cut.
type tunnel struct {
	a   sshAddress
	run SSH

	mu     sync.Mutex // of what follows
	dir    string     // private to us; "": ssh does not run
	stop   context.CancelFunc
	ended  chan error // has ssh's end
	closed bool
}

var errClosed = errors.New("the engine was closed")

func (t *tunnel) dial(ctx context.Context) (net.Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errClosed
	}
	ctx, cancel := context.WithTimeout(ctx, sshTime)
	defer cancel()
	started := false
	for {
		if t.dir == "" {
			if err := t.start(ctx); err != nil {
				return nil, err
			}
			started = true
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", filepath.Join(t.dir, "s"))
		if err == nil {
			return c, nil
		}
		wait := time.NewTimer(sshLook)
		select {
		case err = <-t.ended:
			t.ended <- err // for end
			if err == nil {
				err = errors.New("it has ended")
			}
			failed := t.failure(err)
			if err := t.end(); err != nil {
				return nil, err
			}
			if started {
				return nil, failed
			}
		case <-ctx.Done():
			return nil, errors.Join(t.failure(ctx.Err()), t.end())
		case <-wait.C:
		}
		wait.Stop()
	}
}

// start starts ssh, which makes its socket once the target has let it in.
func (t *tunnel) start(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "belay-ssh-") // of mode 0700
	if err != nil {
		return fmt.Errorf("directory of the forwarded socket: %w", err)
	}
	if !dirPattern.MatchString(dir) || len(dir) > maxSocketDir {
		return errors.Join(fmt.Errorf("directory of the forwarded socket: ssh would read %q otherwise, or it is too long; fix: TMPDIR=/tmp", dir), os.Remove(dir))
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the connection that starts it
	t.dir, t.stop, t.ended = dir, cancel, make(chan error, 1)
	go func(ended chan<- error) { ended <- t.run(ctx, t.a.args(dir)) }(t.ended)
	return nil
}

// end ends ssh, waits for it and removes what it left.
func (t *tunnel) end() error {
	if t.dir == "" {
		return nil
	}
	t.stop()
	<-t.ended
	err := os.RemoveAll(t.dir)
	t.dir = ""
	return err
}

// failure returns err with the end of what ssh has logged.
//
// Source of its words: ssh_connect_direct in sshconnect.c and resolve_host in ssh.c of OpenSSH.
func (t *tunnel) failure(err error) *SSHError {
	var lines []string
	for l := range strings.Lines(t.log()) {
		l = strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return -1
		}, l)
		if l != "" {
			lines = append(lines, l)
		}
	}
	e := &SSHError{Said: strings.Join(lines, "; "), Err: err}
	if len(lines) > 0 {
		last := lines[len(lines)-1]
		e.silent = strings.HasPrefix(last, "ssh: connect to host ") || strings.HasPrefix(last, "ssh: Could not resolve hostname ")
	}
	return e
}

// log returns the end of ssh's log, or nothing: it only explains another error.
func (t *tunnel) log() string {
	f, err := os.Open(filepath.Join(t.dir, "log"))
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > maxSSHLog {
		_, _ = f.Seek(-maxSSHLog, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, maxSSHLog))
	return string(b)
}

// explain adds what ssh said to an error of a connection over it.
func (t *tunnel) explain(err error) error {
	if _, ok := errors.AsType[*SSHError](err); ok {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dir == "" {
		return err
	}
	return t.failure(err)
}

func (t *tunnel) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	_ = t.end() // an empty directory of ours may be left
}
