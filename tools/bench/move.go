package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/load/engine"
	"github.com/belay-project/belay/internal/load/move"
	"github.com/belay-project/belay/internal/load/recreate"
	"github.com/belay-project/belay/tools/lab"
)

const moveText = `
Moves between two private engines of this machine. Unavailability is the longest time between two answers of a web server that is asked
without a pause, by a client that goes where the hook says, or, without one, to the copy as soon as the source refuses it;
beside it the longest of a calm while. A volume of one file and 1,000 small ones is copied by a move (its step ` + "`copy`" + `, which compares both sides too), to a gate and to a plain engine, and by
` + "`tar | tar`" + ` between the same two folders, and by ` + "`docker cp | docker cp`" + `, the engines' own pipe. The whole move has its least
possible settle time, and is held against ` + "`docker save | docker load`" + ` and a ` + "`docker run`" + `. Medians of five, taken in turn.
`

// moveRounds is how often each side is measured.
const moveRounds = 5

// moves are two engines, with a mover between them.
type moves struct {
	b        *bench
	from, to *lab.Engine
}

const (
	moveImage = "bench/web:1"
	moveName  = "web"
)

func moveTimes(ctx context.Context, b *bench) (out []figure, err error) {
	l, err := lab.New(lab.Options{Name: "bench-move", Source: b.source, BinDir: b.bin})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	m := &moves{b: b}
	if m.from, err = l.StartEngine(ctx, "a"); err != nil {
		return nil, err
	}
	if m.to, err = l.StartEngine(ctx, "b"); err != nil {
		return nil, err
	}
	bb, err := lab.Busybox()
	if err != nil {
		return nil, err
	}
	ballast := make([]byte, 128<<20)
	_, _ = rand.Read(ballast) // never fails: crypto/rand
	files := []lab.File{
		lab.Program("bin/busybox", bb), {Name: "data/", Mode: 0o755}, {Name: "www/", Mode: 0o755},
		{Name: "www/index.html", Mode: 0o644, Body: []byte("hello\n")}, {Name: "ballast", Mode: 0o644, Body: ballast},
	}
	if err := m.from.Import(ctx, moveImage, files, `CMD ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"]`); err != nil {
		return nil, err
	}
	out = append(out, plain("Engine", "%s, %s", m.from.Version, m.from.Driver))
	for _, measure := range []func(context.Context) ([]figure, error){m.whole, m.unavailable, m.volume} {
		f, err := measure(ctx)
		out = append(out, f...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// docker runs commands on an engine, and fails with the first that does.
func docker(ctx context.Context, e *lab.Engine, commands ...string) error {
	for _, c := range commands {
		if r := e.Docker(ctx, strings.Fields(c)...); r.Code != 0 {
			return r.Err()
		}
	}
	return nil
}

// clear removes the container on both engines, and on the target the image and the volume.
func (m *moves) clear(ctx context.Context) error {
	for _, e := range []*lab.Engine{m.from, m.to} {
		if ids := strings.Fields(e.Docker(ctx, "ps", "-aq").Stdout); len(ids) > 0 {
			if err := docker(ctx, e, "rm -f "+strings.Join(ids, " ")); err != nil {
				return err
			}
		}
	}
	for _, c := range []string{"volume rm -f records", "image rm -f " + moveImage} {
		m.to.Docker(ctx, strings.Fields(c)...) // it may not be there
	}
	return nil
}

// move moves the container to an address of the target, and tells of each point of it.
func (m *moves) move(ctx context.Context, to string, s move.Settings, at func(point string), hook func([]byte)) error {
	s.Image, s.Settle, s.Healthy, s.Keep = "stream", time.Millisecond, time.Minute, time.Hour
	dir, err := os.MkdirTemp(m.b.dir, "moves-")
	if err != nil {
		return err
	}
	o := move.Options{Dir: dir, At: at, RunHook: func(_ context.Context, _ string, _ []string, input []byte, _ time.Duration) error {
		hook(input)
		return nil
	}}
	_, err = move.New(o).Move(ctx, moveName, engine.Address{URL: m.from.Host()}, engine.Address{URL: to}, s)
	return err
}

// whole measures a move with its image against what an operator would type.
func (m *moves) whole(ctx context.Context) ([]figure, error) {
	var moved, typed []float64
	for range moveRounds {
		if err := m.clear(ctx); err != nil {
			return nil, err
		}
		if err := docker(ctx, m.from, "run -d --stop-signal KILL --name "+moveName+" "+moveImage); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := m.move(ctx, m.to.Host(), move.Settings{}, nil, nil); err != nil {
			return nil, err
		}
		moved = append(moved, time.Since(began).Seconds())
		if err := m.clear(ctx); err != nil {
			return nil, err
		}
		began = time.Now()
		if err := pipe(m.from.Client(m.from.Socket, 0).Command(ctx, "save", moveImage), m.to.Client(m.to.Socket, 0).Command(ctx, "load")); err != nil {
			return nil, err
		}
		if err := docker(ctx, m.to, "run -d --name "+moveName+" "+moveImage); err != nil {
			return nil, err
		}
		typed = append(typed, time.Since(began).Seconds())
	}
	return []figure{
		plain("An image of 128 MiB: docker save, load and run", "%.2f s", median(typed)),
		plain("… the whole move", "%.2f s", median(moved)),
		atMost("… by that", median(moved)/median(typed), 1.10, "%.2f"),
	}, nil
}

// pipe has one command write what the other reads.
func pipe(from, to *exec.Cmd) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	var saidFrom, saidTo bytes.Buffer
	from.Stdout, from.Stderr, to.Stdin, to.Stderr = w, &saidFrom, r, &saidTo
	err = to.Start()
	r.Close()
	if err != nil {
		return errors.Join(err, w.Close())
	}
	err = from.Start()
	w.Close()
	if err == nil {
		err = from.Wait()
	}
	if err = errors.Join(err, to.Wait()); err != nil {
		return fmt.Errorf("%w: %s%s", err, saidFrom.String(), saidTo.String())
	}
	return nil
}

// client asks a web server without a pause, and knows the longest time without an answer.
type client struct {
	where atomic.Pointer[place]
	next  atomic.Pointer[place] // asked as well where there is no answer; nil: none
	sent  int
	lost  int
	gap   time.Duration
}

type place struct {
	e    *lab.Engine
	addr string
}

func placeOf(ctx context.Context, e *lab.Engine) (*place, error) {
	r := e.Docker(ctx, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", moveName)
	if r.Code != 0 {
		return nil, r.Err()
	}
	return &place{e, strings.TrimSpace(r.Stdout) + ":80"}, nil
}

func (p *place) answers() bool {
	c, err := p.e.Dial(p.addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

func (c *client) run(ctx context.Context) {
	for last := time.Now(); ctx.Err() == nil; c.sent++ {
		ok := c.where.Load().answers()
		if next := c.next.Load(); !ok && next != nil {
			ok = next.answers()
			c.where.Store(next)
		}
		if !ok {
			c.lost++
			continue
		}
		c.gap = max(c.gap, time.Since(last))
		last = time.Now()
	}
}

// asked returns what a client has seen while f did its work.
func (m *moves) asked(ctx context.Context, f func(c *client) error) (*client, error) {
	p, err := placeOf(ctx, m.from)
	if err != nil {
		return nil, err
	}
	for !p.answers() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	c := new(client)
	c.where.Store(p)
	asking, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { c.run(asking) })
	err = f(c)
	stop()
	wg.Wait()
	return c, err
}

// unavailable measures for how long nobody answers, with a hook and without one.
func (m *moves) unavailable(ctx context.Context) ([]figure, error) {
	var calm, start, hooked, bare []float64
	lost, sent := 0, 0
	for range moveRounds {
		for _, hook := range []bool{true, false} {
			if err := m.clear(ctx); err != nil {
				return nil, err
			}
			began := time.Now()
			if err := docker(ctx, m.from, "run -d --stop-signal KILL --name "+moveName+" "+moveImage); err != nil {
				return nil, err
			}
			start = append(start, time.Since(began).Seconds()*1000)
			still, err := m.asked(ctx, func(*client) error { wait(ctx, time.Second); return nil })
			if err != nil {
				return nil, err
			}
			calm = append(calm, still.gap.Seconds()*1000)
			c, err := m.asked(ctx, func(c *client) error { return m.moveUnder(ctx, c, hook) })
			if err != nil {
				return nil, err
			}
			if !hook {
				bare = append(bare, c.gap.Seconds()*1000)
				continue
			}
			hooked = append(hooked, c.gap.Seconds()*1000)
			lost, sent = lost+c.lost, sent+c.sent
		}
	}
	startUp := median(start)
	return []figure{
		plain("The longest time between two answers in a calm second", "%.1f ms", median(calm)),
		plain("… in a move with a hook", "%.1f ms", median(hooked)),
		atMost(fmt.Sprintf("… requests lost in it, of %d", sent), float64(lost), 0, "%.0f"),
		plain("docker run of the server", "%.0f ms", startUp),
		atMost("The longest time between two answers in a move without a hook", median(bare), startUp+200, "%.0f ms"),
	}, nil
}

// moveUnder moves the container while a client asks it.
func (m *moves) moveUnder(ctx context.Context, c *client, hook bool) (err error) {
	s := move.Settings{}
	if hook {
		s.Hook, s.Drain = []string{"/lb"}, 500*time.Millisecond
	}
	var other error
	err = m.move(ctx, m.to.Host(), s, func(point string) {
		if point == string(move.StepHealthy)+"/end" && !hook {
			var p *place
			if p, other = placeOf(ctx, m.to); other == nil {
				c.next.Store(p)
			}
		}
	}, func(input []byte) {
		var in struct {
			Target struct{ Addresses map[string]string }
		}
		other = json.Unmarshal(input, &in)
		for _, a := range in.Target.Addresses {
			c.where.Store(&place{m.to, a + ":80"})
		}
	})
	return errors.Join(err, other)
}

// volume measures the copy of a volume against pipes of other programs.
func (m *moves) volume(ctx context.Context) ([]figure, error) {
	var ours, gated, tar, cp []float64
	if err := m.clear(ctx); err != nil {
		return nil, err
	}
	gate := filepath.Join(m.b.dir, "move-gate.sock")
	stop, err := openGate(gate, m.to.Socket)
	if err != nil {
		return nil, err
	}
	defer stop()
	if err := docker(ctx, m.from, "volume create records"); err != nil {
		return nil, err
	}
	dir := func(e *lab.Engine, volume string) string {
		return filepath.Join(filepath.Dir(e.Socket), "data", "volumes", volume, "_data")
	}
	if err := fill(dir(m.from, "records")); err != nil {
		return nil, err
	}
	for range moveRounds {
		for _, to := range []struct {
			url   string
			times *[]float64
		}{{"unix://" + gate, &gated}, {m.to.Host(), &ours}} {
			took, err := m.copied(ctx, to.url)
			if err != nil {
				return nil, err
			}
			*to.times = append(*to.times, took)
		}
		if err := docker(ctx, m.to, "volume create plain", "create --name plain -v plain:/data "+moveImage); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := pipe(exec.CommandContext(ctx, "tar", "-C", dir(m.from, "records"), "-c", "."), exec.CommandContext(ctx, "tar", "-C", dir(m.to, "plain"), "-x")); err != nil {
			return nil, err
		}
		tar = append(tar, time.Since(began).Seconds())
		if err := docker(ctx, m.to, "rm plain", "volume rm plain", "volume create plain", "create --name plain -v plain:/data "+moveImage); err != nil {
			return nil, err
		}
		kept := strings.Fields(m.from.Docker(ctx, "ps", "-aq").Stdout)
		began = time.Now()
		if err := pipe(m.from.Client(m.from.Socket, 0).Command(ctx, "cp", kept[0]+":/data/.", "-"), m.to.Client(m.to.Socket, 0).Command(ctx, "cp", "-", "plain:/data")); err != nil {
			return nil, err
		}
		cp = append(cp, time.Since(began).Seconds())
		if err := docker(ctx, m.to, "rm plain", "volume rm plain"); err != nil {
			return nil, err
		}
	}
	return []figure{
		plain("A volume of 260 MiB: tar to tar", "%.2f s", median(tar)),
		plain("… docker cp to docker cp", "%.2f s", median(cp)),
		plain("… the copy of a move to a plain engine, compared on both sides", "%.2f s", median(ours)),
		plain("… its speed by that of tar to tar", "%.2f", median(tar)/median(ours)),
		atLeast("… its speed by that of docker cp to docker cp", median(cp)/median(ours), 0.8, "%.2f"),
		plain("… the copy of a move to a gate, which compares it there", "%.2f s", median(gated)),
		plain("… its speed by that of tar to tar", "%.2f", median(tar)/median(gated)),
		atLeast("… its speed by that of docker cp to docker cp", median(cp)/median(gated), 0.8, "%.2f"),
	}, nil
}

// copied moves the container with its volume to an address of the target, and returns how many seconds the copy took.
func (m *moves) copied(ctx context.Context, to string) (took float64, err error) {
	if err := m.clear(ctx); err != nil {
		return 0, err
	}
	if err := docker(ctx, m.from, "run -d --stop-signal KILL --name "+moveName+" -v records:/data "+moveImage); err != nil {
		return 0, err
	}
	var began time.Time
	err = m.move(ctx, to, move.Settings{Rules: recreate.Rules{CopyVolumes: true}}, func(point string) {
		switch point {
		case string(move.StepCopy) + "/begin":
			began = time.Now()
		case string(move.StepCopy) + "/end":
			took = time.Since(began).Seconds()
		}
	}, nil)
	return took, err
}

// openGate opens a gate without policies before an engine.
func openGate(socket, upstream string) (stop func(), err error) {
	g, err := proxy.Listen(proxy.Options{Upstream: upstream, Socket: socket, Workload: hostOnly{}})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Run(ctx) })
	return func() { cancel(); wg.Wait(); g.Close() }, nil
}

// fill writes a file of 256 MiB and 1,000 of 4 KiB.
func fill(dir string) error {
	buf := make([]byte, 256<<20)
	_, _ = rand.Read(buf) // never fails: crypto/rand
	if err := os.WriteFile(filepath.Join(dir, "big"), buf, 0o600); err != nil {
		return err
	}
	i := 0
	for small := range slices.Chunk(buf[:1000*4096], 4096) {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("small-%d", i)), small, 0o600); err != nil {
			return err
		}
		i++
	}
	return nil
}
