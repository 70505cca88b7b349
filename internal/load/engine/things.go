package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"

	"github.com/belay-project/belay/internal/load/recreate"
)

// Container returns a container by its name or ID.
//
// Errors: [ErrNotFound] and those of [recreate.Read].
func (e *Engine) Container(ctx context.Context, ref string) (*recreate.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	raw, err := e.raw(ctx, "inspect container "+ref, "GET", "/containers/"+url.PathEscape(ref)+"/json", nil, nil)
	if err != nil {
		return nil, err
	}
	return recreate.Read(raw)
}

// Containers returns all containers that match the filters, running or not.
func (e *Engine) Containers(ctx context.Context, filters map[string][]string) ([]container.Summary, error) {
	q := url.Values{"all": {"1"}}
	if len(filters) > 0 {
		q.Set("filters", filterText(filters))
	}
	var out []container.Summary
	return out, e.ask(ctx, "list containers", "GET", "/containers/json", q, nil, &out)
}

// filterText writes filters in the form that all versions of the API take.
func filterText(filters map[string][]string) string {
	m := map[string]map[string]bool{}
	for k, list := range filters {
		m[k] = map[string]bool{}
		for _, v := range list {
			m[k][v] = true
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return "{" // the engine refuses it, where none would match everything
	}
	return string(b)
}

// Changes returns what a container has written to its own layer.
func (e *Engine) Changes(ctx context.Context, id string) ([]container.FilesystemChange, error) {
	var out []container.FilesystemChange
	return out, e.ask(ctx, "list what it has written", "GET", "/containers/"+id+"/changes", nil, nil, &out)
}

// Create makes a container and returns its ID. Networks that the engine takes only afterwards
// are connected; if that fails, the container is there and its ID is returned with the error.
func (e *Engine) Create(ctx context.Context, name string, r container.CreateRequest, primary string) (string, error) {
	later := map[string]*network.EndpointSettings{}
	if r.NetworkingConfig != nil && e.API < 44 {
		first := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
		for n, end := range r.NetworkingConfig.EndpointsConfig {
			if n == primary {
				first.EndpointsConfig[n] = end
			} else {
				later[n] = end
			}
		}
		r.NetworkingConfig = first
	}
	var made container.CreateResponse
	if err := e.ask(ctx, "create container "+name, "POST", "/containers/create", url.Values{"name": {name}}, r, &made); err != nil {
		return "", err
	}
	for n, end := range later {
		in := network.ConnectRequest{Container: made.ID, EndpointConfig: end}
		if err := e.ask(ctx, "connect it to network "+n, "POST", "/networks/"+url.PathEscape(n)+"/connect", nil, in, nil); err != nil {
			return made.ID, err
		}
	}
	return made.ID, nil
}

// Start starts a container; one that runs is no error.
func (e *Engine) Start(ctx context.Context, id string) error {
	return e.ask(ctx, "start container", "POST", "/containers/"+id+"/start", nil, nil, nil)
}

// Stop stops a container and waits for it; it is killed after seconds, or waited for as long as
// it takes if they are negative. One that does not run is no error.
func (e *Engine) Stop(ctx context.Context, id string, seconds int) error {
	if seconds >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second+askTimeout)
		defer cancel()
	}
	return e.askAsLong(ctx, "stop container", "POST", "/containers/"+id+"/stop", url.Values{"t": {strconv.Itoa(seconds)}}, nil, nil)
}

// Rename gives a container another name.
func (e *Engine) Rename(ctx context.Context, id, name string) error {
	return e.ask(ctx, "rename container to "+name, "POST", "/containers/"+id+"/rename", url.Values{"name": {name}}, nil, nil)
}

// SetRestart changes a container's restart policy alone. One that has it is only asked: engines write and set anew all
// that they know of a container for a change of nothing, which takes ten times as long.
func (e *Engine) SetRestart(ctx context.Context, id string, p container.RestartPolicy) error {
	var is struct {
		HostConfig struct{ RestartPolicy container.RestartPolicy }
	}
	if err := e.ask(ctx, "inspect container", "GET", "/containers/"+id+"/json", nil, nil, &is); err != nil {
		return err
	}
	if had := is.HostConfig.RestartPolicy; cmp.Or(had.Name, container.RestartPolicyDisabled) == p.Name && had.MaximumRetryCount == p.MaximumRetryCount {
		return nil
	}
	in := struct{ RestartPolicy container.RestartPolicy }{p}
	return e.ask(ctx, "set the restart policy", "POST", "/containers/"+id+"/update", nil, in, nil)
}

// Remove removes a container that does not run, and none of its volumes. One that is not there
// is no error.
func (e *Engine) Remove(ctx context.Context, id string) error {
	err := e.ask(ctx, "remove container", "DELETE", "/containers/"+id, url.Values{"v": {"0"}, "force": {"0"}}, nil, nil)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Image returns an image by name or ID.
func (e *Engine) Image(ctx context.Context, ref string) (*image.InspectResponse, error) {
	out := new(image.InspectResponse)
	if err := e.ask(ctx, "inspect image "+ref, "GET", "/images/"+imagePath(ref)+"/json", nil, nil, out); err != nil {
		return nil, err
	}
	return out, nil
}

// imagePath escapes what would end the path; slashes in a reference are part of it.
func imagePath(ref string) string { return (&url.URL{Path: ref}).EscapedPath() }

// Network returns a network by its name: engines also take the beginning of an ID for one.
//
// Errors: [ErrNotFound].
func (e *Engine) Network(ctx context.Context, name string) (*network.Inspect, error) {
	out := new(network.Inspect)
	what := "inspect network " + name
	if err := e.ask(ctx, what, "GET", "/networks/"+url.PathEscape(name), nil, nil, out); err != nil {
		return nil, err
	}
	if out.Name != name {
		return nil, fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return out, nil
}

// Networks returns all networks of the engine, without who is on them.
func (e *Engine) Networks(ctx context.Context) ([]network.Inspect, error) {
	var out []network.Inspect
	return out, e.ask(ctx, "list networks", "GET", "/networks", nil, nil, &out)
}

// Volumes returns all volumes of the engine.
func (e *Engine) Volumes(ctx context.Context) ([]volume.Volume, error) {
	var out struct{ Volumes []volume.Volume }
	return out.Volumes, e.ask(ctx, "list volumes", "GET", "/volumes", nil, nil, &out)
}

// VolumeSizes returns how many bytes the files of each local volume have, by its name. The engine walks all of them for
// that: it may take long. Those that it does not know are left out.
func (e *Engine) VolumeSizes(ctx context.Context) (map[string]int64, error) {
	q := url.Values{}
	if e.API >= 42 {
		q.Set("type", "volume")
	}
	if e.API >= 52 {
		q.Set("verbose", "1")
	}
	var out struct {
		Volumes     []volume.Volume
		VolumeUsage struct{ Items []volume.Volume } // since 1.52
	}
	if err := e.ask(ctx, "measure volumes", "GET", "/system/df", q, nil, &out); err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	for _, v := range append(out.Volumes, out.VolumeUsage.Items...) {
		if v.UsageData != nil && v.UsageData.Size >= 0 {
			sizes[v.Name] = v.UsageData.Size
		}
	}
	return sizes, nil
}

// CreateNetwork makes a network and returns its ID.
func (e *Engine) CreateNetwork(ctx context.Context, r network.CreateRequest) (string, error) {
	in := struct {
		network.CreateRequest
		CheckDuplicate bool // engines before 25 make a second one of the name unless told not to
	}{r, true}
	var out network.CreateResponse
	err := e.ask(ctx, "create network "+r.Name, "POST", "/networks/create", nil, in, &out)
	return out.ID, err
}

// RemoveNetwork removes a network that nothing is on. One that is not there is no error.
func (e *Engine) RemoveNetwork(ctx context.Context, id string) error {
	err := e.ask(ctx, "remove network", "DELETE", "/networks/"+url.PathEscape(id), nil, nil, nil)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Volume returns a volume by name.
func (e *Engine) Volume(ctx context.Context, name string) (*volume.Volume, error) {
	out := new(volume.Volume)
	if err := e.ask(ctx, "inspect volume "+name, "GET", "/volumes/"+url.PathEscape(name), nil, nil, out); err != nil {
		return nil, err
	}
	return out, nil
}

// CreateVolume makes a volume, or returns the one of the name that is there, with the labels
// that it was made with: of several callers one is the maker, and all are told who.
func (e *Engine) CreateVolume(ctx context.Context, r volume.CreateRequest) (*volume.Volume, error) {
	out := new(volume.Volume)
	if err := e.ask(ctx, "create volume "+r.Name, "POST", "/volumes/create", nil, r, out); err != nil {
		return nil, err
	}
	if len(r.Labels) > 0 && len(out.Labels) == 0 {
		return e.Volume(ctx, r.Name) // since it was started again the engine tells them here alone
	}
	return out, nil
}

// RemoveVolume removes a volume that nothing uses. One that is not there is no error.
func (e *Engine) RemoveVolume(ctx context.Context, name string) error {
	err := e.ask(ctx, "remove volume "+name, "DELETE", "/volumes/"+url.PathEscape(name), nil, nil, nil)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Archive returns what is at a path of a container, as a tar stream. The caller closes it.
func (e *Engine) Archive(ctx context.Context, id, path string) (io.ReadCloser, error) {
	return e.stream(ctx, "read "+path, "GET", "/containers/"+id+"/archive", url.Values{"path": {path}}, nil, "", false)
}

// Extract unpacks a tar stream in a directory of a container, with owners as they are in it:
// with copyUIDGID, in spite of its name, the engine would give all to the container's user.
func (e *Engine) Extract(ctx context.Context, id, path string, r io.Reader) error {
	q := url.Values{"path": {path}, "noOverwriteDirNonDir": {"1"}}
	// It answers once it has unmounted the container's files, and so written them to the disk.
	body, err := e.stream(ctx, "write "+path, "PUT", "/containers/"+id+"/archive", q, r, "application/x-tar", true)
	if err != nil {
		return err
	}
	return body.Close()
}
