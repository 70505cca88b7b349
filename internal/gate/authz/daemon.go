package authz

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/dockerapi"
	"github.com/belay-project/belay/internal/gate/ticket"
	"github.com/belay-project/belay/internal/policy"
)

const (
	// inspectBytes bounds what the daemon says about one thing.
	inspectBytes = 4 << 20
	dialTime     = 2 * time.Second
)

var (
	errNotFound = errors.New("no such thing")
	errNoKind   = errors.New("things of this kind are looked up by the gate only")
	errDaemon   = errors.New("the daemon does not answer")
)

// daemon asks the daemon what names stand for, with tickets of its own.
type daemon struct {
	http    *http.Client
	tickets *ticket.Keeper
}

func newDaemon(socket string, tickets *ticket.Keeper) *daemon {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "unix", socket)
		},
		MaxIdleConns: 4, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, DisableCompression: true,
	}
	return &daemon{http: &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, tickets: tickets}
}

func (d *daemon) close() { d.http.CloseIdleConnections() }

// get asks for one thing. Names of images have slashes, and nothing else in a name is a
// path or a query.
func (d *daemon) get(ctx context.Context, before, name, after string, into any) error {
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("%.80q is no name", name)
		}
	}
	target := before + strings.ReplaceAll(url.PathEscape(name), "%2F", "/") + after
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+target, nil)
	if err != nil {
		return fmt.Errorf("ask for %.80q: %w", name, err)
	}
	r.Header.Set(ticket.Header, string(d.tickets.Append(nil, http.MethodGet, r.URL.RequestURI(), ticket.None, nil)))
	resp, err := d.http.Do(r)
	if err != nil {
		return fmt.Errorf("%w: %w", errDaemon, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, inspectBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errDaemon, err)
	case resp.StatusCode == http.StatusNotFound:
		return errNotFound
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("the daemon cannot say what %.80q is: status %d", name, resp.StatusCode)
	case len(body) > inspectBytes:
		return fmt.Errorf("the daemon's answer about %.80q is too long", name)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the daemon's answer about %.80q: %w", name, err)
	}
	return nil
}

// config is what daemons say of the configuration of a container or an image.
type config struct {
	Image, User string
	Labels      map[string]string
}

// find fills in what the daemon knows of a thing. facts gets what a volume would mount.
//
// Errors: errNotFound; errNoKind; wraps errDaemon.
func (d *daemon) find(ctx context.Context, res *apicall.Resource, facts *apicall.Facts) error {
	switch res.Kind {
	case apicall.ResourceContainer:
		return d.container(ctx, res, facts, res.Asked)
	case apicall.ResourceExec:
		var a struct{ ID, ContainerID string }
		if err := d.get(ctx, "/exec/", res.Asked, "/json", &a); err != nil {
			return err
		}
		if err := d.container(ctx, res, facts, a.ContainerID); err != nil {
			return err
		}
		res.ID = a.ID
		return nil
	case apicall.ResourceImage:
		_, err := d.image(ctx, res, res.Asked)
		return err
	case apicall.ResourceNetwork:
		var a struct {
			ID, Name string
			Labels   map[string]string
		}
		if err := d.get(ctx, "/networks/", res.Asked, "", &a); err != nil {
			return err
		}
		res.ID, res.Names, res.Labels, res.Owner = a.ID, []string{a.Name}, a.Labels, a.Labels[policy.OwnerLabel]
		return known(res)
	case apicall.ResourceVolume:
		var a struct {
			Name, Driver    string
			Labels, Options map[string]string
		}
		if err := d.get(ctx, "/volumes/", res.Asked, "", &a); err != nil {
			return err
		}
		res.ID, res.Names, res.Labels, res.Owner = a.Name, []string{a.Name}, a.Labels, a.Labels[policy.OwnerLabel]
		if len(a.Options) > 0 || a.Driver != "" && a.Driver != "local" {
			// A volume that was made before can stand for any place of the host.
			facts.HostMounts = append(facts.HostMounts, apicall.HostMount{
				Via: "volume", Source: a.Options["device"], Driver: a.Driver, Options: a.Options, Target: res.Asked,
			})
		}
		return known(res)
	}
	return errNoKind
}

func known(res *apicall.Resource) error {
	if res.ID == "" {
		return fmt.Errorf("the daemon gives no id for %.80q", res.Asked)
	}
	return nil
}

func (d *daemon) container(ctx context.Context, res *apicall.Resource, facts *apicall.Facts, name string) error {
	var a struct {
		ID, Name, Image string
		Config          config
	}
	if err := d.get(ctx, "/containers/", name, "/json", &a); err != nil {
		return err
	}
	res.ID, res.Names, res.Labels = a.ID, []string{strings.TrimPrefix(a.Name, "/")}, a.Config.Labels
	res.Image, res.ImageDigest, res.Owner = a.Config.Image, a.Image, a.Config.Labels[policy.OwnerLabel]
	if res.Kind == apicall.ResourceContainer {
		facts.ImageUser, facts.ImageUserKnown = a.Config.User, true // what an exec runs as that names no user
	}
	return known(res)
}

// image describes an image. Its labels are its author's: those that only the gate may set
// mean nothing there.
func (d *daemon) image(ctx context.Context, res *apicall.Resource, name string) (config, error) {
	var a struct {
		ID                    string
		RepoTags, RepoDigests []string
		Config                *config
	}
	if err := d.get(ctx, "/images/", name, "/json", &a); err != nil {
		return config{}, err
	}
	res.ID, res.Names, res.Image, res.ImageDigest = a.ID, append(a.RepoTags, a.RepoDigests...), name, a.ID
	if a.Config == nil {
		return config{}, known(res)
	}
	for k, v := range a.Config.Labels {
		if strings.HasPrefix(k, policy.LabelPrefix) {
			continue
		}
		if res.Labels == nil {
			res.Labels = map[string]string{}
		}
		res.Labels[k] = v
	}
	return *a.Config, known(res)
}

// lookUp finds out what the request's names stand for. A cause says that it cannot be told.
//
// The daemon looks the names up again, a moment later: who can rename things in between
// can turn a name. The gate forwards ids instead, which a plugin cannot.
func (p *Plugin) lookUp(ctx context.Context, req *dockerapi.Request) (cause, why string) {
	call := &req.Call
	create := call.Action == "container.create" && call.Facts.Image != ""
	if len(call.Resources) == 0 && !create {
		return "", ""
	}
	if p.daemon == nil {
		return CauseUnresolved, "what its names stand for cannot be looked up"
	}
	for i := range call.Resources {
		res := &call.Resources[i]
		err := p.daemon.find(ctx, res, &call.Facts)
		if errors.Is(err, errNotFound) && !(call.Action == "container.create" && res.Kind == apicall.ResourceContainer) {
			continue // it may be what the call makes; what a container joins will be whoever's it is by then
		}
		if err != nil {
			return causeOf(err), err.Error()
		}
	}
	if !create {
		return "", ""
	}
	var res apicall.Resource
	c, err := p.daemon.image(ctx, &res, call.Facts.Image)
	if err != nil {
		return causeOf(err), "the image " + call.Facts.Image + ": " + err.Error()
	}
	for k := range c.Labels {
		// The proxy writes over what an image claims of its containers' owner.
		if strings.HasPrefix(strings.ToLower(strings.TrimSpace(k)), policy.LabelPrefix) {
			return CauseReserved, "its image has the label " + k + ", which only the gate may set"
		}
	}
	call.Facts.ImageDigest, call.Facts.ImageUser, call.Facts.ImageUserKnown = res.ID, c.User, true
	return "", ""
}

func causeOf(err error) string {
	if errors.Is(err, errDaemon) {
		return CauseDaemon
	}
	return CauseUnresolved
}
