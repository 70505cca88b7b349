package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/hooksig"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/output"
	"github.com/belay-project/belay/internal/verdict"
)

// longJournal is a journal of n records, and their ids.
func longJournal(t *testing.T, n int) (dir string, ids map[string]bool) {
	t.Helper()
	dir, ids = t.TempDir(), map[string]bool{}
	j, err := journal.Open(journal.Options{Dir: dir, BootID: "boot", Host: "host"})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		r := &journal.Record{Kind: journal.KindExec, Time: testNow, Decision: verdict.Denied}
		j.Append(r)
		ids[output.UID(r)] = true
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, ids
}

func onceMore(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = run(t.Context(), &terminal{in: strings.NewReader(""), out: &out, err: &err, now: func() time.Time { return testNow }}, args)
	return status, out.String(), err.String()
}

// TestReplayToWebhook: a webhook that dies in the middle of a replay and comes back has each record, signed.
func TestReplayToWebhook(t *testing.T) {
	const secret = "0123456789abcdef"
	secretFile := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secretFile, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards got and n
	got, n := map[string]int{}, 0
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if n++; n == 2 || n == 3 { // it dies with the request in its hands
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
			return
		}
		if r.Header.Get(hooksig.HeaderSignature) != hooksig.Sign([]byte(secret), r.Header.Get(hooksig.HeaderTimestamp), body) {
			t.Error("the signature does not hold")
		}
		var b struct{ Events []journal.Record }
		if err := json.Unmarshal(body, &b); err != nil {
			t.Error(err)
		}
		for i := range b.Events {
			if !b.Events[i].Time.Equal(testNow) {
				t.Errorf("time %v", b.Events[i].Time)
			}
			got[output.UID(&b.Events[i])]++
		}
	})
	srv := httptest.NewServer(h)
	defer srv.Close()
	dir, ids := longJournal(t, 1200)
	status, _, stderr := onceMore(t, "events", "replay", "--to", "webhook:"+srv.URL+"/T0K3N,secret="+secretFile, dir)
	if status != 0 || !strings.Contains(stderr, "1200 records sent to webhook:http://127.0.0.1:") || strings.Contains(stderr, "T0K3N") {
		t.Errorf("status %d: %s", status, stderr)
	}
	for id := range ids {
		if got[id] != 1 {
			t.Errorf("%s came %d times", id, got[id])
		}
	}
}

// TestReplayToSyslog: a record a datagram, at the host's own logger.
func TestReplayToSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	c, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	dir, ids := longJournal(t, 300)
	var wg sync.WaitGroup
	seen := 0
	wg.Go(func() {
		b := make([]byte, 64<<10)
		for seen < len(ids) {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, body, _ := strings.Cut(string(b[:n]), "] ")
			var r journal.Record
			if err := json.Unmarshal([]byte(body), &r); err != nil || !ids[output.UID(&r)] {
				t.Errorf("%s: %v", b[:n], err)
			}
			seen++
		}
	})
	if status, _, stderr := onceMore(t, "events", "replay", "--to", "syslog:"+path, dir); status != 0 {
		t.Errorf("status %d: %s", status, stderr)
	}
	time.AfterFunc(10*time.Second, func() { c.Close() })
	wg.Wait()
	if seen != len(ids) {
		t.Errorf("%d of %d came", seen, len(ids))
	}
	c.Close()
}
