package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/policy"
)

var (
	errNotFound    = errors.New("no such thing")
	errNotResolved = errors.New("things of this kind have no names to resolve")
)

// inspectBytes bounds what the daemon says about one thing: it says twice what the largest
// request may have said.
const inspectBytes = 8 << 20

// found is what the daemon knows of a thing.
type found struct {
	Kind   apicall.ResourceKind
	ID     string
	Names  []string
	Labels map[string]string
	// of a container: its image as its creator wrote it, and the image's id
	Image, ImageID string
	ContainerID    string            // of an exec
	User           string            // of an image's configuration, or a container's own
	PID            int               // of a container that runs
	Ran            bool              // a container that has been started before
	Binds, Volumes []string          // of a container: the sources of its binds, the names of its volumes
	Modes          []string          // of a container: whose namespaces it has
	Options        map[string]string // of a volume's driver
	Driver         string
}

func (f *found) fill(res *apicall.Resource) {
	res.ID, res.Names, res.Labels, res.Image, res.ImageDigest = f.ID, f.Names, f.Labels, f.Image, f.ImageID
	res.ContainerID = f.ContainerID
	setOwner(res)
}

// setOwner takes the owner from a thing's labels. An image's labels are its author's, so
// those that only the gate may set mean nothing there.
func setOwner(res *apicall.Resource) {
	if res.Kind != apicall.ResourceImage {
		res.Owner = res.Labels[policy.OwnerLabel]
		return
	}
	res.Owner = ""
	for k := range res.Labels {
		if strings.HasPrefix(k, policy.LabelPrefix) {
			res.Labels = maps.Clone(res.Labels)
			maps.DeleteFunc(res.Labels, func(k, _ string) bool { return strings.HasPrefix(k, policy.LabelPrefix) })
			return
		}
	}
}

// find asks the daemon what a name stands for.
//
// Errors: errNotFound; errNotResolved; errDaemon.
func (s *Server) find(ctx context.Context, kind apicall.ResourceKind, name string) (*found, error) {
	switch kind {
	case apicall.ResourceContainer:
		return s.findContainer(ctx, name)
	case apicall.ResourceExec:
		return s.findExec(ctx, name)
	case apicall.ResourceImage:
		return s.findImage(ctx, name)
	case apicall.ResourceVolume:
		return s.findVolume(ctx, name)
	case apicall.ResourceNetwork:
		return s.findNetwork(ctx, name)
	case apicall.ResourcePlugin:
		return s.findPlugin(ctx, name)
	case apicall.ResourceService, apicall.ResourceNode, apicall.ResourceSecret, apicall.ResourceConfig:
		return s.findSpec(ctx, kind, name)
	case apicall.ResourceTask:
		return s.findTask(ctx, name)
	}
	return nil, errNotResolved
}

// get asks for one thing and decodes what the daemon says of it.
func (s *Server) get(ctx context.Context, prefix, name, suffix string, into any) error {
	status, body, err := s.up.ask(ctx, prefix+escapeName(name)+suffix, inspectBytes)
	switch {
	case err != nil:
		return err
	case status == http.StatusNotFound:
		return errNotFound
	case status != http.StatusOK:
		return fmt.Errorf("the daemon cannot say what %q is: status %d", name, status)
	}
	if grow := growOf(ctx); grow != nil && len(body) > freeAnswer && !grow(decodedCost*len(body)) {
		return fmt.Errorf("%w: %q: %w", errDaemon, name, errNoRoom)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the daemon's answer about %q: %w", name, err)
	}
	return nil
}

// escapeName writes a name into a path. Slashes of image names stand for themselves.
func escapeName(name string) string {
	const plain = "-._~!$&'()*+,;=:@/"
	ok := func(c byte) bool {
		return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte(plain, c) >= 0
	}
	for i := range len(name) {
		if !ok(name[i]) {
			var b strings.Builder
			for j := range len(name) {
				if ok(name[j]) {
					b.WriteByte(name[j])
				} else {
					fmt.Fprintf(&b, "%%%02X", name[j])
				}
			}
			return b.String()
		}
	}
	return name
}

// isID tells whether s is a full id: 64 hexadecimal digits.
func isID(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }

func (s *Server) findContainer(ctx context.Context, name string) (*found, error) {
	var a struct {
		ID, Name, Image string
		State           struct {
			Pid       int
			StartedAt string
		}
		HostConfig struct{ NetworkMode, PidMode, IpcMode, Cgroup string }
		Config     struct {
			Image, User string
			Labels      map[string]string
		}
		Mounts []struct{ Type, Source, Name string }
	}
	if err := s.get(ctx, "/containers/", name, "/json", &a); err != nil {
		return nil, err
	}
	if !isID(a.ID) {
		return nil, fmt.Errorf("the daemon gives %q for the id of a container", a.ID)
	}
	var binds, volumes []string
	for _, m := range a.Mounts {
		switch m.Type {
		case "bind":
			binds = append(binds, m.Source)
		case "volume":
			volumes = append(volumes, m.Name)
		}
	}
	return &found{
		Kind: apicall.ResourceContainer, ID: a.ID, Names: []string{strings.TrimPrefix(a.Name, "/")}, Labels: a.Config.Labels,
		Image: a.Config.Image, ImageID: a.Image, User: a.Config.User, PID: a.State.Pid,
		Modes: []string{a.HostConfig.NetworkMode, a.HostConfig.PidMode, a.HostConfig.IpcMode, a.HostConfig.Cgroup},
		Binds: binds, Volumes: volumes, Ran: a.State.StartedAt != "" && !strings.HasPrefix(a.State.StartedAt, "0001-"),
	}, nil
}

// findExec describes an exec by its container: it belongs to who owns that (D11).
func (s *Server) findExec(ctx context.Context, name string) (*found, error) {
	var a struct{ ID, ContainerID string }
	if err := s.get(ctx, "/exec/", name, "/json", &a); err != nil {
		return nil, err
	}
	if !isID(a.ID) || !isID(a.ContainerID) {
		return nil, errors.New("the daemon gives no ids for an exec")
	}
	f, err := s.findContainer(ctx, a.ContainerID)
	if err != nil {
		return nil, err
	}
	f.Kind, f.ID, f.ContainerID = apicall.ResourceExec, a.ID, f.ID
	return f, nil
}

func (s *Server) findImage(ctx context.Context, name string) (*found, error) {
	var a struct {
		ID                    string
		RepoTags, RepoDigests []string
		Config                *struct {
			User   string
			Labels map[string]string
		}
	}
	if err := s.get(ctx, "/images/", name, "/json", &a); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(a.ID, "sha256:") {
		return nil, fmt.Errorf("the daemon gives %q for the id of an image", a.ID)
	}
	f := &found{Kind: apicall.ResourceImage, ID: a.ID, Names: append(a.RepoTags, a.RepoDigests...), Image: name, ImageID: a.ID}
	if a.Config != nil {
		f.User, f.Labels = a.Config.User, a.Config.Labels
	}
	return f, nil
}

func (s *Server) findVolume(ctx context.Context, name string) (*found, error) {
	var a struct {
		Name, Driver    string
		Labels, Options map[string]string
	}
	if err := s.get(ctx, "/volumes/", name, "", &a); err != nil {
		return nil, err
	}
	if a.Name != name {
		return nil, fmt.Errorf("the daemon gives volume %q for the name %q", a.Name, name)
	}
	return &found{Kind: apicall.ResourceVolume, ID: a.Name, Names: []string{a.Name}, Labels: a.Labels, Driver: a.Driver, Options: a.Options}, nil
}

func (s *Server) findNetwork(ctx context.Context, name string) (*found, error) {
	var a struct {
		ID, Name string
		Labels   map[string]string
	}
	if err := s.get(ctx, "/networks/", name, "", &a); err != nil {
		return nil, err
	}
	if a.ID == "" {
		return nil, errors.New("the daemon gives no id for a network")
	}
	return &found{Kind: apicall.ResourceNetwork, ID: a.ID, Names: []string{a.Name}, Labels: a.Labels}, nil
}

func (s *Server) findPlugin(ctx context.Context, name string) (*found, error) {
	var a struct{ ID, Name string }
	if err := s.get(ctx, "/plugins/", name, "/json", &a); err != nil {
		return nil, err
	}
	return &found{Kind: apicall.ResourcePlugin, ID: a.ID, Names: []string{a.Name}}, nil
}

// findSpec looks up things of a swarm, which describe themselves in one way.
func (s *Server) findSpec(ctx context.Context, kind apicall.ResourceKind, name string) (*found, error) {
	prefix := map[apicall.ResourceKind]string{
		apicall.ResourceService: "/services/", apicall.ResourceNode: "/nodes/",
		apicall.ResourceSecret: "/secrets/", apicall.ResourceConfig: "/configs/",
	}[kind]
	var a struct {
		ID          string
		Description struct{ Hostname string }
		Spec        struct {
			Name         string
			Labels       map[string]string
			TaskTemplate struct{ ContainerSpec struct{ Image string } }
		}
	}
	if err := s.get(ctx, prefix, name, "", &a); err != nil {
		return nil, err
	}
	f := &found{Kind: kind, ID: a.ID, Labels: a.Spec.Labels, Image: a.Spec.TaskTemplate.ContainerSpec.Image}
	for _, n := range []string{a.Spec.Name, a.Description.Hostname} {
		if n != "" {
			f.Names = append(f.Names, n)
		}
	}
	return f, nil
}

// findTask describes a task by its service.
func (s *Server) findTask(ctx context.Context, name string) (*found, error) {
	var a struct{ ID, ServiceID string }
	if err := s.get(ctx, "/tasks/", name, "", &a); err != nil {
		return nil, err
	}
	f := &found{Kind: apicall.ResourceTask, ID: a.ID}
	if a.ServiceID == "" {
		return f, nil
	}
	svc, err := s.findSpec(ctx, apicall.ResourceService, a.ServiceID)
	if err != nil {
		return nil, err
	}
	f.Labels, f.Image, f.Names = svc.Labels, svc.Image, svc.Names
	return f, nil
}

// resolveImage tells the policy what the image of a new container is, and which user it
// runs as if the request names none (D10).
func (x *exchange) resolveImage(ctx context.Context) *refusal {
	facts := &x.req.Call.Facts
	if facts.Image == "" || x.req.Call.Action != "container.create" {
		return nil
	}
	f, err := x.c.s.image(ctx, facts.Image)
	switch {
	case errors.Is(err, errNotFound):
		// The client pulls it, and asks again.
		return &refusal{status: http.StatusNotFound, cause: "no_image", msg: "No such image: " + facts.Image}
	case errors.Is(err, errDaemon):
		return x.daemonGone(err)
	case err != nil:
		x.c.s.counts.unresolved.Add(1)
		return &refusal{status: http.StatusForbidden, cause: "unresolved", msg: "belay: " + err.Error()}
	}
	facts.ImageDigest, facts.ImageUser, facts.ImageUserKnown = f.ID, f.User, true
	return nil
}

// noteVolume adds what a volume's options would mount.
func noteVolume(facts *apicall.Facts, name string, f *found) {
	if len(f.Options) == 0 && (f.Driver == "" || f.Driver == "local") {
		return
	}
	device := f.Options["device"]
	real := device
	switch {
	case f.binds():
		real, _ = realPath(device) // unresolved: every check on it fails
	case device != "tmpfs":
		real = "" // a file system's options can name any place, as lowerdir does
	}
	facts.HostMounts = append(facts.HostMounts, apicall.HostMount{
		Via: "volume", Source: device, Resolved: real, Driver: f.Driver, Options: f.Options, Target: name,
	})
}
