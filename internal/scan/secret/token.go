package secret

import (
	"bytes"
	"slices"
	"strings"
	"sync"
)

const (
	lower    = "abcdefghijklmnopqrstuvwxyz"
	upper    = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits   = "0123456789"
	alnum    = lower + upper + digits
	word     = alnum + "_"
	urlSafe  = alnum + "_-"
	hexLower = digits + "abcdef"
)

// token is a form of secret that begins as no other text does.
type token struct {
	prefix, what string
	chars        string // that follow
	least, most  int    // of them
	near         bool   // it counts only with another text of the form of its other half beside it
}

// tokens are by the documentation of their issuers, or the source of their clients:
//
//	AWS: IAM identifiers, "Understanding unique ID prefixes"
//	GitHub: "About authentication to GitHub", token formats
//	GitLab: "Token overview", token prefixes
//	Slack: "Token types"; Stripe: "API keys"; npm: "About access tokens"
//	PyPI: macaroons of pypi.org begin with its location; RubyGems: "API key scopes"
//	Docker Hub: "Personal access tokens"; DigitalOcean, SendGrid, HashiCorp Vault ("Tokens"),
//	Hugging Face, OpenAI, Anthropic, Google ("Using API keys"), age(1), crates.io, Shopify
var tokens = []token{
	{"AKIA", "an access key of AWS", upper + digits, 16, 16, true},
	{"ghp_", "a personal token of GitHub", alnum, 36, 36, false},
	{"gho_", "an OAuth token of GitHub", alnum, 36, 36, false},
	{"ghu_", "a user token of a GitHub App", alnum, 36, 36, false},
	{"ghs_", "an installation token of a GitHub App", alnum, 36, 36, false},
	{"ghr_", "a refresh token of GitHub", alnum, 76, 76, false},
	{"github_pat_", "a fine-grained token of GitHub", word, 82, 82, false},
	{"glpat-", "a personal token of GitLab", urlSafe + ".", 20, 320, false},
	{"gldt-", "a deploy token of GitLab", urlSafe, 20, 64, false},
	{"glrt-", "a runner's token of GitLab", urlSafe + ".", 20, 320, false},
	{"glcbt-", "a job's token of GitLab", urlSafe, 20, 320, false},
	{"glptt-", "a trigger's token of GitLab", hexLower, 40, 40, false},
	{"xoxb-", "a bot's token of Slack", alnum + "-", 40, 256, false},
	{"xoxp-", "a user's token of Slack", alnum + "-", 40, 256, false},
	{"xapp-", "an app's token of Slack", alnum + "-", 60, 256, false},
	{"hooks.slack.com/services/T", "a webhook of Slack", alnum + "/", 40, 80, false},
	{"sk_live_", "a secret key of Stripe", alnum, 24, 256, false},
	{"rk_live_", "a restricted key of Stripe", alnum, 24, 256, false},
	{"npm_", "a token of npm", alnum, 36, 36, false},
	{"pypi-AgEIcHlwaS5vcmc", "a token of PyPI", urlSafe, 60, 512, false},
	{"rubygems_", "a key of RubyGems", hexLower, 48, 48, false},
	{"dckr_pat_", "a personal token of Docker Hub", urlSafe, 27, 27, false},
	{"dckr_oat_", "an organisation's token of Docker Hub", urlSafe, 27, 64, false},
	{"dop_v1_", "a token of DigitalOcean", hexLower, 64, 64, false},
	{"SG.", "a key of SendGrid", urlSafe + ".", 66, 66, false},
	{"hvs.", "a token of Vault", urlSafe, 90, 320, false},
	{"hvb.", "a batch token of Vault", urlSafe, 120, 512, false},
	{"hf_", "a token of Hugging Face", alnum, 34, 34, false},
	{"sk-proj-", "a key of OpenAI", urlSafe, 40, 256, false},
	{"sk-ant-", "a key of Anthropic", urlSafe, 80, 256, false},
	{"AIzaSy", "an API key of Google", urlSafe, 33, 33, false},
	{"shpat_", "a token of Shopify", hexLower, 32, 32, false},
	{"AGE-SECRET-KEY-1", "a secret key of age", upper + digits, 58, 58, false},
}

// awsSecret is the length of the other half of an access key of AWS, and awsReach how far
// from it that is looked for, in bytes.
const (
	awsSecret = 40
	awsReach  = 512
)

// tokensIn finds tokens by their beginnings.
func tokensIn(b []byte) []hit {
	var out []hit
	others := sync.OnceValue(func() []int { return halves(b) })
	for i := range tokens {
		t := &tokens[i]
		found := 0
		for from := 0; found <= maxMatches; {
			j := bytes.Index(b[from:], []byte(t.prefix))
			if j < 0 {
				break
			}
			at := from + j
			from = at + len(t.prefix)
			if at > 0 && strings.IndexByte(word+"-", b[at-1]) >= 0 && !escaped(b, at) {
				continue // within another word
			}
			rest := b[from:min(from+t.most+1, len(b))]
			n := 0
			for n < len(rest) && strings.IndexByte(t.chars, rest[n]) >= 0 {
				n++
			}
			if n < t.least || n > t.most || !random(rest[:n]) || t.near && !near(others(), at) {
				continue
			}
			out = append(out, hit{what: shown(t.prefix, t.what, len(t.prefix)+n), at: at})
			found++
			from += n
		}
	}
	return out
}

// escaped reports whether the letter before a place is that of an escape: \n or \t.
func escaped(b []byte, at int) bool {
	return at > 1 && b[at-2] == '\\' && (b[at-1] == 'n' || b[at-1] == 't')
}

// random reports whether a value looks drawn by chance: placeholders and examples repeat a
// few characters, count, or say what they are. Of 20 characters that are drawn from hex digits,
// fewer than 7 differ once in some 10^4 values.
func random(v []byte) bool {
	var seen [256]bool
	n, runs := 0, 0
	for i, c := range v {
		if !seen[c] {
			seen[c] = true
			n++
		}
		if i > 0 && (c == v[i-1] || c == v[i-1]+1) {
			runs++
		}
	}
	if n < 7 || runs > len(v)/3 {
		return false
	}
	up := bytes.ToUpper(v)
	for _, s := range []string{"EXAMPLE", "XXXX", "PLACEHOLDER", "YOUR", "CHANGEME", "REDACTED", "DUMMY"} {
		if bytes.Contains(up, []byte(s)) {
			return false
		}
	}
	return true
}

// halves returns where texts of the length of the secret part of an access key of AWS begin.
func halves(b []byte) []int {
	var chars [256]bool
	for _, c := range []byte(alnum + "+/") {
		chars[c] = true
	}
	var out []int
	n := 0
	for i := range len(b) + 1 {
		if i < len(b) && chars[b[i]] {
			n++
			continue
		}
		if n == awsSecret && random(b[i-n:i]) {
			out = append(out, i-n)
		}
		n = 0
	}
	return out
}

// near reports whether one of these places, in order, is close to another.
func near(places []int, at int) bool {
	i, _ := slices.BinarySearch(places, at-awsReach)
	return i < len(places) && places[i] <= at+awsReach
}
