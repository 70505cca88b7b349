package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// SecretKinds are the kinds of secrets that a scan finds in files.
var SecretKinds = []string{inventory.FileSecret, inventory.FileSecretDeleted}

// maxSecrets bounds what a policy lets pass of one kind: an inventory has no more.
const maxSecrets = inventory.MaxMisconfigurations

// NoSecrets is the value of secrets that lets none pass.
const NoSecrets = "none"

// SecretLimits is how many secrets of each kind an image may have in its files; none of a
// kind that Max does not name.
type SecretLimits struct{ Max map[string]int }

// ImageSecret is one that a scan has found. It has no value.
type ImageSecret struct {
	Kind  string // of [SecretKinds]
	What  string // what it is
	Where string // file and line
	// Weak says that it is of little use alone: a key behind a passphrase, or a hash of a
	// password. It does not count.
	Weak bool
}

// String is "a private key in root/.ssh/id_rsa:1".
func (s *ImageSecret) String() string { return short(s.What) + " in " + short(s.Where) }

func (l *SecretLimits) canonical() any {
	if len(l.Max) == 0 {
		return NoSecrets
	}
	return l.Max
}

// String is "none" or "secret-in-file=2".
func (l *SecretLimits) String() string {
	if len(l.Max) == 0 {
		return NoSecrets
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(l.Max)) {
		parts = append(parts, fmt.Sprintf("%s=%d", k, l.Max[k]))
	}
	return strings.Join(parts, ",")
}

// judge refuses an image with too many secrets, and one of which not all was searched.
func (l *SecretLimits) judge(sc *ImageScan, allowIncomplete bool) imageRefusal {
	found := map[string][]string{}
	for i := range sc.Secrets {
		if s := &sc.Secrets[i]; !s.Weak {
			found[s.Kind] = append(found[s.Kind], s.String())
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(found)) {
		n, most := len(found[kind]), l.Max[kind]
		if n <= most {
			continue
		}
		reason := fmt.Sprintf("a scan found %d of %s in its files", n, kind)
		if most > 0 {
			reason += fmt.Sprintf(", more than %d", most)
		}
		return imageRefusal{rule: "secrets", reason: reason + "; fix: build it without them, and revoke them", details: cutDetails(found[kind])}
	}
	if sc.Unsearched != "" && !allowIncomplete {
		return imageRefusal{rule: "incomplete", reason: "not all of its files were searched for secrets: " + short(sc.Unsearched)}
	}
	return imageRefusal{}
}

// secretLimits reads none, or how many of each kind may be.
func (d *decoder) secretLimits(dst **SecretLimits) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		l := &SecretLimits{}
		if n.Kind != yaml.MappingNode {
			d.enum([]string{NoSecrets}, func(string) { *dst = l })(n, at)
			return
		}
		d.pairs(n, at, func(k, v *yaml.Node) {
			if !slices.Contains(SecretKinds, k.Value) {
				fix := "write one of " + strings.Join(SecretKinds, ", ")
				if g, ok := closest(k.Value, SecretKinds); ok {
					fix = "did you mean " + g + "?"
				}
				d.fail(k, fix, "%s: %s is no kind of secret", at, quote(k.Value))
				return
			}
			most := 0
			d.integer(&most, 0, maxSecrets)(v, at+"."+k.Value)
			if l.Max == nil {
				l.Max = map[string]int{}
			}
			l.Max[k.Value] = most
		})
		if len(l.Max) == 0 {
			d.fail(n, "write secrets: none", "%s names no kind", at)
		}
		*dst = l
	}
}

// Threshold is a bound from 0 to 1 that a number must reach. The zero value is none.
type Threshold struct {
	Value float64
	Above bool // it must be passed, not only reached
	// text is the number as it was written.
	text string
}

func (t *Threshold) set() bool { return t.text != "" }

// String is ">=0.1", or nothing.
func (t Threshold) String() string {
	switch {
	case !t.set():
		return ""
	case t.Above:
		return ">" + t.text
	}
	return ">=" + t.text
}

// met reports whether an estimate reaches the bound. One that is not there, 0, does: nobody
// has said that it is low.
func (t *Threshold) met(v float64) bool {
	return !t.set() || v <= 0 || v > t.Value || !t.Above && v == t.Value
}

// threshold reads ">=0.1" or ">0.1".
func (d *decoder) threshold(dst *Threshold) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		t := Threshold{}
		text, ok := strings.CutPrefix(n.Value, ">=")
		if !ok {
			text, t.Above = strings.CutPrefix(n.Value, ">")
			ok = t.Above
		}
		text = strings.TrimSpace(text)
		v, err := strconv.ParseFloat(text, 64)
		plain := strings.Trim(text, "0123456789.") == "" && len(text) <= 16
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || !ok || err != nil || !plain || v <= 0 || v > 1 || t.Above && v == 1 {
			d.fail(n, `write it as ">=0.1", in quotes: a share from 0 to 1`, "%s must be a bound, got %s", at, describe(n))
			return
		}
		t.Value, t.text = v, strconv.FormatFloat(v, 'f', -1, 64)
		*dst = t
	}
}
