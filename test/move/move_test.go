package move

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/carry"
	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/move"
	"github.com/belay-project/belay/tools/lab"
)

// TestStateless: a locally built web server under continuous requests, with a health check, a
// user's network with an alias, a published port and a restart policy. The hook switches
// the requests, and none is lost.
func TestStateless(t *testing.T) {
	w := need(t)
	ok(t, w.from, "network", "create", "--opt", "com.docker.network.bridge.enable_icc=true", "shop")
	name := w.run(t, "web", "--network", "shop", "--network-alias", "www", "-p", "8080:80", "--restart", "always", "--env", "TOKEN=hunter2",
		"--health-cmd", "test -f /www/index.html", "--health-interval", "1s", "--label", "app=web", "--cap-drop", "NET_RAW", "--memory", "64m", "--ulimit", "nofile=64", image)
	var at atomic.Value // engine and address, as an LB has it
	type backend struct {
		target bool
		addr   string
	}
	at.Store(backend{addr: address(w.from, name)})
	var sent, lost atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				b := at.Load().(backend)
				e := w.from
				if b.target {
					e = w.to
				}
				sent.Add(1)
				if body, err := get(e, b.addr, "/"); err != nil || body != "hello\n" {
					lost.Add(1)
					t.Errorf("lost a request to %+v: %q, %v", b, body, err)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	dir := t.TempDir()
	s := with(quick, func(s *move.Settings) { s.Drain, s.Hook = time.Second, []string{"/lb", "switch"} })
	j := w.move(t, name, s, move.Options{Dir: dir, RunHook: func(_ context.Context, path string, args []string, in []byte, _ time.Duration) error {
		var v struct {
			Target struct{ Addresses map[string]string }
		}
		if err := json.Unmarshal(in, &v); err != nil || path != "/lb" || strings.Join(args, " ") != "switch hand-over" {
			return fmt.Errorf("called as %s %q with %s: %w", path, args, in, err)
		}
		at.Store(backend{true, v.Target.Addresses["shop"] + ":80"})
		return nil
	}})
	time.Sleep(300 * time.Millisecond)
	stop()
	wg.Wait()
	t.Logf("%d requests, %d lost, in %s", sent.Load(), lost.Load(), j.Ended.Sub(j.Began))
	if sent.Load() < 50 || j.Phase != move.Kept {
		t.Errorf("%d requests, phase %s", sent.Load(), j.Phase)
	}
	steps, err := carry.Steps(dir, j.ID, j.Began, j.Ended)
	if err != nil {
		t.Fatal(err)
	}
	var names []move.Step
	for _, s := range steps {
		names = append(names, move.Step(s.Name))
		if s.Err != nil || s.End.Before(s.Begin) {
			t.Errorf("step %+v", s)
		}
	}
	if !slices.Equal(names, move.Steps(false)) {
		t.Errorf("the journal tells of steps %q", names)
	}
	kept := name + "-moved-" + j.ID[:8]
	if w.running(w.from, kept) || !w.running(w.to, name) {
		t.Error("want the copy running and the source stopped")
	}
	for what, want := range map[string]string{
		"{{.HostConfig.RestartPolicy.Name}}": "always", "{{.HostConfig.Memory}}": "67108864", "{{.Config.Image}}": image,
		`{{index .Config.Labels "app"}}`: "web", `{{index (index .HostConfig.PortBindings "80/tcp") 0}}`: "{ 8080}", "{{.State.Health.Status}}": "healthy",
		"{{.HostConfig.CapDrop}}": "[NET_RAW]",
	} {
		got := ok(t, w.to, "inspect", "--format", what, name)
		if strings.Contains(got, "8080") {
			want = got // engines print the address differently
		}
		if strings.TrimPrefix(strings.Trim(got, "[]"), "CAP_") != strings.Trim(want, "[]") {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	if got := w.restart(t, w.from, kept); got != "no" {
		t.Errorf("the source would start again: %q", got)
	}
	// By its alias it is found on the target.
	if out := ok(t, w.to, "run", "--rm", "--network", "shop", image, "wget", "-qO-", "http://www/"); out != "hello" {
		t.Errorf("by its alias: %q", out)
	}
	raw, err := os.ReadFile(filepath.Join(dir, j.ID+".json"))
	if err != nil || strings.Contains(string(raw), "hunter2") {
		t.Errorf("the journal has an environment value, or cannot be read: %v", err)
	}
	if left := w.orphans(t, name); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	// It is taken back, and then the source has everything again.
	if _, err := move.New(move.Options{Dir: dir, RunHook: func(context.Context, string, []string, []byte, time.Duration) error { return nil }}).Abort(t.Context(), j.ID, move.Allow{}); err != nil {
		t.Fatal(err)
	}
	if !w.running(w.from, name) || w.restart(t, w.from, name) != "always" {
		t.Error("the source is not what it was")
	}
	if w.there(w.to, name) {
		t.Error("the copy is still there")
	}
	if out := w.to.Docker(t.Context(), "network", "inspect", "shop"); out.Code == 0 {
		t.Error("the network is still there")
	}
}

// TestStateful: a writer with a named and an anonymous volume. Each write that was acknowledged
// is on the target, and so are owners, modes, links and empty directories.
func TestStateful(t *testing.T) {
	w := need(t)
	name := w.run(t, "db", "-v", "records:/data", "-v", "/anon", "--restart", "unless-stopped", image)
	ok(t, w.from, "exec", name, "sh", "-c", "cd /anon && busybox mkdir -p a/empty && echo x >a/f && busybox chown 7:8 a/f && busybox chmod 4751 a/f && busybox ln a/f hard && busybox ln -s ../gone soft && busybox mknod null c 1 3 && echo 'öé' >'a/ñ b' && busybox dd if=/dev/urandom of=big bs=64k count=40 2>/dev/null")
	// Without "..", which is the container's own.
	sums := "cd /anon && busybox ls -lanR . | busybox grep -v ' [.][.]$' && busybox md5sum big 'a/ñ b'"
	before := ok(t, w.from, "exec", name, "sh", "-c", "cd /anon && "+sums)
	addr := address(w.from, name)
	acked := make(map[string]bool)
	done := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; n++ {
			text := fmt.Sprintf("w%d", n)
			if out, err := get(w.from, addr, "/cgi-bin/append?"+text); err == nil && strings.TrimSpace(out) == "ok "+text {
				acked[text] = true
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	time.Sleep(200 * time.Millisecond)
	dir := t.TempDir()
	j := w.move(t, name, with(quick, volumes), move.Options{Dir: dir})
	stop()
	<-done
	log := "\n" + ok(t, w.to, "exec", name, "cat", "/data/log") + "\n"
	for text := range acked {
		if !strings.Contains(log, "\n"+text+"\n") {
			t.Errorf("the acknowledged write %s is lost", text)
		}
	}
	t.Logf("%d writes acknowledged; %d volumes, %s", len(acked), len(j.Volumes), j.Ended.Sub(j.Began))
	if len(acked) < 3 || len(j.Volumes) != 2 {
		t.Errorf("%d writes, %d volumes", len(acked), len(j.Volumes))
	}
	after := ok(t, w.to, "exec", name, "sh", "-c", "cd /anon && "+sums)
	if before != after {
		t.Errorf("the volume is another:\n%s\n%s", before, after)
	}
	if left := w.orphans(t, name); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	// Going back would lose what the copy has written.
	m := move.New(move.Options{Dir: dir})
	if _, err := m.Abort(t.Context(), j.ID, move.Allow{}); !errors.Is(err, move.ErrNoReturn) {
		t.Errorf("abort: %v", err)
	}
	if _, err := m.Finish(t.Context(), j.ID); err != nil {
		t.Error(err)
	}
	if vols := ok(t, w.from, "volume", "ls", "-q"); !strings.Contains(vols, "records") {
		t.Errorf("the source's volumes are gone: %q", vols)
	}
}

// TestTakenBack: a copy that does not become healthy is removed, and the source serves on.
func TestTakenBack(t *testing.T) {
	w := need(t)
	tests := []struct {
		name string
		s    move.Settings
		args []string
	}{
		{"stateless", quick, nil},
		{"stateful", with(quick, volumes), []string{"-v", "records:/data"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Healthy on an engine whose containers find this name, and nowhere else.
			name := w.run(t, "sick", append(tt.args, "--hostname", "here", "--restart", "always", "--health-interval", "500ms", "--health-retries", "1", "--health-cmd",
				"test ! -f /proc/1/root/data/moved && hostname | busybox grep -q here && busybox nslookup x 127.0.0.1 >/dev/null 2>&1; test -f /ready", image)...)
			ok(t, w.from, "exec", name, "sh", "-c", "echo >/ready")
			s := tt.s
			s.LoseLayer = true // and with it what makes it healthy
			for range 50 {
				if ok(t, w.from, "inspect", "--format", "{{.State.Health.Status}}", name) == "healthy" {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			from, to := addresses(w)
			dir := t.TempDir()
			_, err := move.New(move.Options{Dir: dir}).Move(t.Context(), name, from, to, s)
			back := new(move.BackError)
			if !errors.As(err, &back) || back.Step != move.StepHealthy {
				t.Fatalf("got %v", err)
			}
			if !w.running(w.from, name) || w.restart(t, w.from, name) != "always" {
				t.Error("the source is not what it was")
			}
			if w.there(w.to, name) {
				t.Error("the copy is still there")
			}
			j := only(t, dir)
			if left := w.orphans(t, ""); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if j.Phase != move.RolledBack || (len(j.LeftBehind) > 0) != j.Stateful {
				t.Errorf("phase %s, left %v", j.Phase, j.LeftBehind)
			}
		})
	}
}

// TestRefused: reasons are of the container, of others, and of the target.
func TestRefused(t *testing.T) {
	w := need(t)
	from, to := addresses(w)
	name := w.run(t, "tied", "-p", "9090:80", "-v", "records:/data", image)
	w.run(t, "sibling", "--network", "container:"+name, "-v", "records:/data", image, "sleep", "100")
	ok(t, w.from, "exec", name, "sh", "-c", "echo x >/written")
	_, err := move.New(move.Options{Dir: t.TempDir()}).Look(t.Context(), name, from, to, quick)
	for _, want := range []string{"volume \"records\"", "/written", "\"sibling\" shares a namespace", "\"sibling\" has its volume"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	_, err = move.New(move.Options{Dir: t.TempDir()}).Look(t.Context(), name, from, from, with(quick, func(s *move.Settings) { s.CopyVolumes, s.LoseLayer = true, true }))
	if err == nil || !strings.Contains(err.Error(), "it is the engine that the container is on") {
		t.Errorf("to itself: %v", err)
	}
}

// TestOtherWay: from a newer engine to an older one, which takes one network at the create and the other by a connect, with a
// locally built image, a volume, limits and options of the create.
func TestOtherWay(t *testing.T) {
	w := need(t)
	name := "other"
	t.Cleanup(func() { w.forget(t, name) })
	ok(t, w.to, "network", "create", "shop")
	ok(t, w.to, "run", "-d", "--name", name, "--stop-signal", "KILL", "--network", "shop", "--network-alias", "www", "-p", "8081:80", "-v", "records:/data", "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE",
		"--security-opt", "no-new-privileges", "--sysctl", "net.core.somaxconn=64", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--init", "--hostname", "here", "--dns", "10.0.0.1",
		"--add-host", "db:10.0.0.9", "--log-opt", "max-size=1m", "--read-only", newImage)
	ok(t, w.to, "network", "create", "back")
	ok(t, w.to, "network", "connect", "--alias", "deep", "back", name)
	ok(t, w.to, "exec", name, "sh", "-c", "echo first >/data/log")
	from, to := addresses(w)
	j, err := move.New(move.Options{Dir: t.TempDir()}).Move(t.Context(), name, to, from, with(quick, volumes))
	if err != nil {
		t.Fatal(err)
	}
	if !w.running(w.from, name) || w.running(w.to, name+"-moved-"+j.ID[:8]) {
		t.Error("want the copy running and the source stopped")
	}
	for what, want := range map[string]string{
		"{{.Config.Hostname}}": "here", "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.PidsLimit}} {{.HostConfig.NanoCpus}}": "true 50 500000000", "{{.Config.Image}}": newImage,
		"{{.HostConfig.SecurityOpt}} {{.HostConfig.Sysctls}} {{.HostConfig.Dns}} {{.HostConfig.ExtraHosts}}":  "[no-new-privileges] map[net.core.somaxconn:64] [10.0.0.1] [db:10.0.0.9]",
		"{{range $name, $end := .NetworkSettings.Networks}}{{$name}} {{$end.IPAddress | len | lt 0}} {{end}}": "back true shop true",
	} {
		if got := ok(t, w.from, "inspect", "--format", what, name); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	for net, alias := range map[string]string{"shop": "www", "back": "deep"} {
		if got := ok(t, w.from, "inspect", "--format", `{{(index .NetworkSettings.Networks "`+net+`").Aliases}}`, name); !strings.Contains(got, alias) {
			t.Errorf("aliases in %s: %s", net, got)
		}
	}
	if got := ok(t, w.from, "exec", name, "cat", "/data/log"); got != "first" {
		t.Errorf("the volume has %q", got)
	}
}

// TestMovedOn: a container that has moved moves on to a third engine, with what was written on each. It runs there alone, and both
// moves end.
func TestMovedOn(t *testing.T) {
	w := need(t)
	third, err := w.start(t.Context(), lab.Options{Name: "move-c", Log: os.Stderr, BinDir: os.Getenv("BELAY_BIN"), TempDir: os.Getenv("BELAY_TEST_TMP")})
	if err != nil {
		t.Fatal(err)
	}
	name := w.run(t, "chain", "--restart", "always", "-v", "records:/data", image)
	t.Cleanup(func() { third.Docker(context.Background(), "rm", "-f", "-v", name) })
	dir := t.TempDir()
	addresses := []engine.Address{{URL: w.from.Host()}, {URL: w.to.Host()}, {URL: third.Host()}}
	var ids []string
	for i, e := range []*lab.Engine{w.from, w.to} {
		ok(t, e, "exec", name, "sh", "-c", fmt.Sprintf("echo %d >>/data/log", i))
		j, err := move.New(move.Options{Dir: dir}).Move(t.Context(), name, addresses[i], addresses[i+1], with(quick, volumes))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, j.ID)
	}
	if got, want := ok(t, third, "exec", name, "cat", "/data/log"), "0\n1"; got != want {
		t.Errorf("the volume has %q, want %q", got, want)
	}
	if got := ok(t, third, "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", name); got != "always" {
		t.Errorf("restart policy %q", got)
	}
	for _, id := range ids {
		if j, err := move.New(move.Options{Dir: dir}).Finish(t.Context(), id); err != nil || j.Phase != move.Finished {
			t.Errorf("finish %s: %v", id, err)
		}
	}
	for i, e := range []*lab.Engine{w.from, w.to} {
		if left := ok(t, e, "ps", "-aq"); left != "" {
			t.Errorf("engine %d has %s", i, left)
		}
	}
}
