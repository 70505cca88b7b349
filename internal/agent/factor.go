package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/factor"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

const (
	// factorRetry is the time between two tries to open the store or the socket.
	factorRetry      = 10 * time.Second
	elevateDefault   = 15 * time.Minute
	elevateMax       = time.Hour
	elevateLongest   = 24 * time.Hour // that --elevate-max may be
	maxAskedActions  = 16
	maxAskedActionID = 128
)

// secondFactor answers for second factors: it joins the store and the elevations with the
// journal, and words what they refuse. It implements [control.Factor].
type secondFactor struct {
	store     *factor.Store
	live      *factor.Elevations
	max       time.Duration
	byRoot    bool   // only root enrols
	issuer    string // what authenticators show
	container func(ref string) (id ident.ContainerID, name string, err error)
	append    func(*journal.Record)
	count     func(name string)
	report    func() // tells health of enrolments that cannot be read
	now       func() time.Time
}

// serveFactor serves the factor socket until ctx ends. Whatever happens to it, enforcement and
// the gate go on; without it nobody is elevated.
func (a *Agent) serveFactor(ctx context.Context) {
	for ctx.Err() == nil {
		if err := a.factorOnce(ctx); err != nil {
			a.health.SetFailed("second-factor", err.Error())
			a.log.Error("there is no second factor; rules that require one deny", attr.Error, err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(factorRetry):
		}
	}
}

func (a *Agent) factorOnce(ctx context.Context) error {
	store, err := factor.Open(a.cfg.factorDir(), os.Getenv("CREDENTIALS_DIRECTORY"), nil)
	if err != nil {
		return err
	}
	f := &secondFactor{
		store: store, live: &a.elevations, max: a.cfg.ElevateMax, byRoot: a.cfg.EnrolByRoot, issuer: "Belay " + a.host.Hostname,
		container: a.elevationTarget, append: func(r *journal.Record) { a.journal.Append(r) }, now: time.Now,
		count: func(name string) { a.health.Counter(name).Add(1) },
	}
	s, err := control.ListenFactor(f, control.FactorOptions{
		Path: a.cfg.FactorSocket(), Workload: gateWorkload{a}, Refused: f.stranger, Log: a.log,
	})
	if err != nil {
		return err
	}
	f.report = func() {
		if n := len(store.Unreadable()); n > 0 {
			a.health.SetDegraded("second-factor", fmt.Sprintf("%d enrolments cannot be read; belay elevate --list as root names them", n))
		} else {
			a.health.SetOK("second-factor")
		}
	}
	a.factor.Store(f)
	defer a.factor.Store(nil)
	source, path := store.KeyFrom()
	a.log.Info("second factors are taken", attr.Socket, a.cfg.FactorSocket(), attr.Reason, "key from "+source+" "+path)
	f.report()
	return s.Run(ctx)
}

// elevationTarget finds the container that a person means.
func (a *Agent) elevationTarget(ref string) (ident.ContainerID, string, error) {
	id, err := a.resolve(ref)
	if err != nil {
		return "", "", err
	}
	c, _ := a.binder.registry.Get(id)
	return id, c.Name, nil
}

// factorStatus is the second factor in `belay status`.
func (a *Agent) factorStatus() *control.FactorStatus {
	if !a.cfg.gate() {
		return nil
	}
	f := a.factor.Load()
	if f == nil {
		c, _ := a.health.Component("second-factor")
		return &control.FactorStatus{Error: c.Reason}
	}
	return &control.FactorStatus{
		Key: f.key(), Enrolled: f.store.Count(), Unreadable: len(f.store.Unreadable()), Elevations: len(f.live.List(nil, f.now())),
	}
}

// key says where the key is from.
func (f *secondFactor) key() string {
	source, path := f.store.KeyFrom()
	if source == factor.FromCredential {
		return source + " " + factor.CredentialName
	}
	return source + " " + path
}

// refusal is an error with the word for the journal.
type refusal struct {
	cause  string
	status int
	err    error
	until  time.Time
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuseFactor(cause string, status int, format string, args ...any) *refusal {
	return &refusal{cause: cause, status: status, err: fmt.Errorf(format, args...)}
}

// explain turns an error of the store into what a person is told.
func explain(err error) *refusal {
	var r *refusal
	var locked *factor.LockedError
	switch {
	case errors.As(err, &r):
		return r
	case errors.As(err, &locked):
		r = refuseFactor("locked", http.StatusTooManyRequests, "%w", err)
		r.until = locked.Until
		return r
	case errors.Is(err, factor.ErrWrong):
		return refuseFactor("wrong", http.StatusForbidden, "%w", err)
	case errors.Is(err, factor.ErrUsed):
		return refuseFactor("used", http.StatusForbidden, "%w", err)
	case errors.Is(err, factor.ErrNotEnrolled):
		return refuseFactor("not_enrolled", http.StatusForbidden, "%w: run belay enroll", err)
	case errors.Is(err, factor.ErrUnreadable):
		return refuseFactor("unreadable", http.StatusForbidden, "%w; root can take it away: belay enroll --remove --user NAME", err)
	case errors.Is(err, factor.ErrEnrolled):
		return refuseFactor("enrolled", http.StatusConflict, "%w: take it away first, with a code: belay enroll --remove", err)
	case errors.Is(err, factor.ErrNotBegun):
		return refuseFactor("not_begun", http.StatusConflict, "%w: begin with belay enroll", err)
	case errors.Is(err, factor.ErrFull):
		return refuseFactor("too_many", http.StatusConflict, "%w: root can take away those of users who are gone: belay enroll --remove --user NAME", err)
	case errors.Is(err, factor.ErrTooMany):
		return refuseFactor("too_many", http.StatusConflict, "%w", err)
	}
	return refuseFactor("internal", http.StatusInternalServerError, "%w", err)
}

// fail counts a refusal, puts it into the journal, and returns what the caller is told.
func (f *secondFactor) fail(c *control.FactorCaller, uid uint32, err error) error {
	r := explain(err)
	f.count("factor_refused")
	if r.cause == "locked" || r.cause == "internal" {
		f.count("factor_" + r.cause)
	}
	f.note(c, verdict.Denied, r.Error(), &journal.Factor{
		Event: "refused", UID: uid, Cause: r.cause, Until: r.until, Refused: f.store.State(uid).Refused,
	})
	return &control.Error{Status: r.status, Message: r.Error()}
}

// note puts something into the journal.
func (f *secondFactor) note(c *control.FactorCaller, d verdict.Decision, msg string, j *journal.Factor) {
	j.CallerUID, j.PID, j.Session = c.UID, c.PID, c.Session
	if j.User == "" {
		j.User = userName(j.UID)
	}
	f.append(&journal.Record{Kind: journal.KindFactor, Time: f.now(), Decision: d, Message: msg[:min(len(msg), maxRecordedText)], Factor: j})
}

// stranger notes a caller whom the socket itself refuses.
func (f *secondFactor) stranger(c *control.FactorCaller, container, why string) {
	f.count("factor_strangers")
	j := &journal.Factor{Event: "refused", UID: c.UID, CallerUID: c.UID, PID: c.PID, Cause: "unknown"}
	r := &journal.Record{Kind: journal.KindFactor, Time: f.now(), Decision: verdict.Denied, Message: why, Factor: j}
	if container != "" {
		j.Cause = "container"
		r.Container = &journal.Container{ID: ident.ContainerID(container), Class: "container"}
	}
	f.append(r)
}

// whom returns the user that a request is about; root may name another.
func (f *secondFactor) whom(c *control.FactorCaller, name string) (uint32, error) {
	if name == "" {
		return c.UID, nil
	}
	uid, err := lookUpUser(name)
	if err != nil {
		return c.UID, refuseFactor("unknown", http.StatusNotFound, "%w", err)
	}
	if uid != c.UID && c.UID != 0 {
		return c.UID, refuseFactor("not_allowed", http.StatusForbidden, "only root may name another user")
	}
	return uid, nil
}

// lookUpUser finds a user by name or number.
func lookUpUser(name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil && n != 1<<32-1 {
		return uint32(n), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("no user %.64q on this host", name)
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err
}

// factorDir is where enrolments are.
func (c *Config) factorDir() string { return filepath.Join(c.StateDir, "factor") }

// FactorSocket is the socket for second factors.
func (c *Config) FactorSocket() string { return filepath.Join(c.RunDir, control.FactorSocketName) }

// gate tells whether there is one.
func (c *Config) gate() bool { return c.GateSocket != "none" && c.DockerHost != "none" }

func (c *Config) fillFactor() error {
	if c.ElevateMax <= 0 {
		c.ElevateMax = elevateMax
	}
	if c.ElevateMax > elevateLongest {
		return fmt.Errorf("--elevate-max is %v, which is more than %v", c.ElevateMax, elevateLongest)
	}
	return nil
}
