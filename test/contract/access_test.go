package contract

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/dockerapi"
	"github.com/belay-project/belay/internal/policy"
)

// The request parser and the policies have one list of actions: one that policies did
// not know could be allowed by no rule, one that no route has would never be asked.
func TestActionsAreOneList(t *testing.T) {
	known := policy.Actions()
	for _, a := range dockerapi.Actions() {
		if !slices.Contains(known, a) {
			t.Errorf("policies do not know the action %s", a)
		}
	}
	routes := dockerapi.Actions()
	for _, a := range known {
		// What concerns Belay's own policies and scans is no route of the daemon, nor is the gate's
		// own account of the node; a tunnel is the other way in which it can pass on some that are.
		if !slices.Contains(routes, a) && !strings.HasPrefix(a, "policy.") && !strings.HasPrefix(a, "scan.") && a != "build.tunnel" && a != "node.read" {
			t.Errorf("no route has the action %s", a)
		}
	}
}

// A test of policies that names a method and a path means what the parser reads.
func TestRequestsOfTestsMeanTheSame(t *testing.T) {
	for _, r := range [][2]string{
		{http.MethodGet, "/_ping"}, {http.MethodHead, "/_ping"}, {http.MethodGet, "/v1.44/containers/json"}, {http.MethodPost, "/containers/create"},
		{http.MethodGet, "/containers/web/json"}, {http.MethodDelete, "/containers/web"}, {http.MethodPost, "/containers/web/exec"},
		{http.MethodPost, "/exec/abc/start"}, {http.MethodGet, "/exec/abc/json"}, {http.MethodPut, "/containers/web/archive"},
		{http.MethodGet, "/containers/web/archive"}, {http.MethodHead, "/containers/web/archive"}, {http.MethodGet, "/containers/web/attach/ws"},
		{http.MethodGet, "/images/get"}, {http.MethodGet, "/images/json"}, {http.MethodGet, "/images/a/b/c:1/get"}, {http.MethodGet, "/images/a/b/json"},
		{http.MethodPost, "/images/a/b/push"}, {http.MethodDelete, "/images/a/b"}, {http.MethodPost, "/build"}, {http.MethodPost, "/build/prune"},
		{http.MethodDelete, "/containers/web/checkpoints/c1"}, {http.MethodGet, "/networks/"}, {http.MethodPost, "/networks/n/connect"},
		{http.MethodGet, "/plugins/privileges"}, {http.MethodPost, "/plugins/a/b/disable"}, {http.MethodPost, "/volumes/create"}, {http.MethodGet, "/volumes/v"},
		{http.MethodPost, "/services/s/update"}, {http.MethodGet, "/swarm/unlockkey"}, {http.MethodGet, "/events"}, {http.MethodGet, "/distribution/a/b/json"},
		{http.MethodPost, "/session"}, {http.MethodPost, "/commit"}, {http.MethodGet, "/system/df"},
	} {
		m, err := dockerapi.FindRoute(r[0], r[1])
		if err != nil {
			t.Errorf("%s %s: %v", r[0], r[1], err)
			continue
		}
		if got, ok := policy.ActionOf(r[0], r[1]); !ok || got != m.Route.Action {
			t.Errorf("%s %s: a test asks for %q, the parser reads %q", r[0], r[1], got, m.Route.Action)
		}
	}
}
