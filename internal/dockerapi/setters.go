package dockerapi

import (
	"strings"

	"github.com/moby/moby/api/types/container"
)

// isCreate says that the request is a containers/create.
func (r *Request) isCreate() bool {
	_, ok := r.Body.(*container.CreateRequest)
	return ok
}

// errNotCreate is the answer of the Set methods on other requests: an obligation that
// cannot be met is no obligation that was met.
func (r *Request) errNotCreate(what string) error {
	return badRequest(CodeCannotRewrite, "", "%s can be set on containers/create only, not on %s", what, r.Call.Action)
}

// SetLabel sets a label on what the request creates: a container, volume, network,
// service, secret or config. It is the one way for a reserved label to get there.
func (r *Request) SetLabel(key, value string) error {
	switch r.Route.Action {
	case "container.create", "volume.create", "network.create", "service.create", "service.update",
		"secret.create", "secret.update", "config.create", "config.update":
	default:
		return badRequest(CodeCannotRewrite, "Labels", "%s creates nothing that has labels", r.Call.Action)
	}
	r.root.object("Labels").set(key, textNode(value))
	if r.Call.Facts.Labels == nil {
		r.Call.Facts.Labels = map[string]string{}
	}
	r.Call.Facts.Labels[key] = value
	r.changed()
	return nil
}

// SetUser sets the user that a new container or exec runs as.
func (r *Request) SetUser(user string) error {
	switch r.Route.Action {
	case "container.create", "container.exec":
		r.root.set("User", textNode(user))
	case "service.create", "service.update":
		r.root.object("TaskTemplate").object("ContainerSpec").set("User", textNode(user))
	default:
		return r.errNotCreate("a user")
	}
	r.Call.Facts.User, r.Call.Facts.UserSet = user, true
	r.changed()
	return nil
}

// SetImage puts what an image was resolved to in place of its name: a digest
// reference or an id. A tag that moves between the check and the call then changes
// nothing.
func (r *Request) SetImage(image, digest string) error {
	switch r.Route.Action {
	case "container.create":
		r.root.set("Image", textNode(image))
	case "service.create", "service.update":
		r.root.object("TaskTemplate").object("ContainerSpec").set("Image", textNode(image))
	default:
		return r.errNotCreate("an image")
	}
	r.Call.Facts.ImageDigest = digest
	r.changed()
	return nil
}

// SetMemory sets the memory limit in bytes. A limit that was asked for and is lower
// stays.
func (r *Request) SetMemory(bytes int64) error {
	l := &r.Call.Facts.Limits
	return r.setLimit("Memory", &l.MemoryBytes, bytes)
}

// SetNanoCPUs sets the CPU limit in 1e-9 CPUs. It fails if the request has a quota of
// another kind, which the daemon would refuse beside it.
func (r *Request) SetNanoCPUs(n int64) error {
	l := &r.Call.Facts.Limits
	if l.CPUQuota != 0 || l.CPUPeriod != 0 {
		return badRequest(CodeCannotRewrite, "HostConfig.NanoCpus", "the request has a CPU quota of its own")
	}
	return r.setLimit("NanoCpus", &l.NanoCPUs, n)
}

// SetPIDs sets the limit on processes.
func (r *Request) SetPIDs(n int64) error {
	return r.setLimit("PidsLimit", &r.Call.Facts.Limits.PIDs, n)
}

func (r *Request) setLimit(key string, fact *int64, limit int64) error {
	if !r.isCreate() {
		return r.errNotCreate("a limit")
	}
	if *fact > 0 && *fact <= limit {
		return nil
	}
	r.root.object("HostConfig").set(key, intNode(limit))
	*fact = limit
	r.Call.Facts.LimitsSet = true
	r.changed()
	return nil
}

// SetNoNewPrivileges turns no-new-privileges on, over whatever the request says of it.
func (r *Request) SetNoNewPrivileges() error {
	if !r.isCreate() {
		return r.errNotCreate("no-new-privileges")
	}
	hc := r.root.object("HostConfig")
	out := &node{kind: arrayNode}
	if old := hc.get("SecurityOpt"); old != nil {
		for _, kid := range old.kids {
			if !strings.HasPrefix(kid.text, "no-new-privileges") {
				out.kids = append(out.kids, kid)
			}
		}
	}
	out.kids = append(out.kids, textNode("no-new-privileges=true"))
	hc.set("SecurityOpt", out)
	f := &r.Call.Facts
	f.SecurityOpt = nil
	opts := make([]string, len(out.kids))
	for i, kid := range out.kids {
		opts[i] = kid.text
	}
	readSecurityOpt(f, opts)
	r.changed()
	return nil
}

// SetReadOnly makes the container's root file system read-only.
func (r *Request) SetReadOnly() error {
	switch {
	case r.isCreate():
		r.root.object("HostConfig").set("ReadonlyRootfs", boolNodeOf(true))
	case r.Route.Action == "service.create", r.Route.Action == "service.update":
		r.root.object("TaskTemplate").object("ContainerSpec").set("ReadOnly", boolNodeOf(true))
	default:
		return r.errNotCreate("a read-only root")
	}
	r.Call.Facts.ReadOnly = true
	r.changed()
	return nil
}

// SetAnnotation sets an annotation, which daemons from API 1.43 on give to the
// runtime.
func (r *Request) SetAnnotation(key, value string) error {
	if !r.isCreate() {
		return r.errNotCreate("an annotation")
	}
	r.root.object("HostConfig").object("Annotations").set(key, textNode(value))
	r.changed()
	return nil
}
