package dockerapi

import (
	"slices"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"

	"github.com/belay-project/belay/internal/apicall"
)

// serviceSpec is the body of services/create and update: the current type and the
// list of networks that it had before API 1.44, which daemons still read from older
// clients.
type serviceSpec struct {
	swarm.ServiceSpec
	Networks []swarm.NetworkAttachmentConfig `json:",omitempty"`
}

// factsService reads POST /services/create and /services/{id}/update. A service's
// containers are given what a HostConfig would give them, under other names.
func factsService(r *Request) error {
	spec := r.Body.(*serviceSpec)
	f := &r.Call.Facts
	f.Name = spec.Name
	r.stripLabels(r.root, "Labels")
	f.Labels = withoutReserved(spec.Labels)
	if v := r.Query.Get("rollback"); v != "" && v != "previous" && v != "none" {
		return badRequest(CodeBadValue, "rollback", "the value must be previous or none")
	}
	// A rollback runs the specification that the daemon kept, whatever the body says.
	f.Rollback = r.Query.Get("rollback") == "previous"
	task := r.root.get("TaskTemplate")
	for i := range spec.Networks {
		r.joinNetwork(spec.Networks[i].Target, ref{kind: textRef, node: r.root.get("Networks").at(i).get("Target")})
	}
	for i := range spec.TaskTemplate.Networks {
		r.joinNetwork(spec.TaskTemplate.Networks[i].Target, ref{kind: textRef, node: task.get("Networks").at(i).get("Target")})
	}
	if spec.EndpointSpec != nil {
		for i := range spec.EndpointSpec.Ports {
			f.Ports = append(f.Ports, servicePort(&spec.EndpointSpec.Ports[i]))
		}
	}
	return r.readTask(&spec.TaskTemplate, task)
}

func servicePort(p *swarm.PortConfig) apicall.PortBinding {
	proto := string(p.Protocol)
	if proto == "" {
		proto = "tcp"
	}
	return apicall.PortBinding{HostPort: utoa(p.PublishedPort), Port: utoa(p.TargetPort) + "/" + proto}
}

func (r *Request) readTask(t *swarm.TaskSpec, n *node) error {
	f := &r.Call.Facts
	if t.LogDriver != nil {
		f.LogDriver, f.LogOptions = t.LogDriver.Name, t.LogDriver.Options
	}
	if t.RestartPolicy != nil {
		f.RestartPolicy = string(t.RestartPolicy.Condition)
	}
	if t.Resources != nil {
		if l := t.Resources.Limits; l != nil {
			f.Limits.MemoryBytes, f.Limits.NanoCPUs, f.Limits.PIDs = l.MemoryBytes, l.NanoCPUs, l.Pids
			f.LimitsSet = true
			if r.minor < 41 {
				f.Limits.PIDs = 0 // dropped by the daemon
			}
		}
		if rs := t.Resources.Reservations; rs != nil {
			for _, g := range rs.GenericResources {
				if g.NamedResourceSpec != nil {
					f.DeviceRequests = append(f.DeviceRequests, g.NamedResourceSpec.Kind+":"+g.NamedResourceSpec.Value)
				}
				if g.DiscreteResourceSpec != nil {
					f.DeviceRequests = append(f.DeviceRequests, g.DiscreteResourceSpec.Kind+":"+itoa(int(g.DiscreteResourceSpec.Value)))
				}
			}
		}
	}
	if p := t.PluginSpec; p != nil {
		// A service of runtime "plugin" installs a plugin on every node.
		f.Remote = p.Remote
		f.Env = p.Env
		f.PluginPrivileges = append(f.PluginPrivileges, "runtime=plugin")
		for _, priv := range p.Privileges {
			if priv != nil {
				f.PluginPrivileges = append(f.PluginPrivileges, pluginPrivilege(priv.Name, priv.Value)...)
			}
		}
	}
	if t.Runtime != "" && t.Runtime != swarm.RuntimeContainer {
		f.Runtime = string(t.Runtime)
	}
	if a := t.NetworkAttachmentSpec; a != nil {
		r.addResource(apicall.ResourceContainer, a.ContainerID,
			ref{kind: textRef, node: n.get("NetworkAttachmentSpec").get("ContainerID")})
	}
	if t.ContainerSpec == nil {
		return nil
	}
	return r.readContainerSpec(t.ContainerSpec, n.get("ContainerSpec"))
}

func (r *Request) readContainerSpec(c *swarm.ContainerSpec, n *node) error {
	f := &r.Call.Facts
	f.Image = c.Image
	r.readImageRef(c.Image)
	f.Entrypoint, f.Cmd, f.Env, f.WorkingDir = c.Command, c.Args, c.Env, c.Dir
	f.User, f.UserSet = c.User, isSet(n.get("User"))
	f.GroupAdd, f.ExtraHosts = c.Groups, c.Hosts
	f.Init, f.ReadOnly, f.TTY, f.Stdin = c.Init, c.ReadOnly, c.TTY, c.OpenStdin
	f.Isolation = string(c.Isolation)
	f.Sysctls = c.Sysctls
	f.CapAdd, f.CapDrop = normalCaps(c.CapabilityAdd), normalCaps(c.CapabilityDrop)
	if r.minor < 41 {
		f.CapDrop = nil // dropped by the daemon
	}
	f.OOMScoreAdj = int(c.OomScoreAdj)
	f.TaskLabels = withoutReserved(c.Labels)
	r.stripLabels(n, "Labels")
	if c.Healthcheck != nil {
		f.Healthcheck = c.Healthcheck.Test
	}
	if len(c.Ulimits) > 0 {
		f.LimitsSet = true
	}
	readPrivileges(f, c.Privileges, r.minor)
	mounts := n.get("Mounts")
	for i := range c.Mounts {
		m := c.Mounts[i]
		if m.Type == "" {
			// The orchestrator takes a mount without a type for a bind.
			m.Type = mount.TypeBind
		}
		if err := r.readMount(&m, mounts.at(i), ""); err != nil {
			return err
		}
	}
	secrets, configs := n.get("Secrets"), n.get("Configs")
	for i, s := range c.Secrets {
		if s != nil {
			r.useObject(apicall.ResourceSecret, s.SecretID, s.SecretName, secrets.at(i).get("SecretID"))
		}
	}
	for i, s := range c.Configs {
		if s != nil {
			r.useObject(apicall.ResourceConfig, s.ConfigID, s.ConfigName, configs.at(i).get("ConfigID"))
		}
	}
	return nil
}

// useObject records a secret or config that a service is given. The orchestrator goes
// by the id; where only a name is there it refuses, and the name is what we know.
func (r *Request) useObject(kind apicall.ResourceKind, id, name string, n *node) {
	if id == "" {
		r.addResource(kind, name, ref{})
		return
	}
	r.addResource(kind, id, ref{kind: textRef, node: n})
}

// readPrivileges reads the security options of a service in the terms of those of a
// container.
func readPrivileges(f *apicall.Facts, p *swarm.Privileges, minor int) {
	if p == nil {
		return
	}
	// Older clients' NoNewPrivileges is dropped by the daemon: it may not count.
	f.NoNewPrivileges = p.NoNewPrivileges && minor >= 44
	if f.NoNewPrivileges {
		f.SecurityOpt = append(f.SecurityOpt, "no-new-privileges=true")
	}
	if s := p.Seccomp; s != nil {
		switch s.Mode {
		case "", swarm.SeccompModeDefault:
		case swarm.SeccompModeUnconfined:
			f.Seccomp = "unconfined"
		default:
			f.Seccomp = "custom"
		}
		if f.Seccomp != "" {
			f.SecurityOpt = append(f.SecurityOpt, "seccomp="+f.Seccomp)
		}
	}
	if a := p.AppArmor; a != nil && a.Mode != "" && a.Mode != swarm.AppArmorModeDefault {
		f.AppArmor = "unconfined"
		f.SecurityOpt = append(f.SecurityOpt, "apparmor=unconfined")
	}
	if s := p.SELinuxContext; s != nil {
		f.SELinuxDisabled = s.Disable
		if s.Disable {
			f.SecurityOpt = append(f.SecurityOpt, "label=disable")
		}
		for _, l := range [][2]string{{"user", s.User}, {"role", s.Role}, {"type", s.Type}, {"level", s.Level}} {
			if l[1] != "" {
				f.SecurityOpt = append(f.SecurityOpt, "label="+l[0]+":"+l[1])
			}
		}
	}
	if c := p.CredentialSpec; c != nil {
		f.SecurityOpt = append(f.SecurityOpt, "credentialspec="+c.Config+c.File+c.Registry)
		if c.File != "" {
			f.Paths = append(f.Paths, c.File)
		}
	}
}

func factsNodeUpdate(r *Request) error {
	spec := r.Body.(*swarm.NodeSpec)
	f := &r.Call.Facts
	f.Name = spec.Name
	r.stripLabels(r.root, "Labels")
	f.Labels = withoutReserved(spec.Labels)
	f.Role, f.Availability = string(spec.Role), string(spec.Availability)
	return nil
}

func factsSwarmInit(r *Request) error {
	b := r.Body.(*swarm.InitRequest)
	f := &r.Call.Facts
	f.Force = f.Force || b.ForceNewCluster
	f.Addresses = appendNonEmpty(f.Addresses, b.ListenAddr, b.AdvertiseAddr, b.DataPathAddr)
	f.Availability = string(b.Availability)
	r.stripLabels(r.root.get("Spec"), "Labels")
	r.readSwarmSpec(&b.Spec)
	return nil
}

func factsSwarmJoin(r *Request) error {
	b := r.Body.(*swarm.JoinRequest)
	f := &r.Call.Facts
	f.Addresses = appendNonEmpty(f.Addresses, b.ListenAddr, b.AdvertiseAddr, b.DataPathAddr)
	f.Remotes = slices.Clone(b.RemoteAddrs)
	f.Availability = string(b.Availability)
	return nil
}

func factsSwarmUpdate(r *Request) error {
	r.stripLabels(r.root, "Labels")
	r.readSwarmSpec(r.Body.(*swarm.Spec))
	for _, key := range []string{"rotateWorkerToken", "rotateManagerToken", "rotateManagerUnlockKey"} {
		r.Call.Facts.Force = r.Call.Facts.Force || r.Query.Bool(key)
	}
	return nil
}

func (r *Request) readSwarmSpec(s *swarm.Spec) {
	f := &r.Call.Facts
	f.Name, f.Labels = s.Name, withoutReserved(s.Labels)
	for _, ca := range s.CAConfig.ExternalCAs {
		if ca != nil {
			f.Remotes = appendNonEmpty(f.Remotes, ca.URL)
		}
	}
	if d := s.TaskDefaults.LogDriver; d != nil {
		f.LogDriver, f.LogOptions = d.Name, d.Options
	}
}

func factsSecret(r *Request) error {
	b := r.Body.(*swarm.SecretSpec)
	f := &r.Call.Facts
	f.Name = b.Name
	r.stripLabels(r.root, "Labels")
	f.Labels = withoutReserved(b.Labels)
	if b.Driver != nil {
		f.Driver, f.DriverOptions = b.Driver.Name, b.Driver.Options
	}
	return nil
}

func factsConfig(r *Request) error {
	b := r.Body.(*swarm.ConfigSpec)
	r.Call.Facts.Name = b.Name
	r.stripLabels(r.root, "Labels")
	r.Call.Facts.Labels = withoutReserved(b.Labels)
	return nil
}
