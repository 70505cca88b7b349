package gate

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protowire"
)

// open sends a request that asks for a stream and returns the connection, nil if it was
// refused.
func (s *scene) open(target, headers string) (*net.UnixConn, *bufio.Reader) {
	s.t.Helper()
	c := s.dial()
	_, _ = io.WriteString(c, s.fill(target+" HTTP/1.1\r\nHost: d\r\n"+headers+"\r\n"))
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		s.answers = append(s.answers, answer{0, err.Error()})
		c.Close()
		return nil, nil
	}
	if resp.StatusCode >= 300 {
		b, _ := io.ReadAll(resp.Body)
		s.answers = append(s.answers, answer{resp.StatusCode, string(b)})
		c.Close()
		return nil, nil
	}
	s.answers = append(s.answers, answer{resp.StatusCode, ""})
	return c, br
}

// webSocket attaches to a container by a GET, writes a line and reads until the line's
// output comes.
func (s *scene) webSocket(container, line string) error {
	s.t.Helper()
	c, br := s.open("GET /containers/"+container+"/attach/ws?stream=1&stdin=1&stdout=1",
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://d\r\n")
	if c == nil {
		return s.passed()
	}
	defer c.Close()
	// RFC 6455, 5.2: a final text frame; a client's is masked, here with zeros.
	frame := append([]byte{0x81, 0x80 | byte(len(line)), 0, 0, 0, 0}, line...)
	if _, err := c.Write(frame); err != nil {
		return err
	}
	if !strings.Contains(line, "$((6*7))") {
		return nil
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var got strings.Builder
	for !strings.Contains(got.String(), "from 42") {
		b, err := readFrame(br)
		if err != nil {
			return fmt.Errorf("after %q: %w", got.String(), err)
		}
		got.Write(b)
	}
	return nil
}

// readFrame reads a frame of a WebSocket server.
func readFrame(br *bufio.Reader) ([]byte, error) {
	var h [2]byte
	if _, err := io.ReadFull(br, h[:]); err != nil {
		return nil, err
	}
	n := uint64(h[1] & 0x7f)
	if n >= 126 {
		ext := make([]byte, map[uint64]int{126: 2, 127: 8}[n])
		if _, err := io.ReadFull(br, ext); err != nil {
			return nil, err
		}
		n = binary.BigEndian.Uint64(append(make([]byte, 8-len(ext)), ext...))
	}
	if n > 1<<20 {
		return nil, errors.New("a frame of more than 1 MiB")
	}
	b := make([]byte, n)
	_, err := io.ReadFull(br, b)
	return b, err
}

// stream attaches without an upgrade, as old clients do, and writes a line.
func (s *scene) stream(container, line string) {
	s.t.Helper()
	c, _ := s.open("POST /containers/"+container+"/attach?stream=1&stdin=1&stdout=1", "Content-Length: 0\r\n")
	if c == nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, line)
	time.Sleep(300 * time.Millisecond)
}

// halfClose starts cat by exec without an upgrade: what is written comes back, and the
// end of the input ends it.
func halfClose(s *scene) error {
	a := s.send(post("/containers/MINEID/exec", `{"Cmd":["cat"],"AttachStdin":true,"AttachStdout":true}`))
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(a.body), &made); err != nil || made.ID == "" {
		return fmt.Errorf("exec: %d %s", a.status, a.body)
	}
	const body = `{"Detach":false,"Tty":false}`
	c := s.dial()
	defer c.Close()
	_, _ = io.WriteString(c, "POST /exec/"+made.ID+"/start HTTP/1.1\r\nHost: d\r\n"+jsonType+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body))
	br := bufio.NewReader(c)
	if r, err := http.ReadResponse(br, nil); err != nil || r.StatusCode != 200 {
		return fmt.Errorf("start: %v, %v", r, err)
	}
	_, _ = io.WriteString(c, "over and back")
	if err := c.CloseWrite(); err != nil {
		return err
	}
	b, err := io.ReadAll(br)
	if err != nil || !bytes.Contains(b, []byte("over and back")) {
		return fmt.Errorf("got %q, %w", b, errors.Join(err, errors.New("the echo is missing")))
	}
	return nil
}

// upgraded returns how to reach what is behind an upgrade to HTTP/2.
func (s *scene) upgraded(target string) func() net.Conn {
	return func() net.Conn {
		c, br := s.open("POST "+target, "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n")
		if c == nil {
			return nil
		}
		return &ahead{Conn: c, br: br}
	}
}

// ahead is a connection of which some was read already.
type ahead struct {
	net.Conn
	br *bufio.Reader
}

func (a *ahead) Read(p []byte) (int, error) { return a.br.Read(p) }

// grpc calls one method of the builder.
func (s *scene) grpc(dial func() net.Conn, method string, message []byte) {
	s.t.Helper()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p, DialContext: func(context.Context, string, string) (net.Conn, error) {
		if c := dial(); c != nil {
			return c, nil
		}
		return nil, errors.New("refused")
	}}
	defer tr.CloseIdleConnections()
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	ctx, cancel := context.WithTimeout(s.t.Context(), 40*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://d/moby.buildkit.v1.Control/"+method, bytes.NewReader(frame))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		if !s.guarded || len(s.answers) == 0 {
			s.answers = append(s.answers, answer{0, err.Error()})
		}
		return
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	s.answers = append(s.answers, answer{resp.StatusCode, string(b) + fmt.Sprint(resp.Header, resp.Trailer)})
}

// diskUsage asks what everybody's builds have left.
func (s *scene) diskUsage(dial func() net.Conn) { s.grpc(dial, "DiskUsage", nil) }

// field appends a field of bytes to a message.
func field(m []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(m, n, protowire.BytesType), v)
}

// solveRaw has the builder run a command in the host's network by a graph of its own,
// without a frontend. Numbers of fields: github.com/moby/buildkit, solver/pb/ops.proto
// and api/services/control/control.proto.
func (s *scene) solveRaw(dial func() net.Conn) {
	s.t.Helper()
	source := field(nil, 3, field(nil, 1, []byte("docker-image://docker.io/"+image))) // Op.source.identifier
	input := func(of []byte) []byte { return field(nil, 1, field(nil, 1, []byte(digest.FromBytes(of)))) }
	var meta []byte
	for _, a := range []string{"/bin/busybox", "wget", "-q", "-O-", "http://" + s.witness.addr() + "/from-graph"} {
		meta = field(meta, 1, []byte(a))
	}
	meta = field(meta, 3, []byte("/"))
	mount := field(nil, 3, []byte("/"))
	exec := field(field(nil, 1, meta), 2, mount)
	exec = protowire.AppendVarint(protowire.AppendTag(exec, 3, protowire.VarintType), 1) // network: host
	run := field(input(source), 2, exec)
	last := input(run)
	def := field(field(field(nil, 1, source), 1, run), 1, last)
	req := field(field(nil, 1, []byte("belay-test")), 2, def)
	req = field(req, 9, []byte("network.host")) // Entitlements
	s.grpc(dial, "Solve", req)
}

// startExec has the victim's owner make an exec, which the attacker starts.
func startExec(s *scene) {
	a := s.engineCall(post("/containers/VICTIMID/exec", `{"Cmd":["sh","-c","echo owned >/tmp/copied"]}`))
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(a.body), &made); err != nil {
		s.t.Fatal(err)
	}
	s.send(post("/exec/"+made.ID+"/start", `{"Detach":true}`))
}

// build makes the archive of a build and sends it.
func (s *scene) buildRequest(r string) string {
	line, dockerfile, _ := strings.Cut(r, "\x00")
	parts := strings.SplitN(line, " ", 3)
	return request("POST", "/build?t="+parts[1]+parts[2], head+"Content-Type: application/x-tar\r\n", tarText("Dockerfile", s.words.Replace(dockerfile)))
}

// evilPlugin makes a plugin that writes to the host when it is enabled.
func evilPlugin(s *scene) {
	bb, err := os.ReadFile("/bin/busybox")
	if err != nil {
		s.t.Fatal(err)
	}
	config := s.words.Replace(`{"description":"x","entrypoint":["/bin/busybox","sh","-c","echo x >/m/owned; exec /bin/busybox sleep 2"],"workdir":"/",` +
		`"interface":{"types":["docker.dummy/1.0"],"socket":"x.sock"},"network":{"type":"host"},"linux":{"capabilities":[]},"ipchost":false,"pidhost":false,` +
		`"args":{"name":"","description":"","settable":null,"value":null},"env":null,"propagatedMount":"",` +
		`"mounts":[{"name":"h","description":"","settable":null,"source":"HOSTDIR","destination":"/m","type":"bind","options":["rbind"]}]}`)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name, body string
	}{{"config.json", config}, {"rootfs/", ""}, {"rootfs/bin/", ""}, {"rootfs/m/", ""}, {"rootfs/bin/busybox", string(bb)}} {
		h := &tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.body)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		_ = w.WriteHeader(h)
		_, _ = io.WriteString(w, f.body)
	}
	_ = w.Close()
	c := s.dial()
	defer c.Close()
	text := b.String()
	go func() {
		_, _ = io.WriteString(c, "POST /plugins/create?name=evil:latest HTTP/1.1\r\n"+head+"Content-Type: application/x-tar\r\n"+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(text))+text)
	}()
	s.answers = append(s.answers, readAnswer(bufio.NewReader(c)))
	s.send(post("/plugins/evil:latest/enable?timeout=5", ""))
}

// wroteNow is [wrote] where no container is waited for.
func wroteNow(s *scene) string {
	time.Sleep(200 * time.Millisecond)
	for _, name := range []string{"owned", "owned/config.json"} {
		if _, err := os.Stat(filepath.Join(s.host, name)); err == nil {
			return "a file was written to the host"
		}
	}
	return ""
}

// swapLink changes a link between a place that is allowed and one that is not, while
// containers that mount it are made. The engine itself needs no such effort.
func (s *scene) swapLink(steps []string) {
	link, tmp := filepath.Join(s.srv, "swap"), filepath.Join(s.srv, "swap.new")
	_ = os.Remove(link)
	if err := os.Symlink(filepath.Join(s.srv, "data"), link); err != nil { // before the first request
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			to := []string{filepath.Join(s.srv, "data"), s.host}[i%2]
			_ = os.Symlink(to, tmp)
			_ = os.Rename(tmp, link)
			time.Sleep(200 * time.Microsecond)
		}
	}()
	refused := false
	for i := 0; i < 5 || s.guarded && !refused && ctx.Err() == nil; i++ { // until the gate has met both
		for _, r := range steps {
			refused = s.send(r).status == 403 || refused
		}
		s.ran("harm")
		s.engineCall(del("/containers/harm?force=1"))
	}
	cancel()
	<-done
	if !s.guarded {
		_ = os.Remove(filepath.Join(s.host, "owned")) // as a matter of course: nobody checks
	}
}

// turnsSource makes a container with a bind of what name stands for in the allowed directory, a
// directory or nothing yet, and starts it when a link is in its place.
func (s *scene) turnsSource(name string, there bool) {
	source := filepath.Join(s.srv, name)
	clear := func() {
		if err := os.RemoveAll(source); err != nil {
			s.t.Fatal(err)
		}
	}
	clear()
	defer clear()
	if there {
		if err := os.Mkdir(source, 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	steps := runs(`"Binds":["SRVDIR/`+name+`:/m"]`, "echo x >/m/owned")
	s.send(steps[0])
	clear()
	if err := os.Symlink(s.host, source); err != nil {
		s.t.Fatal(err)
	}
	s.send(steps[1])
	s.ran("harm")
}

var nodeID = regexp.MustCompile(`"NodeID":"([a-z0-9]+)"`)

// drainNode takes all work from the swarm's one node.
func (s *scene) drainNode() {
	m := nodeID.FindStringSubmatch(s.engineCall(get("/info")).body)
	if m == nil {
		s.t.Fatal("the node has no id")
	}
	set := func(to string) string {
		var v struct{ Version struct{ Index int } }
		if err := json.Unmarshal([]byte(s.engineCall(get("/nodes/"+m[1])).body), &v); err != nil {
			s.t.Fatal(err)
		}
		return post(fmt.Sprintf("/nodes/%s/update?version=%d", m[1], v.Version.Index), `{"Availability":"`+to+`","Role":"manager"}`)
	}
	s.engineCall(set("active"))
	s.send(set("drain"))
	if strings.Contains(s.engineCall(get("/nodes/"+m[1])).body, `"Availability":"drain"`) {
		s.answers = append(s.answers, answer{200, "drained"})
	}
}
