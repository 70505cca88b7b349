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
			if code != 403 && code != 404 || name == "all" && code != 404 {
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
	const before, after = "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01.123456789Z"
	joined := func(created, id string) map[string]any {
		return map[string]any{"Created": created, "NetworkSettings": map[string]any{"Networks": map[string]any{"net1": map[string]any{"NetworkID": id}, "gone": map[string]any{}, "bridge": map[string]any{}}}}
	}
	mode := func(ns, name string) map[string]any {
		return map[string]any{"HostConfig": map[string]any{ns: "container:" + name}}
	}
	for name, c := range map[string]struct {
		more map[string]any
		want int
	}{
		"network by name":                   {mode("NetworkMode", "db"), 409},
		"processes by name":                 {mode("PidMode", "db"), 409},
		"IPC by half an id":                 {mode("IpcMode", idDB[:12]), 409},
		"cgroup by name":                    {mode("Cgroup", "db"), 409},
		"by id, as the gate writes it":      {mode("NetworkMode", idWeb), 204},
		"a network that was made since":     {joined(before, ""), 409},
		"a network that was there":          {joined(after, ""), 204},
		"a network by the id that it had":   {joined(before, "net1"), 204},
		"a container of no time, a network": {joined("", ""), 409},
	} {
		g := startGate(t, own)
		g.d.more, g.d.netCreated = c.more, "2026-01-01T00:00:01Z"
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
