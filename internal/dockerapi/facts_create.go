package dockerapi

import (
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/belay-project/belay/internal/apicall"
)

// factsCreate reads POST /containers/create.
func factsCreate(r *Request) error {
	body := r.Body.(*container.CreateRequest)
	if body.Config == nil {
		return badRequest(CodeMissingBody, "Image", "the container has no configuration")
	}
	f := &r.Call.Facts
	name, err := r.containerName("name")
	if err != nil {
		return err
	}
	f.Name = name
	f.Platform = r.Query.Get("platform")
	if err := r.readConfig(body.Config, r.root); err != nil {
		return err
	}
	hc := body.HostConfig
	if hc == nil {
		hc = &container.HostConfig{}
	}
	hostNode := r.root.get("HostConfig")
	r.readRuntime(hc, hostNode)
	r.readSecurity(hc, hostNode)
	r.readNamespaces(hc, hostNode)
	if err := r.readMounts(hc, body.Config, hostNode); err != nil {
		return err
	}
	r.readResources(&hc.Resources, hostNode)
	r.readPorts(hc)
	r.readEndpoints(body, string(hc.NetworkMode))
	return nil
}

// readEndpoints reads what a container gets with each of its networks. A daemon looks a network up by
// its name at each start until its endpoint has an id: that of a mode without an endpoint gets one.
func (r *Request) readEndpoints(body *container.CreateRequest, mode string) {
	if body.NetworkingConfig == nil || len(body.NetworkingConfig.EndpointsConfig) == 0 {
		if mode != "" && userDefined(mode) {
			r.joinNetwork(mode, ref{kind: moreRef, write: func(id string) {
				r.root.object("NetworkingConfig").object("EndpointsConfig").object(id).set("NetworkID", textNode(id))
			}})
		}
		return
	}
	nets := r.root.get("NetworkingConfig").get("EndpointsConfig")
	for _, n := range sortedKeys(body.NetworkingConfig.EndpointsConfig) {
		at := nets.get(n)
		r.joinNetwork(n, ref{kind: keyRef, node: nets, key: n})
		r.readEndpoint(n, body.NetworkingConfig.EndpointsConfig[n], at, func(id string) {
			at.kind = objectNode // it may be null
			at.set("NetworkID", textNode(id))
		})
	}
}

// containerName reads a new container's name from the query. The daemon takes it with
// and without one leading slash: here it has one spelling.
func (r *Request) containerName(key string) (string, error) {
	name := strings.TrimPrefix(r.Query.Get(key), "/")
	if name == "" {
		return "", nil
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return "", errorf(http.StatusBadRequest, CodeBadValue, key, "the name must match [a-zA-Z0-9][a-zA-Z0-9_.-]+")
		}
	}
	r.Query = r.Query.set(key, name)
	return name, nil
}

// readConfig reads a container's or image's own configuration. n is the object that
// holds its fields.
func (r *Request) readConfig(c *container.Config, n *node) error {
	f := &r.Call.Facts
	f.Image = c.Image
	r.readImageRef(c.Image)
	f.User, f.UserSet = c.User, isSet(n.get("User"))
	f.TTY, f.Stdin = c.Tty, c.OpenStdin || c.AttachStdin
	f.Env, f.Cmd, f.Entrypoint = c.Env, c.Cmd, c.Entrypoint
	f.WorkingDir = c.WorkingDir
	r.stripLabels(n, "Labels")
	f.Labels = withoutReserved(c.Labels)
	if c.Healthcheck != nil {
		f.Healthcheck = c.Healthcheck.Test
	}
	return nil
}

// isSet says that a field is there and says something.
func isSet(n *node) bool { return n != nil && n.kind != nullNode }

// readRuntime reads how and by what a container is run.
func (r *Request) readRuntime(hc *container.HostConfig, n *node) {
	f := &r.Call.Facts
	f.Privileged = hc.Privileged
	f.ReadOnly = hc.ReadonlyRootfs
	f.Init = hc.Init
	f.Runtime = hc.Runtime
	f.Annotations = hc.Annotations
	f.Sysctls = cloneMap(hc.Sysctls)
	f.ExtraHosts = hc.ExtraHosts
	f.GroupAdd = hc.GroupAdd
	f.StorageOpt = hc.StorageOpt
	f.LogDriver, f.LogOptions = hc.LogConfig.Type, hc.LogConfig.Config
	f.RestartPolicy = string(hc.RestartPolicy.Name)
	f.AutoRemove = hc.AutoRemove
	f.OOMScoreAdj = hc.OomScoreAdj
	f.Isolation = string(hc.Isolation)
	if hc.ContainerIDFile != "" {
		f.Paths = append(f.Paths, hc.ContainerIDFile)
	}
	// In networks that users define they are names that a resolver answers to, and no container is looked
	// for; there, and in endpoints, they stay as they are: it knows no ids.
	//
	// Source: moby, daemon/daemon_unix.go (registerLinks).
	if mode := string(hc.NetworkMode); mode != "" && userDefined(mode) {
		return
	}
	for i, link := range hc.Links {
		r.readLink(link, n.get("Links"), i)
	}
}

// readLink reads "container:alias", a name to resolve.
func (r *Request) readLink(link string, list *node, i int) {
	name, alias, hasAlias := strings.Cut(link, ":")
	at := ref{kind: fixedRef}
	if list != nil && i < len(list.kids) {
		post := ""
		if hasAlias {
			post = ":" + alias
		} else {
			post = ":" + strings.TrimPrefix(name, "/") // the alias is the name where none is given
		}
		at = ref{kind: textRef, node: list.kids[i], post: post}
	}
	r.addResource(apicall.ResourceContainer, strings.TrimPrefix(name, "/"), at)
}

// readResources reads limits and devices; n holds them.
func (r *Request) readResources(res *container.Resources, n *node) {
	f := &r.Call.Facts
	f.CgroupParent = res.CgroupParent
	f.Limits = apicall.Limits{
		MemoryBytes: res.Memory,
		NanoCPUs:    res.NanoCPUs,
		CPUQuota:    res.CPUQuota,
		CPUPeriod:   res.CPUPeriod,
		CPUShares:   res.CPUShares,
	}
	if res.PidsLimit != nil {
		f.Limits.PIDs = *res.PidsLimit
		if *res.PidsLimit <= 0 {
			f.Limits.PIDs = -1 // 0 and every negative number are "unlimited", said outright
		}
	}
	for _, key := range limitFields {
		if isSet(n.get(key)) {
			f.LimitsSet = true
		}
	}
	f.OOMKillOff = res.OomKillDisable != nil && *res.OomKillDisable
	for _, d := range res.Devices {
		f.Devices = append(f.Devices, d.PathOnHost)
	}
	f.DeviceCgroupRules = res.DeviceCgroupRules
	for i := range res.DeviceRequests {
		f.DeviceRequests = append(f.DeviceRequests, deviceRequest(&res.DeviceRequests[i])...)
	}
}

// limitFields are the fields of Resources that raise, lower or lift a cap.
var limitFields = []string{
	"Memory", "MemorySwap", "MemoryReservation", "MemorySwappiness", "KernelMemory", "KernelMemoryTCP", "NanoCpus",
	"CpuQuota", "CpuPeriod", "CpuShares", "CpuRealtimePeriod", "CpuRealtimeRuntime", "CpusetCpus", "CpusetMems",
	"PidsLimit", "OomKillDisable", "Ulimits", "BlkioWeight", "BlkioWeightDevice", "BlkioDeviceReadBps",
	"BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps", "CpuCount", "CpuPercent",
	"IOMaximumIOps", "IOMaximumBandwidth",
}

// deviceRequest returns "driver:id" for each id of a request, and "driver:count" for
// one that counts.
func deviceRequest(d *container.DeviceRequest) []string {
	var out []string
	for _, id := range d.DeviceIDs {
		out = append(out, d.Driver+":"+id)
	}
	if d.Count != 0 || len(out) == 0 {
		count := itoa(d.Count)
		if d.Count == -1 {
			count = "all"
		}
		out = append(out, d.Driver+":"+count)
	}
	return out
}

// readPorts reads what is published. A port without a binding is published on a free
// port of every address by all daemons so far.
func (r *Request) readPorts(hc *container.HostConfig) {
	f := &r.Call.Facts
	f.PublishAll = hc.PublishAllPorts
	for port, bindings := range hc.PortBindings {
		if len(bindings) == 0 {
			f.Ports = append(f.Ports, apicall.PortBinding{Port: port.String()})
		}
		for _, b := range bindings {
			p := apicall.PortBinding{HostPort: b.HostPort, Port: port.String()}
			if b.HostIP.IsValid() {
				p.HostIP = b.HostIP.String()
			}
			f.Ports = append(f.Ports, p)
		}
	}
	sortPorts(f.Ports)
}
