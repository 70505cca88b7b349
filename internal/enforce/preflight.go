package enforce

import (
	"fmt"
	"os"

	"github.com/belay-project/belay/internal/hostinfo"
	"github.com/belay-project/belay/internal/verdict"
)

// PreflightReport is what this kernel lets Belay do.
type PreflightReport struct {
	Backends []ProbeResult   `json:"backends"`
	Auto     verdict.Backend `json:"auto"` // what --backend auto takes; empty: none works
	Levels   []RuleLevel     `json:"levels"`
	Notes    []string        `json:"notes,omitempty"`
}

// Preflight tries this kernel and changes nothing.
func Preflight() PreflightReport {
	r := PreflightReport{Backends: Probe()}
	var err error
	if r.Auto, err = chooseBackend("auto", r.Backends); err != nil {
		r.Notes = append(r.Notes, err.Error())
		return r
	}
	e := &Enforcer{backend: r.Auto}
	if e.root, err = findCgroupRoot(); err != nil {
		r.Notes = append(r.Notes, err.Error())
	} else if e.root.v1 {
		r.Notes = append(r.Notes, "no cgroup v2 hierarchy: containers are recognised on the v1 pids hierarchy, and network rules are unsupported")
	}
	if _, err := findOverlay(); err != nil {
		e.overlay = err
	}
	if kernelSymbol("rename_lock") == 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("the kernel does not show rename_lock: a path that is renamed while %s walks it is judged as read", "exec.allow or exec.deny"))
	}
	if p := hostinfo.ReadPreemption(readText); p.Midway() && skipsPreempted(r.Auto) {
		r.Notes = append(r.Notes, fmt.Sprintf("the kernel may take the processor from a task inside of a BPF program (%s): until it goes on, the same act of other tasks on that processor "+
			"passes unjudged; boot with preempt=voluntary, where the kernel has it, or with bpf in lsm= on Linux 6.2 or later, for the backend lsm", p))
	}
	r.Levels = e.Levels()
	return r
}

// skipsPreempted tells whether the kernel leaves out a backend's programs for tasks that come while another was preempted in one.
// The kernel commit that ended it for lsm, 271de525e1d7 of 6.2, also made the function.
func skipsPreempted(b verdict.Backend) bool {
	return b == verdict.BackendModret || b == verdict.BackendLSM && !kernelHas("__bpf_prog_enter_recur")
}

// readText returns a file of the kernel's; empty if it cannot be read.
func readText(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}
