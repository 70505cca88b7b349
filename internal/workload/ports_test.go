package workload

import (
	"fmt"
	"testing"

	"github.com/moby/moby/api/types/container"
)

// Published ports are told, exposed ones are not; a container on another's network, and one
// that is not there, have none that are known.
func TestDockerPorts(t *testing.T) {
	f := newFakeDocker(t, "1.41")
	for i, c := range []fakeContainer{
		{name: "web", network: "bridge", ports: []map[string]any{
			{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
			{"PrivatePort": 9000, "Type": "tcp"}, {"IP": "127.0.0.1", "PrivatePort": 53, "PublicPort": 53, "Type": "udp"}, {"PrivatePort": 1, "PublicPort": 2, "Type": "tcp"},
		}},
		{name: "on the host", network: "host"}, {name: "with another", network: "container:x"},
	} {
		c.id, c.state = hexID(i+1), container.StateRunning
		f.create(c)
	}
	d := newTestDocker(t, f)
	for i, want := range []string{
		"[{tcp 0.0.0.0:8080 80} {tcp [::]:8080 80} {udp 127.0.0.1:53 53} {tcp 0.0.0.0:2 1}] false <nil>",
		"[] true <nil>", "", "",
	} {
		list, host, err := d.Ports(t.Context(), id(i+1))
		if got := fmt.Sprint(list, host, err); want != "" && got != want || want == "" && err == nil {
			t.Errorf("container %d: got %s, want %s", i+1, got, want)
		}
	}
}
