package policy

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// Owner returns what identifies the caller in [OwnerLabel]: "uid:1000", "cert:CN",
// "token:NAME", "container:ID"; "" for nobody. Names of users are not used: they can
// be given to another.
func Owner(sub *apicall.Subject) string {
	switch sub.Kind {
	case apicall.User:
		return "uid:" + strconv.FormatUint(uint64(sub.UID), 10)
	case apicall.Certificate:
		return "cert:" + sub.CN
	case apicall.Token:
		return "token:" + sub.Token
	case apicall.Container:
		return "container:" + sub.ContainerID
	}
	return ""
}

// owns is owner == Owner(sub), without making a string. A caller without a name of
// its kind owns nothing.
func owns(sub *apicall.Subject, owner string) bool {
	kind, name, ok := strings.Cut(owner, ":")
	if !ok || name == "" {
		return false
	}
	switch sub.Kind {
	case apicall.User:
		var buf [10]byte
		return kind == "uid" && string(strconv.AppendUint(buf[:0], uint64(sub.UID), 10)) == name
	case apicall.Certificate:
		return kind == "cert" && sub.CN == name
	case apicall.Token:
		return kind == "token" && sub.Token == name
	case apicall.Container:
		return kind == "container" && sub.ContainerID == name
	}
	return false
}

// covers reports whether the selector names all that an allowed call is about. A call
// that is about nothing in particular is covered only if its answer is filtered, if
// it can be narrowed to what the selector names, or if it makes something new.
func (s *ResourceSelector) covers(in *input) bool {
	if in.thing != nil {
		return s.names(in, in.thing, true)
	}
	t := traitsOf(in.action)
	switch {
	case t&traitBulk != 0:
		return mainKind(in.action) != apicall.ResourceBuild && s.asFilter() // caches have no labels
	case len(in.resources) == 0 && t&traitList != 0:
		return true
	case len(in.resources) == 0 && !in.makes, in.makes && !s.names(in, &in.made, true):
		return false
	}
	for i := range in.resources {
		if !s.names(in, &in.resources[i], true) {
			return false
		}
	}
	return true
}

// touches reports whether a forbidden thing is among those that the call is about. A
// bulk call may touch any.
func (s *ResourceSelector) touches(in *input) bool {
	if in.thing != nil {
		return s.names(in, in.thing, false)
	}
	t := traitsOf(in.action)
	switch {
	case t&traitBulk != 0:
		return true
	case t&traitList != 0 && len(in.resources) == 0:
		return false // the answer is filtered
	case in.makes && s.names(in, &in.made, false):
		return true
	}
	for i := range in.resources {
		if s.names(in, &in.resources[i], false) {
			return true
		}
	}
	return false
}

// names reports whether all that is set holds for r. Something may be set that makes
// no sense for r, such as an image for a network: it holds if the call is to be
// allowed, since another of its things has it, and does not if it is to be forbidden.
func (s *ResourceSelector) names(in *input, r *apicall.Resource, allow bool) bool {
	side := isSide(in.action, r)
	if len(s.Kinds) > 0 && !(side && allow) && !s.hasKind(r.Kind) {
		return false
	}
	if s.Own && !(allow && ownerless(in.action, r)) && !isNew(in, r) && !owns(in.sub, r.Owner) {
		return false
	}
	if len(s.Labels) > 0 && !(allow && ownerless(in.action, r)) && !hasLabels(labelsOf(in, r), s.Labels) {
		return false
	}
	if len(s.Names) > 0 && !(allow && side) && !s.hasName(r, allow) {
		return false
	}
	if len(s.Images) > 0 && !(allow && !hasImage(r.Kind)) && !s.hasImage(in, r, allow) {
		return false
	}
	return len(s.Namespaces) == 0 || allow && ownerless(in.action, r) || s.hasNamespace(labelsOf(in, r))
}

func (s *ResourceSelector) hasKind(k apicall.ResourceKind) bool {
	for _, name := range s.Kinds {
		if resourceKinds[name] == k {
			return true
		}
	}
	return false
}

// hasName compares with the names that the daemon knows the thing by, and with what
// was asked only while there are none: what was asked may be another thing's alias.
// Names with a slash inside are aliases that links gave; they do not allow.
func (s *ResourceSelector) hasName(r *apicall.Resource, allow bool) bool {
	for _, n := range r.Names {
		n = trimSlash(n)
		if alias := strings.Contains(n, "/") && r.Kind != apicall.ResourceImage; alias && allow {
			continue
		}
		if matchAnyText(s.Names, n) {
			return true
		}
	}
	if r.ID != "" && slices.Contains(s.Names, r.ID) {
		return true
	}
	return (r.ID == "" || !allow) && matchAnyText(s.Names, trimSlash(r.Asked))
}

// hasImage goes by all names of an image, or by the image of a container.
func (s *ResourceSelector) hasImage(in *input, r *apicall.Resource, allow bool) bool {
	image, digest := r.Image, r.ImageDigest
	if image == "" && isNew(in, r) {
		image, digest = in.facts.Image, in.facts.ImageDigest
	}
	refs := []string{image}
	if r.Kind == apicall.ResourceImage {
		refs = append(refs, r.Names...)
		if r.ID == "" || !allow {
			refs = append(refs, r.Asked)
		}
	}
	for _, p := range s.Images {
		if slices.ContainsFunc(refs, func(ref string) bool { return matchImagePattern(p, ref, digest) }) {
			return true
		}
	}
	return false
}

// namespaceLabels hold the namespace of a thing, by orchestrator.
var namespaceLabels = []string{"io.kubernetes.pod.namespace", "com.docker.stack.namespace", "com.docker.compose.project"}

func (s *ResourceSelector) hasNamespace(labels map[string]string) bool {
	for _, l := range namespaceLabels {
		if ns, ok := labels[l]; ok {
			return matchAnyText(s.Namespaces, ns)
		}
	}
	return false
}

// asFilter reports whether a bulk call can be narrowed to what the selector names by
// the daemon's own label filters.
func (s *ResourceSelector) asFilter() bool {
	return len(s.Names)+len(s.Images)+len(s.Namespaces)+len(s.Kinds) == 0
}

func (s *ResourceSelector) filterLabels(sub *apicall.Subject) map[string]string {
	m := maps.Clone(s.Labels)
	if s.Own {
		if m == nil {
			m = map[string]string{}
		}
		m[OwnerLabel] = Owner(sub)
	}
	return m
}

var mainKinds = func() []apicall.ResourceKind {
	kinds := make([]apicall.ResourceKind, len(actions)+1)
	for i, a := range actions {
		group, _, _ := strings.Cut(a, ".")
		kinds[i+1] = resourceKinds[group] // None for groups that are no kind
	}
	return kinds
}()

func mainKind(id actionID) apicall.ResourceKind { return mainKinds[id] }

// isNew reports whether r is what the call will make: nothing that exists. The gate
// denies a call about a thing that it could not look up, so that an empty ID is one
// that does not exist.
func isNew(in *input, r *apicall.Resource) bool {
	if r == &in.made {
		return true
	}
	if r.ID != "" || r.Owner != "" || len(r.Labels) > 0 || in.thing != nil {
		return false
	}
	// Engines make volumes that a new container names and that do not exist.
	return isMade(in.action, r) || traitsOf(in.action)&traitCreates != 0 && r.Kind == apicall.ResourceVolume
}

// isMade reports whether a call that makes something means that by r. What a create of these
// kinds names is something else that it joins or copies: what is made itself has no name there.
func isMade(action actionID, r *apicall.Resource) bool {
	if traitsOf(action)&traitNew == 0 || r.Kind != mainKind(action) {
		return false
	}
	switch r.Kind {
	case apicall.ResourceContainer, apicall.ResourceService, apicall.ResourceNetwork:
		return r.Asked == ""
	}
	return true
}

func labelsOf(in *input, r *apicall.Resource) map[string]string {
	if isNew(in, r) {
		return in.facts.Labels
	}
	return r.Labels
}

// isSide reports whether r only goes along: the image, volumes and networks of a
// container.
func isSide(action actionID, r *apicall.Resource) bool {
	if traitsOf(action)&traitCreates == 0 {
		return r.Kind == apicall.ResourceImage && mainKind(action) != apicall.ResourceImage
	}
	switch r.Kind {
	case apicall.ResourceImage, apicall.ResourceVolume, apicall.ResourceNetwork:
		return true
	}
	return false
}

// ownerless reports whether r is shared by nature: images, unless the call is about
// them, and the networks that every engine has.
func ownerless(action actionID, r *apicall.Resource) bool {
	switch r.Kind {
	case apicall.ResourceImage, apicall.ResourceDistribution:
		return mainKind(action) != apicall.ResourceImage
	case apicall.ResourceNetwork:
		name := r.Asked
		if len(r.Names) > 0 {
			name = r.Names[0]
		}
		return mainKind(action) != apicall.ResourceNetwork && (name == "bridge" || name == "default" || name == "none")
	}
	return false
}

func hasImage(k apicall.ResourceKind) bool {
	switch k {
	case apicall.ResourceContainer, apicall.ResourceExec, apicall.ResourceImage, apicall.ResourceService, apicall.ResourceTask, apicall.ResourceScan:
		return true
	}
	return false
}
