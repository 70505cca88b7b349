package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/peer"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/ci"
	"github.com/belay-project/belay/internal/scan/containerd"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/layercache"
	"github.com/belay-project/belay/internal/scan/registry"
	"github.com/belay-project/belay/internal/scan/report"
	scantarget "github.com/belay-project/belay/internal/scan/target"
	"github.com/belay-project/belay/internal/scan/vulndb"
	"github.com/belay-project/belay/internal/telemetry"
	"github.com/belay-project/belay/internal/workload"
)

const (
	// scansRetry is the time between two tries to open the scan API.
	scansRetry = 10 * time.Second
	// scanMatchTime bounds the matching of one image: what it holds may be made to take long.
	scanMatchTime = 2 * time.Minute
	// maxScanConns is how many TCP connections the scan API has at a time.
	maxScanConns = 64
)

// scannerWanted tells whether this agent offers scans at all.
func (c *Config) scannerWanted() bool {
	path, err := c.scannerPath()
	return err == nil && path != ""
}

// runScans serves the scan API until ctx ends. Whatever happens to it, enforcement goes on: it
// reports to health and tries again.
func (a *Agent) runScans(ctx context.Context) {
	for ctx.Err() == nil {
		if err := a.serveScans(ctx); err != nil {
			a.health.SetFailed("scan_api", err.Error())
			a.log.Error("the scan API is closed", attr.Error, err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(scansRetry):
		}
	}
}

func (a *Agent) serveScans(ctx context.Context) error {
	id := &peer.Identifier{Workload: gateWorkload{a}}
	gid := 0
	if g := a.cfg.ScansGroup; g != "" && g != "*" {
		var err error
		if gid, err = groupID(g); err != nil {
			return err
		}
		if gid == 0 {
			return fmt.Errorf("--scans-group %s: that is the group of root, which needs none", g)
		}
	}
	svc, err := ci.Open(ci.Options{
		Access: scanAccess{a.manager}, Images: newScanImages(a), Identify: id.Of, Verify: a.tokens.Verify,
		Dir: a.cfg.scansDir(), Registries: a.cfg.ScanRegistries, WebhookHosts: a.cfg.ScanWebhookHosts, Version: a.cfg.Version,
		Database: a.databaseAsOf, Health: a.health, Log: a.log,
	})
	if err != nil {
		return err
	}
	l, release, err := control.ListenShared(a.cfg.scansSocket(), gid, a.cfg.ScansGroup == "*", id.Of)
	if err != nil {
		return err
	}
	listeners := []net.Listener{l}
	if a.cfg.ScanTLS != nil {
		t, err := a.listenScansTLS()
		if err != nil {
			return errors.Join(err, release())
		}
		listeners = append(listeners, t)
	}
	a.health.SetOK("scan_api")
	return errors.Join(svc.Run(ctx, listeners...), release())
}

func (a *Agent) listenScansTLS() (net.Listener, error) {
	cfg, err := proxy.TLSConfig(a.cfg.ScanTLS, a.log)
	if err != nil {
		return nil, fmt.Errorf("--scan-tls: %w", err)
	}
	l, err := net.Listen("tcp", a.cfg.ScanTLS.Addr)
	if err != nil {
		return nil, fmt.Errorf("--scan-tls: %w", err)
	}
	a.log.Info("the scan API is open", attr.Socket, l.Addr().String())
	return tls.NewListener(ci.LimitListener(l, maxScanConns), cfg), nil
}

// scanAccess asks the AccessPolicies about the scan API. Where none is enforced, only root of
// the host may use it.
type scanAccess struct{ m *manager }

// Ask implements [ci.Access].
func (s scanAccess) Ask(sub *apicall.Subject, action string, facts apicall.Facts, res ...apicall.Resource) error {
	who := &control.Caller{Subject: *sub}
	call := s.m.call(who, action, res...)
	call.Facts = facts
	d := s.m.decide(call)
	if !d.Allowed || d.Audit || action == ci.ActCreate || action == ci.ActAccept || action == ci.ActNotify {
		s.tell(call, &d)
	}
	if d.Allowed {
		return nil
	}
	return fmt.Errorf("%w: %s", ci.ErrDenied, denialText(action, res, &d))
}

// Grants implements [ci.Access].
func (s scanAccess) Grants(sub *apicall.Subject, action string) bool {
	access := s.m.policies.current().Access()
	return access.Grants(sub, action) && (access.Enforced() || isHostRoot(sub))
}

// Sees implements [ci.Access].
func (s scanAccess) Sees(sub *apicall.Subject, res apicall.Resource) bool {
	call := s.m.call(&control.Caller{Subject: *sub}, ci.ActRead, res)
	d := s.m.decide(call)
	return d.Allowed
}

func (s scanAccess) tell(call *apicall.Call, d *policy.AccessDecision) {
	ev := &proxy.Event{
		Time: time.Now(), Subject: &call.Subject, Action: call.Action, Method: "POST", Path: "/v1/scans", Decision: proxy.Denied,
		Policy: d.Policy, Revision: d.Revision, Rule: d.Rule, Reason: d.Reason, Checks: d.Checks, Status: 403,
		Unmanaged: !s.m.policies.current().Access().Enforced(),
	}
	if call.Action == ci.ActRead || call.Action == ci.ActList {
		ev.Method = "GET"
	}
	if d.Allowed {
		ev.Decision, ev.Status = proxy.Allowed, 202
		if d.Audit {
			ev.Decision = proxy.WouldDeny
		}
	}
	for _, r := range call.Resources {
		ev.IDs = append(ev.IDs, r.Asked)
	}
	s.m.record(ev)
}

// scanImages has images read for the scan API.
type scanImages struct {
	a      *Agent
	layers *layercache.Cache // what layers of registries hold; nil: nothing is kept
}

// newScanImages opens the layer cache. Without it scans go on.
func newScanImages(a *Agent) *scanImages {
	s := &scanImages{a: a}
	var err error
	if s.layers, err = layercache.Open(a.cfg.layersDir(), 0); err != nil {
		a.log.Warn("what layers of registries hold is not kept: each scan fetches them anew", attr.Error, err.Error())
		a.health.Counter("layer_cache_failed").Add(1)
	}
	return s
}

// countLayers puts the cache's counts where those of the agent are.
func (s *scanImages) countLayers() {
	c := s.layers.Counts()
	for name, n := range map[string]int64{
		"layer_cache_hits": c.Hits, "layer_cache_misses": c.Misses, "layer_cache_damaged": c.Damaged, "layer_cache_other_version": c.OtherVersion,
		"layer_cache_evicted": c.Evicted, "layer_cache_failed": c.Failed,
	} {
		s.a.health.Counter(name).Raise(uint64(n))
	}
}

func (s *scanImages) options(platform string) (scantarget.Options, error) {
	scanner, err := s.a.cfg.scannerPath()
	if err == nil && scanner == "" {
		err = errors.New("there is no belay-scanner beside the agent; install it, or name it with --scanner")
	}
	return scantarget.Options{Scanner: scanner, Platform: platform, DockerRoot: s.a.cfg.DockerRoot, Idle: true, Without: s.a.cfg.SandboxWithout}, err
}

// Local implements [ci.Images]: an image of the engine that is followed, or else one that
// containerd's store has by that name.
func (s *scanImages) Local(ctx context.Context, ref, platform string) (*inventory.Result, string, error) {
	o, err := s.options(platform)
	if err != nil {
		return nil, "", err
	}
	img, err := s.engineImage(ctx, ref)
	if err != nil && !errors.Is(err, ci.ErrNoImage) {
		return nil, "", err
	}
	if err := s.a.own.awaitScan(ctx); err != nil {
		return nil, "", err
	}
	if err == nil {
		op := telemetry.Begin("scan", map[string]string{"belay.image.id": img.ID})
		res, err := scanImage(ctx, img.ID, o)
		op.Ended("read")
		s.a.telemetry.Did(op.Done(err))
		if !errors.Is(err, scantarget.ErrNotFound) {
			return res, img.ID, err
		}
		ref = img.ID // the engine keeps its images in containerd's store
	}
	if err == nil {
		err = fmt.Errorf("the engine has %s, and keeps it neither in its own store nor in a containerd's: %w", ref, containerd.ErrNotFound)
	}
	t, digest, err := s.a.openStored(ctx, ref, err, anyPlatform)
	if err != nil {
		return nil, "", err
	}
	defer t.Close()
	op := telemetry.Begin("scan", map[string]string{"belay.image.id": digest})
	res, err := scantarget.Scan(ctx, t, o)
	op.Ended("read")
	s.a.telemetry.Did(op.Done(err))
	return res, digest, err
}

// engineImage asks the engine for an image.
//
// Errors: [ci.ErrNoImage].
func (s *scanImages) engineImage(ctx context.Context, ref string) (workload.Image, error) {
	if s.a.images.look == nil {
		return workload.Image{}, fmt.Errorf("%w: no engine is followed that could be asked", ci.ErrNoImage)
	}
	img, err := s.a.images.ask(ctx, workload.RuntimeDocker, ref)
	if errors.Is(err, workload.ErrNoImage) {
		err = fmt.Errorf("%w: %w", ci.ErrNoImage, err)
	}
	return img, err
}

// Remote implements [ci.Images].
func (s *scanImages) Remote(ctx context.Context, ref, platform, authority string) (res *inventory.Result, digest string, err error) {
	o, err := s.options(platform)
	if err != nil {
		return nil, "", err
	}
	if err := s.a.own.awaitScan(ctx); err != nil {
		return nil, "", err
	}
	c := registry.New(registry.Options{UserAgent: "belay-agent/" + s.a.cfg.Version, Authorization: authority})
	defer c.Close()
	op := telemetry.Begin("scan", map[string]string{})
	defer func() { s.a.telemetry.Did(op.Done(err)) }()
	img, err := c.Image(ctx, ref)
	op.Ended("resolve")
	if err != nil {
		return nil, "", err
	}
	op.Attributes["belay.image.digest"] = img.Digest
	t, err := scantarget.OpenBlobs(img, img.Digest)
	if err != nil {
		return nil, "", err
	}
	defer t.Close()
	if s.layers != nil {
		// Registries are for who may pull from them: what one says that it has tells nothing of another's.
		o.Cache, o.CacheScope = s.layers, img.Registry()
		defer s.countLayers()
	}
	res, err = scantarget.Scan(ctx, t, o)
	op.Ended("read")
	return res, img.Digest, err
}

// databaseAsOf tells of which time the vulnerability database is.
func (a *Agent) databaseAsOf() (time.Time, error) {
	db, err := vulndb.Open(a.cfg.VulnDB)
	if err != nil {
		return time.Time{}, err
	}
	defer db.Close()
	return db.AsOf(), nil
}

// Match implements [ci.Images]. It opens the database anew: the next scan sees what was
// imported in between.
func (s *scanImages) Match(ctx context.Context, res *inventory.Result) (_ *report.Database, _ *vulndb.Matches, err error) {
	op := telemetry.Begin("match", nil)
	defer func() { s.a.telemetry.Did(op.Done(err)) }()
	db, err := vulndb.Open(s.a.cfg.VulnDB)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("there is no vulnerability database; fix: belay db update --db %s", s.a.cfg.VulnDB)
	}
	if err != nil {
		return nil, nil, err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(ctx, scanMatchTime)
	defer cancel()
	m, err := db.Match(ctx, res)
	if err != nil {
		return nil, nil, fmt.Errorf("match its packages: %w", err)
	}
	st := db.Status()
	return &report.Database{Built: st.Built, AsOf: st.AsOf, Records: st.Records}, &m, nil
}
