package policy

import (
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/secretname"
)

// contentChecks are about what runs and what is handed over: images, names, labels,
// environment, builds, copies, plugins.
var contentChecks = []checkSpec{
	{
		name: "images", about: onImageUse, doc: "the image is one of those in allow",
		params: allow("image globs, with or without tag; or NAME@sha256:...", checkImagePattern), need: needAllow,
		judge: func(in checkInput, a *Args) string {
			image := imageRef(in.facts)
			for _, p := range a.Lists["allow"] {
				if matchImagePattern(p, image, in.facts.ImageDigest) {
					return ""
				}
			}
			return "image " + quote(image)
		},
	},
	{
		name: "registries", about: onImageUse, doc: "the image comes from one of the registries in allow",
		params: allow("hosts such as docker.io, globs", nil), need: needAllow,
		judge: func(in checkInput, a *Args) string {
			r := registryOf(in.facts)
			return failIf(!a.allowed(r), "registry %s", quote(r))
		},
	},
	{
		name: "imageDigest", about: onImageUse, doc: "the image is named by its digest; with allow, by one of these",
		params: allow("sha256:...", checkDigest),
		judge: func(in checkInput, a *Args) string {
			_, digest, ok := strings.Cut(in.facts.Image, "@")
			if !ok && strings.HasPrefix(in.facts.Image, "sha256:") {
				digest, ok = in.facts.Image, true
			}
			if msg, _ := checkDigest(digest); !ok || msg != "" {
				return "image " + quote(in.facts.Image) + " is not named by its digest"
			}
			list := a.Lists["allow"]
			return failIf(len(list) > 0 && !slices.Contains(list, digest), "image digest %s", digest)
		},
	},
	{
		name: "tags", about: onTag, doc: "the names that a build, tag, commit or import gives to an image are among those in allow",
		params: allow("image globs", checkImagePattern), need: needAllow,
		judge: func(in checkInput, a *Args) string {
			tags := in.facts.Tags
			if in.facts.Repository != "" {
				tags = append(slices.Clone(tags), imageRef(&apicall.Facts{
					Registry: in.facts.Registry, Repository: in.facts.Repository, Tag: in.facts.Tag,
				}))
			}
			for _, tag := range tags {
				if !slices.ContainsFunc(a.Lists["allow"], func(p string) bool { return matchImagePattern(p, tag, "") }) {
					return "tag " + quote(tag)
				}
			}
			return ""
		},
	},
	{
		name: "names", about: onMake, doc: "the name that is given is one of those in allow",
		params: allow("names, globs", nil), need: needAllow,
		judge: func(in checkInput, a *Args) string {
			return failIf(!a.allowed(in.facts.Name), "name %s", quote(in.facts.Name))
		},
	},
	{
		name: "noReservedLabels", doc: "no label of the gate's own (" + LabelPrefix + "*) is given",
		judge: func(in checkInput, _ *Args) string {
			var bad []string
			for _, labels := range []map[string]string{in.facts.Labels, in.facts.TaskLabels} {
				for k := range labels {
					if isReservedLabel(k) {
						bad = append(bad, k)
					}
				}
			}
			if len(bad) == 0 {
				return ""
			}
			slices.Sort(bad)
			return "label " + quote(bad[0])
		},
	},
	{
		name: "labels", about: onMake, doc: "the labels in require are given, as KEY or KEY=VALUE",
		params: []param{{"require", listParam, "KEY or KEY=VALUE; VALUE may be a glob", nil}},
		need: func(a *Args) (msg, fix string) {
			if len(a.Lists["require"]) == 0 {
				return "require is missing", "add require: [KEY]"
			}
			return "", ""
		},
		judge: func(in checkInput, a *Args) string {
			for _, want := range a.Lists["require"] {
				k, v, hasValue := strings.Cut(want, "=")
				if got, ok := in.facts.Labels[k]; !ok || hasValue && !matchText(v, got) {
					return "label " + quote(want) + " is missing"
				}
			}
			return ""
		},
	},
	{
		name: "noSecretEnv", doc: "no environment variable or build argument with a name like a secret's has a value, but those in allow",
		params: allow("names, globs", nil),
		judge: func(in checkInput, a *Args) string {
			for _, kv := range in.facts.Env {
				if k, v, _ := strings.Cut(kv, "="); v != "" && secretname.Looks(k) && !a.allowed(k) {
					return "environment variable " + quote(k)
				}
			}
			secret := map[string]string{}
			for k, v := range in.facts.BuildArgs {
				if v != "" && secretname.Looks(k) {
					secret[k] = v
				}
			}
			return a.firstKeyNot("build argument", secret)
		},
	},
	{
		name: "platforms", doc: "the platform is the host's, or one of allow", params: allow("platforms, globs", nil),
		judge: func(in checkInput, a *Args) string {
			p := in.facts.Platform
			return failIf(p != "" && !a.allowed(p), "platform %s", quote(p))
		},
	},
	{
		name: "buildEntitlements", doc: "a build is entitled to nothing but what is in allow",
		params: allow("network.host, security.insecure, device, globs", nil),
		judge:  func(in checkInput, a *Args) string { return a.firstNot("entitlement", in.facts.Entitled) },
	},
	{
		name: "noRemote", doc: "the daemon fetches no build context and no import source from elsewhere, but those in allow",
		params: allow("references, globs", nil),
		judge: func(in checkInput, a *Args) string {
			r := in.facts.Remote
			return failIf(r != "" && !a.allowed(r), "remote %s", quote(r))
		},
	},
	{
		name: "frontends", doc: "a build has no frontend but dockerfile.v0 and those in allow; what a Dockerfile names in its first line is not run, unless allow is *",
		params: allow("images of frontends, globs; llb for graphs without one", nil),
		judge: func(in checkInput, a *Args) string {
			f := in.facts.Frontend
			return failIf(f != "" && f != "dockerfile.v0" && !a.allowed(f), "frontend %s", quote(f))
		},
	},
	{
		name: "buildSecrets", doc: "a build gets no secret of the caller's but those in allow", params: allow("ids, globs", nil),
		judge: func(in checkInput, a *Args) string { return a.firstNot("secret", in.facts.Secrets) },
	},
	{
		name: "buildSSH", doc: "a build gets no SSH agent of the caller's but those in allow", params: allow("ids, globs", nil),
		judge: func(in checkInput, a *Args) string { return a.firstNot("SSH agent", in.facts.SSH) },
	},
	{
		name: "noBuildOutputs", doc: "a build has no output but an image, and does not squash",
		judge: func(in checkInput, _ *Args) string {
			if in.facts.Squash {
				return "squash"
			}
			return failIf(in.facts.Outputs != "", "build output %s", quote(in.facts.Outputs))
		},
	},
	{
		name: "noChanges", doc: "a commit or import changes no configuration",
		judge: func(in checkInput, _ *Args) string {
			c := in.facts.Changes
			return failIf(len(c) > 0, "change %s", quote(strings.Join(c, "; ")))
		},
	},
	{
		name: "copyPaths", about: onCopy, doc: "files are copied only at or below the paths in allow",
		params: allow("paths in the container", checkRoot), need: needAllow,
		judge: func(in checkInput, a *Args) string {
			p := in.facts.Path
			ok := isCleanAbs(p) && slices.ContainsFunc(a.Lists["allow"], func(dir string) bool { return under(dir, p) })
			return failIf(!ok, "path %s", quote(p))
		},
	},
	{
		name: "noCompressedCopy", doc: "an archive that is copied in is not compressed: engines before 29.5.1 run the container's own decompressor (CVE-2026-41567)",
		judge: func(in checkInput, _ *Args) string {
			c := in.facts.Compressed
			return failIf(c != "" && c != "identity", "compression %s", quote(c))
		},
	},
	{
		name: "pluginPrivileges", doc: "a plugin gets no privilege but those in allow", params: allow("privileges, globs", nil),
		judge: func(in checkInput, a *Args) string { return a.firstNot("plugin privilege", in.facts.PluginPrivileges) },
	},
	{
		name: "noUnknownFields", doc: "the request has no field that no API version knows",
		judge: func(in checkInput, _ *Args) string {
			f := in.facts.DroppedFields
			return failIf(len(f) > 0, "unknown field %s", quote(strings.Join(f, ", ")))
		},
	},
}

// imageRef returns the image of a request, whichever way it is named.
func imageRef(f *apicall.Facts) string {
	if f.Image != "" || f.Repository == "" {
		return f.Image
	}
	ref := f.Repository
	if f.Registry != "" {
		ref = f.Registry + "/" + ref
	}
	if f.Tag != "" {
		ref += ":" + f.Tag
	}
	return ref
}

// matchImagePattern is matchImage for patterns that may name a digest, which is
// compared with what the gate resolved and with what the request says.
func matchImagePattern(pattern, ref, digest string) bool {
	if ref == "" {
		return false
	}
	name, want, pinned := strings.Cut(pattern, "@")
	if !pinned {
		return matchImage(pattern, ref)
	}
	return (digestOf(digest) == want || digest == "" && digestOf(ref) == want) && matchImage(name, ref)
}

// registryOf returns the host that the image comes from; "docker.io" is implied by a
// name without one, as engines do (github.com/distribution/reference).
func registryOf(f *apicall.Facts) string {
	if f.Registry != "" {
		return f.Registry
	}
	image := imageRef(f)
	if image == "" || strings.HasPrefix(image, "sha256:") {
		return ""
	}
	first, _, multi := strings.Cut(image, "/")
	if multi && (strings.ContainsAny(first, ".:") || first == "localhost" || first != strings.ToLower(first)) {
		if first == "index.docker.io" {
			return "docker.io"
		}
		return first
	}
	return "docker.io"
}

// isReservedLabel tells the gate's labels from a client's in any case and with any
// space around: some tools fold and trim keys.
func isReservedLabel(key string) bool {
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(key)), LabelPrefix)
}
