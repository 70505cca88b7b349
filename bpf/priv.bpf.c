/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * priv: Belay guards itself: bpf() could detach links and edit maps. And mounts made
 * after the start are noted for the drift rule.
 */
#include "host.h"
#include "regs.h"

static __always_inline int bl_bpf(int cmd, const union bpf_attr *attr)
{
	int err = bl_priv_inside(BL_R_BPF, NULL, BL_H_BPF, 0);

	if (!err)
		err = bl_host_bpf(cmd, attr);
	/* verifier: 6.12; as in bl_other */
	asm volatile("" : "+r"(err));
	return err ? -EPERM : 0;
}

SEC("lsm/bpf")
int BPF_PROG(bl_lsm_bpf, int cmd, union bpf_attr *attr, unsigned int size)
{
	return bl_bpf(cmd, attr);
}

SEC("fmod_ret/security_bpf")
int BPF_PROG(bl_mod_bpf, int cmd, union bpf_attr *attr, unsigned int size)
{
	return bl_bpf(cmd, attr);
}

/* include/uapi/linux/mount.h. In the order of path_mount: MS_REMOUNT makes no mount; then
 * MS_BIND does, whatever else is set; then MS_UNBINDABLE, PRIVATE, SLAVE and SHARED do not.
 */
#define BL_MS_REMOUNT	32
#define BL_MS_BIND	4096
#define BL_MS_MOVE	8192
#define BL_MS_PROPAGATE	(1 << 17 | 1 << 18 | 1 << 19 | 1 << 20)

/* from: the mount namespace in which a mount is given another place; 0: none is. */
static __always_inline int bl_mounting(unsigned long flags, const struct path *to, __u32 from, __u8 hook)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;
	int makes = !(flags & BL_MS_REMOUNT || (flags & BL_MS_PROPAGATE && !(flags & BL_MS_BIND)));
	int err;

	if (!bl_confined(&w, &c))
		return 0;
	err = bl_priv_ask(&w, c, BL_R_MOUNT, to, hook, 0);
	if (!err && makes && c)
		c->mounted_after = 1;
	/* A namespace that a runtime inside makes is not what paths are told by. */
	if (!err && from && c && c->mnt_ns == from)
		c->moved = 1;
	return err;
}

/* path_mount comes to MS_MOVE after all others. */
static __always_inline __u32 bl_ms_from(unsigned long flags)
{
	if (!(flags & BL_MS_MOVE) || flags & (BL_MS_REMOUNT | BL_MS_BIND | BL_MS_PROPAGATE))
		return 0;
	return bl_mnt_ns(bpf_get_current_task_btf());
}

static __always_inline __u32 bl_ns_of(const struct path *path)
{
	struct vfsmount *mnt = BPF_CORE_READ(path, mnt);
	struct mount *real = (void *)mnt - bpf_core_field_offset(struct mount, mnt);

	return BPF_CORE_READ(real, mnt_ns, ns.inum);
}

SEC("lsm/sb_mount")
int BPF_PROG(bl_lsm_mount, const char *dev, const struct path *path, const char *type,
	     unsigned long flags, void *data)
{
	return bl_mounting(flags, path, bl_ms_from(flags), BL_H_MOUNT);
}

SEC("fmod_ret/security_sb_mount")
int BPF_PROG(bl_mod_mount, const char *dev, const struct path *path, const char *type,
	     unsigned long flags, void *data)
{
	return bl_mounting(flags, path, bl_ms_from(flags), BL_H_MOUNT);
}

SEC("lsm/move_mount")
int BPF_PROG(bl_lsm_move_mount, const struct path *from, const struct path *to)
{
	return bl_mounting(0, to, bl_ns_of(from), BL_H_MOVE_MOUNT);
}

SEC("fmod_ret/security_move_mount")
int BPF_PROG(bl_mod_move_mount, const struct path *from, const struct path *to)
{
	return bl_mounting(0, to, bl_ns_of(from), BL_H_MOVE_MOUNT);
}

/* A mount that is taken away can bare what it covered: a masked path, a file of the image. */
SEC("lsm/sb_umount")
int BPF_PROG(bl_lsm_umount, struct vfsmount *mnt, int flags)
{
	return bl_priv(BL_R_MOUNT, NULL, BL_H_UMOUNT);
}

SEC("fmod_ret/security_sb_umount")
int BPF_PROG(bl_mod_umount, struct vfsmount *mnt, int flags)
{
	return bl_priv(BL_R_MOUNT, NULL, BL_H_UMOUNT);
}

SEC("lsm/sb_pivotroot")
int BPF_PROG(bl_lsm_pivot, const struct path *old, const struct path *new)
{
	return bl_mounting(BL_MS_REMOUNT, new, bl_ns_of(new), BL_H_PIVOT_ROOT);
}

SEC("fmod_ret/security_sb_pivotroot")
int BPF_PROG(bl_mod_pivot, const struct path *old, const struct path *new)
{
	return bl_mounting(BL_MS_REMOUNT, new, bl_ns_of(new), BL_H_PIVOT_ROOT);
}

SEC("lsm/userns_create")
int BPF_PROG(bl_lsm_userns, const struct cred *cred)
{
	return bl_priv(BL_R_USERNS, NULL, BL_H_USERNS);
}

SEC("fmod_ret/security_create_user_ns")
int BPF_PROG(bl_mod_userns, const struct cred *cred)
{
	return bl_priv(BL_R_USERNS, NULL, BL_H_USERNS);
}

/* include/linux/kernel_read_file.h: READING_MODULE, READING_KEXEC_IMAGE and _INITRAMFS, and of
 * the same numbers LOADING_*.
 */
static __always_inline int bl_kernel_code(int id, __u8 hook)
{
	return id >= 2 && id <= 4 ? bl_priv_inside(BL_R_MODULES, NULL, hook, 0) : 0;
}

SEC("lsm/kernel_read_file")
int BPF_PROG(bl_lsm_read_module, struct file *file, int id, bool contents)
{
	return bl_kernel_code(id, BL_H_READ_MODULE);
}

SEC("fmod_ret/security_kernel_read_file")
int BPF_PROG(bl_mod_read_module, struct file *file, int id, bool contents)
{
	return bl_kernel_code(id, BL_H_READ_MODULE);
}

SEC("lsm/kernel_load_data")
int BPF_PROG(bl_lsm_load_module, int id, bool contents)
{
	return bl_kernel_code(id, BL_H_LOAD_MODULE);
}

SEC("fmod_ret/security_kernel_load_data")
int BPF_PROG(bl_mod_load_module, int id, bool contents)
{
	return bl_kernel_code(id, BL_H_LOAD_MODULE);
}

/* What a task asks for makes the kernel load a module: a protocol, a file system. */
SEC("lsm/kernel_module_request")
int BPF_PROG(bl_lsm_autoload, char *name)
{
	return bl_priv(BL_R_AUTOLOAD, NULL, BL_H_AUTOLOAD);
}

SEC("fmod_ret/security_kernel_module_request")
int BPF_PROG(bl_mod_autoload, char *name)
{
	return bl_priv(BL_R_AUTOLOAD, NULL, BL_H_AUTOLOAD);
}

SEC("lsm/perf_event_open")
int BPF_PROG(bl_lsm_perf)
{
	return bl_priv(BL_R_PERF, NULL, BL_H_PERF);
}

SEC("fmod_ret/security_perf_event_open")
int BPF_PROG(bl_mod_perf)
{
	return bl_priv(BL_R_PERF, NULL, BL_H_PERF);
}

SEC("lsm/key_permission")
int BPF_PROG(bl_lsm_key)
{
	return bl_priv(BL_R_KEYCTL, NULL, BL_H_KEY);
}

SEC("fmod_ret/security_key_permission")
int BPF_PROG(bl_mod_key)
{
	return bl_priv(BL_R_KEYCTL, NULL, BL_H_KEY);
}

SEC("lsm/key_alloc")
int BPF_PROG(bl_lsm_key_new)
{
	return bl_priv(BL_R_KEYCTL, NULL, BL_H_KEY);
}

SEC("fmod_ret/security_key_alloc")
int BPF_PROG(bl_mod_key_new)
{
	return bl_priv(BL_R_KEYCTL, NULL, BL_H_KEY);
}

/* include/linux/ptrace.h */
#define BL_PTRACE_ATTACH	0x02

/* Is a task still a runtime's on its way into a container? */
static __always_inline int bl_enters(struct task_struct *t)
{
	struct task_struct *leader = t->group_leader;
	struct bl_task *l = bl_label(t);

	if (!l && leader && leader != t)
		l = bl_label(leader);
	return l && l->state == BL_ENTERING;
}

/* The rules on tasks: tracing any, and doing anything to one outside the own container. */
static __always_inline int bl_other(struct task_struct *t, int attach, __u8 hook)
{
	struct task_struct *me = bpf_get_current_task_btf();
	struct bl_container *c = NULL;
	struct bl_who w = {};
	int own, err = 0;

	if (!bl_confined(&w, &c))
		return 0;
	if (t->tgid == me->tgid)
		return 0;
	/* Code that is put into one that still enters would never be judged. */
	own = bl_container_of(bl_cgroup_of(t)) == w.container && !(attach && bl_enters(t));
	/* That somebody looks into a process, as monitors do, does the agent no harm. */
	if ((attach || hook != BL_H_PTRACE) && bl_host_task(t))
		err = bl_priv_ask(&w, c, BL_R_HOST_AGENT, NULL, hook, 0);
	if (!err && attach)
		err = bl_ptrace_ask(&w, c, own, hook);
	if (!err && !own)
		err = bl_priv_ask(&w, c, BL_R_OTHER_TASKS, NULL, hook, 0);
	/* verifier: 6.12; with lsm/ it must see for itself that this is no other number. */
	asm volatile("" : "+r"(err));
	return err ? -EPERM : 0;
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(bl_lsm_ptrace, struct task_struct *child, unsigned int mode)
{
	return bl_other(child, mode & BL_PTRACE_ATTACH, BL_H_PTRACE);
}

SEC("fmod_ret/security_ptrace_access_check")
int BPF_PROG(bl_mod_ptrace, struct task_struct *child, unsigned int mode)
{
	return bl_other(child, mode & BL_PTRACE_ATTACH, BL_H_PTRACE);
}

SEC("lsm/ptrace_traceme")
int BPF_PROG(bl_lsm_traceme, struct task_struct *parent)
{
	return bl_other(parent, 1, BL_H_TRACEME);
}

SEC("fmod_ret/security_ptrace_traceme")
int BPF_PROG(bl_mod_traceme, struct task_struct *parent)
{
	return bl_other(parent, 1, BL_H_TRACEME);
}

SEC("lsm/task_kill")
int BPF_PROG(bl_lsm_kill, struct task_struct *p)
{
	return bl_other(p, 0, BL_H_KILL);
}

SEC("fmod_ret/security_task_kill")
int BPF_PROG(bl_mod_kill, struct task_struct *p)
{
	return bl_other(p, 0, BL_H_KILL);
}

/* F_SETOWN names who gets a signal when there is something to read or write. That may come about
 * in an interrupt, where current is whoever runs: only whom it goes to says anything then. The
 * agent asks for no such signal.
 */
static __always_inline int bl_sigio(struct task_struct *p)
{
	struct bl_container *c = NULL;
	struct bl_who w = {};

	if (!bl_host_task(p))
		return 0;
	if (bl_confined(&w, &c))
		return bl_other(p, 0, BL_H_KILL);
	bl_count(BL_E_SIGIO);
	return -EPERM;
}

SEC("lsm/file_send_sigiotask")
int BPF_PROG(bl_lsm_sigio, struct task_struct *p)
{
	return bl_sigio(p);
}

SEC("fmod_ret/security_file_send_sigiotask")
int BPF_PROG(bl_mod_sigio, struct task_struct *p)
{
	return bl_sigio(p);
}

SEC("lsm/task_setscheduler")
int BPF_PROG(bl_lsm_scheduler, struct task_struct *p)
{
	return bl_other(p, 0, BL_H_SCHED);
}

SEC("fmod_ret/security_task_setscheduler")
int BPF_PROG(bl_mod_scheduler, struct task_struct *p)
{
	return bl_other(p, 0, BL_H_SCHED);
}

SEC("lsm/task_setnice")
int BPF_PROG(bl_lsm_nice, struct task_struct *p, int nice)
{
	return bl_other(p, 0, BL_H_SCHED);
}

SEC("fmod_ret/security_task_setnice")
int BPF_PROG(bl_mod_nice, struct task_struct *p, int nice)
{
	return bl_other(p, 0, BL_H_SCHED);
}

SEC("lsm/task_setioprio")
int BPF_PROG(bl_lsm_ioprio, struct task_struct *p, int ioprio)
{
	return bl_other(p, 0, BL_H_SCHED);
}

SEC("fmod_ret/security_task_setioprio")
int BPF_PROG(bl_mod_ioprio, struct task_struct *p, int ioprio)
{
	return bl_other(p, 0, BL_H_SCHED);
}

SEC("lsm/task_setrlimit")
int BPF_PROG(bl_lsm_rlimit, struct task_struct *p)
{
	return bl_other(p, 0, BL_H_RLIMIT);
}

SEC("fmod_ret/security_task_setrlimit")
int BPF_PROG(bl_mod_rlimit, struct task_struct *p)
{
	return bl_other(p, 0, BL_H_RLIMIT);
}

/* include/uapi/asm-generic/fcntl.h, sockios.h */
#define BL_F_SETOWN	8
#define BL_F_SETOWN_EX	15
#define BL_FIOSETOWN	0x8901
#define BL_SIOCSPGRP	0x8902

/* Whom a file is to signal is named here: when the signal comes nobody knows any more who asked. */
static __always_inline int bl_set_owner(int known, int who, __u8 hook)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (!bl_confined(&w, &c) || (known && (!who || who == bl_own_number())) || bl_own_pids(w.container))
		return 0;
	return bl_priv_ask(&w, c, BL_R_OTHER_TASKS, NULL, hook, 0);
}

#define BL_OWNER_HOOK(id, hook, asks, known, number)					\
SEC("lsm/" #hook)									\
int BPF_PROG(bl_lsm_##id, struct file *file, unsigned int cmd, unsigned long arg)	\
{											\
	return asks ? bl_set_owner(known, arg, number) : 0;				\
}											\
											\
SEC("fmod_ret/security_" #hook)								\
int BPF_PROG(bl_mod_##id, struct file *file, unsigned int cmd, unsigned long arg)	\
{											\
	return asks ? bl_set_owner(known, arg, number) : 0;				\
}

BL_OWNER_HOOK(fcntl, file_fcntl, cmd == BL_F_SETOWN || cmd == BL_F_SETOWN_EX, cmd == BL_F_SETOWN, BL_H_FCNTL)
BL_OWNER_HOOK(ioctl, file_ioctl, cmd == BL_FIOSETOWN || cmd == BL_SIOCSPGRP, 0, BL_H_IOCTL)
BL_OWNER_HOOK(ioctl32, file_ioctl_compat, cmd == BL_FIOSETOWN || cmd == BL_SIOCSPGRP, 0, BL_H_IOCTL)

/* A ring is an anonymous inode of this name: kernels that are supported here need have no
 * hook for io_uring_setup(2) itself.
 */
static __always_inline int bl_is_ring(const unsigned char *name)
{
	char have[11] = {};

	return !bpf_probe_read_kernel(have, sizeof(have), name) && !__builtin_memcmp(have, "[io_uring]", 11);
}

static __always_inline int bl_anon_inode(const struct qstr *name)
{
	return bl_is_ring(BPF_CORE_READ(name, name)) ? bl_priv(BL_R_IO_URING, NULL, BL_H_ANON_INODE) : 0;
}

SEC("lsm/inode_init_security_anon")
int BPF_PROG(bl_lsm_anon_inode, struct inode *inode, const struct qstr *name)
{
	return bl_anon_inode(name);
}

SEC("fmod_ret/security_inode_init_security_anon")
int BPF_PROG(bl_mod_anon_inode, struct inode *inode, const struct qstr *name)
{
	return bl_anon_inode(name);
}

/* Capabilities that are not to be used, whoever has them; of credentials that are lent, it is no use
 * of the task's.
 */
#define BL_CAP_NOAUDIT	0x02	/* CAP_OPT_NOAUDIT: the kernel asks, not the task */

#define BL_CAP_SYS_ADMIN 21

/* modret is asked before the kernel itself: what the task does not hold is not refused by a rule. */
static __always_inline int bl_lacks(const struct cred *cred, struct user_namespace *ns, int cap)
{
	__u64 caps = 0;

	if (BPF_CORE_READ(cred, user_ns) != ns)
		return 0;	/* who made a namespace has all in it */
	bpf_probe_read_kernel(&caps, sizeof(caps), __builtin_preserve_access_index(&cred->cap_effective));
	return !(caps & 1ULL << (cap & 63));
}

static __always_inline int bl_capable(const struct cred *cred, int cap, unsigned int opts)
{
	struct bl_container *c = NULL;
	struct bl_who w = {};
	int err;

	if (!bl_confined(&w, &c) || bl_lent(cred, c))
		return 0;
	if (cap == BL_CAP_SYS_ADMIN && bl_mount_call()) {
		err = bl_priv_ask(&w, c, BL_R_MOUNT, NULL, BL_H_CAPABLE, 0);
		if (err)
			return err;
	}
	return bl_cap_verdict(&w, c, cap, opts & BL_CAP_NOAUDIT);
}

SEC("lsm/capable")
int BPF_PROG(bl_lsm_capable, const struct cred *cred, struct user_namespace *ns, int cap,
	     unsigned int opts)
{
	return bl_capable(cred, cap, opts);
}

SEC("fmod_ret/security_capable")
int BPF_PROG(bl_mod_capable, const struct cred *cred, struct user_namespace *ns, int cap,
	     unsigned int opts)
{
	return bl_lacks(cred, ns, cap) ? 0 : bl_capable(cred, cap, opts);
}
