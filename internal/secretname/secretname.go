// Package secretname tells by names and by the beginnings of values what looks like a
// secret, in the same way for requests, for policies about images and for scans.
//
// It owns no state, and never returns a value. It guesses: what it does not know passes, and
// a name may look like a secret's and be none. Row: vocabulary; standard library only.
package secretname

import (
	"slices"
	"strings"
)

var words = []string{"PASSWORD", "PASSWD", "SECRET", "TOKEN", "APIKEY", "API_KEY", "PRIVATE_KEY", "ACCESS_KEY", "CREDENTIAL"}

// tokens are beginnings of values that are tokens by their issuers' own documentation:
// AWS IAM identifiers, GitHub "about authentication", GitLab token prefixes, Slack token
// types, RFC 7468.
var tokens = []string{"AKIA", "ASIA", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "-----BEGIN"}

// Looks goes by the name of a variable alone. NAME_FILE is a path by convention.
func Looks(name string) bool {
	up := strings.ToUpper(name)
	return !strings.HasSuffix(up, "_FILE") && slices.ContainsFunc(words, func(w string) bool { return strings.Contains(up, w) })
}

// Token goes by the beginning of a value.
func Token(value string) bool {
	return slices.ContainsFunc(tokens, func(p string) bool { return strings.HasPrefix(value, p) && len(value) > len(p)+8 })
}

// Variable reports whether a variable with this value looks like a secret. A path tells
// where the secret is, and is none.
func Variable(name, value string) bool {
	return value != "" && (Looks(name) && !strings.HasPrefix(value, "/") || Token(value))
}
