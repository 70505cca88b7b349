package proxy

import (
	"strings"
	"testing"
)

// A name that is nobody's yet would be another's by the time that the container starts.
func TestGhostsAreNotJoined(t *testing.T) {
	for name, text := range map[string]string{"own": own, "all": strings.Replace(own, `actions: ["container.*", system.events], resources: {own: true}`, `actions: ["container.*", image.build]`, 1)} {
		g := startGate(t, text)
		for _, host := range []string{
			`"NetworkMode":"container:ghost"`, `"PidMode":"container:ghost"`, `"IpcMode":"container:ghost"`,
			`"VolumesFrom":["ghost"]`, `"Links":["ghost:g"]`,
		} {
			code, body := do(t, g.client(t), "POST", "/v1.41/containers/create?name=ghost", `{"Image":"app","User":"1000","HostConfig":{`+host+`}}`)
			if code != 403 && code != 400 || name == "all" && code != 400 {
				t.Errorf("%s: %s: %d %s", name, host, code, body)
			}
		}
		if code, body := do(t, g.client(t), "POST", "/v1.41/build?networkmode=container:ghost", ""); name == "all" && code != 404 {
			t.Errorf("%s: build: %d %s", name, code, body)
		}
		if acted := g.d.acted(); len(acted) > 0 {
			t.Errorf("%s: %+v reached the daemon", name, acted)
		}
		// One's own is joined as ever, by its id.
		code, body := do(t, g.client(t), "POST", "/v1.41/containers/create", `{"Image":"app","User":"1000","HostConfig":{"NetworkMode":"container:web","Binds":["fresh:/x"]}}`)
		if acted := g.d.acted(); code != 201 || len(acted) != 1 || !strings.Contains(acted[0].body, "container:"+idWeb) {
			t.Errorf("%s: own: %d %s", name, code, body)
		}
	}
}

// What the gate made joins what was judged, or does not start: whatever has the name by then.
func TestStrayJoinDoesNotStart(t *testing.T) {
	mode := func(ns, name string) map[string]any {
		return map[string]any{"HostConfig": map[string]any{ns: "container:" + name}}
	}
	for name, c := range map[string]struct {
		more map[string]any
		want int
	}{
		"network by name":              {mode("NetworkMode", "db"), 409},
		"processes by name":            {mode("PidMode", "db"), 409},
		"IPC by half an id":            {mode("IpcMode", idDB[:12]), 409},
		"cgroup by name":               {mode("Cgroup", "db"), 409},
		"by id, as the gate writes it": {mode("NetworkMode", idWeb), 204},
		// Connected before the gate wrote ids, or when the network was not here yet.
		"a network by name, younger than the container": {map[string]any{"Created": "2026-01-01T00:00:00Z", "NetworkSettings": map[string]any{"Networks": map[string]any{"net1": map[string]any{}}}}, 204},
	} {
		g := startGate(t, own)
		g.d.more = c.more
		for _, path := range []string{"/containers/web/start", "/containers/web/restart"} {
			if code, body := do(t, g.client(t), "POST", path, ""); code != c.want {
				t.Errorf("%s: %s: %d %s, want %d", name, path, code, body, c.want)
			}
		}
		if code, body := do(t, g.client(t), "POST", "/containers/web/stop", ""); code != 204 {
			t.Errorf("%s: stop: %d %s", name, code, body)
		}
	}
}

// The daemon goes by the id in an endpoint: it is that of the network that was judged, whatever the client says.
func TestNetworksAreJoinedByID(t *testing.T) {
	all := strings.Replace(own, `actions: ["container.*", system.events], resources: {own: true}`, `actions: ["container.*", network.connect, network.create]`, 1)
	only := strings.Replace(all, `checks: [notPrivileged`, `checks: [{networks: {allow: [net1]}}, notPrivileged`, 1)
	const byID = `"NetworkID":"net1"`
	for name, c := range map[string]struct {
		rules, path, body string
		want              int
		sent              string
	}{
		"a mode":                                             {all, "containers/create", `{"Image":"app","User":"1000","HostConfig":{"NetworkMode":"net1"}}`, 201, byID},
		"an id of the client's":                              {all, "containers/create", `{"Image":"app","User":"1000","NetworkingConfig":{"EndpointsConfig":{"net1":{"NetworkID":"` + idDB + `"}}}}`, 400, ""},
		"another's id, by connect":                           {all, "networks/net1/connect", `{"Container":"web","EndpointConfig":{"NetworkID":"` + idDB + `"}}`, 404, ""},
		"links to one that is to come":                       {all, "containers/create", `{"Image":"app","User":"1000","HostConfig":{"NetworkMode":"net1","Links":["c5:c5"]}}`, 201, `"Links":["c5:c5"]`},
		"a swarm's, as nodes configure it":                   {all, "networks/create", `{"Name":"n","Driver":"macvlan","Scope":"swarm","ConfigFrom":{"Network":"cfg"}}`, 204, `"cfg"`},
		"as this host configures it":                         {all, "networks/create", `{"Name":"n","Driver":"macvlan","ConfigFrom":{"Network":"cfg"}}`, 404, ""},
		"connect":                                            {all, "networks/net1/connect", `{"Container":"web"}`, 204, byID},
		"one that the rules leave":                           {only, "containers/create", `{"Image":"app","User":"1000","NetworkingConfig":{"EndpointsConfig":{"net1":{"NetworkID":"net2"}}}}`, 403, ""},
		"the same, by its other id":                          {only, "containers/create", `{"Image":"app","User":"1000","NetworkingConfig":{"EndpointsConfig":{"net1":{"NetworkID":"shared"}}}}`, 201, byID},
		"an id beside a network of the engine's":             {all, "containers/create", `{"Image":"app","User":"1000","NetworkingConfig":{"EndpointsConfig":{"bridge":{"NetworkID":"` + idDB + `"}}}}`, 201, `"NetworkID":""`},
		"an id beside a network of the engine's, to connect": {all, "networks/bridge/connect", `{"Container":"web","EndpointConfig":{"NetworkID":"` + idDB + `"}}`, 204, `"NetworkID":""`},
		"one that nobody has made":                           {all, "containers/create", `{"Image":"app","User":"1000","HostConfig":{"NetworkMode":"ghost"}}`, 400, ""},
		"one of a swarm, on a worker":                        {all, "containers/create", `{"Image":"app","User":"1000","HostConfig":{"NetworkMode":"ghost"}}`, 201, `"NetworkMode":"ghost"`},
	} {
		g := startGate(t, c.rules)
		if strings.HasSuffix(name, "worker") {
			g.d.mu.Lock()
			g.d.swarm = map[string]any{"LocalNodeState": "active", "ControlAvailable": false}
			g.d.mu.Unlock()
		}
		code, body := do(t, g.client(t), "POST", "/v1.41/"+c.path, c.body)
		acted := g.d.acted()
		if code != c.want || (len(acted) == 1) != (c.sent != "") || c.sent != "" && !strings.Contains(acted[0].body, c.sent) {
			t.Errorf("%s: %d %s, sent %v", name, code, body, acted)
		}
	}
}
