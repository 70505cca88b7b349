package agent

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

// withOutputs is an agent as far as its journal and its outputs go.
func withOutputs(t *testing.T, outputs, anchor []string) (*Agent, error) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	a := &Agent{cfg: Config{StateDir: t.TempDir(), RunDir: t.TempDir(), Outputs: outputs, Anchor: anchor, Log: log}, log: log, health: health.New(nil)}
	a.host.BootID, a.host.Hostname = "boot", "web1"
	if err := a.openOutputs(); err != nil {
		return nil, err
	}
	if err := a.openJournal(); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := a.journal.Close(); err != nil {
			t.Error(err)
		}
	})
	return a, a.checkAnchor()
}

// TestAnchorsGoOut: the heads of the journal are in what an output got, only when something came, and
// the journal holds them.
func TestAnchorsGoOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.json")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := withOutputs(t, []string{"file:" + path, "webhook:http://127.0.0.1:1/x,secret=" + secret}, []string{"webhook"})
	if err != nil {
		t.Fatal(err)
	}
	stop := a.runOutputs(context.Background())
	a.note("agent started")
	a.anchor()
	a.anchor() // nothing came
	a.journal.Append(&journal.Record{Kind: journal.KindExec, Decision: verdict.Denied, Time: time.Now()})
	a.anchor()
	if err := a.journal.Flush(); err != nil {
		t.Fatal(err)
	}
	stop()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := journal.ReadAnchors(bytes.NewReader(raw), a.host.Hostname)
	if err != nil || len(f.Anchors) != 2 || f.Lines != 4 {
		t.Fatalf("%d anchors in %d lines (%v), want 2 in 4: %s", len(f.Anchors), f.Lines, err, raw)
	}
	rep, err := journal.VerifyAnchors(a.records, f.Anchors)
	if err != nil || !rep.OK() || rep.Rings[0].Found != 2 || rep.Rings[1].Found != 2 {
		t.Errorf("got %+v, %v", rep, err)
	}
	st := a.outputStatus()
	if len(st) != 2 || st[0].Sent != 4 || st[1].Sent != 0 || st[1].Error == "" || strings.Contains(st[1].Name, "/x") {
		t.Errorf("status %+v", st)
	}
}

// TestAnchorNeedsAPlace: an anchor that would go nowhere keeps the agent from starting.
func TestAnchorNeedsAPlace(t *testing.T) {
	for _, tt := range []struct {
		anchor []string
		want   string
	}{
		{[]string{"otlp"}, "--otlp-endpoint"}, {[]string{"syslog"}, "--output syslog"}, {[]string{"webhook"}, "--output webhook"},
		{[]string{"file"}, "want otlp, syslog, webhook or none"}, {[]string{"none", "otlp"}, "stands alone"},
	} {
		if _, err := withOutputs(t, []string{"stdout"}, tt.anchor); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.anchor, err, tt.want)
		}
	}
	if _, err := withOutputs(t, []string{"kafka:x"}, nil); err == nil {
		t.Error("an output of no kind was taken")
	}
}

// TestAnchorUnasked: without a word of the operator's the journal is anchored where its records leave the host.
func TestAnchorUnasked(t *testing.T) {
	for _, tt := range []struct {
		name            string
		outputs, anchor []string
		want            int // anchors
	}{
		{"syslog", []string{"syslog:/nowhere"}, nil, 1},
		{"no output", nil, nil, 0},
		{"what stays here", []string{"stdout"}, nil, 0},
		{"not wanted", []string{"syslog:/nowhere"}, []string{"none"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := withOutputs(t, tt.outputs, tt.anchor)
			if err != nil {
				t.Fatal(err)
			}
			a.note("x")
			before := a.journal.Stats().Seq
			a.anchor()
			if got := int(a.journal.Stats().Seq - before); got != tt.want {
				t.Errorf("%d anchors, want %d", got, tt.want)
			}
		})
	}
}

// TestAnchorOfFallback: a journal that is elsewhere until the next start is not anchored: its heads would be
// missed later.
func TestAnchorOfFallback(t *testing.T) {
	a, err := withOutputs(t, []string{"syslog:/nowhere"}, []string{"syslog"})
	if err != nil {
		t.Fatal(err)
	}
	a.records = "elsewhere"
	if err := a.checkAnchor(); err != nil {
		t.Fatal(err)
	}
	before := a.journal.Stats().Seq
	a.note("x")
	a.anchor()
	if c, _ := a.health.Component(anchorComponent); a.journal.Stats().Seq != before+1 || c.State != health.Degraded {
		t.Errorf("seq %d after %d, health %+v", a.journal.Stats().Seq, before, c)
	}
}
