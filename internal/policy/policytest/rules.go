package policytest

import (
	"time"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

func aged(age time.Duration, bits ...uint32) policy.Facts {
	f := flags(bits...)
	f.Age = age
	return f
}

func rootCases() []ExecCase {
	const (
		root, nested = policy.FlagRoot, policy.FlagNested
		tree, init   = policy.FlagInitTree, policy.FlagInitRoot
	)
	on := enforce("exec: {asRoot: deny}")
	nestedOK := enforce("exec: {asRoot: deny, nested: allow}")
	after := enforce("exec: {asRoot: denyAfterStart, startFor: 10s}")
	afterNested := enforce("exec: {asRoot: denyAfterStart, nested: allow}")
	denied := deny(verdict.RuleAsRoot, 0)
	return []ExecCase{
		{Name: "no-policy/root", Facts: flags(root), Want: pass},
		{Name: "no-policy/everything", Facts: flags(0xbfff), Want: pass},
		{Name: "root/deny", YAML: on, Facts: flags(root), Want: denied},
		{Name: "root/deny-init-too", YAML: on, Facts: flags(root, tree, init), Want: denied},
		{Name: "root/user", YAML: on, Want: pass},
		{Name: "root/user-in-init-tree", YAML: on, Facts: flags(tree, init), Want: pass},
		{Name: "root/allow", YAML: enforce("exec: {asRoot: allow}"), Facts: flags(root), Want: pass},
		{Name: "root/audit", YAML: audit("exec: {asRoot: deny}"), Facts: flags(root), Want: report(verdict.RuleAsRoot, 0)},
		{
			Name: "root/section-audit", YAML: enforce("exec: {mode: audit, asRoot: deny}"), Facts: flags(root),
			Want: report(verdict.RuleAsRoot, 0),
		},
		{Name: "root/section-enforce", YAML: audit("exec: {mode: enforce, asRoot: deny}"), Facts: flags(root), Want: denied},
		{Name: "root/mapping-passes", YAML: on, Facts: flags(root, policy.FlagMapping), Want: pass},
		{Name: "root/helper-is-no-excuse", YAML: on, Facts: flags(root, policy.FlagHelper), Want: denied},
		{Name: "nested/deny-by-default", YAML: on, Facts: flags(nested), Want: denied},
		{Name: "nested/deny", YAML: enforce("exec: {asRoot: deny, nested: deny}"), Facts: flags(nested), Want: denied},
		{Name: "nested/allow", YAML: nestedOK, Facts: flags(nested), Want: pass},
		{Name: "nested/allow-not-root", YAML: nestedOK, Facts: flags(root), Want: denied},
		{Name: "nested/allow-both", YAML: nestedOK, Facts: flags(root, nested), Want: denied},
		{Name: "after/init", YAML: after, Facts: aged(time.Second, root, tree, init), Want: pass},
		{Name: "after/init-first-instant", YAML: after, Facts: flags(root, tree, init), Want: pass},
		{Name: "after/last-nanosecond", YAML: after, Facts: aged(10*time.Second-1, root, tree, init), Want: pass},
		{Name: "after/start-for-over", YAML: after, Facts: aged(10*time.Second, root, tree, init), Want: denied},
		{Name: "after/init-dropped-root", YAML: after, Facts: aged(time.Second, root, tree), Want: denied},
		{Name: "after/docker-exec", YAML: after, Facts: aged(time.Second, root, init), Want: denied},
		{Name: "after/user-late", YAML: after, Facts: aged(time.Hour), Want: pass},
		{Name: "after/default-30s-in", YAML: afterNested, Facts: aged(30*time.Second-1, root, tree, init), Want: pass},
		{Name: "after/default-30s-out", YAML: afterNested, Facts: aged(30*time.Second, root, tree, init), Want: denied},
		{Name: "after/nested-allow-late", YAML: afterNested, Facts: aged(time.Hour, nested), Want: pass},
		{Name: "after/nested-deny-late", YAML: after, Facts: aged(time.Hour, nested, tree, init), Want: denied},
		{Name: "after/nested-deny-early", YAML: after, Facts: aged(0, nested, tree, init), Want: pass},
		{
			Name: "after/audit", YAML: audit("exec: {asRoot: denyAfterStart}"), Facts: aged(time.Minute, root, tree, init),
			Want: report(verdict.RuleAsRoot, 0),
		},
	}
}

func driftCases() []ExecCase {
	const (
		upper, meta   = policy.FlagUpper, policy.FlagMetadata
		vol, volRO    = policy.FlagVolume, policy.FlagVolumeRO
		mounted       = policy.FlagMounted
		tmpfs, del    = policy.FlagTmpfs, policy.FlagDeleted
		mapping, help = policy.FlagMapping, policy.FlagHelper
	)
	on := enforce("exec: {drift: deny}")
	ro := enforce("exec: {drift: deny, volumes: readOnly}")
	volumes := enforce("exec: {drift: deny, volumes: allow}")
	metaOK := enforce("exec: {drift: deny, metadataOnly: allow}")
	noMemfd := enforce("exec: {drift: deny, memfd: allow}")
	memfd, programs := enforce("exec: {memfd: deny}"), enforce("exec: {memfd: programs}")
	drift, mem := deny(verdict.RuleDrift, 0), deny(verdict.RuleMemfd, 0)
	return []ExecCase{
		{Name: "drift/image-file", YAML: on, Want: pass},
		{Name: "drift/upper", YAML: on, Facts: flags(upper), Want: drift},
		{Name: "drift/upper-mapping", YAML: on, Facts: flags(upper, mapping), Want: drift},
		{Name: "drift/upper-helper", YAML: on, Facts: flags(upper, help), Want: pass},
		{Name: "drift/metadata-deny", YAML: on, Facts: flags(upper, meta), Want: drift},
		{Name: "drift/metadata-allow", YAML: metaOK, Facts: flags(upper, meta), Want: pass},
		{Name: "drift/metadata-allow-is-not-data", YAML: metaOK, Facts: flags(upper), Want: drift},
		{Name: "drift/metadata-allow-is-not-volume", YAML: metaOK, Facts: flags(upper, meta, vol), Want: drift},
		{Name: "drift/mounted", YAML: on, Facts: flags(mounted), Want: drift},
		{Name: "drift/mounted-volumes-allow", YAML: volumes, Facts: flags(mounted, vol, volRO), Want: drift},
		{Name: "drift/mounted-helper", YAML: on, Facts: flags(mounted, help), Want: pass},
		{Name: "drift/volume", YAML: on, Facts: flags(vol), Want: drift},
		{Name: "drift/volume-ro-denied-by-default", YAML: on, Facts: flags(vol, volRO), Want: drift},
		{Name: "drift/read-only-volume", YAML: ro, Facts: flags(vol, volRO), Want: pass},
		{Name: "drift/read-only-writable-volume", YAML: ro, Facts: flags(vol), Want: drift},
		{Name: "drift/volumes-allow", YAML: volumes, Facts: flags(vol), Want: pass},
		{Name: "drift/volumes-allow-upper", YAML: volumes, Facts: flags(vol, upper), Want: drift},
		{Name: "drift/audit", YAML: audit("exec: {drift: deny}"), Facts: flags(upper), Want: report(verdict.RuleDrift, 0)},
		{Name: "drift/allow", YAML: enforce("exec: {drift: allow}"), Facts: flags(upper, mounted, vol, tmpfs, del), Want: pass},
		{Name: "memfd/follows-drift", YAML: on, Facts: flags(tmpfs), Want: mem},
		{Name: "memfd/follows-drift-deleted", YAML: on, Facts: flags(del), Want: mem},
		{Name: "memfd/allow-with-drift", YAML: noMemfd, Facts: flags(tmpfs), Want: pass},
		{Name: "memfd/allow-with-drift-upper", YAML: noMemfd, Facts: flags(tmpfs, upper), Want: drift},
		{Name: "memfd/alone", YAML: memfd, Facts: flags(tmpfs), Want: mem},
		{Name: "memfd/alone-deleted", YAML: memfd, Facts: flags(del), Want: mem},
		{Name: "memfd/alone-upper", YAML: memfd, Facts: flags(upper), Want: pass},
		{Name: "memfd/mapping", YAML: memfd, Facts: flags(tmpfs, mapping), Want: mem},
		{Name: "memfd/programs", YAML: programs, Facts: flags(tmpfs), Want: mem},
		{Name: "memfd/programs-deleted", YAML: programs, Facts: flags(del), Want: mem},
		{Name: "memfd/programs-mapping", YAML: programs, Facts: flags(tmpfs, mapping), Want: mem},
		{Name: "memfd/programs-mapping-shared", YAML: programs, Facts: flags(tmpfs, mapping, policy.FlagShared), Want: pass},
		{Name: "memfd/programs-mapping-shared-deleted", YAML: programs, Facts: flags(del, mapping, policy.FlagShared), Want: pass},
		{Name: "memfd/mapping-shared", YAML: memfd, Facts: flags(tmpfs, mapping, policy.FlagShared), Want: mem},
		{Name: "memfd/programs-shared", YAML: programs, Facts: flags(tmpfs, policy.FlagShared), Want: mem},
		{Name: "memfd/programs-audit", YAML: audit("exec: {memfd: deny}") + "---\n" + doc("second", "mode: enforce", "exec: {memfd: programs}"), Facts: flags(tmpfs, mapping, policy.FlagShared), Want: report(verdict.RuleMemfd, 0)},
		{Name: "memfd/programs-with-drift-mapping", YAML: enforce("exec: {drift: deny, memfd: programs}"), Facts: flags(upper, mapping), Want: drift},
		{Name: "memfd/helper", YAML: memfd, Facts: flags(tmpfs, help), Want: pass},
		{Name: "memfd/audit", YAML: audit("exec: {memfd: deny}"), Facts: flags(del), Want: report(verdict.RuleMemfd, 0)},
	}
}

func otherCases() []ExecCase {
	caps := enforce("exec: {fileCaps: deny}")
	ssh := enforce("ssh: {server: deny}")
	known := policy.Subject{Known: true, Name: "web", Image: "nginx:1.27"}
	return []ExecCase{
		{Name: "caps/deny", YAML: caps, Facts: flags(policy.FlagFileCaps), Want: deny(verdict.RuleFileCaps, 0)},
		{Name: "caps/none", YAML: caps, Want: pass},
		{Name: "caps/allow", YAML: enforce("exec: {fileCaps: allow}"), Facts: flags(policy.FlagFileCaps), Want: pass},
		{Name: "caps/mapping", YAML: caps, Facts: flags(policy.FlagFileCaps, policy.FlagMapping), Want: pass},
		{
			Name: "caps/audit", YAML: audit("exec: {fileCaps: deny}"), Facts: flags(policy.FlagFileCaps),
			Want: report(verdict.RuleFileCaps, 0),
		},
		{Name: "ssh/server", YAML: ssh, Facts: flags(policy.FlagSSHProgram), Want: deny(verdict.RuleSSHServer, 0)},
		{Name: "ssh/server-other-program", YAML: ssh, Want: pass},
		{Name: "ssh/server-mapping", YAML: ssh, Facts: flags(policy.FlagSSHProgram, policy.FlagMapping), Want: pass},
		{
			Name: "ssh/server-audit", YAML: audit("ssh: {server: deny}"), Facts: flags(policy.FlagSSHProgram),
			Want: report(verdict.RuleSSHServer, 0),
		},
		{
			Name: "ssh/client-rule-is-not-about-exec", YAML: enforce("ssh: {client: deny, keys: deny}"),
			Facts: flags(policy.FlagSSHProgram), Want: pass,
		},
		{
			Name: "build/only-guards", YAML: enforce("exec: {asRoot: deny, fileCaps: deny, drift: deny, deny: [/**]}",
				"ssh: {server: deny}"), Sub: policy.Subject{Class: policy.ClassBuild}, Path: "/bin/sh",
			Facts: flags(0x1fff), Want: pass,
		},
		{
			Name: "select/unknown-has-floor-only", YAML: docs(doc("floor", "mode: audit", "exec: {asRoot: deny}"),
				doc("web", "mode: enforce", "selector: {image: \"nginx:*\"}", "exec: {asRoot: deny}")),
			Facts: flags(policy.FlagRoot), Want: report(verdict.RuleAsRoot, 0),
		},
		{
			Name: "select/known-has-both", YAML: docs(doc("floor", "mode: audit", "exec: {asRoot: deny}"),
				doc("web", "mode: enforce", "selector: {image: \"nginx:*\"}", "exec: {asRoot: deny}")),
			Sub: known, Facts: flags(policy.FlagRoot), Want: deny(verdict.RuleAsRoot, 1),
		},
		{
			Name: "select/other-image", YAML: enforce("selector: {image: redis}", "exec: {asRoot: deny}"),
			Sub: known, Facts: flags(policy.FlagRoot), Want: pass,
		},
	}
}
