package policy

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/verdict"
)

// Privileges holds the rules on what a container may ask of the kernel beyond its own files
// and sockets.
type Privileges struct {
	Mode verdict.Mode
	// Values are Allow, Deny or Unset; of Ptrace also Own.
	Mount          Value
	Ptrace         Value
	OtherTasks     Value
	UserNamespaces Value
	Modules        Value
	ModuleAutoload Value
	PerfEvents     Value
	Keyctl         Value
	IOUring        Value
	RawDevices     Value
	KernelControl  Value
	SetID          Value
	// Capabilities are those that are not to be used, by whatever task of the container.
	Capabilities Capabilities
}

// Capabilities is a set: bit i is capability i of capabilities(7).
type Capabilities uint64

// capabilityNames are those of include/uapi/linux/capability.h, by number.
var capabilityNames = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
	"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
	"SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
	"AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
	"PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// Names returns the set as names without CAP_, in the order of their numbers.
func (c Capabilities) Names() []string {
	var out []string
	for i, name := range capabilityNames {
		if c&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// CapabilityName returns the name of a capability, without CAP_; empty if it has none.
func CapabilityName(number int) string {
	if number < 0 || number >= len(capabilityNames) {
		return ""
	}
	return capabilityNames[number]
}

// privilegeField is one rule of the section.
type privilegeField struct {
	name   string
	rule   verdict.Rule
	value  *Value
	values []Value
}

// fields returns the rules that are one value each, in the order of their numbers.
func (p *Privileges) fields() []privilegeField {
	yes := []Value{Allow, Deny}
	return []privilegeField{
		{"mount", verdict.RuleMount, &p.Mount, yes},
		{"ptrace", verdict.RulePtrace, &p.Ptrace, []Value{Allow, Own, Deny}},
		{"otherTasks", verdict.RuleOtherTasks, &p.OtherTasks, yes},
		{"userNamespaces", verdict.RuleUserNamespaces, &p.UserNamespaces, yes},
		{"modules", verdict.RuleModules, &p.Modules, yes},
		{"moduleAutoload", verdict.RuleModuleAutoload, &p.ModuleAutoload, yes},
		{"perfEvents", verdict.RulePerfEvents, &p.PerfEvents, yes},
		{"keyctl", verdict.RuleKeyctl, &p.Keyctl, yes},
		{"ioUring", verdict.RuleIOUring, &p.IOUring, yes},
		{"rawDevices", verdict.RuleRawDevices, &p.RawDevices, yes},
		{"kernelControl", verdict.RuleKernelControl, &p.KernelControl, yes},
		{"setid", verdict.RuleSetID, &p.SetID, yes},
	}
}

// Values returns the names and values of the rules that are one value each, as section.field
// and value in turn; a value that is not set is empty.
func (p *Privileges) Values() []string {
	var out []string
	for _, f := range p.fields() {
		out = append(out, "privileges."+f.name, string(*f.value))
	}
	return out
}

// settings returns what the section says.
func (p *Privileges) settings() []setting {
	var out []setting
	for _, f := range p.fields() {
		out = append(out, setting{rule: f.rule, mode: p.Mode, value: *f.value, field: "privileges." + f.name})
	}
	if p.Capabilities != 0 {
		out = append(out, setting{
			rule: verdict.RuleCapabilities, mode: p.Mode, value: Deny, caps: p.Capabilities, field: "privileges.capabilities",
		})
	}
	return out
}

type canonPrivileges struct {
	Mode  string           `yaml:"mode"`
	Rules map[string]Value `yaml:",inline"`
	Caps  *canonCaps       `yaml:"capabilities,omitempty"`
}

type canonCaps struct {
	Deny []string `yaml:"deny"`
}

func (p *Privileges) canonical() *canonPrivileges {
	c := &canonPrivileges{Mode: p.Mode.String(), Rules: map[string]Value{}}
	for _, f := range p.fields() {
		if *f.value != Unset {
			c.Rules[f.name] = *f.value
		}
	}
	if p.Capabilities != 0 {
		c.Caps = &canonCaps{Deny: p.Capabilities.Names()}
	}
	return c
}

func (d *decoder) privileges(n *yaml.Node, at string, p *Privileges, m **verdict.Mode) {
	fields := []field{{"mode", false, d.mode(m)}}
	for _, f := range p.fields() {
		fields = append(fields, field{f.name, false, d.value(f.value, f.values...)})
	}
	const empty = "delete capabilities to deny none"
	var denied, allowed Capabilities
	var allows *yaml.Node
	fields = append(fields, field{"capabilities", false, func(n *yaml.Node, at string) {
		d.object(n, at, []field{
			{"deny", false, d.list(len(capabilityNames), empty, capability(&denied))},
			{"allow", false, func(n *yaml.Node, at string) {
				allows = n
				d.list(len(capabilityNames), "write deny: [...] to deny some, or delete capabilities", capability(&allowed))(n, at)
			}},
		})
	}})
	d.object(n, at, fields)
	if p.Capabilities = denied; allows == nil {
		return
	}
	if both := denied & allowed; both != 0 {
		d.fail(allows, "delete it from one of the two", "%s.capabilities: %s is in allow and in deny", at, both.Names()[0])
	}
	// All that have a name but these.
	p.Capabilities |= (1<<len(capabilityNames) - 1) &^ allowed
}

// capability reads one name into a set.
func capability(set *Capabilities) func(string) (msg, fix string) {
	return func(s string) (msg, fix string) {
		name := strings.TrimPrefix(strings.ToUpper(s), "CAP_")
		i := slices.Index(capabilityNames[:], name)
		if i < 0 {
			return quote(s) + " is no capability", "write a name of capabilities(7), such as SYS_ADMIN"
		}
		*set |= 1 << i
		return "", ""
	}
}
