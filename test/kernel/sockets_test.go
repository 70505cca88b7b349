package kernel

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/internal/verdict"
)

const socketPolicy = "  guard: {sockets: deny}\n"

var socketAttacks = []string{"sock-connect", "sock-procroot", "sock-symlink", "sock-hardlink", "sock-rename"}

// daemon answers each byte on a unix socket, and counts them.
type daemon struct {
	dir, socket string
	heard       atomic.Int64
}

func startDaemon(t *testing.T, name string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "belay-sock-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &daemon{dir: dir, socket: filepath.Join(dir, name)}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var b [1]byte
				for {
					if _, err := c.Read(b[:]); err != nil {
						return
					}
					d.heard.Add(1)
					if _, err := c.Write(b[:]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return d
}

// guard puts a guard into the kernel for the time of a test. It needs a kernel that shows
// who connects.
func (h *host) guard(t *testing.T, g enforce.Guard) {
	t.Helper()
	level, why := h.kernel.SocketLevel()
	testneed.Need(t, "unix-connect", level > verdict.Detect, "a kernel that shows who connects to a unix socket: "+why)
	if err := h.kernel.SetGuard(g); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.kernel.SetGuard(enforce.Guard{}); err != nil {
			t.Error(err)
		}
	})
}

func (h *host) stops(t *testing.T, r result) {
	t.Helper()
	want := 1
	if h.kernel.Backend() == verdict.BackendSignal {
		want = 137
	}
	if r.code != want {
		t.Errorf("got %v, want exit %d", r, want)
	}
}

// A container that has the engine's socket, by whatever name, reaches nothing.
func TestSocketOfEngine(t *testing.T) {
	h := get(t)
	d, other := startDaemon(t, "docker.sock"), startDaemon(t, "docker.sock")
	h.guard(t, enforce.Guard{Sockets: []string{d.socket}})
	play := func(t *testing.T, d *daemon, name string) result {
		t.Helper()
		r := h.run(t, []string{"--uid", "0", "--bind", d.dir + ":/run/engine"}, "/bin/attack", name)
		// An attack that is killed leaves its other names.
		_ = os.Rename(filepath.Join(d.dir, "y.sock"), d.socket)
		_ = os.Remove(filepath.Join(d.dir, "x.sock"))
		return r
	}
	for _, name := range socketAttacks {
		t.Run(name, func(t *testing.T) {
			h.enact(t, document("enforced", "enforce", socketPolicy))
			before := d.heard.Load()
			r := play(t, d, name)
			h.stops(t, r)
			if n := d.heard.Load(); n != before {
				t.Errorf("the engine heard %d bytes", n-before)
			}
			want := verdict.Denied
			if h.kernel.Backend() == verdict.BackendSignal {
				want = verdict.Killed
			}
			evs := h.take(r.id, verdict.RuleSockets)
			if len(evs) == 0 || evs[0].Decision != want || evs[0].Exe != "/bin/attack" || filepath.Dir(evs[0].Object) != d.dir {
				t.Errorf("records %+v", evs)
			}
			h.enact(t, document("audited", "audit", socketPolicy))
			r = play(t, d, name)
			ran(t, r)
			if evs := h.take(r.id, verdict.RuleSockets); len(evs) != 1 || evs[0].Decision != verdict.WouldDeny {
				t.Errorf("records in audit %+v", evs)
			}
		})
	}
	t.Run("another socket of the name", func(t *testing.T) {
		h.enact(t, document("enforced", "enforce", socketPolicy))
		r := play(t, other, "sock-connect")
		ran(t, r)
		h.none(t, r.id)
	})
	t.Run("a directory, and a socket that came later", func(t *testing.T) {
		h.enact(t, document("enforced", "enforce", socketPolicy))
		h.guard(t, enforce.Guard{Dirs: []string{other.dir}})
		h.stops(t, play(t, other, "sock-connect"))
	})
	t.Run("no rule", func(t *testing.T) {
		h.enact(t, document("other", "enforce", "  guard: {bpf: deny}\n"))
		r := play(t, d, "sock-connect")
		ran(t, r)
		h.none(t, r.id)
	})
}

// outside runs bin/attack on the host.
func outside(t *testing.T, uid int, sock string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin("attack"), "--sock", sock, "--dir", "/tmp", "sock-connect")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	out, _ := cmd.CombinedOutput()
	r := result{code: cmd.ProcessState.ExitCode(), out: string(out)}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		r.code = 128 + int(ws.Signal())
	}
	return r
}

// Processes of the host reach the engine's socket if they are named.
func TestSocketGuardOfHost(t *testing.T) {
	h := get(t)
	d := startDaemon(t, "docker.sock")
	for p, mode := range map[string]os.FileMode{d.dir: 0o755, d.socket: 0o666} {
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	self := enforce.Caller{Exe: "/proc/self/exe"}
	attack := enforce.Caller{Exe: bin("attack")}
	for _, c := range []struct {
		name    string
		mode    enforce.GuardMode
		callers []enforce.Caller
		uid     int
		stopped bool
	}{
		{"nobody is named", enforce.GuardEnforce, nil, 0, true},
		{"another user", enforce.GuardEnforce, []enforce.Caller{{UID: 0}}, 1000, true},
		{"the user", enforce.GuardEnforce, []enforce.Caller{{UID: 1000}}, 1000, false},
		{"the program", enforce.GuardEnforce, []enforce.Caller{attack}, 0, false},
		{"the program, of another user", enforce.GuardEnforce, []enforce.Caller{attack}, 1000, true},
		{"another program", enforce.GuardEnforce, []enforce.Caller{self}, 0, true},
		{"a unit that it is not in", enforce.GuardEnforce, []enforce.Caller{{Unit: "docker.service"}}, 0, true},
		{"audit", enforce.GuardAudit, nil, 0, false},
		{"off", enforce.GuardOff, nil, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.guard(t, enforce.Guard{Mode: c.mode, Sockets: []string{d.socket}, Callers: c.callers})
			from := time.Now()
			before := d.heard.Load()
			r := outside(t, c.uid, d.socket)
			if !c.stopped {
				ran(t, r)
			} else {
				h.stops(t, r)
				if n := d.heard.Load(); n != before {
					t.Errorf("the engine heard %d bytes", n-before)
				}
			}
			if evs := h.ofHost(c.stopped || c.mode == enforce.GuardAudit); (len(evs) > 0) != (c.stopped || c.mode == enforce.GuardAudit) {
				t.Errorf("records %+v since %v", evs, from)
			}
		})
	}
	// The test's own connection shows that a restart of the daemon opens nothing: the place
	// is guarded before the new inode is known.
	t.Run("after a restart", func(t *testing.T) {
		h.guard(t, enforce.Guard{Mode: enforce.GuardEnforce, Sockets: []string{d.socket}})
		if err := os.Remove(d.socket); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", d.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		h.stops(t, outside(t, 0, d.socket))
		h.ofHost(true)
	})
}

// ofHost takes the records of the host's guard away. wait: there must be one.
func (h *host) ofHost(wait bool) (found []*enforce.Event) {
	for range 100 {
		h.mu.Lock()
		kept := h.events[:0]
		for _, ev := range h.events {
			if ev.Rule == verdict.RuleSockets && ev.Cgroup == 0 {
				found = append(found, ev)
			} else {
				kept = append(kept, ev)
			}
		}
		h.events = kept
		h.mu.Unlock()
		if len(found) > 0 || !wait {
			break
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the ring has no other signal
	}
	return found
}
