package policy

import (
	"slices"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// identityChecks are about who a process in a container is, and what it may do in the
// kernel by that.
var identityChecks = []checkSpec{
	{
		name: "notRoot", about: onRun,
		doc: "the user is not root, by any spelling (\"\", root, 0, 00, 0:0), nor by the image's default",
		params: []param{
			{"numeric", boolParam, "only a number passes: a name is what the image's /etc/passwd makes of it", nil},
			{"apiOnly", boolParam, "the container's runtime policy does not get exec.asRoot: deny", nil},
		},
		judge: func(in checkInput, a *Args) string { return rootReason(in, a.Bools["numeric"]) },
	},
	{
		name: "notRootGroup", about: onRun,
		doc: "neither the user's group nor an added one is 0 or root",
		judge: func(in checkInput, _ *Args) string {
			_, group, _ := strings.Cut(effectiveUser(in), ":")
			for _, g := range append([]string{group}, in.facts.GroupAdd...) {
				if g != "" && isRootSpelling(g) {
					return "group " + quote(g)
				}
			}
			return ""
		},
	},
	{
		name: "users", about: onRun, doc: "the user is one of those in allow",
		params: allow("users as a request writes them, globs", nil), need: needAllow,
		judge: func(in checkInput, a *Args) string {
			u := effectiveUser(in)
			return failIf(!a.allowed(u), "user %s", quote(u))
		},
	},
	{
		name: "groupAdd", doc: "no group is added but those in allow", params: allow("groups, globs", nil),
		judge: func(in checkInput, a *Args) string { return a.firstNot("group", in.facts.GroupAdd) },
	},
	{
		name: "notPrivileged", doc: "not privileged: neither container nor exec",
		judge: func(in checkInput, _ *Args) string { return failIf(in.facts.Privileged, "privileged") },
	},
	{
		name: "capabilities", doc: "no capability is added but those in allow",
		params: allow("capabilities as CAP_NET_ADMIN, or ALL", checkCapability),
		judge: func(in checkInput, a *Args) string {
			for _, c := range in.facts.CapAdd {
				if !slices.Contains(a.Lists["allow"], c) {
					return "capability " + quote(c)
				}
			}
			return ""
		},
	},
	{
		name: "capDrop", about: onCreate, doc: "ALL capabilities are dropped, or at least those in require",
		params: []param{{"require", listParam, "capabilities as CAP_NET_RAW", checkCapability}},
		judge: func(in checkInput, a *Args) string {
			want := a.Lists["require"]
			if len(want) == 0 {
				want = []string{"ALL"}
			}
			for _, c := range want {
				if !slices.Contains(in.facts.CapDrop, c) && !slices.Contains(in.facts.CapDrop, "ALL") {
					return c + " is not dropped"
				}
			}
			return ""
		},
	},
	{
		name: "noNewPrivileges", about: onCreate, doc: "no-new-privileges is set (a default counts)",
		judge: func(in checkInput, _ *Args) string {
			if in.facts.NoNewPrivileges || in.set.NoNewPrivileges && !hasOption(in.facts, "no-new-privileges=") {
				return ""
			}
			return "no-new-privileges is not set"
		},
	},
	{
		name: "seccomp", doc: "the seccomp profile is the engine's own, or one of allow",
		params: allow("custom, unconfined", checkWord("custom", "unconfined")),
		judge: func(in checkInput, a *Args) string {
			s := in.facts.Seccomp
			return failIf(s != "" && s != "builtin" && !a.allowed(s), "seccomp %s", quote(s))
		},
	},
	{
		name: "apparmor", doc: "the AppArmor profile is the engine's own, or one of allow",
		params: allow("profiles, globs; unconfined", nil),
		judge: func(in checkInput, a *Args) string {
			p := in.facts.AppArmor
			return failIf(p != "" && p != "docker-default" && !a.allowed(p), "AppArmor profile %s", quote(p))
		},
	},
	{
		name: "selinux", doc: "SELinux labelling is not turned off",
		judge: func(in checkInput, _ *Args) string {
			return failIf(in.facts.SELinuxDisabled, "SELinux labelling is turned off")
		},
	},
	{
		name: "securityOptions", doc: "no security option but no-new-privileges and those in allow",
		params: allow("options as KEY=VALUE, globs", nil),
		judge: func(in checkInput, a *Args) string {
			for _, o := range in.facts.SecurityOpt {
				if o != "no-new-privileges=true" && !a.allowed(o) {
					return "security option " + quote(o)
				}
			}
			return ""
		},
	},
	{
		name: "systemPaths", doc: "the masked and read-only paths of /proc and /sys stay so, and cgroups are not writable",
		judge: func(in checkInput, _ *Args) string {
			if hasOption(in.facts, "writable-cgroups=") {
				return "writable cgroups"
			}
			return failIf(in.facts.SystemPathsOpen, "paths of /proc and /sys are unmasked")
		},
	},
	{
		name: "commands", about: onExec, doc: "the program of an exec is one of those in allow",
		params: allow("first words of commands, globs", nil), need: needAllow,
		judge: func(in checkInput, a *Args) string {
			if len(in.facts.Cmd) == 0 {
				return "no command"
			}
			return failIf(!a.allowed(in.facts.Cmd[0]), "command %s", quote(in.facts.Cmd[0]))
		},
	},
}

func needAllow(a *Args) (msg, fix string) {
	if len(a.Lists["allow"]) == 0 {
		return "allow is missing: nothing could pass", "add allow: [...]"
	}
	return "", ""
}

func checkCapability(s string) (msg, fix string) {
	if s == "ALL" || strings.HasPrefix(s, "CAP_") && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") == "" {
		return "", ""
	}
	return quote(s) + " is not a capability", "write it as CAP_NET_ADMIN, or ALL"
}

func checkWord(words ...string) func(string) (msg, fix string) {
	return func(s string) (string, string) {
		if slices.Contains(words, s) {
			return "", ""
		}
		return quote(s) + " is not known here", "write " + oneOf(words)
	}
}

func hasOption(f *apicall.Facts, prefix string) bool {
	return slices.ContainsFunc(f.SecurityOpt, func(o string) bool { return strings.HasPrefix(o, prefix) })
}

// effectiveUser returns the user that the process will have: the request's, else the
// default that the gate sets, else the image's; an exec has its container's.
func effectiveUser(in checkInput) string {
	switch {
	case in.facts.User != "":
		return in.facts.User
	case in.set.User != "":
		return in.set.User
	}
	return in.facts.ImageUser
}

// rootReason says why the user may be root; "" if it is not.
func rootReason(in checkInput, numeric bool) string {
	f := in.facts
	user, _, _ := strings.Cut(effectiveUser(in), ":")
	switch {
	case f.User == "" && in.set.User == "" && !f.ImageUserKnown:
		return "no user is given, and the image's is not known"
	case user == "" && f.User == "":
		return "no user is given, and the image's is root"
	case isRootSpelling(user):
		return "user " + quote(effectiveUser(in))
	case isUID(user) || !numeric && isPlainName(user):
		return ""
	case numeric:
		return "user " + quote(user) + " is not a number above 0"
	}
	return "user " + quote(user) + " is neither a name nor a number above 0"
}

// isRootSpelling reports whether an engine would read s as the user or group 0. They
// use strconv.Atoi (github.com/moby/sys/user): "00", "+0" and "-0" are 0.
func isRootSpelling(s string) bool {
	if s == "" || strings.EqualFold(s, "root") {
		return true
	}
	n, err := strconv.Atoi(s)
	return err == nil && n == 0
}

// isPlainName reports whether s can only be read as a name, as useradd(8) takes them.
func isPlainName(s string) bool {
	if s == "" || len(s) > maxNameLen || s[0] >= '0' && s[0] <= '9' || strings.ContainsRune("+-.$", rune(s[0])) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.$", r)
	})
}
