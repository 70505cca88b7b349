package policy

import (
	"cmp"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// UseCondition is what must have been observed of a package. The zero value is nothing.
type UseCondition struct {
	InUse     bool // a file of it was executed, mapped or held open
	Listening bool // by a process that listens on a socket
	Reachable bool // which a published port leads to
}

func (c *UseCondition) any() bool { return c.InUse || c.Listening || c.Reachable }

// met reports whether a package's use meets the condition; sure is false where that is not
// known.
func (c *UseCondition) met(u *inventory.Use) (yes, sure bool) {
	sure = true
	for _, q := range []struct {
		asked bool
		of    func() (yes, known bool)
	}{{c.InUse, u.InUse}, {c.Listening, u.IsListening}, {c.Reachable, u.IsReachable}} {
		if !q.asked {
			continue
		}
		yes, known := q.of()
		if known && !yes {
			return false, true
		}
		sure = sure && known
	}
	return true, sure
}

func (c *UseCondition) words() []string {
	var out []string
	for _, w := range []struct {
		on   bool
		word string
	}{{c.InUse, "in use"}, {c.Listening, "listening"}, {c.Reachable, "reachable"}} {
		if w.on {
			out = append(out, w.word)
		}
	}
	return out
}

// Urgency orders findings, the most urgent first: known to be exploited; in use, those that a
// published port leads to before others, what is not known before what was not seen; by EPSS;
// by severity.
func (f *ImageFinding) Urgency(o *ImageFinding) int {
	exploited := func(f *ImageFinding) int {
		if f.Exploited {
			return 0
		}
		return 1
	}
	return cmp.Or(exploited(f)-exploited(o), f.Use.Rank()-o.Use.Rank(), -cmp.Compare(f.EPSS, o.EPSS), -cmp.Compare(f.Severity, o.Severity))
}

// share reads a number from 0 to 1.
func (d *decoder) share(dst *float64) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		v, err := strconv.ParseFloat(n.Value, 64)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!float" && n.Tag != "!!int" || err != nil || !(v >= 0 && v <= 1) {
			d.fail(n, "write a number from 0 to 1", "%s must be a share, got %s", at, describe(n))
			return
		}
		*dst = v
	}
}

// endpoint reads true or false of a test's package: whether it has an endpoint.
func (d *decoder) endpoint(dst *[]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		yes := false
		if d.boolean(&yes)(n, at); yes {
			*dst = []string{"tcp 0.0.0.0:443"}
		}
	}
}
