package agent

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/journal"
)

// What the kernel left out is counted over programs that are attached anew, and is not forgotten.
func TestSkips(t *testing.T) {
	j, err := journal.Open(journal.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	a := &Agent{health: health.New(nil), journal: j, log: slog.New(slog.DiscardHandler)}
	for _, tt := range []struct {
		name    string
		now     map[string]enforce.Skips
		err     error
		state   health.State
		reason  string
		counter uint64
		records uint64
	}{
		{"nothing", nil, nil, health.OK, "", 0, 0},
		{"some", map[string]enforce.Skips{"security_file_open": {Program: 1, Times: 3}, "security_bpf": {Program: 1, Times: 1}}, nil, health.Degraded, "security_bpf 1, security_file_open 3", 4, 1},
		{"no more", map[string]enforce.Skips{"security_file_open": {Program: 1, Times: 3}, "security_bpf": {Program: 1, Times: 1}}, nil, health.Degraded, "security_bpf 1, security_file_open 3", 4, 1},
		{"cannot be read", nil, errors.New("no pins"), health.Degraded, "no pins", 4, 1},
		{"attached anew", map[string]enforce.Skips{"security_file_open": {Program: 2, Times: 2}}, nil, health.Degraded, "security_bpf 1, security_file_open 5", 6, 2},
		{"and anew", nil, nil, health.Degraded, "security_bpf 1, security_file_open 5", 6, 2},
		{"and more", map[string]enforce.Skips{"security_file_open": {Program: 3, Times: 1}}, nil, health.Degraded, "security_bpf 1, security_file_open 6", 7, 3},
		{"attached anew, as many", map[string]enforce.Skips{"security_file_open": {Program: 4, Times: 1}}, nil, health.Degraded, "security_bpf 1, security_file_open 7", 8, 4},
	} {
		a.tellSkips(tt.now, tt.err)
		c, _ := a.health.Component("kernel_skips")
		if n := a.health.Counter("kernel_skipped").Load(); c.State != tt.state || !strings.Contains(c.Reason, tt.reason) || n != tt.counter {
			t.Errorf("%s: %s %q, counted %d; want %s %q, %d", tt.name, c.State, c.Reason, n, tt.state, tt.reason, tt.counter)
		}
		if n := j.Stats().Appended; n != tt.records {
			t.Errorf("%s: %d records, want %d", tt.name, n, tt.records)
		}
	}
}
