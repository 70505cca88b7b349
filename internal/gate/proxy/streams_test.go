package proxy

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

const attachWeb = "POST /v1.41/containers/web/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"

// inContainers says that everybody is in a container.
type inContainers struct{ noContainers }

func (inContainers) ContainerOf(string) (string, bool) { return idWeb, true }

// Each raw stream has two buffers: containers have as many together as one caller.
func TestStreamsAreBounded(t *testing.T) {
	g := startGate(t, strings.Replace(own, `, resources: {own: true}`, "", 1), func(o *Options) { o.Workload = inContainers{} })
	g.streams.Most = 2
	if !g.streams.Take(shareOf(&apicall.Subject{Kind: apicall.Container, ContainerID: idDB})) {
		t.Fatal("no place")
	}
	for i, want := range []int{101, 429} {
		if r := g.raw(t, attachWeb); r.StatusCode != want {
			t.Errorf("stream %d: status %d, want %d", i, r.StatusCode, want)
		}
	}
	if code, body := do(t, g.client(t), "POST", "/v1.41/exec/"+idEx+"/start", `{"Detach":true}`); code != 204 {
		t.Errorf("what is no raw stream: %d %s", code, body)
	}
}

// Root gets in whatever others have open.
func TestStreamsAreKeptForRoot(t *testing.T) {
	g := startGate(t, own)
	for i := range streamRoom {
		if !g.streams.Take(fmt.Sprint("uid:", 1+i)) {
			t.Fatal("no place")
		}
	}
	if r := g.raw(t, attachWeb); (r.StatusCode == 101) != (os.Getuid() == 0) {
		t.Errorf("user %d: status %d", os.Getuid(), r.StatusCode)
	}
	if g.streams.Take("uid:70000") {
		t.Error("there are more places than are to be")
	}
}
