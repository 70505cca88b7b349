package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/load"
	"github.com/belay-project/belay/internal/load/carry"
	"github.com/belay-project/belay/internal/policy"
)

const loadPolicy = `apiVersion: belay.dev/v1
kind: LoadPolicy
metadata: {name: node}
spec: {caps: {memory: 85%}, actions: [alert]}
`

// TestLoadPolicyTaken: one that alerts is in force, whichever way it comes.
func TestLoadPolicyTaken(t *testing.T) {
	m := newManaged(t, "", map[string]string{"a.yaml": admins})
	if _, err := m.apply(rootCaller, loadPolicy); err != nil {
		t.Fatal(err)
	}
	set := m.policies.current()
	if got := set.LoadPolicies(); len(got) != 1 || got[0].Name != "node" {
		t.Errorf("in force are %s", set.Canonical())
	}
	for _, p := range m.policies.status().Policies {
		if p.Kind == policy.LoadKind && (p.Name != "node" || p.Mode != "alert") {
			t.Errorf("status has %+v", p)
		}
	}
}

// TestLoadActionsTaken: policies that cordon and plan moves are in force too, but only root of the
// host sets those whose targets get containers.
func TestLoadActionsTaken(t *testing.T) {
	cordon := strings.Replace(loadPolicy, "[alert]", "[alert, cordon]", 1)
	migrate := strings.Replace(loadPolicy, "[alert]}", "[migrate], movable: {names: ['*']}, targets: [{name: b, engine: 'unix:///run/b'}]}", 1)
	for act, text := range map[string]string{"alert,cordon": cordon, "migrate": migrate, "propose": strings.Replace(migrate, "migrate", "propose", 1)} {
		m := newManaged(t, "", map[string]string{"a.yaml": strings.Replace(admins, "users: [root]", "users: [root, alice]", 1)})
		_, err := m.apply(alice, text)
		if plans := act != "alert,cordon"; plans != (err != nil && strings.Contains(err.Error(), "only root of the host may set it")) {
			t.Errorf("%s by alice: got %v", act, err)
		}
		if _, err := m.apply(rootCaller, text); err != nil {
			t.Errorf("%s by root: %v", act, err)
		}
		if got := m.policies.current().LoadPolicies(); len(got) != 1 || loadMode(got[0]) != act {
			t.Errorf("%s: in force are %+v", act, got)
		}
	}
}

// TestLoadEmailCommand: who may change policies cannot have a program run as root by that.
func TestLoadEmailCommand(t *testing.T) {
	m := newManaged(t, "", map[string]string{"a.yaml": strings.Replace(admins, "users: [root]", "users: [root, alice]", 1)})
	mail := strings.Replace(loadPolicy, "[alert]}", "[alert], alerts: {email: {command: /usr/sbin/reboot, to: [a@example.org]}}}", 1)
	if _, err := m.apply(alice, mail); err == nil || !strings.Contains(err.Error(), "only root of the host may set it") {
		t.Errorf("by alice: got %v", err)
	}
	if _, err := m.apply(alice, loadPolicy); err != nil {
		t.Errorf("without it, by alice: %v", err)
	}
	if _, err := m.apply(rootCaller, mail); err != nil {
		t.Errorf("by root: %v", err)
	}
}

// TestLoadRecord: an alert is a record with its causes.
func TestLoadRecord(t *testing.T) {
	a := new(Agent)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	web := load.Subject{ID: ident.ContainerID(strings.Repeat("a", 64)), Name: "web"}
	r := a.loadRecord(&load.Alert{
		Event: load.EventOver, Policy: "node", Cap: "memory", Time: at, Since: at, Percent: 90, Limit: 85, Container: &web,
		Causes: []load.Cause{{Subject: web, Now: 2, Grew: 1, Unit: "bytes", Since: at}}, Error: strings.Repeat("x", 4096),
	})
	if r.Kind != journal.KindLoad || r.Load.Cap != "memory" || len(r.Load.Causes) != 1 || r.Load.Causes[0].Name != "web" || r.Container.Name != "web" ||
		r.Policy.Rule != "caps.memory" || len(r.Load.Error) != maxLoadError || !strings.Contains(r.Message, "web grew by 1 B") {
		t.Errorf("got %+v", r)
	}
}

// TestTellMove: a move of several containers is a record of each, and one alert.
func TestTellMove(t *testing.T) {
	m := newManaged(t, "", map[string]string{"a.yaml": admins})
	mail := strings.Replace(loadPolicy, "[alert]}", "[alert], alerts: {email: {command: /usr/sbin/sendmail, to: [a@example.org]}}}", 1)
	if _, err := m.apply(rootCaller, mail); err != nil {
		t.Fatal(err)
	}
	a := &Agent{cfg: unloadConfig(t), policies: m.policies}
	var err error
	if a.journal, err = journal.Open(journal.Options{Dir: a.cfg.journalDir()}); err != nil {
		t.Fatal(err)
	}
	sent := make(chan string, 3)
	a.notifier = load.NewNotifier(load.NotifyOptions{
		Run: func(_ context.Context, _ string, _ []string, message []byte, _ time.Duration) error {
			sent <- string(message)
			return nil
		},
		Health: health.New(nil), Log: slog.New(slog.DiscardHandler),
	})
	a.tellMove(carry.Note{Event: carry.EventMoved, Policy: "node", Container: strings.Repeat("a", 64), Name: "shop", Text: "both were moved"})
	a.tellMove(carry.Note{Event: carry.EventMoved, Policy: "node", Container: strings.Repeat("b", 64), Name: "side", Text: "both were moved", Also: true})
	a.tellMove(carry.Note{Event: carry.EventNoPlan, Policy: "node", Text: "no moves would help"})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.notifier.Run(ctx) }()
	for _, want := range []string{"both were moved", "no moves would help"} {
		if got := <-sent; !strings.Contains(got, want) {
			t.Errorf("got %s, want %q", got, want)
		}
	}
	stop()
	if err := errors.Join(<-ended, a.journal.Close()); err != nil {
		t.Fatal(err)
	}
	if _, n := lastRecord(t, &a.cfg); n != 3 {
		t.Errorf("%d records", n)
	}
}
