package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/telemetry"
)

// Reload implements [control.Agent].
func (a *Agent) Reload(_ context.Context, who *control.Caller) (*control.PolicySet, error) {
	// Only root of the host ends enforcement: others may be nobody to the policies.
	err := a.reload(isHostRoot(&who.Subject))
	s := a.policies.status()
	came := "revision " + s.Revision + " is in force"
	if err != nil {
		came = "it failed: " + err.Error()
	}
	a.note("policy reload asked for by " + callerText(&who.Subject) + ": " + came)
	return &s, err
}

// callerText says who a caller is, for the record.
func callerText(sub *apicall.Subject) string {
	at := fmt.Sprintf("uid %d, pid %d", sub.UID, sub.PID)
	switch {
	case sub.Kind == apicall.Container:
		return fmt.Sprintf("container %s %q (%s)", ident.ContainerID(sub.ContainerID).Short(), sub.ContainerName, at)
	case sub.Kind != apicall.User:
		return "nobody that is known"
	case sub.Name == "":
		return at
	}
	return fmt.Sprintf("user %s (%s)", sub.Name, at)
}

// reload makes the policy directory be in force, and what was edited in it a revision.
func (a *Agent) reload(asked bool) error {
	a.manager.mu.Lock()
	defer a.manager.mu.Unlock()
	if err := a.load(asked); err != nil {
		return err
	}
	a.manager.recordEdits(nil)
	return nil
}

// load is reload without revisions; manager.mu is held.
func (a *Agent) load(asked bool) (err error) {
	op := telemetry.Begin("policy reload", map[string]string{})
	defer func() {
		if set := a.policies.current(); set != nil {
			op.Attributes["belay.policy.revision"] = set.Revision()
		}
		a.telemetry.Did(op.Done(err))
	}()
	err = a.policies.load(asked)
	op.Ended("read")
	if err != nil {
		a.health.SetDegraded("policies", err.Error())
		a.note("bad policies; the former ones stay in force: " + err.Error())
		a.log.Error("bad policies; the former ones stay in force", attr.Dir, a.cfg.PolicyDir, attr.Error, err.Error())
		return err
	}
	err = a.enact()
	op.Ended("enact")
	if err != nil {
		// What the kernel side did not take must not be what new containers get.
		a.policies.rollback(err)
		if rerr := a.enact(); rerr != nil {
			a.health.SetDegraded("policies", rerr.Error())
		}
		a.log.Error("policies not taken by the kernel side; the former ones stay in force", attr.Error, err.Error())
		return err
	}
	a.log.Info("policies loaded", attr.Revision, a.policies.current().Revision())
	a.note("policies loaded, revision " + a.policies.current().Revision())
	return nil
}

// pollPolicies is the time between two looks at the policy directory. An edit is taken
// when two looks see the same.
const pollPolicies = time.Second

func (a *Agent) watchPolicies(ctx context.Context) error {
	t := time.NewTicker(pollPolicies)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if a.policies.changed() {
				_ = a.reload(false) // reported in health and in the log
			}
		}
	}
}

// testCanary tries an exec that must be denied.
func (a *Agent) testCanary() error {
	err := a.kernel.Canary()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.canary.Time, a.canary.Denied, a.canary.Error = time.Now(), err == nil, ""
	a.canary.Count++
	switch {
	case err == nil:
		a.health.SetOK("kernel")
		return nil
	case errors.Is(err, enforce.ErrUnsupported) && !errors.Is(err, enforce.ErrCanary):
		a.canary.Error = err.Error()
		a.health.SetDegraded("kernel", err.Error())
		return nil
	}
	a.canary.Error = err.Error()
	a.canary.Failed++
	a.health.SetFailed("kernel", err.Error())
	return fmt.Errorf("enforcement does not work: %w", err)
}

// watchCanary repeats the test. When it fails, somebody has detached the programs or
// edited the maps: they are attached anew.
func (a *Agent) watchCanary(ctx context.Context) error {
	t := time.NewTicker(a.cfg.CanaryEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		_ = a.mendByCanary() // reported in health, in the journal and in the log
		a.tellSkips(a.kernel.Skipped())
	}
}

// mendByCanary tests whether a denial works and, if not, attaches anew and tests again.
// Tests take turns: they share a cgroup. It returns the error of the last test.
func (a *Agent) mendByCanary() error {
	a.canaries.Lock()
	defer a.canaries.Unlock()
	err := a.testCanary()
	if err == nil {
		return nil
	}
	a.log.Error("enforcement was tampered with: attaching anew", attr.Error, err.Error())
	a.note("enforcement was tampered with: " + err.Error())
	if err := a.mend(); err != nil {
		a.log.Error("attaching anew", attr.Error, err.Error())
		return err
	}
	if err = a.testCanary(); err == nil {
		a.log.Warn("enforcement was mended")
		a.note("enforcement was mended")
	}
	return err
}

// mend attaches anew, which waits for nothing, and then puts the policies in force into the kernel, apart from loads: a floor
// that is being replaced must not come after the one that replaces it.
func (a *Agent) mend() error {
	err := a.kernel.Reattach()
	a.manager.mu.Lock()
	defer a.manager.mu.Unlock()
	return errors.Join(err, a.enact())
}

// RunCanary implements [control.CanaryRunner]. A test that fails is mended as the one of
// every minute is, and the answer is that of the first: what had to be mended did not hold.
func (a *Agent) RunCanary(ctx context.Context) (*control.Canary, error) {
	if !a.demand.TryLock() {
		return nil, &control.Error{Status: http.StatusTooManyRequests, Message: "a canary that was asked for is running: try again in a second"}
	}
	defer a.demand.Unlock()
	before := a.lastCanary()
	err := a.mendByCanary()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	c := a.lastCanary()
	if c.Failed > before.Failed && c.Denied {
		c.Denied, c.Error = false, "it was not denied at first, and is since enforcement was mended: see the journal"
	}
	if err != nil && c.Error == "" {
		c.Error = err.Error()
	}
	return &c, nil
}

func (a *Agent) lastCanary() control.Canary {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.canary
	c.EverySeconds = a.cfg.CanaryEvery.Seconds()
	return c
}

// note puts what happened to the agent itself into the journal.
func (a *Agent) note(message string) {
	a.journal.Append(&journal.Record{
		BootID: a.host.BootID, Host: a.host.Hostname, Time: time.Now(), Kind: journal.KindAgent, Message: message,
	})
}

type startedContainer struct {
	state enforce.Event
}

// followStarts binds path rules to inodes in containers that start.
func (a *Agent) followStarts(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-a.starts:
			if s.state.Type == enforce.EventGone {
				a.binder.ended(s.state.Container)
				continue
			}
			a.binder.bindInodes(s.state.Container, s.state.PID)
		}
	}
}
