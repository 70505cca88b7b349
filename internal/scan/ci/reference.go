package ci

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// registryPrefix says that a name is one of a registry and nothing on this host, as with
// belay scan.
const registryPrefix = "registry:"

const (
	maxImage    = 512
	maxPlatform = 64
)

// Source: https://github.com/distribution/distribution/blob/main/docs/content/spec/api.md,
// names of repositories and tags; RFC 3986 for hosts.
var (
	imageID    = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	imageName  = regexp.MustCompile(`^[A-Za-z0-9\[][A-Za-z0-9._:/@\[\]+-]*$`)
	platform   = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$`)
	host       = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)
	repository = regexp.MustCompile(`^[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*$`)
)

// reference is the name of an image, and where it is looked for.
type reference struct {
	name   string // without the prefix
	host   string // of the registry that it names; "" for a name that is asked for on this host only
	remote bool   // it is not looked for on this host
}

// dockerHub is the registry of names without one, as the Docker client reads them.
const dockerHub = "docker.io"

// parseImage reads the name of an image. The first part of a name is a registry by the rule of
// the Docker client: it has a dot or a port, or is localhost.
func parseImage(text string) (reference, error) {
	var r reference
	r.name, r.remote = strings.CutPrefix(text, registryPrefix)
	switch {
	case r.name == "":
		return r, errors.New("image: want the ID or the name of an image")
	case len(text) > maxImage:
		return r, fmt.Errorf("image: longer than %d bytes", maxImage)
	case !imageName.MatchString(r.name):
		return r, fmt.Errorf("image: %.100q is no name of an image", r.name)
	case imageID.MatchString(r.name):
		if r.remote {
			return r, errors.New("image: an ID alone is none in a registry: want HOST/NAME@DIGEST")
		}
		return r, nil
	}
	first, rest, ok := strings.Cut(r.name, "/")
	switch {
	case ok && rest != "" && (strings.ContainsAny(first, ".:") || first == "localhost"):
		if !host.MatchString(first) {
			return r, fmt.Errorf("image: %.100q is no host of a registry", first)
		}
		// Hosts have no case, and policies compare texts.
		r.host = strings.ToLower(first)
		r.name = r.host + "/" + rest
		if r.host == "index.docker.io" {
			r.host = dockerHub
		}
	case r.remote:
		r.host = dockerHub
	}
	return r, nil
}
