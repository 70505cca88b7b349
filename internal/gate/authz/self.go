package authz

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/dockerapi"
)

// meddling are the actions on plugins that could put another in this one's place or take
// it away. This one is not managed by the daemon's API, so that no disable reaches it; but
// daemons look among managed plugins first, and one of the same name would be asked in its
// stead after their next start (D17).
var meddling = []string{
	"plugin.create", "plugin.delete", "plugin.disable", "plugin.enable", "plugin.install", "plugin.set", "plugin.upgrade",
}

// tampers tells whether a request aims at a plugin of this one's name. A ticket does not
// help: no policy can allow it.
func (p *Plugin) tampers(q *question) bool {
	path, query := q.split()
	if q.method == http.MethodGet || q.method == http.MethodHead {
		return false
	}
	m, err := dockerapi.FindRoute(q.method, path)
	if err != nil {
		return false
	}
	if m.Route.Action == "service.create" || m.Route.Action == "service.update" {
		return p.servesOwn(q.body)
	}
	if !slices.Contains(meddling, m.Route.Action) {
		return false
	}
	if m.Route.Vars() > 0 && p.isOwn(m.Var(0)) {
		return true
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return true // two readings of it would be one too many here
	}
	// Without a name of its own a plugin is called after what it is pulled from.
	for _, key := range []string{"name", "remote"} {
		if slices.ContainsFunc(values[key], p.isOwn) {
			return true
		}
	}
	return false
}

// servesOwn tells whether a service would have swarm install a plugin of this one's name on
// its nodes. No body is for the judgement of the ticket to deny.
func (p *Plugin) servesOwn(body []byte) bool {
	if len(body) == 0 {
		return false
	}
	// Read as the daemon does, letter case and keys that come twice included.
	var spec struct {
		TaskTemplate struct {
			PluginSpec *struct{ Name, Remote string }
		}
	}
	if err := json.Unmarshal(body, &spec); err != nil {
		return true // whatever it is, no service comes of it
	}
	ps := spec.TaskTemplate.PluginSpec
	return ps != nil && (p.isOwn(ps.Name) || p.isOwn(ps.Remote))
}

// isOwn tells whether a reference names this plugin, whatever tag, digest or spelling of
// the default registry it has.
func (p *Plugin) isOwn(ref string) bool {
	ref, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(ref)), "@")
	for _, prefix := range []string{"docker.io/", "index.docker.io/", "registry-1.docker.io/", "library/"} {
		ref = strings.TrimPrefix(ref, prefix)
	}
	if i := strings.LastIndexByte(ref, ':'); i >= 0 && !strings.Contains(ref[i:], "/") {
		ref = ref[:i]
	}
	return ref == strings.ToLower(p.o.Name)
}
