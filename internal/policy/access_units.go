package policy

import (
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// sizeUnits are the units of memory, largest first: those of Kubernetes.
var sizeUnits = []struct {
	name  string
	bytes int64
}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}}

func parseBytes(s string) (int64, bool) {
	digits, unit := s, int64(1)
	for _, u := range sizeUnits {
		if d, ok := strings.CutSuffix(s, u.name); ok {
			digits, unit = d, u.bytes
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/unit || strconv.FormatInt(n, 10) != digits {
		return 0, false
	}
	return n * unit, true
}

func formatBytes(n int64) string {
	if n == 0 {
		return ""
	}
	for _, u := range sizeUnits {
		if n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

const nano = 1_000_000_000

// parseCPUs reads a number of CPUs with at most three decimals: "1.5".
func parseCPUs(s string) (nanoCPUs int64, ok bool) {
	whole, frac, dot := strings.Cut(s, ".")
	w, err := strconv.ParseUint(whole, 10, 16)
	if err != nil || strconv.FormatUint(w, 10) != whole || dot && (frac == "" || len(frac) > 3) {
		return 0, false
	}
	f, err := strconv.ParseUint((frac + "000")[:3], 10, 16)
	if err != nil || w == 0 && f == 0 {
		return 0, false
	}
	return int64(w)*nano + int64(f)*nano/1000, true
}

func formatCPUs(nanoCPUs int64) string {
	if nanoCPUs == 0 {
		return ""
	}
	s := strconv.FormatInt(nanoCPUs/nano, 10)
	if milli := nanoCPUs % nano / (nano / 1000); milli != 0 {
		s += "." + strings.TrimRight(strconv.FormatInt(1000+milli, 10)[1:], "0")
	}
	return s
}

func (d *decoder) size(dst *int64) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		v, ok := parseBytes(n.Value)
		switch {
		case n.Kind != yaml.ScalarNode || n.Tag != "!!str" && n.Tag != "!!int" || !ok:
			d.fail(n, "write a number with Ki, Mi or Gi, such as 512Mi", "%s must be a size, got %s", at, describe(n))
		case v < minMemoryLimit:
			d.fail(n, "write at least 6Mi: engines refuse less", "%s is too small to run a container", at)
		default:
			*dst = v
		}
	}
}

func (d *decoder) cpus(dst *int64) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		v, ok := parseCPUs(n.Value)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" && n.Tag != "!!int" && n.Tag != "!!float" || !ok {
			d.fail(n, `write a number such as 2 or "1.5"`, "%s must be a number of CPUs, got %s", at, describe(n))
			return
		}
		*dst = v
	}
}
