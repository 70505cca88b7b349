package output

import (
	"fmt"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

// OCSFVersion is the version of the Open Cybersecurity Schema Framework that records are mapped
// to. Source: https://github.com/ocsf/ocsf-schema/tree/v1.4.0; docs/outputs.md has every field.
const OCSFVersion = "1.4.0"

// class is a class of events of OCSF, with one of its activities.
type class struct {
	uid      int // 0: base_event
	name     string
	activity int
	what     string // name of the activity
}

const otherActivity = 99

// Classes that records are mapped to.
const (
	classBase, classFile, classKernel, classModule, classProcess, classLog = 0, 1001, 1003, 1005, 1007, 1008
	classVulnerability, classDetection                                     = 2002, 2004
	classAccount, classAuthentication                                      = 3001, 3002
	classNetwork, classLifecycle, classAPI                                 = 4001, 6002, 6003
)

var classNames = map[int]string{
	classBase: "Base Event", classFile: "File System Activity", classKernel: "Kernel Activity", classModule: "Module Activity", classProcess: "Process Activity",
	classLog: "Event Log Activity", classVulnerability: "Vulnerability Finding", classDetection: "Detection Finding", classAccount: "Account Change",
	classAuthentication: "Authentication", classNetwork: "Network Activity", classLifecycle: "Application Lifecycle", classAPI: "API Activity",
}

func activity(uid, id int, what string) class { return class{uid, classNames[uid], id, what} }

// ocsfKinds has for each kind what says its class, and sets what the class has of its own.
var ocsfKinds = map[journal.Kind]func(o object, r *journal.Record, version string) class{
	journal.KindExec: ocsfExec, journal.KindMmap: ocsfMmap, journal.KindFile: ocsfFile, journal.KindNetwork: ocsfNetwork,
	journal.KindBPF: ocsfBPF, journal.KindPrivilege: ocsfPrivilege, journal.KindContainer: ocsfContainer, journal.KindAgent: ocsfAgent,
	journal.KindLoss: ocsfLoss, journal.KindAPI: ocsfAPI, journal.KindFactor: ocsfFactor, journal.KindImage: ocsfImage, journal.KindLoad: ocsfLoad,
	journal.KindAnchor: ocsfAnchor,
}

// ocsf returns a record in the words of OCSF. What it has no words for is in raw_data, which is
// the record as it is.
func ocsf(r *journal.Record, version string) ([]byte, error) {
	r, raw, err := outgoing(r)
	if err != nil {
		return nil, err
	}
	o := object{}
	c := activity(classBase, otherActivity, string(r.Kind))
	if f := ocsfKinds[r.Kind]; f != nil {
		c = f(o, r, version)
	}
	product := object{"name": "Belay", "vendor_name": "Belay"}.put("version", version)
	o.put(
		"class_uid", c.uid, "class_name", c.name, "category_uid", c.uid/1000, "activity_id", c.activity, "activity_name", c.what,
		"type_uid", c.uid*100+c.activity, "time", r.Time.UnixMilli(), "message", r.Message, "raw_data", string(raw),
		"metadata", object{
			"version": OCSFVersion, "product": product, "profiles": []string{"host", "container", "security_control"}, "log_name": "belay",
			"uid": UID(r), "sequence": r.Seq, "event_code": string(r.Kind), "original_time": r.Time.UTC().Format(time.RFC3339Nano),
		},
		"device", ocsfDevice(r),
	)
	ocsfOutcome(o, r)
	o.put("unmapped", object{"boot_id": r.BootID}.put("hook", r.Hook, "level", r.Level, "backend", string(r.Backend), "errno", number(r.Errno), "flags", r.Flags))
	return line(o)
}

func ocsfDevice(r *journal.Record) object {
	d := object{"hostname": r.Host, "type_id": 1, "type": "Server", "os": object{"name": "Linux", "type": "Linux", "type_id": 200}}
	if r.Kind == journal.KindContainer {
		d.put("container", ocsfOf(r.Container))
	}
	return d
}

// severities of OCSF.
const (
	ocsfInformational = iota + 1
	ocsfLow
	ocsfMedium
	ocsfHigh
	ocsfCritical
)

var ocsfSeverities = [...]string{"Unknown", "Informational", "Low", "Medium", "High", "Critical"}

// imageSeverities are OCSF's for those of findings.
var imageSeverities = map[string]int{"negligible": ocsfLow, "low": ocsfLow, "medium": ocsfMedium, "high": ocsfHigh, "critical": ocsfCritical}

// ocsfOutcome sets what was decided, and how grave that is.
func ocsfOutcome(o object, r *journal.Record) {
	sev := ocsfInformational
	switch {
	case r.Kind == journal.KindLoss:
		sev = ocsfHigh
	case r.Image != nil && imageSeverities[r.Image.Severity] > 0:
		sev = imageSeverities[r.Image.Severity]
	case r.Load != nil && (r.Load.Event == "over" || r.Load.Event == "unreadable"), refused(r):
		sev = ocsfMedium
	case r.Decision == verdict.WouldDeny:
		sev = ocsfLow
	}
	o.put("severity_id", sev, "severity", ocsfSeverities[sev])
	switch r.Decision {
	case verdict.Denied, verdict.Killed:
		o.put("action_id", 2, "action", "Denied", "disposition_id", 2, "disposition", "Blocked", "status_id", 2, "status", "Failure", "is_alert", true)
	case verdict.WouldDeny:
		o.put("action_id", 3, "action", "Observed", "disposition_id", 17, "disposition", "Logged", "status_id", 1, "status", "Success", "is_alert", true)
	case verdict.Allowed:
		o.put("action_id", 1, "action", "Allowed", "disposition_id", 1, "disposition", "Allowed", "status_id", 1, "status", "Success", "is_alert", false)
	}
	o.put("status_code", string(r.Decision))
	if p := r.Policy; p != nil {
		o.put("policy", object{"name": p.Name, "uid": p.Name + "/" + p.Rule, "version": p.Revision, "desc": p.Rule, "is_applied": p.Mode == "enforce"})
	}
}

func ocsfOf(c *journal.Container) object {
	if c == nil {
		return nil
	}
	return object{}.put("uid", string(c.ID), "name", c.Name, "image", object{}.put("name", c.Image, "uid", c.Digest), "runtime", c.Class)
}

// ocsfProcess is the task that acted.
func ocsfProcess(r *journal.Record) object {
	p := r.Process
	if p == nil {
		return nil
	}
	o := object{"pid": p.PID, "tid": p.TID, "user": object{"uid": decimalID(p.EUID)}}
	o.put("name", p.Comm, "uid", decimal(p.StartNS), "cmd_line", strings.Join(p.Args, " "), "working_directory", p.Cwd, "container", ocsfOf(r.Container))
	if x := p.Executable; x != nil {
		o.put("file", object{"type_id": 1, "type": "Regular File"}.put("path", x.Path, "name", base(x.Path), "uid", decimal(x.Ino)))
	}
	if len(p.Ancestors) > 0 {
		o.put("parent_process", ocsfParent(&p.Ancestors[0]))
	}
	return o
}

func decimalID(id uint32) string {
	if id == 0 {
		return "0"
	}
	return decimal(uint64(id))
}

func ocsfParent(a *journal.Ancestor) object {
	return object{"pid": a.PID, "user": object{"uid": decimalID(a.UID)}}.put("name", a.Comm, "uid", decimal(a.StartNS))
}

// ocsfActor is who acted: the process, or the container where none is known.
func ocsfActor(r *journal.Record) object {
	if p := ocsfProcess(r); p != nil {
		return object{"process": p, "user": object{"uid": decimalID(r.Process.UID)}}
	}
	return object{"app_name": "unknown"}
}

func ocsfObject(r *journal.Record) object {
	o := object{"type_id": 0, "type": "Unknown"}
	if f := r.Object; f != nil {
		o.put("path", f.Path, "name", base(f.Path), "uid", decimal(f.Ino))
	}
	if o["name"] == nil {
		o["name"] = "unknown"
	}
	return o
}

func ocsfExec(o object, r *journal.Record, _ string) class {
	p := ocsfProcess(r)
	if p == nil {
		p = object{"name": "unknown", "uid": UID(r)}.put("container", ocsfOf(r.Container))
	}
	actor := ocsfActor(r)
	if r.Process != nil && len(r.Process.Ancestors) > 0 {
		actor = object{"process": ocsfParent(&r.Process.Ancestors[0])}
	}
	o.put("process", p, "actor", actor)
	return activity(classProcess, 1, "Launch")
}

func ocsfMmap(o object, r *journal.Record, _ string) class {
	o.put("actor", ocsfActor(r), "module", object{"load_type_id": 4, "load_type": "Mapped", "file": ocsfObject(r)})
	return activity(classModule, 1, "Load")
}

// fileActivities are OCSF's by words of the hooks' names.
var fileActivities = map[string]class{
	"open": activity(classFile, 14, "Open"), "rename": activity(classFile, 5, "Rename"), "unlink": activity(classFile, 4, "Delete"), "rmdir": activity(classFile, 4, "Delete"),
	"link": activity(classFile, 1, "Create"), "create": activity(classFile, 1, "Create"), "mkdir": activity(classFile, 1, "Create"), "mknod": activity(classFile, 1, "Create"),
	"trunc": activity(classFile, 3, "Update"), "setattr": activity(classFile, 6, "Set Attributes"), "chmod": activity(classFile, 7, "Set Security"), "chown": activity(classFile, 7, "Set Security"),
}

func ocsfFile(o object, r *journal.Record, _ string) class {
	o.put("actor", ocsfActor(r), "file", ocsfObject(r))
	// unlink before link: it has it in its name.
	if c, ok := fileActivities[verb(r.Hook, "open", "rename", "unlink", "rmdir", "link", "create", "mkdir", "mknod", "trunc", "setattr", "chmod", "chown")]; ok {
		return c
	}
	return activity(classFile, otherActivity, "Other")
}

func ocsfNetwork(o object, r *journal.Record, _ string) class {
	c := activity(classNetwork, 6, "Traffic")
	direction := 0
	switch verb(r.Hook, "connect", "bind", "listen", "accept", "sendmsg") {
	case "connect":
		c, direction = activity(classNetwork, 1, "Open"), 2
	case "listen":
		c, direction = activity(classNetwork, 7, "Listen"), 1
	case "bind":
		c = activity(classNetwork, otherActivity, "Bind")
	case "accept":
		c, direction = activity(classNetwork, 1, "Open"), 1
	case "sendmsg":
		direction = 2
	}
	info := object{"direction_id": direction, "direction": [...]string{"Unknown", "Inbound", "Outbound"}[direction]}
	src := object{"hostname": r.Host}
	if s := r.Object; s != nil {
		info.put("protocol_name", s.Protocol)
		src.put("ip", s.LocalAddr, "port", number(s.LocalPort))
		o.put("dst_endpoint", object{}.put("ip", s.Addr, "port", number(s.Port), "name", s.Path))
	}
	o.put("actor", ocsfActor(r), "src_endpoint", src, "connection_info", info)
	return c
}

func ocsfBPF(o object, r *journal.Record, _ string) class {
	o.put("actor", ocsfActor(r), "kernel", object{"name": "bpf", "type_id": 2, "type": "System Call"})
	return activity(classKernel, 4, "Invoke")
}

func ocsfPrivilege(o object, r *journal.Record, _ string) class {
	k := object{"type_id": otherActivity, "type": "Security Hook", "name": "unknown"}.put("name", r.Hook)
	if r.Object != nil {
		k.put("name", r.Object.Name, "path", r.Object.Path)
	}
	o.put("actor", ocsfActor(r), "kernel", k)
	return activity(classKernel, 4, "Invoke")
}

func ocsfContainer(o object, r *journal.Record, _ string) class {
	app := object{"vendor_name": "container", "name": "unknown"}
	if c := r.Container; c != nil {
		app.put("name", string(c.ID), "name", c.Name, "uid", string(c.ID), "version", c.Digest)
	}
	o.put("app", app)
	switch r.Event {
	case journal.EventFirstExec:
		return activity(classLifecycle, 3, "Start")
	case journal.EventGone:
		return activity(classLifecycle, 4, "Stop")
	}
	return activity(classLifecycle, otherActivity, "Create")
}

func ocsfAgent(o object, r *journal.Record, version string) class {
	o.put("app", object{"vendor_name": "Belay", "name": "belay-agent"}.put("version", version))
	return activity(classLifecycle, otherActivity, "Report")
}

func ocsfLoss(o object, r *journal.Record, _ string) class {
	o.put("log_name", "belay", "log_provider", "belay-agent", "status_detail", lostText(r.Lost))
	return activity(classLog, otherActivity, "Loss")
}

func ocsfAPI(o object, r *journal.Record, _ string) class {
	a := r.API
	if a == nil {
		a = &journal.API{}
	}
	user := object{"type_id": otherActivity, "type": "Unknown"}.put("type", a.CallerKind, "name", a.Caller)
	if a.UID != nil {
		user.put("uid", decimalID(*a.UID))
	}
	actor := object{"user": user}
	if a.PID > 0 {
		actor.put("process", object{"pid": a.PID}.put("container", ocsfOf(r.Container)))
	}
	service := "docker"
	if strings.HasPrefix(a.Action, "policy.") {
		service = "belay"
	}
	operation := a.Action
	if operation == "" {
		operation = "unknown"
	}
	api := object{"operation": operation, "service": object{"name": service}}
	if a.Status != 0 {
		api.put("response", object{"code": a.Status})
	}
	var resources []object
	for _, id := range a.Resources {
		resources = append(resources, object{"uid": id})
	}
	host, port := split(a.Remote)
	src := object{"hostname": r.Host}
	if host != "" {
		src = object{"ip": host}.put("port", port)
	}
	o.put("actor", actor, "api", api, "src_endpoint", src, "resources", resources, "status_detail", a.Cause, "duration", a.DurationUS/1000,
		"http_request", object{}.put("http_method", a.Method, "url", object{}.put("path", a.Path)))
	switch {
	case a.Method == "GET" || a.Method == "HEAD":
		return activity(classAPI, 2, "Read")
	case a.Method == "DELETE":
		return activity(classAPI, 4, "Delete")
	case strings.HasSuffix(a.Action, ".create"):
		return activity(classAPI, 1, "Create")
	}
	return activity(classAPI, 3, "Update")
}

func ocsfFactor(o object, r *journal.Record, _ string) class {
	f := r.Factor
	if f == nil {
		f = &journal.Factor{}
	}
	o.put("user", object{"uid": decimalID(f.UID)}.put("name", f.User), "status_detail", f.Cause,
		"actor", object{"user": object{"uid": decimalID(f.CallerUID)}, "session": object{"uid": "unknown"}.put("uid", f.Session)})
	switch f.Event {
	case "enrolled":
		return activity(classAccount, 10, "MFA Factor Enable")
	case "removed":
		return activity(classAccount, 11, "MFA Factor Disable")
	}
	o.put("is_mfa", true, "service", object{"name": "belay"})
	if f.Event == "dropped" {
		return activity(classAuthentication, 2, "Logoff")
	}
	return activity(classAuthentication, 1, "Logon")
}

func ocsfImage(o object, r *journal.Record, _ string) class {
	i := r.Image
	if i == nil {
		i = &journal.Image{}
	}
	resources := []object{object{"type": "container image"}.put("uid", i.ID, "name", first(i.Names))}
	for _, id := range i.Containers {
		resources = append(resources, object{"type": "container", "uid": id})
	}
	o.put("resources", resources)
	if i.Event != "finding" {
		o.put("finding_info", object{"uid": UID(r), "title": "Verdict of an image policy", "types": []string{"image"}}.put("desc", strings.Join(i.Details, "; ")))
		return activity(classDetection, 1, "Create")
	}
	v := object{"title": i.Vulnerability}.put("severity", i.Severity, "is_exploit_available", i.Exploited, "is_fix_available", i.Fixed != "", "related_vulnerabilities", i.About,
		"affected_packages", []object{object{"name": i.Package, "version": i.Version}.put("fixed_in_version", i.Fixed)})
	for _, name := range append([]string{i.Vulnerability}, i.Aliases...) {
		if strings.HasPrefix(name, "CVE-") {
			v.put("cve", object{"uid": name})
			break
		}
	}
	o.put("finding_info", object{"uid": i.ID + "/" + i.Vulnerability + "/" + i.Package, "title": i.Vulnerability + " in " + i.Package}, "vulnerabilities", []object{v})
	return activity(classVulnerability, 1, "Create")
}

func ocsfAnchor(o object, r *journal.Record, _ string) class {
	o.put("log_name", "belay", "log_provider", "belay-agent")
	if a := r.Anchor; a != nil {
		o.put("status_detail", fmt.Sprintf("seq %d, events %d %s, denials %d %s", a.Seq, a.Events.Segment, a.Events.Digest, a.Denials.Segment, a.Denials.Digest))
	}
	return activity(classLog, otherActivity, "Anchor")
}

// ocsfLoad: OCSF has no class for how full a machine is.
func ocsfLoad(o object, r *journal.Record, _ string) class {
	what := "load"
	if l := r.Load; l != nil {
		what += " " + l.Event
		o.put("status_detail", l.Cap)
	}
	return activity(classBase, otherActivity, what)
}
