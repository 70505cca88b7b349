package agent

import (
	"testing"
	"time"
)

// TestCanaryInterval: who asks for the last canary is told when the next one is due.
func TestCanaryInterval(t *testing.T) {
	a := &Agent{cfg: Config{CanaryEvery: time.Hour}}
	if got := a.lastCanary().EverySeconds; got != 3600 {
		t.Errorf("got %v s, want 3600", got)
	}
}
