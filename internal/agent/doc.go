// Package agent joins the parts into the host agent: policies, kernel side, container
// runtimes, journal and control socket, in one errgroup.
//
// It owns the run directory (lock, pins, control socket) and the state directory
// (journal, last good policies, known containers). It holds no rule of its own: what
// is decided is decided by the kernel side, from policies. Row: assembly (top).
package agent
