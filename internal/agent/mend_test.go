package agent

import (
	"testing"
	"time"
)

// TestMendWaitsForALoad: the policies that were in force are not put into the kernel while others are loaded.
func TestMendWaitsForALoad(t *testing.T) {
	a := &Agent{manager: &manager{}} // without a kernel side: mending panics as soon as it begins
	a.manager.mu.Lock()
	began := make(chan struct{})
	go func() {
		defer func() { _ = recover(); close(began) }()
		_ = a.mend()
	}()
	select {
	case <-began:
		t.Error("mending began during a load")
	case <-time.After(100 * time.Millisecond):
	}
	a.manager.mu.Unlock()
	<-began
}
