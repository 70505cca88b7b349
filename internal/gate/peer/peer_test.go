package peer

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/testneed"
)

const someID = "5a9c1e0f7b2d4836a1c95e7f30b8d2465a9c1e0f7b2d4836a1c95e7f30b8d246"

func TestContainerOf(t *testing.T) {
	other := strings.Repeat("ab", 32)
	for _, c := range []struct {
		name, path, id string
		ok             bool
	}{
		{"docker", "/docker/" + someID, someID, true},
		{"systemd", "/system.slice/docker-" + someID + ".scope", someID, true},
		{"cri-o", "/kubepods.slice/kubepods-pod1.slice/crio-" + someID + ".scope", someID, true},
		{"podman", "/machine.slice/libpod-" + someID + ".scope/container", someID, true},
		{"nested belongs to the outer", "/docker/" + someID + "/docker/" + other, someID, true},
		{"build step", "/docker/buildkit/abcdefghijklmnopqrstuvwxy", "", true},
		{"conmon", "/machine.slice/libpod-conmon-" + someID + ".scope", "", false},
		{"user", "/user.slice/user-1000.slice/session-3.scope", "", false},
		{"root", "/", "", false},
		{"upper case", "/docker/" + strings.ToUpper(someID), "", false},
		{"short", "/docker/" + someID[:63], "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if id, ok := ContainerOf(c.path); id != c.id || ok != c.ok {
				t.Errorf("got %q, %v, want %q, %v", id, ok, c.id, c.ok)
			}
		})
	}
}

func TestParseCgroups(t *testing.T) {
	got, err := parseCgroups("12:pids:/docker/x\n1:name=systemd:/a:b\n0::/docker/y\n")
	if want := []cgroupAt{{"", "/docker/y"}, {"pids", "/docker/x"}, {"name=systemd", "/a:b"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{"", "0:/docker\n", "nonsense\n", "0::relative\n"} {
		if got, err := parseCgroups(text); err == nil {
			t.Errorf("parseCgroups(%q) = %+v, want an error", text, got)
		}
	}
}

// pair returns both ends of a connected unix socket.
func pair(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	if server, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func TestOfUser(t *testing.T) {
	_, server := pair(t)
	var id Identifier
	sub, err := id.Of(server)
	if err != nil {
		t.Fatal(err)
	}
	at, err := id.look(credentials{pid: int32(os.Getpid()), pidfd: -1})
	if err != nil {
		t.Fatal(err)
	}
	want := apicall.User
	if slices.ContainsFunc(at.cgroups, func(c cgroupAt) bool { _, ok := ContainerOf(c.path); return ok }) {
		want = apicall.Container // the test itself runs in a container
	}
	if sub.Kind != want || sub.UID != uint32(os.Getuid()) || sub.PID != int32(os.Getpid()) {
		t.Errorf("got %+v, want kind %d of this process", sub, want)
	}
}

// inContainer says that every cgroup is a container's.
type inContainer struct{}

func (inContainer) ContainerOf(string) (string, bool) { return someID, true }
func (inContainer) Describe(s *apicall.Subject)       { s.ContainerName = "web" }

// A process in a container is never user root.
func TestContainerBeforeUID(t *testing.T) {
	_, server := pair(t)
	id := Identifier{Workload: inContainer{}}
	sub, err := id.Of(server)
	if err != nil {
		t.Fatal(err)
	}
	if sub.Kind != apicall.Container || sub.ContainerID != someID || sub.ContainerName != "web" || sub.Name != "" {
		t.Errorf("got %+v, want the container", sub)
	}
}

func TestEndedPeerIsNobody(t *testing.T) {
	// A fake /proc where the number has gone to another process, and a kernel without
	// SO_PEERPIDFD: the file vanishes.
	id := Identifier{Proc: t.TempDir()}
	sub, err := id.ofProcess(credentials{pid: 4711, pidfd: -1})
	if !errors.Is(err, ErrUnknown) || sub.Kind != apicall.Nobody {
		t.Errorf("got %+v, %v, want nobody and ErrUnknown", sub, err)
	}
	if _, err := id.ofProcess(credentials{pid: 0, pidfd: -1}); !errors.Is(err, ErrUnknown) {
		t.Errorf("pid 0: got %v, want ErrUnknown", err)
	}
}

func TestPidfdOfEndedProcess(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "4711"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "4711", "cgroup"), []byte("0::/\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	proc, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(proc.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := proc.Wait(); err != nil {
		t.Fatal(err)
	}
	stat := "4711 (a) b) S 1 " + strings.Repeat("0 ", 17) + "99 0\n"
	write := func(stat string) {
		if err := os.WriteFile(filepath.Join(dir, "4711", "stat"), []byte(stat), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(stat)
	id := Identifier{Proc: dir}
	if _, err := id.look(credentials{pid: 4711, pidfd: fd}); !errors.Is(err, ErrEnded) {
		t.Errorf("got %v, want ErrEnded", err)
	}
	if got, err := id.look(credentials{pid: 4711, pidfd: -1}); err != nil || len(got.cgroups) != 1 {
		t.Errorf("got %v, %v, want one cgroup", got, err)
	}
	write(strings.Replace(stat, " S ", " Z ", 1))
	if _, err := id.look(credentials{pid: 4711, pidfd: -1}); !errors.Is(err, ErrEnded) {
		t.Errorf("zombie: got %v, want ErrEnded", err)
	}
}

// A user of the host who has made a cgroup of a container's name in a part of the tree that is his
// own is not that container, and nobody else.
func TestCgroupOfAUser(t *testing.T) {
	_, server := pair(t)
	id := Identifier{Workload: inContainer{}, owner: func(string) error { return errors.New("it belongs to uid 1000") }}
	if sub, err := id.Of(server); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %+v, %v, want nobody", sub, err)
	}
}

// Whose a cgroup is says the tree itself, that of the hierarchy which the name is of.
func TestRootOwns(t *testing.T) {
	testneed.Need(t, "root", os.Getuid() == 0, "it makes cgroups")
	some := false
	for _, hierarchy := range []string{"", "freezer", "memory", "name=systemd"} {
		mount, err := cgroupAt{hierarchy, "/"}.mount()
		if err != nil {
			continue
		}
		some = true
		t.Run("hierarchy "+hierarchy, func(t *testing.T) { rootOwnsIn(t, hierarchy, mount) })
	}
	testneed.Need(t, "cgroup2", some, "a cgroup hierarchy")
}

func rootOwnsIn(t *testing.T, hierarchy, mount string) {
	top := filepath.Join(mount, "belay-peer-"+strconv.Itoa(os.Getpid()))
	made := filepath.Join(top, "docker-"+someID+".scope", "below")
	if err := os.MkdirAll(made, 0o755); err != nil {
		testneed.Need(t, "cgroup2", false, err.Error())
	}
	t.Cleanup(func() {
		for d := made; d != mount; d = filepath.Dir(d) {
			if err := os.Remove(d); err != nil {
				t.Error(err)
			}
		}
	})
	var id Identifier
	at := cgroupAt{hierarchy, strings.TrimPrefix(made, mount)}
	if err := id.rootOwns(at); err != nil {
		t.Errorf("root's own: %v", err)
	}
	for dir, want := range map[string]bool{made: true, filepath.Dir(made): true, top: false} {
		if err := os.Chown(dir, 1000, 1000); err != nil {
			t.Fatal(err)
		}
		if err := id.rootOwns(at); (err == nil) != want {
			t.Errorf("%s is a user's: %v", dir, err)
		}
		if err := os.Chown(dir, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	for other := range map[string]bool{"no-such": true, "name=no-such": true, "..": true, "a/b": true} {
		if err := id.rootOwns(cgroupAt{other, at.path}); err == nil {
			t.Errorf("a hierarchy %s that is not there: it is root's", other)
		}
	}
	if err := os.Chmod(top, 0o775); err != nil {
		t.Fatal(err)
	}
	if err := id.rootOwns(at); err == nil {
		t.Error("a group may make cgroups above it")
	}
}

// labelled has a label of the kernel, and takes the cgroups for in's, or the host's.
type labelled struct {
	in, label string
	err       error
}

func (w labelled) ContainerOf(string) (string, bool) { return w.in, w.in != "" }
func (labelled) Describe(*apicall.Subject)           {}
func (w labelled) Label(pidfd int) (string, bool, error) {
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil {
		return "", false, err
	}
	return w.label, w.label != "", w.err
}

// A process of a container that has gone to another's cgroup, or to the host's, is nobody.
func TestLabel(t *testing.T) {
	other := strings.Repeat("b", 64)
	for _, tt := range []struct {
		name string
		w    labelled
		want apicall.SubjectKind
	}{
		{"host", labelled{}, apicall.User},
		{"container", labelled{in: someID, label: someID}, apicall.Container},
		{"no label yet", labelled{in: someID}, apicall.Container},
		{"in another's cgroup", labelled{in: someID, label: other}, apicall.Nobody},
		{"in the host's", labelled{label: someID}, apicall.Nobody},
		{"unreadable", labelled{err: errors.New("no map")}, apicall.Nobody},
		{"unreadable in a container", labelled{in: someID, err: errors.New("no map")}, apicall.Nobody},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, server := pair(t)
			id := Identifier{Workload: tt.w, owner: func(string) error { return nil }}
			sub, err := id.Of(server)
			if sub.Kind != tt.want || (err != nil) != (tt.want == apicall.Nobody) || err != nil && !errors.Is(err, ErrUnknown) {
				t.Errorf("got %+v, %v", sub, err)
			}
		})
	}
}
