package proxy

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/policy"
)

// An overlay's device means nothing: what it shows is in its options.
func TestOverlayVolumeIsNoPathOfItsDevice(t *testing.T) {
	g := startGate(t, strings.Replace(own, "hostMounts]", "{hostMounts: {allow: [/srv]}}]", 1))
	for o, want := range map[string]int{"lowerdir=/etc:/root": 403, "lowerdir=/srv,upperdir=/etc,workdir=/srv": 403, "rw": 403, "bind": 201} {
		g.d.mu.Lock()
		g.d.volume = map[string]any{"Name": "records", "Driver": "local", "Labels": map[string]string{policy.OwnerLabel: me()},
			"Options": map[string]string{"type": "overlay", "device": "/srv/x", "o": o}}
		g.d.mu.Unlock()
		if code, body := do(t, g.client(t), "POST", "/v1.41/containers/create", `{"Image":"app","User":"1000","HostConfig":{"Binds":["records:/x"]}}`); code != want {
			t.Errorf("%s: %d %s, want %d", o, code, body, want)
		}
	}
}
