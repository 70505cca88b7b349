// Package verdict holds the words of a decision: what was decided, by which rule,
// in which mode, at which level, by which backend.
//
// It owns no state, does no I/O and imports the standard library only (bottom row).
// The numbers of [Verdict] and [Rule] are those of bpf/rules.h; a test in
// internal/enforce compares the two.
package verdict

import "fmt"

// Verdict is the outcome of one rule or one decision. The zero value denies.
type Verdict uint8

// The verdicts.
const (
	Deny  Verdict = 0 // the act is refused (or the task killed)
	Allow Verdict = 1 // the act passes
	Audit Verdict = 2 // the act passes and is reported as one that would be denied
)

// String returns deny, allow or audit.
func (v Verdict) String() string {
	switch v {
	case Deny:
		return "deny"
	case Allow:
		return "allow"
	case Audit:
		return "audit"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// Mode says what a policy does when a rule matches. The zero value enforces.
type Mode uint8

// The modes. Their numbers are the slots of the compiled policy.
const (
	ModeEnforce Mode = 0
	ModeAudit   Mode = 1
)

// String returns enforce or audit.
func (m Mode) String() string {
	if m == ModeAudit {
		return "audit"
	}
	return "enforce"
}

// Level is what a host can do about an act that a rule denies. The zero value
// promises nothing.
type Level uint8

// The levels, weakest first, so that a < b means that a gives less than b.
const (
	Unsupported Level = 0 // not seen at all
	Detect      Level = 1 // reported after the fact
	Kill        Level = 2 // the task gets SIGKILL before its next user instruction
	Prevent     Level = 3 // the act fails with an error, the task lives on
)

// String returns unsupported, detect, kill or prevent.
func (l Level) String() string {
	switch l {
	case Detect:
		return "detect"
	case Kill:
		return "kill"
	case Prevent:
		return "prevent"
	}
	return "unsupported"
}

// ParseLevel returns the level that s names, and false if it names none.
func ParseLevel(s string) (Level, bool) {
	for l := Unsupported; l <= Prevent; l++ {
		if l.String() == s {
			return l, true
		}
	}
	return Unsupported, false
}

// Backend is the kernel mechanism that enforces.
type Backend string

// The backends.
const (
	BackendLSM    Backend = "lsm"    // BPF LSM hooks
	BackendModret Backend = "modret" // fmod_ret on security_* functions
	BackendSignal Backend = "signal" // tracepoints with SIGKILL, and cgroup programs
)

// Decision is what an event reports.
type Decision string

// The decisions.
const (
	Allowed   Decision = "allowed"
	Denied    Decision = "denied"
	Killed    Decision = "killed"
	WouldDeny Decision = "would_deny"
)

// Rule names one line that a RuntimePolicy can set. The numbers are those of enum
// bl_rule_id in bpf/rules.h and are never reused.
type Rule uint8

// The rules.
const (
	RuleAsRoot         Rule = 0  // exec.asRoot
	RuleFileCaps       Rule = 1  // exec.fileCaps
	RuleDrift          Rule = 2  // exec.drift
	RuleMemfd          Rule = 3  // exec.memfd
	RulePathDeny       Rule = 4  // exec.deny
	RulePathAllow      Rule = 5  // exec.allow
	RuleSSHServer      Rule = 6  // ssh.server
	RuleSSHClient      Rule = 7  // ssh.client
	RuleSSHKeys        Rule = 8  // ssh.keys
	RuleBPF            Rule = 9  // guard.bpf
	RuleFiles          Rule = 10 // files
	RuleSockets        Rule = 11 // guard.sockets
	RuleMount          Rule = 12 // privileges.mount
	RulePtrace         Rule = 13 // privileges.ptrace
	RuleOtherTasks     Rule = 14 // privileges.otherTasks
	RuleUserNamespaces Rule = 15 // privileges.userNamespaces
	RuleModules        Rule = 16 // privileges.modules
	RuleModuleAutoload Rule = 17 // privileges.moduleAutoload
	RulePerfEvents     Rule = 18 // privileges.perfEvents
	RuleKeyctl         Rule = 19 // privileges.keyctl
	RuleIOUring        Rule = 20 // privileges.ioUring
	RuleRawDevices     Rule = 21 // privileges.rawDevices
	RuleKernelControl  Rule = 22 // privileges.kernelControl
	RuleSetID          Rule = 23 // privileges.setid
	RuleCapabilities   Rule = 24 // privileges.capabilities
	RuleEgress         Rule = 25 // network.egress
	RuleIngress        Rule = 26 // network.ingress
	RuleListen         Rule = 27 // network.listen
	RuleRawSockets     Rule = 28 // network.rawSockets
	RulePacketSockets  Rule = 29 // network.packetSockets
	RuleHostAgent      Rule = 30 // host.agent
	RuleHostRuntimes   Rule = 31 // host.runtimes
	RuleHostEngine     Rule = 32 // host.engineConfig
	NumRules                = 33
	// RuleNone marks an event that no rule caused.
	RuleNone Rule = 255
)

var ruleNames = [NumRules]string{
	"exec.asRoot", "exec.fileCaps", "exec.drift", "exec.memfd", "exec.deny", "exec.allow",
	"ssh.server", "ssh.client", "ssh.keys", "guard.bpf", "files", "guard.sockets",
	"privileges.mount",
	"privileges.ptrace",
	"privileges.otherTasks",
	"privileges.userNamespaces",
	"privileges.modules",
	"privileges.moduleAutoload",
	"privileges.perfEvents",
	"privileges.keyctl",
	"privileges.ioUring",
	"privileges.rawDevices",
	"privileges.kernelControl",
	"privileges.setid",
	"privileges.capabilities",
	"network.egress",
	"network.ingress",
	"network.listen",
	"network.rawSockets",
	"network.packetSockets",
	"host.agent",
	"host.runtimes",
	"host.engineConfig",
}

// String returns the rule's place in a policy document, such as exec.asRoot.
func (r Rule) String() string {
	if int(r) < len(ruleNames) {
		return ruleNames[r]
	}
	if r == RuleNone {
		return "none"
	}
	return fmt.Sprintf("rule(%d)", uint8(r))
}

// Rules returns all rules in the order of their numbers.
func Rules() []Rule {
	rs := make([]Rule, NumRules)
	for i := range rs {
		rs[i] = Rule(i)
	}
	return rs
}
