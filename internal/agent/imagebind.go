package agent

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/verdict"
	"github.com/belay-project/belay/internal/workload"
)

// decide judges the image of a container by what is known of it now, and asks nobody.
func (im *images) decide(c workload.Container, labels map[string]string) policy.ImageDecision {
	rules := im.rules()
	if !rules.Any() {
		return policy.ImageDecision{Allowed: true}
	}
	if c.ImageDigest == "" && c.Runtime == workload.RuntimeContainerd {
		return im.unknown(errors.New("containerd does not tell for certain what the container was made of: no image, or a name that means another by now"))
	}
	im.mu.Lock()
	k, ok := im.known[imageKey{c.Runtime, c.ImageDigest}]
	im.mu.Unlock()
	if !ok {
		return im.unknown(errors.New("it was not asked yet, or has no such image"))
	}
	return rules.Decide(im.facts(k.Image, c.Image, labels), time.Now())
}

// denies tells whether a container must not start.
func (im *images) denies(c workload.Container, labels map[string]string) bool {
	d := im.decide(c, labels)
	return !d.Allowed
}

// binding returns the policy under which nothing of a container is executed, if its image
// may not start and it has not started yet; nil otherwise. A container that runs goes on:
// what becomes known of an image ends no workload, and holds from its next start on.
func (im *images) binding(c workload.Container, labels map[string]string) *policy.RuntimePolicy {
	d := im.decide(c, labels)
	if d.Allowed {
		im.mu.Lock()
		delete(im.held, c.ID)
		im.mu.Unlock()
		im.tell(c, &d)
		return nil
	}
	im.mu.Lock()
	_, held := im.held[c.ID]
	im.mu.Unlock()
	// One that was bound before its start stays so: its start is what was refused.
	if !held && im.runs(c.ID) {
		im.tell(c, &d)
		return nil
	}
	rp := d.Runtime()
	im.mu.Lock()
	im.held[c.ID] = rp
	im.mu.Unlock()
	im.tell(c, &d)
	return rp
}

// runs tells whether a container has started for certain.
func (im *images) runs(id ident.ContainerID) bool {
	started, err := im.started(id)
	if err != nil {
		im.a.health.Counter("starts_unknown").Add(1)
		im.a.log.Error("whether a container has started is not known: its image counts as that of one which has not", attr.ContainerID, string(id), attr.Error, err.Error())
	}
	return started
}

// gone forgets a container.
func (im *images) gone(id ident.ContainerID) {
	im.mu.Lock()
	defer im.mu.Unlock()
	delete(im.held, id)
	delete(im.told, id)
}

// isHeld tells whether a container is bound so that nothing of it is executed.
func (im *images) isHeld(id ident.ContainerID) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.held[id] != nil
}

// tell puts a decision on a container's image into the journal, once.
func (im *images) tell(c workload.Container, d *policy.ImageDecision) {
	if d.Allowed && !d.Audit || d.Policy == policy.BuiltIn || !im.keeper.Ready() {
		return // it is known, or matched, and decided again in a moment
	}
	what := fmt.Sprint(d.Word(), d.Policy, d.Rule, im.isHeld(c.ID))
	im.mu.Lock()
	known := im.told[c.ID] == what
	im.told[c.ID] = what
	im.mu.Unlock()
	if known {
		return
	}
	r := im.record("verdict", c.ImageDigest)
	r.Container = &journal.Container{ID: c.ID, Name: c.Name, Image: c.Image, Digest: c.ImageDigest, Workload: c.Workload, Labels: c.Labels, Class: "container"}
	r.Decision, r.Image.Details = verdict.Decision(d.Word()), d.Details
	r.Policy = &journal.Policy{Name: d.Policy, Revision: d.Revision, Rule: d.Rule, Mode: verdict.ModeEnforce.String()}
	r.Message = "the container's image: " + d.Reason
	switch {
	case d.Allowed:
		r.Policy.Mode = verdict.ModeAudit.String()
	case !im.isHeld(c.ID):
		r.Decision, r.Level = verdict.WouldDeny, verdict.Detect.String()
		r.Message += "; it runs and goes on, and will not start again"
	default:
		r.Level = im.a.levels[verdict.RulePathDeny].String()
		r.Backend = im.a.kernel.Backend()
		r.Message += "; its programs are not executed"
	}
	r.Message = r.Message[:min(len(r.Message), maxRecordedText)]
	im.a.journal.Append(r)
}

func (im *images) record(event, id string) *journal.Record {
	return &journal.Record{
		BootID: im.a.host.BootID, Host: im.a.host.Hostname, Time: time.Now(), Kind: journal.KindImage,
		Image: &journal.Image{Event: event, ID: id, Names: im.names(id)},
	}
}

// Bounds of what one change of the database puts into the journal of one image.
const (
	maxReported   = 200
	maxContainers = 32
	maxAbout      = 64
)

// report is told of new findings on an image that was matched before: if a container of it
// runs, each is a record.
func (im *images) report(id string, fresh []policy.ImageFinding) {
	running := im.users(id, true)
	if len(running) == 0 {
		return // belay images shows them, and so does the next decision
	}
	fresh = im.a.uses.attach(id, fresh)
	slices.SortStableFunc(fresh, func(x, y policy.ImageFinding) int { return x.Urgency(&y) })
	for i := range fresh[:min(len(fresh), maxReported)] {
		f := &fresh[i]
		r := im.record("finding", id)
		r.Container = &journal.Container{ID: running[0].ID, Name: running[0].Name, Image: running[0].Image, Digest: id, Class: "container"}
		putFinding(r.Image, f)
		for _, c := range running[:min(len(running), maxContainers)] {
			r.Image.Containers = append(r.Image.Containers, string(c.ID))
		}
		r.Message = "a new finding in an image that runs: " + f.String()
		im.a.journal.Append(r)
	}
	im.a.health.Counter("image_findings").Add(uint64(len(fresh)))
	if n := len(fresh) - maxReported; n > 0 {
		im.a.note(fmt.Sprintf("%d more new findings in image %s; belay explain --image shows them", n, strings.TrimPrefix(id, "sha256:")[:12]))
	}
}

// putFinding writes a finding into a record of its image.
func putFinding(to *journal.Image, f *policy.ImageFinding) {
	to.Vulnerability, to.Aliases, to.Severity, to.Package, to.Version = f.IDs[0], f.IDs[1:], f.Severity.String(), f.Package, f.Version
	to.About = f.About[:min(len(f.About), maxAbout)]
	to.Fixed, to.Exploited, to.EPSS = f.Fixed, f.Exploited, f.EPSS
	to.InUse, to.Use, to.Reachable = cmp.Or(f.Use.State, inventory.UseUnknown), f.Use.String(), f.Use.Reachable
}

// bindDenied binds the containers anew of whose image something else is decided than what
// they are bound to.
func (b *binder) bindDenied() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.registry.List() {
		d := b.a.images.decide(c, b.labels(c))
		if held := b.a.images.isHeld(c.ID); !d.Allowed != held && (held || !b.a.images.runs(c.ID)) {
			_ = b.bind(c) // reported there
		}
		b.a.images.tell(c, &d)
	}
}
