package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/workload"
)

// gateBinding is what the gate made of a create, as the state directory keeps it: one file
// a container, from before its client hears of it until the runtime destroys it.
type gateBinding struct {
	ID       ident.ContainerID `json:"id"`
	Time     time.Time         `json:"time"`
	Owner    string            `json:"owner"`
	Name     string            `json:"name,omitempty"`
	Image    string            `json:"image,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"` // the request's own; in memory only until they are kept
	Set      map[string]string `json:"set,omitempty"`    // the gate's
	Policies []keptPolicy      `json:"policies,omitempty"`

	runtime []*policy.RuntimePolicy // of Policies
}

type keptPolicy struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Text string `json:"text"` // canonical
}

// maxBindingFile bounds one file: a create's labels are at most a body of 4 MiB.
const maxBindingFile = 16 << 20

// maxBindings bounds the records, and with them memory, files and what a start of the agent
// reads: more containers than a host can have. A create beyond it is refused.
const maxBindings = 1 << 15

// maxUnsynced bounds the names of records that are not on the disk yet; beyond it the whole
// folder's are synced.
const maxUnsynced = 4096

// unlistedFor is how long a binding waits for the runtime to know its container: a listing
// may have been taken just before the container was made.
const unlistedFor = 10 * time.Minute

// Bind implements [proxy.Binder].
func (b *binder) Bind(n *proxy.Binding) error {
	id, err := ident.ParseContainerID(n.ID)
	if err != nil {
		return err
	}
	g := &gateBinding{
		ID: id, Time: n.Time, Owner: n.Owner, Name: n.Name, Image: n.Image, Labels: maps.Clone(n.Labels), Set: maps.Clone(n.Set),
		runtime: slices.Clone(n.Runtime),
	}
	for _, rp := range n.Runtime {
		g.Policies = append(g.Policies, keptPolicy{rp.File, rp.Line, string(rp.Canonical())})
	}
	if err := b.bindGate(g); err != nil {
		b.a.noteBinding(g, "not bound at create by the gate: "+err.Error())
		return err
	}
	if len(g.runtime) > 0 {
		b.a.noteBinding(g, "bound at create by the gate: "+strings.Join(g.texts(), "; "))
	}
	return nil
}

func (b *binder) bindGate(g *gateBinding) error {
	raw, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("keep the binding: %w", err)
	}
	b.mu.Lock()
	if len(b.gate) >= b.most {
		b.mu.Unlock()
		b.a.health.Counter("bindings_full").Add(1)
		return fmt.Errorf("there are records of %d containers already, which is the most; fix: remove containers", b.most)
	}
	b.gate[g.ID] = g
	err = b.bindKnown(g.ID)
	b.mu.Unlock()
	if err == nil {
		err = b.keepGate(g.ID, raw)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	g.Labels = nil // the file has them; a body's worth of them for each container is too much to hold
	if err == nil && b.gate[g.ID] == nil {
		_ = os.Remove(b.gateFile(g.ID)) // the container was destroyed meanwhile
		return nil
	}
	if err != nil {
		delete(b.gate, g.ID)
		_ = b.bindKnown(g.ID) // without what is its own it is as one that another door let in
		if _, ok := b.registry.Get(g.ID); !ok {
			b.late.forget(g.ID)
			delete(b.names, g.ID)
		}
	}
	return err
}

// bindKnown binds a container by all that is known of it, which may be its gate's record
// alone. b.mu is held.
func (b *binder) bindKnown(id ident.ContainerID) error {
	if c, ok := b.registry.Get(id); ok {
		return b.bind(c)
	}
	g := b.gate[id]
	if g == nil {
		return b.a.kernel.Unbind(id)
	}
	labels := g.Labels
	if labels == nil {
		kept, err := readBinding(b.gateFile(id))
		if err != nil {
			return err // it keeps the policy that it has
		}
		labels = kept.Labels
	}
	// Of the image only its name is known: nothing loosens by it.
	return b.bind(workload.Container{ID: id, Name: strings.TrimPrefix(g.Name, "/"), Image: g.Image, Labels: labels})
}

// Bound implements [proxy.Binder].
func (b *binder) Bound(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gate[ident.ContainerID(id)] != nil
}

// own returns the rules that hold for one container alone, by the gate's record or, where
// that is lost, by the label which says that there was one. b.mu is held.
func (b *binder) own(c workload.Container) []*policy.RuntimePolicy {
	if g := b.gate[c.ID]; g != nil {
		return g.runtime
	}
	if rp := policy.RuntimeOwed(c.Labels[policy.BindingLabel]); rp != nil {
		return []*policy.RuntimePolicy{rp}
	}
	return nil
}

// labels returns the labels by which policies may select a container: those of the gate's
// prefix by its own record, whatever the runtime says. b.mu is held.
func (b *binder) labels(c workload.Container) map[string]string {
	out := clientLabels(c.Labels)
	if g := b.gate[c.ID]; g != nil {
		maps.Copy(out, g.Set)
	}
	return out
}

// trustedLabels is labels for other parts of the agent.
func (b *binder) trustedLabels(c workload.Container) map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.labels(c)
}

func (b *binder) gateFile(id ident.ContainerID) string {
	return filepath.Join(b.a.cfg.bindingsDir(), string(id)+".json")
}

func (b *binder) keepGate(id ident.ContainerID, raw []byte) error {
	if err := atomicfile.WriteFileUnsynced(b.gateFile(id), raw, 0o600); err != nil {
		return fmt.Errorf("keep the binding: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notSynced(filepath.Base(b.gateFile(id)))
	return nil
}

// notSynced notes records that are to be put on the disk. b.mu is held.
func (b *binder) notSynced(names ...string) {
	if b.unsynced = append(b.unsynced, names...); len(b.unsynced) > maxUnsynced {
		b.unsynced, b.syncAll = nil, true
	}
}

// syncGate puts new records of the gate on the disk. No create waits for it: where power is
// lost before, the container has what its label owes, and does not start through the gate.
func (b *binder) syncGate() error {
	b.mu.Lock()
	names, all := b.unsynced, b.syncAll
	b.unsynced, b.syncAll = nil, false
	b.mu.Unlock()
	if len(names) == 0 && !all {
		return nil
	}
	dir := b.a.cfg.bindingsDir()
	var err error
	if all {
		names, err = namesIn(dir)
	}
	if err == nil {
		err = atomicfile.Sync(dir, names)
	}
	if err != nil {
		b.mu.Lock()
		b.notSynced(names...)
		b.syncAll = b.syncAll || all
		b.mu.Unlock()
		return fmt.Errorf("keep the bindings: %w", err)
	}
	return nil
}

func namesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// dropGate forgets the gate's record of a container that is destroyed. b.mu is held.
func (b *binder) dropGate(id ident.ContainerID) {
	if b.gate[id] == nil {
		return
	}
	delete(b.gate, id)
	if err := os.Remove(b.gateFile(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.a.log.Warn("the record of a binding is not removed", attr.ContainerID, string(id), attr.Error, err.Error())
	}
}

// recallGate reads what the gate bound under earlier agents. A record that cannot be read, or
// is beyond the bound, is left where it is and counted: its container has the rules of its
// label, and does not start through the gate.
func (b *binder) recallGate() error {
	dir := b.a.cfg.bindingsDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("bindings of the gate: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("bindings of the gate: %w", err)
	}
	var errs []error
	for _, e := range entries {
		id, err := ident.ParseContainerID(strings.TrimSuffix(e.Name(), ".json"))
		if err != nil {
			_ = os.Remove(filepath.Join(dir, e.Name())) // half written by an agent that was killed
			continue
		}
		g, err := readBinding(b.gateFile(id))
		if err == nil && g.ID != id {
			err = fmt.Errorf("%s: it is of container %s", e.Name(), g.ID.Short())
		}
		if err == nil && len(b.gate) >= b.most {
			err = fmt.Errorf("%s: there are records of %d other containers, which is the most", e.Name(), b.most)
		}
		if err != nil {
			b.a.health.Counter("bindings_unreadable").Add(1)
			errs = append(errs, err)
			continue
		}
		g.Labels = nil // see bindGate
		b.gate[id] = g
	}
	if len(errs) > 10 {
		errs = append(errs[:10], fmt.Errorf("and %d more", len(errs)-10))
	}
	return errors.Join(errs...)
}

func readBinding(file string) (*gateBinding, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return nil, fmt.Errorf("binding of the gate: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxBindingFile {
		return nil, fmt.Errorf("binding of the gate: %s is no record of one", file)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("binding of the gate: %w", err)
	}
	g := new(gateBinding)
	if err := json.Unmarshal(raw, g); err != nil {
		return nil, fmt.Errorf("binding of the gate in %s: %w", file, err)
	}
	for _, p := range g.Policies {
		rp, err := policy.RestoreRuntime(p.File, p.Line, []byte(p.Text))
		if err != nil {
			return nil, fmt.Errorf("binding of the gate in %s: %w", file, err)
		}
		g.runtime = append(g.runtime, rp)
	}
	return g, nil
}

// bindUnlisted binds the containers that the gate made and no runtime has told of yet.
// b.mu is held.
func (b *binder) bindUnlisted() []error {
	var errs []error
	for id := range b.gate {
		if _, ok := b.registry.Get(id); !ok {
			errs = append(errs, b.bindKnown(id))
		}
	}
	return errs
}

// forgetUnlisted drops the records of containers that were destroyed while no agent ran.
// All runtimes have told what they hold. b.mu is held.
func (b *binder) forgetUnlisted() {
	for id, g := range b.gate {
		if _, ok := b.registry.Get(id); ok || time.Since(g.Time) < unlistedFor {
			continue
		}
		b.dropGate(id)
		if err := b.a.kernel.Unbind(id); err != nil {
			b.a.log.Warn("binding not removed", attr.ContainerID, string(id), attr.Error, err.Error())
		}
	}
}

// texts says of each policy what it binds: "developers: exec.asRoot".
func (g *gateBinding) texts() []string {
	var out []string
	for _, rp := range g.runtime {
		out = append(out, rp.Name+" ("+rp.Spec.Mode.String()+"): "+denies(rp))
	}
	return out
}

func denies(rp *policy.RuntimePolicy) string {
	var rules []string
	for _, r := range rp.Denies() {
		rules = append(rules, r.String())
	}
	return strings.Join(rules, ", ")
}

// binding describes the gate's record for an answer; nil: there is none.
func (b *binder) binding(id ident.ContainerID) *control.Binding {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.gate[id]; g != nil {
		return &control.Binding{Time: g.Time, Owner: g.Owner, Rules: g.texts(), Labels: maps.Clone(g.Set)}
	}
	if c, ok := b.registry.Get(id); ok && len(b.own(c)) > 0 {
		return &control.Binding{Lost: true, Rules: []string{denies(b.own(c)[0])}}
	}
	return nil
}

// noteBinding puts into the journal what became of a binding.
func (a *Agent) noteBinding(g *gateBinding, message string) {
	a.journal.Append(&journal.Record{
		BootID: a.host.BootID, Host: a.host.Hostname, Time: time.Now(), Kind: journal.KindAgent, Message: message,
		Container: &journal.Container{ID: g.ID, Name: strings.TrimPrefix(g.Name, "/"), Image: g.Image, Class: "container"},
	})
}

var _ proxy.Binder = (*binder)(nil)
