package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/belay-project/belay/internal/attr"
)

// strays refuses the start of a container that the gate had made, if it would join a container by its
// name: the daemon looks at each start, and the gate forwards ids. Of networks the endpoints have ids.
func (x *exchange) strays(f *found) *refusal {
	for _, mode := range f.Modes {
		name, ok := strings.CutPrefix(mode, "container:")
		if !ok || isID(name) {
			continue
		}
		x.c.s.counts.unresolved.Add(1)
		x.c.s.o.Log.Warn("what a container joins was not judged", attr.ContainerID, f.ID, "name", name)
		return &refusal{status: http.StatusConflict, cause: "join_changed",
			msg: "belay: the container " + name + " that this container joins may not be the one that was there when it was created: create it again"}
	}
	return nil
}

// worker tells whether the daemon is a node of a swarm that does not know all the networks of it: they
// come to it with the first container that joins them.
func (s *Server) worker(ctx context.Context) (bool, error) {
	var info struct {
		Swarm struct {
			LocalNodeState   string
			ControlAvailable bool
		}
	}
	status, body, err := s.up.ask(ctx, "/info", aboutBytes)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%w: status %d", errDaemon, status)
	}
	if err == nil {
		err = json.Unmarshal(body, &info)
	}
	state := info.Swarm.LocalNodeState
	return state != "" && state != "inactive" && !info.Swarm.ControlAvailable, err
}
