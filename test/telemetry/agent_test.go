package telemetry

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

const image = "telemetry/app:1"

// TestAgentOnDocker: an agent before a real engine sends every kind of signal: the log of a
// denied exec, its count, the life of its container with the denial on it, and the gate's
// span in the trace that the caller named.
func TestAgentOnDocker(t *testing.T) {
	testneed.Need(t, "e2e", os.Getenv("BELAY_E2E") != "", "scenes on a Docker Engine take minutes: make test-e2e sets BELAY_E2E")
	docker, why := lab.HasEngine()
	testneed.Need(t, "docker", docker, why)
	testneed.Need(t, "root", os.Geteuid() == 0, "an agent loads programs into the kernel")
	recv := Start(t)
	agent, engine, l := world(t, "--otlp-endpoint", "http://"+recv.GRPC, "--otlp-protocol", "grpc", "--prometheus", "127.0.0.1:0")
	socket := filepath.Join(l.Path("agent", "run"), "docker.sock")
	c := engine.Client(socket, 0)
	if !lab.Await(t.Context(), 20*time.Second, func() bool { return c.Docker(t.Context(), "version").Code == 0 }) {
		t.Fatal(agent.Log())
	}
	ask(t, socket)
	// Root is denied by the policy; a user is not.
	if r := c.Docker(t.Context(), "run", "--rm", "--entrypoint", "/bin/busybox", image, "true"); r.Code == 0 {
		t.Error("root's exec was not denied")
	}
	r := c.Docker(t.Context(), "run", "--rm", "-u", "1000", "--entrypoint", "/bin/busybox", image, "sh", "-c", "cp /bin/busybox /tmp/x; /tmp/x true")
	t.Logf("a dropped program: %d %s", r.Code, r.Stderr)
	if r := agent.Belay(t.Context(), "policy", "reload"); r.Code != 0 {
		t.Error(r.Err())
	}
	eventually(t, "a life ends", func() bool { return recv.Counts(t).Names["span container"] >= 2 })
	eventually(t, "metrics", func() bool { return recv.Counts(t).Names["metric belay.decisions"] > 0 })
	eventually(t, "the agent's state", func() bool { return recv.Counts(t).Names["metric belay.map.limit"] > 0 })
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	checkAgent(t, recv.Items(t))
}

// ask asks the gate as a caller in a trace does.
func ask(t *testing.T, socket string) {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://d/v1.41/containers/json", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Traceparent", "00-"+traceID+"-b7ad6b7169203331-01")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
}

func checkAgent(t *testing.T, items []Item) {
	t.Helper()
	has := func(what string, ok func(i Item) bool) {
		if !slices.ContainsFunc(items, ok) {
			t.Errorf("nothing came that is %s", what)
		}
	}
	denied := func(i Item) bool {
		return i.Attributes["belay.decision"] == "denied" || i.Attributes["belay.decision"] == "killed"
	}
	has("the log of a denied exec", func(i Item) bool {
		return i.Signal == "log" && i.Name == "belay.exec" && denied(i) && strings.Contains(i.Body, `"kind":"exec"`)
	})
	has("the count of denied execs", func(i Item) bool {
		return i.Name == "belay.decisions" && denied(i) && i.Attributes["belay.kind"] == "exec" && i.Value > 0
	})
	has("a gate's span in the caller's trace", func(i Item) bool { return i.Signal == "span" && i.Name == "gate container.list" && i.Trace == traceID })
	has("a life with a denial and its calls", func(i Item) bool {
		return i.Name == "container" && i.Links > 0 && slices.Contains(i.Events, "start") && slices.Contains(i.Events, "created") && slices.Contains(i.Events, "stop") &&
			slices.ContainsFunc(i.Events, func(e string) bool { return e == "denied" || e == "killed" })
	})
	has("a reload", func(i Item) bool { return i.Signal == "span" && i.Name == "policy reload enact" })
	has("the gate's time", func(i Item) bool { return i.Name == "belay.gate.duration" })
	has("the fill of a map", func(i Item) bool { return i.Name == "belay.map.limit" && i.Value > 0 })
	has("a level", func(i Item) bool { return i.Name == "belay.rule.level" })
	has("the note of the agent's end", func(i Item) bool { return i.Name == "belay.agent" && strings.Contains(i.Body, "agent stopped") })
}

// world starts an engine, and an agent before it under the shipped policy.
func world(t *testing.T, flags ...string) (*lab.Agent, *lab.Engine, *lab.Lab) {
	t.Helper()
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "500")
	l, err := lab.New(lab.Options{Name: "telemetry", Log: os.Stderr, BinDir: os.Getenv("BELAY_BIN"), TempDir: os.Getenv("BELAY_TEST_TMP")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	engine, err := l.StartEngine(ctx, "main")
	if err != nil {
		t.Fatal(err)
	}
	bb, err := lab.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	err = engine.Import(ctx, image, []lab.File{
		lab.Program("bin/busybox", bb), {Name: "bin/sh", Mode: 0o777, Link: "busybox"}, {Name: "bin/cp", Mode: 0o777, Link: "busybox"}, {Name: "tmp/", Mode: 0o1777},
	}, `ENTRYPOINT ["/bin/busybox"]`)
	if err != nil {
		t.Fatal(err)
	}
	hardened, err := l.ShippedPolicy("hardened.yaml")
	if err != nil {
		t.Fatal(err)
	}
	agent, err := l.NewAgent(ctx, lab.AgentOptions{Name: "agent", Engine: engine, Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.SetPolicy("hardened.yaml", hardened); err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(ctx); err != nil {
		t.Fatal(err, agent.Log())
	}
	return agent, engine, l
}
