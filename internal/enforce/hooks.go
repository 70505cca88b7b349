package enforce

import (
	"github.com/cilium/ebpf"

	"github.com/belay-project/belay/internal/verdict"
)

// attachKind says how a program is attached.
type attachKind uint8

const (
	attachTracing attachKind = iota // tp_btf and fmod_ret, through bpf_link
	attachLSM
	attachCgroup // at the root of the cgroup v2 hierarchy
)

// hook is one program of the kernel side and where it goes.
type hook struct {
	program  string // name in the object
	name     string // name for people: the kernel's
	backends []verdict.Backend
	kind     attachKind
	cgroup   ebpf.AttachType // of attachCgroup
	// need says that enforcement is not worth having without the hook. A hook that is
	// not needed and is refused lowers the level of its rules.
	need bool
	// syscalls marks what is attached only with Options.SignalSyscalls.
	syscalls bool
}

var (
	everyBackend = []verdict.Backend{verdict.BackendLSM, verdict.BackendModret, verdict.BackendSignal}
	onlyLSM      = []verdict.Backend{verdict.BackendLSM}
	onlyModret   = []verdict.Backend{verdict.BackendModret}
)

// hooks lists every program in the order of attachment: labels first, decisions after
// them, so that no decision sees a task whose history was missed.
var hooks = []hook{
	{program: "bl_cgroup_mkdir", name: "cgroup_mkdir", backends: everyBackend, need: true},
	{program: "bl_cgroup_rmdir", name: "cgroup_rmdir", backends: everyBackend, need: true},
	{program: "bl_attach_task", name: "cgroup_attach_task", backends: everyBackend, need: true},
	{program: "bl_fork", name: "sched_process_fork", backends: everyBackend, need: true},

	{program: "bl_lsm_mount", name: "sb_mount", backends: onlyLSM, kind: attachLSM},
	{program: "bl_lsm_move_mount", name: "move_mount", backends: onlyLSM, kind: attachLSM},
	{program: "bl_lsm_bpf", name: "bpf", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_mmap", name: "mmap_file", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_mprotect", name: "file_mprotect", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_open", name: "file_open", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_rename", name: "inode_rename", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_link", name: "inode_link", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_symlink", name: "inode_symlink", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_truncate", name: "path_truncate", backends: onlyLSM, kind: attachLSM},
	{program: "bl_lsm_bprm", name: "bprm_check_security", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_creds", name: "bprm_creds_from_file", backends: onlyLSM, kind: attachLSM, need: true},

	{program: "bl_mod_mount", name: "security_sb_mount", backends: onlyModret},
	{program: "bl_mod_move_mount", name: "security_move_mount", backends: onlyModret},
	{program: "bl_mod_bpf", name: "security_bpf", backends: onlyModret, need: true},
	{program: "bl_mod_mmap", name: "security_mmap_file", backends: onlyModret, need: true},
	{program: "bl_mod_mprotect", name: "security_file_mprotect", backends: onlyModret, need: true},
	{program: "bl_mod_open", name: "security_file_open", backends: onlyModret, need: true},
	{program: "bl_mod_rename", name: "security_inode_rename", backends: onlyModret, need: true},
	{program: "bl_mod_link", name: "security_inode_link", backends: onlyModret, need: true},
	{program: "bl_mod_symlink", name: "security_inode_symlink", backends: onlyModret, need: true},
	{program: "bl_mod_truncate", name: "security_path_truncate", backends: onlyModret},
	{program: "bl_mod_bprm", name: "security_bprm_check", backends: onlyModret, need: true},
	{program: "bl_mod_creds", name: "security_bprm_creds_from_file", backends: onlyModret, need: true},

	{program: "bl_sockops", name: "cgroup sock_ops", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupSockOps},
	{program: "bl_egress", name: "cgroup_skb egress", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInetEgress},
	{program: "bl_connect4", name: "cgroup connect4", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet4Connect},
	{program: "bl_connect6", name: "cgroup connect6", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet6Connect},
	{program: "bl_bind4", name: "cgroup bind4", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet4Bind},
	{program: "bl_bind6", name: "cgroup bind6", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet6Bind},
	{program: "bl_lsm_listen", name: "socket_listen", backends: onlyLSM, kind: attachLSM},
	{program: "bl_mod_listen", name: "security_socket_listen", backends: onlyModret},
	{program: "bl_sig_listen", name: "inet_sock_set_state", backends: []verdict.Backend{verdict.BackendSignal}},

	{program: "bl_lsm_unix_connect", name: "unix_stream_connect", backends: onlyLSM, kind: attachLSM},
	{program: "bl_mod_unix_connect", name: "security_unix_stream_connect", backends: onlyModret},
	{program: "bl_sig_unix_connect", name: "sk_data_ready", backends: []verdict.Backend{verdict.BackendSignal}},

	{program: "bl_exec_done", name: "sched_process_exec", backends: everyBackend, need: true},
	{program: "bl_sys_exit", name: "sys_exit", backends: []verdict.Backend{verdict.BackendSignal}, need: true, syscalls: true},
}

// contractProgram is in the object for tests and benchmarks and is never attached.
const contractProgram = "bl_contract_run"
