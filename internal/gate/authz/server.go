package authz

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/health"
)

const (
	// readTime bounds the reading of a question, writeTime that and the judgement.
	readTime  = 10 * time.Second
	writeTime = 30 * time.Second
	idleTime  = 5 * time.Minute
	// slotBytes is the measure of room for questions.
	slotBytes = 64 << 10
)

const contentType = "application/vnd.docker.plugins.v1.2+json"

func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the plugin's directory: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("something answers on %s already", path)
	}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("look at the plugin's socket: %w", err)
	case st.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is in the way and no socket", path)
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove what is left of an earlier start: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the plugin's socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		l.Close()
		return nil, fmt.Errorf("put the plugin's socket in its place: %w", err)
	}
	return l, nil
}

// bounded is a listener of so many open connections, from root and this process's own user
// only. The socket's mode says the same: this also holds where somebody changed it.
type bounded struct {
	net.Listener
	room      chan struct{}
	done      chan struct{}
	closing   sync.Once
	strangers *health.Counter
}

func newBounded(l net.Listener, conns int, strangers *health.Counter) *bounded {
	return &bounded{Listener: l, room: make(chan struct{}, conns), done: make(chan struct{}), strangers: strangers}
}

// Accept implements [net.Listener].
func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.room <- struct{}{}:
	case <-b.done:
		return nil, net.ErrClosed
	}
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			<-b.room
			return nil, err
		}
		if !mayAsk(c) {
			b.strangers.Add(1)
			c.Close()
			continue
		}
		return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { <-b.room })}, nil
	}
}

// Close implements [net.Listener].
func (b *bounded) Close() error {
	b.closing.Do(func() { close(b.done) })
	return b.Listener.Close()
}

type boundedConn struct {
	net.Conn
	leave func()
}

// Close implements [net.Conn].
func (c *boundedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

func mayAsk(c net.Conn) bool {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || cerr != nil {
		return false
	}
	return cred.Uid == 0 || int(cred.Uid) == os.Geteuid()
}

func (p *Plugin) server() *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(p.serve), ReadHeaderTimeout: readTime, ReadTimeout: readTime, WriteTimeout: writeTime,
		IdleTimeout: idleTime, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(p.o.Log.Handler(), slog.LevelWarn),
	}
}

// answer is what the daemon is told. The zero value denies.
type answer struct {
	Allow bool
	Msg   string `json:",omitempty"`
	Err   string `json:",omitempty"`
}

func (p *Plugin) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "use POST", http.StatusMethodNotAllowed)
		return
	}
	switch r.URL.Path {
	case "/Plugin.Activate":
		p.write(w, map[string][]string{"Implements": {"authz"}})
	case "/AuthZPlugin.AuthZReq":
		p.write(w, p.ask(w, r))
	case "/AuthZPlugin.AuthZRes":
		// The request was judged, and answers are filtered by the proxy. What the daemon
		// shows of one is read to its end, so that the connection can be used again.
		_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, p.o.Limits.QuestionBytes))
		p.write(w, answer{Allow: true})
	default:
		http.NotFound(w, r)
	}
}

func (p *Plugin) write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", contentType)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		p.o.Log.Warn("the daemon did not take an answer", attr.Error, err.Error())
	}
}

// ask reads and judges one question.
func (p *Plugin) ask(w http.ResponseWriter, r *http.Request) (a answer) {
	start := p.o.now()
	defer func() {
		// net/http would close the connection, and the daemon would ask again and again.
		if v := recover(); v != nil {
			p.counts.failures.Add(1)
			p.o.Log.Error("a judgement failed", attr.Error, fmt.Sprint(v))
			a = p.deny(&question{}, &Event{Time: start, Cause: CauseInternal, Reason: "an internal failure"})
		}
	}()
	ctx, cancel := context.WithTimeout(r.Context(), p.o.Limits.Time)
	defer cancel()
	give, ok := p.take(ctx, r.ContentLength)
	if !ok {
		p.counts.busy.Add(1)
		return p.deny(&question{}, &Event{Time: start, Cause: CauseBusy, Reason: "too many questions at once"})
	}
	defer give()
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, p.o.Limits.QuestionBytes))
	var q question
	if err == nil {
		q, err = readQuestion(raw)
	}
	if err != nil {
		p.counts.unreadable.Add(1)
		return p.deny(&question{}, &Event{Time: start, Cause: CauseUnreadable, Reason: "the daemon's question cannot be read: " + err.Error()})
	}
	p.counts.unknownFields.Add(uint64(q.unknown))
	return p.judge(ctx, &q, start)
}

// take waits for room for a question of n bytes, -1 if that is not said.
func (p *Plugin) take(ctx context.Context, n int64) (give func(), ok bool) {
	if n < 0 || n > p.o.Limits.QuestionBytes {
		n = p.o.Limits.QuestionBytes
	}
	ctx, cancel := context.WithTimeout(ctx, p.o.Limits.Wait)
	defer cancel()
	slots, taken := int(n/slotBytes)+1, 0
	slots = min(slots, cap(p.held))
	give = func() {
		for range taken {
			<-p.held
		}
	}
	// Two large questions that wait for each other's slots both give up in the end.
	for ; taken < slots; taken++ {
		select {
		case p.held <- struct{}{}:
		case <-ctx.Done():
			give()
			return nil, false
		}
	}
	return give, true
}
