package proxy

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/attr"
)

// strays refuses the start of a container that the gate had made, if it would join something else than
// what was judged: the daemon looks at each start. Containers whose namespaces it shares are written as
// ids in what the gate forwards. A network the daemon keeps by its name until the first start: one that
// was made after the container is not the one that was judged.
func (x *exchange) strays(ctx context.Context, f *found) *refusal {
	for _, mode := range f.Modes {
		if name, ok := strings.CutPrefix(mode, "container:"); ok && !isID(name) {
			return x.stray(f, "container", name)
		}
	}
	for _, name := range f.Unbound {
		n, err := x.c.s.findNetwork(ctx, name)
		switch {
		case errors.Is(err, errNotFound):
			continue // the daemon says so
		case err != nil:
			x.c.s.counts.unresolved.Add(1)
			return &refusal{status: http.StatusServiceUnavailable, cause: "unresolved", msg: "belay: a network of the container: " + err.Error()}
		case n.Created.After(f.Created):
			return x.stray(f, "network", name)
		}
	}
	return nil
}

func (x *exchange) stray(f *found, what, name string) *refusal {
	x.c.s.counts.unresolved.Add(1)
	x.c.s.o.Log.Warn("what a container joins was not judged", attr.ContainerID, f.ID, "kind", what, "name", name)
	return &refusal{status: http.StatusConflict, cause: "join_changed",
		msg: "belay: the " + what + " " + name + " that this container joins is not the one that was there when it was created: create it again"}
}

// unbound returns the networks that the daemon will look for by name. It goes by the id where it has one.
func unbound(networks map[string]struct{ NetworkID string }) (names []string) {
	for name, n := range networks {
		if n.NetworkID == "" && name != "bridge" && name != "host" && name != "none" {
			names = append(names, name)
		}
	}
	return names
}

// at reads a time of the daemon's; one that it does not say is none.
func at(s string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, s)
	return t
}
