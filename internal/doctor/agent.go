package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/policy"
)

// canaryOld is the least age from which on the last canary says nothing, and canariesMissed how many must have been
// left out: the agent tries one each minute, unless it was told otherwise.
const (
	canaryOld      = 10 * time.Minute
	canariesMissed = 3
)

const seeLog = "see belay status and the agent's log (journalctl -u belay-agent)"

func (e *examination) checkAgent(ctx context.Context) {
	switch {
	case errors.Is(e.asked, control.ErrNotRunning):
		e.add("agent.running", Fail, "no agent runs", errorText(e.asked), "systemctl enable --now belay-agent; if it runs elsewhere, name its directory with --run-dir")
		return
	case e.status == nil:
		e.add("agent.running", Fail, "the agent does not answer", errorText(e.asked), "run belay doctor as root or as a member of the control socket's group; then "+seeLog)
		return
	}
	st := e.status
	e.add("agent.running", OK, fmt.Sprintf("the agent %s runs as %d", st.Version, st.PID), "", "")
	if st.Enforcing {
		e.add("agent.enforcing", OK, "it enforces", "", "")
	} else {
		e.add("agent.enforcing", Fail, "it does not enforce", st.Why, seeLog)
	}
	if st.Version == e.Version {
		e.add("agent.version", OK, "the command and the agent are both "+e.Version, "", "")
	} else {
		e.add("agent.version", Warn, fmt.Sprintf("the command is %s and the agent that runs is %s", e.Version, st.Version), "",
			"after an upgrade systemctl restart belay-agent, which leaves no gap; else see which belay is first in PATH")
	}
	e.checkCanary(ctx)
	e.checkHealth()
	e.checkRuntimes()
	e.checkJournal()
	e.checkSockets()
}

// checkSockets tells whether the kernel keeps others than the gate from the engine's own
// sockets.
func (e *examination) checkSockets() {
	const id = "agent.sockets"
	const fix = "belay-agent run --guard-sockets enforce; try audit first (docs/gate.md, The daemon's own sockets)"
	switch g := e.status.Guard; {
	case g == nil:
	case g.Mode != "off" && g.Level == "unsupported":
		e.add(id, Fail, "the engine's own sockets are to be guarded, and this kernel does not show who connects", g.Note, "see docs/kernel-support.md")
	case g.Mode == "enforce":
		e.add(id, OK, "the engine's own sockets are guarded", "", "")
	case g.Mode == "audit":
		e.add(id, Warn, fmt.Sprintf("connections around the gate are only reported (%d until now)", g.Reported), "", fix)
	default:
		e.add(id, OK, "the engine's own sockets are guarded by their modes alone", "", "")
	}
}

func (e *examination) checkCanary(ctx context.Context) {
	const id = "agent.canary"
	const fix = "somebody may have detached Belay's programs or edited its maps: look in belay events for agent records, and see who has CAP_BPF or CAP_SYS_ADMIN; systemctl restart belay-agent attaches anew"
	c := e.status.Canary
	if e.Canary {
		var err error
		if c, err = e.Agent.RunCanary(ctx); err != nil {
			e.add(id, Fail, "the agent did not run its canary", errorText(err), "try again; then "+seeLog)
			return
		}
	}
	switch {
	case c == nil || c.Count == 0:
		e.add(id, Fail, "no canary has run: nothing shows that a denial works", "", seeLog)
	case !c.Denied && c.Failed == 0:
		e.add(id, Warn, "no canary can run here: nothing shows that a denial works", c.Error, "boot with cgroup v2")
	case !c.Denied:
		e.add(id, Fail, fmt.Sprintf("an act that must be denied was not (%d of %d tests failed)", c.Failed, c.Count), c.Error, fix)
	case e.Now().Sub(c.Time).Seconds() > max(canaryOld.Seconds(), canariesMissed*c.EverySeconds):
		e.add(id, Warn, "the last act that must be denied was tried "+c.Time.UTC().Format(time.RFC3339), "", "belay doctor --canary tries one now")
	case c.Failed > 0:
		e.add(id, Warn, fmt.Sprintf("an act that must be denied is denied, and was not in %d of %d tests", c.Failed, c.Count), "", fix)
	default:
		e.add(id, OK, fmt.Sprintf("an act that must be denied was denied in each of %d tests", c.Count), "", "")
	}
}

func (e *examination) checkHealth() {
	h := e.status.Health
	well := 0
	for _, c := range h.Components {
		switch c.State {
		case health.OK:
			well++
		case health.Degraded:
			e.add("agent.health", Warn, "the part "+c.Name+" works in part only", c.Reason, seeLog)
		default:
			e.add("agent.health", Fail, "the part "+c.Name+" does not work", c.Reason, seeLog)
		}
	}
	if len(h.Components) == 0 {
		e.add("agent.health", Fail, "the agent says nothing of its parts", "", seeLog)
	} else if well == len(h.Components) {
		e.add("agent.health", OK, fmt.Sprintf("all %d parts work", well), "", "")
	}
	failed := nonZero(e.status.Failures)
	if len(failed) == 0 {
		e.add("agent.failures", OK, "the kernel side has counted no failure", "", "")
		return
	}
	e.add("agent.failures", Warn, "the kernel side has counted failures: "+strings.Join(failed, ", "), "", "see each in docs/failure-codes.md")
}

// nonZero lists counters that have counted.
func nonZero(counters map[string]uint64) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		if n := counters[name]; n > 0 {
			out = append(out, fmt.Sprintf("%s %d", name, n))
		}
	}
	return out
}

func (e *examination) checkRuntimes() {
	const id = "agent.runtime"
	if len(e.status.Sources) == 0 {
		e.add(id, Warn, "the agent follows no container runtime: policies that select by name, image or label do not apply", "", "start it with --docker-host or --containerd")
	}
	for _, s := range e.status.Sources {
		if s.Connected {
			e.add(id, OK, "the agent follows "+s.Name, s.Address, "")
			continue
		}
		e.add(id, Warn, "the agent is not connected to "+s.Name+": new containers have the floor alone", strings.TrimSpace(s.Address+" "+s.Error),
			"start "+s.Name+", or name its socket to the agent with --docker-host or --containerd")
	}
}

func (e *examination) checkJournal() {
	j := e.status.Journal
	switch {
	case j.LastError != "":
		e.add("journal.error", Fail, "the journal could not be written", j.LastError, "make room below "+e.Journal+", or see what its file system says (dmesg)")
	case j.SyncErrors > 0 || j.Damaged > 0:
		e.add("journal.error", Warn, fmt.Sprintf("the journal has %d damaged lines, and %d records may not survive a power loss", j.Damaged, j.SyncErrors), "", "belay journal verify; see what its disk says (dmesg)")
	default:
		e.add("journal.error", OK, fmt.Sprintf("the journal has %d records", j.Written), "", "")
	}
	if lost := nonZero(j.Dropped); len(lost) > 0 {
		e.add("journal.lost", Warn, "records were lost: "+strings.Join(lost, ", "), "", "see docs/event-schema.md for the causes; a full queue wants a faster disk below "+e.Journal)
	} else {
		e.add("journal.lost", OK, "no record was lost", "", "")
	}
}

func (e *examination) checkPolicies(ctx context.Context) {
	if e.status == nil {
		return
	}
	set := e.status.Policies
	switch {
	case set.Error != "":
		e.add("policy.loaded", Fail, "the policies that are written are not in force; the former ones are", set.Error, "belay policy check "+set.Dir+" names file, line and fix; then belay policy reload")
	case set.Loaded.IsZero():
		e.add("policy.loaded", Fail, "no policies were loaded", "", seeLog)
	default:
		e.add("policy.loaded", OK, "the policies are loaded, revision "+set.Revision, set.Dir, "")
	}
	for _, p := range set.Policies {
		kind := p.Kind
		if kind == "" {
			kind = policy.Kind
		}
		if p.Refused != "" {
			e.add("policy.refused", Fail, fmt.Sprintf("%s %s is refused: this host cannot give the level that it requires", kind, p.Name), p.Refused, "take require out of it, or make the host give that level: see kernel.backend")
			continue
		}
		e.add("policy.inforce", OK, fmt.Sprintf("%s %s is in force, mode %s, revision %s", kind, p.Name, p.Mode, p.Revision), "", "")
	}
	if len(set.Policies) == 0 {
		e.add("policy.inforce", Warn, "no policy is in force: containers may do what they like, save for the guards", "", "put one into "+set.Dir+": docs/policy-reference.md has examples")
	}
	e.checkLevels()
	e.checkContainers(ctx)
}

// checkLevels tells what denied acts come to here. Policies' own rules are not in the
// status: containers that they do not hold for are named by checkContainers.
func (e *examination) checkLevels() {
	const id = "policy.level"
	for _, l := range e.status.Levels {
		text := "what " + l.Rule + " denies: " + l.Level
		switch l.Level {
		case "prevent":
			e.add(id, OK, text, l.Note, "")
		case "kill":
			e.add(id, Info, text, l.Note, "")
		default:
			e.add(id, Warn, text+": a policy with this rule does not hold here", l.Note, "see kernel.backend and docs/kernel-support.md; require: in a policy refuses what this host cannot give")
		}
	}
}

// maxNamed bounds how many containers are named one by one.
const maxNamed = 20

func (e *examination) checkContainers(ctx context.Context) {
	const id = "policy.container"
	all, err := e.Agent.Containers(ctx)
	if err != nil {
		e.add(id, Warn, "the agent does not list its containers", errorText(err), seeLog)
		return
	}
	bad := 0
	for _, c := range all {
		if len(c.Problems) == 0 && c.Lost == 0 {
			continue
		}
		if bad++; bad <= maxNamed {
			e.add(id, Warn, fmt.Sprintf("rules do not hold, or records were lost (%d), for the container %.12s", c.Lost, c.ID),
				strings.Join(append([]string{c.Name}, c.Problems...), "; "), "belay explain "+fmt.Sprintf("%.12s", c.ID))
		}
	}
	switch {
	case bad > maxNamed:
		e.add(id, Warn, fmt.Sprintf("and for %d more containers", bad-maxNamed), "", "belay containers")
	case bad == 0:
		e.add(id, OK, fmt.Sprintf("their policies hold for all of %d containers", len(all)), "", "")
	}
	e.checkBPF(all)
}

// mayBPF are the capabilities that open bpf(2): CAP_SYS_ADMIN and CAP_BPF.
// Source: include/uapi/linux/capability.h.
const mayBPF = 1<<21 | 1<<39

// checkBPF names containers that may be made for bpf(2), which guard.bpf denies them with every
// policy and with none: agents of networks and of other tools, engines in containers.
func (e *examination) checkBPF(all []control.Container) {
	const id = "policy.bpf"
	if !slices.ContainsFunc(e.status.Levels, func(l control.Level) bool { return l.Rule == "guard.bpf" && l.Level == "prevent" }) {
		return // nothing is denied
	}
	var able []string
	for _, c := range all {
		if c.BPFAllowed || c.Armed.IsZero() || c.PID == 0 {
			continue
		}
		has, err := e.mayBPF(c.PID)
		switch {
		case missing(err), errors.Is(err, syscall.ESRCH): // it has ended
		case err != nil:
			e.add(id, Warn, fmt.Sprintf("the capabilities of the container %.12s cannot be read", c.ID), errorText(err), asRoot)
		case has:
			able = append(able, strings.TrimSpace(fmt.Sprintf("%.12s %s %s", c.ID, c.Name, c.ImageDigest)))
		}
	}
	if len(able) == 0 {
		e.add(id, OK, "no container has the capabilities for bpf() and is denied it", "", "")
		return
	}
	named := able[:min(len(able), maxNamed)]
	e.add(id, Warn, fmt.Sprintf("%d containers have CAP_BPF or CAP_SYS_ADMIN, and every bpf() of theirs is denied, with whatever policies", len(able)), strings.Join(named, "; "),
		"take the capability away from what needs none; for what is made of bpf() (Cilium, Calico with eBPF, Tetragon, Tracee, Falco, engines in containers) put allow-bpf.yaml with its image's digest "+
			"into the policies, belay policy reload, and start the container anew")
}

// mayBPF tells whether a process has a capability that opens bpf(2), in the host's user namespace:
// those of another one do not count there. Sources: proc_pid_status(5), proc_pid_uid_map(5).
func (e *examination) mayBPF(pid uint32) (bool, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	text, err := e.read(dir + "status")
	if err != nil {
		return false, err
	}
	_, hex, _ := strings.Cut(text, "\nCapEff:")
	hex, _, _ = strings.Cut(hex, "\n")
	effective, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
	if err != nil {
		return false, fmt.Errorf("%sstatus: CapEff: %w", dir, err)
	}
	if effective&mayBPF == 0 {
		return false, nil
	}
	uids, err := e.read(dir + "uid_map")
	return slices.Equal(strings.Fields(uids), []string{"0", "0", "4294967295"}), err
}
