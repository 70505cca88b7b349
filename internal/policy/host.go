package policy

import (
	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/verdict"
)

// Host holds the rules on what of the host itself no container may touch, whatever its
// capabilities, namespaces and mounts. The values are Allow, Deny or Unset.
type Host struct {
	Mode         verdict.Mode
	Agent        Value // the agent: its processes, files and BPF objects
	Runtimes     Value // the programs of the container engine
	EngineConfig Value // its configuration and records
}

// hostField is one rule of the section.
type hostField struct {
	name  string
	rule  verdict.Rule
	value *Value
}

// fields returns the rules in the order of their numbers.
func (h *Host) fields() []hostField {
	return []hostField{
		{"agent", verdict.RuleHostAgent, &h.Agent},
		{"runtimes", verdict.RuleHostRuntimes, &h.Runtimes},
		{"engineConfig", verdict.RuleHostEngine, &h.EngineConfig},
	}
}

// Values returns the names and values of the rules, as section.field and value in turn; a
// value that is not set is empty.
func (h *Host) Values() []string {
	var out []string
	for _, f := range h.fields() {
		out = append(out, "host."+f.name, string(*f.value))
	}
	return out
}

// settings returns what the section says.
func (h *Host) settings() []setting {
	var out []setting
	for _, f := range h.fields() {
		out = append(out, setting{rule: f.rule, mode: h.Mode, value: *f.value, field: "host." + f.name})
	}
	return out
}

type canonHost struct {
	Mode         string `yaml:"mode"`
	Agent        Value  `yaml:"agent,omitempty"`
	Runtimes     Value  `yaml:"runtimes,omitempty"`
	EngineConfig Value  `yaml:"engineConfig,omitempty"`
}

func (h *Host) canonical() *canonHost {
	return &canonHost{Mode: h.Mode.String(), Agent: h.Agent, Runtimes: h.Runtimes, EngineConfig: h.EngineConfig}
}

func (d *decoder) host(n *yaml.Node, at string, h *Host, m **verdict.Mode) {
	fields := []field{{"mode", false, d.mode(m)}}
	for _, f := range h.fields() {
		fields = append(fields, field{f.name, false, d.value(f.value, Allow, Deny)})
	}
	d.object(n, at, fields)
}

// guards reports whether a rule protects the host, so that it holds for build steps too.
func guards(r verdict.Rule) bool {
	switch r {
	case verdict.RuleBPF, verdict.RuleSockets, verdict.RuleHostAgent, verdict.RuleHostRuntimes, verdict.RuleHostEngine:
		return true
	}
	return false
}
