package control

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	gatepeer "github.com/belay-project/belay/internal/gate/peer"
)

func user(uid uint32, name string) *apicall.Subject {
	return &apicall.Subject{Kind: apicall.User, UID: uid, Name: name}
}

// The uids of a user namespace, and containers, count as one user each; root of a container is
// not root.
func TestShareOf(t *testing.T) {
	for _, tt := range []struct {
		sub  *apicall.Subject
		err  error
		want string
	}{
		{user(0, "root"), nil, rootShare},
		{user(0, ""), nil, rootShare},
		{user(1000, "alice"), nil, "uid 1000"},
		{user(100001, ""), nil, "nameless"},
		{user(165535, ""), nil, "nameless"},
		{&apicall.Subject{Kind: apicall.Container, UID: 0, ContainerID: "a"}, nil, "containers"},
		{&apicall.Subject{Kind: apicall.Container, UID: 1000, Name: "alice"}, nil, "containers"},
		{user(0, "root"), errors.New("the process is gone"), "unknown"},
		{&apicall.Subject{}, nil, "unknown"},
	} {
		if got := shareOf(tt.sub, tt.err); got != tt.want {
			t.Errorf("%+v, %v: got %q, want %q", tt.sub, tt.err, got, tt.want)
		}
	}
}

func TestUserSlots(t *testing.T) {
	l := limitUsers(nil, keptForRoot+20, nil).(*userListener)
	for i := range maxPerUser + 3 {
		if got, want := l.places.Take("nameless"), i < maxPerUser; got != want {
			t.Errorf("connection %d without a name: %v, want %v", i+1, got, want)
		}
	}
	for i := range 20 {
		if got, want := l.places.Take(fmt.Sprint("uid ", i)), i < 20-maxPerUser; got != want {
			t.Errorf("user %d: %v, want %v", i, got, want)
		}
	}
	for range keptForRoot {
		if !l.places.Take(rootShare) {
			t.Error("root is kept out")
		}
		defer l.places.Leave(rootShare)
	}
	if l.places.Leave("nameless"); !l.places.Take("uid 77") || l.places.Take("uid 78") {
		t.Error("a connection that ended makes room for one")
	}
}

// Real connections: callers who change their uid have one share, and root gets in after them.
func TestNamelessCannotKeepOthersOut(t *testing.T) {
	var next atomic.Int64 // uid of the next connection; 0: root
	identify := func(net.Conn) (apicall.Subject, error) {
		if uid := uint32(next.Load()); uid >= 100000 {
			next.Add(1)
			return *user(uid, ""), nil
		} else if uid != 0 {
			return *user(uid, "alice"), nil
		}
		return *user(0, "root"), nil
	}
	m := &fakeManager{list: &PolicyList{}}
	path := filepath.Join(t.TempDir(), UsersSocketName)
	s, err := Listen(nil, Options{Path: path, UsersOnly: true, GID: os.Getegid(), Manage: &ManageOptions{Manager: m, Identify: identify}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	next.Store(100000)
	for range maxConnections + 20 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for next.Load() < 100000+maxConnections+20 {
		time.Sleep(time.Millisecond)
	}
	next.Store(200000)
	if _, err := NewClient(path).Policies(t.Context(), PolicyQuery{}); err == nil || !strings.Contains(err.Error(), "too many are open") {
		t.Errorf("one more without a name: %v", err)
	}
	for _, uid := range []int64{1000, 0} {
		next.Store(uid)
		if _, err := NewClient(path).Policies(t.Context(), PolicyQuery{}); err != nil {
			t.Errorf("uid %d: %v", uid, err)
		}
	}
}

// A peer's number that is another process when it asks is nobody: who was accepted is compared.
func TestAcceptedIsAsked(t *testing.T) {
	var who gatepeer.Identifier
	for _, tt := range []struct {
		name   string
		change func(*apicall.Subject) error
		want   bool
	}{
		{"the same", func(*apicall.Subject) error { return nil }, true},
		{"another process", func(sub *apicall.Subject) error { sub.PIDStart--; return nil }, false},
		{"it had ended", func(*apicall.Subject) error { return gatepeer.ErrEnded }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &fakeManager{list: &PolicyList{}}
			c, _ := serveManager(t, &ManageOptions{Manager: m, Identify: func(nc net.Conn) (apicall.Subject, error) {
				sub, err := who.Of(nc)
				if _, ok := nc.(*userConn); !ok && err == nil { // as it is accepted
					err = tt.change(&sub)
				}
				return sub, err
			}}, false)
			_, err := c.Policies(t.Context(), PolicyQuery{})
			if (err == nil) != tt.want || !tt.want && !errors.Is(err, ErrForbidden) {
				t.Errorf("got %v, want it answered: %v", err, tt.want)
			}
		})
	}
}

// The socket for users has a rate, and root none.
func TestUsersRate(t *testing.T) {
	for _, tt := range []struct {
		name    string
		sub     *apicall.Subject
		limited bool
	}{{"user", user(1000, "alice"), true}, {"nameless", user(100000, ""), true}, {"root", user(0, "root"), false}} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := serveManager(t, &ManageOptions{
				Manager: &fakeManager{list: &PolicyList{}}, Identify: func(net.Conn) (apicall.Subject, error) { return *tt.sub, nil },
			}, true)
			limited := false
			for range usersBurst + 40 {
				_, err := c.Policies(t.Context(), PolicyQuery{})
				if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusTooManyRequests {
					limited = true
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if limited != tt.limited {
				t.Errorf("limited: %v, want %v", limited, tt.limited)
			}
		})
	}
}
