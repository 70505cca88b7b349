package policy

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Limits of one LoadPolicy.
const (
	maxTargets    = 1000
	maxWindows    = 64
	maxAddresses  = 32
	maxWebhook    = 2048
	minCapFor     = 2 * time.Second // the shortest window of an unprivileged PSI trigger: kernel/sched/psi.c
	maxCapFor     = 24 * time.Hour
	maxCoolDown   = 7 * 24 * time.Hour
	maxMoves      = 1000
	maxHysteresis = 50
)

// loadHome is fieldHome for this kind.
var loadHome = map[string]string{
	"apiVersion": topLevel, "kind": topLevel, "metadata": topLevel, "spec": topLevel,
	"annotations": "metadata",
	"caps":        "spec", "hysteresis": "spec", "for": "spec", "coolDown": "spec", "actions": "spec", "movable": "spec",
	"targets": "spec", "limits": "spec", "windows": "spec", "alerts": "spec", "moves": "spec", "orchestrator": "spec",
	"swarm": "spec.orchestrator", "within": "spec.orchestrator", "manager": "spec.orchestrator.swarm",
	"pids": "spec.caps", "disk": "spec.caps", "inodes": "spec.caps", "psi": "spec.caps", "cpu": "spec.caps", "io": "spec.caps.psi",
	"images": "spec.movable", "labels": "spec.movable", "names": "spec.movable",
	"engine": "spec.targets[]", "ca": "spec.targets[]", "cert": "spec.targets[]", "key": "spec.targets[]",
	"cpus": "spec.targets[]", "architecture": "spec.targets[]",
	"copyVolumes": "spec.moves", "loseLayer": "spec.moves", "loseAttributes": "spec.moves", "splitNetworks": "spec.moves", "image": "spec.moves", "hook": "spec.moves",
	"drain": "spec.moves", "healthy": "spec.moves", "settle": "spec.moves", "keep": "spec.moves",
	"atOnce": "spec.limits", "perHour": "spec.limits", "perContainer": "spec.limits",
	"days": "spec.windows[]", "from": "spec.windows[]",
	"webhook": "spec.alerts", "email": "spec.alerts", "command": "spec.alerts.email",
}

// parseLoad reads one document of kind [LoadKind]; its shape was checked.
func parseLoad(file string, root *yaml.Node) (*LoadPolicy, Errors) {
	d := &decoder{file: file, lines: map[string]int{}, nodes: map[string]*yaml.Node{}, home: loadHome}
	p := &LoadPolicy{File: file, Line: root.Line}
	d.object(root, topLevel, []field{
		{"apiVersion", true, d.enum([]string{APIVersion}, func(string) {})},
		{"kind", true, d.enum([]string{LoadKind}, func(string) {})},
		{"metadata", true, func(n *yaml.Node, at string) { d.metadata(n, at, &p.Name, &p.Annotations) }},
		{"spec", true, func(n *yaml.Node, at string) { d.loadSpec(n, at, &p.Spec) }},
	})
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	p.Revision = revisionOf(p.Canonical())
	return p, nil
}

func (d *decoder) loadSpec(n *yaml.Node, at string, s *LoadSpec) {
	s.Hysteresis, s.For, s.CoolDown = DefaultHysteresis, DefaultLoadFor, DefaultCoolDown
	s.Limits = MoveLimits{DefaultAtOnce, DefaultPerHour, DefaultPerContainer}
	s.Moves = MoveSettings{Image: "auto", Healthy: DefaultHealthy, Settle: DefaultSettle, Keep: DefaultKeep}
	l := &s.Limits
	d.object(n, at, []field{
		{"caps", true, func(n *yaml.Node, at string) { d.caps(n, at, s) }},
		{"hysteresis", false, d.percent(&s.Hysteresis, 1, maxHysteresis)},
		{"for", false, d.duration(&s.For, minCapFor, maxCapFor)},
		{"coolDown", false, d.duration(&s.CoolDown, time.Minute, maxCoolDown)},
		{"actions", true, d.list(8, "the policy does nothing", func(w string) (msg, fix string) { return addAction(s, w) })},
		{"movable", false, func(n *yaml.Node, at string) {
			d.object(n, at, []field{
				{"images", false, d.texts(&s.Movable.Images, maxRuleList, checkImageGlob)},
				{"labels", false, d.stringMap(&s.Movable.Labels)},
				{"names", false, d.texts(&s.Movable.Names, maxRuleList, checkGlob)},
			})
		}},
		{"orchestrator", false, func(n *yaml.Node, at string) { d.orchestrator(n, at, &s.Orchestrator) }},
		{"targets", false, d.each(maxTargets, func(n *yaml.Node, at string) { d.loadTarget(n, at, s) })},
		{"limits", false, func(n *yaml.Node, at string) {
			d.object(n, at, []field{
				{"atOnce", false, d.integer(&l.AtOnce, 1, maxMoves)},
				{"perHour", false, d.integer(&l.PerHour, 1, maxMoves)},
				{"perContainer", false, d.duration(&l.PerContainer, time.Minute, maxCoolDown)},
			})
		}},
		{"moves", false, func(n *yaml.Node, at string) { d.moves(n, at, &s.Moves) }},
		{"windows", false, d.each(maxWindows, func(n *yaml.Node, at string) { d.window(n, at, s) })},
		{"alerts", false, func(n *yaml.Node, at string) { d.alerts(n, at, &s.Alerts) }},
	})
	if len(d.errs) == 0 {
		d.checkLoad(n, s)
	}
}

// checkLoad refuses what would say nothing or could never happen.
func (d *decoder) checkLoad(n *yaml.Node, s *LoadSpec) {
	for i := range s.Caps {
		if c := &s.Caps[i]; c.Percent <= s.Hysteresis {
			d.failAt("spec.caps."+c.Name, "raise the cap or lower spec.hysteresis",
				"spec.caps.%s is %d%% and spec.hysteresis %d%%: the node could never count as relieved", c.Name, c.Percent, s.Hysteresis)
		}
	}
	if s.Does(LoadPropose) && s.Does(LoadMigrate) {
		d.failAt("spec.actions", "leave out one of the two", "migrate carries out what propose would wait for")
	}
	if s.Plans() {
		act := LoadPropose
		if s.Does(LoadMigrate) {
			act = LoadMigrate
		}
		if s.Movable.Empty() {
			d.fail(n, "add movable: with labels, images or names", "the action %s has nothing to move: no container is movable", act)
		}
		if s.Orchestrator.None() {
			if len(s.Targets) == 0 {
				d.fail(n, "add targets:, or orchestrator: if one places containers here", "the action %s has nothing to move to: there is no target", act)
			}
		} else {
			for _, f := range []string{"targets", "moves"} {
				if d.nodes["spec."+f] != nil {
					d.failAt("spec."+f, "delete the line", "spec.%s says nothing with spec.orchestrator: %s says where containers go, and moves them", f, s.Orchestrator.Kind())
				}
			}
		}
	} else {
		for _, f := range []string{"movable", "orchestrator", "targets", "limits", "moves", "windows"} {
			if d.nodes["spec."+f] != nil {
				d.failAt("spec."+f, "add propose or migrate to spec.actions, or delete the line", "spec.%s says nothing without the action propose or migrate", f)
			}
		}
	}
	if s.Alerts.Webhook+s.Alerts.EmailCommand != "" && !s.Does(LoadAlert) {
		d.failAt("spec.alerts", "add alert to spec.actions, or delete the line", "spec.alerts says nothing without the action alert")
	}
}

func addAction(s *LoadSpec, w string) (msg, fix string) {
	words := []string{string(LoadAlert), string(LoadCordon), string(LoadPropose), string(LoadMigrate)}
	if !slices.Contains(words, w) {
		fix = "write " + oneOf(words)
		if g, ok := closest(w, words); ok {
			fix = "did you mean " + g + "?"
		}
		return "there is no action " + quote(w), fix
	}
	s.Actions = append(s.Actions, LoadAction(w))
	return "", ""
}

func (d *decoder) caps(n *yaml.Node, at string, s *LoadSpec) {
	var fields, psi []field
	for _, name := range capNames {
		short, isPSI := strings.CutPrefix(name, "psi.")
		f := field{short, false, func(n *yaml.Node, at string) { d.capOf(n, at, name, s) }}
		if isPSI {
			psi = append(psi, f)
		} else {
			fields = append(fields, f)
		}
	}
	fields = append(fields, field{"psi", false, func(n *yaml.Node, at string) {
		if d.object(n, at, psi); n.Kind == yaml.MappingNode && len(n.Content) == 0 {
			d.fail(n, "add cpu, memory or io, or delete the line", "%s is empty", at)
		}
	}})
	before := len(d.errs)
	d.object(n, at, fields)
	if len(s.Caps) == 0 && len(d.errs) == before {
		d.fail(n, "add one, such as memory: 85%", "%s is empty: the node would never be full", at)
	}
	slices.SortFunc(s.Caps, func(a, b Cap) int { return slices.Index(capNames, a.Name) - slices.Index(capNames, b.Name) })
}

// capOf reads "85%" or "90% for 5m".
func (d *decoder) capOf(n *yaml.Node, at, name string, s *LoadSpec) {
	c := Cap{Name: name, Line: n.Line}
	share, span, timed := strings.Cut(n.Value, " for ")
	var ok bool
	if c.Percent, ok = parsePercent(share); n.Kind != yaml.ScalarNode || n.Tag != "!!str" || !ok {
		d.fail(n, "write 85% or 85% for 5m", "%s must be a share in percent, got %s", at, describe(n))
		return
	}
	if c.Percent < 1 || c.Percent > 99 {
		d.fail(n, "write 1% to 99%", "%s must be from 1%% to 99%%, got %s", at, quote(n.Value))
		return
	}
	if timed {
		v, err := time.ParseDuration(span)
		if err != nil {
			d.fail(n, "write a number with a unit, such as 85% for 5m", "%s: %s is not a duration", at, quote(span))
			return
		}
		if v < minCapFor || v > maxCapFor {
			d.fail(n, "write a duration between them", "%s: the duration must be from %s to %s, got %s", at, minCapFor, maxCapFor, quote(span))
			return
		}
		c.For = v
	}
	s.Caps = append(s.Caps, c)
}

func parsePercent(s string) (int, bool) {
	digits, ok := strings.CutSuffix(s, "%")
	v, err := strconv.Atoi(digits)
	return v, ok && err == nil && strconv.Itoa(v) == digits
}

func (d *decoder) percent(dst *int, lo, hi int) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		v, ok := parsePercent(n.Value)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || !ok || v < lo || v > hi {
			d.fail(n, "write a whole number and a percent sign, such as 5%", "%s must be from %d%% to %d%%, got %s", at, lo, hi, describe(n))
			return
		}
		*dst = v
	}
}

func (d *decoder) loadTarget(n *yaml.Node, at string, s *LoadSpec) {
	t := LoadTarget{Line: n.Line}
	d.object(n, at, []field{
		{"name", true, d.text(&t.Name, checkHostName)},
		{"engine", true, d.text(&t.Engine, checkEngine)},
		{"ca", false, d.text(&t.CA, checkFile)},
		{"cert", false, d.text(&t.Cert, checkFile)},
		{"key", false, d.text(&t.Key, checkFile)},
		{"cpus", false, d.cpus(&t.NanoCPUs)},
		{"memory", false, d.size(&t.MemoryBytes)},
		{"architecture", false, d.enum([]string{"amd64", "arm64"}, func(w string) { t.Architecture = w })},
	})
	d.certificates(n, at, t.Engine, t.CA, t.Cert, t.Key)
	for i := range s.Targets {
		if s.Targets[i].Name == t.Name {
			d.fail(n, "delete one of the two", "the target %s is already listed at line %d", quote(t.Name), s.Targets[i].Line)
		}
	}
	s.Targets = append(s.Targets, t)
}

// certificates are needed over tcp, and say nothing over a socket.
func (d *decoder) certificates(n *yaml.Node, at, engine, ca, cert, key string) {
	switch {
	case strings.HasPrefix(engine, "tcp://") && (ca == "" || cert == "" || key == ""):
		d.fail(n, "add ca, cert and key: files in PEM", "%s is reached over tcp without certificates, and environment values of containers go there", at)
	case !strings.HasPrefix(engine, "tcp://") && ca+cert+key != "":
		d.fail(n, "delete ca, cert and key", "%s is reached by a socket of this host, where certificates say nothing", at)
	}
}

func (d *decoder) orchestrator(n *yaml.Node, at string, o *Orchestrator) {
	o.Within = DefaultLeaveWithin
	before := len(d.errs)
	d.object(n, at, []field{
		{"swarm", false, func(n *yaml.Node, at string) {
			o.Swarm = &Swarm{}
			d.object(n, at, []field{
				{"manager", false, d.text(&o.Swarm.Manager, checkEngine)},
				{"ca", false, d.text(&o.Swarm.CA, checkFile)},
				{"cert", false, d.text(&o.Swarm.Cert, checkFile)},
				{"key", false, d.text(&o.Swarm.Key, checkFile)},
			})
			d.certificates(n, at, o.Swarm.Manager, o.Swarm.CA, o.Swarm.Cert, o.Swarm.Key)
		}},
		{"within", false, d.duration(&o.Within, time.Minute, maxMoveTime)},
	})
	if o.None() && len(d.errs) == before {
		d.fail(n, "add swarm: {}, or delete the line", "%s names nothing that places containers", at)
	}
}

// checkEngine accepts the address of an engine, or of the gate in front of one.
func checkEngine(s string) (msg, fix string) {
	fix = "write tcp://node2.example.org:2376 or unix:///path"
	if p, ok := strings.CutPrefix(s, "unix://"); ok {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
			return quote(s) + " has no absolute path", fix
		}
		return "", ""
	}
	if strings.HasPrefix(s, "ssh://") {
		return quote(s) + " is reached over SSH, and the agent runs no ssh: it would do so as root, unseen", fix + "; belay move --to takes ssh:// by hand"
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "tcp" || u.Hostname() == "" || u.Port() == "" || u.Host != strings.TrimPrefix(s, "tcp://") || u.User != nil {
		return quote(s) + " is no address of an engine", fix
	}
	return "", ""
}

func checkFile(s string) (msg, fix string) {
	if !path.IsAbs(s) || path.Clean(s) != s || s == "/" || strings.ContainsRune(s, 0) {
		return quote(s) + " is not the absolute path of a file", "write it as /etc/belay/ca.pem"
	}
	return "", ""
}

const (
	maxHookWords = 32
	maxMoveTime  = 24 * time.Hour
)

func (d *decoder) moves(n *yaml.Node, at string, m *MoveSettings) {
	before := len(d.errs)
	d.object(n, at, []field{
		{"copyVolumes", false, d.boolean(&m.CopyVolumes)},
		{"loseLayer", false, d.boolean(&m.LoseLayer)},
		{"loseAttributes", false, d.boolean(&m.LoseAttributes)},
		{"splitNetworks", false, d.boolean(&m.SplitNetworks)},
		{"image", false, d.enum([]string{"auto", "pull", "stream"}, func(w string) { m.Image = w })},
		{"hook", false, d.texts(&m.Hook, maxHookWords, checkHookWord)},
		{"drain", false, d.duration(&m.Drain, 0, maxMoveTime)},
		{"healthy", false, d.duration(&m.Healthy, time.Second, maxMoveTime)},
		{"settle", false, d.duration(&m.Settle, 100*time.Millisecond, maxMoveTime)},
		{"keep", false, d.duration(&m.Keep, 0, maxCoolDown)},
	})
	if len(d.errs) == before && len(m.Hook) > 0 {
		if msg, fix := checkCommand(m.Hook[0]); msg != "" {
			d.fail(n, fix, "%s.hook: %s", at, msg)
		}
	}
}

// checkHookWord takes what a command line gives back as one word.
func checkHookWord(s string) (msg, fix string) {
	if s == "" || len(s) > 1024 || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return quote(s) + " is not one word", "write a program and its arguments as a list of words"
	}
	return "", ""
}

// checkHostName accepts a DNS name in lower case; RFC 1123, section 2.1.
func checkHostName(s string) (msg, fix string) {
	for label := range strings.SplitSeq(s, ".") {
		if !isDNSLabel(label) || len(s) > 253 {
			return quote(s) + " is not a host name", "write it in lower case, such as node2.example.org"
		}
	}
	return "", ""
}

var clockTime = regexp.MustCompile(`^([01][0-9]|2[0-3]):([0-5][0-9])$`)

func (d *decoder) window(n *yaml.Node, at string, s *LoadSpec) {
	w := Window{Line: n.Line, Days: [7]bool{true, true, true, true, true, true, true}}
	minutes := func(dst *int) func(*yaml.Node, string) {
		return func(n *yaml.Node, at string) {
			m := clockTime.FindStringSubmatch(n.Value)
			if n.Kind != yaml.ScalarNode || m == nil {
				d.fail(n, `write it as "22:30", in UTC`, "%s must be a time of day, got %s", at, describe(n))
				return
			}
			h, _ := strconv.Atoi(m[1])
			min, _ := strconv.Atoi(m[2])
			*dst = h*60 + min
		}
	}
	before := len(d.errs)
	d.object(n, at, []field{
		{"days", false, func(n *yaml.Node, at string) {
			w.Days = [7]bool{}
			d.list(7, "the window never opens", func(day string) (msg, fix string) {
				i := slices.Index(dayNames, day)
				if i < 0 {
					return quote(day) + " is no day", "write " + oneOf(dayNames)
				}
				w.Days[i] = true
				return "", ""
			})(n, at)
		}},
		{"from", true, minutes(&w.From)},
		{"to", true, minutes(&w.To)},
	})
	if len(d.errs) == before && w.From == w.To {
		d.fail(n, "write another time, or delete the window if moves may start at any time", "%s begins and ends at %s", at, clock(w.From))
	}
	s.Windows = append(s.Windows, w)
}

func (d *decoder) alerts(n *yaml.Node, at string, a *Alerts) {
	before := len(d.errs)
	d.object(n, at, []field{
		{"webhook", false, d.text(&a.Webhook, checkWebhook)},
		{"email", false, func(n *yaml.Node, at string) {
			d.object(n, at, []field{
				{"command", true, d.text(&a.EmailCommand, checkCommand)},
				{"to", true, d.texts(&a.EmailTo, maxAddresses, checkAddress)},
			})
		}},
	})
	if len(d.errs) == before && a.Webhook+a.EmailCommand == "" {
		d.fail(n, "add webhook or email, or delete the line", "%s is empty", at)
	}
}

// checkWebhook wants TLS: an alert names containers and hosts. Credentials in a URL would
// be shown wherever the policy is.
func checkWebhook(s string) (msg, fix string) {
	u, err := url.Parse(s)
	switch {
	case err != nil || len(s) > maxWebhook || u.Hostname() == "":
		return "not a URL", "write it as https://alerts.example.org/belay"
	case u.Scheme != "https":
		return quote(u.Scheme) + " is not https", "write an https:// URL"
	case u.User != nil:
		return "the URL holds credentials, which all who may read policies would see", "delete what is before the @"
	case u.Fragment != "":
		return "the URL has a fragment, which is never sent", "delete what follows the #"
	}
	return "", ""
}

// checkCommand wants a path that no PATH and no working directory changes.
func checkCommand(s string) (msg, fix string) {
	if !path.IsAbs(s) || path.Clean(s) != s || s == "/" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return quote(s) + " is not the absolute path of a program", "write the path alone, such as /usr/sbin/sendmail; it gets the addresses as arguments"
	}
	return "", ""
}

var localPart = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._%+=-]{0,63}$`)

// checkAddress takes the plain form of RFC 5321's mailboxes alone: nothing that a mail
// program could take for an option, a pipe or a header.
func checkAddress(s string) (msg, fix string) {
	local, host, ok := strings.Cut(s, "@")
	if msg, _ := checkHostName(strings.ToLower(host)); !ok || msg != "" || !localPart.MatchString(local) {
		return quote(s) + " is not an address", "write it as ops@example.org"
	}
	return "", ""
}
