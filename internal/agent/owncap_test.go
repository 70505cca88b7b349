package agent

import (
	"context"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/owncap"
	"github.com/belay-project/belay/internal/verdict"
)

// Denials and containers' lives have their records on every step; of what was allowed each
// container has its first ones, whatever others do.
func TestOwnCapsKeep(t *testing.T) {
	exec := func(id string, d verdict.Decision) *enforce.Event {
		return &enforce.Event{Type: enforce.EventExec, Container: ident.ContainerID(id), Decision: d}
	}
	for step := owncap.Normal; step <= owncap.Plain; step++ {
		var o own
		o.step.Store(uint32(step))
		kept := 0
		for range 1600 {
			if !o.keeps(exec("flood", verdict.Denied)) || !o.keeps(&enforce.Event{Type: enforce.EventStart, Decision: verdict.Allowed}) ||
				!o.keeps(exec("flood", verdict.WouldDeny)) {
				t.Fatalf("%s: a denial, or a container's start, has no record", step)
			}
			if o.keeps(exec("flood", verdict.Allowed)) {
				kept++
			}
		}
		want := 1600
		if step >= owncap.Sampled {
			want = owncap.SampleOf + 100 - 1 // the sixteenth is among the first
		}
		if kept != want || o.leftOut.Load() != uint64(1600-want) {
			t.Errorf("%s: %d records are kept, want %d; %d are counted as left out", step, kept, want, o.leftOut.Load())
		}
		if !o.keeps(exec("quiet", verdict.Allowed)) {
			t.Errorf("%s: a quiet container is not heard behind another one", step)
		}
		if o.plain(exec("flood", verdict.Denied)) || o.plain(exec("flood", verdict.Allowed)) != (step == owncap.Plain) {
			t.Errorf("%s: which records are plain", step)
		}
	}
	r := &journal.Record{Process: &journal.Process{PID: 1, Comm: "sh", Args: []string{"a"}}, Container: &journal.Container{ID: "x", Labels: map[string]string{"a": "b"}}}
	if strip(r); r.Process.Args != nil || r.Container.Labels != nil || r.Process.PID != 1 || r.Container.ID != "x" {
		t.Errorf("%+v", r)
	}
}

// Near the caps a scan that nobody waits for begins now and then all the same.
func TestOwnCapsScans(t *testing.T) {
	var o own
	at := time.Now()
	if !o.mayScan(at) || !o.mayScan(at) {
		t.Fatal("no scan begins though nothing is given up")
	}
	o.step.Store(uint32(owncap.NoScans))
	n := 0
	for range 60 {
		if o.mayScan(at) {
			n++
		}
		at = at.Add(time.Minute)
	}
	if n != 6 {
		t.Errorf("%d scans begin in an hour, want 6", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o.scanned.Store(time.Now().UnixNano())
	if err := o.awaitScan(ctx); err == nil {
		t.Error("a scan begins though its time has ended")
	}
}
