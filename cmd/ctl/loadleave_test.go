package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/hostinfo"
	loadplace "github.com/belay-project/belay/internal/load/place"
)

// TestLeaveKubernetes: the API server of a kubeconfig is asked for the pods of the node that is this host.
func TestLeaveKubernetes(t *testing.T) {
	boot, err := hostinfo.Host{}.BootID()
	if err != nil {
		t.Fatal(err)
	}
	var patches []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method == http.MethodPatch && r.URL.Path == "/api/v1/nodes/n1":
			body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
			patches = append(patches, string(body))
			_, _ = io.WriteString(w, `{}`)
		case r.URL.Path == "/api/v1/nodes/n1":
			fmt.Fprintf(w, `{"metadata": {"name": "n1", "resourceVersion": "7"}, "status": {"nodeInfo": {"bootID": %q}}}`, boot)
		case r.URL.Path == "/api/v1/nodes/n2":
			_, _ = io.WriteString(w, `{"metadata": {"name": "n2"}, "status": {"nodeInfo": {"bootID": "another"}}}`)
		case r.URL.Path == "/api/v1/pods" && r.FormValue("fieldSelector") == "spec.nodeName=n1":
			_, _ = io.WriteString(w, `{"items": [{"metadata": {"namespace": "shop", "name": "bare", "uid": "u1"}, "status": {"phase": "Running"}}]}`)
		case r.URL.Path == "/api/v1/pods":
			_, _ = io.WriteString(w, `{"items": []}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	config := filepath.Join(dir, "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\ncurrent-context: c\n", srv.URL)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	leave := func(args ...string) (status int, out, stderr string) {
		var o, e strings.Builder
		args = slices.Concat([]string{"load", "leave", "--orchestrator", "kubernetes", "--kubeconfig", config, "--state-dir", dir}, args)
		status = run(t.Context(), &terminal{in: strings.NewReader(""), out: &o, err: &e, now: time.Now}, args)
		return status, o.String(), e.String()
	}

	t.Setenv("NODE_NAME", "n1")
	status, out, stderr := leave("-o", "json")
	var units []loadplace.Unit
	if err := json.Unmarshal([]byte(out), &units); err != nil || status != exitOK || len(units) != 1 || units[0].Name != "shop/bare" || !strings.Contains(units[0].Stays, "it is bare") {
		t.Errorf("status %d, %v: %s%s", status, err, out, stderr)
	}
	if status, _, stderr = leave("shop/bare"); status != exitFailed || !strings.Contains(stderr, "shop/bare stays: it is bare") {
		t.Errorf("a bare pod: status %d: %s", status, stderr)
	}
	if status, _, stderr = leave("--node", "n2"); status != exitFailed || !strings.Contains(stderr, "another machine") {
		t.Errorf("another node: status %d: %s", status, stderr)
	}
	if status, _, stderr = leave("--cordon"); status != exitOK || len(patches) != 1 || !strings.Contains(patches[0], "belay.dev/over-cap") {
		t.Errorf("cordon: status %d: %s; patches %q", status, stderr, patches)
	}
	if status, _, stderr = leave("--uncordon"); status != exitOK || len(patches) != 1 {
		t.Errorf("uncordon of what is not tainted: status %d: %s; patches %q", status, stderr, patches)
	}
	if status, _, _ = leave("--cordon", "--uncordon"); status != exitUsage {
		t.Errorf("both: status %d", status)
	}
}
