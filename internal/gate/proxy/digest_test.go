package proxy

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/treedigest"
)

const digestPolicy = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: copies}
spec:
  mode: enforce
  subjects: {everyone: true}
  rules:
    - {name: read, effect: allow, actions: [container.copy.out], resources: {own: true}}
    - {name: look, effect: allow, actions: [container.inspect, container.copy.stat]}
`

// withVolume has the daemon's containers have a volume at /data, which lies in a directory of this host.
func (g *testGate) withVolume(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "_data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	g.d.volume = map[string]any{"Name": "records", "Driver": "local", "Mountpoint": dir, "Options": nil}
	g.d.more = map[string]any{"Mounts": []any{map[string]any{"Type": "volume", "Name": "records", "Driver": "local", "Source": dir, "Destination": "/data"}}}
	return dir
}

// TestDigest: who may read a volume gets its digest from the gate itself, and nobody else; a volume that the container has not
// whole has none.
func TestDigest(t *testing.T) {
	mount := func(change map[string]any) func(d *daemon) {
		return func(d *daemon) {
			m := d.more["Mounts"].([]any)[0].(map[string]any)
			for k, v := range change {
				m[k] = v
			}
		}
	}
	const data = "/digest?path=/data"
	tests := []struct {
		name, method, path string
		change             func(d *daemon)
		status             int
		says               string
	}{
		{"own", "GET", "web" + data, nil, 200, ""},
		{"by its ID", "GET", idWeb + "/digest?path=%2Fdata%2F", nil, 200, ""},
		{"another's", "GET", "db" + data, nil, 403, "container.copy.out is denied"},
		{"no container", "GET", "none" + data, nil, 404, "No such container"},
		{"as what is less than reading", "HEAD", "web" + data, nil, 405, ""},
		{"no path", "GET", "web/digest", nil, 400, "the path is missing"},
		{"another key", "GET", "web" + data + "&all=1", nil, 400, "all"},
		{"elsewhere", "GET", "web/digest?path=/etc", nil, 501, "no whole volume"},
		{"in it", "GET", "web/digest?path=/data/file", nil, 501, "no whole volume"},
		{"out of it", "GET", "web/digest?path=/data/..", nil, 501, "no whole volume"},
		{"a bind", "GET", "web" + data, mount(map[string]any{"Type": "bind"}), 501, "no whole volume"},
		{"another's driver", "GET", "web" + data, mount(map[string]any{"Driver": "nfs"}), 501, "no whole volume"},
		{"a volume that is another's", "GET", "web" + data, mount(map[string]any{"Source": "/etc"}), 501, "no whole volume"},
		{"a part", "GET", "web" + data, func(d *daemon) {
			d.more["HostConfig"] = map[string]any{"Mounts": []any{map[string]any{"Target": "/data", "VolumeOptions": map[string]any{"Subpath": "sub"}}}}
		}, 501, "no whole volume"},
		{"of another container", "GET", "web" + data, func(d *daemon) { d.more["HostConfig"] = map[string]any{"VolumesFrom": []string{"db"}} }, 501, "no whole volume"},
		{"under a tmpfs", "GET", "web" + data, func(d *daemon) { d.more["HostConfig"] = map[string]any{"Tmpfs": map[string]string{"/data/": ""}} }, 501, "no whole volume"},
		{"with a mount in it", "GET", "web" + data, func(d *daemon) {
			d.more["Mounts"] = append(d.more["Mounts"].([]any), map[string]any{"Type": "tmpfs", "Destination": "/data/in"})
		}, 501, "no whole volume"},
		{"a device", "GET", "web" + data, func(d *daemon) { d.volume["Options"] = map[string]any{"device": "/etc", "o": "bind"} }, 501, "no whole volume"},
		{"another volume", "GET", "web" + data, func(d *daemon) { d.volume["Name"] = "others" }, 501, "no whole volume"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := startGate(t, digestPolicy)
			dir := g.withVolume(t)
			if tt.change != nil {
				g.d.mu.Lock()
				tt.change(g.d)
				g.d.mu.Unlock()
			}
			status, body := do(t, g.client(t), tt.method, digestPrefix+tt.path, "")
			if status != tt.status || !strings.Contains(body, tt.says) {
				t.Fatalf("got %d %s, want %d %s", status, body, tt.status, tt.says)
			}
			want, err := treedigest.Of(dir, "data", func(int) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			if tt.status == 200 && body != `{"digest":"`+want+"\"}\n" || tt.status != 200 && strings.Contains(body, "sha256-sum") {
				t.Errorf("got %s, want %s", body, want)
			}
			if acted := g.d.acted(); len(acted) > 0 {
				t.Errorf("the daemon was asked %+v", acted)
			}
			ev := g.rec.all()
			if len(ev) != 1 || ev[0].Status != tt.status || tt.status == 200 && (ev[0].Action != "container.copy.out" || ev[0].Decision != Allowed || len(ev[0].IDs) != 1) || tt.status == 403 && ev[0].Decision != Denied {
				t.Errorf("recorded %+v", ev)
			}
		})
	}
}

// TestDigestUnmanaged: without any policy those get a digest whom the daemon would listen to.
func TestDigestUnmanaged(t *testing.T) {
	for gid, want := range map[int]int{os.Getgid(): 200, -1: 403} {
		if want == 403 && os.Geteuid() == 0 {
			continue // root passes always
		}
		g := startGate(t, "", func(o *Options) { o.GID = gid })
		g.withVolume(t)
		status, body := do(t, g.client(t), "GET", digestPrefix+"web/digest?path=/data", "")
		if status != want || strings.Contains(body, "sha256-sum") != (want == 200) {
			t.Errorf("group %d: got %d %s", gid, status, body)
		}
	}
}

// TestDigestUnreadable: what cannot be looked at is told in the answer, with the reason; a link in the place of a volume is not followed.
func TestDigestUnreadable(t *testing.T) {
	g := startGate(t, digestPolicy)
	dir := g.withVolume(t)
	if err := os.Rename(dir, dir+"-moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", dir); err != nil {
		t.Fatal(err)
	}
	c := g.client(t)
	for range 2 { // the connection goes on
		if status, body := do(t, c, "GET", digestPrefix+"web/digest?path=/data", ""); status != 200 || !strings.HasPrefix(body, `{"error":"`) {
			t.Errorf("got %d %s", status, body)
		}
	}
}

// TestDigestTakesLong: a look that takes its time tells how far it is, few are made at one time, and one whose caller
// has gone ends.
func TestDigestTakesLong(t *testing.T) {
	g := startGate(t, digestPolicy)
	dir := g.withVolume(t)
	if err := os.Truncate(filepath.Join(dir, "file"), 1<<40); err != nil { // a hole, which takes minutes
		t.Fatal(err)
	}
	c := g.client(t)
	var open []io.Closer
	for range digestsAtOnce {
		r, err := c.Get("http://docker" + digestPrefix + "web/digest?path=/data")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		open = append(open, r.Body)
		lines := bufio.NewScanner(r.Body)
		var was int64
		for range 2 {
			var at struct{ Bytes int64 }
			if !lines.Scan() || json.Unmarshal(lines.Bytes(), &at) != nil || at.Bytes <= was {
				t.Fatalf("after %d bytes: %q, %v", was, lines.Text(), lines.Err())
			}
			was = at.Bytes
		}
	}
	if status, body := do(t, c, "GET", digestPrefix+"web/digest?path=/data", ""); status != http.StatusTooManyRequests {
		t.Errorf("one more: %d %s", status, body)
	}
	for _, o := range open {
		o.Close()
	}
	for began := time.Now(); len(g.digests) > 0; {
		if time.Since(began) > 20*time.Second {
			t.Fatal("it goes on, and nobody listens")
		}
		<-time.After(10 * time.Millisecond)
	}
}

// TestPace: looks take their burst at once and a part of a processor from then, many small ones no more than one, and
// what comes back while there are none is no more than the burst.
func TestPace(t *testing.T) {
	var p pace // of a gate that has not looked yet
	now := time.Now()
	var used time.Duration
	for _, step := range []struct {
		what                string
		passed, used, early time.Duration
	}{
		{"the burst", digestBurst, digestBurst, 0},
		{"no more than its part", time.Second, time.Second, 3 * time.Second},
		{"after the wait", 3 * time.Second, 0, 0},
		{"after a disk that was slow", time.Minute, digestBurst, 0},
		{"at once", 0, time.Second, 4 * time.Second},
	} {
		now, used = now.Add(step.passed), used+step.used
		if got := p.early(now, used); got != step.early {
			t.Errorf("%s: got %v, want %v", step.what, got, step.early)
		}
	}

	const look = digestBurst / 5
	p = pace{}
	for i := range 10 { // small looks one after another share it, each by a thread of its own
		used := time.Duration(i) * time.Hour
		p.used = used
		now = now.Add(look)
		want := max(0, time.Duration(i+1)*look*digestShare-digestBurst*digestShare-time.Duration(i)*look)
		if got := p.early(now, used+look); got != want {
			t.Errorf("small look %d: got %v, want %v", i, got, want)
		}
	}

	for at, began := threadTime(), time.Now(); threadTime() == at; {
		if time.Since(began) > 20*time.Second {
			t.Fatal("the thread takes no time")
		}
	}
}
