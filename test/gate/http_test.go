package gate

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// call sends one request through the gate as a user of the host, with curl.
func call(t *testing.T, g *gate, uid uint32, method, path, body string) (status int, answer string) {
	t.Helper()
	curl, err := exec.LookPath("curl")
	testneed.Need(t, "curl", err == nil, "it calls as another user: apt-get install curl")
	args := []string{"-s", "-o", "-", "-w", "\n%{http_code}", "--unix-socket", g.socket, "-X", method, "http://docker" + path}
	if body != "" {
		args = append(args, "-H", "Content-Type: application/json", "-d", body)
	}
	cmd := exec.CommandContext(t.Context(), curl, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("curl: %v: %s", err, out)
	}
	i := bytes.LastIndexByte(out, '\n')
	status, err = strconv.Atoi(string(out[i+1:]))
	if err != nil {
		t.Fatalf("curl: %s", out)
	}
	return status, string(out[:i])
}

func execCreate(t *testing.T, g *gate, _ *lab.Client, container string) string {
	t.Helper()
	c := http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", g.engine.Socket) }}}
	defer c.CloseIdleConnections()
	r, err := c.Post("http://docker/containers/"+container+"/exec", "application/json", strings.NewReader(`{"Cmd":["/bin/true"],"User":"1000"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	var a struct{ ID string }
	if err := json.Unmarshal(b, &a); err != nil || a.ID == "" {
		t.Fatalf("exec create: %s", b)
	}
	return a.ID
}
