package main

import (
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

const (
	timeLayout = "2006-01-02 15:04:05.000"
	// A stream has no width that fits all its names, so columns are at least this wide.
	decisionWidth  = 10
	containerWidth = 16
	maxArgs        = 120 // characters of arguments in one line
)

// recordLine returns a record as one line for people.
func (t *terminal) recordLine(r *journal.Record) string {
	what, shade := string(r.Decision), decisionColour(r.Decision)
	if what == "" {
		what = string(r.Kind)
	}
	where := "-"
	if r.Container != nil {
		where = r.Container.Name
		if where == "" {
			where = orDash(r.Container.ID.Short())
		}
	}
	line := t.colours.paint(grey, r.Time.In(time.Local).Format(timeLayout)) + "  " +
		t.colours.paint(shade, pad(clean(what), decisionWidth)) + "  " +
		pad(clean(where), containerWidth) + "  " + clean(deed(r))
	if p := r.Policy; p != nil {
		line += t.colours.paint(grey, "  ["+clean(p.Rule+", policy "+p.Name)+"]")
	}
	return line
}

func decisionColour(d verdict.Decision) colour {
	switch d {
	case verdict.Denied, verdict.Killed:
		return red
	case verdict.WouldDeny:
		return yellow
	case verdict.Allowed:
		return green
	}
	return noColour
}

func pad(s string, width int) string {
	if n := len([]rune(s)); n < width {
		return s + strings.Repeat(" ", width-n)
	}
	return s
}

// deed says what was tried, and who tried it.
func deed(r *journal.Record) string {
	var s string
	switch r.Kind {
	case journal.KindExec:
		s = execDeed(r)
	case journal.KindMmap:
		s = "map " + objectText(r) + " as code" + by(r)
	case journal.KindFile:
		s = verbOf(r.Hook, "use", "open", "rename", "link", "truncate", "unlink") + " " + objectText(r) + by(r)
	case journal.KindNetwork:
		s = networkDeed(r) + by(r)
	case journal.KindBPF:
		s = "call bpf(2)" + by(r)
	case journal.KindPrivilege:
		s = privilegeDeed(r) + by(r)
	case journal.KindLoss:
		s = lossDeed(r)
	case journal.KindAPI:
		s = apiDeed(r.API)
	case journal.KindImage:
		s = imageDeed(r)
	case journal.KindFactor:
		s = factorDeed(r.Factor)
	case journal.KindLoad:
		s = loadDeed(r.Load)
	case journal.KindAnchor:
		s = anchorDeed(r.Anchor)
	}
	switch {
	case r.Message == "":
	case s == "":
		s = r.Message
	default:
		s += ": " + r.Message
	}
	if slices.Contains(r.Flags, journal.FlagBoundLate) {
		s += " (bound late)"
	}
	return s
}

// privilegeWords says what a hook was asked for, for the rules of the section privileges.
var privilegeWords = map[string]string{
	"sb_mount": "mount on", "move_mount": "move a mount to", "sb_umount": "unmount", "sb_pivotroot": "change the root to",
	"ptrace_access_check": "look into or trace another process", "ptrace_traceme": "be traced", "task_kill": "signal a process outside the container",
	"task_setscheduler": "schedule a process outside the container", "task_setrlimit": "limit a process outside the container", "bpf": "call bpf()", "userns_create": "make a user namespace",
	"kernel_read_file": "load a kernel module", "kernel_load_data": "load a kernel module",
	"kernel_module_request": "have the kernel load a module", "perf_event_open": "open a performance counter", "key_permission": "use the kernel's keys",
	"inode_init_security_anon": "make an io_uring", "capable": "use", "bprm_creds_from_file": "become another user by", "file_open": "open",
}

// privilegeDeed says what was asked of the kernel, by the hook that was asked for it.
func privilegeDeed(r *journal.Record) string {
	s := privilegeWords[r.Hook]
	if s == "" {
		s = "use a privilege"
	}
	if r.Object == nil {
		return s
	}
	if r.Object.Name != "" {
		return s + " " + r.Object.Name
	}
	return s + " " + objectText(r)
}

func apiDeed(a *journal.API) string {
	if a == nil {
		return "call the API"
	}
	s := a.Action
	if s == "" {
		s = a.Method + " " + a.Path
	}
	if len(a.Resources) > 0 {
		id := a.Resources[0]
		s += " of " + id[:min(len(id), 12)]
	}
	who := a.Caller
	if who == "" && a.UID != nil {
		who = "uid " + strconv.FormatUint(uint64(*a.UID), 10)
	}
	s += " by " + strings.TrimSpace(a.CallerKind+" "+who)
	if a.Elevation != "" {
		s += " under elevation " + a.Elevation
	}
	return s
}

func imageDeed(r *journal.Record) string {
	img := r.Image
	if img == nil {
		return "image"
	}
	name := shortDigest(img.ID)
	if len(img.Names) > 0 {
		name = img.Names[0]
	}
	s := img.Event + " of image " + name
	if len(img.Details) > 0 {
		s += " (" + strings.Join(img.Details, "; ") + ")"
	}
	return s
}

// loadDeed names what the message tells of.
func loadDeed(l *journal.Load) string {
	if l == nil {
		return "load"
	}
	return l.Cap + " " + l.Event
}

func factorDeed(f *journal.Factor) string {
	if f == nil {
		return "second factor"
	}
	s := "second factor of " + userText(f.User, f.UID) + " " + f.Event
	if f.CallerUID != f.UID {
		s += " by " + userText("", f.CallerUID)
	}
	if f.Elevation != "" {
		s += " " + f.Elevation
	}
	if len(f.Actions) > 0 {
		s += " (" + strings.Join(f.Actions, ", ") + ")"
	}
	return s
}

func execDeed(r *journal.Record) string {
	s := "exec " + objectText(r)
	p := r.Process
	if p == nil {
		return s
	}
	file, _ := objectFile(r)
	args := p.Args
	if slices.Contains(r.Flags, journal.FlagScript) && p.Executable != nil {
		s += " (a script of " + cutPath(p.Executable.Path, p.Executable.PathTruncated) + ")"
		// The kernel puts the interpreter, its option and the script before the
		// script's own arguments: see binfmt_script.c.
		args = args[1+slices.Index(args, file):]
	} else if len(args) > 0 {
		// The name under which a program was called is its caller's to choose.
		if path.Base(args[0]) != path.Base(file) {
			s += " called " + quoteArg(args[0])
		}
		args = args[1:]
	}
	s += arguments(args, p.ArgsTruncated)
	return s + " as " + user(p)
}

func arguments(args []string, truncated bool) string {
	var b strings.Builder
	for _, a := range args {
		b.WriteString(" " + quoteArg(a))
	}
	s := []rune(b.String())
	if len(s) > maxArgs {
		s, truncated = s[:maxArgs], true
	}
	if truncated {
		return string(s) + "..."
	}
	return string(s)
}

func quoteArg(a string) string {
	if a == "" || strings.ContainsAny(a, " \"'\\") {
		return strconv.Quote(a)
	}
	return a
}

func user(p *journal.Process) string {
	if p.EUID != p.UID {
		return fmt.Sprintf("uid %d, effective %d", p.UID, p.EUID)
	}
	return fmt.Sprintf("uid %d", p.UID)
}

// by names the program that acted.
func by(r *journal.Record) string {
	switch p := r.Process; {
	case p == nil:
		return ""
	case p.Executable != nil && p.Executable.Path != "":
		return " by " + cutPath(p.Executable.Path, p.Executable.PathTruncated) + " as " + user(p)
	default:
		return " by " + orDash(p.Comm) + " as " + user(p)
	}
}

// objectFile returns the path of the file that was acted on, and its layer.
func objectFile(r *journal.Record) (string, journal.Layer) {
	if o := r.Object; o != nil && o.Path != "" {
		return cutPath(o.Path, o.PathTruncated), o.Layer
	}
	if p := r.Process; p != nil && p.Executable != nil && p.Executable.Path != "" {
		return cutPath(p.Executable.Path, p.Executable.PathTruncated), p.Executable.Layer
	}
	return "?", journal.LayerUnknown
}

// objectText is the file that was acted on, and where it comes from unless that is
// the image.
func objectText(r *journal.Record) string {
	file, layer := objectFile(r)
	if s := layerNote(layer); s != "" {
		return file + " (" + s + ")"
	}
	return file
}

func layerNote(l journal.Layer) string {
	switch l {
	case journal.LayerImage, journal.LayerPlain, journal.LayerUnknown, "":
		return ""
	case journal.LayerUpper:
		return "written after the start"
	case journal.LayerMounted:
		return "mounted after the start"
	}
	return string(l)
}

func cutPath(p string, truncated bool) string {
	if truncated {
		return "..." + p
	}
	return p
}

// verbOf returns the first of verbs that the hook's name has in it.
func verbOf(hook, otherwise string, verbs ...string) string {
	for _, v := range verbs {
		if strings.Contains(hook, v) {
			return v
		}
	}
	return otherwise
}

func networkDeed(r *journal.Record) string {
	switch r.Hook {
	case "cgroup_sock_create":
		return "make a raw socket"
	case "socket_create":
		return "make a packet socket"
	}
	verb := verbOf(r.Hook, "speak", "connect", "bind", "listen", "accept", "sendmsg")
	if p := r.Policy; p != nil && strings.HasPrefix(p.Rule, "network.") && (verb == "speak" || verb == "sendmsg") {
		verb = "send"
	}
	o := r.Object
	if o == nil {
		return verb
	}
	proto := ""
	if o.Protocol != "" {
		proto = "/" + o.Protocol
	}
	if o.Protocol == "unix" {
		if o.Path == "" {
			return "connect to an abstract socket of the container engine"
		}
		return "connect to " + o.Path
	}
	local := address(o.LocalAddr, o.LocalPort)
	remote := address(o.Addr, o.Port)
	switch {
	case r.Hook == "cgroup_skb_ingress":
		return "be reached on " + orDash(local) + proto + " by " + orDash(remote)
	case verb == "bind" || verb == "listen":
		if local == "" {
			local = remote
		}
		return verb + " on " + orDash(local) + proto
	case remote == "":
		return verb + " on " + orDash(local) + proto
	}
	return verb + " to " + remote + proto
}

func address(host string, port uint16) string {
	if host == "" && port == 0 {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

func lossDeed(r *journal.Record) string {
	if len(r.Lost) == 0 {
		return ""
	}
	parts := make([]string, 0, len(r.Lost))
	for _, cause := range slices.Sorted(maps.Keys(r.Lost)) {
		parts = append(parts, fmt.Sprintf("%d %s", r.Lost[cause], cause))
	}
	return "records are missing here: " + strings.Join(parts, ", ")
}

// anchorDeed says where the journal's chains ended.
func anchorDeed(a *journal.Anchor) string {
	if a == nil {
		return "anchor"
	}
	return fmt.Sprintf("the journal ends with record %d, events %.16s, denials %.16s", a.Seq, a.Events.Digest, a.Denials.Digest)
}
