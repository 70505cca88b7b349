package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/telemetry"
	"github.com/belay-project/belay/internal/verdict"
)

// twoBoots writes a journal of two boots of n records each, with an anchor in the middle of each.
func twoBoots(t *testing.T, n int) (dir string, ids map[string]bool) {
	t.Helper()
	dir, ids = filepath.Join(t.TempDir(), "journal"), map[string]bool{}
	for _, boot := range []string{"boot-1", "boot-2"} {
		j, err := journal.Open(journal.Options{Dir: dir, BootID: boot, Host: "host-1"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			r := &journal.Record{Kind: journal.KindExec, Decision: verdict.Denied, Time: time.Date(2026, 3, 1, 12, 0, i, 0, time.UTC)}
			if i == n/2 {
				a, err := j.Anchor()
				if err != nil {
					t.Fatal(err)
				}
				r = &journal.Record{Kind: journal.KindAnchor, Anchor: &a}
			}
			if !j.Append(r) {
				t.Fatal("a record was dropped")
			}
			ids[fmt.Sprintf("%s:%d", boot, r.Seq)] = true
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dir, ids
}

// TestReplay: a journal is sent once more to a collector that dies in the middle and comes back: it has
// each record, with the id and the boot that it had, and the anchors hold against the journal.
func TestReplay(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			recv := Start(t)
			endpoint := "http://" + recv.GRPC
			if protocol != "grpc" {
				endpoint = "http://" + recv.HTTP
			}
			dir, ids := twoBoots(t, 1500)
			r, err := telemetry.OpenReplay(t.Context(), telemetry.Options{
				Endpoint: endpoint, Protocol: protocol, Version: "test", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), RetryFirst: 20 * time.Millisecond, RetryMost: 100 * time.Millisecond,
			})
			if err != nil {
				t.Fatal(err)
			}
			var batch []*journal.Record
			sent := 0
			err = journal.Read(t.Context(), dir, journal.ReadOptions{Verified: true}, func(rec *journal.Record) error {
				if batch = append(batch, rec); len(batch) < 250 {
					return nil
				}
				if sent++; sent == 3 {
					recv.Kill()
					time.AfterFunc(300*time.Millisecond, func() { recv.Again(t) })
				}
				r.Deliver(t.Context(), batch)
				batch = nil
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			r.Deliver(t.Context(), batch)
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if r.Sent() != uint64(len(ids)) || r.Trouble() != "" {
				t.Errorf("sent %d of %d, dropped %v, %s", r.Sent(), len(ids), r.Drops(), r.Trouble())
			}
			wantReplayed(t, recv.Items(t), dir, ids)
		})
	}
}

func wantReplayed(t *testing.T, items []Item, dir string, ids map[string]bool) {
	t.Helper()
	got := map[string]bool{}
	var bodies []string
	for _, i := range items {
		id, _ := i.Attributes["log.record.uid"].(string)
		got[id] = true
		if boot, _, _ := strings.Cut(id, ":"); i.Resource["belay.boot.id"] != boot || i.Resource["host.name"] != "host-1" {
			t.Errorf("%s is of the resource %v", id, i.Resource)
		}
		bodies = append(bodies, i.Body)
	}
	for id := range ids {
		if !got[id] {
			t.Errorf("%s did not come", id)
		}
	}
	if len(got) != len(ids) {
		t.Errorf("%d ids came of %d", len(got), len(ids))
	}
	f, err := journal.ReadAnchors(strings.NewReader(strings.Join(bodies, "\n")), "host-1")
	if err != nil || len(f.Anchors) != 2 {
		t.Fatalf("%d anchors (%v), want those of both boots", len(f.Anchors), err)
	}
	if rep, err := journal.VerifyAnchors(dir, f.Anchors); err != nil || !rep.OK() {
		t.Errorf("the anchors that came: %+v, %v", rep, err)
	}
}
