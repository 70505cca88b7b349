package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

func policyCommand(t *terminal) *cobra.Command {
	return group("policy", "Check, test, change and roll back policies",
		`policy holds what has to do with policies. What they may say is in
docs/policy-reference.md (RuntimePolicy), docs/access-policy.md (AccessPolicy),
docs/image-policy.md (ImagePolicy) and docs/load-policy.md (LoadPolicy).

"check" and "test" read files and need no agent. The others ask the agent. Who may list,
read, create, update, delete and roll back policies is itself a matter of access policies
(actions policy.*); while none is enforced, only root may. See docs/policy-management.md.`,
		`  belay policy check /etc/belay/policies
  belay policy test requests.yaml
  belay policy apply web.yaml -m "nginx 1.28 writes its cache elsewhere"
  belay policy history web
  belay policy rollback web`,
		policyCheckCommand(t), policyTestCommand(t), policyListCommand(t), policyShowCommand(t), policyApplyCommand(t),
		policyDeleteCommand(t), policyHistoryCommand(t), policyDiffCommand(t), policyRollbackCommand(t), policyReloadCommand(t))
}

func policyReloadCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Make the agent read its policy directory again",
		Long: `reload makes the agent read its policy directory again at once. If anything in it is
wrong, every error is shown and the policies in force stay in force.`,
		Example: `  belay policy check /etc/belay/policies && belay policy reload`,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := t.client().Reload(cmd.Context())
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(set)
			}
			fmt.Fprintf(t.out, "%s in force, revision %s\n", count(len(set.Policies), "policy", "policies"), clean(set.Revision))
			return nil
		},
	}
}

// checkAnswer is the JSON answer of `belay policy check`.
type checkAnswer struct {
	OK       bool           `json:"ok"`
	Revision string         `json:"revision,omitempty"` // of all policies together
	Policies []checkedEntry `json:"policies"`           // in total order
	Errors   []checkError   `json:"errors"`
}

type checkedEntry struct {
	Kind     string   `json:"kind"`
	Name     string   `json:"name"`
	Revision string   `json:"revision"`
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Mode     string   `json:"mode"`     // empty for a LoadPolicy, which has none
	Selector string   `json:"selector"` // which containers, or which callers; of a LoadPolicy, what is movable
	Rules    []string `json:"rules"`
}

type checkError struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

func policyCheckCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE|DIR...",
		Short: "Check policy files; needs no agent",
		Long: `check reads policy files, or the *.yaml and *.yml files of directories, as the agent
would, and prints everything that is wrong, one error a line:

  file:line:column: what is wrong; fix: what to write instead

All files are checked as one set, because two policies may not have one name. "-"
reads standard input. With no error it prints one line a policy, in the order in
which they are asked: name, mode, which containers or callers, and the rules it sets.

What this host's kernel can do about each rule is not checked: see "belay status".`,
		Example: `  belay policy check policies/hardened.yaml
  belay policy check /etc/belay/policies
  belay policy show web | belay policy check -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("want at least one policy file or directory")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			set, errs := readPolicies(t.in, args)
			if t.output == formatJSON {
				if err := t.writeJSON(answerOf(set, errs)); err != nil || len(errs) == 0 {
					return err
				}
				return quietError{errs}
			}
			for _, e := range errs {
				fmt.Fprintln(t.err, clean(e.Error()))
			}
			if len(errs) > 0 {
				return quietError{errs}
			}
			t.writePolicies(answerOf(set, nil).Policies)
			return nil
		},
	}
}

// readPolicies reads all of args into one set.
func readPolicies(stdin io.Reader, args []string) (*policy.Set, policy.Errors) {
	var (
		all  policy.Documents
		errs policy.Errors
	)
	for _, arg := range args {
		docs, err := readPolicyArg(stdin, arg)
		all.Append(docs)
		errs = append(errs, asErrors(arg, err)...)
	}
	set, err := all.Set()
	errs = append(errs, asErrors("", err)...)
	if len(errs) > 0 {
		return &policy.Set{}, errs
	}
	return set, nil
}

func readPolicyArg(stdin io.Reader, arg string) (policy.Documents, error) {
	if arg == "-" {
		data, err := readBounded(stdin)
		if err != nil {
			return policy.Documents{}, fmt.Errorf("read standard input: %w", err)
		}
		return policy.ParseAll("<stdin>", data)
	}
	read := policy.LoadDir
	info, err := os.Stat(arg)
	if err != nil || !info.IsDir() {
		read = func(file string) (*policy.Set, error) { return policy.ParseFiles(file) }
	}
	set, err := read(arg)
	if err != nil {
		return policy.Documents{}, err
	}
	if set.Len() == 0 {
		return policy.Documents{}, &policy.Error{File: arg, Msg: "no *.yaml or *.yml file in this directory", Fix: "name another"}
	}
	return set.Documents(), nil
}

// readBounded reads one byte more than a policy file may have, so that the parser sees
// that it is too large.
func readBounded(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	_, err := b.ReadFrom(io.LimitReader(r, policy.MaxFileBytes+1))
	return b.Bytes(), err
}

func asErrors(file string, err error) policy.Errors {
	var (
		many policy.Errors
		one  *policy.Error
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &many):
		return many
	case errors.As(err, &one):
		return policy.Errors{one}
	}
	return policy.Errors{{File: file, Msg: err.Error(), Err: err}}
}

func answerOf(set *policy.Set, errs policy.Errors) checkAnswer {
	a := checkAnswer{OK: len(errs) == 0, Policies: []checkedEntry{}, Errors: []checkError{}}
	for _, e := range errs {
		a.Errors = append(a.Errors, checkError{File: e.File, Line: e.Line, Column: e.Column, Message: e.Msg, Fix: e.Fix})
	}
	if !a.OK {
		return a
	}
	a.Revision = set.Revision()
	for _, p := range set.Policies() {
		a.Policies = append(a.Policies, checkedEntry{
			Kind: policy.Kind, Name: p.Name, Revision: p.Revision, File: p.File, Line: p.Line,
			Mode: p.Spec.Mode.String(), Selector: selectorText(p.Spec.Selector), Rules: ruleTexts(&p.Spec),
		})
	}
	for _, p := range set.AccessPolicies() {
		a.Policies = append(a.Policies, checkedEntry{
			Kind: policy.AccessKind, Name: p.Name, Revision: p.Revision, File: p.File, Line: p.Line,
			Mode: p.Spec.Mode.String(), Selector: p.Spec.Subjects.String(), Rules: accessRuleTexts(&p.Spec),
		})
	}
	for _, p := range set.ImagePolicies() {
		a.Policies = append(a.Policies, checkedEntry{
			Kind: policy.ImageKind, Name: p.Name, Revision: p.Revision, File: p.File, Line: p.Line,
			Mode: p.Spec.Mode.String(), Selector: p.Spec.Selector.String(), Rules: p.Spec.Rules(),
		})
	}
	for _, p := range set.LoadPolicies() {
		a.Policies = append(a.Policies, checkedEntry{
			Kind: policy.LoadKind, Name: p.Name, Revision: p.Revision, File: p.File, Line: p.Line,
			Selector: p.Spec.Movable.String(), Rules: p.Spec.Rules(),
		})
	}
	return a
}

func (t *terminal) writePolicies(ps []checkedEntry) {
	tb := t.table("")
	for _, p := range ps {
		tb.row(cell{"ok", green}, plain(p.Name), cell{orDash(p.Mode), modeColour(p.Mode)}, plain(p.Selector),
			plain(orDash(strings.Join(p.Rules, " "))))
	}
	tb.writeTo(t.out)
}

func selectorText(s policy.Selector) string {
	var parts []string
	add := func(key, value string) {
		if value != "" {
			parts = append(parts, key+"="+value)
		}
	}
	add("image", s.Image)
	add("imageDigest", shortImage(s.ImageDigest))
	add("name", s.Name)
	add("namespace", s.Namespace)
	add("workload", s.Workload)
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		parts = append(parts, "label:"+k+"="+s.Labels[k])
	}
	for _, k := range slices.Sorted(maps.Keys(s.PodLabels)) {
		parts = append(parts, "podLabel:"+k+"="+s.PodLabels[k])
	}
	if len(parts) == 0 {
		return "every container"
	}
	return strings.Join(parts, " and ")
}

// ruleTexts lists what a policy sets, each as "rule=value", with the mode where the
// section has one of its own.
func ruleTexts(s *policy.Spec) []string {
	var out []string
	section := func(own verdict.Mode, rules ...string) {
		for i := 0; i < len(rules); i += 2 {
			name, value := rules[i], rules[i+1]
			if value == "" {
				continue
			}
			if own != s.Mode {
				value += "(" + own.String() + ")"
			}
			out = append(out, name+"="+value)
		}
	}
	if e := s.Exec; e != nil {
		section(e.Mode, "exec.asRoot", string(e.AsRoot), "exec.nested", string(e.Nested), "exec.fileCaps", string(e.FileCaps),
			"exec.drift", string(e.Drift), "exec.metadataOnly", string(e.MetadataOnly), "exec.volumes", string(e.Volumes),
			"exec.memfd", string(e.Memfd), "exec.allow", listed(len(e.Allow), "path", "paths"),
			"exec.deny", listed(len(e.Deny), "path", "paths"),
			"exec.runtimeHelpers", listed(len(e.RuntimeHelpers), "path", "paths"))
	}
	if h := s.SSH; h != nil {
		client := string(h.Client)
		if h.Client == policy.To {
			client = listed(len(h.To), "destination", "destinations")
		}
		section(h.Mode, "ssh.server", string(h.Server), "ssh.client", client, "ssh.keys", string(h.Keys))
	}
	if f := s.Files; f != nil {
		section(f.Mode, "files.readOnly", listed(len(f.ReadOnly), "path", "paths"), "files.rules", listed(len(f.Rules), "rule", "rules"))
	}
	if p := s.Privileges; p != nil {
		section(p.Mode, append(p.Values(), "privileges.capabilities", listed(len(p.Capabilities.Names()), "capability", "capabilities"))...)
	}
	if n := s.Network; n != nil {
		section(n.Mode, n.Values()...)
	}
	if h := s.Host; h != nil {
		section(h.Mode, h.Values()...)
	}
	if g := s.Guard; g != nil {
		section(g.Mode, "guard.bpf", string(g.BPF), "guard.sockets", string(g.Sockets))
	}
	return out
}

// listed is a list's length in one word.
func listed(n int, one, many string) string {
	if n == 0 {
		return ""
	}
	return strings.ReplaceAll(count(n, one, many), " ", "-")
}
