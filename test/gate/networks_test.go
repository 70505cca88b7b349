package gate

import (
	"context"
	"strings"
	"testing"
	"time"
)

// Containers join the networks that were judged, by their ids, and start again whatever became of them.
func TestNetworks(t *testing.T) {
	g := need(t).start(t, developers)
	a := g.as(5001)
	id := strings.TrimSpace(ok(t, a, "network", "create", "mine"))
	victim := g.engine.Docker(t.Context(), "network", "create", "victim")
	if victim.Code != 0 {
		t.Fatal(victim.Err())
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		g.engine.Docker(ctx, "rm", "-f", "first", "c5", "early", "apart", "harm")
		g.engine.Docker(ctx, "network", "rm", "mine", "victim", "late")
	})
	ok(t, a, "run", "-d", "--name", "first", "--network", "mine", "--network-alias", "al", "--link", "c5:peer", "--mac-address", "02:42:ac:11:00:99", image, "sleep", "1000")
	ok(t, a, "run", "-d", "--name", "c5", "--network", "mine", image, "sleep", "1000")
	ok(t, a, "create", "--name", "early", "--network", id[:12], image, "sleep", "1000")
	const networks = `{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.NetworkID}};{{end}}`
	for _, name := range []string{"first", "c5", "early"} {
		if out := ok(t, a, "inspect", "-f", networks, name); strings.TrimSpace(out) != "mine "+id+";" {
			t.Errorf("%s is in %q", name, out)
		}
	}
	// The resolver knows the linked container by its name.
	ip := strings.TrimSpace(ok(t, a, "inspect", "-f", "{{.NetworkSettings.Networks.mine.IPAddress}}", "c5"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if r := a.Docker(ctx, "exec", "first", "/bin/busybox", "nslookup", "peer"); !strings.Contains(r.Stdout, ip) {
		t.Errorf("a link to %s, which came later: %s", ip, r.Text())
	}
	for name, c := range map[string][2]string{
		"create":  {"/v1.41/containers/create?name=harm", `{"Image":"` + image + `","Cmd":["true"],"NetworkingConfig":{"EndpointsConfig":{"mine":{"NetworkID":"VICTIM"}}}}`},
		"connect": {"/v1.41/networks/mine/connect", `{"Container":"first","EndpointConfig":{"NetworkID":"VICTIM"}}`},
	} {
		for _, named := range []string{"victim", strings.TrimSpace(victim.Stdout)} {
			if code, body := call(t, g, 5001, "POST", c[0], strings.Replace(c[1], "VICTIM", named, 1)); code != 403 && code != 404 {
				t.Errorf("%s by another's id: %d %s", name, code, body)
			}
		}
	}
	if r := a.Docker(t.Context(), "create", "--network", "ghost", image, "true"); r.Code == 0 || strings.Contains(r.Stderr, "Unable to find image") {
		t.Errorf("a network that nobody has made: %s", r.Text())
	}
	// Connected while it is stopped, to a network that is younger.
	ok(t, a, "stop", "-t", "0", "first", "c5")
	ok(t, a, "network", "create", "late")
	ok(t, a, "network", "connect", "late", "first")
	ok(t, a, "start", "first")
	ok(t, a, "stop", "-t", "0", "first")
	// The network is made again.
	ok(t, a, "network", "rm", "mine")
	again := strings.TrimSpace(ok(t, a, "network", "create", "mine"))
	ok(t, a, "network", "disconnect", "-f", "mine", "c5")
	ok(t, a, "network", "connect", "mine", "c5")
	ok(t, a, "start", "c5")
	if out := ok(t, a, "inspect", "-f", networks, "c5"); strings.TrimSpace(out) != "mine "+again+";" {
		t.Errorf("c5 is in %q, not in %s", out, again)
	}
	// Made by a version that did not write ids, on a network that is younger.
	if r := g.engine.Docker(t.Context(), "create", "--name", "apart", "--network", "mine", "--label", "belay.dev/owner=uid:5001", "--label", "belay.dev/image="+imageID(t, g), image, "sleep", "1000"); r.Code != 0 {
		t.Fatal(r.Err())
	}
	ok(t, a, "stop", "-t", "0", "c5")
	ok(t, a, "rm", "c5")
	ok(t, a, "network", "rm", "mine")
	ok(t, a, "network", "create", "mine")
	ok(t, a, "start", "apart")
}

func imageID(t *testing.T, g *gate) string {
	t.Helper()
	r := g.engine.Docker(t.Context(), "image", "inspect", "-f", "{{.Id}}", image)
	if r.Code != 0 {
		t.Fatal(r.Err())
	}
	return strings.TrimSpace(r.Stdout)
}
