package control

import (
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

// Root of a container that has the socket is nobody to it, on every route, unless it is admitted;
// who reloads is told to the agent.
func TestContainersAreNotAdmitted(t *testing.T) {
	inside := apicall.Subject{Kind: apicall.Container, UID: 0, ContainerID: strings.Repeat("a", 64)}
	for _, tt := range []struct {
		name  string
		sub   apicall.Subject
		admit func(*Caller) bool
		want  bool
	}{
		{"user", *user(1000, "alice"), nil, true},
		{"root", *user(0, "root"), nil, true},
		{"root of a container", inside, nil, false},
		{"a container that is not admitted", inside, func(*Caller) bool { return false }, false},
		{"a container that is", inside, func(who *Caller) bool { return who.Subject.ContainerID == inside.ContainerID }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := &fakeAgent{status: &Status{}, set: &PolicySet{}}
			path := socketPath(t)
			s, err := Listen(a, Options{Path: path, GID: os.Getegid(), Manage: &ManageOptions{
				Manager: &fakeManager{}, Admit: tt.admit, Identify: func(net.Conn) (apicall.Subject, error) { return tt.sub, nil },
			}})
			if err != nil {
				t.Fatal(err)
			}
			start(t, s)
			c := NewClient(path)
			for _, rt := range routes {
				if rt.answer == nil || strings.HasSuffix(rt.path, "explain") || strings.HasSuffix(rt.path, "use") || rt.path == "/v1/canary" || rt.path == "/v1/load" {
					continue // they want more of the agent
				}
				resp := get(t, c, rt.method, rt.path, "")
				if got := resp.StatusCode == http.StatusOK; got != tt.want || !got && resp.StatusCode != http.StatusForbidden {
					t.Errorf("%s: %d %s", rt.path, resp.StatusCode, text(t, resp))
				}
			}
			if got := a.who != nil; got != tt.want || got && (a.who.Subject.Kind != tt.sub.Kind || a.who.Subject.UID != tt.sub.UID) {
				t.Errorf("the reload was asked for by %+v", a.who)
			}
			if tt.want {
				return
			}
			for _, path := range []string{"/v1/events", "/v1/explain?container=a", "/v1/containers/use?container=a", "/v1/canary", "/v1/load"} {
				if resp := get(t, c, http.MethodGet, path, ""); resp.StatusCode != http.StatusForbidden {
					t.Errorf("%s: %d", path, resp.StatusCode)
				}
			}
		})
	}
}
