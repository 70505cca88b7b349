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
	// files marks what the files rules need: without it they are unsupported.
	files bool
	// rules are unsupported where this hook is refused; need says it of all.
	rules []verdict.Rule
	// held marks what is attached only while a container holds descriptors that its rules deny, of these kinds: see held.go.
	held kernelBlHeld
	// interrupts marks what fires in interrupts too: a run that is left out is one of those, which has nothing to judge.
	interrupts bool
	// syscalls marks what is attached only with Options.SignalSyscalls.
	syscalls bool
}

var (
	everyBackend = []verdict.Backend{verdict.BackendLSM, verdict.BackendModret, verdict.BackendSignal}
	onlyLSM      = []verdict.Backend{verdict.BackendLSM}
	onlyModret   = []verdict.Backend{verdict.BackendModret}
)

// Rules that programs for packets and calls are about.
var (
	egressRules = []verdict.Rule{verdict.RuleEgress}
	tcpRules    = []verdict.Rule{verdict.RuleEgress, verdict.RuleIngress}
	packetRules = []verdict.Rule{verdict.RuleEgress, verdict.RuleIngress, verdict.RuleListen, verdict.RuleRawSockets}
)

// hostRules are those of the section host.
var hostRules = []verdict.Rule{verdict.RuleHostAgent, verdict.RuleHostRuntimes, verdict.RuleHostEngine}

// hooks lists every program in the order of attachment: labels first, decisions after
// them, so that no decision sees a task whose history was missed.
var hooks = []hook{
	{program: "bl_cgroup_mkdir", name: "cgroup_mkdir", backends: everyBackend, need: true},
	{program: "bl_cgroup_rmdir", name: "cgroup_rmdir", backends: everyBackend, need: true},
	{program: "bl_attach_task", name: "cgroup_attach_task", backends: everyBackend, need: true},
	{program: "bl_fork", name: "sched_process_fork", backends: everyBackend, need: true},

	{program: "bl_lsm_mount", name: "sb_mount", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_move_mount", name: "move_mount", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_bpf", name: "bpf", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_mmap", name: "mmap_file", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_mprotect", name: "file_mprotect", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_open", name: "file_open", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_rename", name: "inode_rename", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_link", name: "inode_link", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_symlink", name: "inode_symlink", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_truncate", name: "path_truncate", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_ftruncate", name: "file_truncate", backends: onlyLSM, kind: attachLSM},
	{program: "bl_lsm_f_unlink", name: "path_unlink", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_rmdir", name: "path_rmdir", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_mkdir", name: "path_mkdir", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_mknod", name: "path_mknod", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_symlink", name: "path_symlink", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_rename", name: "path_rename", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_link", name: "path_link", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_chmod", name: "path_chmod", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_chown", name: "path_chown", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_setxattr", name: "inode_setxattr", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_removexattr", name: "inode_removexattr", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_setattr", name: "inode_setattr", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_ioctl", name: "file_ioctl", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_ioctl32", name: "file_ioctl_compat", backends: onlyLSM, kind: attachLSM},
	{program: "bl_lsm_f_mmap", name: "mmap_file (files)", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_mprotect", name: "file_mprotect (files)", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_receive", name: "file_receive", backends: onlyLSM, kind: attachLSM, files: true},
	{program: "bl_lsm_f_held", name: "file_permission", backends: onlyLSM, kind: attachLSM, held: kernelBlHeldBL_HELD_FILES},
	{program: "bl_lsm_held_send", name: "socket_sendmsg", backends: onlyLSM, kind: attachLSM, held: kernelBlHeldBL_HELD_SOCKETS},
	{program: "bl_lsm_held_receive", name: "socket_recvmsg", backends: onlyLSM, kind: attachLSM, held: kernelBlHeldBL_HELD_SOCKETS},
	{program: "bl_lsm_f_set_acl", name: "inode_set_acl", backends: onlyLSM, kind: attachLSM},
	{program: "bl_lsm_f_remove_acl", name: "inode_remove_acl", backends: onlyLSM, kind: attachLSM},
	{program: "bl_lsm_umount", name: "sb_umount", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleMount}},
	{program: "bl_lsm_pivot", name: "sb_pivotroot", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleMount}},
	{program: "bl_lsm_ptrace", name: "ptrace_access_check", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RulePtrace, verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_lsm_traceme", name: "ptrace_traceme", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RulePtrace, verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_lsm_kill", name: "task_kill", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_lsm_sigio", name: "file_send_sigiotask", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleHostAgent}},
	{program: "bl_lsm_fcntl", name: "file_fcntl", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleOtherTasks}},
	{program: "bl_lsm_ioctl", name: "file_ioctl (owner)", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleOtherTasks}},
	{program: "bl_lsm_ioctl32", name: "file_ioctl_compat (owner)", backends: onlyLSM, kind: attachLSM},
	{program: "bl_lsm_scheduler", name: "task_setscheduler", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_lsm_nice", name: "task_setnice", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_lsm_ioprio", name: "task_setioprio", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_lsm_rlimit", name: "task_setrlimit", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_lsm_userns", name: "userns_create", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleUserNamespaces}},
	{program: "bl_lsm_read_module", name: "kernel_read_file", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleModules}},
	{program: "bl_lsm_load_module", name: "kernel_load_data", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleModules}},
	{program: "bl_lsm_autoload", name: "kernel_module_request", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleModuleAutoload}},
	{program: "bl_lsm_perf", name: "perf_event_open", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RulePerfEvents}},
	{program: "bl_lsm_key", name: "key_permission", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleKeyctl}},
	{program: "bl_lsm_key_new", name: "key_alloc", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleKeyctl}},
	{program: "bl_lsm_anon_inode", name: "inode_init_security_anon", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleIOUring}},
	{program: "bl_lsm_capable", name: "capable", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleCapabilities, verdict.RuleMount}},
	{program: "bl_lsm_bprm", name: "bprm_check_security", backends: onlyLSM, kind: attachLSM, need: true},
	{program: "bl_lsm_creds", name: "bprm_creds_from_file", backends: onlyLSM, kind: attachLSM, need: true},

	{program: "bl_mod_mount", name: "security_sb_mount", backends: onlyModret, need: true},
	{program: "bl_mod_move_mount", name: "security_move_mount", backends: onlyModret, need: true},
	{program: "bl_mod_bpf", name: "security_bpf", backends: onlyModret, need: true},
	{program: "bl_mod_mmap", name: "security_mmap_file", backends: onlyModret, need: true},
	{program: "bl_mod_mprotect", name: "security_file_mprotect", backends: onlyModret, need: true},
	{program: "bl_mod_open", name: "security_file_open", backends: onlyModret, need: true},
	{program: "bl_mod_rename", name: "security_inode_rename", backends: onlyModret, need: true},
	{program: "bl_mod_link", name: "security_inode_link", backends: onlyModret, need: true},
	{program: "bl_mod_symlink", name: "security_inode_symlink", backends: onlyModret, need: true},
	{program: "bl_mod_truncate", name: "security_path_truncate", backends: onlyModret, files: true},
	{program: "bl_mod_ftruncate", name: "security_file_truncate", backends: onlyModret},
	{program: "bl_mod_f_unlink", name: "security_path_unlink", backends: onlyModret, files: true},
	{program: "bl_mod_f_rmdir", name: "security_path_rmdir", backends: onlyModret, files: true},
	{program: "bl_mod_f_mkdir", name: "security_path_mkdir", backends: onlyModret, files: true},
	{program: "bl_mod_f_mknod", name: "security_path_mknod", backends: onlyModret, files: true},
	{program: "bl_mod_f_symlink", name: "security_path_symlink", backends: onlyModret, files: true},
	{program: "bl_mod_f_rename", name: "security_path_rename", backends: onlyModret, files: true},
	{program: "bl_mod_f_link", name: "security_path_link", backends: onlyModret, files: true},
	{program: "bl_mod_f_chmod", name: "security_path_chmod", backends: onlyModret, files: true},
	{program: "bl_mod_f_chown", name: "security_path_chown", backends: onlyModret, files: true},
	{program: "bl_mod_f_setxattr", name: "security_inode_setxattr", backends: onlyModret, files: true},
	{program: "bl_mod_f_removexattr", name: "security_inode_removexattr", backends: onlyModret, files: true},
	{program: "bl_mod_f_setattr", name: "security_inode_setattr", backends: onlyModret, files: true},
	{program: "bl_mod_f_ioctl", name: "security_file_ioctl", backends: onlyModret, files: true},
	{program: "bl_mod_f_ioctl32", name: "security_file_ioctl_compat", backends: onlyModret},
	{program: "bl_mod_f_mmap", name: "security_mmap_file (files)", backends: onlyModret, files: true},
	{program: "bl_mod_f_mprotect", name: "security_file_mprotect (files)", backends: onlyModret, files: true},
	{program: "bl_mod_f_receive", name: "security_file_receive", backends: onlyModret, files: true},
	{program: "bl_mod_f_held", name: "security_file_permission", backends: onlyModret, held: kernelBlHeldBL_HELD_FILES},
	{program: "bl_mod_held_send", name: "security_socket_sendmsg", backends: onlyModret, held: kernelBlHeldBL_HELD_SOCKETS},
	{program: "bl_mod_held_receive", name: "security_socket_recvmsg", backends: onlyModret, held: kernelBlHeldBL_HELD_SOCKETS},
	{program: "bl_mod_f_set_acl", name: "security_inode_set_acl", backends: onlyModret},
	{program: "bl_mod_f_remove_acl", name: "security_inode_remove_acl", backends: onlyModret},
	{program: "bl_mod_umount", name: "security_sb_umount", backends: onlyModret, rules: []verdict.Rule{verdict.RuleMount}},
	{program: "bl_mod_pivot", name: "security_sb_pivotroot", backends: onlyModret, rules: []verdict.Rule{verdict.RuleMount}},
	{program: "bl_mod_ptrace", name: "security_ptrace_access_check", backends: onlyModret, rules: []verdict.Rule{verdict.RulePtrace, verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_mod_traceme", name: "security_ptrace_traceme", backends: onlyModret, rules: []verdict.Rule{verdict.RulePtrace, verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_mod_kill", name: "security_task_kill", backends: onlyModret, rules: []verdict.Rule{verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_mod_sigio", name: "security_file_send_sigiotask", backends: onlyModret, rules: []verdict.Rule{verdict.RuleHostAgent}},
	{program: "bl_mod_fcntl", name: "security_file_fcntl", backends: onlyModret, rules: []verdict.Rule{verdict.RuleOtherTasks}},
	{program: "bl_mod_ioctl", name: "security_file_ioctl (owner)", backends: onlyModret, rules: []verdict.Rule{verdict.RuleOtherTasks}},
	{program: "bl_mod_ioctl32", name: "security_file_ioctl_compat (owner)", backends: onlyModret},
	{program: "bl_mod_scheduler", name: "security_task_setscheduler", backends: onlyModret, rules: []verdict.Rule{verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_mod_nice", name: "security_task_setnice", backends: onlyModret, rules: []verdict.Rule{verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_mod_ioprio", name: "security_task_setioprio", backends: onlyModret, rules: []verdict.Rule{verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_mod_rlimit", name: "security_task_setrlimit", backends: onlyModret, rules: []verdict.Rule{verdict.RuleOtherTasks, verdict.RuleHostAgent}},
	{program: "bl_mod_userns", name: "security_create_user_ns", backends: onlyModret, rules: []verdict.Rule{verdict.RuleUserNamespaces}},
	{program: "bl_mod_read_module", name: "security_kernel_read_file", backends: onlyModret, rules: []verdict.Rule{verdict.RuleModules}},
	{program: "bl_mod_load_module", name: "security_kernel_load_data", backends: onlyModret, rules: []verdict.Rule{verdict.RuleModules}},
	{program: "bl_mod_autoload", name: "security_kernel_module_request", backends: onlyModret, rules: []verdict.Rule{verdict.RuleModuleAutoload}},
	{program: "bl_mod_perf", name: "security_perf_event_open", backends: onlyModret, rules: []verdict.Rule{verdict.RulePerfEvents}},
	{program: "bl_mod_key", name: "security_key_permission", backends: onlyModret, rules: []verdict.Rule{verdict.RuleKeyctl}},
	{program: "bl_mod_key_new", name: "security_key_alloc", backends: onlyModret, rules: []verdict.Rule{verdict.RuleKeyctl}},
	{program: "bl_mod_anon_inode", name: "security_inode_init_security_anon", backends: onlyModret, rules: []verdict.Rule{verdict.RuleIOUring}},
	{program: "bl_mod_capable", name: "security_capable", backends: onlyModret, rules: []verdict.Rule{verdict.RuleCapabilities, verdict.RuleMount}},
	{program: "bl_mod_bprm", name: "security_bprm_check", backends: onlyModret, need: true},
	{program: "bl_mod_creds", name: "security_bprm_creds_from_file", backends: onlyModret, need: true},

	{program: "bl_sockops", name: "cgroup sock_ops", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupSockOps},
	{program: "bl_egress", name: "cgroup_skb egress", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInetEgress},
	{program: "bl_connect4", name: "cgroup connect4", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet4Connect},
	{program: "bl_connect6", name: "cgroup connect6", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet6Connect},
	{program: "bl_bind4", name: "cgroup bind4", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet4Bind},
	{program: "bl_bind6", name: "cgroup bind6", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet6Bind},
	{program: "bl_lsm_note_listen", name: "socket_listen (phase)", backends: onlyLSM, kind: attachLSM},
	{program: "bl_mod_note_listen", name: "security_socket_listen (phase)", backends: onlyModret},
	{program: "bl_sig_note_listen", name: "inet_sock_set_state (phase)", backends: []verdict.Backend{verdict.BackendSignal}, interrupts: true},
	{program: "bl_lsm_listen", name: "socket_listen", backends: onlyLSM, kind: attachLSM},
	{program: "bl_mod_listen", name: "security_socket_listen", backends: onlyModret},
	{program: "bl_sig_listen", name: "inet_sock_set_state", backends: []verdict.Backend{verdict.BackendSignal}, interrupts: true},

	{program: "bl_net_sockops", name: "cgroup sock_ops (network)", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupSockOps, rules: tcpRules},
	{program: "bl_net_connect4", name: "cgroup connect4 (network)", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet4Connect, rules: egressRules},
	{program: "bl_net_connect6", name: "cgroup connect6 (network)", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet6Connect, rules: egressRules},
	{program: "bl_net_sendmsg4", name: "cgroup sendmsg4", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupUDP4Sendmsg, rules: egressRules},
	{program: "bl_net_sendmsg6", name: "cgroup sendmsg6", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupUDP6Sendmsg, rules: egressRules},
	{program: "bl_net_bind4", name: "cgroup bind4 (network)", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet4Bind, rules: []verdict.Rule{verdict.RuleListen}},
	{program: "bl_net_bind6", name: "cgroup bind6 (network)", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInet6Bind, rules: []verdict.Rule{verdict.RuleListen}},
	{program: "bl_net_sock_create", name: "cgroup sock_create", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInetSockCreate, rules: []verdict.Rule{verdict.RuleRawSockets}},
	{program: "bl_net_egress", name: "cgroup_skb egress (network)", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInetEgress, rules: packetRules},
	{program: "bl_net_ingress", name: "cgroup_skb ingress", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInetIngress, rules: packetRules},
	{program: "bl_dns_egress", name: "cgroup_skb egress (dns)", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInetEgress, rules: egressRules},
	{program: "bl_dns_ingress", name: "cgroup_skb ingress (dns)", backends: everyBackend, kind: attachCgroup, cgroup: ebpf.AttachCGroupInetIngress, rules: egressRules},
	{program: "bl_lsm_net_listen", name: "socket_listen (network)", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleListen}},
	{program: "bl_mod_net_listen", name: "security_socket_listen (network)", backends: onlyModret, rules: []verdict.Rule{verdict.RuleListen}},
	{program: "bl_sig_net_listen", name: "inet_sock_set_state (network)", backends: []verdict.Backend{verdict.BackendSignal}, interrupts: true, rules: []verdict.Rule{verdict.RuleListen}},
	{program: "bl_lsm_socket", name: "socket_create", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RulePacketSockets}},
	{program: "bl_mod_socket", name: "security_socket_create", backends: onlyModret, rules: []verdict.Rule{verdict.RulePacketSockets}},

	{program: "bl_lsm_unix_connect", name: "unix_stream_connect", backends: onlyLSM, kind: attachLSM},
	{program: "bl_mod_unix_connect", name: "security_unix_stream_connect", backends: onlyModret},
	{program: "bl_sig_unix_connect", name: "sk_data_ready", backends: []verdict.Backend{verdict.BackendSignal}, interrupts: true},

	{program: "bl_lsm_h_open", name: "file_open (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_receive", name: "file_receive (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_create", name: "inode_create (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_mkdir", name: "inode_mkdir (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_mknod", name: "inode_mknod (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_symlink", name: "inode_symlink (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_unlink", name: "inode_unlink (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_rmdir", name: "inode_rmdir (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_rename", name: "inode_rename (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_link", name: "inode_link (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_truncate", name: "path_truncate (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_chmod", name: "path_chmod (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_chown", name: "path_chown (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_setxattr", name: "inode_setxattr (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_removexattr", name: "inode_removexattr (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_setattr", name: "inode_setattr (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_ioctl", name: "file_ioctl (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_ioctl32", name: "file_ioctl_compat (host)", backends: onlyLSM, kind: attachLSM},
	{program: "bl_lsm_h_mount", name: "sb_mount (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_move_mount", name: "move_mount (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_umount", name: "sb_umount (host)", backends: onlyLSM, kind: attachLSM, rules: hostRules},
	{program: "bl_lsm_h_set_acl", name: "inode_set_acl (host)", backends: onlyLSM, kind: attachLSM},
	{program: "bl_lsm_h_bpf_map", name: "bpf_map", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleHostAgent}},
	{program: "bl_lsm_h_bpf_prog", name: "bpf_prog", backends: onlyLSM, kind: attachLSM, rules: []verdict.Rule{verdict.RuleHostAgent}},
	{program: "bl_mod_h_open", name: "security_file_open (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_receive", name: "security_file_receive (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_create", name: "security_inode_create (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_mkdir", name: "security_inode_mkdir (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_mknod", name: "security_inode_mknod (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_symlink", name: "security_inode_symlink (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_unlink", name: "security_inode_unlink (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_rmdir", name: "security_inode_rmdir (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_rename", name: "security_inode_rename (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_link", name: "security_inode_link (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_truncate", name: "security_path_truncate (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_chmod", name: "security_path_chmod (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_chown", name: "security_path_chown (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_setxattr", name: "security_inode_setxattr (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_removexattr", name: "security_inode_removexattr (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_setattr", name: "security_inode_setattr (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_ioctl", name: "security_file_ioctl (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_ioctl32", name: "security_file_ioctl_compat (host)", backends: onlyModret},
	{program: "bl_mod_h_mount", name: "security_sb_mount (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_move_mount", name: "security_move_mount (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_umount", name: "security_sb_umount (host)", backends: onlyModret, rules: hostRules},
	{program: "bl_mod_h_set_acl", name: "security_inode_set_acl (host)", backends: onlyModret},
	{program: "bl_mod_h_bpf_map", name: "security_bpf_map", backends: onlyModret, rules: []verdict.Rule{verdict.RuleHostAgent}},
	{program: "bl_mod_h_bpf_prog", name: "security_bpf_prog", backends: onlyModret, rules: []verdict.Rule{verdict.RuleHostAgent}},

	{program: "bl_exec_done", name: "sched_process_exec", backends: everyBackend, need: true},
	{program: "bl_sys_exit", name: "sys_exit", backends: []verdict.Backend{verdict.BackendSignal}, need: true, syscalls: true},
}

// contractProgram is in the object for tests and benchmarks and is never attached.
const contractProgram = "bl_contract_run"
