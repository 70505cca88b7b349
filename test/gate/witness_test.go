package gate

import (
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/tools/lab"
)

// witness is a web server in the engine's network that sees what the engine is made to
// fetch. It answers with an empty file, or with what serve says.
type witness struct {
	l net.Listener

	// mu guards what follows.
	mu    sync.Mutex
	paths []string
	auth  string // the last X-Registry-Auth or Authorization
}

func newWitness(t *testing.T, e *lab.Engine) *witness {
	t.Helper()
	l, err := e.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{l: l}
	srv := &http.Server{Handler: w, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { _ = srv.Serve(l); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return w
}

func (w *witness) addr() string { return w.l.Addr().String() }

func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.paths = append(w.paths, r.URL.Path)
	if a := r.Header.Get("Authorization"); a != "" {
		w.auth = a
	}
	w.mu.Unlock()
	if r.URL.Path == "/Dockerfile" {
		_, _ = rw.Write([]byte("FROM scratch\nLABEL a=b\n"))
		return
	}
	http.NotFound(rw, r)
}

func (w *witness) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paths, w.auth = nil, ""
}

// seen tells whether a request came, now or within a short while.
func (w *witness) seen(wait time.Duration) bool {
	for end := time.Now().Add(wait); ; {
		w.mu.Lock()
		n := len(w.paths)
		w.mu.Unlock()
		if n > 0 || time.Now().After(end) {
			return n > 0
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// becomeOnThread changes the user of this thread alone: the C library would change all.
func becomeOnThread(uid int, gids []int) error {
	list := make([]uint32, len(gids)+1)
	for i, g := range gids {
		list[i+1] = uint32(g)
	}
	list[0] = uint32(uid)
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(list)), uintptr(unsafe.Pointer(unsafe.SliceData(list))), 0); e != 0 {
		return e
	}
	id := uintptr(uid)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); e != 0 {
		return e
	}
	return nil
}
