package main

import (
	"os"
	"runtime"
)

// limitProcessors bounds how many threads run Go code at a time, unless the environment's
// GOMAXPROCS says it. An agent sleeps most of the time: with a thread for each processor,
// each record that wakes it also wakes others, which look for work and find none. Nothing
// waits for a thread that is in a system call.
func limitProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processors(runtime.NumCPU()))
	}
}

// processors returns the agent's share of a host's: an eighth, but two, or one where the
// host has no more than two.
func processors(host int) int {
	if host <= 2 {
		return 1
	}
	return max(2, host/8)
}
