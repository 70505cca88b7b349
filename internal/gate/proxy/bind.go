package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/policy"
)

// Binder puts on new containers what their creates were worth. Its methods are called from
// many goroutines.
type Binder interface {
	// Bind returns nil once what b says holds in the kernel and will hold after a restart
	// of whoever keeps it. It must not keep b. On an error nothing of b holds.
	Bind(b *Binding) error
	// Bound tells whether a container was bound and has not been destroyed since.
	Bound(id string) bool
}

// Binding is a container that the gate has just had made.
type Binding struct {
	ID    string // 64 hexadecimal digits
	Time  time.Time
	Owner string // of who asked: policy.Owner
	// Name and Image are as the request has them, Labels its own without the gate's.
	Name, Image string
	Labels      map[string]string
	// Set holds the labels of the gate's own prefix: nobody else can have put them there.
	Set map[string]string
	// Runtime is what the request's checks are worth in the kernel, and Owed whether the
	// container may start only with it.
	Runtime []*policy.RuntimePolicy
	Owed    bool
}

// createdBytes bounds the daemon's answer to a create: an id and warnings.
const createdBytes = 1 << 20

// owe finds out what the request's checks are worth in the kernel, and marks what it makes
// as owing that: it does not start without, even where the gate ends before it has bound it.
func (x *exchange) owe() {
	if x.rules == nil || x.c.s.o.Binder == nil || x.req.Call.Action != "container.create" {
		return
	}
	x.own = x.rules.RuntimeFor(&x.req.Call, x.start)
	x.owed = policy.Owed(x.own)
}

// mark sets the labels that say what image was judged and what is owed. It comes after the
// obligations, which have no say in them, and goes over what an image may have under these names.
func (x *exchange) mark() error {
	if x.req.Call.Action != "container.create" {
		return nil
	}
	if digest := x.req.Call.Facts.ImageDigest; digest != "" {
		if err := x.req.SetLabel(policy.ImageLabel, digest); err != nil {
			return err
		}
	}
	if x.c.s.o.Binder == nil {
		return nil
	}
	owed := x.owed
	if owed == "" {
		owed = nothingOwed
	}
	return x.req.SetLabel(policy.BindingLabel, owed)
}

// nothingOwed is the value of the label on containers that may start without a binding.
const nothingOwed = "none"

// owes tells whether a container with these labels may not start without a binding.
func owes(labels map[string]string) bool {
	v := labels[policy.BindingLabel]
	return v != "" && v != nothingOwed
}

// unbound refuses the start of a container that owes a binding and has none.
func (x *exchange) unbound(f *found) *refusal {
	s := x.c.s
	if s.o.Binder == nil || !owes(f.Labels) && !s.left.has(f.ID) || s.o.Binder.Bound(f.ID) {
		return nil
	}
	s.counts.unbound.Add(1)
	return &refusal{status: http.StatusConflict, cause: "unbound",
		msg: "belay: the container was created under checks that the kernel is to hold, and they are not bound to it; create it again"}
}

// leftovers are containers that could neither be bound nor removed. The zero value has none.
type leftovers struct {
	// mu guards ids.
	mu  sync.Mutex
	ids map[string]bool
}

// maxLeft bounds them: each took a daemon that made a container and would not remove it. The
// agent is degraded long before.
const maxLeft = 4096

func (l *leftovers) add(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ids == nil || len(l.ids) >= maxLeft {
		l.ids = map[string]bool{}
	}
	l.ids[id] = true
}

func (l *leftovers) has(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ids[id]
}

// makes tells whether the call makes a container that has to be known as the gate's.
func (x *exchange) makes() bool {
	return x.c.s.o.Binder != nil && x.req.Call.Action == "container.create"
}

// created tells whether the answer says that a container was made.
func (x *exchange) created() bool {
	return x.resp.Status == http.StatusCreated && x.req.Call.Action == "container.create" && x.match.Route.Method == http.MethodPost
}

// passCreated binds the container that was made, and only then tells the client of it.
func (x *exchange) passCreated() (keep bool) {
	c, b := x.c, x.b
	head := append([]byte(nil), x.resp.Raw...)
	framing := x.resp.Framing
	b.r.Consume(len(head))
	body, err := readBody(&b.r, framing, createdBytes)
	x.unwatch()
	if err == nil && (framing.Chunked || framing.Length >= 0) && !x.resp.Close && !c.gone {
		c.s.up.put(b)
	} else {
		b.nc.Close()
	}
	if err != nil {
		err = fmt.Errorf("read the daemon's answer: %w", err)
	} else {
		err = x.bind(body)
	}
	if err != nil {
		c.s.o.Log.Error("a new container is not bound", attr.Error, err.Error())
		x.ev.Decision = Denied
		return x.deny(&refusal{status: http.StatusInternalServerError, cause: "not_bound",
			msg: "belay: the container could not be bound to its policies, so it was not kept; belay status says what is wrong: " + err.Error()})
	}
	x.count(x.resp.Status)
	x.resp.Raw = head
	c.out = x.resp.AppendHead(c.out[:0], false, string(appendLength(nil, int64(len(body)))))
	c.out = append(c.out, body...)
	_, err = c.nc.Write(c.out)
	return err == nil && !c.gone
}

// bind reads the container's id in the daemon's answer and binds the container. If that
// fails the container is removed again, whatever it is owed: without a record it has none of
// the labels that only the gate sets, and no policy that selects by them would hold in it.
// Where it cannot be removed it does not start through the gate: by its label if something is
// owed, else for as long as this gate runs.
func (x *exchange) bind(body []byte) error {
	s := x.c.s
	id, err := createdID(body)
	if s.o.Binder == nil && err != nil {
		s.o.Log.Warn("a new container is not known", attr.Error, err.Error())
		return nil // nothing would be bound
	}
	if err == nil {
		x.ev.IDs = append(x.ev.IDs, id)
		if s.o.Binder == nil {
			return nil
		}
		err = s.o.Binder.Bind(x.binding(id))
	}
	if err == nil {
		if len(x.own) > 0 {
			s.counts.bound.Add(1)
		}
		return nil
	}
	s.counts.bindErrors.Add(1)
	if id == "" {
		s.counts.unremoved.Add(1)
		return err
	}
	ctx, cancel := x.lookup()
	defer cancel()
	status, _, rerr := s.up.do(ctx, http.MethodDelete, "/containers/"+id+"?force=1&v=1", createdBytes)
	if rerr == nil && status != http.StatusNoContent && status != http.StatusNotFound {
		rerr = fmt.Errorf("status %d", status)
	}
	if rerr != nil {
		s.counts.unremoved.Add(1)
		s.left.add(id)
		return errors.Join(err, fmt.Errorf("and the container is still there: %w", rerr))
	}
	return err
}

func (x *exchange) binding(id string) *Binding {
	f := &x.req.Call.Facts
	b := &Binding{
		ID: id, Time: x.start, Owner: policy.Owner(&x.c.sub), Name: f.Name, Image: f.Image,
		Labels: map[string]string{}, Set: map[string]string{}, Runtime: x.own, Owed: x.owed != "",
	}
	for k, v := range f.Labels {
		if policy.IsReserved(k) {
			b.Set[k] = v
		} else {
			b.Labels[k] = v
		}
	}
	return b
}

// createdID returns the id in the answer to a create.
func createdID(body []byte) (id string, err error) {
	err = eachMember(body, func(name, v []byte) error {
		if string(name) != `"Id"` {
			return nil
		}
		if id != "" {
			return errJSON
		}
		var err error
		id, err = text(v)
		return err
	})
	if err == nil && !isID(id) {
		err = errors.New("it names no container")
	}
	if err != nil {
		return "", fmt.Errorf("the daemon's answer to a create: %w", err)
	}
	return id, nil
}
