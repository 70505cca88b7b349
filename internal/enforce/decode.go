package enforce

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/verdict"
)

// ErrRecord is returned for bytes that are not a record of the kernel side.
var ErrRecord = errors.New("not a kernel record")

// eventVersion is BL_EVENT_VERSION of bpf/events.h; TestABI compares the two.
const eventVersion = 1

// Event is one record of the kernel side, decoded.
type Event struct {
	Type     EventType
	Decision verdict.Decision
	// Detected says that the act was seen too late to stop: the decision is
	// [verdict.WouldDeny] although the policy enforces.
	Detected    bool
	Rule        verdict.Rule
	Hook        string
	Layer       string            // of the executed, mapped or opened file
	Seq         uint64            // one count for all records since the maps were made; a gap is a loss
	SinceBoot   time.Duration     // CLOCK_BOOTTIME
	Container   ident.ContainerID // empty for build steps
	Cgroup      ident.CgroupID
	Build       bool
	Set         uint32
	PolicyIndex uint16

	PID, TID             uint32
	UID, EUID, GID, EGID uint32
	StartedSinceBoot     time.Duration
	CapEffective         uint64
	CapPermitted         uint64
	Comm                 string
	Exe                  string
	ExeDev               uint32 // kernel encoding: major << 20 | minor
	ExeIno               uint64
	Object               string // path of a mapped or opened file, or of a script
	Cwd                  string
	Args                 []string
	ArgsCut, PathCut     bool
	Script               bool
	Ancestors            []Ancestor

	Capability int // of a denied use of one; -1: the event is about something else

	Remote, Local netip.AddrPort
	Protocol      uint16 // IPPROTO_*
}

// Ancestor is one process above the acting one, nearest first.
type Ancestor struct {
	PID              uint32
	UID              uint32
	StartedSinceBoot time.Duration
	Comm             string
}

// EventType says what kind of act a record is about.
type EventType uint8

// The types. Their numbers are those of enum bl_event_type.
const (
	EventExec    EventType = 1
	EventMmap    EventType = 2
	EventFile    EventType = 3
	EventNet     EventType = 4
	EventBPF     EventType = 5
	EventStart   EventType = 6
	EventCreated EventType = 7 // container: its cgroup was made
	EventGone    EventType = 8 // container: its cgroup was removed
	// EventPrivilege is an act that the section privileges is about.
	EventPrivilege EventType = 10
	// EventUsed is that a container uses a file, told once an hour for each: Hook says how, executed
	// (sched_process_exec), mapped as code (mmap_file) or opened as such (file_open). Of opened scripts
	// the first of a directory is told.
	EventUsed EventType = 16
)

// String returns the kind as in the event schema.
func (t EventType) String() string {
	switch t {
	case EventExec:
		return "exec"
	case EventMmap:
		return "mmap"
	case EventFile:
		return "file"
	case EventNet:
		return "network"
	case EventBPF:
		return "bpf"
	case EventPrivilege:
		return "privilege"
	case EventStart, EventCreated, EventGone:
		return "container"
	case EventUsed:
		return "use"
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

var hookNames = [...]string{
	"none", "bprm_check_security", "bprm_creds_from_file", "sched_process_exec", "mmap_file",
	"file_mprotect", "file_open", "inode_rename", "inode_link", "path_truncate", "bpf",
	"cgroup_connect", "cgroup_bind", "socket_listen", "cgroup_skb_egress", "cgroup", "inode_symlink",
	"file_create", "file_delete", "file_attributes", "file_receive",
	"unix_stream_connect", "sk_data_ready",
	24: "cgroup_sendmsg", "cgroup_sock_create", "cgroup_skb_ingress", "socket_create",
	32: "sb_mount", "sb_umount", "sb_pivotroot", "move_mount", "ptrace_access_check", "ptrace_traceme", "task_kill",
	"task_setscheduler", "userns_create", "kernel_read_file", "kernel_load_data", "kernel_module_request", "perf_event_open",
	"key_permission", "inode_init_security_anon", "capable", "task_setrlimit", "file_fcntl", "file_ioctl", "file_permission",
	"socket_sendmsg", "socket_recvmsg",
}

var layerNames = [...]string{"unknown", "image", "upper", "volume", "tmpfs", "memfd", "deleted", "mounted", "plain"}

func nameOf(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return names[0]
}

const (
	flagArgsCut = 0x01
	flagPathCut = 0x02
	flagCwdCut  = 0x04
	flagScript  = 0x08
)

const eventSize = int(unsafe.Sizeof(kernelBlEvent{}))

// decodeEvent decodes one ring record. It trusts nothing in it: lengths are checked,
// text is made printable.
//
// Errors: [ErrRecord].
func decodeEvent(raw []byte) (*Event, error) {
	if len(raw) < eventSize {
		return nil, fmt.Errorf("%d bytes, want %d: %w", len(raw), eventSize, ErrRecord)
	}
	if raw[0] != eventVersion {
		return nil, fmt.Errorf("version %d, want %d: %w", raw[0], eventVersion, ErrRecord)
	}
	// The twin has the kernel's layout (bpf2go, structs.HostLayout) and no pointers: any
	// bytes are a valid value. They are read where they are if they are aligned.
	k := (*kernelBlEvent)(unsafe.Pointer(unsafe.SliceData(raw)))
	if uintptr(unsafe.Pointer(k))%unsafe.Alignof(*k) != 0 {
		k = new(kernelBlEvent)
		copy(unsafe.Slice((*byte)(unsafe.Pointer(k)), eventSize), raw)
	}
	e := &Event{
		Type: EventType(k.Type), Hook: nameOf(hookNames[:], k.Hook), Layer: nameOf(layerNames[:], k.Layer),
		Rule: verdict.Rule(k.Rule), Seq: k.Seq, SinceBoot: time.Duration(k.TimeNs),
		Cgroup: ident.CgroupID(k.Cgroup), Build: k.Class == uint8(kernelBlClassBL_CLASS_BUILD), Set: k.Set, PolicyIndex: k.Policy,
		PID: k.Pid, TID: k.Tid, UID: k.Uid, EUID: k.Euid, GID: k.Gid, EGID: k.Egid,
		StartedSinceBoot: time.Duration(k.StartNs), CapEffective: k.CapEffective, CapPermitted: k.CapPermitted,
		Comm: text(cstring(k.Comm[:])), ExeDev: k.ExeDev, ExeIno: k.ExeIno,
		ArgsCut: k.Flags&flagArgsCut != 0, PathCut: k.Flags&flagPathCut != 0, Script: k.Flags&flagScript != 0,
		Protocol: k.Proto, Capability: -1,
	}
	if e.Type == EventPrivilege && e.Rule == verdict.RuleCapabilities {
		e.Capability = int(uint16(k.FileFlags))
	}
	if !e.Build && k.Id != [32]uint8{} {
		e.Container = ident.ContainerIDFromBytes(k.Id)
	}
	switch kernelBlDecided(k.Decided) {
	case kernelBlDecidedBL_DENIED:
		e.Decision = verdict.Denied
	case kernelBlDecidedBL_ALLOWED:
		e.Decision = verdict.Allowed
	case kernelBlDecidedBL_WOULD_DENY:
		e.Decision = verdict.WouldDeny
	case kernelBlDecidedBL_KILLED:
		e.Decision = verdict.Killed
	case kernelBlDecidedBL_DETECTED:
		e.Decision, e.Detected = verdict.WouldDeny, true
	default:
		return nil, fmt.Errorf("decision %d: %w", k.Decided, ErrRecord)
	}
	if err := e.takeData(k); err != nil {
		return nil, err
	}
	e.takeAncestors(k)
	if k.Family != 0 {
		e.Remote = netip.AddrPortFrom(netip.AddrFrom16(k.Addr).Unmap(), k.Port)
		e.Local = netip.AddrPortFrom(netip.AddrFrom16(k.Laddr).Unmap(), k.Lport)
	}
	return e, nil
}

// takeData takes the strings that lie one after the other in the record's data. They share
// one piece of memory.
func (e *Event) takeData(k *kernelBlEvent) error {
	lengths := [...]uint16{k.ExeLen, k.ObjLen, k.CwdLen, k.ArgsLen}
	total := 0
	for _, n := range lengths {
		total += int(n)
	}
	if total > len(k.Data) {
		return fmt.Errorf("lengths exceed the data: %w", ErrRecord)
	}
	all := string(k.Data[:total])
	valid := utf8.ValidString(all)
	var args string
	for i, to := range [...]*string{&e.Exe, &e.Object, &e.Cwd, &args} {
		*to, all = all[:lengths[i]], all[lengths[i]:]
		// Whole and valid need not mean that each part is: a cut can fall into a character.
		if !valid || !utf8.ValidString(*to) {
			*to = printable(*to)
		}
	}
	if args == "" {
		return nil
	}
	args = strings.TrimSuffix(args, "\x00")
	e.Args = make([]string, 0, strings.Count(args, "\x00")+1)
	for a := range strings.SplitSeq(args, "\x00") {
		e.Args = append(e.Args, a)
	}
	return nil
}

func (e *Event) takeAncestors(k *kernelBlEvent) {
	n := min(int(k.Ancestors), len(k.Ancestor))
	if n == 0 {
		return
	}
	var comms [len(k.Ancestor) * len(k.Ancestor[0].Comm)]byte
	used := comms[:0]
	for i := range n {
		used = append(used, cstring(k.Ancestor[i].Comm[:])...)
	}
	all := string(used)
	e.Ancestors = make([]Ancestor, n)
	for i := range n {
		a := &k.Ancestor[i]
		l := len(cstring(a.Comm[:]))
		e.Ancestors[i] = Ancestor{PID: a.Pid, UID: a.Uid, StartedSinceBoot: time.Duration(a.StartNs), Comm: printable(all[:l])}
		all = all[l:]
	}
}

func cstring(b []byte) []byte {
	if before, _, ok := bytes.Cut(b, []byte{0}); ok {
		return before
	}
	return b
}

// text makes bytes that a container chose fit for a record.
func text(b []byte) string { return printable(string(b)) }

// printable makes text valid UTF-8.
func printable(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
