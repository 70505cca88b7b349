package main

import (
	"runtime"
	"testing"
)

func TestProcessors(t *testing.T) {
	for host, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 2, 16: 2, 32: 4, 128: 16} {
		if got := processors(host); got != want {
			t.Errorf("on a host of %d processors: got %d, want %d", host, got, want)
		}
	}
}

func TestLimitProcessors(t *testing.T) {
	was := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(was) })
	t.Setenv("GOMAXPROCS", "3")
	limitProcessors()
	if got := runtime.GOMAXPROCS(0); got != was {
		t.Errorf("the environment says it: got %d, want it left at %d", got, was)
	}
	t.Setenv("GOMAXPROCS", "")
	limitProcessors()
	if got, want := runtime.GOMAXPROCS(0), processors(runtime.NumCPU()); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
}
