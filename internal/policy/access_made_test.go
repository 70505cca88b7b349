package policy

import (
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

// A create that names a volume, a network or a container besides is still about what it makes: rules
// on what may be made were passed by any -v or --network.
func TestWhatIsMadeIsAlwaysJudged(t *testing.T) {
	along := map[string][]apicall.Resource{
		"nothing else":    nil,
		"a new volume":    {{Kind: apicall.ResourceVolume, Asked: "data"}},
		"an own volume":   {{Kind: apicall.ResourceVolume, Asked: "v", ID: "v", Names: []string{"v"}, Owner: "uid:1000", Labels: map[string]string{"team": "web"}}},
		"a network":       {{Kind: apicall.ResourceNetwork, Asked: "shop", ID: "n1", Names: []string{"shop"}, Owner: "uid:1000", Labels: map[string]string{"team": "web"}}},
		"own container":   {mine},
		"its own name":    {{Kind: apicall.ResourceContainer, Asked: "prod-1", ID: "id-mine", Names: []string{"/alice-web"}, Owner: "uid:1000", Labels: mine.Labels, Image: "good/app"}},
		"volume, network": {{Kind: apicall.ResourceVolume, Asked: "data"}, {Kind: apicall.ResourceNetwork, Asked: "shop", ID: "n1", Names: []string{"shop"}, Owner: "uid:1000"}},
	}
	facts := apicall.Facts{Name: "prod-1", Image: "app", Labels: map[string]string{"team": "db"}}
	const all = `[{name: all, effect: allow, actions: ["*.create"]}, `
	for name, rules := range map[string]string{
		"allow images":      `[{effect: allow, actions: ["*.create"], resources: {images: ["good/**"]}}]`,
		"allow names":       `[{effect: allow, actions: ["*.create"], resources: {names: ["ci-*", data, v, shop, "alice-*"]}}]`,
		"allow labels":      `[{effect: allow, actions: ["*.create"], resources: {labels: {team: web}}}]`,
		"allow namespaces":  `[{effect: allow, actions: ["*.create"], resources: {namespaces: [shop]}}]`,
		"allow kinds":       `[{effect: allow, actions: ["*.create"], resources: {kinds: [volume, network]}}]`,
		"forbid images":     all + `{effect: forbid, actions: ["*.create"], resources: {images: [app]}}]`,
		"forbid names":      all + `{effect: forbid, actions: ["*.create"], resources: {names: ["prod-*"]}}]`,
		"forbid labels":     all + `{effect: forbid, actions: ["*.create"], resources: {labels: {team: db}}}]`,
		"forbid containers": all + `{effect: forbid, actions: ["*.create"], resources: {kinds: [container, service]}}]`,
	} {
		s := accessSet(t, access("p", forAlice+"  rules: "+rules+"\n"))
		for what, res := range along {
			for _, action := range []string{"container.create", "service.create"} {
				if d := s.Decide(&apicall.Call{Subject: alice, Action: action, Resources: res, Facts: facts}, at); d.Allowed {
					t.Errorf("%s: %s with %s: got %+v, want denied", name, action, what, d)
				}
			}
		}
	}
	// What such rules are for goes on.
	facts = apicall.Facts{Name: "ci-1", Image: "good/app", Labels: map[string]string{"team": "web"}}
	for _, resources := range []string{`images: ["good/**"]`, `names: ["ci-*", "alice-*"]`, `labels: {team: web}`, `own: true`, `kinds: [container]`} {
		s := accessSet(t, access("p", forAlice+"  rules: [{effect: allow, actions: [container.create], resources: {"+resources+"}}]\n"))
		for _, what := range []string{"nothing else", "a new volume", "an own volume", "a network"} {
			if d := s.Decide(&apicall.Call{Subject: alice, Action: "container.create", Resources: along[what], Facts: facts}, at); !d.Allowed {
				t.Errorf("%s, with %s: got %+v, want allowed", resources, what, d)
			}
		}
	}
}

// A container that a create joins is there already: one that is not there yet will be somebody's.
func TestWhatACreateJoinsIsNotNew(t *testing.T) {
	s := accessSet(t, access("p", forAlice+`  rules: [{effect: allow, actions: ["*.create"], resources: {own: true}}]`+"\n"))
	for action, kind := range map[string]apicall.ResourceKind{"container.create": apicall.ResourceContainer, "network.create": apicall.ResourceNetwork} {
		call := &apicall.Call{Subject: alice, Action: action, Resources: []apicall.Resource{{Kind: kind, Asked: "ghost"}}, Facts: apicall.Facts{Name: "ghost"}}
		if d := s.Decide(call, at); d.Allowed {
			t.Errorf("%s: got %+v, want denied", action, d)
		}
	}
}
