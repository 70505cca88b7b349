// Command demo shows on this machine what Belay promises: real containers of a real
// Docker Engine try what the shipped policy forbids, and a table says what came of it.
//
// It owns a private directory, the engines and agents that it starts there, and their
// cgroups; it leaves nothing behind and touches no engine that is already running. It
// exits with 0 if every promise was kept. Row: commands.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

type options struct {
	lab     lab.Options
	json    string
	short   bool
	prepare bool
	color   bool
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		os.Exit(2)
	}
	// The first interrupt ends the scene that is played; tidying up takes a moment and
	// is not interrupted by the next.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := demo(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	f.StringVar(&o.lab.BinDir, "bin", "", "folder with belay-agent and belay (default: they are built)")
	f.StringVar(&o.lab.Docker, "docker", "", "docker command (default: the distribution's, or $"+lab.ModernEngineEnv+")")
	f.StringVar(&o.lab.Dockerd, "dockerd", "", "docker daemon; containerd and runc are looked for beside it first")
	f.StringVar(&o.lab.Backend, "backend", "auto", "auto, lsm, modret or signal")
	f.StringVar(&o.lab.TempDir, "tmp", "", "where to work; not on an overlay (default: the system's)")
	f.StringVar(&o.lab.Source, "source", "", "root of the source tree (default: found from here)")
	f.StringVar(&o.json, "json", "", "also write the results to this file")
	f.BoolVar(&o.short, "short", false, "one scene of each kind, for slow machines")
	f.BoolVar(&o.prepare, "prepare", false, "only fetch what the demo needs from the network, into the cache")
	f.BoolVar(&o.color, "color", os.Getenv("NO_COLOR") == "" && terminal(os.Stdout), "use colours")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		fmt.Fprintf(f.Output(), "demo takes no arguments, got %q\n", f.Args())
		return o, flag.ErrHelp
	}
	o.lab.Name, o.lab.Log = "demo", os.Stderr
	return o, nil
}

func terminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

func demo(ctx context.Context, o options, out io.Writer) (err error) {
	start := time.Now()
	l, err := lab.New(o.lab)
	if err != nil {
		return err
	}
	defer func() {
		if ctx.Err() != nil {
			fmt.Fprintln(os.Stderr, "interrupted; tidying up")
		}
		cerr := errors.Join(removeSpec(l), l.Close())
		if left := l.Leftovers(); len(left) > 0 && cerr == nil {
			cerr = fmt.Errorf("left behind: %q", left)
		}
		if err == nil {
			err = cerr
		} else if cerr != nil {
			fmt.Fprintln(os.Stderr, "demo: tidying up:", cerr)
		}
	}()
	if o.prepare {
		_, err := l.SSHTree(ctx)
		return err
	}
	s, err := setUp(ctx, l, o)
	if err != nil {
		return err
	}
	t := newTable(out, o.color)
	t.header(s)
	for _, p := range phases {
		if err := s.play(ctx, p, t); err != nil {
			return err
		}
	}
	t.total(time.Since(start))
	if o.json != "" {
		if err := t.writeJSON(o.json, s); err != nil {
			return err
		}
	}
	if t.broken > 0 {
		return fmt.Errorf("%d promises broken", t.broken)
	}
	return nil
}
