package agent

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/ident"
)

// A cgroup named like another container's is not that one, unless the kernel side knows it so.
func TestNestedCgroups(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	inB := "/docker-" + a + ".scope/docker-" + b + ".scope"
	for _, tt := range []struct {
		name, path string
		own        string // path of b that the kernel knows
		want       string
	}{
		{"its own", "/docker/" + a, "", a},
		{"below its own", "/docker/" + a + "/x", "", a},
		{"named like another", "/system.slice" + inB, "/system.slice/docker-" + b + ".scope", a},
		{"named like another, below that", "/system.slice" + inB + "/x", "", a},
		{"made there from outside", "/system.slice" + inB, "/system.slice" + inB, b},
		{"below one that was", "/system.slice" + inB + "/x", "/system.slice" + inB, b},
		{"and one in it that was not", "/docker/" + a + "/" + b + "/" + strings.Repeat("c", 64), "/docker/" + a + "/" + b, b},
		{"a build step's", "/docker/buildkit/abcdefghijklmnopqrstuvwxy/" + b, "", ""},
		{"the host's", "/user.slice", "", "none"},
	} {
		got, ok := containerOf(tt.path, func(id ident.ContainerID, path string) bool { return string(id) == b && path == tt.own })
		if !ok {
			got = "none"
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
