package secret

import (
	"bytes"
	"path"
	"regexp"
	"strings"

	"github.com/belay-project/belay/internal/secretname"
)

// place is a file that is made to hold secrets, and how they stand in a line of it.
type place struct {
	is   func(dir, base string) bool
	what string
	line *regexp.Regexp // its first group is the value
	weak bool
}

func named(names ...string) func(dir, base string) bool {
	return func(dir, base string) bool {
		for _, n := range names {
			if d, b := path.Split(n); b == base && (d == "" || strings.HasSuffix("/"+dir, "/"+d)) {
				return true
			}
		}
		return false
	}
}

// places are by the manuals of the programs that read them: docker-login(1), netrc(5),
// gitcredentials(7), git-credential-store(1), npmrc(5), pip.conf and .pypirc (packaging.python.org),
// PostgreSQL ("The Password File"), shadow(5), and the settings of Maven.
var places = []place{
	{named(".docker/config.json", ".dockercfg", "containers/auth.json"), "credentials of a registry", regexp.MustCompile(`"auth"\s*:\s*"([A-Za-z0-9+/]{8,}={0,2})"`), false},
	{named(".git-credentials", ".git/config", ".gitconfig", "pip.conf", "pip/pip.conf", ".condarc"), "a URL with a password", urlPassword, false},
	{named(".netrc", "_netrc", "etc/apt/auth.conf"), "a password", regexp.MustCompile(`\bpassword\s+(\S{3,})`), false},
	{named(".npmrc", ".yarnrc.yml"), "a token of a registry", regexp.MustCompile(`(?:_authToken|_auth|_password|npmAuthToken)\s*[=:]\s*"?([^\s"]{8,})`), false},
	{named(".pypirc"), "a password", regexp.MustCompile(`^\s*password\s*[=:]\s*(\S{3,})`), false},
	{named(".pgpass"), "a password", regexp.MustCompile(`^[^#:]*:[^:]*:[^:]*:[^:]*:(\S+)`), false},
	{named(".m2/settings.xml"), "a password", regexp.MustCompile(`<password>([^<{]{3,})</password>`), false},
	{named("etc/shadow"), "the hash of a password", regexp.MustCompile(`^[^:]+:(\$[^:!*]{8,}):`), true},
	{isEnv, "a variable that looks like a secret", nil, false},
}

// urlPassword is a URL with a user and a password. Source: RFC 3986, section 3.2.1.
var urlPassword = regexp.MustCompile(`\bhttps?://[^\s/:@]+:([^\s/:@]{3,})@`)

// isEnv: files of variables for dotenv and docker run --env-file, not their templates.
func isEnv(_, base string) bool {
	if base != ".env" && !strings.HasPrefix(base, ".env.") && !strings.HasSuffix(base, ".env") {
		return false
	}
	for _, s := range []string{"example", "sample", "template", "dist", "defaults"} {
		if strings.Contains(base, s) {
			return false
		}
	}
	return true
}

// maxLine bounds a line that an expression is asked about, in bytes.
const maxLine = 64 << 10

// inPlace finds secrets by the file that they are in.
func inPlace(name string, b []byte) []hit {
	dir, base := path.Split(name)
	var out []hit
	for i := range places {
		p := &places[i]
		if !p.is(dir, base) {
			continue
		}
		at := 0
		for line := range bytes.Lines(b) {
			if what, ok := p.secret(line[:min(len(line), maxLine)]); ok && len(out) <= maxMatches {
				out = append(out, hit{what, at, p.weak})
			}
			at += len(line)
		}
	}
	return out
}

// secret says what a line of the file holds.
func (p *place) secret(line []byte) (what string, ok bool) {
	if p.line == nil {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(line)), "export "), "=")
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		if !plainName.MatchString(name) || !literal(value) || !secretname.Variable(name, value) {
			return "", false
		}
		return p.what + ", " + name, true
	}
	m := p.line.FindSubmatch(line)
	if m == nil || !literal(string(m[1])) {
		return "", false
	}
	return p.what, true
}

// plainName is the name of a variable: nothing of a value is in it.
var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// literal reports whether a value is one, and no reference to a variable or placeholder. The hash
// of a password begins with a dollar sign too.
func literal(v string) bool {
	up := strings.ToUpper(v)
	if len(v) < 3 || strings.HasPrefix(v, "${") || strings.HasPrefix(v, "$(") || strings.HasPrefix(v, "<") || strings.HasPrefix(v, "{{") || strings.HasPrefix(v, "%") ||
		len(v) > 1 && v[0] == '$' && !strings.Contains(v[1:], "$") {
		return false
	}
	for _, s := range []string{"EXAMPLE", "XXXX", "PLACEHOLDER", "YOUR_", "YOUR-", "CHANGEME", "CHANGE_ME", "REDACTED"} {
		if strings.Contains(up, s) {
			return false
		}
	}
	return true
}
