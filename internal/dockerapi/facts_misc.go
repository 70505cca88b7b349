package dockerapi

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/checkpoint"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/volume"

	"github.com/belay-project/belay/internal/apicall"
)

// volumeUpdate is the body of PUT /volumes/{name}.
type volumeUpdate struct {
	Spec *volume.ClusterVolumeSpec `json:",omitempty"`
}

func factsExecCreate(r *Request) error {
	b := r.Body.(*container.ExecCreateRequest)
	f := &r.Call.Facts
	f.Privileged = b.Privileged
	f.User, f.UserSet = b.User, isSet(r.root.get("User"))
	f.Env, f.WorkingDir, f.Cmd = b.Env, b.WorkingDir, b.Cmd
	f.TTY, f.Stdin = b.Tty, b.AttachStdin
	if d := r.root.get("Detach"); d != nil {
		f.Detach = d.text == "true"
	}
	return nil
}

func factsExecStart(r *Request) error {
	if b, ok := r.Body.(*container.ExecStartRequest); ok {
		r.Call.Facts.TTY, r.Call.Facts.Detach = b.Tty, b.Detach
	}
	return nil
}

func factsAttach(r *Request) error {
	f := &r.Call.Facts
	f.Stdin = r.Query.Bool("stdin")
	// Daemons take an attach over a WebSocket before API 1.42 for one of all streams.
	if r.Route.Stream == WebSocket && r.minor < 42 {
		f.Stdin = true
	}
	return nil
}

// factsUpdate reads POST /containers/{id}/update: whatever is in there takes effect
// on a running container.
func factsUpdate(r *Request) error {
	b := r.Body.(*container.UpdateConfig)
	r.readResources(&b.Resources, r.root)
	if r.minor < 40 {
		r.Call.Facts.Limits.PIDs = 0 // dropped by the daemon
	}
	r.Call.Facts.RestartPolicy = string(b.RestartPolicy.Name)
	return nil
}

// factsTop reads GET /containers/{id}/top: the arguments are those of a ps on the host.
func factsTop(r *Request) error {
	r.Call.Facts.Cmd = strings.Fields(r.Query.Get("ps_args"))
	return nil
}

func factsRename(r *Request) error {
	name, err := r.containerName("name")
	if err == nil && name == "" {
		return badRequest(CodeBadValue, "name", "the new name is missing")
	}
	r.Call.Facts.Name = name
	return err
}

// factsStart reads POST /containers/{id}/start. A checkpoint directory is a path of
// the host that the daemon reads as root.
func factsStart(r *Request) error {
	f := &r.Call.Facts
	f.Checkpoint = r.Query.Get("checkpoint")
	r.checkpointDir(r.Query.Get("checkpoint-dir"))
	return nil
}

func factsCheckpoint(r *Request) error {
	r.checkpointDir(r.Query.Get("dir"))
	r.Call.Facts.Checkpoint = r.names[1]
	if b, ok := r.Body.(*checkpoint.CreateRequest); ok {
		r.Call.Facts.Checkpoint = b.CheckpointID
		r.checkpointDir(b.CheckpointDir)
	}
	return nil
}

func (r *Request) checkpointDir(dir string) {
	if dir == "" {
		return
	}
	r.Call.Facts.Paths = append(r.Call.Facts.Paths, dir)
	r.addMount(apicall.HostMount{Via: "checkpoint", Source: dir}, mountRef{})
}

// compressions are the content encodings of an archive by the name of the format.
var compressions = map[string]string{"gzip": "gzip", "bzip2": "bzip2", "xz": "xz", "zstd": "zstd"}

// factsArchive reads the copy routes. What is inside the stream the proxy sees as it
// passes: it calls DetectCompression.
func factsArchive(r *Request) error {
	f := &r.Call.Facts
	f.Path = r.Query.Get("path")
	if f.Path == "" {
		return badRequest(CodeBadValue, "path", "the path is missing")
	}
	f.Compressed = compressions[r.Header.Get("Content-Encoding")]
	return nil
}

// DetectCompression tells by its first bytes how a streamed archive is compressed:
// "", "gzip", "bzip2", "xz" or "zstd". The daemon goes by the same bytes, whatever the
// headers say. Give it at least 10 bytes, or the whole of a shorter stream.
//
// Source: moby, go-archive/compression (Detect).
func DetectCompression(head []byte) string {
	for _, m := range []struct{ magic, name string }{
		{"\x1f\x8b\x08", "gzip"},
		{"BZh", "bzip2"},
		{"\xfd7zXZ\x00", "xz"},
		{"\x28\xb5\x2f\xfd", "zstd"},
	} {
		if strings.HasPrefix(string(head), m.magic) {
			return m.name
		}
	}
	// zstd skippable frames: 0x184D2A50 to 0x184D2A5F, little endian
	if len(head) >= 8 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18" {
		return "zstd"
	}
	return ""
}

func factsPrune(r *Request) error {
	r.Call.Facts.Bulk = true
	return nil
}

func factsVolumeCreate(r *Request) error {
	b := r.Body.(*volume.CreateRequest)
	f := &r.Call.Facts
	f.Name = b.Name
	f.Driver, f.DriverOptions = b.Driver, b.DriverOpts
	r.stripLabels(r.root, "Labels")
	f.Labels = withoutReserved(b.Labels)
	if b.Name != "" {
		f.Volumes = append(f.Volumes, b.Name)
		// Creating a volume that is there answers with that one: it is a thing
		// that the call is about.
		r.addResource(apicall.ResourceVolume, b.Name, ref{})
	}
	local := b.Driver == "" || b.Driver == "local"
	if len(b.DriverOpts) > 0 || !local {
		r.addMount(apicall.HostMount{
			Via: "volume", Source: volumeSource(b.DriverOpts), Driver: b.Driver, Options: b.DriverOpts,
		}, mountRef{})
	}
	if b.ClusterVolumeSpec != nil {
		r.readClusterVolume(b.ClusterVolumeSpec)
		r.addMount(apicall.HostMount{Via: "cluster", Driver: b.Driver, Options: b.DriverOpts}, mountRef{})
	}
	return nil
}

func (r *Request) readClusterVolume(s *volume.ClusterVolumeSpec) {
	for _, secret := range s.Secrets {
		r.addResource(apicall.ResourceSecret, secret.Secret, ref{})
	}
	r.Call.Facts.Availability = string(s.Availability)
}

func factsVolumeUpdate(r *Request) error {
	if b := r.Body.(*volumeUpdate); b.Spec != nil {
		r.readClusterVolume(b.Spec)
	}
	return nil
}

func factsNetworkCreate(r *Request) error {
	b := r.Body.(*network.CreateRequest)
	f := &r.Call.Facts
	f.Name = b.Name
	f.Driver, f.DriverOptions = b.Driver, b.Options
	r.stripLabels(r.root, "Labels")
	f.Labels = withoutReserved(b.Labels)
	f.Attachable, f.Scope = b.Attachable || b.Ingress, b.Scope
	if b.Driver == network.NetworkHost {
		f.Namespaces = append(f.Namespaces, "net=host")
	}
	if b.ConfigFrom != nil {
		r.addResource(apicall.ResourceNetwork, b.ConfigFrom.Network,
			ref{kind: fixedRef})
	}
	if b.IPAM != nil && b.IPAM.Driver != "" && b.IPAM.Driver != "default" {
		f.IPAMDriver = b.IPAM.Driver
	}
	return nil
}

func factsNetworkConnect(r *Request) error {
	b := r.Body.(*network.ConnectRequest)
	r.networkBody(b.Container)
	r.readEndpoint(r.names[0], b.EndpointConfig, r.root.get("EndpointConfig"), func(id string) {
		r.root.object("EndpointConfig").set("NetworkID", textNode(id))
	})
	return r.bodyContainer(b.Container)
}

func factsNetworkDisconnect(r *Request) error {
	b := r.Body.(*network.DisconnectRequest)
	r.networkBody(b.Container)
	r.Call.Facts.Force = b.Force
	return r.bodyContainer(b.Container)
}

// networkBody records the network of the path among those to join.
func (r *Request) networkBody(string) {
	name := r.names[0]
	f := &r.Call.Facts
	f.Networks = append(f.Networks, name)
	if name == network.NetworkHost {
		f.Namespaces = append(f.Namespaces, "net=host")
	}
}

// bodyContainer records the container that is named in the body and not in the path.
func (r *Request) bodyContainer(name string) error {
	if name == "" {
		return badRequest(CodeBadValue, "Container", "the container is missing")
	}
	r.addResource(apicall.ResourceContainer, strings.TrimPrefix(name, "/"), ref{kind: textRef, node: r.root.get("Container")})
	return nil
}

func factsAuth(r *Request) error {
	b := r.Body.(*registry.AuthConfig)
	r.Call.Facts.Registry = registryHost(b.ServerAddress)
	r.Call.Facts.Remote = b.ServerAddress
	return nil
}

// appendNonEmpty appends those of more that are not empty.
func appendNonEmpty(list []string, more ...string) []string {
	for _, s := range more {
		if s != "" {
			list = append(list, s)
		}
	}
	return list
}

func itoa(v int) string    { return strconv.Itoa(v) }
func utoa(v uint32) string { return strconv.FormatUint(uint64(v), 10) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func cloneMap(m map[string]string) map[string]string { return maps.Clone(m) }

func sortPorts(list []apicall.PortBinding) {
	slices.SortFunc(list, func(a, b apicall.PortBinding) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.HostPort, b.HostPort), cmp.Compare(a.HostIP, b.HostIP))
	})
}
