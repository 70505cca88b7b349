package inuse

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/testneed"
)

var (
	now   = time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC)
	cid   = strings.Repeat("c", 64)
	inner = strings.Repeat("d", 64)
)

// fakeProc is a proc file system of files and, where a text begins with "->", of links.
func fakeProc(t *testing.T, files map[string]string) Proc {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(text, "->"); ok {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return Proc{Root: root}
}

const tcpHead = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

// web is a container with a server that listens, a worker without a socket, and a shell
// that has ended.
func web() map[string]string {
	lib := func(path string) string { return "7f0000001000-7f0000002000 r-xp 00001000 08:01 1234   " + path + "\n" }
	return map[string]string{
		"self": "->1", "meminfo": "x",
		"10/cgroup": "0::/system.slice/docker-" + cid + ".scope\n",
		"10/exe":    "->/usr/sbin/nginx", "10/ns/net": "->net:[4026531840]",
		"10/maps": "55d0-55d1 r--p 0 08:01 1 /usr/sbin/nginx\n" + lib("/usr/sbin/nginx") + lib("/lib/x86_64-linux-gnu/libssl.so.3") +
			"7f00-7f01 r--p 0 08:01 9 /usr/share/locale/x.mo\n7ffc-7ffd rw-p 0 00:00 0   [stack]\n" + lib("/usr/lib/old.so (deleted)"),
		"10/fd/0": "->/dev/null", "10/fd/3": "->socket:[777]", "10/fd/4": "->/var/log/access.log", "10/fd/5": "->/app/a.jar",
		"10/net/tcp": tcpHead + "   0: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1\n" +
			"   1: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 888 1\n" +
			"   2: 0100007F:0051 0100007F:0052 01 00000000:00000000 00:00000000 00000000     0        0 777 1\n",
		"10/net/tcp6": tcpHead, "10/net/udp": tcpHead, "10/net/udp6": tcpHead,
		"11/cgroup": "12:cpu:/docker/" + cid + "\n0::/docker/" + cid + "/docker/" + inner + "\n",
		"11/exe":    "->/opt/tool", "11/maps": lib("/opt/tool"), "11/fd/0": "->/dev/null", "11/ns/net": "->net:[4026531840]",
		"12/cgroup": "0::/docker/" + cid + "\n", // no exe: it has ended
		"13/cgroup": "0::/user.slice\n", "13/exe": "->/bin/bash",
	}
}

// testInventory has packages whose use shows in each of the ways, and such that do not show it.
func testInventory() *inventory.Result {
	keys := func(files ...string) (b []byte) {
		for _, f := range files {
			b = inventory.AppendKey(b, inventory.FileKey(f))
		}
		return b
	}
	return &inventory.Result{
		Schema: inventory.Schema, Layers: []inventory.Layer{{}},
		Packages: []inventory.Package{
			{Kind: "deb", Name: "curl", Version: "1", Path: "s"}, {Kind: "deb", Name: "libssl3", Version: "1", Arch: "amd64", Path: "s"},
			{Kind: "deb", Name: "libssl3", Version: "1", Arch: "i386", Path: "s"}, {Kind: "deb", Name: "nginx", Version: "1", Path: "s"},
			{Kind: "deb", Name: "python3-x", Version: "1", Path: "s"}, {Kind: "deb", Name: "tzdata", Version: "1", Path: "s"},
			{Kind: "golang", Name: "example.com/m", Version: "1", Path: "opt/tool"}, {Kind: "maven", Name: "g:a", Version: "1", Path: "app/a.jar!/META-INF/x"},
			{Kind: "maven", Name: "g:b", Version: "1", Path: "app/b.jar"}, {Kind: "npm", Name: "left", Version: "1", Path: "app/node_modules/left/package.json"},
			{Kind: "npm", Name: "asked", Version: "1", Path: "app/package-lock.json", Locked: true},
		},
		Owned: []inventory.OwnedFiles{
			{Package: 0, Keys: keys("usr/bin/curl")}, {Package: 1, Keys: keys("usr/lib/x86_64-linux-gnu/libssl.so.3")},
			{Package: 3, Keys: keys("usr/sbin/nginx")}, {Package: 4, Keys: keys("usr/bin/x"), Partial: true},
		},
	}
}

func look(t *testing.T, p Proc) *Look {
	t.Helper()
	all, err := p.Processes()
	if err != nil {
		t.Fatal(err)
	}
	pids := all[ident.ContainerID(cid)]
	if slices.Sort(pids); !slices.Equal(pids, []int{10, 11, 12}) || len(all) != 1 {
		t.Fatalf("got the processes %v, want those of one container", all)
	}
	return p.Look(pids, now)
}

func TestUses(t *testing.T) {
	var s Seen
	l := look(t, fakeProc(t, web()))
	s.Add(l)
	if !s.Whole() || s.Looks != 1 || l.Processes != 2 || !l.Sockets {
		t.Errorf("a look at 2 processes: %+v", l)
	}
	s.Ports = Ports{Known: true, List: []Port{
		{"tcp", netip.MustParseAddrPort("0.0.0.0:8443"), 443}, {"tcp", netip.MustParseAddrPort("127.0.0.1:9443"), 443}, {"udp", netip.MustParseAddrPort("0.0.0.0:1"), 443},
	}}
	res := testInventory()
	want := []string{
		"not loaded as observed since 2026-03-08 12:00 UTC", "mapped, listening on tcp 0.0.0.0:443, published as tcp 0.0.0.0:8443->443",
		"mapped, listening on tcp 0.0.0.0:443, published as tcp 0.0.0.0:8443->443", "executed, mapped, listening on tcp 0.0.0.0:443, published as tcp 0.0.0.0:8443->443",
		"", "", "executed, mapped", "opened, listening on tcp 0.0.0.0:443, published as tcp 0.0.0.0:8443->443", "not loaded as observed since 2026-03-08 12:00 UTC", "", "",
	}
	uses := NewIndex(res).Uses(&s)
	for i, u := range uses {
		if got := u.String(); got != want[i] {
			t.Errorf("%s %s: got %q, want %q", res.Packages[i].Kind, res.Packages[i].Name, got, want[i])
		}
		if yes, known := u.IsReachable(); known != (want[i] != "") || yes != strings.Contains(want[i], "published") {
			t.Errorf("%s: reachable %v, known %v", res.Packages[i].Name, yes, known)
		}
	}
	if u := uses[3]; !slices.Equal(u.Files, []string{"usr/sbin/nginx"}) || !u.Executed.Equal(now) || u.Rank() != 0 || uses[6].Rank() != 1 || uses[5].Rank() != 2 || uses[0].Rank() != 3 {
		t.Errorf("got %+v", u)
	}

	// Nobody looked, and a look that left something out: nothing is said not to be used.
	for _, u := range NewIndex(res).Uses(&Seen{}) {
		if _, known := u.InUse(); known {
			t.Errorf("without a look: %+v", u)
		}
	}
	s.Cut = 1
	if u := NewIndex(res).Uses(&s)[0]; u.State != inventory.UseUnknown {
		t.Errorf("what was cut: %+v", u)
	}
}

// What was seen once stays seen, with its time; what is listened on is that of the last look.
func TestSeenLater(t *testing.T) {
	files := web()
	var s Seen
	s.Add(look(t, fakeProc(t, files)))
	files["10/exe"], files["10/maps"] = "->/usr/bin/curl", ""
	delete(files, "10/fd/3")
	l := look(t, fakeProc(t, files))
	l.At = now.Add(time.Minute)
	s.Add(l)
	s.Add(&Look{At: now.Add(time.Hour)}) // at no process
	if s.Looks != 2 || !s.Until.Equal(now.Add(time.Minute)) {
		t.Errorf("got %d looks until %s", s.Looks, s.Until)
	}
	uses := NewIndex(testInventory()).Uses(&s)
	if nginx := uses[3]; !nginx.Executed.Equal(now) || len(nginx.Listening) > 0 {
		t.Errorf("nginx: %+v", nginx)
	}
	if yes, known := uses[3].IsListening(); yes || !known {
		t.Error("nginx listens still, or nobody knows")
	}
	if curl := uses[0]; !curl.Executed.Equal(l.At) {
		t.Errorf("curl: %+v", curl)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}

func TestBounds(t *testing.T) {
	files := web()
	var maps strings.Builder
	for i := range 2 * maxFiles {
		maps.WriteString("7f00-7f01 r-xp 0 08:01 1 /tmp/" + strings.Repeat("x", 50) + strconv.Itoa(i) + ".so\n")
	}
	files["11/maps"] = maps.String()
	l := look(t, fakeProc(t, files))
	if len(l.Files) > maxFiles || l.Cut == 0 {
		t.Errorf("got %d files, %d left out", len(l.Files), l.Cut)
	}
	files["11/maps"] = strings.Repeat("7f00-7f01 r-xp 0 08:01 1 /tmp/x.so\n", maxMapsBytes/30)
	if l := look(t, fakeProc(t, files)); l.Cut == 0 {
		t.Error("a list of mappings beyond its bound is not said to be cut")
	}
	// Of all processes together.
	files = web()
	big := strings.Repeat("7f00-7f01 r-xp 0 08:01 1 /tmp/x.so\n", maxMapsBytes/40)
	var pids []int
	for i := range maxMapsSum/len(big) + 2 {
		pid := strconv.Itoa(100 + i)
		files[pid+"/exe"], files[pid+"/maps"], files[pid+"/fd/0"] = "->/bin/x", big, "->/dev/null"
		pids = append(pids, 100+i)
	}
	if l := fakeProc(t, files).Look(pids, now); l.Cut == 0 || l.maps > maxMapsSum || l.Processes != len(pids) {
		t.Errorf("got %d bytes of mappings, %d left out", l.maps, l.Cut)
	}
	// A process whose sockets cannot be told: listening is not known.
	files = web()
	delete(files, "10/net/tcp")
	if l := look(t, fakeProc(t, files)); l.Sockets {
		t.Error("the sockets are said to be known, and could not be read")
	}
	if l := (Proc{Root: t.TempDir()}).Look(make([]int, maxProcesses+1), now); l.Cut != 1 {
		t.Errorf("got %d left out, want 1", l.Cut)
	}
}

// An image may say that it has thousands of packages of one name: their files are not multiplied.
func TestIndexIsBounded(t *testing.T) {
	var keys []byte
	for i := range 20_000 {
		keys = inventory.AppendKey(keys, inventory.FileKey(fmt.Sprint("bin/", i)))
	}
	res := &inventory.Result{Owned: []inventory.OwnedFiles{{Package: 0, Keys: keys}}}
	for i := range 2_000 {
		res.Packages = append(res.Packages, inventory.Package{Kind: inventory.KindDeb, Name: "a", Version: fmt.Sprint(i)})
	}
	x := NewIndex(res)
	if n := x.files.Len(); n > maxIndexed {
		t.Fatalf("%d files are held", n)
	}
	s := &Seen{Looks: 1, Files: map[string]*SeenFile{}}
	for i, u := range x.Uses(s) {
		if u.State != inventory.UseUnknown {
			t.Fatalf("package %d is %s", i, u.State)
		}
	}
}

// A program may name as many modules as it likes: what is remembered of them is bounded, and the
// others are unknown.
func TestFactsAreBounded(t *testing.T) {
	res := &inventory.Result{}
	for i := range 100_000 {
		res.Packages = append(res.Packages, inventory.Package{Kind: inventory.KindGo, Name: fmt.Sprint("m", i), Path: "app"})
	}
	s := &Seen{Looks: 1, Files: map[string]*SeenFile{"app": {Executed: now}}}
	f := NewIndex(res).Facts(s)
	if len(f.Used) != maxUsed || len(f.NotSeen) != 0 {
		t.Errorf("%d used, %d not seen", len(f.Used), len(f.NotSeen))
	}
}

// A process whose first thread has ended shows nothing of itself, and may use anything.
func TestLeaderless(t *testing.T) {
	stat := func(state string, threads int) string {
		return fmt.Sprintf("20 (a) b) %s 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 %d 0 100\n", state, threads)
	}
	for _, c := range []struct {
		stat   string
		unread int
	}{{stat("Z", 2), 1}, {stat("Z", 1), 0}, {stat("S", 2), 0}, {"", 0}} {
		files := web()
		files["20/cgroup"], files["20/stat"] = "0::/docker/"+cid+"\n", c.stat
		l := fakeProc(t, files).Look([]int{10, 20}, now)
		if l.Unread != c.unread || l.Sockets != (c.unread == 0) {
			t.Errorf("%q: %d unread, sockets %v", c.stat, l.Unread, l.Sockets)
		}
	}
}

func TestReach(t *testing.T) {
	end := func(addr string) Endpoint { return Endpoint{"tcp", netip.MustParseAddrPort(addr)} }
	published := Ports{Known: true, List: []Port{{"tcp", netip.MustParseAddrPort("10.0.0.1:80"), 8080}, {"tcp", netip.MustParseAddrPort("127.0.0.1:81"), 8081}}}
	for _, tt := range []struct {
		ports *Ports
		end   Endpoint
		want  int
	}{
		{&published, end("0.0.0.0:8080"), 1}, {&published, end("[::]:8080"), 1}, {&published, end("127.0.0.1:8080"), 0}, {&published, end("0.0.0.0:80"), 0},
		{&published, end("0.0.0.0:8081"), 0},
		{&Ports{Known: true, Host: true}, end("0.0.0.0:80"), 1}, {&Ports{Known: true, Host: true}, end("[::1]:80"), 0}, {&Ports{Known: true}, end("0.0.0.0:80"), 0},
	} {
		if got := tt.ports.reach(tt.end); len(got) != tt.want {
			t.Errorf("%+v %s: got %q", tt.ports, tt.end, got)
		}
	}
}

func TestMerge(t *testing.T) {
	used := inventory.Use{State: inventory.InUse, Looks: 1, Since: now, Until: now, Executed: now, Listening: []string{"a"}, SocketsKnown: true, PortsKnown: true}
	not := inventory.Use{State: inventory.NotSeen, Looks: 2, Since: now.Add(-time.Hour), Until: now}
	unknown := inventory.Use{State: inventory.UseUnknown, Looks: 1, Since: now, Until: now}
	for _, tt := range []struct {
		a, b inventory.Use
		want string
	}{
		{used, not, inventory.InUse}, {not, used, inventory.InUse}, {not, unknown, inventory.UseUnknown}, {not, inventory.Use{}, inventory.NotSeen}, {inventory.Use{}, used, inventory.InUse},
	} {
		if got := Merge(tt.a, tt.b); got.State != tt.want {
			t.Errorf("%s and %s: got %s, want %s", tt.a.State, tt.b.State, got.State, tt.want)
		}
	}
	if m := Merge(used, not); m.Looks != 3 || !m.Since.Equal(not.Since) || !m.SocketsKnown {
		t.Errorf("got %+v", m)
	}
}

// TestRealProcess looks at a process of this host that has a library mapped and holds a socket that listens.
func TestRealProcess(t *testing.T) {
	sh, err := exec.LookPath("sleep")
	testneed.Need(t, "sleep", err == nil, "there is no program sleep")
	real, err := filepath.EvalSymlinks(sh)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := ln.(*net.TCPListener).File()
	if err := errors.Join(err, ln.Close()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sh, "60")
	cmd.ExtraFiles = []*os.File{socket}
	if err := errors.Join(cmd.Start(), socket.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	testneed.Need(t, "root", os.Geteuid() == 0, "what another process maps is root's to see")
	var l *Look
	libc := func() bool {
		for path, f := range l.Files {
			if strings.Contains(path, "libc.so") || strings.Contains(path, "ld-musl") {
				return f.How&Mapped != 0
			}
		}
		return false
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l = Proc{}.Look([]int{cmd.Process.Pid}, time.Now())
		if f := l.Files[strings.TrimPrefix(real, "/")]; f != nil && f.How&(Executed|Mapped) == Executed|Mapped && libc() {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("got %+v, want the program %s and its library", l.Files, real)
		}
	}
	if l.Unread > 0 || l.Cut > 0 || !l.Sockets {
		t.Errorf("got %+v", l)
	}
	if got := l.Files[strings.TrimPrefix(real, "/")].Listening; len(got) != 1 || got[0].String() != "tcp "+ln.Addr().String() {
		t.Errorf("it listens on %v, want %s", got, ln.Addr())
	}
}

func FuzzProc(f *testing.F) {
	files := web()
	f.Add(files["10/maps"], files["10/net/tcp"], "socket:[777]")
	f.Fuzz(func(t *testing.T, maps, tcp, fd string) {
		if strings.IndexByte(fd, 0) >= 0 || fd == "" || len(fd) > 2000 {
			return
		}
		files := web()
		files["10/maps"], files["10/net/tcp"], files["10/fd/9"] = maps, tcp, "->"+fd
		var s Seen
		s.Add(fakeProc(t, files).Look([]int{10, 11}, now))
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		NewIndex(testInventory()).Uses(&s)
	})
}

// TestPythonFiles: of one distribution in two places, that is in use whose library is.
func TestPythonFiles(t *testing.T) {
	res := &inventory.Result{}
	for i, venv := range []string{"a", "b"} {
		res.Packages = append(res.Packages, inventory.Package{Kind: inventory.KindPython, Name: "numpy", Version: "1", Path: venv + "/numpy-1.dist-info/METADATA"})
		res.Owned = append(res.Owned, inventory.OwnedFiles{Package: i, Keys: inventory.AppendKey(nil, inventory.FileKey(venv+"/core.so"))})
	}
	uses := NewIndex(res).Uses(&Seen{Looks: 1, Sockets: true, Files: map[string]*SeenFile{"a/core.so": {Mapped: now}}})
	if uses[0].State != inventory.InUse || uses[1].State != inventory.NotSeen {
		t.Errorf("got %+v", uses)
	}
}
