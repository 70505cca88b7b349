package accept

import (
	"maps"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

func TestRule(t *testing.T) {
	f := vulndb.Finding{IDs: []string{"CVE-2024-1", "GHSA-1"}, Severity: vulndb.SeverityHigh, Score: 7.5, EPSS: 0.3, State: vulndb.StateFixed, Fixed: "2"}
	p := inventory.Package{Kind: "npm", Name: "a", Version: "1", Path: "app/node_modules/a/package.json"}
	for text, want := range map[string]bool{
		"high": true, "HIGH": true, "moderate": true, "critical": false, "severity >= high && fixable": true, "severity == medium": false,
		"exploited || epss > 0.2": true, "epss >= 1": false, "'CVE-2024-1' in ids": true, "state == 'will-not-fix'": false, "score > 7": true,
		"kind == 'npm' && path.startsWith('app/')": true, "rated && layer == 0": true, "!fromBase": true, "claimedBase": false, "ids.exists(i, i.startsWith('GHSA-'))": true,
	} {
		r, err := Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := r.Fails(&f, &p); err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	unrated, subscription := f, f
	unrated.Severity, subscription.State = vulndb.SeverityUnknown, vulndb.StateSubscription
	high, err := Compile("high")
	if err != nil {
		t.Fatal(err)
	}
	if yes, err := high.Fails(&unrated, &p); err != nil || !yes {
		t.Errorf("what nobody has rated passes: %v", err)
	}
	fixable, err := Compile("fixable")
	if err != nil {
		t.Fatal(err)
	}
	if yes, err := fixable.Fails(&subscription, &p); err != nil || yes {
		t.Errorf("a fix for subscribers counts as one: %v", err)
	}
	for _, text := range []string{"", "unknown", "awful", "severity", "severity >= 'high'", "severity >=", "name.matches('(')", "1 == 1 && " + strings.Repeat("x", 5000)} {
		if _, err := Compile(text); err == nil {
			t.Errorf("%.40q was taken", text)
		}
	}
}

// TestRuleUse: what was seen decides; what nobody has seen counts as in use.
func TestRuleUse(t *testing.T) {
	p := inventory.Package{Kind: "deb", Name: "a", Version: "1"}
	reachable := inventory.Use{State: inventory.InUse, SocketsKnown: true, PortsKnown: true, Listening: []string{"tcp 0.0.0.0:1"}, Reachable: []string{"tcp 0.0.0.0:1->1"}}
	for _, tt := range []struct {
		name string
		use  *inventory.Use
		want string // of inUse, listening, reachable, useKnown
	}{
		{"nobody looked", nil, "1110"},
		{"unknown", &inventory.Use{State: inventory.UseUnknown, Looks: 3}, "1110"},
		{"not seen", &inventory.Use{State: inventory.NotSeen}, "0001"},
		{"in use", &inventory.Use{State: inventory.InUse, SocketsKnown: true, PortsKnown: true}, "1001"},
		{"in use, sockets unread", &inventory.Use{State: inventory.InUse}, "1111"},
		{"listening, ports unknown", &inventory.Use{State: inventory.InUse, SocketsKnown: true, Listening: reachable.Listening}, "1111"},
		{"listening, nothing published", &inventory.Use{State: inventory.InUse, SocketsKnown: true, PortsKnown: true, Listening: reachable.Listening}, "1101"},
		{"reachable", &reachable, "1111"},
	} {
		got := ""
		for _, word := range []string{"inUse", "listening", "reachable", "useKnown"} {
			r, err := Compile(word + " && severity >= high")
			if err != nil {
				t.Fatal(err)
			}
			yes, err := r.Fails(&vulndb.Finding{IDs: []string{"CVE-1"}, Severity: vulndb.SeverityHigh, Use: tt.use}, &p)
			if err != nil {
				t.Fatal(err)
			}
			got += map[bool]string{true: "1", false: "0"}[yes]
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
	r, err := Compile("inUse || misconfiguration == 'x'")
	if err != nil {
		t.Fatal(err)
	}
	if yes, err := r.FailsConfig(&inventory.Misconfiguration{ID: "root-user"}); err != nil || yes {
		t.Errorf("a configuration is in use: %v", err)
	}
}

// TestRuleCost: an expression that breaks or costs too much is an error, not a pass.
func TestRuleCost(t *testing.T) {
	f := vulndb.Finding{IDs: make([]string, 300)}
	for i := range f.IDs {
		f.IDs[i] = "CVE-2024-1"
	}
	for _, text := range []string{"ids.exists(a, ids.exists(b, ids.exists(c, c == 'x')))", "ids[5000] == 'x'"} {
		r, err := Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Fails(&f, &inventory.Package{}); err == nil {
			t.Errorf("%s: got %v and no error", text, got)
		}
	}
}

func TestIgnoresStrict(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "a list": "- id: x", "another name": "ignores: []", "two names": "ignore: []\nmore: 1", "no reason": "ignore:\n- id: x",
		"empty reason": "ignore:\n- id: x\n  reason: ' '", "twice": "ignore:\n- id: x\n  id: y\n  reason: z", "a day": "ignore:\n- id: x\n  reason: y\n  expires: tomorrow",
		"an alias": "ignore:\n- &a {id: x, reason: y}\n- *a", "a list as text": "ignore:\n- id: [x]\n  reason: y", "null": "ignore:\n- id: null\n  reason: y", "cut off": "ignore:\n- id: [", "two documents": "ignore: []\n---\nignore: []\n",
	} {
		if _, err := ParseIgnores("f", []byte(text)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, text string
		want          bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"*b", "ab", true}, {"a*a", "a", false}, {"*x*", "axb", true}, {"*", "", true},
		{"pkg:npm/*/b@*", "pkg:npm/%40s/b@1", true}, {"a*b*c", "abc", true}, {"a*bb*c", "abc", false},
	} {
		if got := glob(tt.pattern, tt.text); got != tt.want {
			t.Errorf("glob(%q, %q) = %v", tt.pattern, tt.text, got)
		}
	}
}

func TestBaselineBroken(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "another": "{}", "not matched": `{"schema":"belay.dev/scan/v1","findings":[]}`,
		"no such package": `{"schema":"belay.dev/scan/v1","database":{},"findings":[{"package":3,"ids":["x"]}]}`,
	} {
		if _, err := ParseBaseline([]byte(text)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzIgnores(f *testing.F) {
	f.Add([]byte("ignore:\n- id: CVE-2024-1\n  package: a*\n  expires: 2027-01-01\n  reason: x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseIgnores("f", b)
		if err != nil {
			return
		}
		for _, ig := range g.list {
			if ig.ID == "" || ig.Reason == "" {
				t.Errorf("%+v", ig)
			}
		}
	})
}

func TestReduce(t *testing.T) {
	text := `{"schema":"belay.dev/scan/v1","database":{"records":1},"notes":[1],"findings":[{"package":1,"ids":["A"],"summary":"x"}],
		"inventory":{"layers":[],"packages":[{"kind":"deb","name":"unused","path":"p"},{"kind":"deb","name":"zlib","version":"1","path":"q"}]}}`
	b, err := Reduce([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"schema":"belay.dev/scan/v1","database":{},"findings":[{"package":0,"ids":["A"]}],"inventory":{"packages":[{"kind":"deb","name":"zlib","path":"q"}]}}`
	if string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}
	whole, err := ParseBaseline([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	part, err := ParseBaseline(b)
	if err != nil || !maps.Equal(whole.known, part.known) {
		t.Errorf("got %v, %v, want %v", part, err, whole)
	}
}

func TestBaselineIsBounded(t *testing.T) {
	text := `{"schema":"belay.dev/scan/v1","database":{},"findings":[],"inventory":{"packages":[` + strings.Repeat("{},", maxListed) + `{}]}}`
	if _, err := ParseBaseline([]byte(text)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v, want a refusal", err)
	}
}
