package kernel

import (
	"regexp"

	"github.com/belay-project/belay/internal/verdict"
)

// catalogue lists the techniques that the page must say something about: what they are is in
// docs/threat-model.md.
var catalogue = []string{
	"D1", "D2", "D3", "D4", "D5", "D6", "D7", "D8",
	"E1", "E2", "E3", "E4", "E5", "E6", "E7", "E8", "E9", "E10", "E11", "E12", "E13", "E14", "E15",
	"F1", "F2", "F3", "F4", "F5", "F6", "F7",
	"H1", "H2", "H3", "H4", "H5",
	"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11",
	"N1", "N2", "N3", "N5",
	"P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8",
}

// beyond says of techniques without an attack why they have none.
var beyond = map[string]string{}

// reasons says of attacks that are open what the rule's own note does not. It never makes an outcome.
var reasons = map[string]string{
	"e1-volume-twice": "volumes: readOnly goes by the mount that a program is executed from: who has the same directory writable at another place writes it there; " +
		"volumes: deny has no such gap",
	"e8-anon":        inMemory,
	"e8-rwx":         inMemory,
	"e8-selfmem":     inMemory,
	"e8-uffd":        inMemory,
	"e9-argument":    interpreted,
	"e9-awk":         interpreted,
	"e9-input":       interpreted,
	"e9-shell":       interpreted,
	"e9-source":      interpreted,
	"file-cover":     "who may mount can hide a protected file behind another, and the protected one stays as it is: privileges.mount: deny",
	"net-alg":        noIP,
	"net-netlink":    noIP,
	"net-vsock":      noIP,
	"n2-client-left": leftCgroup,
	"n2-server-left": leftCgroup,
	"net-left":       leftCgroup,
	"net-left-born":  leftCgroup,
	"p7-saved": "denyAfterStart is judged at execs: who gives root up and takes it back between two of them, while startFor lasts, has not given it up; " +
		"exec.asRoot: deny has no such time",
}

const leftCgroup = "the rules on traffic are held by cgroup programs, which go by the cgroup that a socket was made in: who has the cgroup tree, writable, can leave it, " +
	"and this backend has no hook on the making of sockets. No CAP_SYS_ADMIN and no writable cgroup file system keep it in"

const interpreted = "what a permitted interpreter is told by argument or input is not judged: deny the interpreter"

const noIP = "the rules on traffic are about IP: vsock, netlink and AF_ALG are none of it; a seccomp profile can close a family"

const inMemory = "code that a permitted program makes in memory of its own has no file to be judged by; JIT compilers do the same"

// scratch is what the name of an attack's own directory has in each run.
var scratch = regexp.MustCompile(`/tmp/attack-\d+`)

const busyboxPolicy = "  exec: {deny: [/bin/busybox]}\n"

// moreCases are attacks that only the matrix plays: their rules' tests are elsewhere, or there is no rule.
func moreCases() []attackCase {
	return []attackCase{
		{name: "e4-applet", rule: verdict.RulePathDeny, policy: busyboxPolicy},
		{name: "e4-argv0", rule: verdict.RulePathDeny, policy: busyboxPolicy},
		{name: "e4-symlink", rule: verdict.RulePathDeny, policy: busyboxPolicy},
		{name: "e8-anon", rule: verdict.RuleDrift, policy: driftPolicy},
		{name: "e8-selfmem", rule: verdict.RuleDrift, policy: driftPolicy},
		{name: "e9-source", rule: verdict.RuleDrift, policy: driftPolicy},
		{name: "e9-shell", rule: verdict.RuleDrift, policy: driftPolicy},
		{name: "e12-x32", rule: verdict.RuleDrift, policy: driftPolicy},
		{name: "p7-root", rule: verdict.RuleAsRoot, policy: rootPolicy, flags: []string{"--uid", "0"}},
		{name: "p7-saved", rule: verdict.RuleAsRoot, policy: "  exec: {asRoot: denyAfterStart}\n", flags: []string{"--uid", "0"}},
		{name: "priv-autoload", rule: verdict.RuleModuleAutoload, policy: "  privileges: {moduleAutoload: deny}\n", silent: true},
	}
}
