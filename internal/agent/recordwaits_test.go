package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/ident"
)

// TestDescribeWaitsForNoBinding: the goroutines that drain the rings do not wait while containers are bound anew.
func TestDescribeWaitsForNoBinding(t *testing.T) {
	b := testBinder(t)
	b.a.binder, b.a.kernel = b, &enforce.Enforcer{}
	b.mu.Lock() // as a rebind of all has it
	defer b.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.a.describe(&enforce.Event{Type: enforce.EventBPF, Container: ident.ContainerID(strings.Repeat("a", 64))})
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the record of a kernel event waits for the binder")
	}
}
