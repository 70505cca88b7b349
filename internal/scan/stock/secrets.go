package stock

import (
	"cmp"
	"slices"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// secrets returns the secrets in files of an inventory. What is low is of little use alone.
func secrets(res *inventory.Result) []policy.ImageSecret {
	var out []policy.ImageSecret
	for i := range res.Misconfigurations {
		m := &res.Misconfigurations[i]
		if slices.Contains(policy.SecretKinds, m.ID) {
			out = append(out, policy.ImageSecret{
				Kind: m.ID, What: m.Text, Where: cmp.Or(m.Where, m.Path), Weak: m.Severity <= inventory.SeverityLow && m.Severity != inventory.SeverityUnknown,
			})
		}
	}
	return out
}

// unsearched says why not every file was searched that should have been, "" if each was.
func unsearched(res *inventory.Result) string {
	switch {
	case slices.Contains(res.Skipped, inventory.ScannerSecret):
		return "they were not looked for"
	case res.Unsearched != nil:
		return res.Unsearched.Text + ": " + res.Unsearched.Path
	case len(res.Notes) > 0:
		return res.Notes[0].Text + ": " + res.Notes[0].Path
	}
	return ""
}
