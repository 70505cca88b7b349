package gate

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The users of the bypass scenes: who attacks, and who is attacked.
const (
	attacker = 5001
	owner    = 5002
	named    = 1    // daemon: of base-passwd, in no policy
	enterGID = 5999 // stands for the group belay-enter, which this machine does not have
)

// bypass is one way around a gate. The same bytes go to the engine's own socket, where
// they do harm, and to the gate's, where they do none.
type bypass struct {
	id, what string
	// steps are requests, each sent on a connection of its own. Words in capitals stand for
	// what a run knows; see [scene.fill].
	steps []string
	// play replaces steps where one side waits for the other.
	play func(s *scene)
	// harm tells what was done, "" for nothing. The default: a privileged container.
	harm func(s *scene) string
	// near are requests close to the attack that must pass the gate.
	near     []string
	nearPlay func(s *scene) error
	enter    bool // the attacker may enter containers
	// only names the one engine on which the harm is done, "old" or "modern"; "none" if
	// neither does it, and the gate must still answer with its own refusal.
	only   string
	copies bool // the harm is a file in the victim
	// open says why the gate lets this pass, which is known; docs/gate.md says so too.
	open string
	// tidy are requests to the engine after each run.
	tidy []string
}

// scene is one run of a bypass against one of the two sockets.
type scene struct {
	*stage
	t       *testing.T
	guarded bool
	enter   bool
	answers []answer
	words   *strings.Replacer
}

type answer struct {
	status int
	body   string
}

// stage is what all scenes share.
type stage struct {
	*world
	g       *gate
	modern  bool
	host    string // a directory of the host
	srv     string // one that the floor lets containers mount
	witness *witness
	victim  string // ids of containers that run
	mine    string
}

// secret is what must not be seen; it is in many places of the victim.
const secret = "hunter2-of-the-victim"

// shipped returns the access policies that are shipped, as one text.
func shipped(t *testing.T) string {
	t.Helper()
	var docs []string
	files, err := filepath.Glob("../../policies/access-*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("shipped policies: %q, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, strings.ReplaceAll(string(b), "groups: [belay-enter]", fmt.Sprintf("gids: [%d]", enterGID)))
	}
	return strings.Join(docs, "\n---\n")
}

func newStage(t *testing.T) *stage {
	t.Helper()
	st := &stage{world: need(t)}
	st.g = st.start(t, shipped(t))
	var err error
	if st.host, err = os.MkdirTemp("", "belay-host-"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/srv", 0o755); err != nil {
		t.Fatal(err)
	}
	if st.srv, err = os.MkdirTemp("/srv", "belay-test-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(st.host); os.RemoveAll(st.srv) })
	for _, d := range []string{st.host, st.srv, filepath.Join(st.srv, "data")} {
		if err := errors.Join(os.MkdirAll(d, 0o755), os.Chmod(d, 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(st.host, "secret"), []byte(secret), 0o644), os.Symlink(st.host, filepath.Join(st.srv, "link"))); err != nil {
		t.Fatal(err)
	}
	st.witness = newWitness(t, st.engine)
	s := st.scene(t, false, false)
	var v struct{ APIVersion string }
	if err := json.Unmarshal([]byte(s.engineCall(get("/version")).body), &v); err != nil {
		t.Fatal(err)
	}
	st.modern = v.APIVersion != "1.41"
	st.victim = st.person(t, s, "victim", owner)
	st.mine = st.person(t, s, "mine", attacker)
	return st
}

// person makes a container that runs a shell on its standard input, owned by a user.
func (st *stage) person(t *testing.T, s *scene, name string, uid int) string {
	t.Helper()
	body := fmt.Sprintf(`{"Image":%q,"Cmd":["sh","-c","echo %s >/tmp/secret; echo log %s; exec sh"],"OpenStdin":true,"Env":["API_TOKEN=%s"],`+
		`"Labels":{"belay.dev/owner":"uid:%d"},"HostConfig":{"NetworkMode":"none","Binds":["%s-vol:/vol"]}}`, image, secret, secret, secret, uid, name)
	vol := s.engineCall(post("/volumes/create", fmt.Sprintf(`{"Name":"%s-vol","Labels":{"belay.dev/owner":"uid:%d"}}`, name, uid)))
	made := s.engineCall(post("/containers/create?name="+name, body))
	up := s.engineCall(post("/containers/"+name+"/start", ""))
	if vol.status != 201 || made.status != 201 || up.status != 204 {
		t.Fatalf("make %s: %v, %v, %v", name, vol, made, up)
	}
	t.Cleanup(func() {
		s.engineCall(del("/containers/" + name + "?force=1&v=1"))
		s.engineCall(del("/volumes/" + name + "-vol?force=1"))
	})
	var a struct{ ID string }
	if err := json.Unmarshal([]byte(made.body), &a); err != nil {
		t.Fatal(err)
	}
	return a.ID
}

func (st *stage) scene(t *testing.T, guarded, enter bool) *scene {
	s := &scene{stage: st, t: t, guarded: guarded, enter: enter}
	s.words = strings.NewReplacer("HOSTDIR", st.host, "SRVDIR", st.srv, "ENGINESOCK", st.engine.Socket, "ENGINEDIR", filepath.Dir(st.engine.Socket), "WITNESS", st.witness.addr(), "SECRET", secret,
		"VICTIMID", st.victim, "VICTIMSHORT", st.victim[:min(12, len(st.victim))], "MINEID", st.mine, "IMAGE", image)
	return s
}

const head = "Host: docker\r\nConnection: close\r\n"

func post(target, body string) string {
	h := head
	if body != "" {
		h += "Content-Type: application/json\r\n"
	}
	return request("POST", target, h, body)
}

func get(target string) string { return "GET " + target + " HTTP/1.1\r\n" + head + "\r\n" }
func del(target string) string { return "DELETE " + target + " HTTP/1.1\r\n" + head + "\r\n" }

// request leaves the length open: it is known when the words are filled in.
func request(method, target, head, body string) string {
	return method + " " + target + " HTTP/1.1\r\n" + head + "Content-Length: LENGTH\r\n\r\n" + body
}

// fill gives the words their meaning.
func (s *scene) fill(request string) string {
	if strings.HasPrefix(request, "BUILD ") {
		request = s.buildRequest(request)
	}
	request = s.words.Replace(request)
	if head, body, ok := strings.Cut(request, "\r\n\r\n"); ok {
		request = strings.ReplaceAll(head, "LENGTH", fmt.Sprint(len(body))) + "\r\n\r\n" + body
	}
	return request
}

// dial connects to the socket that the scene is about: to the engine's as root, to the
// gate's as the attacker.
func (s *scene) dial() *net.UnixConn {
	s.t.Helper()
	var c *net.UnixConn
	var err error
	if s.guarded {
		gids := []int{}
		if s.enter {
			gids = append(gids, enterGID)
		}
		c, err = dialAs(s.g.socket, attacker, gids)
	} else {
		c, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: s.engine.Socket, Net: "unix"})
	}
	if err == nil {
		err = c.SetDeadline(time.Now().Add(time.Minute))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// dialAs connects as another user of the host. Only the thread that connects has the
// user's credentials, and it ends with them.
func dialAs(socket string, uid int, gids []int) (*net.UnixConn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		c, err := func() (net.Conn, error) {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			f := os.NewFile(uintptr(fd), "gate")
			defer f.Close()
			if err := becomeOnThread(uid, gids); err != nil {
				return nil, err
			}
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
				return nil, err
			}
			return net.FileConn(f)
		}()
		done <- result{c, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	return r.c.(*net.UnixConn), nil
}

// engineCall asks the engine itself, as root.
func (s *scene) engineCall(request string) answer {
	s.t.Helper()
	c, err := net.Dial("unix", s.engine.Socket)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	return s.exchange(c, request)
}

// send sends one request to the scene's socket.
func (s *scene) send(request string) answer {
	s.t.Helper()
	c := s.dial()
	defer c.Close()
	a := s.exchange(c, request)
	s.answers = append(s.answers, a)
	return a
}

func (s *scene) exchange(c net.Conn, request string) answer {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	request = s.fill(request)
	go func() { _, _ = io.WriteString(c, request) }()
	return readAnswer(bufio.NewReader(c))
}

// readAnswer reads an answer, and what follows it if it is a stream. Status 0 is none.
func readAnswer(br *bufio.Reader) answer {
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return answer{0, err.Error()}
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	return answer{resp.StatusCode, string(b)}
}

// brief shows the answers to a person.
func (s *scene) brief() string {
	var b strings.Builder
	for _, a := range s.answers {
		fmt.Fprintf(&b, "%d %.300q; ", a.status, a.body)
	}
	return b.String()
}

// said returns all answers' bodies.
func (s *scene) said() string {
	var b strings.Builder
	for _, a := range s.answers {
		b.WriteString(a.body)
	}
	return b.String()
}

// attackWith plays the attack and returns the harm done and a word on the answer.
func (s *scene) attackWith(b *bypass) (harm, result string) {
	s.t.Helper()
	defer s.tidy(b)
	_ = os.Remove(filepath.Join(s.host, "owned"))
	s.witness.forget()
	if b.play != nil {
		b.play(s)
	}
	for _, r := range b.steps {
		s.send(r)
	}
	if b.harm == nil {
		b.harm = privileged
	}
	harm = b.harm(s)
	// The first refusal is the word on it: later steps fail for the lack of earlier ones.
	i := slices.IndexFunc(s.answers, func(a answer) bool { return a.status == 0 || a.status >= 300 })
	switch {
	case harm != "":
		return harm, "**harm**"
	case i < 0:
		return "", "without effect"
	case s.answers[i].status == 0:
		return "", "cut off"
	}
	return "", fmt.Sprint(s.answers[i].status)
}

func (s *scene) tidy(b *bypass) {
	for _, name := range []string{"harm", "near"} {
		s.engineCall(del("/containers/" + name + "?force=1&v=1"))
	}
	for _, r := range b.tidy {
		s.engineCall(r)
	}
	if b.copies {
		s.in("victim", "busybox", "rm", "-f", "/tmp/copied")
	}
}

// The gate under the shipped policies stops every way of doing harm that the list has
// and this engine knows, and lets the harmless neighbour of each pass. What came out is
// in docs/gate-bypasses.md, which BELAY_WRITE_BYPASSES=1 writes and every other run
// compares itself with.
func TestBypasses(t *testing.T) {
	st := newStage(t)
	page := readPage(t, st.modern)
	cases := slices.Concat(casesA(), casesB(), casesC(), casesD(), casesHost())
	for i := range cases {
		b := &cases[i]
		t.Run(b.id+" "+b.what, func(t *testing.T) { page.add(t, b, st.playCase(t, b)) })
	}
	t.Run("swarm", func(t *testing.T) {
		st.swarm(t)
		for _, b := range casesSwarm() {
			t.Run(b.id+" "+b.what, func(t *testing.T) { page.add(t, &b, st.playCase(t, &b)) })
		}
	})
	page.finish(t, len(cases)+len(casesSwarm()))
}

// playCase plays one bypass on both sockets and returns the results for the page.
func (st *stage) playCase(t *testing.T, b *bypass) (r [2]string) {
	t.Helper()
	var harm, word string
	if bare := st.scene(t, false, b.enter); b.short() {
		r[0] = notPlayed
	} else if harm, r[0] = bare.attackWith(b); (harm != "") != b.harms(st.modern) {
		t.Errorf("the engine that nobody guards: harm %q, want some: %v; answers %s", harm, b.harms(st.modern), bare.brief())
	}
	g := st.scene(t, true, b.enter)
	before := st.g.count()
	harm, word = g.attackWith(b)
	r[1] = word
	if harm != "" && b.open != "" {
		r[1] += ": " + b.open
	} else if why := st.g.why(before); why != "" {
		r[1] += " " + why
	}
	if (harm != "") != (b.open != "") {
		t.Errorf("through the gate: %q; answers %s", harm, g.brief())
	}
	near := st.scene(t, true, b.enter)
	defer near.tidy(b)
	for _, n := range b.near {
		if a := near.send(n); a.status == 0 || a.status >= 400 {
			t.Errorf("the harmless neighbour is refused: %d %.600s of %.600s", a.status, a.body, near.fill(n))
		}
	}
	if b.nearPlay != nil {
		if err := b.nearPlay(near); err != nil {
			t.Errorf("the harmless neighbour: %v; answers %s", err, near.brief())
		}
	}
	if len(b.near) == 0 && b.nearPlay == nil {
		t.Error("the case has no harmless neighbour")
	}
	return r
}

// harms tells whether the engine that nobody guards does the harm.
func (b *bypass) harms(modern bool) bool {
	return b.only == "" || b.only == "modern" && modern || b.only == "old" && !modern
}

// short tells whether the half of a case that runs containers on the unguarded engine is
// left out, as it is unless BELAY_BYPASSES=all: it takes most of the time, and is about the
// engine.
func (b *bypass) short() bool {
	if os.Getenv("BELAY_BYPASSES") == "all" || os.Getenv("BELAY_WRITE_BYPASSES") != "" {
		return false
	}
	return b.play != nil || len(b.steps) > 1 || strings.HasPrefix(b.steps[0], "BUILD ")
}

// count returns the number of records.
func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.events)
}

// why names what the first refusal since was for: the parser's cause, or policy and rule.
func (g *gate) why(since int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, ev := range g.events[since:] {
		switch {
		case ev.Decision != "denied":
		case ev.Cause != "":
			return ev.Cause
		case ev.Rule != "":
			return ev.Policy + "/" + ev.Rule
		default:
			return "allowed by no policy"
		}
	}
	return ""
}

// privileged is the harm of a container that has all rights.
func privileged(s *scene) string {
	if s.inspect("harm").HostConfig.Privileged {
		return "a privileged container"
	}
	return ""
}

// ctr is what scenes look at of a container.
type ctr struct {
	ID     string `json:"Id"`
	Name   string
	Config struct {
		User   string
		Env    []string
		Labels map[string]string
	}
	HostConfig map2
	State      struct {
		Running  bool
		ExitCode int
	}
	Mounts []struct{ Type, Source, Destination string }
}

// map2 keeps the one field that has a meaning of its own here, and the rest as text.
type map2 struct {
	Privileged bool
	raw        string
}

func (m *map2) UnmarshalJSON(b []byte) error {
	var v struct{ Privileged bool }
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	m.Privileged, m.raw = v.Privileged, string(b)
	return nil
}

// inspect returns a container as the engine has it, the zero value if it has none.
func (s *scene) inspect(ref string) (c ctr) {
	s.t.Helper()
	a := s.engineCall(get("/containers/" + ref + "/json"))
	if a.status != 200 {
		return ctr{}
	}
	if err := json.Unmarshal([]byte(a.body), &c); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// ran waits until a container has ended and returns what it wrote.
func (s *scene) ran(ref string) string {
	s.t.Helper()
	if s.engineCall(post("/containers/"+ref+"/wait", "")).status != 200 {
		return ""
	}
	return s.engineCall(get("/containers/" + ref + "/logs?stdout=1&stderr=1")).body
}

// shows is the harm of a container whose output has a text.
func shows(text, what string) func(*scene) string {
	return func(s *scene) string {
		if s.inspect("harm").ID != "" && strings.Contains(s.ran("harm"), s.words.Replace(text)) {
			return what
		}
		return ""
	}
}

// wrote is the harm of a file written to the host.
func wrote(s *scene) string {
	if s.inspect("harm").ID != "" {
		s.ran("harm")
	}
	if _, err := os.Stat(filepath.Join(s.host, "owned")); err == nil {
		return "a file was written to the host"
	}
	return ""
}

// has is the harm of a container whose host configuration has a text.
func has(text, what string) func(*scene) string {
	return func(s *scene) string {
		if strings.Contains(strings.ToLower(s.inspect("harm").HostConfig.raw), strings.ToLower(s.words.Replace(text))) {
			return what
		}
		return ""
	}
}

// told is the harm of an answer that has a text.
func told(text, what string) func(*scene) string {
	return func(s *scene) string {
		if strings.Contains(s.said(), s.words.Replace(text)) {
			return what
		}
		return ""
	}
}

// fetched is the harm of a request that the engine was made to send.
func fetched(s *scene) string {
	wait := 3 * time.Second
	if s.guarded {
		wait = 500 * time.Millisecond // what is let through is waited for by its answer
	}
	if s.witness.seen(wait) {
		return "the engine called an address of the attacker's choice"
	}
	return ""
}

// in returns the output of a command in the victim, asked of the engine as root.
func (s *scene) in(container string, argv ...string) string {
	s.t.Helper()
	return s.engine.Docker(context.WithoutCancel(s.t.Context()), append([]string{"exec", "-u", "0", container}, argv...)...).Stdout
}
