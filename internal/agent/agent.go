package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/gate/factor"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/hostinfo"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/load"
	"github.com/belay-project/belay/internal/load/carry"
	"github.com/belay-project/belay/internal/output"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/programpages"
	"github.com/belay-project/belay/internal/telemetry"
	"github.com/belay-project/belay/internal/verdict"
	"github.com/belay-project/belay/internal/workload"
)

// ErrRunning is returned when another agent holds the run directory.
var ErrRunning = errors.New("another agent runs on this run directory")

// Agent is one running host agent.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	host     hostinfo.Info
	booted   bootTime
	since    time.Time
	lock     *os.File
	policies *policies
	kernel   *enforce.Enforcer
	journal  *journal.Journal
	records  string // directory of the journal
	health   *health.Registry
	binder   *binder
	manager  *manager
	sources  []workload.Source
	starts   chan startedContainer
	scripts  chan *enforce.Event
	levels   map[verdict.Rule]verdict.Level
	rules    atomic.Pointer[gateRuleSet]
	images   *images
	docker   *workload.Docker // nil: no engine is followed
	watcher  *load.Watcher    // how full the node is
	notifier *load.Notifier   // delivers its alerts
	cordon   cordon           // whether new containers start here
	ungated  bool             // it should and cannot; of stepCordon, which one goroutine runs
	nodes    nodes            // describes this node
	carrier  *carry.Carrier   // moves containers away; nil: its ledger cannot be read
	tickets  *ticket.Keeper   // nil without the authorisation plugin
	looks    looks
	skips    skips // of watchCanary
	own      own   // what the agent may take itself
	uses     *uses // which packages containers use

	telemetry *telemetry.Telemetry // nil: off
	outputs   *output.Outputs      // nil: none
	anchoring bool                 // the journal's heads are noted elsewhere; set before Run
	anchored  uint64               // number of the last anchor; of keepAnchored, and of Run after that
	opened    atomic.Bool          // all above is there to be observed
	guardMode atomic.Uint32        // in force: enforce.GuardMode
	listened  map[string]listened  // by socket; of setGuard, which one goroutine runs
	glass     bool                 // as setGuard found it last

	elevations factor.Elevations
	factor     atomic.Pointer[secondFactor] // nil while there is none
	tokens     *tokens

	// canaries is held during a test of whether a denial works; demand, before it, by who
	// asks for one over the control socket, so that askers cannot queue. Both are taken before manager.mu.
	demand, canaries sync.Mutex

	// mu guards canary. It is taken last.
	mu     sync.Mutex
	canary control.Canary
}

// Open builds an agent and puts its policies into the kernel: when it returns, every
// recognised container is under them, also those that ran before. Policies that the
// last agent knew are bound before the runtimes are asked.
//
// Errors: [ErrRunning]; [enforce.ErrUnsupported]; the policies' errors, if there are no
// last good ones.
func Open(cfg Config) (*Agent, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, log: cfg.Log, since: time.Now(), health: health.New(nil), starts: make(chan startedContainer, 1024), listened: map[string]listened{},
		scripts: make(chan *enforce.Event, 1024)}
	a.health.Expect("kernel", "policies", "journal")
	var err error
	if a.host, err = (hostinfo.Host{}).Info(); err != nil {
		return nil, fmt.Errorf("read the host's identity: %w", err)
	}
	// Callers of the gate pass through the run directory; each thing in it has a mode of its own.
	for dir, mode := range map[string]os.FileMode{cfg.RunDir: 0o751, cfg.StateDir: 0o750} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return nil, fmt.Errorf("make %s: %w", dir, err)
		}
	}
	if a.lock, err = lockDir(cfg.RunDir); err != nil {
		return nil, err
	}
	a.openOwn()
	if err := a.open(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	debug.FreeOSMemory() // reading the kernel's BTF took memory that is not needed again
	return a, nil
}

func (a *Agent) open() error {
	// What the configuration gets wrong is found before anything is attached.
	if _, err := groupID(a.cfg.SocketGroup); err != nil {
		return err
	}
	if a.cfg.AuthzSocket != "" {
		a.tickets = ticket.New(nil)
	}
	if err := a.openSources(); err != nil {
		return err
	}
	a.policies = &policies{dir: a.cfg.PolicyDir, shipped: a.cfg.ShippedDir, lastGood: a.cfg.lastGood()}
	if err := a.openTelemetry(); err != nil {
		return err
	}
	if err := a.openOutputs(); err != nil {
		return err
	}
	// Before the kernel side: a second agent on this state directory must leave nothing
	// attached behind.
	if err := a.openJournal(); err != nil {
		return err
	}
	if err := a.checkAnchor(); err != nil {
		return err
	}
	if err := a.openManager(); err != nil {
		return err
	}
	a.openTokens()
	a.openLoad()
	a.openMoves()
	if err := a.policies.load(false); err != nil {
		if a.policies.current() == nil {
			return fmt.Errorf("policies in %s: %w", a.cfg.PolicyDir, err)
		}
		a.log.Error("bad policies; the last good ones are in force", attr.Dir, a.cfg.PolicyDir, attr.Error, err.Error())
	}
	var err error
	a.kernel, err = enforce.Open(enforce.Options{
		PinDir: a.cfg.PinDir(), Backend: a.cfg.Backend, Scopes: a.cfg.Scopes, ReportAllowed: a.cfg.ReportAllowed,
		SignalSyscalls: a.cfg.SignalSyscalls, SetsFile: a.cfg.setsFile(),
		Floor: a.policies.current().Floor(), Build: buildPolicy(a.policies.current()), Log: a.log,
	})
	if err != nil {
		return err
	}
	a.levels = map[verdict.Rule]verdict.Level{}
	for _, l := range a.kernel.Levels() {
		a.levels[l.Rule] = l.Level
	}
	a.setGuard()
	a.setHost()
	a.binder = newBinder(a)
	if err := a.openImages(); err != nil {
		return err
	}
	a.openUses()
	if err := a.enact(); err != nil {
		return err
	}
	if a.policies.status().Error == "" {
		a.manager.recordEdits(nil)
	}
	if err := a.binder.recall(); err != nil {
		a.log.Warn("containers known to the last agent", attr.Error, err.Error())
	}
	if err := a.testCanary(); err != nil {
		return err
	}
	if err := a.kernel.LookBack(); err != nil { // it is tried again; the containers are bound, and have what they had open
		a.log.Warn("descriptors that containers opened before their rules could not be looked at", attr.Error, err.Error())
	}
	return a.kernel.Replace()
}

// openJournal opens the journal. A state directory that takes no records, such as one
// on a full disk, does not keep the agent from enforcing: the records go into the run
// directory then, and status says so.
func (a *Agent) openJournal() error {
	a.records = a.cfg.journalDir()
	var err error
	a.journal, err = journal.Open(journal.Options{Dir: a.records, MaxBytes: a.cfg.JournalBytes, Tap: a.tap()})
	switch {
	case errors.Is(err, journal.ErrLocked):
		return fmt.Errorf("%w; stop the agent that uses it, or use another --state-dir", err)
	case err != nil:
		a.log.Error("the state directory takes no journal; records go to the run directory until the next start",
			attr.Dir, a.records, attr.Error, err.Error())
		a.health.SetDegraded("journal", err.Error())
		a.records = filepath.Join(a.cfg.RunDir, "journal")
		a.journal, err = journal.Open(journal.Options{Dir: a.records, MaxBytes: 16 << 20, Tap: a.tap()})
		return err
	}
	a.health.SetOK("journal")
	return nil
}

func buildPolicy(s *policy.Set) *policy.Effective {
	return s.Effective(policy.Subject{Class: policy.ClassBuild})
}

// enact puts the current policies into the kernel: the floor, and each container's own.
func (a *Agent) enact() error {
	refused, err := a.policies.refuse(a.levels)
	if err != nil {
		return err
	}
	set := a.policies.current()
	if err := a.kernel.SetFloor(set.Floor(), buildPolicy(set)); err != nil {
		return fmt.Errorf("put the policies into the kernel: %w", err)
	}
	a.images.policiesChanged()
	helpers, ignored := a.policies.helpers()
	absent, err := a.kernel.SetHelpers(helpers)
	if err != nil {
		return err
	}
	if err := a.binder.rebind(); err != nil {
		return err
	}
	a.watcher.SetPolicies(set.LoadPolicies())
	a.policies.keep()
	switch {
	case refused && len(set.Policies()) == 0:
		a.health.SetFailed("policies", "every policy requires a level that this host does not give; see belay status")
	case refused:
		a.health.SetDegraded("policies", "a policy requires a level that this host does not give; see belay status")
	case len(absent) > 0:
		a.health.SetDegraded("policies", fmt.Sprintf("exec.runtimeHelpers names files that do not exist: %q", absent))
	case len(ignored) > 0:
		a.health.SetDegraded("policies", fmt.Sprintf("exec.runtimeHelpers is not applied from policies with a selector: %q; "+
			"helpers hold for the whole host: name them in a policy without one", ignored))
	case a.policies.status().Error != "":
		a.health.SetDegraded("policies", a.policies.status().Error)
	case a.policies.notKept() != "":
		a.health.SetDegraded("policies", a.policies.notKept())
	default:
		a.health.SetOK("policies")
	}
	return nil
}

func (a *Agent) openSources() error {
	if a.cfg.DockerHost != "none" {
		d, err := workload.NewDocker(workload.DockerOptions{Host: a.cfg.DockerHost, Sign: a.sign(), Log: a.log})
		if err != nil {
			return err
		}
		a.sources, a.docker = append(a.sources, d), d
	}
	if a.cfg.Containerd != "" {
		a.sources = append(a.sources, workload.NewContainerd(workload.ContainerdOptions{
			Address: a.cfg.Containerd, SkipMoby: a.cfg.DockerHost != "none", Log: a.log,
		}))
	}
	return nil
}

// Run serves until ctx ends, then returns nil. Enforcement goes on after it.
func (a *Agent) Run(ctx context.Context) error {
	gid, err := groupID(a.cfg.SocketGroup)
	if err != nil {
		return err
	}
	srv, err := control.Listen(a, control.Options{Path: a.cfg.Socket(), GID: gid, Manage: a.manageOptions(), Tokens: a.tokens, Log: a.log})
	if err != nil {
		return err
	}
	var users *control.Server
	if a.cfg.UsersGroup != "" {
		if users, err = a.listenUsers(); err != nil {
			return errors.Join(err, srv.Close())
		}
	}
	// They send also what is noted at the end.
	defer a.runTelemetry(ctx)()
	defer a.runOutputs(ctx)()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.journal.Run(ctx) })
	g.Go(func() error { return a.kernel.Run(ctx, a.record) })
	g.Go(func() error { return srv.Run(ctx) })
	if users != nil {
		g.Go(func() error { return users.Run(ctx) })
	}
	g.Go(func() error { return a.binder.keep(ctx) })
	g.Go(func() error { return a.images.run(ctx) })
	g.Go(func() error { a.uses.run(ctx); return nil })
	g.Go(func() error { return a.watchPolicies(ctx) })
	g.Go(func() error { return a.watchCanary(ctx) })
	g.Go(func() error { return a.watchGuard(ctx) })
	g.Go(func() error { return a.followStarts(ctx) })
	g.Go(func() error { return a.followScripts(ctx) })
	g.Go(func() error { return a.reportLosses(ctx) })
	g.Go(func() error { return a.watchOwn(ctx) })
	g.Go(func() error { a.settle(ctx); return nil })
	if a.anchoring {
		g.Go(func() error { a.keepAnchored(ctx); return nil })
	}
	g.Go(func() error { return a.watcher.Run(ctx) })
	g.Go(func() error { return a.notifier.Run(ctx) })
	g.Go(func() error { a.followLoad(ctx); return nil })
	if a.carrier != nil {
		g.Go(func() error { return a.carrier.Run(ctx) })
	}
	if a.cfg.gate() {
		g.Go(func() error { a.runGate(ctx, a.handedOver(), gateRetry); return nil })
		g.Go(func() error { a.serveFactor(ctx); return nil })
		if a.tickets != nil {
			g.Go(func() error { a.runPlugin(ctx); return nil })
		}
	} else {
		a.leaveGate()
	}
	if a.cfg.scannerWanted() {
		g.Go(func() error { a.runScans(ctx); return nil })
	}
	for _, s := range a.sources {
		g.Go(func() error { return s.Run(ctx, a.binder.apply) })
	}
	a.log.Info("enforcing", attr.Backend, string(a.kernel.Backend()), attr.Revision, a.policies.current().Revision())
	if err := notifySystemd("READY=1"); err != nil {
		a.log.Warn("systemd was not told", attr.Error, err.Error())
	}
	a.note("agent started, policy revision " + a.policies.current().Revision())
	err = g.Wait()
	a.note("agent stopped; what it enforced stays enforced")
	a.anchor() // nothing is left that could be written anew unseen
	a.log.Info("stopped; what was enforced stays enforced until belay-agent run --unload")
	return err
}

// settleAfter is when the runtimes have been listed and the containers that run are bound.
const settleAfter = 3 * time.Second

// settle gives the system back what only the start needed, once.
func (a *Agent) settle(ctx context.Context) {
	t := time.NewTimer(settleAfter)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
		debug.FreeOSMemory()
		if err := programpages.Drop(); err != nil {
			a.log.Warn("pages of the program that only the start needed stay mapped", attr.Error, err.Error())
		}
	}
}

// Close gives back what the process holds. The kernel side stays, and enforces.
func (a *Agent) Close() error {
	errs := []error{a.telemetry.Close()}
	if a.kernel != nil {
		errs = append(errs, a.kernel.Close())
	}
	if a.journal != nil {
		errs = append(errs, a.journal.Close())
	}
	if a.own.cap != nil {
		errs = append(errs, a.own.cap.Release())
	}
	if a.lock != nil {
		errs = append(errs, a.lock.Close())
	}
	return errors.Join(errs...)
}

// groupID returns the number of a group, 0 for none.
func groupID(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("group of the control socket: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w; stop it, or use another --run-dir", dir, ErrRunning)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}
