package enforce

import (
	"errors"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/belay-project/belay/internal/verdict"
)

// RuleLevel is what this host can do about an act that a rule denies.
type RuleLevel struct {
	Rule  verdict.Rule  `json:"-"`
	Name  string        `json:"rule"`
	Level verdict.Level `json:"-"`
	Text  string        `json:"level"`
	Note  string        `json:"note,omitempty"`
}

// levelRow is the level of a rule on each backend when every hook is attached, and the
// hooks without which there is none. docs/kernel-support.md shows the same table.
type levelRow struct {
	rule   verdict.Rule
	levels map[verdict.Backend]verdict.Level
	notes  map[verdict.Backend]string
}

func row(r verdict.Rule, lsm, modret, signal verdict.Level, notes map[verdict.Backend]string) levelRow {
	return levelRow{rule: r, notes: notes, levels: map[verdict.Backend]verdict.Level{
		verdict.BackendLSM: lsm, verdict.BackendModret: modret, verdict.BackendSignal: signal,
	}}
}

func both(note string) map[verdict.Backend]string {
	return map[verdict.Backend]string{verdict.BackendLSM: note, verdict.BackendModret: note}
}

var levelTable = []levelRow{
	row(verdict.RuleAsRoot, verdict.Prevent, verdict.Prevent, verdict.Kill, nil),
	row(verdict.RuleFileCaps, verdict.Prevent, verdict.Kill, verdict.Kill, nil),
	row(verdict.RuleDrift, verdict.Prevent, verdict.Prevent, verdict.Kill, map[verdict.Backend]string{
		verdict.BackendSignal: "programs are killed; scripts are detected by path; files mapped by ld.so, dlopen or mmap are unsupported",
	}),
	row(verdict.RuleMemfd, verdict.Prevent, verdict.Prevent, verdict.Kill, map[verdict.Backend]string{
		verdict.BackendSignal: "mappings are unsupported",
	}),
	row(verdict.RulePathDeny, verdict.Prevent, verdict.Prevent, verdict.Kill, map[verdict.Backend]string{
		verdict.BackendSignal: "of a #! script only the interpreter is judged; files mapped by ld.so or mmap are unsupported",
	}),
	row(verdict.RulePathAllow, verdict.Prevent, verdict.Prevent, verdict.Kill, map[verdict.Backend]string{
		verdict.BackendSignal: "of a #! script only the interpreter is judged",
	}),
	row(verdict.RuleSSHServer, verdict.Prevent, verdict.Prevent, verdict.Prevent, map[verdict.Backend]string{
		verdict.BackendSignal: "the program and its listening socket are killed, the protocol is cut on any port; AF_PACKET is open",
		verdict.BackendLSM:    "AF_PACKET is open",
		verdict.BackendModret: "AF_PACKET is open",
	}),
	row(verdict.RuleSSHClient, verdict.Prevent, verdict.Prevent, verdict.Prevent, map[verdict.Backend]string{
		verdict.BackendSignal: "AF_PACKET is open", verdict.BackendLSM: "AF_PACKET is open", verdict.BackendModret: "AF_PACKET is open",
	}),
	row(verdict.RuleSSHKeys, verdict.Prevent, verdict.Prevent, verdict.Unsupported, nil),
	row(verdict.RuleBPF, verdict.Prevent, verdict.Prevent, verdict.Detect, map[verdict.Backend]string{
		verdict.BackendSignal: "a container with CAP_BPF or CAP_SYS_ADMIN can detach programs: the canary finds it and the agent mends it",
	}),
	row(verdict.RuleFiles, verdict.Prevent, verdict.Prevent, verdict.Unsupported, map[verdict.Backend]string{
		verdict.BackendLSM: filesNote, verdict.BackendModret: filesNote,
		verdict.BackendSignal: "acts on files are not seen",
	}),
	row(verdict.RuleSockets, verdict.Prevent, verdict.Prevent, verdict.Kill, map[verdict.Backend]string{
		verdict.BackendSignal: "who shares the descriptor with one that is killed can have written a request by then; io_uring is unsupported",
	}),
	row(verdict.RuleMount, verdict.Prevent, verdict.Prevent, verdict.Unsupported, nil),
	row(verdict.RulePtrace, verdict.Prevent, verdict.Prevent, verdict.Unsupported, nil),
	row(verdict.RuleOtherTasks, verdict.Prevent, verdict.Prevent, verdict.Unsupported, nil),
	row(verdict.RuleUserNamespaces, verdict.Prevent, verdict.Prevent, verdict.Unsupported, nil),
	row(verdict.RuleModules, verdict.Prevent, verdict.Prevent, verdict.Unsupported, nil),
	row(verdict.RuleModuleAutoload, verdict.Prevent, verdict.Prevent, verdict.Unsupported, nil),
	row(verdict.RulePerfEvents, verdict.Prevent, verdict.Prevent, verdict.Unsupported, nil),
	row(verdict.RuleKeyctl, verdict.Prevent, verdict.Prevent, verdict.Unsupported, nil),
	row(verdict.RuleIOUring, verdict.Prevent, verdict.Prevent, verdict.Unsupported, nil),
	row(verdict.RuleRawDevices, verdict.Prevent, verdict.Prevent, verdict.Unsupported, both(controlNote)),
	row(verdict.RuleKernelControl, verdict.Prevent, verdict.Prevent, verdict.Unsupported, both(controlNote)),
	row(verdict.RuleSetID, verdict.Prevent, verdict.Prevent, verdict.Unsupported, nil),
	row(verdict.RuleCapabilities, verdict.Prevent, verdict.Prevent, verdict.Unsupported, both(capsNote)),
	row(verdict.RuleEgress, verdict.Prevent, verdict.Prevent, verdict.Prevent, everywhere(netNote)),
	row(verdict.RuleIngress, verdict.Prevent, verdict.Prevent, verdict.Prevent, everywhere(netNote)),
	row(verdict.RuleListen, verdict.Prevent, verdict.Prevent, verdict.Kill, map[verdict.Backend]string{
		verdict.BackendSignal: "binding a port is prevented; listening on one that was not bound, or bound before, is killed",
	}),
	row(verdict.RuleRawSockets, verdict.Prevent, verdict.Prevent, verdict.Prevent, nil),
	row(verdict.RulePacketSockets, verdict.Prevent, verdict.Prevent, verdict.Unsupported, both("what a socket made before the rule was bound shares with the kernel (PACKET_RX_RING) is open")),
	row(verdict.RuleHostAgent, verdict.Prevent, verdict.Prevent, verdict.Unsupported, hostNotes(hostAgentNote)),
	row(verdict.RuleHostRuntimes, verdict.Prevent, verdict.Prevent, verdict.Unsupported, hostNotes(hostNote)),
	row(verdict.RuleHostEngine, verdict.Prevent, verdict.Prevent, verdict.Unsupported, hostNotes(hostNote)),
}

// What the section host leaves open. The device that a file system is on is another matter:
// privileges.rawDevices.
const (
	hostNote = "writes by descriptors and mappings made before the rule was bound, and mount --move (MS_MOVE) of a mount above are open: " +
		"deny privileges.mount and rawDevices too"
	hostAgentNote   = hostNote + "; of links only opening by id, detaching and updating are refused, the last two for links of whomever"
	hostSignalNote  = "acts on the host's files and processes are not seen; --signal-syscalls kills who opens a file for writing"
	hostSyscallNote = "by what open and openat return, when O_TRUNC has emptied the file; renames, links, truncate, mounts, io_uring and acts on processes are unsupported"
)

func hostNotes(note string) map[verdict.Backend]string {
	return map[verdict.Backend]string{verdict.BackendLSM: note, verdict.BackendModret: note, verdict.BackendSignal: hostSignalNote}
}

const netNote = "what leaves below IP (packet sockets, TUN, tc) is open: deny packetSockets and NET_ADMIN too"

func everywhere(note string) map[verdict.Backend]string {
	return map[verdict.Backend]string{verdict.BackendLSM: note, verdict.BackendModret: note, verdict.BackendSignal: note}
}

// The rest of the section privileges has no place but an LSM hook.
const (
	controlNote = "descriptors opened before the rule was bound are open"
	capsNote    = "a container that started with all capabilities can use them through an io_uring personality: deny ioUring too"
)

const filesNote = "mappings made before the rule was bound are open; before Linux 5.17 and since 6.17 so are times, extended attributes and ACLs on volumes"

// withSyscalls is what Options.SignalSyscalls makes of the signal backend's rows.
var withSyscalls = map[verdict.Rule]struct {
	level verdict.Level
	note  string
}{
	verdict.RuleDrift:        {verdict.Kill, "programs and mappings are killed; scripts are detected by path"},
	verdict.RuleMemfd:        {verdict.Kill, ""},
	verdict.RulePathDeny:     {verdict.Kill, "of a #! script only the interpreter is judged"},
	verdict.RuleSSHKeys:      {verdict.Kill, "by what open and openat return; renames, links, truncate and io_uring are unsupported"},
	verdict.RuleHostAgent:    {verdict.Kill, hostSyscallNote},
	verdict.RuleHostRuntimes: {verdict.Kill, hostSyscallNote},
	verdict.RuleHostEngine:   {verdict.Kill, hostSyscallNote},
}

// cgroupRules need cgroup programs.
var cgroupRules = []verdict.Rule{
	verdict.RuleSSHServer, verdict.RuleSSHClient, verdict.RuleEgress, verdict.RuleIngress, verdict.RuleListen, verdict.RuleRawSockets,
}

// Levels returns the level of every rule on this host, in the order of the rules.
func (e *Enforcer) Levels() []RuleLevel {
	out := make([]RuleLevel, 0, len(levelTable))
	for _, r := range levelTable {
		l := RuleLevel{Rule: r.rule, Name: r.rule.String(), Level: r.levels[e.backend], Note: r.notes[e.backend]}
		if w, ok := withSyscalls[r.rule]; ok && e.backend == verdict.BackendSignal && e.opts.SignalSyscalls {
			l.Level, l.Note = w.level, w.note
		}
		switch {
		case slices.Contains(cgroupRules, r.rule) && e.lacksCgroup() != "":
			l.Level, l.Note = verdict.Unsupported, e.lacksCgroup()
		case r.rule == verdict.RuleFiles && l.Level != verdict.Unsupported && e.lacksFiles() != "":
			l.Level, l.Note = verdict.Unsupported, e.lacksFiles()
		case l.Level != verdict.Unsupported && e.lacksHook(r.rule) != "":
			l.Level, l.Note = verdict.Unsupported, e.lacksHook(r.rule)
		case r.rule == verdict.RuleSockets && e.lacksSockets() != "":
			l.Level, l.Note = verdict.Unsupported, e.lacksSockets()
		case r.rule == verdict.RuleDrift && e.overlay != nil:
			l.Note = "the layout of overlayfs is unknown here, so every file of an overlay counts as drift: " + e.overlay.Error()
		}
		l.Text = l.Level.String()
		out = append(out, l)
	}
	return out
}

// Refused returns the programs that this kernel refused at the last attachment though it has their hooks,
// and why.
func (e *Enforcer) Refused() map[string]error {
	e.missMu.Lock()
	defer e.missMu.Unlock()
	refused := maps.Clone(e.missing)
	maps.DeleteFunc(refused, func(_ string, err error) bool { return errors.Is(err, ebpf.ErrNotSupported) })
	return refused
}

// lacksHook says which hook of a rule this kernel refused; empty: none.
func (e *Enforcer) lacksHook(rule verdict.Rule) string {
	e.missMu.Lock()
	defer e.missMu.Unlock()
	for _, h := range hooks {
		if slices.Contains(h.rules, rule) && e.missing[h.program] != nil {
			return h.name + ": " + e.missing[h.program].Error()
		}
	}
	return ""
}

// lacksCgroup says why cgroup programs do not run here; empty: they do.
func (e *Enforcer) lacksCgroup() string {
	if e.root.v1 {
		return "this host has no cgroup v2 hierarchy"
	}
	e.missMu.Lock()
	defer e.missMu.Unlock()
	for _, h := range hooks {
		if h.kind == attachCgroup && len(h.rules) == 0 && e.missing[h.program] != nil {
			return h.name + ": " + e.missing[h.program].Error()
		}
	}
	return ""
}

// lacksFiles says which hook of the files rules this kernel refused; empty: none.
func (e *Enforcer) lacksFiles() string {
	e.missMu.Lock()
	defer e.missMu.Unlock()
	for _, h := range hooks {
		if h.files && e.missing[h.program] != nil {
			return h.name + ": " + e.missing[h.program].Error()
		}
	}
	return ""
}
