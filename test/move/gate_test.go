package move

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/move"
)

// noContainers says that nobody is in a container, wherever the tests run.
type noContainers struct{}

func (noContainers) ContainerOf(string) (string, bool) { return "", false }
func (noContainers) Describe(*apicall.Subject)         {}

// reads counts how often a gate was asked for what is in a container.
type reads struct{ atomic.Int64 }

// Record implements [proxy.Recorder].
func (r *reads) Record(ev *proxy.Event) {
	if ev.Method == "GET" && ev.Action == "container.copy.out" {
		r.Add(1)
	}
}

// TestComparedByGate: the gate of a target finds the digest that the source's engine has sent, whatever is in a volume, and
// nothing is read back over it.
func TestComparedByGate(t *testing.T) {
	w := need(t)
	socket, asked, counts := filepath.Join(t.TempDir(), "gate.sock"), new(reads), health.New(nil)
	g, err := proxy.Listen(proxy.Options{Upstream: w.to.Socket, Socket: socket, Workload: noContainers{}, Recorder: asked, Health: counts})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		g.Close()
	})
	name := w.run(t, "db", "-v", "records:/data", "-v", "/anon", image)
	ok(t, w.from, "exec", name, "sh", "-c", `cd /anon && busybox mkdir -p a/b a.d empty && echo x >a/b/z && busybox chown 7:8 a/b/z && busybox chmod 4751 a/b/z &&
		busybox ln a/b/z a.d/z && busybox ln a/b/z first && busybox ln -s ../gone soft && busybox ln -s /etc root && busybox mknod null c 1 3 && busybox mkfifo pipe && busybox chmod 1777 empty &&
		echo 'öé' >'a/ñ b' && busybox dd if=/dev/urandom of=big bs=64k count=40 2>/dev/null && busybox touch -d '2001-02-03 04:05:06' 'a/ñ b'`)
	from, _ := addresses(w)
	j, err := move.New(move.Options{Dir: t.TempDir()}).Move(t.Context(), name, from, engine.Address{URL: "unix://" + socket}, with(quick, volumes))
	if err != nil {
		t.Fatal(err)
	}
	if n := counts.Counter("gate_volume_digests").Load(); n != 2 || len(j.Volumes) != 2 {
		t.Errorf("%d digests of %d volumes", n, len(j.Volumes))
	}
	if n := asked.Load(); n != 2 { // for the digests
		t.Errorf("%d archives were read back", n-2)
	}
}
