package kernel

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// judged decides about an image of one registry under a policy that wants another.
func judged(t *testing.T, mode, registry string) policy.ImageDecision {
	t.Helper()
	docs, err := policy.ParseAll("image.yaml", []byte("apiVersion: belay.dev/v1\nkind: ImagePolicy\nmetadata: {name: images}\nspec:\n"+
		"  mode: "+mode+"\n  registries: [good.example/**]\n"))
	if err != nil {
		t.Fatal(err)
	}
	set, err := docs.Set()
	if err != nil {
		t.Fatal(err)
	}
	return set.Images().Decide(&policy.Image{ID: looseDigest, Digests: []string{registry + "/app@" + looseDigest}}, time.Now())
}

// What an image policy denies is worth this in the kernel: no program of the container is executed,
// the first one neither, whatever it is, and whoever starts it. Audited, and of an image that may
// start, the same container runs, and nothing of it is recorded.
func TestImageDenial(t *testing.T) {
	h := get(t)
	h.enact(t, document("none", "audit", nothing))
	const denied, would, allowed = "denied", "would_deny", "allowed"
	for _, c := range []struct {
		name, mode, registry, word string
	}{
		{"enforce", "enforce", "evil.example", denied},
		{"audit", "audit", "evil.example", would},
		{"of a good registry", "enforce", "good.example", allowed},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := judged(t, c.mode, c.registry)
			if d.Word() != c.word {
				t.Fatalf("decided %s, want %s: %+v", d.Word(), c.word, d)
			}
			for _, start := range []struct {
				name    string
				flags   []string
				command []string
			}{
				{"a static program", asUser, []string{"/bin/id"}},
				{"a dynamic program", asUser, []string{"/bin/dyn-id"}},
				{"a shell", asUser, []string{"/bin/sh", "-c", "exec /bin/id"}},
				{"as root", []string{"--uid", "0"}, []string{"/bin/id"}},
				{"with capabilities", asAdmin, []string{"/bin/id"}},
				{"born in its cgroup", slices.Concat(asUser, []string{"--clone-into-cgroup"}), []string{"/bin/id"}},
			} {
				t.Run(start.name, func(t *testing.T) {
					id := newID()
					var own []*policy.RuntimePolicy
					if rp := d.Runtime(); rp != nil {
						own = append(own, rp)
					}
					eff := mustPolicies(document("none", "audit", nothing)).EffectiveWith(policy.Subject{ID: ident.ContainerID(id), Known: true}, own)
					if err := h.kernel.Bind(ident.ContainerID(id), eff); err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() {
						if err := h.kernel.Unbind(ident.ContainerID(id)); err != nil {
							t.Error(err)
						}
					})
					r := h.run(t, slices.Concat([]string{"--id", id}, start.flags), start.command...)
					r.id = id
					if c.word != denied {
						ran(t, r)
						if !strings.Contains(r.out, "uid=") {
							t.Errorf("it ran and said %q", r.out)
						}
						h.none(t, id)
						return
					}
					if r.code == 0 || strings.Contains(r.out, "uid=") {
						t.Fatalf("it RAN: %v", r)
					}
					evs := h.take(id, verdict.RulePathDeny)
					want := verdict.Denied
					if h.kernel.Backend() == verdict.BackendSignal {
						want = verdict.Killed
					}
					if len(evs) == 0 || evs[0].Decision != want {
						t.Errorf("want a record that is %s, got %+v", want, evs)
					}
				})
			}
		})
	}
}
