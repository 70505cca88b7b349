package enforce

import (
	"fmt"

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
	r.Levels = e.Levels()
	return r
}
