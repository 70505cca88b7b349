package output

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

// ECSVersion is the version of the Elastic Common Schema that records are mapped to. Source:
// https://www.elastic.co/guide/en/ecs/8.17; docs/outputs.md has every field.
const ECSVersion = "8.17.0"

// ecsClass is what ECS categorises an event by.
type ecsClass struct {
	category, types []string
	action          string
}

// ecsKinds has for each kind what says its class, and sets what the kind has of its own.
var ecsKinds = map[journal.Kind]func(o object, r *journal.Record) ecsClass{
	journal.KindExec: always("process", "start", "exec"), journal.KindMmap: always("library", "start", "mmap"), journal.KindFile: ecsFile,
	journal.KindNetwork: ecsNetwork, journal.KindBPF: always("driver", "info", "bpf"), journal.KindPrivilege: always("process", "info", "privilege"),
	journal.KindContainer: ecsContainer, journal.KindAgent: always("host", "info", "agent"), journal.KindLoss: always("host", "info", "loss"),
	journal.KindAPI: ecsAPI, journal.KindFactor: ecsFactor, journal.KindImage: ecsImage, journal.KindLoad: ecsLoad,
	journal.KindAnchor: always("host", "info", "anchor"),
}

// always is a class that does not depend on the record.
func always(category, kind, action string) func(object, *journal.Record) ecsClass {
	return func(object, *journal.Record) ecsClass { return ecsClass{[]string{category}, []string{kind}, action} }
}

func ecsLoad(_ object, r *journal.Record) ecsClass {
	action := "load"
	if r.Load != nil {
		action = "load-" + r.Load.Event
	}
	return ecsClass{[]string{"host"}, []string{"info"}, action}
}

// ecs returns a record in the words of ECS. What it has no words for is in event.original, which
// is the record as it is.
func ecs(r *journal.Record, version string) ([]byte, error) {
	r, raw, err := outgoing(r)
	if err != nil {
		return nil, err
	}
	o := object{}
	c := ecsClass{[]string{"host"}, []string{"info"}, string(r.Kind)}
	if f := ecsKinds[r.Kind]; f != nil {
		c = f(o, r)
	}
	event := object{
		"kind": "event", "category": c.category, "type": c.types, "action": c.action, "outcome": "unknown", "id": UID(r), "sequence": r.Seq,
		"module": "belay", "dataset": "belay." + string(r.Kind), "provider": "belay-agent", "severity": severity(r), "original": string(raw),
	}
	ecsDecision(event, r, c)
	if r.Kind == journal.KindLoss {
		event["kind"] = "pipeline_error"
	}
	if a := r.API; a != nil {
		event.put("duration", a.DurationUS*1000, "reason", a.Cause)
	}
	if f := r.Factor; f != nil {
		event.put("reason", f.Cause)
	}
	o.put("@timestamp", r.Time.UTC().Format(time.RFC3339Nano), "ecs", object{"version": ECSVersion}, "message", r.Message, "event", event,
		"host", object{"hostname": r.Host, "name": r.Host, "boot": object{"id": r.BootID}, "os": object{"type": "linux"}},
		"agent", object{"type": "belay", "name": "belay-agent"}.put("version", version),
		"container", ecsOf(r.Container), "process", ecsProcess(r))
	if p := r.Policy; p != nil {
		o.put("rule", object{"name": p.Rule, "ruleset": p.Name, "version": p.Revision})
	}
	own := object{}.put("decision", string(r.Decision), "level", r.Level, "backend", string(r.Backend), "hook", r.Hook, "errno", number(r.Errno), "flags", r.Flags, "lost", r.Lost)
	if r.Policy != nil {
		own.put("mode", r.Policy.Mode, "phase", r.Policy.Phase)
	}
	if a := r.Anchor; a != nil {
		head := func(h journal.Head) object { return object{"segment": h.Segment, "digest": h.Digest} }
		own.put("anchor", object{"seq": a.Seq, "events": head(a.Events), "denials": head(a.Denials)})
	}
	o.put("belay", own)
	return line(o)
}

// ecsDecision sets what was decided. The categories api and network know allowed and denied
// themselves; of the others, intrusion_detection does.
func ecsDecision(event object, r *journal.Record, c ecsClass) {
	word := ""
	switch r.Decision {
	case verdict.Denied, verdict.Killed:
		event.put("kind", "alert", "outcome", "failure")
		word = "denied"
	case verdict.WouldDeny:
		event.put("kind", "alert", "outcome", "success")
		word = "allowed"
	case verdict.Allowed:
		event.put("outcome", "success")
	}
	if word == "" {
		return
	}
	event["type"] = append(slices.Clone(c.types), word)
	if c.category[0] != "api" && c.category[0] != "network" {
		event["category"] = append(slices.Clone(c.category), "intrusion_detection")
	}
}

func ecsOf(c *journal.Container) object {
	if c == nil {
		return nil
	}
	image := object{}.put("name", c.Image)
	if c.Digest != "" {
		image.put("hash", object{"all": []string{c.Digest}})
	}
	return object{}.put("id", string(c.ID), "name", c.Name, "image", image, "labels", c.Labels)
}

func ecsProcess(r *journal.Record) object {
	p := r.Process
	if p == nil {
		if r.API != nil && r.API.PID > 0 {
			return object{"pid": r.API.PID}
		}
		if r.Factor != nil && r.Factor.PID > 0 {
			return object{"pid": r.Factor.PID}
		}
		return nil
	}
	id := func(n uint32) object { return object{"id": decimalID(n)} }
	o := object{
		"pid": p.PID, "thread": object{"id": p.TID}, "user": id(p.EUID), "real_user": id(p.UID), "group": id(p.EGID), "real_group": id(p.GID),
		"entity_id": fmt.Sprintf("%s:%d:%d", r.BootID, p.PID, p.StartNS),
	}
	o.put("name", p.Comm, "args", p.Args, "working_directory", p.Cwd)
	if p.Executable != nil {
		o.put("executable", p.Executable.Path)
	}
	if len(p.Ancestors) > 0 {
		a := &p.Ancestors[0]
		o.put("parent", object{"pid": a.PID, "user": id(a.UID), "entity_id": fmt.Sprintf("%s:%d:%d", r.BootID, a.PID, a.StartNS)}.put("name", a.Comm))
	}
	return o
}

func ecsFile(o object, r *journal.Record) ecsClass {
	if f := r.Object; f != nil {
		o.put("file", object{}.put("path", f.Path, "name", base(f.Path), "inode", decimal(f.Ino)))
	}
	types := map[string]string{
		"open": "access", "rename": "change", "unlink": "deletion", "rmdir": "deletion", "link": "creation", "create": "creation", "mkdir": "creation",
		"mknod": "creation", "trunc": "change", "setattr": "change", "chmod": "change", "chown": "change",
	}
	// unlink before link: it has it in its name.
	word := verb(r.Hook, "open", "rename", "unlink", "rmdir", "link", "create", "mkdir", "mknod", "trunc", "setattr", "chmod", "chown")
	if word == "" {
		return ecsClass{[]string{"file"}, []string{"info"}, "file"}
	}
	return ecsClass{[]string{"file"}, []string{types[word]}, "file-" + word}
}

func ecsNetwork(o object, r *journal.Record) ecsClass {
	if s := r.Object; s != nil {
		o.put("source", object{}.put("address", s.LocalAddr, "ip", s.LocalAddr, "port", number(s.LocalPort)),
			"destination", object{}.put("address", s.Addr, "ip", s.Addr, "port", number(s.Port)), "network", object{}.put("transport", s.Protocol))
	}
	word := verb(r.Hook, "connect", "bind", "listen", "accept", "sendmsg")
	if word == "" {
		return ecsClass{[]string{"network"}, []string{"info"}, "network"}
	}
	return ecsClass{[]string{"network"}, []string{"connection"}, "network-" + word}
}

func ecsContainer(_ object, r *journal.Record) ecsClass {
	types := map[string]string{journal.EventCreated: "info", journal.EventFirstExec: "start", journal.EventGone: "end"}
	kind := types[r.Event]
	if kind == "" {
		kind = "info"
	}
	return ecsClass{[]string{"host"}, []string{kind}, "container-" + r.Event}
}

func ecsAPI(o object, r *journal.Record) ecsClass {
	a := r.API
	if a == nil {
		return ecsClass{[]string{"api"}, []string{"access"}, "api"}
	}
	host, port := split(a.Remote)
	http := object{}.put("request", object{}.put("method", a.Method))
	if a.Status != 0 {
		http.put("response", object{"status_code": a.Status})
	}
	user := object{}.put("name", a.Caller)
	if a.UID != nil {
		user.put("id", decimalID(*a.UID))
	}
	source := object{}.put("address", host, "port", port)
	if net.ParseIP(host) != nil {
		source.put("ip", host)
	}
	o.put("http", http, "url", object{}.put("path", a.Path), "user", user, "source", source)
	if id, ok := traceID(a.TraceParent); ok {
		o.put("trace", object{"id": id})
	}
	action := a.Action
	if action == "" {
		action = "unknown"
	}
	types := []string{"change"}
	switch {
	case a.Method == "GET" || a.Method == "HEAD":
		types = []string{"access"}
	case a.Method == "DELETE":
		types = []string{"deletion"}
	case strings.HasSuffix(a.Action, ".create"):
		types = []string{"creation"}
	}
	return ecsClass{[]string{"api"}, types, action}
}

func ecsFactor(o object, r *journal.Record) ecsClass {
	f := r.Factor
	if f == nil {
		return ecsClass{[]string{"authentication"}, []string{"info"}, "factor"}
	}
	o.put("user", object{"id": decimalID(f.UID)}.put("name", f.User))
	action := "factor-" + f.Event
	switch f.Event {
	case "enrolled", "removed":
		return ecsClass{[]string{"iam"}, []string{"user", "change"}, action}
	case "dropped":
		return ecsClass{[]string{"authentication"}, []string{"end"}, action}
	}
	return ecsClass{[]string{"authentication"}, []string{"start"}, action}
}

func ecsImage(o object, r *journal.Record) ecsClass {
	i := r.Image
	if i == nil || i.Event != "finding" {
		return ecsClass{[]string{"configuration"}, []string{"info"}, "image-verdict"}
	}
	o.put("vulnerability", object{}.put("id", i.Vulnerability, "severity", i.Severity), "package", object{}.put("name", i.Package, "version", i.Version, "fixed_version", i.Fixed))
	return ecsClass{[]string{"vulnerability"}, []string{"info"}, "image-finding"}
}

// traceID is the trace of a W3C trace context, which the journal has only if it is valid.
func traceID(parent string) (string, bool) {
	parts := strings.Split(parent, "-")
	if len(parts) != 4 || len(parts[1]) != 32 {
		return "", false
	}
	return parts[1], true
}

// split takes an address of TCP apart; port is nil where there is none.
func split(addr string) (host string, port any) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return host, nil
	}
	return host, n
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// lostText tells of losses by cause.
func lostText(lost map[string]uint64) string {
	var parts []string
	for _, cause := range slices.Sorted(maps.Keys(lost)) {
		parts = append(parts, fmt.Sprintf("%d %s", lost[cause], cause))
	}
	return strings.Join(parts, ", ")
}
