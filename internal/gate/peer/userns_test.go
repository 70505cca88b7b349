package peer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/testneed"
)

// someUser returns a user of this host who is not root.
func someUser(t *testing.T) (uid uint32, u *user.User) {
	t.Helper()
	for n := uint32(1); n < 1000; n++ {
		if u, err := user.LookupId(strconv.Itoa(int(n))); err == nil {
			return n, u
		}
	}
	testneed.Need(t, "users", false, "the host's database has no user but root")
	return 0, nil
}

// nameless returns a uid that the host's database does not know.
func nameless(t *testing.T) uint32 {
	t.Helper()
	for n := uint32(200_000_007); ; n++ {
		if _, err := user.LookupId(strconv.Itoa(int(n))); err != nil {
			return n
		}
	}
}

func TestPerson(t *testing.T) {
	alice, u := someUser(t)
	gid, gids, err := groupsOf(alice)
	if err != nil {
		t.Fatal(err)
	}
	sub := nameless(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	none := filepath.Join(dir, "absent")
	hers := write("hers", fmt.Sprintf("# comment\nbad:line\n%s:%d:10\n", u.Username, sub-5))
	number := write("number", fmt.Sprintf("%d:%d:1\n", alice, sub))
	roots := write("roots", fmt.Sprintf("root:%d:10\n", sub))
	two := write("two", fmt.Sprintf("root:%d:10\n%s:%d:10\n", sub, u.Username, sub))
	unknown := write("unknown", fmt.Sprintf("no-such-user:%d:10\n", sub))
	beside := write("beside", fmt.Sprintf("%s:%d:5\n%s:%d:9\n", u.Username, sub-5, u.Username, sub+1))
	const docker = 999 // a group that the kernel says
	for _, tt := range []struct {
		name    string
		uid     uint32
		ns      userNS
		subuid  string
		login   uint32 // 0: not known
		byRoot  bool   // who logged in
		want    uint32 // if known
		nobody  bool
		dbgroup bool // groups of the database, not of the kernel
	}{
		{name: "user", uid: alice, want: alice},
		{name: "root", uid: 0, want: 0},
		{name: "no name and nobody's", uid: sub, subuid: beside, login: alice, want: sub},
		{name: "no name, no subuid", uid: sub, login: alice, want: sub},
		// A user of a directory service, whose number lies in a range that was given away.
		{name: "in alice's range", uid: sub, subuid: hers, login: sub, want: sub},
		{name: "in alice's range, no login", uid: sub, subuid: hers, want: sub},
		{name: "in root's range", uid: sub, subuid: roots, want: sub},
		{name: "in root's range, by su from root", uid: sub, subuid: roots, byRoot: true, want: sub},
		{name: "in root's range, by su from alice", uid: sub, subuid: roots, login: alice, want: sub},
		{name: "in two ranges", uid: sub, subuid: two, login: sub, want: sub},
		{name: "in the range of an unknown user", uid: sub, subuid: unknown, login: alice, want: sub},
		{name: "subuid cannot be read", uid: sub, subuid: dir, want: sub},
		// A setuid file that alice made in a namespace of her own.
		{name: "alice's subordinate, by alice", uid: sub, subuid: hers, login: alice, nobody: true},
		{name: "alice's subordinate by number, by alice", uid: sub, subuid: number, login: alice, nobody: true},
		{name: "of two, by alice", uid: sub, subuid: two, login: alice, nobody: true},
		{name: "by alice, subuid cannot be read", uid: sub, subuid: dir, login: alice, nobody: true},
		{name: "a named uid, by alice", uid: 0, subuid: hers, login: alice, want: 0},
		{name: "own namespace, own uid", uid: alice, ns: userNS{foreign: true, owner: alice}, want: alice, dbgroup: true},
		{name: "own namespace, subordinate", uid: sub, ns: userNS{foreign: true, owner: alice}, want: alice, dbgroup: true},
		{name: "own namespace, as root", uid: 0, ns: userNS{foreign: true, owner: alice}, want: alice, dbgroup: true},
		{name: "a nameless owner's namespace, in alice's range", uid: 0, ns: userNS{foreign: true, owner: sub}, subuid: hers, nobody: true},
		{name: "a nameless owner's namespace", uid: alice, ns: userNS{foreign: true, owner: sub}, nobody: true},
		{name: "root's namespace, a user", uid: alice, ns: userNS{foreign: true}, want: alice, dbgroup: true},
		{name: "root's namespace, root", uid: 0, ns: userNS{foreign: true}, nobody: true},
		{name: "root's namespace, no name", uid: sub, ns: userNS{foreign: true}, nobody: true},
		{name: "root's namespace, alice's range", uid: sub, ns: userNS{foreign: true}, subuid: hers, nobody: true},
		{name: "root's namespace, root's subordinate", uid: sub, ns: userNS{foreign: true}, subuid: roots, nobody: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := Identifier{subuid: none}
			if tt.subuid != "" {
				id.subuid = tt.subuid
			}
			got := apicall.Subject{Kind: apicall.User, UID: tt.uid, GID: docker, GIDs: []uint32{docker}}
			login := tt.login
			if login == 0 && !tt.byRoot {
				login = noLogin
			}
			err := id.person(&got, tt.ns, login)
			if (err != nil) != tt.nobody {
				t.Fatalf("got %+v, %v, nobody %v is wanted", got, err, tt.nobody)
			}
			if err != nil {
				return
			}
			wantGID, wantGIDs := uint32(docker), []uint32{docker}
			if tt.dbgroup {
				wantGID, wantGIDs = gid, gids
			}
			if got.UID != tt.want || got.GID != wantGID || !slices.Equal(got.GIDs, wantGIDs) || tt.want == alice && got.Name != u.Username {
				t.Errorf("got %+v, want uid %d with gid %d, %v", got, tt.want, wantGID, wantGIDs)
			}
		})
	}
}

// A namespace that cannot be read makes a caller nobody, unless it is a container.
func TestUserNSUnknown(t *testing.T) {
	_, server := pair(t)
	broken := func(string) (userNS, error) { return userNS{}, errors.New("no such thing") }
	id := Identifier{userNS: broken, Workload: onHost{}}
	if sub, err := id.Of(server); !errors.Is(err, ErrUnknown) || sub.Kind != apicall.Nobody {
		t.Errorf("got %+v, %v, want nobody", sub, err)
	}
	id = Identifier{userNS: broken, Workload: inContainer{}, owner: func(string) error { return nil }}
	if sub, err := id.Of(server); err != nil || sub.Kind != apicall.Container {
		t.Errorf("got %+v, %v, want the container", sub, err)
	}
}

// onHost says that no cgroup is a container's.
type onHost struct{ inContainer }

func (onHost) ContainerOf(string) (string, bool) { return "", false }

const playEnv = "BELAY_PEER_TEST_PLAY"

// TestMain also plays the parts of [TestUserNamespace] and [endedPeer].
func TestMain(m *testing.M) {
	f := strings.Split(os.Getenv(playEnv), ":")
	switch {
	case f[0] == "user" && len(f) == 3:
		os.Exit(play(f[1], f[2]))
	case f[0] == "inside" && len(f) == 2:
		os.Exit(playInside(f[1]))
	case f[0] == "gone" && len(f) == 2:
		os.Exit(playGone(f[1]))
	}
	os.Exit(m.Run())
}

// play is a user who makes a user namespace in which uids from 0 are those from start, as
// newuidmap lets him, and becomes uid 5 in it, without groups.
func play(path, start string) int {
	first, err := strconv.Atoi(start)
	if err != nil {
		return 1
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), playEnv+"=inside:"+path)
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 10}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{Uid: 5, Gid: 5}, Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		fmt.Println("no:", err)
		return 0
	}
	fmt.Println("yes")
	_ = cmd.Wait()
	return 0
}

// playInside connects and stays until it is told to go.
func playInside(path string) int {
	c, err := net.Dial("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer c.Close()
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// A user who makes a user namespace, and becomes one of his subordinate uids in it, is himself.
func TestUserNamespace(t *testing.T) {
	testneed.Need(t, "root", os.Getuid() == 0, "it becomes a user and writes the map of a user namespace")
	alice, u := someUser(t)
	dir, err := os.MkdirTemp("", "belay-peer-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	sub := nameless(t)
	server := playUser(t, alice, sub, l, path)
	defer server.Close()
	if cred, err := readCredentialsOf(server); err != nil || cred.uid != sub {
		t.Fatalf("got uid %d, %v, want the subordinate %d: the test tests nothing", cred.uid, err, sub)
	}
	id := Identifier{Workload: onHost{}, subuid: filepath.Join(dir, "absent")}
	got, err := id.Of(server)
	if err != nil {
		t.Fatal(err)
	}
	gid, gids, err := groupsOf(alice)
	if err != nil {
		t.Fatal(err)
	}
	if got.UID != alice || got.Name != u.Username || got.GID != gid || !slices.Equal(got.GIDs, gids) {
		t.Errorf("got %+v, want %s with the groups %v", got, u.Username, gids)
	}
}

func readCredentialsOf(c *net.UnixConn) (cred credentials, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return cred, err
	}
	err = raw.Control(func(fd uintptr) { cred = readCredentials(int(fd)) })
	cred.close()
	return cred, errors.Join(err, cred.err)
}

// playUser starts a process of alice that makes a user namespace in which uid 5 is sub, and
// returns the connection that it opens as that uid.
func playUser(t *testing.T, alice, sub uint32, l *net.UnixListener, path string) *net.UnixConn {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=user:%s:%d", playEnv, path, sub-5))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: alice, Gid: alice}, AmbientCaps: []uintptr{unix.CAP_SETUID, unix.CAP_SETGID}, Pdeathsig: syscall.SIGKILL,
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		testneed.Need(t, "userns", false, err.Error())
	}
	t.Cleanup(func() { stdin.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	testneed.Need(t, "userns", line == "yes\n", "users may not make user namespaces here: "+line)
	if err := l.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	server, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	return server
}
