package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/sandbox/spawn"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/stock"
	scantarget "github.com/belay-project/belay/internal/scan/target"
	"github.com/belay-project/belay/internal/workload"
)

// images judges images by the ImagePolicies, with what scanning has told, and puts what
// comes of it on containers that did not come through the gate.
type images struct {
	a      *Agent
	keeper *stock.Keeper
	// look asks a runtime about an image.
	look func(ctx context.Context, runtime, ref string) (workload.Image, error)
	// started is [Agent.started].
	started    func(id ident.ContainerID) (bool, error)
	scannerErr string        // why the scanner cannot be started here
	wake       chan struct{} // something changed that decisions rest on

	// mu guards what follows. It is taken under binder.mu, never the other way.
	mu    sync.Mutex
	known map[imageKey]knownImage
	held  map[ident.ContainerID]*policy.RuntimePolicy
	told  map[ident.ContainerID]string // decision that a record tells of
}

// rememberedImage is what an engine said of an image, as the state directory keeps it. Its Unread is
// the text of the image's own.
type rememberedImage struct {
	workload.Image
	Unread string `json:",omitempty"`
}

// imageKey is an image by its ID, and whoever was asked about it: what one runtime says, as of names
// that its users gave, counts for nothing in another.
type imageKey struct{ runtime, id string }

// knownImage is what the engine has said of an image. Names may be others by now: whoever
// lets something start by them asks anew.
type knownImage struct {
	workload.Image
	at time.Time
}

const (
	lookTime  = 3 * time.Second
	keptFor   = time.Minute
	maxKnown  = 4096
	judgeTick = time.Minute // grace periods and exceptions end
)

// openImages opens the store of inventories. A state directory that takes none does not
// keep the agent from enforcing: they go into the run directory then.
func (a *Agent) openImages() error {
	im := &images{
		a: a, wake: make(chan struct{}, 1), known: map[imageKey]knownImage{}, held: map[ident.ContainerID]*policy.RuntimePolicy{},
		told: map[ident.ContainerID]string{}, started: a.started,
	}
	if a.docker != nil || a.cfg.Containerd != "" {
		im.look = a.lookImage
	}
	o := stock.Options{
		Dir: a.cfg.imagesDir(), DB: a.cfg.VulnDB, InUse: im.inUse, Report: im.report, Changed: func(string) { im.nudge() },
		MaxAge: func() time.Duration { return im.rules().ScanMaxAge() }, Timed: a.scanTimed, MayIdle: func() bool { return a.own.mayScan(time.Now()) }, Health: a.health, Log: a.log,
	}
	scanner, err := a.cfg.scannerPath()
	if err != nil {
		return err
	}
	if err := inventory.CheckPieces(a.cfg.SandboxWithout); err != nil {
		return fmt.Errorf("--sandbox-without: %w", err)
	}
	if scanner != "" {
		if err := spawn.Probe(a.cfg.SandboxWithout); err != nil {
			im.scannerErr = err.Error()
			a.log.Error("no image can be scanned on this host", attr.Error, im.scannerErr)
		}
		if o.Scanner, _, err = scantarget.ScannerVersion(scanner); err != nil {
			a.log.Warn("the scanner's version is not known; what another one found stays", attr.Error, err.Error())
		}
		o.Scan = func(ctx context.Context, id string, idle bool) (*inventory.Result, error) {
			return a.scanStored(ctx, id, scantarget.Options{Scanner: scanner, DockerRoot: a.cfg.DockerRoot, Idle: idle, Without: a.cfg.SandboxWithout})
		}
	}
	if im.keeper, err = stock.Open(o); err != nil {
		a.log.Error("the state directory takes no inventories; they go to the run directory until the next start", attr.Error, err.Error())
		o.Dir = filepath.Join(a.cfg.RunDir, "inventories")
		if im.keeper, err = stock.Open(o); err != nil {
			return err
		}
	}
	a.images = im
	return nil
}

// scannerPath returns where the scanner is; "" if images are not scanned.
func (c *Config) scannerPath() (string, error) {
	switch c.Scanner {
	case "none":
		return "", nil
	case "":
		self, err := os.Executable()
		if err != nil {
			return "", nil //nolint:nilerr // there is none beside what has no place
		}
		path := filepath.Join(filepath.Dir(self), "belay-scanner")
		if _, err := os.Stat(path); err != nil {
			return "", nil //nolint:nilerr // it is not installed
		}
		return path, nil
	}
	if !filepath.IsAbs(c.Scanner) {
		return "", fmt.Errorf("--scanner %q: want an absolute path, or none", c.Scanner)
	}
	if _, err := os.Stat(c.Scanner); err != nil {
		return "", fmt.Errorf("--scanner: %w", err)
	}
	return c.Scanner, nil
}

// scanImage has the sandboxed scanner read an image's layers where the engine keeps them.
func scanImage(ctx context.Context, id string, o scantarget.Options) (*inventory.Result, error) {
	t, err := scantarget.OpenImage(ctx, id, o)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return scantarget.Scan(ctx, t, o)
}

func (im *images) rules() *policy.Images {
	set := im.a.policies.current()
	if set == nil {
		return nil
	}
	return set.Images()
}

func (im *images) nudge() {
	select {
	case im.wake <- struct{}{}:
	default:
	}
}

// remembered returns what the state directory is to keep of an image; nil: nothing is known.
func (im *images) remembered(key imageKey) *rememberedImage {
	im.mu.Lock()
	defer im.mu.Unlock()
	k, ok := im.known[key]
	if !ok {
		return nil
	}
	r := &rememberedImage{Image: k.Image}
	if k.Unread != nil {
		r.Unread = k.Unread.Error()
	}
	return r
}

// recall takes in what an earlier agent was told of an image: containers that start before their
// runtime answers, as after a reboot, are judged by it. It is asked about again as soon as that can be.
func (im *images) recall(runtime string, r *rememberedImage) {
	if r == nil {
		return
	}
	img := r.Image
	if r.Unread != "" {
		img.Unread = errors.New(r.Unread)
	}
	im.know(runtime, knownImage{Image: img})
}

// prepareTime bounds how long a start waits for what is in the images of the containers that are recalled.
const prepareTime = 15 * time.Second

// prepare matches the images of the containers that are recalled, if a policy asks what is inside.
func (im *images) prepare() {
	if !im.rules().NeedScan() {
		return
	}
	ids := map[string]bool{}
	for _, c := range im.a.binder.registry.List() {
		ids[c.ImageDigest] = true
	}
	ctx, cancel := context.WithTimeout(context.Background(), prepareTime)
	defer cancel()
	im.keeper.Prepare(ctx, slices.Collect(maps.Keys(ids)))
}

// policiesChanged has all decisions made anew.
func (im *images) policiesChanged() {
	if im != nil {
		im.nudge()
	}
}

// run scans, matches and keeps the containers' bindings in step with what is decided, until
// ctx ends.
func (im *images) run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- im.keeper.Run(ctx) }()
	t := time.NewTicker(judgeTick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return <-done
		case <-im.wake:
		case <-t.C:
		}
		im.rejudge(ctx)
	}
}

// rejudge looks at the images of all containers, and binds those whose decision has changed.
func (im *images) rejudge(ctx context.Context) {
	im.state()
	for _, c := range im.a.binder.registry.List() {
		if c.ImageDigest == "" {
			continue
		}
		im.keeper.Want(c.ImageDigest, c.State == workload.StateRunning)
		if im.rules().Any() {
			im.learn(ctx, c.Runtime, c.ImageDigest)
		}
	}
	im.a.binder.bindDenied()
}

// state tells health what decisions lack.
func (im *images) state() {
	h := im.a.health
	_, err := os.Stat(im.a.cfg.VulnDB)
	scanner, _ := im.a.cfg.scannerPath()
	switch {
	case !im.rules().Any():
		h.SetOK("images")
	case im.rules().NeedScan() && scanner == "":
		h.SetDegraded("images", stock.ErrNoScanner.Error())
	case im.rules().NeedScan() && err != nil:
		h.SetDegraded("images", fmt.Sprintf("there is no vulnerability database: %v; fix: belay db update --db %s", err, im.a.cfg.VulnDB))
	default:
		h.SetOK("images")
	}
}

// seen takes note of a change of containers, before it is bound: the image has to be known
// by then.
func (im *images) seen(ch workload.Change) {
	list := ch.Containers
	if ch.Kind == workload.Upsert {
		list = []workload.Container{ch.Container}
	}
	judged := im.rules().Any()
	for _, c := range list {
		if c.ImageDigest == "" {
			continue
		}
		im.keeper.Want(c.ImageDigest, c.State == workload.StateRunning)
		switch {
		case !judged:
		case ch.Kind == workload.Upsert && c.State != workload.StateRunning:
			im.learnAnew(context.Background(), c)
		default:
			im.learn(context.Background(), c.Runtime, c.ImageDigest)
		}
	}
}

// learn asks a runtime about an image, if that was not done lately.
func (im *images) learn(ctx context.Context, runtime, id string) {
	im.mu.Lock()
	k, ok := im.known[imageKey{runtime, id}]
	im.mu.Unlock()
	if ok && time.Since(k.at) < keptFor {
		return
	}
	if _, err := im.ask(ctx, runtime, id); err != nil {
		im.a.log.Warn("an image is not known", attr.ImageDigest, id, attr.Error, err.Error())
	}
}

// learnAnew asks about the image of a container that is yet to start. Nothing older decides about a
// new container; one that was seen with this image before keeps what is known of it.
func (im *images) learnAnew(ctx context.Context, c workload.Container) {
	_, err := im.ask(ctx, c.Runtime, c.ImageDigest)
	if err == nil {
		return
	}
	im.a.log.Warn("an image is not known", attr.ImageDigest, c.ImageDigest, attr.Error, err.Error())
	if old, ok := im.a.binder.registry.Get(c.ID); ok && old.ImageDigest == c.ImageDigest && errors.Is(err, workload.ErrNoImage) {
		return
	}
	im.mu.Lock()
	delete(im.known, imageKey{c.Runtime, c.ImageDigest})
	im.mu.Unlock()
}

func (im *images) ask(ctx context.Context, runtime, ref string) (workload.Image, error) {
	if im.look == nil {
		return workload.Image{}, errors.New("no engine is followed that could be asked about images")
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	img, err := im.look(ctx, runtime, ref)
	if err != nil {
		im.a.health.Counter("image_lookups_failed").Add(1)
		return img, err
	}
	if img.Unread != nil {
		im.a.health.Counter("image_configs_unread").Add(1)
		im.a.log.Warn("an image's configuration is not known: rules about it deny", attr.ImageDigest, img.ID, attr.Error, img.Unread.Error())
	}
	im.keeper.Renew(img.ID, img.Manifest, im.inUse(img.ID))
	if im.know(runtime, knownImage{img, time.Now()}) {
		im.a.binder.imageSaid()
	}
	return img, nil
}

// know keeps what a runtime said of an image, and tells whether that is something new.
func (im *images) know(runtime string, k knownImage) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	if len(im.known) >= maxKnown {
		clear(im.known) // they are asked about again
	}
	key := imageKey{runtime, k.ID}
	old, ok := im.known[key]
	im.known[key] = k
	return !ok || !reflect.DeepEqual(old.Image, k.Image)
}

// facts puts together what policies see of an image.
func (im *images) facts(img workload.Image, asked string, labels map[string]string) *policy.Image {
	f := &policy.Image{
		ID: img.ID, Asked: asked, Names: img.Names, Digests: img.Digests, Labels: labels, ConfigKnown: img.Unread == nil,
		Created: img.Created, User: img.User, Env: img.Env, NotBefore: im.keeper.Built(),
	}
	s, ok := im.keeper.State(img.ID)
	switch {
	case img.Unread != nil:
		f.Scan.Err = img.Unread.Error() // a scan that is kept may be of another platform
	case ok && s.Other(img.Manifest):
		f.Scan.Err = "its scan is of another platform than is here now"
	case ok:
		f.Scan = s.Scan()
		if im.rules().NeedUse() {
			f.Scan.Findings = im.a.uses.attach(img.ID, s.Findings)
		}
	}
	return f
}

// unknown is the decision on an image of which the engine says nothing: if any policy
// enforces, it is denied.
func (im *images) unknown(err error) policy.ImageDecision {
	d := policy.ImageDecision{Rule: "lookup", Policy: policy.BuiltIn, Reason: "the engine does not say what the image is: " + err.Error()}
	if !im.rules().Enforced() {
		d.Allowed, d.Audit = true, true
	}
	return d
}

// JudgeImage implements [proxy.ImageJudge].
func (im *images) JudgeImage(ctx context.Context, q *proxy.ImageQuery) policy.ImageDecision {
	rules := im.rules()
	if !rules.Any() {
		return policy.ImageDecision{Allowed: true}
	}
	now := time.Now()
	if q.Pull {
		return rules.Decide(&policy.Image{Pull: true, Asked: q.Asked}, now)
	}
	img, err := im.ask(ctx, workload.RuntimeDocker, q.ID)
	if err != nil {
		return im.unknown(err)
	}
	f := im.facts(img, q.Asked, q.Labels)
	d := rules.Decide(f, now)
	if !d.Scan {
		if d.Stale {
			im.keeper.Want(img.ID, im.inUse(img.ID)) // or it would be refused for good
		}
		return d
	}
	ctx, cancel := context.WithTimeout(ctx, d.Deadline)
	defer cancel()
	err = im.keeper.Ensure(ctx, img.ID)
	f = im.facts(img, q.Asked, q.Labels)
	f.Scan.Tried = true
	if err != nil && f.Scan.Err == "" && !errors.Is(err, context.DeadlineExceeded) {
		f.Scan.Err = err.Error()
	}
	if err != nil {
		im.a.health.Counter("scans_missed").Add(1)
	}
	return rules.Decide(f, time.Now())
}

// Judges implements [proxy.ImageJudge].
func (im *images) Judges() bool { return im.rules().Any() }

// inUse tells whether a container of the image runs.
func (im *images) inUse(id string) bool {
	return slices.ContainsFunc(im.a.binder.registry.List(), func(c workload.Container) bool {
		return c.ImageDigest == id && c.State == workload.StateRunning
	})
}

// users returns the containers that have an image; running only: of these, those that run.
func (im *images) users(id string, running bool) []workload.Container {
	return slices.DeleteFunc(im.a.binder.registry.List(), func(c workload.Container) bool {
		return c.ImageDigest != id || running && c.State != workload.StateRunning
	})
}

// said returns what is known of an image by its ID, by each runtime that told something.
func (im *images) said(id string) (out []workload.Image) {
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, runtime := range []string{workload.RuntimeDocker, workload.RuntimeContainerd} {
		if k, ok := im.known[imageKey{runtime, id}]; ok {
			out = append(out, k.Image)
		}
	}
	return out
}

// names returns the names of an image as far as they are known, else those that its
// containers were created by.
func (im *images) names(id string) []string {
	if list := im.said(id); len(list) > 0 {
		return slices.Clone(list[0].Names)
	}
	var out []string
	for _, c := range im.users(id, false) {
		if c.Image != "" && !strings.HasPrefix(c.Image, "sha256:") && !slices.Contains(out, c.Image) {
			out = append(out, c.Image)
		}
	}
	return out
}

var _ proxy.ImageJudge = (*images)(nil)
