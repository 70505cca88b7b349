package move

import (
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/move"
	"github.com/belay-project/belay/internal/load/recreate"
	"github.com/belay-project/belay/tools/lab"
)

// exposed is [image] that says of a port that it is listened on: engines refuse to be told so of a container in another's network.
const exposed = "move/exposed:1"

// runGroup starts a database with a volume, and beside it a program in its network and process namespaces that also has the volume,
// and one that links to it and has its volumes. The second writes, and has acknowledged what its log says.
func (w *world) runGroup(t *testing.T) {
	t.Helper()
	w.run(t, "db", "--restart", "always", "-v", "records:/data", image)
	made := ok(t, w.from, "create", image)
	ok(t, w.from, "commit", "--change", "EXPOSE 80", made, exposed)
	ok(t, w.from, "rm", made)
	w.run(t, "writer", "--restart", "always", "--network", "container:db", "--pid", "container:db", "-v", "records:/data", exposed,
		"sh", "-c", "until wget -q -O /dev/null http://127.0.0.1/; do sleep 1; done; i=0; while :; do i=$((i+1)); wget -q -O - http://127.0.0.1/cgi-bin/append?$i || exit 1; done")
	w.run(t, "app", "--restart", "always", "--link", "db:store", "--volumes-from", "db:ro", image)
	eventually(t, func() bool { return strings.Contains(w.from.Docker(t.Context(), "logs", "writer").Stdout, "ok 5") })
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to that")
		}
	}
}

// group is how the containers of [world.runGroup] are named to a mover, whoever needs another before it.
var group = []string{"writer", "app", "db"}

// TestGroup: containers that share namespaces, a volume and a link move as one: there are never two writers, and all that was
// acknowledged is there. They go back as one too.
func TestGroup(t *testing.T) {
	w := need(t)
	w.runGroup(t)
	from, to := addresses(w)
	if _, err := move.New(move.Options{Dir: t.TempDir()}).Look(t.Context(), "db", from, to, with(quick, volumes)); err == nil || !strings.Contains(err.Error(), "belay move with both names") {
		t.Errorf("one of them alone: %v", err)
	}
	stop := twoWriters(t, w)
	o := move.Options{Dir: t.TempDir()}
	j, err := move.New(o).Move(t.Context(), group[0], from, to, with(quick, volumes), group[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	if n := stop(); n != 0 {
		t.Errorf("two writers were seen %d times", n)
	}
	if j.Names() != "db, writer, app" {
		t.Errorf("they start as %s", j.Names())
	}
	w.checkGroup(t, true)
	log := "\n" + ok(t, w.to, "exec", "db", "cat", "/data/log") + "\n"
	for line := range strings.Lines(w.from.Docker(t.Context(), "logs", "writer-moved-"+j.ID[:8]).Stdout) {
		if n, is := strings.CutPrefix(strings.TrimSpace(line), "ok "); is && !strings.Contains(log, "\n"+n+"\n") {
			t.Errorf("%s was acknowledged, and is lost", n)
		}
	}
	eventually(t, func() bool { return strings.Contains(w.to.Docker(t.Context(), "logs", "writer").Stdout, "ok 5") })
	if got := ok(t, w.to, "exec", "app", "wget", "-q", "-O", "-", "http://store/"); got != "hello" {
		t.Errorf("by its link: %q", got)
	}
	if r := w.to.Docker(t.Context(), "exec", "app", "sh", "-c", "echo x >/data/x"); r.Code == 0 {
		t.Error("it may write to a volume that it could only read")
	}
	if _, err := move.New(o).Abort(t.Context(), j.ID, move.Allow{LoseWrites: true}); err != nil {
		t.Fatal(err)
	}
	w.checkGroup(t, false)
}

// checkGroup checks that all of the group run on one side alone, with their restart policies, and nothing is left of the move.
func (w *world) checkGroup(t *testing.T, moved bool) {
	t.Helper()
	here, other := w.from, w.to
	if moved {
		here, other = w.to, w.from
	}
	if w.live(other) {
		t.Error("something runs on the other side")
	}
	for _, name := range group {
		if !w.running(here, name) || w.restart(t, here, name) != "always" {
			t.Errorf("%s does not run, or has another restart policy", name)
		}
		c, err := w.api(here).Container(t.Context(), name)
		if err == nil && moved != (c.Config.Labels[recreate.LabelMove] != "") {
			t.Errorf("%s is another than it should be", name)
		}
	}
	for _, e := range []*lab.Engine{w.from, w.to} {
		list, err := w.api(e).Containers(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			if list[i].Labels[recreate.LabelHelper] != "" {
				t.Errorf("left: %s", list[i].Names)
			}
		}
	}
	for _, api := range []*engine.Engine{w.fromAPI, w.toAPI} {
		list, err := api.Volumes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			if strings.HasPrefix(list[i].Name, "belay-move-") {
				t.Errorf("left: volume %s", list[i].Name)
			}
		}
	}
}

// TestGroupKilled ends the mover of a group between its containers, and carries it on.
func TestGroupKilled(t *testing.T) {
	w := need(t)
	for _, point := range []string{"create/made", "stop-source/member", "copy/volume", "start/member", "keep/member"} {
		t.Run(point, func(t *testing.T) {
			w.runGroup(t)
			s := with(quick, volumes)
			s.Settle, s.Keep = 100*time.Millisecond, 0
			j := job{Dir: t.TempDir(), Container: group[0], With: group[1:], From: w.from.Host(), To: w.to.Host(), KillAt: point, Settings: s}
			stop := twoWriters(t, w)
			if out, killed := mover(t, j); !killed {
				t.Fatalf("the mover was not ended: %s", out)
			}
			_, err := move.New(move.Options{Dir: j.Dir}).Resume(t.Context(), only(t, j.Dir).ID)
			if n := stop(); n != 0 {
				t.Errorf("two writers were seen %d times", n)
			}
			if err != nil {
				t.Fatal(err)
			}
			w.checkGroup(t, true)
			if out := ok(t, w.from, "ps", "-aq"); out != "" {
				t.Errorf("left on the source: %s", out)
			}
		})
	}
}
