package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/health"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

func document(name, spec string) string {
	return "apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: " + name + "}\nspec: {mode: enforce, " + spec + "}\n"
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func newPolicies(t *testing.T) (p *policies, file string) {
	t.Helper()
	dir := t.TempDir()
	return &policies{dir: dir, lastGood: filepath.Join(t.TempDir(), "last-good.yaml")}, filepath.Join(dir, "a.yaml")
}

// TestVanished: an empty or missing directory ends enforcement only when asked to.
func TestVanished(t *testing.T) {
	p, file := newPolicies(t)
	if err := p.load(false); err != nil {
		t.Fatalf("an empty directory at the first start: %v", err)
	}
	write(t, file, document("a", "exec: {asRoot: deny}"))
	if err := p.load(false); err != nil {
		t.Fatal(err)
	}
	p.keep()
	want := p.current().Revision()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := p.load(false); err == nil {
		t.Error("an empty directory was taken without being asked")
	}
	if got := p.current().Revision(); got != want {
		t.Errorf("in force: revision %s, want %s", got, want)
	}
	again := &policies{dir: p.dir, lastGood: p.lastGood}
	if err := again.load(false); err == nil || again.current() == nil || again.current().Revision() != want {
		t.Errorf("after a restart: error %v, want the last good policies in force", err)
	}
	if err := p.load(true); err != nil || len(p.current().Policies()) != 0 {
		t.Errorf("asked: error %v, %d policies; want none of either", err, len(p.current().Policies()))
	}
	p.dir = filepath.Join(p.dir, "gone")
	if err := again.load(true); err != nil {
		t.Errorf("asked, after a restart: %v", err)
	}
}

// TestPoliced: what alerts go by tells of a set that root has emptied, while the agent works as before.
func TestPoliced(t *testing.T) {
	p, file := newPolicies(t)
	a := &Agent{policies: p, health: health.New(nil)}
	a.health.SetOK("kernel")
	a.health.SetOK("policies")
	write(t, file, document("a", "exec: {asRoot: deny}"))
	if err := p.load(false); err != nil {
		t.Fatal(err)
	}
	if !a.policed() {
		t.Error("with a policy in force it says that none is")
	}
	a.health.SetFailed("kernel", "the canary was not denied")
	if a.policed() {
		t.Error("a denial does not work, and it says that policies are in force")
	}
	a.health.SetOK("kernel")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := p.load(true); err != nil {
		t.Fatal(err)
	}
	if ok, why := a.enforcing(); !ok || a.policed() {
		t.Errorf("nothing is left: enforcing %v (%s), policed %v; want true and false", ok, why, a.policed())
	}
	write(t, file, "apiVersion: belay.dev/v1\nkind: LoadPolicy\nmetadata: {name: full}\nspec:\n  caps: {memory: 90%}\n  actions: [alert]\n")
	if err := p.load(false); err != nil || p.current().Len() != 1 {
		t.Fatalf("%d policies, error %v", p.current().Len(), err)
	}
	if a.policed() {
		t.Error("a policy on the node's load alone denies nothing, and counts as one in force")
	}
}

// TestRefuseKeepsFormer: a policy that comes to require too much does not end what it
// enforced before.
func TestRefuseKeepsFormer(t *testing.T) {
	p, file := newPolicies(t)
	levels := map[verdict.Rule]verdict.Level{verdict.RuleAsRoot: verdict.Kill}
	for _, spec := range []string{"exec: {asRoot: deny}", "require: prevent, exec: {asRoot: deny}"} {
		write(t, file, document("a", spec))
		if err := p.load(false); err != nil {
			t.Fatal(err)
		}
		if _, err := p.refuse(levels); err != nil {
			t.Fatal(err)
		}
	}
	got := p.current().Policies()
	if len(got) != 1 || got[0].Spec.Require != verdict.Unsupported {
		t.Errorf("in force: %v, want the former revision", got)
	}
	if why := p.refused["a"]; !strings.Contains(why, "stays in force") {
		t.Errorf("refused because %q, want a word on what is in force", why)
	}
}

// TestChangedWaitsForRest: a directory that is being written is not read.
func TestChangedWaitsForRest(t *testing.T) {
	p, file := newPolicies(t)
	if err := p.load(false); err != nil {
		t.Fatal(err)
	}
	p.changed()
	text := document("a", "exec: {asRoot: deny, drift: deny}")
	for n := len(text) - 3; n < len(text); n++ {
		write(t, file, text[:n])
		if p.changed() {
			t.Fatalf("read after %d of %d bytes", n, len(text))
		}
	}
	if !p.changed() {
		t.Error("a directory at rest was not read")
	}
}

// TestAccessVanishes: AccessPolicies end only when asked to, while others stay; and
// they are among the last good policies.
func TestAccessVanishes(t *testing.T) {
	p, file := newPolicies(t)
	access := filepath.Join(p.dir, "access.yaml")
	write(t, file, document("a", "exec: {asRoot: deny}"))
	write(t, access, "apiVersion: belay.dev/v1\nkind: AccessPolicy\nmetadata: {name: b}\n"+
		"spec: {mode: enforce, subjects: {users: [root]}, rules: [{effect: allow, actions: ['*']}]}\n")
	if err := p.load(false); err != nil {
		t.Fatal(err)
	}
	p.keep()
	if err := os.Remove(access); err != nil {
		t.Fatal(err)
	}
	for _, q := range []*policies{p, {dir: p.dir, lastGood: p.lastGood}} {
		if err := q.load(false); err == nil || len(q.current().AccessPolicies()) != 1 {
			t.Errorf("error %v, %d access policies in force; want the last good one", err, len(q.current().AccessPolicies()))
		}
		if s := q.status(); len(s.Policies) != 2 || s.Policies[1].Kind != "AccessPolicy" {
			t.Errorf("status lists %+v, want both policies", s.Policies)
		}
	}
	if err := p.load(true); err != nil || len(p.current().AccessPolicies()) != 0 || len(p.current().Policies()) != 1 {
		t.Errorf("asked: error %v, want the AccessPolicy gone", err)
	}
	// A level that the host does not give is no matter of AccessPolicies.
	write(t, file, document("a", "require: prevent, exec: {asRoot: deny}"))
	write(t, access, "apiVersion: belay.dev/v1\nkind: AccessPolicy\nmetadata: {name: b}\n"+
		"spec: {mode: enforce, subjects: {users: [root]}, rules: [{effect: allow, actions: ['*']}]}\n")
	if err := p.load(false); err != nil {
		t.Fatal(err)
	}
	if _, err := p.refuse(map[verdict.Rule]verdict.Level{verdict.RuleAsRoot: verdict.Kill}); err != nil {
		t.Fatal(err)
	}
	if len(p.current().AccessPolicies()) != 1 {
		t.Error("refusing a RuntimePolicy has lost the AccessPolicies")
	}
}

// An empty set is kept and read like any other; a kept set that cannot be read is no empty one.
func TestLastGoodUnreadable(t *testing.T) {
	p, file := newPolicies(t)
	if err := p.load(false); err != nil {
		t.Fatal(err)
	}
	p.keep()
	if p.unkept != "" {
		t.Fatal(p.unkept)
	}
	again := &policies{dir: p.dir, lastGood: p.lastGood}
	if err := again.load(false); err != nil {
		t.Fatalf("nothing was in force, and nothing is: %v", err)
	}
	if err := os.WriteFile(p.lastGood, []byte("kind: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	again = &policies{dir: p.dir, lastGood: p.lastGood}
	if err := again.load(false); err == nil || !strings.Contains(err.Error(), "fix: bring the policies back") {
		t.Errorf("an empty directory after what cannot be read: %v", err)
	}
	write(t, file, web)
	again = &policies{dir: p.dir, lastGood: p.lastGood}
	if err := again.load(false); err != nil {
		t.Errorf("a directory with policies: %v", err)
	}
}

// What is too large to be read back is not kept in the place of what can be.
func TestLastGoodTooLarge(t *testing.T) {
	p, file := newPolicies(t)
	write(t, file, web)
	if err := p.load(false); err != nil {
		t.Fatal(err)
	}
	p.keep()
	for i := range 2 {
		name := fmt.Sprintf("large%d", i)
		text := strings.Replace(document(name, "exec: {asRoot: deny}"), "metadata: {", "metadata: {annotations: {note: \""+strings.Repeat("x", 3<<20)+"\"}, ", 1)
		write(t, filepath.Join(p.dir, name+".yaml"), text)
	}
	if err := p.load(false); err != nil {
		t.Fatalf("the policies are not taken in, and nothing is shown: %v", err)
	}
	p.keep()
	if p.unkept == "" {
		t.Error("what cannot be read back was kept")
	}
	if _, err := policy.ParseFiles(p.lastGood); err != nil {
		t.Errorf("the former set is gone: %v", err)
	}
}

// TestCurrentWaitsForNoLoad: who decides by the set in force does not wait while files are read.
func TestCurrentWaitsForNoLoad(t *testing.T) {
	p, _ := newPolicies(t)
	if err := p.load(false); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock() // as load and keep have it
	defer p.mu.Unlock()
	got := make(chan *policy.Set)
	go func() { got <- p.current() }()
	select {
	case set := <-got:
		if set == nil {
			t.Error("no set is in force after a load")
		}
	case <-time.After(10 * time.Second):
		t.Error("the set in force is not told while a load reads files")
	}
}
