package policy

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func loadDoc(spec ...string) string {
	return "apiVersion: belay.dev/v1\nkind: LoadPolicy\nmetadata: {name: node}\nspec:\n  " + strings.Join(spec, "\n  ") + "\n"
}

func parseOneLoad(t *testing.T, src string) *LoadPolicy {
	t.Helper()
	docs, err := ParseAll("l.yaml", []byte(src))
	if err != nil {
		t.Fatalf("ParseAll(%s): %v", src, err)
	}
	if len(docs.Loads) != 1 || docs.Len() != 1 {
		t.Fatalf("got %d documents, %d of kind %s", docs.Len(), len(docs.Loads), LoadKind)
	}
	return docs.Loads[0]
}

const everyLoadField = `apiVersion: belay.dev/v1
kind: LoadPolicy
metadata: {name: node, annotations: {team: ops}}
spec:
  caps:
    memory: 85%
    cpu: 90% for 5m
    pids: 80%
    disk: 88%
    inodes: 89%
    psi: {io: 30%, memory: 20% for 1m, cpu: 40%}
  hysteresis: 7%
  for: 2m
  coolDown: 20m
  actions: [alert, cordon, propose]
  movable: {labels: {tier: web}, images: [nginx], names: ["web-*"]}
  targets:
    - {name: node2.example.org, engine: "tcp://node2.example.org:2376", ca: /etc/belay/ca.pem, cert: /etc/belay/c.pem, key: /etc/belay/k.pem, cpus: 8, memory: 32Gi, architecture: arm64}
    - {name: node3, engine: "unix:///run/node3.sock", cpus: "1.5", memory: 512Mi}
  moves: {copyVolumes: true, loseLayer: true, loseAttributes: true, splitNetworks: true, image: stream, hook: [/usr/local/sbin/lb, web], drain: 30s, healthy: 1m, settle: 5s, keep: 1h}
  limits: {atOnce: 2, perHour: 6, perContainer: 2h}
  windows:
    - {days: [fri, sat], from: "22:00", to: "04:30"}
    - {from: 01:00, to: 02:00}
  alerts:
    webhook: https://alerts.example.org/belay
    email: {command: /usr/sbin/sendmail, to: [ops@example.org]}
`

func TestLoadEveryField(t *testing.T) {
	p := parseOneLoad(t, everyLoadField)
	all := [7]bool{true, true, true, true, true, true, true}
	want := LoadSpec{
		Caps: []Cap{
			{"cpu", 90, 5 * time.Minute, 7}, {"memory", 85, 0, 6}, {"pids", 80, 0, 8}, {"disk", 88, 0, 9}, {"inodes", 89, 0, 10},
			{"psi.cpu", 40, 0, 11}, {"psi.memory", 20, time.Minute, 11}, {"psi.io", 30, 0, 11},
		},
		Hysteresis: 7, For: 2 * time.Minute, CoolDown: 20 * time.Minute,
		Actions: []LoadAction{LoadAlert, LoadCordon, LoadPropose},
		Movable: Movable{[]string{"nginx"}, map[string]string{"tier": "web"}, []string{"web-*"}},
		Targets: []LoadTarget{
			{"node2.example.org", "tcp://node2.example.org:2376", "/etc/belay/ca.pem", "/etc/belay/c.pem", "/etc/belay/k.pem", 8e9, 32 << 30, "arm64", 18},
			{"node3", "unix:///run/node3.sock", "", "", "", 15e8, 512 << 20, "", 19},
		},
		Moves:   MoveSettings{true, true, true, true, "stream", []string{"/usr/local/sbin/lb", "web"}, 30 * time.Second, time.Minute, 5 * time.Second, time.Hour},
		Limits:  MoveLimits{2, 6, 2 * time.Hour},
		Windows: []Window{{[7]bool{5: true, 6: true}, 22 * 60, 4*60 + 30, 23}, {all, 60, 120, 24}},
		Alerts:  Alerts{"https://alerts.example.org/belay", "/usr/sbin/sendmail", []string{"ops@example.org"}},
	}
	if diff := cmp.Diff(want, p.Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	again := parseOneLoad(t, string(p.Canonical()))
	if diff := cmp.Diff(string(p.Canonical()), string(again.Canonical())); diff != "" || again.Revision != p.Revision {
		t.Errorf("the canonical form is not stable:\n%s", diff)
	}
	set, err := (&Documents{Loads: []*LoadPolicy{p}}).Set()
	if err != nil {
		t.Fatal(err)
	}
	if got := set.Canonical(); string(got) != string(p.Canonical()) || set.Len() != 1 {
		t.Errorf("the set of %d holds\n%s", set.Len(), got)
	}
	docs := set.Documents()
	if e := docs.Entries(); len(e) != 1 || e[0].Kind != LoadKind || string(e[0].Canonical()) != string(p.Canonical()) {
		t.Errorf("entries %v", e)
	}
	if set.Revision() == (&Set{}).Revision() {
		t.Error("the set's revision does not depend on LoadPolicies")
	}
}

func TestLoadOrchestrator(t *testing.T) {
	for _, tt := range []struct {
		src  string
		want Orchestrator
	}{
		{"{swarm: {}}", Orchestrator{&Swarm{}, DefaultLeaveWithin}},
		{"{swarm: {manager: unix:///run/m1.sock}, within: 3m}", Orchestrator{&Swarm{Manager: "unix:///run/m1.sock"}, 3 * time.Minute}},
		{"{swarm: {manager: tcp://m1:2376, ca: /ca.pem, cert: /c.pem, key: /k.pem}}", Orchestrator{&Swarm{"tcp://m1:2376", "/ca.pem", "/c.pem", "/k.pem"}, DefaultLeaveWithin}},
	} {
		p := parseOneLoad(t, loadDoc("caps: {memory: 85%}", "actions: [migrate]", "movable: {names: [a]}", "orchestrator: "+tt.src))
		if diff := cmp.Diff(tt.want, p.Spec.Orchestrator); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.src, diff)
		}
		if again := parseOneLoad(t, string(p.Canonical())); again.Revision != p.Revision || again.Spec.Orchestrator.Kind() != "swarm" {
			t.Errorf("%s: the canonical form says something else:\n%s", tt.src, p.Canonical())
		}
		if got := p.Spec.Rules(); !slices.Contains(got, "orchestrator=swarm") {
			t.Errorf("rules %q", got)
		}
	}
}

func TestLoadDefaults(t *testing.T) {
	s := parseOneLoad(t, loadDoc("caps: {memory: 85%}", "actions: [alert]")).Spec
	want := LoadSpec{
		Caps: []Cap{{"memory", 85, 0, 5}}, Hysteresis: DefaultHysteresis, For: DefaultLoadFor, CoolDown: DefaultCoolDown,
		Actions: []LoadAction{LoadAlert}, Limits: MoveLimits{DefaultAtOnce, DefaultPerHour, DefaultPerContainer},
		Moves: MoveSettings{Image: "auto", Healthy: DefaultHealthy, Settle: DefaultSettle, Keep: DefaultKeep},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if got := s.Rules(); !slices.Equal(got, []string{"memory=85%/1m0s", "actions=alert"}) {
		t.Errorf("rules %q", got)
	}
}

func TestLoadErrors(t *testing.T) {
	const caps, alert, propose = "caps: {memory: 85%}", "actions: [alert]", "actions: [propose]"
	const movable, targets = "movable: {names: [web]}", "targets: [{name: n2, engine: unix:///run/n2}]"
	with := func(lines ...string) string { return loadDoc(append([]string{caps, alert}, lines...)...) }
	tests := []struct {
		name, src string
		want      string
	}{
		{"no caps", loadDoc(alert), `l.yaml:5:3: spec.caps is missing; fix: add caps:`},
		{"empty caps", loadDoc("caps: {}", alert), `l.yaml:5:9: spec.caps is empty: the node would never be full; fix: add one, such as memory: 85%`},
		{"empty psi", loadDoc("caps: {psi: {}, cpu: 9%}", alert), `spec.caps.psi is empty; fix: add cpu, memory or io`},
		{"number", loadDoc("caps: {memory: 85}", alert), `l.yaml:5:18: spec.caps.memory must be a share in percent, got the number 85; fix: write 85% or 85% for 5m`},
		{"fraction", loadDoc("caps: {memory: 8.5%}", alert), `spec.caps.memory must be a share in percent`},
		{"leading zero", loadDoc("caps: {memory: 085%}", alert), `spec.caps.memory must be a share in percent`},
		{"100%", loadDoc("caps: {memory: 100%}", alert), `spec.caps.memory must be from 1% to 99%, got "100%"; fix: write 1% to 99%`},
		{"cap duration", loadDoc("caps: {cpu: 90% for five}", alert), `spec.caps.cpu: "five" is not a duration; fix: write a number with a unit`},
		{"short duration", loadDoc("caps: {cpu: 90% for 1s}", alert), `spec.caps.cpu: the duration must be from 2s to 24h0m0s, got "1s"`},
		{"cap typo", loadDoc("caps: {memry: 85%}", alert), `l.yaml:5:10: unknown field "memry" in spec.caps; fix: did you mean memory?`},
		{"io outside psi", loadDoc("caps: {io: 85%}", alert), `unknown field "io" in spec.caps; fix: move it to spec.caps.psi`},
		{"below hysteresis", loadDoc("caps: {psi: {io: 5%}}", alert), `l.yaml:5:20: spec.caps.psi.io is 5% and spec.hysteresis 5%: the node could never count as relieved; fix: raise the cap`},
		{"hysteresis", with("hysteresis: 10"), `spec.hysteresis must be from 1% to 50%, got the number 10; fix: write a whole number and a percent sign`},
		{"for", with("for: 90"), `spec.for has no unit; fix: write the unit: 90s`},
		{"mode", with("mode: audit"), `unknown field "mode" in spec`},
		{"no action", loadDoc(caps, "actions: []"), `spec.actions is an empty list: the policy does nothing`},
		{"migrate and propose", loadDoc(caps, "actions: [propose, migrate]", movable, targets), `l.yaml:6:12: migrate carries out what propose would wait for; fix: leave out one of the two`},
		{"migrate without targets", loadDoc(caps, "actions: [migrate]", movable), `the action migrate has nothing to move to: there is no target; fix: add targets:, or orchestrator:`},
		{"empty orchestrator", loadDoc(caps, propose, movable, "orchestrator: {within: 2m}"), `l.yaml:8:17: spec.orchestrator names nothing that places containers; fix: add swarm: {}`},
		{"orchestrator and targets", loadDoc(caps, propose, movable, targets, "orchestrator: {swarm: {}}"), `l.yaml:8:12: spec.targets says nothing with spec.orchestrator: swarm says where containers go, and moves them; fix: delete the line`},
		{"orchestrator and moves", loadDoc(caps, propose, movable, "moves: {drain: 1s}", "orchestrator: {swarm: {}}"), `l.yaml:8:10: spec.moves says nothing with spec.orchestrator`},
		{"orchestrator for nothing", with("orchestrator: {swarm: {}}"), `spec.orchestrator says nothing without the action propose or migrate; fix: add propose`},
		{"manager without certificates", loadDoc(caps, propose, movable, "orchestrator: {swarm: {manager: tcp://m1:2376}}"), `spec.orchestrator.swarm is reached over tcp without certificates`},
		{"certificates for this engine", loadDoc(caps, propose, movable, "orchestrator: {swarm: {ca: /ca.pem}}"), `where certificates say nothing; fix: delete ca`},
		{"manager over http", loadDoc(caps, propose, movable, "orchestrator: {swarm: {manager: http://m1:2376}}"), `"http://m1:2376" is no address of an engine`},
		{"within", loadDoc(caps, propose, movable, "orchestrator: {swarm: {}, within: 1s}"), `spec.orchestrator.within must be from 1m0s to 24h0m0s`},
		{"swarm beside", loadDoc(caps, propose, movable, "swarm: {}"), `unknown field "swarm" in spec; fix: move it to spec.orchestrator`},
		{"target without engine", loadDoc(caps, propose, movable, "targets: [{name: n2}]"), `spec.targets[0].engine is missing`},
		{"engine over ssh", loadDoc(caps, propose, movable, "targets: [{name: n2, engine: ssh://n2}]"), `spec.targets[0].engine: "ssh://n2" is reached over SSH, and the agent runs no ssh: it would do so as root, unseen; fix: write tcp://`},
		{"engine without port", loadDoc(caps, propose, movable, "targets: [{name: n2, engine: tcp://n2}]"), `"tcp://n2" is no address of an engine`},
		{"engine without certificates", loadDoc(caps, propose, movable, "targets: [{name: n2, engine: tcp://n2:2376, ca: /ca.pem}]"), `spec.targets[0] is reached over tcp without certificates`},
		{"certificates for a socket", loadDoc(caps, propose, movable, "targets: [{name: n2, engine: unix:///run/n2, ca: /ca.pem}]"), `where certificates say nothing; fix: delete ca`},
		{"relative certificate", loadDoc(caps, propose, movable, "targets: [{name: n2, engine: tcp://n2:2376, ca: ca.pem, cert: /c, key: /k}]"), `"ca.pem" is not the absolute path of a file`},
		{"relative hook", loadDoc(caps, propose, movable, targets, "moves: {hook: [lb, web]}"), `spec.moves.hook: "lb" is not the absolute path of a program`},
		{"hook of two words", loadDoc(caps, propose, movable, targets, `moves: {hook: ["/lb web"]}`), `"/lb web" is not one word`},
		{"hook with a space that does not look like one", loadDoc(caps, propose, movable, targets, "moves: {hook: [/lb, \"a\u00a0b\"]}"), `is not one word`},
		{"moves for nothing", with("moves: {copyVolumes: true}"), `spec.moves says nothing without the action propose or migrate`},
		{"action typo", loadDoc(caps, "actions: [alrt]"), `spec.actions[0]: there is no action "alrt"; fix: did you mean alert?`},
		{"action twice", loadDoc(caps, "actions: [alert, alert]"), `"alert" is listed twice`},
		{"nothing movable", loadDoc(caps, propose, targets), `no container is movable; fix: add movable:`},
		{"empty movable", loadDoc(caps, propose, targets, "movable: {}"), `no container is movable; fix: add movable:`},
		{"no target", loadDoc(caps, propose, movable), `there is no target; fix: add targets:`},
		{"movable for nothing", with(movable), `l.yaml:7:12: spec.movable says nothing without the action propose or migrate; fix: add propose`},
		{"limits for nothing", with("limits: {atOnce: 1}"), `spec.limits says nothing without the action propose`},
		{"alerts for nothing", loadDoc(caps, "actions: [cordon]", "alerts: {webhook: https://a.example}"), `spec.alerts says nothing without the action alert`},
		{"target twice", loadDoc(caps, propose, movable, "targets: [{name: n2, engine: unix:///run/n2}, {name: n2, engine: unix:///run/n2}]"), `the target "n2" is already listed at line 8`},
		{"target name", loadDoc(caps, propose, movable, "targets: [{name: N_2, engine: unix:///run/n2}]"), `"N_2" is not a host name`},
		{"target size", loadDoc(caps, propose, movable, "targets: [{name: n2, engine: unix:///run/n2, memory: 4GB}]"), `spec.targets[0].memory must be a size, got "4GB"`},
		{"limit", loadDoc(caps, propose, movable, targets, "limits: {atOnce: 0}"), `spec.limits.atOnce must be a whole number from 1 to 1000`},
		{"window", loadDoc(caps, propose, movable, targets, "windows: [{from: 24:00, to: 01:00}]"), `spec.windows[0].from must be a time of day, got "24:00"; fix: write it as "22:30", in UTC`},
		{"empty window", loadDoc(caps, propose, movable, targets, "windows: [{from: 01:00, to: 01:00}]"), `spec.windows[0] begins and ends at 01:00`},
		{"day", loadDoc(caps, propose, movable, targets, "windows: [{days: [monday], from: 01:00, to: 02:00}]"), `"monday" is no day; fix: write sun, mon`},
		{"http", with("alerts: {webhook: http://a.example/}"), `spec.alerts.webhook: "http" is not https; fix: write an https:// URL`},
		{"credentials", with("alerts: {webhook: https://u:hunter2@a.example/}"), `spec.alerts.webhook: the URL holds credentials`},
		{"relative command", with("alerts: {email: {command: sendmail, to: [a@b.c]}}"), `"sendmail" is not the absolute path of a program`},
		{"shell", with(`alerts: {email: {command: "/bin/sh -c x", to: [a@b.c]}}`), `is not the absolute path of a program`},
		{"climbing", with("alerts: {email: {command: /usr/../tmp/x, to: [a@b.c]}}"), `is not the absolute path of a program`},
		{"option", with("alerts: {email: {command: /bin/mail, to: [-X/etc/x@b.c]}}"), `"-X/etc/x@b.c" is not an address; fix: write it as ops@example.org`},
		{"header", with(`alerts: {email: {command: /bin/mail, to: ["a@b.c\nBcc: d@e.f"]}}`), `is not an address`},
		{"empty alerts", with("alerts: {}"), `spec.alerts is empty; fix: add webhook or email`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := ParseAll("l.yaml", []byte(tt.src))
			es, ok := errors.AsType[Errors](err)
			if !ok || docs.Len() != 0 {
				t.Fatalf("got %d documents and %v, want Errors alone", docs.Len(), err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got\n%v\nwant %s", err, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the message shows a password")
			}
			for _, e := range es {
				if e.File != "l.yaml" || e.Line == 0 {
					t.Errorf("no place in %v", e)
				}
			}
		})
	}
}

func TestLoadMovable(t *testing.T) {
	web := map[string]string{"tier": "web"}
	tests := []struct {
		name string
		m    Movable
		want bool
	}{
		{"nothing set", Movable{}, false},
		{"name", Movable{Names: []string{"web-*"}}, true},
		{"other name", Movable{Names: []string{"db"}}, false},
		{"image", Movable{Images: []string{"nginx"}}, true},
		{"all", Movable{[]string{"nginx"}, web, []string{"web-1"}}, true},
		{"one fails", Movable{[]string{"nginx"}, map[string]string{"tier": "db"}, []string{"web-1"}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.m.Matches("/web-1", "nginx:1.27", web); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLoadWindows(t *testing.T) {
	s := parseOneLoad(t, loadDoc("caps: {memory: 85%}", "actions: [propose]", "movable: {names: [a]}",
		"targets: [{name: n2, engine: unix:///run/n2}]", "windows: [{days: [fri], from: 22:00, to: 04:00}]")).Spec
	for at, want := range map[string]bool{
		"2026-11-27T21:59:00Z":      false, // a Friday
		"2026-11-27T22:00:00Z":      true,
		"2026-11-28T03:59:59Z":      true, // the Friday's night
		"2026-11-28T04:00:00Z":      false,
		"2026-11-28T22:30:00Z":      false,
		"2026-11-27T03:00:00Z":      false, // the Thursday's night
		"2026-11-27T23:30:00+02:00": false, // 21:30 in UTC
	} {
		moment, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Open(moment); got != want {
			t.Errorf("open at %s: got %v, want %v", at, got, want)
		}
	}
	if !(&LoadSpec{}).Open(time.Time{}) {
		t.Error("without a window moves may not be proposed")
	}
}

// The reference must name every field and cap, and its whole documents must be accepted.
func TestLoadReference(t *testing.T) {
	src, err := os.ReadFile("../../docs/load-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(src)
	for name := range loadHome {
		if !strings.Contains(doc, name) {
			t.Errorf("field %s is not documented", name)
		}
	}
	n := 0
	for _, block := range strings.Split(doc, "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		docs, err := ParseAll("load-policy.md", []byte(block))
		if err != nil {
			t.Errorf("example:\n%s\n%v", block, err)
		}
		n += len(docs.Loads)
	}
	if n < 2 {
		t.Errorf("got %d examples", n)
	}
}

// FuzzLoad: whatever is accepted has a canonical form that is accepted and says the same.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(everyLoadField))
	f.Add([]byte(loadDoc("caps: {psi: {io: 9% for 2s}}", "actions: [cordon]")))
	f.Add([]byte(loadDoc("caps: {cpu: 9%}", "actions: [propose]", "movable: {names: [a]}", "orchestrator: {swarm: {manager: unix:///m}, within: 3m}")))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := ParseAll("l.yaml", data)
		if err != nil {
			return
		}
		for _, p := range docs.Loads {
			again, err := ParseAll("l.yaml", p.Canonical())
			if err != nil || len(again.Loads) != 1 {
				t.Fatalf("canonical form does not parse: %v\n%s", err, p.Canonical())
			}
			if again.Loads[0].Revision != p.Revision {
				t.Fatalf("revision changed:\n%s\n%s", p.Canonical(), again.Loads[0].Canonical())
			}
		}
	})
}
