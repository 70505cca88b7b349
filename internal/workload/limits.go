package workload

import (
	"cmp"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/ident"
)

// Bounds on what is kept of a container. Whoever may create containers chooses
// names and labels, and an image's author can ship thousands of labels; Docker
// bounds neither their number nor their size. The figures leave room for the
// largest things seen in the field (Compose, Traefik and Kubernetes labels).
const (
	maxNameBytes       = 512      // Docker and Kubernetes names are far below (253 per part)
	maxImageBytes      = 1024     // a reference is at most 255 + 1 + 128 + 1 + 135 bytes
	maxLabels          = 512      // labels of one container
	maxLabelKeyBytes   = 512      //
	maxLabelValueBytes = 8 << 10  // containerd itself allows 4096 for key and value together
	maxLabelsBytes     = 64 << 10 // keys and values of one container
	maxDigests         = 32       // digests of one image
	maxListBytes       = 32 << 20 // a runtime's answer to "all containers": 10,000 of them
	maxReplyBytes      = 4 << 20  // its answer about one container or image
	maxEventBytes      = 4 << 20  // one line of the event stream
	maxEvents          = 4096     // events waiting for the loop
	labelOfBelay       = "belay.dev/"
	labelOfKubernetes  = "io.kubernetes."
	sha256Prefix       = "sha256:"
	sha256Len          = len(sha256Prefix) + 64
)

// boundLabels returns the labels that fit the bounds, and how many did not.
//
// A label is kept whole or not at all: a shortened value could equal a selector
// it was never meant to match. Where there are too many, those Belay and
// Kubernetes set go first, then short ones, so that the choice does not depend on
// map order.
func boundLabels(in map[string]string) (out map[string]string, cut int) {
	if len(in) == 0 {
		return nil, 0
	}
	total := 0
	for k, v := range in {
		total += len(k) + len(v)
		if len(k) > maxLabelKeyBytes || len(v) > maxLabelValueBytes {
			total = maxLabelsBytes + 1
			break
		}
	}
	if len(in) <= maxLabels && total <= maxLabelsBytes {
		return in, 0
	}
	keys := make([]string, 0, len(in))
	for k, v := range in {
		if len(k) <= maxLabelKeyBytes && len(v) <= maxLabelValueBytes {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(labelRank(a)-labelRank(b), len(a)+len(in[a])-len(b)-len(in[b]), strings.Compare(a, b))
	})
	out = make(map[string]string, min(len(keys), maxLabels))
	total = 0
	for _, k := range keys {
		n := len(k) + len(in[k])
		if len(out) == maxLabels || total+n > maxLabelsBytes {
			break
		}
		total += n
		// The decoder's backing array may be huge: keep no reference to it.
		out[strings.Clone(k)] = strings.Clone(in[k])
	}
	return out, len(in) - len(out)
}

func labelRank(k string) int {
	switch {
	case strings.HasPrefix(k, labelOfBelay):
		return 0
	case strings.HasPrefix(k, labelOfKubernetes):
		return 1
	}
	return 2
}

// bound applies every bound to c and counts what it took in c.Cut.
func bound(c Container) Container {
	if len(c.Name) > maxNameBytes {
		c.Name = ""
		c.Cut++
	}
	if c.Name == "" {
		c.Name = c.ID.Short()
	}
	if len(c.Image) > maxImageBytes {
		c.Image = ""
		c.Cut++
	}
	if len(c.Namespace) > maxNameBytes {
		c.Namespace = ""
		c.Cut++
	}
	if len(c.Workload) > maxNameBytes {
		c.Workload = ""
		c.Cut++
	}
	var n int
	c.Labels, n = boundLabels(c.Labels)
	c.Cut += n
	c.PodLabels, n = boundLabels(c.PodLabels)
	c.Cut += n
	c.ImageDigest = validDigest(c.ImageDigest)
	return c
}

// validDigest returns s if it is a sha256 digest in canonical form, else "".
func validDigest(s string) string {
	if len(s) != sha256Len || !strings.HasPrefix(s, sha256Prefix) {
		return ""
	}
	if _, err := ident.ParseContainerID(s[len(sha256Prefix):]); err != nil {
		return ""
	}
	return s
}

// mergeDigests returns the valid digests of all lists, sorted, each once.
func mergeDigests(lists ...[]string) []string {
	var out []string
	for _, l := range lists {
		for _, d := range l {
			if validDigest(d) != "" {
				out = append(out, d)
			}
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return slices.Clip(out[:min(len(out), maxDigests)])
}
