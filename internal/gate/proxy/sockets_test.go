package proxy

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

const rerouting = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: sockets}
spec:
  mode: enforce
  subjects: {everyone: true}
  obligations: {dockerSocket: WHAT}
  rules: [{name: all, effect: allow, actions: ["*"], checks: [CHECKS]}]
`

// Issue: application containers that call the daemon are rerouted through the gate.
func TestDockerSocketMounts(t *testing.T) {
	bind := func(src string) string {
		return `{"Image":"app","User":"1","HostConfig":{"Binds":["` + src + `:/var/run/docker.sock:ro"]}}`
	}
	mount := func(src string) string {
		return `{"Image":"app","User":"1","HostConfig":{"Mounts":[{"Type":"bind","Source":"` + src + `","Target":"/x"}]}}`
	}
	volume := func(src string) string {
		return `{"Image":"app","User":"1","HostConfig":{"Mounts":[{"Type":"volume","Target":"/x","VolumeOptions":{"DriverConfig":{"Name":"local","Options":{"type":"none","o":"bind","device":"` +
			src + `"}}}}]}}`
	}
	const pass, replaced, refused = "passes", "is replaced", "is refused"
	for _, what := range []string{"replace", "refuse"} {
		dir, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		g := startGate(t, strings.ReplaceAll(strings.ReplaceAll(rerouting, "WHAT", what), "CHECKS", "{hostMounts: {allow: ["+dir+"]}}"))
		socket, err := filepath.EvalSymlinks(g.d.socket)
		if err != nil {
			t.Fatal(err)
		}
		gate, err := filepath.EvalSymlinks(g.socket)
		if err != nil {
			t.Fatal(err)
		}
		link, dirLink, hard := filepath.Join(dir, "link"), filepath.Join(dir, "dirlink"), filepath.Join(dir, "hard")
		for to, from := range map[string]string{link: socket, dirLink: filepath.Dir(socket)} {
			if err := os.Symlink(from, to); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Link(socket, hard); err != nil {
			t.Fatal(err)
		}
		exact := map[string]string{"replace": replaced, "refuse": refused}[what]
		for _, c := range []struct{ name, body, want string }{
			{"by its path", bind(socket), exact},
			{"by another spelling", bind(filepath.Dir(socket) + "/./x/..//" + filepath.Base(socket)), exact},
			{"over a symbolic link", bind(link), exact},
			{"over a linked directory", bind(dirLink + "/" + filepath.Base(socket)), exact},
			{"over a hard link", bind(hard), exact},
			{"as a mount", mount(socket), exact},
			{"its directory", bind(filepath.Dir(socket)), refused},
			{"its directory over a link", mount(dirLink), refused},
			{"the root", bind("/"), refused},
			{"/tmp", mount("/tmp"), refused},
			{"a volume of it", volume(socket), refused},
			{"a volume of its directory", volume(dirLink), refused},
			{"a directory that is allowed", bind(dir), pass},
			{"the gate's own", bind(gate), map[string]string{"replace": replaced, "refuse": refused}[what]},
		} {
			t.Run(what+"/"+c.name, func(t *testing.T) {
				if c.name == "/tmp" && !strings.HasPrefix(socket, "/tmp/") {
					t.Skip("the socket is elsewhere: TMPDIR")
				}
				before := len(g.d.acted())
				status, answer := do(t, g.client(t), "POST", "/containers/create", c.body)
				sent := g.d.acted()[before:]
				if c.want == refused {
					if status != 403 || len(sent) != 0 {
						t.Errorf("got %d %s; the daemon %v", status, answer, sent)
					}
					return
				}
				if status != 201 || len(sent) != 1 {
					t.Fatalf("got %d %s; the daemon %v", status, answer, sent)
				}
				if strings.Contains(sent[0].body, socket) || strings.Contains(sent[0].body, link) || strings.Contains(sent[0].body, hard) {
					t.Errorf("the daemon got %s", sent[0].body)
				}
				if c.want == replaced && !mountsOf(t, sent[0].body)[gate] {
					t.Errorf("the daemon got %s, want a mount of %s", sent[0].body, gate)
				}
			})
		}
		if n := g.counter("gate_socket_replaced"); (n > 0) != (what == "replace") {
			t.Errorf("%s: counted %d", what, n)
		}
	}
}

// mountsOf returns the sources that a create's body mounts.
func mountsOf(t *testing.T, body string) map[string]bool {
	t.Helper()
	var b struct {
		HostConfig struct {
			Binds  []string
			Mounts []struct{ Source string }
		}
	}
	if err := json.Unmarshal([]byte(body), &b); err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, s := range b.HostConfig.Binds {
		src, rest, _ := strings.Cut(s, ":")
		out[src] = rest == "/var/run/docker.sock:ro"
	}
	for _, m := range b.HostConfig.Mounts {
		out[m.Source] = true
	}
	return out
}

// A daemon that is told to listen at the gate's place takes it away: what lies there then is nothing to give to containers.
func TestSocketReplaced(t *testing.T) {
	g := startGate(t, strings.ReplaceAll(strings.ReplaceAll(rerouting, "WHAT", "replace"), "CHECKS", "notPrivileged"))
	if _, err := g.gateSocket(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(g.socket); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := g.gateSocket(); !errors.Is(err, ErrReplaced) {
		t.Errorf("the socket for containers: %v, want ErrReplaced", err)
	}
	if err := os.Remove(g.socket); err != nil {
		t.Fatal(err)
	}
	if err := g.checkPlace(); !errors.Is(err, ErrReplaced) || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("without it: %v, want that it is gone", err)
	}
	// A path that cannot be looked at is not another's.
	g.o.Socket = filepath.Join(g.o.Upstream, "below-a-socket")
	if err := g.checkPlace(); err != nil {
		t.Errorf("what cannot be looked at: %v", err)
	}
}

// A socket that was handed over is the gate's place only if it is what lies there.
func TestInheritedReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker.sock")
	listen := func() *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		t.Cleanup(func() { l.Close() })
		return l
	}
	former := listen()
	if !liesAt(former, path) {
		t.Fatal("a socket in its place is not taken for it")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	another := listen()
	needFiles(t, former)
	if liesAt(former, path) {
		t.Error("a socket whose place another has is taken for it")
	}
	o := Options{Socket: path, Upstream: path + ".upstream", Inherited: []net.Listener{former}}
	if s, err := Listen(o); !errors.Is(err, ErrInUse) {
		if err == nil {
			s.Close()
		}
		t.Fatalf("another listens there: %v, want ErrInUse", err)
	}
	another.Close()
	o.GID = os.Getgid()
	s, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !s.Changed() {
		t.Error("a socket that nobody answers on is taken for the gate's own")
	}
	if kept := keep(t, s); len(kept) != 2 || !liesAt(kept[0].(*net.UnixListener), path) {
		t.Errorf("%d sockets are kept for the next gate, want the one in its place and the former one", len(kept))
	}
}

func needFiles(t *testing.T, l *net.UnixListener) {
	t.Helper()
	_, err := fileOf(l)
	testneed.Need(t, "net-admin", !errors.Is(err, unix.EPERM), "CAP_NET_ADMIN: the kernel tells nobody else which file a socket has")
}

// keep returns what the next gate is handed.
func keep(t *testing.T, s *Server) (kept []net.Listener) {
	t.Helper()
	files, err := s.Files()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		t.Cleanup(func() { l.Close() })
		kept = append(kept, l)
	}
	return kept
}

// What is kept over restarts is bounded, and the sockets that are still found in their places stay.
func TestKeptSockets(t *testing.T) {
	dir := t.TempDir()
	_, _, tcp := tlsGate(t) // which nobody holds, and takes no place
	var kept []net.Listener
	next := func(name string) *Server {
		t.Helper()
		s, err := Listen(Options{Upstream: dir + "/none", Socket: filepath.Join(dir, name), GID: os.Getgid(), Inherited: kept, TLS: tcp})
		if err != nil {
			t.Fatal(err)
		}
		kept = keep(t, s)
		needFiles(t, kept[0].(*net.UnixListener))
		s.Close()
		return s
	}
	at := func(name string) bool {
		return slices.ContainsFunc(kept, func(l net.Listener) bool { return liesAt(l.(*net.UnixListener), filepath.Join(dir, name)) })
	}
	var made []uint64 // the files of the sockets, as they were made
	for i := range 6 {
		want := min(i+1, maxSockets)
		if s := next("a"); !s.Changed() || len(kept) != want || !at("a") {
			t.Fatalf("socket %d: changed %v, %d are kept, want %d", i, s.Changed(), len(kept), want)
		}
		for _, l := range kept {
			if st, err := fileOf(l.(*net.UnixListener)); err != nil {
				t.Fatal(err)
			} else if liesAt(l.(*net.UnixListener), filepath.Join(dir, "a")) {
				made = append(made, st.Ino)
			}
		}
		for _, l := range kept {
			if st, _ := fileOf(l.(*net.UnixListener)); !slices.Contains(made[max(0, len(made)-maxSockets):], st.Ino) {
				t.Errorf("socket %d: an older one is kept than the last %d", i, maxSockets)
			}
		}
		if s := next("a"); s.Changed() || len(kept) != want || !at("a") {
			t.Fatalf("socket %d, again: changed %v, %d are kept, want %d", i, s.Changed(), len(kept), want)
		}
		slices.Reverse(kept) // as systemd hands them over
		if err := os.Remove(filepath.Join(dir, "a")); err != nil {
			t.Fatal(err)
		}
	}
	next("a")
	if s := next("b"); !s.Changed() || len(kept) != maxSockets || !at("b") || !at("a") {
		t.Errorf("at another place: %d are kept, want the new one, the one at its old place and two more", len(kept))
	}
}

// Without the field a mount of the socket is judged as any other.
func TestDockerSocketUnsaid(t *testing.T) {
	g := startGate(t, strings.ReplaceAll(strings.ReplaceAll(rerouting, "  obligations: {dockerSocket: WHAT}\n", ""), "CHECKS", "noSocketMounts"))
	body := `{"Image":"app","User":"1","HostConfig":{"Binds":["/var/run/docker.sock:/s"]}}`
	if status, answer := do(t, g.client(t), "POST", "/containers/create", body); status != 403 || !strings.Contains(answer, "noSocketMounts") {
		t.Errorf("got %d %s", status, answer)
	}
}
