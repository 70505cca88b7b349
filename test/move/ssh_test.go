package move

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/move"
	"github.com/belay-project/belay/internal/sandbox/spawn"
	"github.com/belay-project/belay/internal/testneed"
)

const (
	sshPath  = "/usr/bin/ssh"
	sshdPath = "/usr/sbin/sshd"
)

// sshServer is an SSH server of this machine, with keys of its own.
type sshServer struct {
	dir, addr, config string // the last is of clients that know it
}

// newSSHServer starts a server that lets root and nobody in by one key.
func newSSHServer(t *testing.T) *sshServer {
	t.Helper()
	for _, program := range []string{sshPath, sshdPath} {
		_, err := os.Stat(program)
		testneed.Need(t, "sshd", err == nil, "an SSH server and client are OpenSSH's: apt-get install openssh-server openssh-client")
	}
	dir, err := os.MkdirTemp("", "ssh")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // nobody reads its key there
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sshServer{dir: dir, addr: l.Addr().String(), config: filepath.Join(dir, "known")}
	l.Close()
	_, port, _ := net.SplitHostPort(s.addr)
	for _, key := range []string{"host", "user", "other"} {
		if out, err := exec.CommandContext(t.Context(), "/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	s.client(t, "known", "host", port)
	s.client(t, "stranger", "other", port)
	user, err := os.ReadFile(filepath.Join(dir, "user.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "authorized", `restrict,port-forwarding,command="/bin/false" `+string(user)) // as docs/moving.md has it
	s.write(t, "sshd_config", fmt.Sprintf(`ListenAddress %s
HostKey %s/host
AuthorizedKeysFile %s/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding local
AllowStreamLocalForwarding local
PidFile none
`, s.addr, dir, dir))
	if os.Mkdir("/run/sshd", 0o755) == nil { //nolint:gosec // it is empty: sshd puts those there who are not let in yet
		t.Cleanup(func() { os.Remove("/run/sshd") })
	}
	cmd := exec.Command(sshdPath, "-D", "-f", filepath.Join(dir, "sshd_config"), "-E", filepath.Join(dir, "sshd.log"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "sshd.log"))
			t.Logf("sshd: %s", b)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
			return s
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func (s *sshServer) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // public keys and settings
		t.Fatal(err)
	}
}

// client writes the configuration of a client that knows a host key. It would take any other: that is not its to say.
func (s *sshServer) client(t *testing.T, name, key, port string) {
	t.Helper()
	pub, err := os.ReadFile(filepath.Join(s.dir, key+".pub"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, name+".hosts", fmt.Sprintf("[127.0.0.1]:%s %s", port, pub))
	s.write(t, name, fmt.Sprintf(`Host *
  IdentityFile %s/user
  IdentitiesOnly yes
  UserKnownHostsFile %s/%s.hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking no
  NoHostAuthenticationForLocalhost yes
`, s.dir, s.dir, name))
}

// url is that of a socket of this machine, for a user.
func (s *sshServer) url(user, socket string) engine.Address {
	return engine.Address{URL: "ssh://" + user + "@" + s.addr + socket}
}

// sshWith runs ssh with a configuration.
func sshWith(config string) engine.SSH {
	if config == "" {
		return nil
	}
	return func(ctx context.Context, args []string) error {
		return spawn.Command(ctx, sshPath, append([]string{"-F", config}, args...), nil, 0)
	}
}

// cutSSH kills ssh, once or so that it is not started again.
type cutSSH struct {
	config string

	mu   sync.Mutex // of what follows
	kill context.CancelFunc
	runs int
	lost bool
}

func (c *cutSSH) run(ctx context.Context, args []string) error {
	c.mu.Lock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.kill = cancel
	c.runs++
	if c.lost {
		args = slices.Concat([]string{"-p", "1"}, args) // nobody listens there
	}
	c.mu.Unlock()
	return sshWith(c.config)(ctx, args)
}

func (c *cutSSH) cut(lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = lost
	c.kill()
}

func (c *cutSSH) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = false
}

func (c *cutSSH) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.runs
}

// left returns the processes of ssh that forward to a server, and the directories of sockets.
func (s *sshServer) left(t *testing.T) (left []string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(s.dir, "belay-ssh-*"))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		b, _ := os.ReadFile(l) // one that has ended has none
		if text := strings.ReplaceAll(string(b), "\x00", " "); strings.HasPrefix(text, sshPath+" -F "+s.dir) {
			left = append(left, text)
		}
	}
	return left
}

// TestSSH moves containers to an engine behind an SSH server.
func TestSSH(t *testing.T) {
	w := need(t)
	s := newSSHServer(t)
	t.Setenv("TMPDIR", s.dir) // where ssh's sockets are
	from, _ := addresses(w)
	to := s.url("root", w.to.Socket)
	stateful := with(quick, volumes)
	db := func(t *testing.T) string {
		t.Helper()
		name := w.run(t, "db", "--restart", "always", "-v", "records:/data", image)
		ok(t, w.from, "exec", name, "sh", "-c", "echo first >/data/log && busybox dd if=/dev/urandom of=/data/big bs=1M count=48 2>/dev/null")
		return name
	}
	// back fails unless the source is as it was, and nothing of the move is there.
	back := func(t *testing.T, name string) {
		t.Helper()
		if !w.running(w.from, name) || w.live(w.to) || w.there(w.to, name) || w.restart(t, w.from, name) != "always" {
			t.Error("the source is not as it was")
		}
		if left := append(w.orphans(t, name), s.left(t)...); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}

	t.Run("moved", func(t *testing.T) {
		name := db(t)
		j, err := move.New(move.Options{Dir: t.TempDir(), SSH: sshWith(s.config)}).Move(t.Context(), name, from, to, stateful)
		if err != nil {
			t.Fatal(err)
		}
		if j.To != to {
			t.Errorf("the journal has the target %+v", j.To)
		}
		checkMoved(t, w, j, name, true)
		if left := s.left(t); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})

	t.Run("another host key", func(t *testing.T) {
		name, dir := w.run(t, "web", "--restart", "always", image), t.TempDir()
		_, err := move.New(move.Options{Dir: dir, SSH: sshWith(filepath.Join(s.dir, "stranger"))}).Move(t.Context(), name, from, to, quick)
		if err == nil || !move.ByTarget(err) || !strings.Contains(err.Error(), "Host key verification failed") || engine.MayBeGone(err) {
			t.Errorf("got %v", err)
		}
		if list, err := move.List(dir); len(list) != 0 || err != nil {
			t.Errorf("it was begun: %v, %v", list, err)
		}
		back(t, name)
	})

	t.Run("no such socket", func(t *testing.T) {
		_, err := engine.OpenSSH(t.Context(), s.url("root", s.dir+"/none"), sshWith(s.config))
		if err == nil || !strings.Contains(err.Error(), "open failed") || engine.MayBeGone(err) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("nobody there", func(t *testing.T) {
		c := &cutSSH{config: s.config, lost: true}
		if _, err := engine.OpenSSH(t.Context(), to, c.run); err == nil || !engine.MayBeGone(err) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("caller", func(t *testing.T) {
		uids := make(chan uint32, 1)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(s.dir, "gate.sock"), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := os.Chmod(l.Addr().String(), 0o777); err != nil { //nolint:gosec // nobody is to reach it
			t.Fatal(err)
		}
		go func() {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			defer c.Close()
			if raw, err := c.SyscallConn(); err == nil {
				_ = raw.Control(func(fd uintptr) {
					if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
						uids <- cred.Uid
					}
				})
			}
		}()
		_, err = engine.OpenSSH(t.Context(), s.url("nobody", l.Addr().String()), sshWith(s.config))
		select {
		case uid := <-uids:
			if uid != 65534 {
				t.Errorf("the socket sees the user %d, want nobody's", uid)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("nobody came: %v", err)
		}
	})

	t.Run("killed while it copies", func(t *testing.T) {
		name := db(t)
		c := &cutSSH{config: s.config}
		var once sync.Once
		_, err := move.New(move.Options{Dir: t.TempDir(), SSH: c.run, Progress: func(e move.Event) {
			if e.Step == move.StepCopy && e.CopiedBytes && e.Bytes > 0 {
				once.Do(func() { c.cut(false) })
			}
		}}).Move(t.Context(), name, from, to, stateful)
		if taken, ok := errors.AsType[*move.BackError](err); !ok || taken.Step != move.StepCopy {
			t.Fatalf("got %v, want it taken back at the copy", err)
		}
		if n := c.count(); n != 2 {
			t.Errorf("ssh ran %d times", n)
		}
		back(t, name)
		if got := ok(t, w.from, "exec", name, "cat", "/data/log"); got != "first" {
			t.Errorf("the volume has %q", got)
		}
	})

	t.Run("lost once the copy runs", func(t *testing.T) {
		name := db(t)
		c := &cutSSH{config: s.config}
		m := move.New(move.Options{Dir: t.TempDir(), SSH: c.run, At: func(point string) {
			if point == "start/end" {
				c.cut(true)
			}
		}})
		stop := twoWriters(t, w)
		j, err := m.Move(t.Context(), name, from, to, stateful)
		if _, ok := errors.AsType[*move.StuckError](err); !ok || w.live(w.from) || !w.running(w.to, name) {
			t.Errorf("got %v, want it stopped, and the copy alone running", err)
		}
		c.heal()
		if j == nil {
			t.Fatal("it was not begun")
		}
		_, err = m.Resume(t.Context(), j.ID)
		if _, ok := errors.AsType[*move.BackError](err); !ok {
			t.Errorf("got %v, want it taken back", err)
		}
		if n := stop(); n != 0 {
			t.Errorf("two writers were seen %d times", n)
		}
		back(t, name)
	})

	t.Run("the mover is killed", func(t *testing.T) {
		name := db(t)
		j := job{Dir: t.TempDir(), Container: name, From: from.URL, To: to.URL, SSHConfig: s.config, KillAt: "copy/volume", Settings: with(stateful, func(s *move.Settings) { s.Keep = 0 })}
		if out, killed := mover(t, j); !killed {
			t.Fatalf("the mover was not ended: %s", out)
		}
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			left := s.left(t)
			if len(left) == 1 && filepath.Dir(left[0]) == s.dir { // nobody was left to remove the directory
				if err := os.RemoveAll(left[0]); err != nil {
					t.Fatal(err)
				}
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("ssh has outlived the mover: %v", left)
			}
		}
		if _, err := move.New(move.Options{Dir: j.Dir, SSH: sshWith(s.config)}).Resume(t.Context(), only(t, j.Dir).ID); err != nil {
			t.Fatal(err)
		}
		checkMoved(t, w, only(t, j.Dir), name, true)
		if left := s.left(t); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})

	t.Run("command", func(t *testing.T) {
		bin := os.Getenv("BELAY_BIN")
		testneed.Need(t, "bin", bin != "", "BELAY_BIN names the programs: make build")
		name := w.run(t, "web", "--restart", "always", image)
		out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "belay"), "move", name, "--from", from.URL, "--to", to.URL, "--dry-run").CombinedOutput()
		exit, _ := errors.AsType[*exec.ExitError](err)
		if exit == nil || exit.ExitCode() != 3 || !strings.Contains(string(out), "Host key verification failed") {
			t.Errorf("a host that its user does not know: %v: %s", err, out)
		}
	})
}
