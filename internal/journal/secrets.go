package journal

import (
	"net/url"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/secretname"
)

const hidden = "[redacted]"

// WithoutSecrets returns r, or a copy whose arguments are without what looks like a secret
// (a guess by names and forms): for records that leave the host, which the journal does not.
func WithoutSecrets(r *Record) *Record {
	if r.Process == nil || len(r.Process.Args) == 0 {
		return r
	}
	args, changed := hideSecrets(r.Process.Args)
	if !changed {
		return r
	}
	out, p := *r, *r.Process
	p.Args = args
	out.Process = &p
	return &out
}

// hideSecrets copies args only if it changes one: records come by the ten thousand, and hardly any has a secret.
func hideSecrets(args []string) (out []string, changed bool) {
	out = args
	next := false // the value of an option stands in the argument after it
	for i, arg := range args {
		shown := arg
		switch name, value, ok := strings.Cut(arg, "="); {
		case next && !strings.HasPrefix(arg, "-"):
			shown = hidden
		case ok && secretname.Variable(dashes(name), value):
			shown = name + "=" + hidden
		case secretname.Token(arg):
			shown = hidden
		case strings.Contains(arg, "://") && strings.Contains(arg, "@"):
			shown = hidePassword(arg)
		}
		next = strings.HasPrefix(arg, "-") && !strings.Contains(arg, "=") && secretname.Looks(dashes(arg))
		if shown != arg {
			if !changed {
				out, changed = slices.Clone(args), true
			}
			out[i] = shown
		}
	}
	return out, changed
}

// dashes turns the name of an option into one of a variable: --api-key is api_key.
func dashes(s string) string { return strings.ReplaceAll(strings.TrimLeft(s, "-"), "-", "_") }

// hidePassword hides the password of a URL.
func hidePassword(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	if _, ok := u.User.Password(); !ok {
		return s
	}
	return u.Redacted()
}
