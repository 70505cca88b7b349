package policy

import "strings"

// route names the action of one route of the API.
type route struct{ method, path, action string }

// ActionOf returns the action of a call as a person writes it in a test request, with
// or without a version prefix: "POST", "/containers/web/start". It is a help for tests
// of policies; the request parser has the table that decisions rest on.
func ActionOf(method, path string) (action string, ok bool) {
	if rest, versioned := strings.CutPrefix(path, "/v1."); versioned {
		if _, rest, versioned = strings.Cut(rest, "/"); versioned {
			path = "/" + rest
		}
	}
	path, _, _ = strings.Cut(path, "?")
	// Routes without a name in them first: /images/get is not the image "get".
	for _, named := range []bool{false, true} {
		for _, r := range routes {
			if r.method == method && strings.Contains(r.path, "{") == named && r.matches(path) {
				return r.action, true
			}
		}
	}
	return "", false
}

// matches compares segment by segment; a name takes as many as are left over, since
// names of images have slashes.
func (r route) matches(path string) bool {
	before, rest, named := strings.Cut(r.path, "{")
	if !named {
		return path == r.path
	}
	_, after, _ := strings.Cut(rest, "}")
	if i := strings.IndexByte(after, '{'); i >= 0 { // two names: the last is one segment
		i := strings.LastIndexByte(path, '/')
		return i > 0 && route{path: before + "{id}" + strings.TrimSuffix(after[:strings.IndexByte(after, '{')], "/")}.matches(path[:i])
	}
	return len(path) > len(before)+len(after) && strings.HasPrefix(path, before) && strings.HasSuffix(path, after)
}

// routes is the API's, those with the longest fixed ends first.
var routes = []route{
	{"DELETE", "/containers/{id}/checkpoints/{checkpoint}", "container.checkpoint.delete"},
	{"GET", "/images/{name}/attestations", "image.attestations"},
	{"GET", "/containers/{id}/checkpoints", "container.checkpoint.list"},
	{"POST", "/containers/{id}/checkpoints", "container.checkpoint.create"},
	{"POST", "/networks/{id}/disconnect", "network.disconnect"},
	{"GET", "/containers/{id}/attach/ws", "container.attach"},
	{"GET", "/containers/{id}/changes", "container.diff"},
	{"POST", "/containers/{id}/restart", "container.restart"},
	{"POST", "/containers/{id}/unpause", "container.unpause"},
	{"HEAD", "/containers/{id}/archive", "container.copy.stat"},
	{"GET", "/containers/{id}/archive", "container.copy.out"},
	{"PUT", "/containers/{id}/archive", "container.copy.in"},
	{"GET", "/images/{name}/history", "image.history"},
	{"POST", "/networks/{id}/connect", "network.connect"},
	{"POST", "/plugins/{name}/disable", "plugin.disable"},
	{"POST", "/plugins/{name}/upgrade", "plugin.upgrade"},
	{"GET", "/containers/{id}/export", "container.export"},
	{"POST", "/containers/{id}/resize", "container.resize"},
	{"POST", "/containers/{id}/update", "container.update"},
	{"POST", "/containers/{id}/rename", "container.rename"},
	{"POST", "/containers/{id}/attach", "container.attach"},
	{"POST", "/exec/{id}/resize", "container.exec.resize"},
	{"POST", "/plugins/{name}/enable", "plugin.enable"},
	{"POST", "/nodes/{id}/update", "node.update"},
	{"POST", "/services/{id}/update", "service.update"},
	{"POST", "/secrets/{id}/update", "secret.update"},
	{"POST", "/configs/{id}/update", "config.update"},
	{"GET", "/containers/{id}/stats", "container.stats"},
	{"POST", "/containers/{id}/start", "container.start"},
	{"POST", "/containers/{id}/pause", "container.pause"},
	{"POST", "/exec/{id}/start", "container.exec.start"},
	{"GET", "/containers/{id}/json", "container.inspect"},
	{"GET", "/containers/{id}/logs", "container.logs"},
	{"POST", "/containers/{id}/stop", "container.stop"},
	{"POST", "/containers/{id}/kill", "container.kill"},
	{"POST", "/containers/{id}/wait", "container.wait"},
	{"POST", "/containers/{id}/exec", "container.exec"},
	{"GET", "/exec/{id}/json", "container.exec.inspect"},
	{"GET", "/images/{name}/json", "image.inspect"},
	{"POST", "/images/{name}/push", "image.push"},
	{"GET", "/plugins/{name}/json", "plugin.inspect"},
	{"POST", "/plugins/{name}/push", "plugin.push"},
	{"GET", "/distribution/{name}/json", "image.distribution"},
	{"GET", "/services/{id}/logs", "service.logs"},
	{"GET", "/tasks/{id}/logs", "task.logs"},
	{"GET", "/containers/{id}/top", "container.top"},
	{"POST", "/images/{name}/tag", "image.tag"},
	{"GET", "/images/{name}/get", "image.save"},
	{"POST", "/plugins/{name}/set", "plugin.set"},
	{"GET", "/containers/json", "container.list"},
	{"POST", "/containers/create", "container.create"},
	{"DELETE", "/containers/{id}", "container.delete"},
	{"POST", "/containers/prune", "container.prune"},
	{"GET", "/images/json", "image.list"},
	{"POST", "/build", "image.build"},
	{"POST", "/build/prune", "build.prune"},
	{"POST", "/images/create", "image.pull"},
	{"DELETE", "/images/{name}", "image.delete"},
	{"GET", "/images/search", "image.search"},
	{"POST", "/images/prune", "image.prune"},
	{"POST", "/commit", "image.commit"},
	{"GET", "/images/get", "image.save"},
	{"POST", "/images/load", "image.load"},
	{"POST", "/build/cancel", "build.cancel"},
	{"POST", "/grpc", "build.grpc"},
	{"GET", "/volumes", "volume.list"},
	{"POST", "/volumes/create", "volume.create"},
	{"GET", "/volumes/{name}", "volume.inspect"},
	{"PUT", "/volumes/{name}", "volume.update"},
	{"DELETE", "/volumes/{name}", "volume.delete"},
	{"POST", "/volumes/prune", "volume.prune"},
	{"GET", "/networks", "network.list"},
	{"GET", "/networks/{id}", "network.inspect"},
	{"DELETE", "/networks/{id}", "network.delete"},
	{"POST", "/networks/create", "network.create"},
	{"POST", "/networks/prune", "network.prune"},
	{"GET", "/networks/", "network.list"},
	{"GET", "/plugins", "plugin.list"},
	{"GET", "/plugins/privileges", "plugin.privileges"},
	{"POST", "/plugins/pull", "plugin.install"},
	{"DELETE", "/plugins/{name}", "plugin.delete"},
	{"POST", "/plugins/create", "plugin.create"},
	{"POST", "/auth", "registry.login"},
	{"GET", "/info", "system.info"},
	{"GET", "/version", "system.version"},
	{"GET", "/_ping", "system.ping"},
	{"HEAD", "/_ping", "system.ping"},
	{"GET", "/events", "system.events"},
	{"GET", "/system/df", "system.df"},
	{"GET", "/debug/vars", "system.debug"},
	{"GET", "/debug/pprof/", "system.debug"},
	{"GET", "/debug/pprof/{name}", "system.debug"},
	{"POST", "/session", "build.session"},
	{"GET", "/swarm", "swarm.inspect"},
	{"POST", "/swarm/init", "swarm.init"},
	{"POST", "/swarm/join", "swarm.join"},
	{"POST", "/swarm/leave", "swarm.leave"},
	{"POST", "/swarm/update", "swarm.update"},
	{"GET", "/swarm/unlockkey", "swarm.unlockkey.read"},
	{"POST", "/swarm/unlock", "swarm.unlock"},
	{"GET", "/nodes", "node.list"},
	{"GET", "/nodes/{id}", "node.inspect"},
	{"DELETE", "/nodes/{id}", "node.delete"},
	{"GET", "/services", "service.list"},
	{"POST", "/services/create", "service.create"},
	{"GET", "/services/{id}", "service.inspect"},
	{"DELETE", "/services/{id}", "service.delete"},
	{"GET", "/tasks", "task.list"},
	{"GET", "/tasks/{id}", "task.inspect"},
	{"GET", "/secrets", "secret.list"},
	{"POST", "/secrets/create", "secret.create"},
	{"GET", "/secrets/{id}", "secret.inspect"},
	{"DELETE", "/secrets/{id}", "secret.delete"},
	{"GET", "/configs", "config.list"},
	{"POST", "/configs/create", "config.create"},
	{"GET", "/configs/{id}", "config.inspect"},
	{"DELETE", "/configs/{id}", "config.delete"},
}
