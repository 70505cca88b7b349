package dockerapi

import (
	"path"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/belay-project/belay/internal/apicall"
)

// mountRef is where the source of a host mount stands in the body, parallel to
// Facts.HostMounts.
type mountRef struct {
	node *node  // the string; nil if the source cannot be rewritten
	rest string // what follows the source in a Binds entry, from its ":"
}

func (r *Request) addMount(m apicall.HostMount, at mountRef) {
	r.Call.Facts.HostMounts = append(r.Call.Facts.HostMounts, m)
	r.mounts = append(r.mounts, at)
}

// readMounts reads every way by which a container gets files from elsewhere.
func (r *Request) readMounts(hc *container.HostConfig, c *container.Config, n *node) error {
	f := &r.Call.Facts
	binds := n.get("Binds")
	for i, b := range hc.Binds {
		if err := r.readBind(b, binds.at(i), hc.VolumeDriver); err != nil {
			return err
		}
	}
	mounts := n.get("Mounts")
	for i := range hc.Mounts {
		if err := r.readMount(&hc.Mounts[i], mounts.at(i), hc.VolumeDriver); err != nil {
			return err
		}
	}
	for i, v := range hc.VolumesFrom {
		id, mode, hasMode := strings.Cut(v, ":")
		post := ""
		if hasMode {
			post = ":" + mode
		}
		f.VolumesFrom = append(f.VolumesFrom, id)
		r.addMount(apicall.HostMount{Via: "volumesFrom", Source: id, ReadOnly: isReadOnly(mode)}, mountRef{})
		r.addResource(apicall.ResourceContainer, id, ref{kind: textRef, node: n.get("VolumesFrom").at(i), post: post})
	}
	// Keys of Volumes are targets of new volumes without a name. One that looks like
	// a bind is no target that anybody means.
	for _, target := range sortedKeys(c.Volumes) {
		if strings.Contains(target, ":") {
			return badRequest(CodeBadValue, "Volumes", "a volume's path has a colon: use HostConfig.Binds")
		}
	}
	for _, target := range sortedKeys(hc.Tmpfs) {
		f.Tmpfs = append(f.Tmpfs, tmpfs(target, hc.Tmpfs[target]))
	}
	return nil
}

// at returns the i-th element of an array, nil if there is none.
func (n *node) at(i int) *node {
	if n == nil || n.kind != arrayNode || i >= len(n.kids) {
		return nil
	}
	return n.kids[i]
}

func tmpfs(target, options string) string {
	if options == "" {
		return target
	}
	return target + ":" + options
}

// readBind reads "source:target[:mode]", "name:target[:mode]" or "target", as the
// daemon for Linux does: the source is a path if it starts with a slash.
func (r *Request) readBind(b string, n *node, driver string) error {
	parts := strings.SplitN(b, ":", 4)
	switch {
	case len(parts) > 3 || parts[0] == "":
		return badRequest(CodeBadValue, "HostConfig.Binds", "a bind must be source:target[:mode]")
	case len(parts) == 1:
		return nil // a new volume without a name
	}
	mode := ""
	if len(parts) == 3 {
		mode = parts[2]
	}
	m := apicall.HostMount{
		Via: "bind", Source: parts[0], Target: parts[1], ReadOnly: isReadOnly(mode), Propagation: propagation(mode),
	}
	if path.IsAbs(m.Source) {
		m.Shallow = m.ReadOnly && r.minor < 44
		r.addMount(m, mountRef{node: n, rest: b[len(parts[0]):]})
		return nil
	}
	r.useVolume(m.Source)
	if driver != "" && driver != "local" {
		m.Via, m.Driver, m.Source = "volume", driver, ""
		r.addMount(m, mountRef{})
	}
	return nil
}

// useVolume records a named volume.
func (r *Request) useVolume(name string) {
	r.Call.Facts.Volumes = append(r.Call.Facts.Volumes, name)
	r.addResource(apicall.ResourceVolume, name, ref{})
}

func isReadOnly(mode string) bool {
	for o := range strings.SplitSeq(mode, ",") {
		if o == "ro" {
			return true
		}
	}
	return false
}

func propagation(mode string) string {
	for o := range strings.SplitSeq(mode, ",") {
		switch o {
		case "private", "rprivate", "shared", "rshared", "slave", "rslave":
			return o
		}
	}
	return ""
}

// mountTypes are the spellings that every reader of a mount's type takes alike. The
// orchestrator folds case and takes a missing type for a bind, the engine does neither.
var mountTypes = map[mount.Type]bool{
	mount.TypeBind: true, mount.TypeVolume: true, mount.TypeTmpfs: true, mount.TypeNamedPipe: true,
	mount.TypeCluster: true, mount.TypeImage: true,
}

// readMount reads one entry of Mounts, of a container or a service.
func (r *Request) readMount(m *mount.Mount, n *node, driver string) error {
	if !mountTypes[m.Type] {
		return badRequest(CodeBadValue, "Mounts.Type", "the mount type must be bind, volume, tmpfs, image, cluster or npipe")
	}
	out := apicall.HostMount{Via: string(m.Type), Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	if m.BindOptions != nil {
		out.Propagation = string(m.BindOptions.Propagation)
		if out.Propagation != "" && propagation(out.Propagation) == "" {
			return badRequest(CodeBadValue, "Mounts.BindOptions.Propagation", "no such propagation")
		}
		out.Shallow = m.ReadOnly && m.BindOptions.ReadOnlyNonRecursive
	}
	r.stripLabels(n.get("VolumeOptions"), "Labels")
	switch m.Type {
	case mount.TypeTmpfs:
		r.Call.Facts.Tmpfs = append(r.Call.Facts.Tmpfs, m.Target)
		return nil
	case mount.TypeVolume:
		if m.Source != "" {
			r.useVolume(m.Source)
		}
		if m.VolumeOptions != nil && m.VolumeOptions.DriverConfig != nil {
			out.Driver, out.Options = m.VolumeOptions.DriverConfig.Name, m.VolumeOptions.DriverConfig.Options
		}
		if out.Driver == "" && driver != "" {
			out.Driver = driver
		}
		if len(out.Options) == 0 && (out.Driver == "" || out.Driver == "local") {
			return nil
		}
		out.Source = volumeSource(out.Options)
		r.addMount(out, mountRef{})
		return nil
	case mount.TypeBind:
		out.Shallow = out.Shallow || m.ReadOnly && r.minor < 44
		r.addMount(out, mountRef{node: n.get("Source")})
		return nil
	}
	r.addMount(out, mountRef{})
	return nil
}

// volumeSource names what of the host a volume's driver options would mount: the
// device, and for an overlay its lower directory; "" if they name nothing, as a tmpfs.
func volumeSource(options map[string]string) string {
	if options["type"] == "tmpfs" && plainTmpfs(options["o"]) {
		return ""
	}
	for o := range strings.SplitSeq(options["o"], ",") {
		if dir, ok := strings.CutPrefix(o, "lowerdir="); ok {
			return dir
		}
	}
	return options["device"]
}

// plainTmpfs says that a tmpfs's mount options are that and no more: "bind" among them
// would make a bind mount of the device, whatever the type says.
func plainTmpfs(o string) bool {
	for opt := range strings.SplitSeq(o, ",") {
		key, _, _ := strings.Cut(opt, "=")
		switch key {
		case "", "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "ro", "rw", "noexec", "nosuid", "nodev", "noatime":
		default:
			return false
		}
	}
	return true
}

// SetMountSource writes the path that the i-th of Facts.HostMounts was resolved to in
// place of the one that was asked for, so that what was judged is what is mounted. It
// is an error for a mount that has no path to rewrite, and for a path that a bind
// cannot spell.
func (r *Request) SetMountSource(i int, resolved string) error {
	if i >= len(r.mounts) {
		return badRequest(CodeCannotRewrite, "Mounts", "the mount is not of this request")
	}
	at := r.mounts[i]
	m := &r.Call.Facts.HostMounts[i]
	if at.node == nil || !path.IsAbs(resolved) {
		return badRequest(CodeCannotRewrite, "Mounts", "the mount of %s has no path to rewrite", m.Target)
	}
	if at.rest != "" && strings.Contains(resolved, ":") {
		return badRequest(CodeCannotRewrite, "HostConfig.Binds", "the path has a colon: use Mounts")
	}
	at.node.text = resolved + at.rest
	m.Resolved = resolved
	r.changed()
	return nil
}
