package load

import (
	"fmt"
	"strings"
	"time"
)

// Text says an alert in one sentence. Names of containers in it were chosen by who made
// them; whoever shows it escapes them.
func (a *Alert) Text() string {
	if a.Message != "" {
		return a.Message
	}
	what := a.Cap
	if a.Container != nil {
		what += " of container " + a.Container.shown() + ", of its own limit,"
	} else if a.Where != "" {
		what += " (" + a.Where + ")"
	}
	since := clock(a.Since)
	switch a.Event {
	case EventOver:
		return fmt.Sprintf("%s is over its cap: %.0f%% of %d%% that policy %s allows, since %s; %s", what, a.Percent, a.Limit, a.Policy, since, a.causesText())
	case EventRelieved:
		return fmt.Sprintf("%s is below its cap again: %.0f%% of %d%% that policy %s allows; it was over since %s", what, a.Percent, a.Limit, a.Policy, since)
	case EventUnreadable:
		return fmt.Sprintf("%s cannot be read since %s, so nobody knows whether the node is full: %s", what, since, a.Error)
	case EventReadable:
		return fmt.Sprintf("%s can be read again", what)
	}
	return fmt.Sprintf("%s is watched no more: the cap of policy %s, or the container, is gone; it was over, or unreadable, since %s", what, a.Policy, since)
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05Z") }

func (a *Alert) causesText() string {
	var grown, large []string
	for i := range a.Causes {
		c := &a.Causes[i]
		if c.Since.IsZero() {
			large = append(large, c.shown()+" has "+amount(c.Now, c.Unit))
			continue
		}
		grown = append(grown, fmt.Sprintf("%s grew by %s to %s since %s", c.shown(), amount(c.Grew, c.Unit), amount(c.Now, c.Unit), clock(c.Since)))
	}
	switch {
	case len(grown) > 0:
		return strings.Join(grown, ", ")
	case len(large) > 0:
		return "no container grew in the last quarter of an hour: " + strings.Join(large, ", ")
	}
	return "by no container that is watched: it is the host's own, or an image build"
}

func (s *Subject) shown() string {
	if s.Name != "" {
		return s.Name
	}
	return s.ID.Short()
}

func amount(v float64, unit string) string {
	switch unit {
	case "bytes":
		return bytesText(v)
	case "bytes/s":
		return bytesText(v) + "/s written"
	case "share":
		return fmt.Sprintf("%.0f%% of the time waiting", 100*v)
	case "cpus":
		return fmt.Sprintf("%.2f CPUs", v)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

func bytesText(v float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%.0f B", v)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
