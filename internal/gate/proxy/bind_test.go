package proxy

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/policy"
)

// fakeBinder keeps what it was given, and refuses if err is set.
type fakeBinder struct {
	err error

	// mu guards bound.
	mu    sync.Mutex
	bound map[string]Binding
}

func (b *fakeBinder) Bind(n *Binding) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	if b.bound == nil {
		b.bound = map[string]Binding{}
	}
	b.bound[n.ID] = *n
	return nil
}

func (b *fakeBinder) Bound(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.bound[id]
	return ok
}

const bothDoors = `apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: both}
spec:
  mode: MODE
  subjects: {everyone: true}
  obligations: {labels: {belay.dev/team: web}}
  rules: [{name: all, effect: allow, actions: ["container.*"], checks: [notRoot]}]
`

func TestBoundAtCreate(t *testing.T) {
	const body = `{"Image":"app","User":"1000","Labels":{"a":"b","belay.dev/trust":"forged","belay.dev/runtime":"none"}}`
	t.Run("before the client hears of it", func(t *testing.T) {
		b := &fakeBinder{}
		g := startGate(t, strings.ReplaceAll(bothDoors, "MODE", "enforce"), func(o *Options) { o.Binder = b })
		status, answer := do(t, g.client(t), "POST", "/containers/create", body)
		if status != 201 || !strings.Contains(answer, idWeb) {
			t.Fatalf("got %d %s", status, answer)
		}
		n := b.bound[idWeb]
		if !n.Owed || len(n.Runtime) != 1 || n.Runtime[0].Spec.Exec.AsRoot != policy.Deny || n.Owner != me() {
			t.Errorf("bound %+v", n)
		}
		if n.Set["belay.dev/trust"] != "" || n.Set["belay.dev/team"] != "web" || n.Set[policy.OwnerLabel] != me() || n.Labels["a"] != "b" {
			t.Errorf("labels %v and %v", n.Set, n.Labels)
		}
		if sent := g.d.acted(); len(sent) != 1 || !strings.Contains(sent[0].body, `"belay.dev/runtime":"exec.asRoot"`) {
			t.Errorf("the daemon got %+v", sent)
		}
		if ev := g.rec.all(); len(ev) != 1 || len(ev[0].IDs) == 0 || ev[0].IDs[len(ev[0].IDs)-1] != idWeb || ev[0].Decision != Allowed {
			t.Errorf("records %+v", ev)
		}
		if g.counter("gate_bound") != 1 {
			t.Error("it is not counted")
		}
	})
	t.Run("though its client has left", func(t *testing.T) {
		b := &fakeBinder{}
		g := startGate(t, strings.ReplaceAll(bothDoors, "MODE", "enforce"), func(o *Options) { o.Binder = b })
		conn := g.dial(t)
		slow := `{"Image":"app","User":"1000","Cmd":["slow"]}`
		fmt.Fprintf(conn, "POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(slow), slow)
		time.Sleep(2 * tick)
		conn.Close()
		for end := time.Now().Add(10 * time.Second); !b.Bound(idWeb); time.Sleep(tick) {
			if time.Now().After(end) {
				t.Fatal("a container was made that nobody knows as the gate's")
			}
		}
	})
	t.Run("what cannot be bound is not kept", func(t *testing.T) {
		g := startGate(t, strings.ReplaceAll(bothDoors, "MODE", "enforce"), func(o *Options) { o.Binder = &fakeBinder{err: errors.New("the map is full")} })
		status, answer := do(t, g.client(t), "POST", "/containers/create", body)
		if status != 500 || !strings.Contains(answer, "the map is full") || strings.Contains(answer, idWeb) {
			t.Errorf("got %d %s", status, answer)
		}
		sent := g.d.requests()
		if last := sent[len(sent)-1]; last.method != "DELETE" || last.uri != "/containers/"+idWeb+"?force=1&v=1" {
			t.Errorf("the daemon got last %+v", last)
		}
		if ev := g.rec.all(); len(ev) != 1 || ev[0].Decision != Denied || ev[0].Cause != "not_bound" || ev[0].Status != 500 {
			t.Errorf("records %+v", ev)
		}
		if g.counter("gate_bind_failed") != 1 || g.counter("gate_bind_left") != 0 {
			t.Error("it is not counted")
		}
	})
	t.Run("audit owes nothing", func(t *testing.T) {
		b := &fakeBinder{}
		g := startGate(t, strings.ReplaceAll(bothDoors, "MODE", "audit"), func(o *Options) { o.Binder = b })
		do(t, g.client(t), "POST", "/containers/create", `{"Image":"app","User":"1000"}`)
		if n := b.bound[idWeb]; n.Owed || len(n.Runtime) != 1 || n.Runtime[0].Spec.Mode.String() != "audit" {
			t.Errorf("bound %+v", n)
		}
	})
	for name, policies := range map[string]string{"audit": strings.ReplaceAll(bothDoors, "MODE", "audit"), "no policy": ""} {
		t.Run("what cannot be bound is not kept where nothing is owed: "+name, func(t *testing.T) {
			g := startGate(t, policies, func(o *Options) { o.Binder, o.GID = &fakeBinder{err: errors.New("the map is full")}, os.Getgid() })
			status, answer := do(t, g.client(t), "POST", "/containers/create", `{"Image":"app","User":"1000"}`)
			if status != 500 || !strings.Contains(answer, "the map is full") || !strings.Contains(answer, "belay status") {
				t.Errorf("got %d %s", status, answer)
			}
			sent := g.d.requests()
			if last := sent[len(sent)-1]; last.method != "DELETE" || last.uri != "/containers/"+idWeb+"?force=1&v=1" {
				t.Errorf("the daemon got last %+v", last)
			}
			if g.counter("gate_bind_failed") != 1 || g.counter("gate_bind_left") != 0 {
				t.Error("it is not counted")
			}
		})
	}
	t.Run("no policy binds labels only", func(t *testing.T) {
		b := &fakeBinder{}
		g := startGate(t, "", func(o *Options) { o.Binder = b })
		do(t, g.client(t), "POST", "/containers/create", `{"Image":"app","User":"0"}`)
		if n := b.bound[idWeb]; n.Owed || len(n.Runtime) != 0 || n.Set[policy.OwnerLabel] != me() {
			t.Errorf("bound %+v", n)
		}
	})
}

// A container that owes a binding and has none does not start through the gate.
func TestUnboundStart(t *testing.T) {
	for _, d := range []struct {
		name, owed string
		bound      bool
		want       int
	}{
		{"owes and has none", "exec.asRoot", false, 409},
		{"owes and has one", "exec.asRoot", true, 204},
		{"owes nothing", "none", false, 204},
		{"made elsewhere", "", false, 204},
	} {
		t.Run(d.name, func(t *testing.T) {
			b := &fakeBinder{}
			if d.bound {
				b.bound = map[string]Binding{idWeb: {}}
			}
			g := startGate(t, strings.ReplaceAll(bothDoors, "MODE", "enforce"), func(o *Options) { o.Binder = b })
			g.d.owed = d.owed
			for _, path := range []string{"/containers/web/start", "/containers/" + idWeb + "/restart"} {
				if status, answer := do(t, g.client(t), "POST", path, ""); status != d.want {
					t.Errorf("%s: got %d %s", path, status, answer)
				}
			}
			if want := map[int]uint64{409: 2}[d.want]; g.counter("gate_unbound") != want {
				t.Errorf("counted %d", g.counter("gate_unbound"))
			}
		})
	}
}

// One that could neither be bound nor removed does not start either, though nothing is owed.
func TestLeftover(t *testing.T) {
	g := startGate(t, strings.ReplaceAll(bothDoors, "MODE", "audit"), func(o *Options) { o.Binder, o.GID = &fakeBinder{err: errors.New("full")}, os.Getgid() })
	g.d.owed, g.d.stays = "none", true
	c := g.client(t)
	if status, answer := do(t, c, "POST", "/containers/web/start", ""); status != 204 {
		t.Fatalf("before: got %d %s", status, answer)
	}
	if status, answer := do(t, c, "POST", "/containers/create", `{"Image":"app","User":"1000"}`); status != 500 || !strings.Contains(answer, "still there") {
		t.Errorf("create: got %d %s", status, answer)
	}
	if status, answer := do(t, c, "POST", "/containers/web/start", ""); status != 409 {
		t.Errorf("start: got %d %s", status, answer)
	}
	if g.counter("gate_bind_left") != 1 || g.counter("gate_unbound") != 1 {
		t.Error("it is not counted")
	}
	var l leftovers
	for i := range 3 * maxLeft {
		l.add(fmt.Sprint(i))
	}
	if len(l.ids) > maxLeft || !l.has(fmt.Sprint(3*maxLeft-1)) {
		t.Errorf("%d are kept", len(l.ids))
	}
}

func TestCreatedID(t *testing.T) {
	for body, want := range map[string]string{
		`{"Id":"` + idWeb + `","Warnings":[]}`:       idWeb,
		`{"Warnings":["{"],"Id":"` + idDB + `"}`:     idDB,
		`{"Id":"` + idWeb + `","Id":"` + idDB + `"}`: "",
		`{"Id":"abc"}`: "",
		`{}`:           "",
		`[]`:           "",
		``:             "",
		`{"Id":1}`:     "",
	} {
		if id, err := createdID([]byte(body)); id != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v", body, id, err)
		}
	}
}
