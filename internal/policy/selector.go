package policy

import (
	"slices"
	"strings"
)

// IsReserved reports whether a label is of the prefix that only the gate sets.
func IsReserved(key string) bool { return strings.HasPrefix(key, LabelPrefix) }

// isDNSLabel is RFC 1123's label in lower case, the form of Kubernetes names.
func isDNSLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
}

// matches reports whether the policy is for sub. What needs metadata does not match
// before the metadata is there: until then the container has the floor.
func (s *Selector) matches(sub *Subject) bool {
	if s.empty() {
		return true
	}
	if !sub.Known {
		return false
	}
	return hasLabels(sub.Labels, s.Labels) && hasLabels(sub.PodLabels, s.PodLabels) &&
		(s.ImageDigest == "" || hasDigest(sub, s.ImageDigest)) &&
		(s.Image == "" || matchImage(s.Image, sub.Image)) &&
		(s.Name == "" || hasName(sub, s.Name)) &&
		(s.Namespace == "" || matchGlob(s.Namespace, sub.Namespace)) &&
		(s.Workload == "" || matchGlob(s.Workload, sub.Workload))
}

func hasLabels(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// digestOf returns the digest of "sha256:..." or "repository@sha256:...".
func digestOf(s string) string { return s[strings.LastIndexByte(s, '@')+1:] }

const maxGlob = 512

func checkGlob(s string) (msg, fix string) {
	switch {
	case len(s) > maxGlob:
		return "the pattern is too long", ""
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return quote(s) + " has a space or a control character", "delete it"
	case strings.ContainsAny(s, "?\\") || globBrackets(s):
		return quote(s) + " has a wildcard other than * and **", "use * (anything but /) and ** (anything)"
	}
	return "", ""
}

func checkImageGlob(s string) (msg, fix string) {
	if strings.Contains(s, "@") {
		return quote(s) + " names a digest", "put the digest into selector.imageDigest"
	}
	return checkGlob(s)
}

func checkDigest(s string) (msg, fix string) {
	hex, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return quote(s) + " is not an image digest",
			"write sha256: and 64 lower-case hex digits, as docker images --digests shows"
	}
	return "", ""
}

// matchImage reports whether the pattern names the image that ref is. The pattern
// may be written in the short form of Docker Hub or in full; one without a tag
// means every tag.
func matchImage(pattern, ref string) bool {
	ref, _, byDigest := strings.Cut(ref, "@")
	repo, tag := splitTag(ref)
	if tag == "" && !byDigest {
		tag = "latest"
	}
	_, patternTag := splitTag(pattern)
	return slices.ContainsFunc(repoNames(repo), func(name string) bool {
		if patternTag == "" {
			return matchGlob(pattern, name)
		}
		return matchGlob(pattern, name+":"+tag)
	})
}

// splitTag parts the tag of a reference; the colon of a registry's port is none.
func splitTag(ref string) (repo, tag string) {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i], ref[i+1:]
	}
	return ref, ""
}

// repoNames returns the spellings of a repository: Docker Hub's has three.
func repoNames(repo string) []string {
	first, rest, multi := strings.Cut(repo, "/")
	switch {
	case multi && (first == "docker.io" || first == "index.docker.io"):
		repo = rest
	case multi && (strings.ContainsAny(first, ".:") || first == "localhost"):
		return []string{repo} // another registry
	}
	short := strings.TrimPrefix(repo, "library/")
	if strings.Contains(short, "/") {
		return []string{short, "docker.io/" + short}
	}
	return []string{short, "library/" + short, "docker.io/library/" + short}
}

// matchGlob matches s whole: * is any text without a slash, ** any text. The time is
// at most len(pattern) * len(s).
func matchGlob(pattern, s string) bool {
	// ok[i]: the pattern up to here matches s[:i].
	ok := make([]bool, len(s)+1)
	ok[0] = true
	for p := 0; p < len(pattern); p++ {
		if pattern[p] != '*' {
			for i := len(s); i > 0; i-- {
				ok[i] = ok[i-1] && s[i-1] == pattern[p]
			}
			ok[0] = false
			continue
		}
		deep := p+1 < len(pattern) && pattern[p+1] == '*'
		if deep {
			p++
		}
		for i := 1; i <= len(s); i++ {
			ok[i] = ok[i] || ok[i-1] && (deep || s[i-1] != '/')
		}
	}
	return ok[len(s)]
}

func hasName(sub *Subject, glob string) bool {
	match := func(n string) bool { return matchGlob(glob, strings.TrimPrefix(n, "/")) }
	return match(sub.Name) || slices.ContainsFunc(sub.FormerNames, match)
}

func hasDigest(sub *Subject, want string) bool {
	return digestOf(sub.ImageDigest) == want ||
		slices.ContainsFunc(sub.ImageDigests, func(d string) bool { return digestOf(d) == want })
}
