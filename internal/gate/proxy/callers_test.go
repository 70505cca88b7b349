package proxy

import (
	"fmt"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

// Containers, and the uids of user namespaces, are made at will: they must not shut the gate for root.
func TestContainersDoNotTakeAllConnections(t *testing.T) {
	for name, sub := range map[string]func(i int) *apicall.Subject{
		"containers": func(i int) *apicall.Subject {
			return &apicall.Subject{Kind: apicall.Container, ContainerID: fmt.Sprint(i)}
		},
		"nameless": func(i int) *apicall.Subject { return &apicall.Subject{Kind: apicall.User, UID: uint32(100000 + i)} },
		"users": func(i int) *apicall.Subject {
			return &apicall.Subject{Kind: apicall.User, UID: uint32(1 + i), Name: fmt.Sprint("u", i)}
		},
	} {
		l := Limits{Conns: 200, ConnsPerCaller: 20}
		c := newCallers(&l)
		var taken []*caller
		for i := range 300 {
			if k, ok := c.open(sub(i)); ok {
				taken = append(taken, k)
			}
		}
		want := 20
		if name == "users" {
			want = 200 - keptForRoot
		}
		if len(taken) != want {
			t.Errorf("%s: %d connections, want %d", name, len(taken), want)
		}
		root, ok := c.open(&apicall.Subject{Kind: apicall.User, Name: "root"})
		if !ok {
			t.Fatalf("%s: root is kept out", name)
		}
		if _, ok := c.open(&apicall.Subject{Kind: apicall.User, UID: 5000, Name: "alice"}); ok != (name != "users") {
			t.Errorf("%s: a user gets in: %v", name, ok)
		}
		for _, k := range append(taken, root) {
			c.close(k)
		}
		if _, ok := c.open(sub(0)); !ok {
			t.Errorf("%s: places are not given back", name)
		}
	}
}

// A uid that gets a name while it has connections gives back the places that it took.
func TestSharesAreKeptWhileOpen(t *testing.T) {
	l := Limits{Conns: 200, ConnsPerCaller: 2}
	c := newCallers(&l)
	for range 3 {
		for _, name := range []string{"", "alice"} {
			if _, ok := c.open(&apicall.Subject{Kind: apicall.User, UID: 5000, Name: name}); !ok {
				t.Fatalf("%q is kept out", name)
			}
		}
		k := c.byKey["uid:5000"]
		c.close(k)
		c.close(k)
	}
}
