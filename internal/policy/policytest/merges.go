package policytest

import (
	"fmt"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

func pathCases() []ExecCase {
	denyList := enforce("exec: {deny: [/usr/bin/wget, /opt/app/**, /usr/local/bin/*]}")
	allowList := enforce("exec: {allow: [/app/server, /opt/tools/**, /usr/libexec/*]}")
	both := enforce("exec: {allow: [/app/**], deny: [/app/debug]}")
	no, notListed := deny(verdict.RulePathDeny, 0), deny(verdict.RulePathAllow, 0)
	lost := flags(policy.FlagPathLost)
	return []ExecCase{
		{Name: "deny/exact", YAML: denyList, Path: "/usr/bin/wget", Want: no},
		{Name: "deny/usrmerge", YAML: denyList, Path: "/bin/wget", Want: no},
		{Name: "deny/usrmerge-other-way", YAML: enforce("exec: {deny: [/sbin/sshd]}"), Path: "/usr/sbin/sshd", Want: no},
		{Name: "deny/longer-name", YAML: denyList, Path: "/usr/bin/wget2", Want: pass},
		{Name: "deny/tree", YAML: denyList, Path: "/opt/app/lib/x/run", Want: no},
		{Name: "deny/tree-first-level", YAML: denyList, Path: "/opt/app/run", Want: no},
		{Name: "deny/tree-is-not-the-directory", YAML: denyList, Path: "/opt/app", Want: pass},
		{Name: "deny/tree-sibling", YAML: denyList, Path: "/opt/app2/run", Want: pass},
		{Name: "deny/child", YAML: denyList, Path: "/usr/local/bin/x", Want: no},
		{Name: "deny/child-is-one-level", YAML: denyList, Path: "/usr/local/bin/d/x", Want: pass},
		{Name: "deny/root-tree", YAML: enforce("exec: {deny: [/**]}"), Path: "/a/b/c", Want: no},
		{Name: "deny/root-child", YAML: enforce("exec: {deny: [/*]}"), Path: "/entrypoint.sh", Want: no},
		{Name: "deny/root-child-deeper", YAML: enforce("exec: {deny: [/*]}"), Path: "/a/b", Want: pass},
		{Name: "deny/path-lost", YAML: denyList, Facts: lost, Want: no},
		{Name: "deny/mapping", YAML: denyList, Path: "/usr/bin/wget", Facts: flags(policy.FlagMapping), Want: no},
		{Name: "deny/mapping-other-file", YAML: denyList, Path: "/usr/lib/libc.so.6", Facts: flags(policy.FlagMapping), Want: pass},
		{Name: "deny/mapping-lost", YAML: denyList, Facts: flags(policy.FlagMapping, policy.FlagPathLost), Want: no},
		{Name: "deny/mapping-without-path", YAML: denyList, Facts: flags(policy.FlagMapping, policy.FlagPathLost, policy.FlagTmpfs), Want: pass},
		{
			Name: "deny/audit", YAML: audit("exec: {deny: [/usr/bin/wget]}"), Path: "/usr/bin/wget",
			Want: report(verdict.RulePathDeny, 0),
		},
		{Name: "allow/exact", YAML: allowList, Path: "/app/server", Want: pass},
		{Name: "allow/tree", YAML: allowList, Path: "/opt/tools/a/b", Want: pass},
		{Name: "allow/child", YAML: allowList, Path: "/usr/libexec/x", Want: pass},
		{Name: "allow/not-listed", YAML: allowList, Path: "/bin/sh", Want: notListed},
		{Name: "allow/path-lost", YAML: allowList, Path: "/app/server", Facts: lost, Want: notListed},
		{Name: "allow/mapping", YAML: allowList, Path: "/bin/sh", Facts: flags(policy.FlagMapping), Want: pass},
		{
			Name: "allow/audit", YAML: audit("exec: {allow: [/app/server]}"), Path: "/bin/sh",
			Want: report(verdict.RulePathAllow, 0),
		},
		{Name: "both/deny-wins", YAML: both, Path: "/app/debug", Want: no},
		{Name: "both/allowed", YAML: both, Path: "/app/server", Want: pass},
		{Name: "both/neither", YAML: both, Path: "/bin/sh", Want: notListed},
	}
}

func mergeCases() []ExecCase {
	const root, tree, init = policy.FlagRoot, policy.FlagInitTree, policy.FlagInitRoot
	two := func(a, b string) string {
		return docs(doc("a", "mode: enforce", "exec: "+a), doc("b", "mode: enforce", "exec: "+b))
	}
	ranked := docs(doc("a", "mode: enforce", "exec: {asRoot: deny}"),
		doc("b", "mode: enforce", "priority: 5", "exec: {asRoot: deny}"))
	lists := two("{allow: [/app/**, /bin/sh]}", "{allow: [/app/server, /bin/sh, /bin/ls]}")
	mixed := docs(doc("a", "mode: enforce", "exec: {allow: [/app/**]}"), doc("b", "mode: audit", "exec: {allow: [/app/server]}"))
	return []ExecCase{
		{
			Name: "merge/name-order", YAML: two("{asRoot: deny}", "{asRoot: deny}"), Facts: flags(root),
			Want: deny(verdict.RuleAsRoot, 0),
		},
		{Name: "merge/priority-order", YAML: ranked, Facts: flags(root), Want: deny(verdict.RuleAsRoot, 0)},
		{
			Name: "merge/deny-beats-allow", YAML: two("{asRoot: allow}", "{asRoot: deny}"), Facts: flags(root),
			Want: deny(verdict.RuleAsRoot, 1),
		},
		{
			Name: "merge/deny-beats-after-start", YAML: two("{asRoot: denyAfterStart}", "{asRoot: deny}"),
			Facts: flags(root, tree, init), Want: deny(verdict.RuleAsRoot, 1),
		},
		{
			Name: "merge/after-start-beats-allow", YAML: two("{asRoot: allow}", "{asRoot: denyAfterStart}"),
			Facts: aged(time.Minute, root, tree, init), Want: deny(verdict.RuleAsRoot, 1),
		},
		{
			Name: "merge/smaller-start-for", YAML: two("{asRoot: denyAfterStart, startFor: 20s}", "{asRoot: denyAfterStart, startFor: 5s}"),
			Facts: aged(5*time.Second, root, tree, init), Want: deny(verdict.RuleAsRoot, 0),
		},
		{
			Name: "merge/nested-deny-beats-allow", YAML: two("{asRoot: deny, nested: allow}", "{asRoot: deny}"),
			Facts: flags(policy.FlagNested), Want: deny(verdict.RuleAsRoot, 0),
		},
		{
			Name: "merge/nested-allow-by-both", YAML: two("{asRoot: deny, nested: allow}", "{asRoot: deny, nested: allow}"),
			Facts: flags(policy.FlagNested), Want: pass,
		},
		{
			Name: "merge/option-of-those-that-set-the-rule", YAML: two("{asRoot: deny, nested: allow}", "{fileCaps: deny}"),
			Facts: flags(policy.FlagNested), Want: pass,
		},
		{
			Name: "merge/volumes-deny", YAML: two("{drift: deny, volumes: allow}", "{drift: deny}"),
			Facts: flags(policy.FlagVolume, policy.FlagVolumeRO), Want: deny(verdict.RuleDrift, 0),
		},
		{
			Name: "merge/volumes-read-only", YAML: two("{drift: deny, volumes: allow}", "{drift: deny, volumes: readOnly}"),
			Facts: flags(policy.FlagVolume), Want: deny(verdict.RuleDrift, 0),
		},
		{
			Name: "merge/volumes-read-only-passes", YAML: two("{drift: deny, volumes: allow}", "{drift: deny, volumes: readOnly}"),
			Facts: flags(policy.FlagVolume, policy.FlagVolumeRO), Want: pass,
		},
		{
			Name: "merge/metadata-deny", YAML: two("{drift: deny, metadataOnly: allow}", "{drift: deny}"),
			Facts: flags(policy.FlagUpper, policy.FlagMetadata), Want: deny(verdict.RuleDrift, 0),
		},
		{
			Name: "merge/memfd-deny-beats-allow", YAML: two("{drift: deny, memfd: allow}", "{drift: deny}"),
			Facts: flags(policy.FlagTmpfs), Want: deny(verdict.RuleMemfd, 1),
		},
		{
			Name: "merge/memfd-deny-beats-programs", YAML: two("{memfd: programs}", "{memfd: deny}"),
			Facts: flags(policy.FlagTmpfs, policy.FlagMapping, policy.FlagShared), Want: deny(verdict.RuleMemfd, 1),
		},
		{
			Name: "merge/memfd-programs-beats-allow", YAML: two("{drift: deny, memfd: allow}", "{memfd: programs}"),
			Facts: flags(policy.FlagTmpfs), Want: deny(verdict.RuleMemfd, 1),
		},
		{
			Name: "merge/deny-lists-add-up", YAML: two("{deny: [/bin/nc]}", "{deny: [/bin/wget]}"), Path: "/bin/wget",
			Want: deny(verdict.RulePathDeny, 1),
		},
		{
			Name: "merge/deny-lists-first-credited", YAML: two("{deny: [/usr/bin/**]}", "{deny: [/bin/wget]}"), Path: "/usr/bin/wget",
			Want: deny(verdict.RulePathDeny, 0),
		},
		{
			Name: "merge/deny-list-beats-allow-list", YAML: two("{allow: [/app/**]}", "{deny: [/app/x]}"), Path: "/app/x",
			Want: deny(verdict.RulePathDeny, 1),
		},
		{Name: "merge/allow-lists-intersect", YAML: lists, Path: "/app/server", Want: pass},
		{Name: "merge/allow-lists-intersect-alias", YAML: lists, Path: "/usr/bin/sh", Want: pass},
		{Name: "merge/allow-lists-second-misses", YAML: lists, Path: "/app/other", Want: deny(verdict.RulePathAllow, 1)},
		{Name: "merge/allow-lists-first-misses", YAML: lists, Path: "/bin/ls", Want: deny(verdict.RulePathAllow, 0)},
		{Name: "merge/allow-lists-both-miss", YAML: lists, Path: "/bin/nc", Want: deny(verdict.RulePathAllow, 0)},
		{Name: "merge/allow-list-per-mode", YAML: mixed, Path: "/app/other", Want: report(verdict.RulePathAllow, 1)},
		{Name: "merge/allow-list-per-mode-enforced", YAML: mixed, Path: "/bin/sh", Want: deny(verdict.RulePathAllow, 0)},
		{Name: "merge/allow-list-per-mode-passes", YAML: mixed, Path: "/app/server", Want: pass},
		{Name: "merge/more-lists-than-bits-pass", YAML: manyLists(40), Path: "/app/server", Want: pass},
		{Name: "merge/more-lists-than-bits-first", YAML: manyLists(40), Path: "/app/x02/run", Want: deny(verdict.RulePathAllow, 2)},
		{Name: "merge/more-lists-than-bits-last", YAML: manyLists(40), Path: "/app/x39/run", Want: deny(verdict.RulePathAllow, 15)},
		{Name: "merge/audit-reports-what-enforce-allows", YAML: docs(doc("a", "mode: enforce", "exec: {asRoot: denyAfterStart}"),
			doc("b", "mode: audit", "exec: {asRoot: deny}")), Facts: flags(root, tree, init), Want: report(verdict.RuleAsRoot, 1)},
		{Name: "merge/enforce-decides-before-audit", YAML: docs(doc("a", "mode: audit", "exec: {drift: deny}"),
			doc("b", "mode: enforce", "exec: {asRoot: deny}")), Facts: flags(root, policy.FlagUpper), Want: deny(verdict.RuleAsRoot, 1)},
	}
}

// manyLists writes n policies that each allow /app without one directory: all of
// them allow /app/server. The list of policy i lacks /app/x<i>.
func manyLists(n int) string {
	ds := make([]string, n)
	for i := range ds {
		list := []string{"/app/server"}
		for j := range n {
			if j != i {
				list = append(list, fmt.Sprintf("/app/x%02d/**", j))
			}
		}
		ds[i] = doc(fmt.Sprintf("p%02d", i), "mode: enforce", "exec: {allow: ["+strings.Join(list, ", ")+"]}")
	}
	return docs(ds...)
}

func loosenCases() []ExecCase {
	const root = policy.FlagRoot
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	floor := doc("floor", "mode: enforce", "exec: {asRoot: deny, drift: deny}")
	auditFloor := doc("floor", "mode: audit", "exec: {asRoot: deny}")
	loose := func(name, more, exec string) string {
		return doc(name, "mode: enforce", "selector: {imageDigest: \""+digest+"\"}", "loosen: true", more, "exec: "+exec)
	}
	sub := policy.Subject{Known: true, ImageDigest: "nginx@" + digest}
	late := sub
	late.BoundLate = true
	gate := policy.Subject{Known: true, Labels: map[string]string{"belay.dev/trust": "root"}}
	return []ExecCase{
		{Name: "loosen/allow", YAML: docs(floor, loose("l", "", "{asRoot: allow}")), Sub: sub, Facts: flags(root), Want: pass},
		{
			Name: "loosen/unset-stays", YAML: docs(floor, loose("l", "", "{asRoot: allow}")), Sub: sub,
			Facts: flags(policy.FlagUpper), Want: deny(verdict.RuleDrift, 0),
		},
		{
			Name: "loosen/other-image", YAML: docs(floor, loose("l", "", "{asRoot: allow}")),
			Sub: policy.Subject{Known: true}, Facts: flags(root), Want: deny(verdict.RuleAsRoot, 0),
		},
		{
			Name: "loosen/bound-late", YAML: docs(floor, loose("l", "", "{asRoot: allow}")), Sub: late, Facts: flags(root),
			Want: deny(verdict.RuleAsRoot, 0),
		},
		{Name: "loosen/gate-label", YAML: docs(floor, doc("l", "mode: enforce", "selector: {labels: {belay.dev/trust: root}}",
			"loosen: true", "exec: {asRoot: allow}")), Sub: gate, Facts: flags(root), Want: pass},
		{
			Name: "loosen/after-start", YAML: docs(floor, loose("l", "", "{asRoot: denyAfterStart}")), Sub: sub,
			Facts: flags(root, policy.FlagInitTree, policy.FlagInitRoot), Want: pass,
		},
		{
			Name: "loosen/after-start-late", YAML: docs(floor, loose("l", "", "{asRoot: denyAfterStart}")), Sub: sub,
			Facts: aged(time.Minute, root, policy.FlagInitTree, policy.FlagInitRoot), Want: deny(verdict.RuleAsRoot, 1),
		},
		{
			Name: "loosen/option-alone", YAML: docs(floor, loose("l", "", "{nested: allow}")), Sub: sub,
			Facts: flags(policy.FlagNested), Want: pass,
		},
		{
			Name: "loosen/option-alone-rule-stays", YAML: docs(floor, loose("l", "", "{nested: allow}")), Sub: sub,
			Facts: flags(root), Want: deny(verdict.RuleAsRoot, 0),
		},
		{
			Name: "loosen/volumes", YAML: docs(floor, loose("l", "", "{volumes: readOnly}")), Sub: sub,
			Facts: flags(policy.FlagVolume, policy.FlagVolumeRO), Want: pass,
		},
		{
			Name: "loosen/drift-does-not-loosen-memfd", YAML: docs(floor, loose("l", "", "{drift: allow}")), Sub: sub,
			Facts: flags(policy.FlagTmpfs), Want: deny(verdict.RuleMemfd, 0),
		},
		{
			Name: "loosen/memfd", YAML: docs(floor, loose("l", "", "{drift: allow, memfd: allow}")), Sub: sub,
			Facts: flags(policy.FlagTmpfs), Want: pass,
		},
		{Name: "loosen/higher-priority-has-the-last-word", YAML: docs(loose("l", "priority: 1", "{asRoot: allow}"),
			loose("m", "priority: 2", "{asRoot: deny}")), Sub: sub, Facts: flags(root), Want: deny(verdict.RuleAsRoot, 0)},
		{Name: "loosen/higher-priority-allows", YAML: docs(loose("l", "priority: 2", "{asRoot: allow}"),
			loose("m", "priority: 1", "{asRoot: deny}")), Sub: sub, Facts: flags(root), Want: pass},
		{
			Name: "loosen/quiets-the-audit-floor", YAML: docs(auditFloor, loose("l", "", "{asRoot: allow}")), Sub: sub,
			Facts: flags(root), Want: pass,
		},
		{
			Name: "loosen/audit-does-not-touch-enforce", YAML: docs(floor, doc("l", "mode: audit",
				"selector: {imageDigest: \""+digest+"\"}", "loosen: true", "exec: {asRoot: allow}")), Sub: sub, Facts: flags(root),
			Want: deny(verdict.RuleAsRoot, 0),
		},
		{Name: "loosen/lists-stay", YAML: docs(doc("floor", "mode: enforce", "exec: {deny: [/bin/nc]}"),
			loose("l", "", "{allow: [/bin/nc]}")), Sub: sub, Path: "/bin/nc", Want: deny(verdict.RulePathDeny, 0)},
	}
}

// orderCases hold several reasons to deny: the answer names the first in the order
// of bl_exec_slot.
func orderCases() []ExecCase {
	all := enforce("exec: {asRoot: deny, fileCaps: deny, drift: deny, deny: [/bin/nc], allow: [/app/**]}", "ssh: {server: deny}")
	order := []struct {
		rule verdict.Rule
		bit  uint32
	}{
		{verdict.RuleMemfd, policy.FlagTmpfs},
		{verdict.RuleDrift, policy.FlagUpper},
		{verdict.RuleAsRoot, policy.FlagRoot},
		{verdict.RuleFileCaps, policy.FlagFileCaps},
		{verdict.RuleSSHServer, policy.FlagSSHProgram},
		{verdict.RulePathDeny, policy.FlagPathLost},
		{verdict.RulePathAllow, 0},
	}
	var out []ExecCase
	for i, first := range order {
		var f policy.Facts
		for _, o := range order[i:] {
			f.Flags |= o.bit
		}
		out = append(out, ExecCase{
			Name: "order/" + first.rule.String(), YAML: all, Facts: f, Path: "/bin/sh",
			Want: deny(first.rule, 0),
		})
	}
	return append(out,
		ExecCase{
			Name: "order/named-path-before-lost", YAML: all, Path: "/bin/nc", Facts: flags(policy.FlagPathLost),
			Want: deny(verdict.RulePathDeny, 0),
		},
		ExecCase{
			Name: "order/helper-skips-to-root", YAML: all, Path: "/bin/sh", Want: deny(verdict.RuleAsRoot, 0),
			Facts: flags(policy.FlagHelper, policy.FlagTmpfs, policy.FlagUpper, policy.FlagRoot),
		})
}
