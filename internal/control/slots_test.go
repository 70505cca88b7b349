package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
)

func TestSlots(t *testing.T) {
	s := newSlots(2)
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	must := func(share string) func() {
		t.Helper()
		leave, err := s.take(short(), share)
		if err != nil {
			t.Fatalf("%s: %v", share, err)
		}
		return leave
	}
	leaveA := must("a")
	if _, err := s.take(short(), "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second one of a share: %v", err)
	}
	leaveB := must("b")
	if _, err := s.take(short(), "c"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third of two: %v", err)
	}
	for range 5 {
		defer must(rootShare)()
	}
	leaveA()
	leaveC := must("c")
	leaveB()
	leaveC()
	must("a")()
	if len(s.byShare) != 0 || len(s.all) != 0 {
		t.Errorf("%d shares and %d slots are left", len(s.byShare), len(s.all))
	}
}

// One user who sends the bodies of his changes slowly, on as many connections as he gets, keeps
// nobody else from making one.
func TestSlowBodies(t *testing.T) {
	var mu sync.Mutex
	sub := *user(1000, "alice")
	m := &fakeManager{res: &ChangeResult{Revision: 4}}
	for _, users := range []bool{true, false} {
		t.Run(fmt.Sprint("users ", users), func(t *testing.T) {
			identify := func(net.Conn) (apicall.Subject, error) {
				mu.Lock()
				defer mu.Unlock()
				return sub, nil
			}
			become := func(s *apicall.Subject) { mu.Lock(); defer mu.Unlock(); sub = *s }
			become(user(1000, "alice"))
			c, path := serveManager(t, &ManageOptions{Manager: m, Identify: identify}, users)
			for range maxPerUser {
				slow, err := net.Dial("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				defer slow.Close()
				fmt.Fprint(slow, "POST /v1/policies/change HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
			}
			time.Sleep(100 * time.Millisecond) // until they have been identified
			if _, err := NewClient(path).Change(t.Context(), &ChangeRequest{}); err == nil {
				t.Error("the slow one has more connections than his share")
			}
			for _, other := range []*apicall.Subject{user(1001, "bob"), user(0, "root")} {
				become(other)
				start := time.Now()
				if _, err := c.Change(t.Context(), &ChangeRequest{Op: "apply"}); err != nil || time.Since(start) > time.Second {
					t.Errorf("%s: %v after %v", other.Name, err, time.Since(start))
				}
			}
		})
	}
}

// A body that does not come is given up before those who wait for it are.
func TestBodyTimeout(t *testing.T) {
	_, path := serveManager(t, &ManageOptions{Manager: &fakeManager{}}, true)
	slow, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	fmt.Fprint(slow, "POST /v1/policies/change HTTP/1.1\r\nHost: agent\r\nContent-Length: 100\r\n\r\n{")
	if err := slow.SetReadDeadline(time.Now().Add(2 * bodyTimeout)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := slow.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) || n > 0 && !strings.Contains(string(b[:n]), "400") {
		t.Errorf("got %q, %v", b[:n], err)
	}
}
