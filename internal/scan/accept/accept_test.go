package accept

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/common/types"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// TestWordsOfPolicies: the reference of ImagePolicy tells of each word which field it is, or that there is none.
func TestWordsOfPolicies(t *testing.T) {
	src, err := os.ReadFile("../../../docs/image-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(src), "| Word of the expression |")
	table, _, _ = strings.Cut(table, "\n\n")
	fields := map[string]string{}
	for line := range strings.SplitSeq(table, "\n") {
		cells := strings.Split(line, " | ")
		if len(cells) < 3 || !strings.HasPrefix(line, "| `") {
			continue
		}
		for word := range strings.SplitSeq(strings.TrimPrefix(cells[0], "| "), ", ") {
			fields[strings.Trim(word, "`")] = cells[1]
		}
	}
	e, err := env()
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{}
	for _, v := range e.Variables() {
		if v.Type().Kind() == types.TypeKind { // int, list and others of CEL itself
			continue
		}
		words[v.Name()] = true
		if f := fields[v.Name()]; f != "none" && !strings.HasPrefix(f, "`") {
			t.Errorf("%s: the table says %q, want a field, or none", v.Name(), f)
		}
	}
	for word := range fields {
		if !words[word] {
			t.Errorf("%s is in the table and is no word", word)
		}
	}
	if len(words) < 25 {
		t.Errorf("found %d words", len(words))
	}
}

// TestMayFail: of what an expression may be about, as far as its own words tell.
func TestMayFail(t *testing.T) {
	for text, want := range map[string]struct{ vuln, secret, root bool }{
		"high":                                   {vuln: true},
		"exploited":                              {vuln: true},
		"misconfiguration != ''":                 {secret: true, root: true},
		"misconfiguration.startsWith('secret-')": {secret: true},
		"misconfiguration == 'root-user' || severity >= critical":   {vuln: true, secret: true, root: true},
		"misconfiguration == 'root-user' && severity >= low":        {root: true},
		"misconfiguration in ['secret-in-file'] && path != 'x'":     {secret: true},
		"misconfiguration == '' && severity >= high":                {vuln: true},
		"misconfiguration.size() / (layer - layer) == 1":            {true, true, true},
		"misconfiguration != '' ? severity >= high : fixable":       {true, true, true},
		"ids.exists(i, i == 'CVE-1') && misconfiguration == ''":     {vuln: true},
		"severity >= low && !(misconfiguration in ['', 'add-url'])": {secret: true, root: true},
	} {
		r, err := Compile(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if v, s, c := r.MayFail(""), r.MayFail(inventory.FileSecret), r.MayFail(inventory.ConfigRootUser); v != want.vuln || s != want.secret || c != want.root {
			t.Errorf("%s: a vulnerability %v, a secret %v, root-user %v, want %+v", text, v, s, c, want)
		}
	}
}

func TestRule(t *testing.T) {
	f := vulndb.Finding{IDs: []string{"CVE-2024-1", "GHSA-1"}, Severity: vulndb.SeverityHigh, Score: 7.5, EPSS: 0.3, State: vulndb.StateFixed, Fixed: "2"}
	p := inventory.Package{Kind: "npm", Name: "a", Version: "1", Path: "app/node_modules/a/package.json"}
	for text, want := range map[string]bool{
		"high": true, "HIGH": true, "moderate": true, "critical": false, "severity >= high && fixable": true, "severity == medium": false,
		"exploited || epss > 0.2": true, "epss >= 1": false, "'CVE-2024-1' in ids": true, "state == 'will-not-fix'": false, "score > 7": true,
		"kind == 'npm' && path.startsWith('app/')": true, "rated && layer == 0": true, "!fromBase": true, "claimedBase": false, "ids.exists(i, i.startsWith('GHSA-'))": true,
		"about == []": true, "symbols != 'absent'": true, "symbols == 'unknown'": true, "symbols == 'present'": false,
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
	// Flaws that an advisory is about are none of its names: to pass one of them is not to pass the advisory.
	advisory := f
	advisory.IDs, advisory.About = []string{"ALSA-1"}, []string{"CVE-2024-1", "CVE-2024-2"}
	for text, want := range map[string]bool{
		"'ALSA-1' in ids": true, "!('CVE-2024-1' in ids)": true, "'CVE-2024-2' in about": true, "'ALSA-1' in about": false, "'CVE-2024-1' in ids + about": true,
	} {
		r, err := Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := r.Fails(&advisory, &p); err != nil || got != want {
			t.Errorf("%s for an advisory: got %v, %v", text, got, err)
		}
	}
	absent := f
	absent.Symbols = &vulndb.Symbols{State: inventory.SymbolsAbsent}
	linked, err := Compile("severity >= high && symbols != 'absent'")
	if err != nil {
		t.Fatal(err)
	}
	if yes, err := linked.Fails(&absent, &p); err != nil || yes {
		t.Errorf("what the program has not fails: %v", err)
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
	r, err := Compile("inUse || about != [] || misconfiguration == 'x'")
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
		"a secret anywhere": "ignore:\n- id: secret-in-file\n  reason: x", "any variable": "ignore:\n- id: secret-in-env\n  reason: x", "any command": "ignore:\n- id: secret-in-history\n  reason: x",
		"the root": "ignore:\n- id: secret-in-file\n  path: /\n  reason: x", "the root for a package": "ignore:\n- id: CVE-1\n  path: /\n  reason: x",
		"a deleted secret anywhere": "ignore:\n- id: secret-in-lower-layer\n  reason: x",
		"an alias":                  "ignore:\n- &a {id: x, reason: y}\n- *a", "a list as text": "ignore:\n- id: [x]\n  reason: y", "null": "ignore:\n- id: null\n  reason: y", "cut off": "ignore:\n- id: [", "two documents": "ignore: []\n---\nignore: []\n",
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

// faultsOf are misconfigurations of one image: two secrets, one of the configuration, and one that
// stands for three files.
func faultsOf() []inventory.Misconfiguration {
	return []inventory.Misconfiguration{
		{ID: inventory.FileSecret, Severity: inventory.SeverityHigh, Text: "a token of npm", Where: "app/.env:3", Path: "app/.env"},
		{ID: inventory.FileSecret, Severity: inventory.SeverityHigh, Where: "root/.npmrc:1", Path: "root/.npmrc"},
		{ID: inventory.ConfigSecretEnv, Severity: inventory.SeverityHigh, Where: "NPM_TOKEN"},
		{ID: inventory.FileWorldWritable, Severity: inventory.SeverityLow, Where: "srv/a", Path: "srv/a", Count: 3},
	}
}

// TestIgnoreFaults: a rule accepts what is in a file by name and place, and nothing else.
func TestIgnoreFaults(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, rule string
		want       string // which are ignored
		note       string
	}{
		{"a file", "id: secret-in-file\n  path: app/.env", "1000", ""},
		{"a file by its absolute path", "id: secret-in-file\n  path: /app/.env", "1000", ""},
		{"a folder", "id: secret-in-file\n  path: app/*", "1000", ""},
		{"all of them", "id: secret-in-file\n  path: '*'", "1100", ""},
		{"until later", "id: secret-in-file\n  path: app/*\n  expires: 2026-01-02", "1000", ""},
		{"until then", "id: secret-in-file\n  path: app/*\n  expires: 2026-01-01", "0000", "no longer ignored since 2026-01-02"},
		{"another file", "id: secret-in-file\n  path: app/.en", "0000", "matches no finding"},
		{"another fault", "id: setuid-file\n  path: app/*", "0000", "matches no finding"},
		{"a package", "id: secret-in-file\n  path: app/*\n  package: '*'", "0000", "matches no finding"},
		{"a variable", "id: secret-in-env\n  path: NPM_*", "0010", ""},
		{"all variables", "id: secret-in-env\n  path: '*'", "0010", ""},
		{"the first of many", "id: world-writable\n  path: srv/a", "0000", "matches no finding"},
		{"many", "id: world-writable", "0001", ""},
	} {
		g, err := ParseIgnores("f", []byte("ignore:\n- "+tt.rule+"\n  reason: so\n"))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		m := Marked{Faults: faultsOf()}
		notes, err := g.Apply(context.Background(), m, now)
		got := ""
		for _, f := range m.Faults {
			got += map[bool]string{true: "1", false: "0"}[f.Ignored == "so" && f.IgnoredBy == "f:2" && f.Accepted()]
		}
		if text := strings.Join(notes, "\n"); err != nil || got != tt.want || !strings.Contains(text, tt.note) || (text == "") != (tt.note == "") {
			t.Errorf("%s: %s, notes %q, %v; want %s, %q", tt.name, got, text, err, tt.want, tt.note)
		}
	}
}

// TestBaselineFaults: what an earlier scan had is known in the same place, as often, and if it is no worse.
func TestBaselineFaults(t *testing.T) {
	b, err := ParseBaseline([]byte(`{"schema":"belay.dev/scan/v1","database":{},"findings":[],"misconfigurations":[
		{"id":"secret-in-file","severity":"high","text":"a token of npm","where":"app/.env:3"},{"id":"setuid-file","severity":"medium","where":"bin/a"},{"id":"world-writable","severity":"low","where":"srv/a","count":3}]}`))
	if err != nil {
		t.Fatal(err)
	}
	env := faultsOf()[0]
	twice, moved, worse, more := env, env, inventory.Misconfiguration{ID: inventory.FileSetuid, Severity: inventory.SeverityHigh, Where: "bin/a"}, faultsOf()[3]
	moved.Where, more.Count = "app/.env:4", 4
	other := env
	other.Text = "a private key"
	better := worse
	better.Severity = inventory.SeverityMedium
	for _, tt := range []struct {
		name   string
		faults []inventory.Misconfiguration
		want   string
	}{
		{"the same", faultsOf(), "1001"}, {"once more", []inventory.Misconfiguration{env, twice}, "10"}, {"another in its place", []inventory.Misconfiguration{other}, "0"}, {"beside it", []inventory.Misconfiguration{other, env}, "01"}, {"on another line", []inventory.Misconfiguration{moved}, "0"},
		{"worse", []inventory.Misconfiguration{worse}, "0"}, {"no worse", []inventory.Misconfiguration{better}, "1"}, {"of more files", []inventory.Misconfiguration{more}, "0"},
	} {
		b.Apply(Marked{Faults: tt.faults})
		got := ""
		for _, f := range tt.faults {
			got += map[bool]string{true: "1", false: "0"}[f.Known]
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if _, err := ParseBaseline([]byte(`{"schema":"belay.dev/scan/v1","database":{},"findings":[],"misconfigurations":[` + strings.Repeat("{},", inventory.MaxMisconfigurations) + `{}]}`)); err == nil {
		t.Error("a report with more misconfigurations than there can be was taken")
	}
}

// TestIgnorePath: a rule with a path is about the package that lies there.
func TestIgnorePath(t *testing.T) {
	g, err := ParseIgnores("f", []byte("ignore:\n- id: CVE-1\n  path: app/*\n  reason: so\n- id: GHSA-1\n  package: b\n  reason: and so\n- id: CVE-1\n  package: b\n  reason: too late\n"))
	if err != nil {
		t.Fatal(err)
	}
	m := Marked{
		Findings: []vulndb.Finding{{IDs: []string{"CVE-1", "GHSA-1"}}, {IDs: []string{"CVE-1", "GHSA-1"}, Package: 1}, {IDs: []string{"CVE-1"}, Package: 2}},
		Packages: []inventory.Package{{Name: "a", Path: "app/a"}, {Name: "b", Path: "lib/b"}, {Name: "a", Path: "lib/a"}},
		PURL:     func(int) string { return "" },
	}
	if _, err := g.Apply(context.Background(), m, time.Now()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"so", "and so", ""} {
		if got := m.Findings[i].Ignored; got != want {
			t.Errorf("finding %d: %q, want %q", i, got, want)
		}
	}
}

// TestIgnoreAdvisory: an advisory of several flaws is ignored by its name, or by rules for each of them.
func TestIgnoreAdvisory(t *testing.T) {
	for _, tt := range []struct{ name, rules, want, by string }{
		{"its name", "- {id: ALSA-1, reason: a}", "a", "f:2"},
		{"one of its flaws", "- {id: CVE-1, reason: a}", "", ""},
		{"each of them", "- {id: CVE-2, reason: b}\n- {id: CVE-1, reason: a}", "a; b", "f:3, f:2"},
		{"each, for one reason", "- {id: CVE-2, reason: a}\n- {id: CVE-1, reason: a}", "a", "f:3, f:2"},
		{"one of them for another package", "- {id: CVE-1, reason: a}\n- {id: CVE-2, package: z, reason: b}", "", ""},
		{"one of them no longer", "- {id: CVE-1, reason: a}\n- {id: CVE-2, expires: 2026-01-01, reason: b}", "", ""},
	} {
		g, err := ParseIgnores("f", []byte("ignore:\n"+tt.rules+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		m := Marked{
			Findings: []vulndb.Finding{{IDs: []string{"ALSA-1"}, About: []string{"CVE-1", "CVE-2"}}},
			Packages: []inventory.Package{{Name: "a"}}, PURL: func(int) string { return "" },
		}
		if _, err := g.Apply(context.Background(), m, time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
		if f := m.Findings[0]; f.Ignored != tt.want || f.IgnoredBy != tt.by {
			t.Errorf("%s: %q by %q, want %q by %q", tt.name, f.Ignored, f.IgnoredBy, tt.want, tt.by)
		}
	}
}

// many are n rules and n findings, each about the next flaw, or all about one.
func many(tb testing.TB, n int, id func(i int) string) (*Ignores, Marked) {
	tb.Helper()
	var b strings.Builder
	b.WriteString("ignore:\n")
	m := Marked{Packages: []inventory.Package{{Name: "a", Path: "a"}}, PURL: func(int) string { return "pkg:npm/a@1" }}
	for i := range n {
		fmt.Fprintf(&b, "- {id: %s, package: 'pkg:npm/*x*%d', reason: so}\n", id(i), i)
		m.Findings = append(m.Findings, vulndb.Finding{IDs: []string{id(i)}})
	}
	g, err := ParseIgnores("f", []byte(b.String()))
	if err != nil {
		tb.Fatal(err)
	}
	return g, m
}

// TestIgnoreEnds: as many rules about one flaw as there are findings of it end with their context.
func TestIgnoreEnds(t *testing.T) {
	g, m := many(t, 10_000, func(int) string { return "CVE-1" })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := g.Apply(ctx, m, start); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it went on for %s", took)
	}
}

// TestIgnoreSteps: a finding is compared with the rules about its names alone.
func TestIgnoreSteps(t *testing.T) {
	g, m := many(t, 10_000, func(i int) string { return fmt.Sprint("CVE-", i) })
	w := &walk{expired: map[*Ignore]bool{}}
	for i := range m.Findings {
		w.first(context.Background(), g.about(m.Findings[i].IDs), func(*Ignore) bool { return false })
	}
	if w.steps != len(m.Findings) {
		t.Errorf("%d comparisons for %d findings", w.steps, len(m.Findings))
	}
}

func BenchmarkIgnore(b *testing.B) {
	g, m := many(b, 10_000, func(i int) string { return fmt.Sprint("CVE-", i) })
	for b.Loop() {
		if _, err := g.Apply(context.Background(), m, time.Now()); err != nil {
			b.Fatal(err)
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
	text := `{"schema":"belay.dev/scan/v1","database":{"records":1},"notes":[1],"misconfigurations":[{"id":"secret-in-file","severity":"high","text":"x","where":"a:1","path":"a","layer":3}],"findings":[{"package":1,"ids":["A"],"summary":"x"}],
		"inventory":{"layers":[],"packages":[{"kind":"deb","name":"unused","path":"p"},{"kind":"deb","name":"zlib","version":"1","path":"q"}]}}`
	b, err := Reduce([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"schema":"belay.dev/scan/v1","database":{},"findings":[{"package":0,"ids":["A"]}],"inventory":{"packages":[{"kind":"deb","name":"zlib","path":"q"}]},"misconfigurations":[{"id":"secret-in-file","severity":"high","text":"x","where":"a:1"}]}`
	if string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}
	whole, err := ParseBaseline([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	part, err := ParseBaseline(b)
	if err != nil || !maps.Equal(whole.known, part.known) || len(part.faults) != 1 || !maps.EqualFunc(whole.faults, part.faults, slices.Equal[[]inventory.Misconfiguration]) {
		t.Errorf("got %v, %v, want %v", part, err, whole)
	}
}

func TestBaselineIsBounded(t *testing.T) {
	text := `{"schema":"belay.dev/scan/v1","database":{},"findings":[],"inventory":{"packages":[` + strings.Repeat("{},", maxListed) + `{}]}}`
	if _, err := ParseBaseline([]byte(text)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v, want a refusal", err)
	}
}
