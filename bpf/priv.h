/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * priv.h: rules that are on or off, on acts that have no path to be judged by: what a
 * container may ask of the kernel beyond its own files and sockets.
 */
#ifndef BL_PRIV_H
#define BL_PRIV_H

#include "files.h"
#include "regs.h"

/* The mode in which a policy denies by a rule: a slot, or BL_SLOTS: in none. */
static __always_inline int bl_rule_slot(const struct bl_policy *p, __u32 rule)
{
	if (p->rules[BL_ENFORCE][rule & (BL_R_MAX - 1)].verdict == BL_DENY)
		return BL_ENFORCE;
	if (p->rules[BL_AUDITED][rule & (BL_R_MAX - 1)].verdict == BL_DENY)
		return BL_AUDITED;
	return BL_SLOTS;
}

/* bl_emit, once in the object and not once a hook. */
static __noinline int bl_priv_emit(const struct bl_report *r)
{
	bl_emit(r);
	return 0;
}

/* Reports a denial, and returns what the hook does. kill: the act is over already. */
static __always_inline int bl_priv_denied(struct bl_who *w, struct bl_container *c,
					  struct bl_policy *p, __u32 set, int slot, __u8 rule,
					  const struct path *object, __u8 hook, __u16 number, int kill)
{
	struct bl_report r = {};

	r.who = w;
	r.c = c;
	r.p = p;
	r.d.rule = rule;
	r.d.policy = p->rules[slot & 1][rule & (BL_R_MAX - 1)].policy;
	r.set = set;
	r.object = object;
	if (rule == BL_R_BPF)
		r.type = BL_EV_BPF;
	else if ((rule >= BL_R_EGRESS && rule <= BL_R_PACKET_SOCKETS) || rule == BL_R_SSH_SERVER || rule == BL_R_SSH_CLIENT)
		r.type = BL_EV_NET;
	else if (rule >= BL_R_HOST_AGENT && hook < BL_H_MOUNT && object)
		r.type = BL_EV_FILE;
	else
		r.type = BL_EV_PRIVILEGE;
	r.hook = hook;
	r.file_flags = number;
	r.decided = slot == BL_ENFORCE ? BL_DENIED : BL_WOULD_DENY;
	if (kill && slot == BL_ENFORCE)
		r.decided = bl_kill();
	bl_priv_emit(&r);
	return slot == BL_ENFORCE ? -EPERM : 0;
}

static __always_inline int bl_priv_report(struct bl_who *w, struct bl_container *c,
					  struct bl_policy *p, __u32 set, int slot, __u8 rule,
					  const struct path *object, __u8 hook, __u16 number)
{
	return bl_priv_denied(w, c, p, set, slot, rule, object, hook, number, 0);
}

/* Judges an act of a task in a container. number: for the record. */
static __always_inline int bl_priv_ask(struct bl_who *w, struct bl_container *c, __u8 rule,
				       const struct path *object, __u8 hook, __u16 number)
{
	struct bl_policy *p;
	__u32 set = 0;
	int slot;

	p = bl_policy_of(c, &set);
	if (!p)
		return -EPERM;
	slot = bl_rule_slot(p, rule);
	if (slot == BL_SLOTS)
		return 0;
	return bl_priv_report(w, c, p, set, slot, rule, object, hook, number);
}

/* An act of current, if it is armed: what runc does on the way into a container passes. */
static __always_inline int bl_priv(__u8 rule, const struct path *object, __u8 hook)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (!bl_confined(&w, &c))
		return 0;
	return bl_priv_ask(&w, c, rule, object, hook, 0);
}

/* An act that nothing does on the way in: see bl_inside. */
static __always_inline int bl_priv_inside(__u8 rule, const struct path *object, __u8 hook,
					  __u16 number)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (!bl_inside(&w, &c))
		return 0;
	return bl_priv_ask(&w, c, rule, object, hook, number);
}

/* Judges that current traces a task. own: of its own container. */
static __always_inline int bl_ptrace_ask(struct bl_who *w, struct bl_container *c, int own, __u8 hook)
{
	struct bl_policy *p;
	__u32 set = 0;
	int slot;

	p = bl_policy_of(c, &set);
	if (!p)
		return -EPERM;
	for (slot = BL_ENFORCE; slot < BL_SLOTS; slot++)
		if (p->rules[slot][BL_R_PTRACE].verdict == BL_DENY &&
		    !(own && p->rules[slot][BL_R_PTRACE].opt & BL_O_PTRACE_OWN))
			return bl_priv_report(w, c, p, set, slot, BL_R_PTRACE, NULL, hook, 0);
	return 0;
}

/* Is a capability denied? quiet: no record. */
static __always_inline int bl_cap_verdict(struct bl_who *w, struct bl_container *c, int cap,
					  int quiet)
{
	struct bl_policy *p;
	__u32 set = 0;
	int slot;

	p = bl_policy_of(c, &set);
	if (!p)
		return -EPERM;
	if (p->caps[BL_ENFORCE] & 1ULL << (cap & 63))
		slot = BL_ENFORCE;
	else if (p->caps[BL_AUDITED] & 1ULL << (cap & 63))
		slot = BL_AUDITED;
	else
		return 0;
	if (quiet)
		return slot == BL_ENFORCE ? -EPERM : 0;
	return bl_priv_report(w, c, p, set, slot, BL_R_CAPABILITIES, NULL, BL_H_CAPABLE, cap);
}

/* Kinds of file systems through which the kernel is steered: include/uapi/linux/magic.h. */
#define BL_PROC		0x9fa0
#define BL_NSFS		0x6e736673
#define BL_SYSFS	0x62656572
#define BL_CGROUP1	0x27e0eb
#define BL_CGROUP2	0x63677270
#define BL_DEBUGFS	0x64626720
#define BL_TRACEFS	0x74726163
#define BL_SECURITYFS	0x73636673
#define BL_BPFFS	0xcafe4a11
#define BL_CONFIGFS	0x62656570
#define BL_BINFMT	0x42494e4d
#define BL_PSTORE	0x6165676c
#define BL_EFIVARS	0xde5e81e4

static __always_inline int bl_control_fs(unsigned long magic)
{
	switch (magic) {
	case BL_SYSFS: case BL_DEBUGFS: case BL_TRACEFS: case BL_SECURITYFS: case BL_BPFFS:
	case BL_CONFIGFS: case BL_BINFMT: case BL_PSTORE: case BL_EFIVARS:
		return 1;
	}
	return 0;
}

/* The first 16 bytes of a dentry's name, zero-padded. */
static __always_inline void bl_name16(char *to, struct dentry *d)
{
	__builtin_memset(to, 0, 16);
	bpf_probe_read_kernel_str(to, 16, BPF_CORE_READ(d, d_name.name));
}

/* Of the initial namespaces: include/linux/proc_ns.h. Also asked, since a service manager can
 * give the agent namespaces of its own (ProtectHostname=).
 */
#define BL_INIT_IPC	0xEFFFFFFFU
#define BL_INIT_UTS	0xEFFFFFFEU

/* Are these settings of current those of a namespace that is not the host's? A namespace that
 * cannot be read (nsproxy is NULL in an exiting task) is.
 */
static __always_inline int bl_own_ipc(struct task_struct *t)
{
	__u32 ns = BPF_CORE_READ(t, nsproxy, ipc_ns, ns.inum);

	return ns && ns != bl_host_ipc && ns != BL_INIT_IPC;
}

static __always_inline int bl_own_uts(struct task_struct *t)
{
	__u32 ns = BPF_CORE_READ(t, nsproxy, uts_ns, ns.inum);

	return ns && ns != bl_host_uts && ns != BL_INIT_UTS;
}

/* A file of /proc/sys/kernel that belongs to a namespace: is that the host's? */
static __always_inline int bl_kernel_control(struct task_struct *t, const char *name)
{
	if (BL_IS(name, "hostname") || BL_IS(name, "domainname"))
		return !bl_own_uts(t);
	if (BL_IS(name, "ns_last_pid"))
		return !BPF_CORE_READ(t, thread_pid, level);
	if (!__builtin_memcmp(name, "shm", 3) || !__builtin_memcmp(name, "msg", 3) ||
	    BL_IS(name, "sem") || BL_IS(name, "sem_next_id") || BL_IS(name, "auto_msgmni"))
		return !bl_own_ipc(t);
	return 1;
}

/* Does writing a file of procfs steer the kernel? In its sys all does but what belongs to a
 * namespace of the container's own: net, ipc (shm*, msg*, sem, mqueue), the host name, and what
 * user namespaces may count. The kernel takes these of the namespaces of who opens the file.
 * What lies below a process steers that: see bl_others_proc.
 */
static __noinline int bl_proc_control(struct dentry *d)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct dentry *root = BPF_CORE_READ(d, d_sb, s_root), *at = d, *below = NULL, *up;
	char name[16] = {};
	int i;

	for (i = 0; i < 12; i++) {
		up = BPF_CORE_READ(at, d_parent);
		if (up == root || up == at)
			break;
		below = at;
		at = up;
	}
	if (i == 12)
		return 1;	/* deeper than anything that is known */
	bl_name16(name, at);
	if (!below)	/* a file in the root */
		return BL_IS(name, "sysrq-trigger") || BL_IS(name, "mtrr") || BL_IS(name, "kcore");
	if (BL_IS(name, "irq") || BL_IS(name, "bus") || BL_IS(name, "acpi") || BL_IS(name, "scsi") ||
	    BL_IS(name, "driver"))
		return 1;
	if (!BL_IS(name, "sys"))
		return 0;
	bl_name16(name, below);
	if (BL_IS(name, "net"))
		return !bl_not_host_net(BPF_CORE_READ(t, nsproxy, net_ns, ns.inum));
	if (BL_IS(name, "user"))
		return !BPF_CORE_READ(t, cred, user_ns, level);
	if (BL_IS(name, "fs")) {	/* fs/mqueue is a namespace's */
		bl_name16(name, BPF_CORE_READ(d, d_parent));
		return !BL_IS(name, "mqueue") || !bl_own_ipc(t);
	}
	if (!BL_IS(name, "kernel") || i != 2)
		return 1;
	bl_name16(name, d);
	return bl_kernel_control(t, name);
}

/* Is a cgroup, with its id, the container's? */
static __always_inline int bl_cgroup_is(struct cgroup *cg, __u64 id, __u64 container)
{
	__u64 *top = bpf_map_lookup_elem(&bl_cgroups, &id);

	if (!top && cg && bl_overflow())
		return bl_container_slow((__u64)cg) == container;
	return top && *top == container;
}

/* Is a task, which is known by an address that was read, in a cgroup of the container's? */
static __always_inline int bl_own_task(struct task_struct *t, __u64 container)
{
	struct css_set *set = BPF_CORE_READ(t, cgroups);
	struct cgroup *cg = BPF_CORE_READ(set, dfl_cgrp);
	struct cgroup_subsys_state *css;

	if (bl_v1_subsys >= 0 && bl_v1_subsys < 16) {
		bpf_probe_read_kernel(&css, sizeof(css), (void *)set + bpf_core_field_offset(struct css_set, subsys) + bl_v1_subsys * sizeof(css));
		cg = BPF_CORE_READ(css, cgroup);
	}
	return bl_cgroup_is(cg, BPF_CORE_READ(cg, kn, id), container);
}

/* Are all tasks that current can name by a number the container's own? They are if the first one of
 * their PID namespace is.
 */
static __noinline int bl_own_pids(__u64 container)
{
	struct pid *pid = BPF_CORE_READ(bpf_get_current_task_btf(), thread_pid);
	struct upid *u = bl_upid(pid);

	return bl_own_task(BPF_CORE_READ(u, ns, child_reaper), container);
}

/* The task that a file of procfs is about, NULL if it is about none. */
static __always_inline struct task_struct *bl_proc_task(struct dentry *d)
{
	struct inode *inode = BPF_CORE_READ(d, d_inode);
	struct proc_inode *pi = (void *)inode - bpf_core_field_offset(struct proc_inode, vfs_inode);
	struct pid *pid = BPF_CORE_READ(pi, pid);
	struct hlist_node *link;

	if (!pid)
		return NULL;
	link = BPF_CORE_READ(pid, tasks[0].first);	/* PIDTYPE_PID */
	if (!link)
		return NULL;
	return (void *)link - bpf_core_field_offset(struct task_struct, pid_links);
}

/* Is a file of procfs about a task that is not the container's own? What is written there changes
 * it: what it is killed for, its name, its mappings of ids. Who has left the cgroup is its own still.
 */
static __noinline int bl_others_proc(struct dentry *d, __u64 container)
{
	struct task_struct *t = bl_proc_task(d);

	return t && BPF_CORE_READ(t, tgid) != bpf_get_current_task_btf()->tgid && !bl_own_task(t, container);
}

/* Is a namespace opened past /proc/PID/ns, where it is judged as access to a process? By ioctl(2) on another this
 * goes from one mount namespace to the next of any (NS_MNT_GET_NEXT, since 6.12); what else such opens is above or
 * below the task's own, and what those on a pidfd open is judged as access too. By a handle (since 6.18) it can be any.
 */
static __noinline int bl_ns_taken(struct dentry *d)
{
	struct mnt_namespace *own = BPF_CORE_READ(bpf_get_current_task_btf(), nsproxy, mnt_ns);
	struct ns_common *ns = BPF_CORE_READ(d, d_inode, i_private);

	if (BPF_CORE_READ(ns, inum) == BPF_CORE_READ(own, ns.inum))
		return 0;
	return bl_handle_call() || (bl_ns_ioctl() && BPF_CORE_READ(ns, ops) == BPF_CORE_READ(own, ns.ops));
}

/* What hands tasks or devices to who may write it. Names are cut at 15: notify_on_release has the
 * kernel run what a mount option of release_agent says, which nobody writes to a file.
 */
static __noinline int bl_cgroup_control(struct dentry *d)
{
	char leaf[16] = {};

	bl_name16(leaf, d);
	return BL_IS(leaf, "release_agent") || BL_IS(leaf, "notify_on_relea") || BL_IS(leaf, "devices.allow") || BL_IS(leaf, "devices.deny");
}

static __noinline int bl_moves_tasks(struct dentry *d)
{
	char leaf[16] = {};

	bl_name16(leaf, d);
	return BL_IS(leaf, "cgroup.procs") || BL_IS(leaf, "cgroup.threads");
}

/* Does a file of a cgroup 2 tree belong to a cgroup of the container's? All that is written to
 * another acts on tasks that are not its own: freezes, kills, moves or starves them.
 */
static __noinline int bl_own_cgroup(struct dentry *d, __u64 container)
{
	struct kernfs_node *dir = BPF_CORE_READ(d, d_parent, d_inode, i_private);
	struct cgroup *cg = BPF_CORE_READ(dir, priv);

	return bl_cgroup_is(cg, BPF_CORE_READ(dir, id), container);
}

/* Set by the loader: majors below 512 of devices that pass commands to disks, by their names. */
volatile const __u64 bl_raw_majors[8];

/* Memory, ports and registers of the machine: Documentation/admin-guide/devices.txt. */
static __always_inline int bl_raw_char(__u32 dev)
{
	__u32 major = dev >> 20, minor = dev & 0xfffff;

	if (major < 512 && bl_raw_majors[major / 64] >> (major % 64) & 1)
		return 1;
	return (major == 1 && (minor == 1 || minor == 2 || minor == 4)) ||	/* mem, kmem, port */
	       major == 21 || major == 202 ||					/* sg, msr */
	       (major == 10 && minor == 144);					/* nvram */
}

#define BL_S_IFMT	0170000
#define BL_S_IFBLK	0060000
#define BL_S_IFCHR	0020000

/* Which rule an open is about; BL_R_NONE: none. Cheap: it is asked of every open. */
static __always_inline __u8 bl_open_rule(struct file *file)
{
	struct dentry *d = file->f_path.dentry;
	struct inode *inode = d->d_inode;
	unsigned long magic = d->d_sb->s_magic;
	__u32 mode = inode->i_mode & BL_S_IFMT;
	int writes = file->f_mode & FMODE_WRITE;

	if (mode == BL_S_IFBLK || (mode == BL_S_IFCHR && bl_raw_char(inode->i_rdev)))
		return BL_R_RAW_DEVICES;
	if (magic == BL_PROC)
		return writes ? BL_R_KERNEL_CONTROL : BL_R_RAW_DEVICES;	/* kcore is to be read */
	if (writes && (bl_control_fs(magic) || magic == BL_CGROUP1 || magic == BL_CGROUP2))
		return BL_R_KERNEL_CONTROL;
	return magic == BL_NSFS ? BL_R_OTHER_TASKS : BL_R_NONE;
}

/* Judges an open by that rule. */
static __always_inline int bl_priv_open(struct bl_who *w, struct bl_container *c,
					struct file *file, __u8 rule)
{
	struct dentry *d = BPF_CORE_READ(file, f_path.dentry);
	unsigned long magic = BPF_CORE_READ(d, d_sb, s_magic);
	__u32 mode = BPF_CORE_READ(d, d_inode, i_mode) & BL_S_IFMT;
	struct bl_policy *p;
	__u32 set = 0;
	char leaf[16] = {};
	int slot;

	p = bl_policy_of(c, &set);
	if (!p)
		return -EPERM;
	if (magic == BL_CGROUP2 && !bl_cgroup_control(d)) {
		/* Who can name tasks of others pulls them into a cgroup of its own. Whom a number names is
		 * found out at the write, in another PID namespace maybe than that of who opens.
		 */
		if (bl_own_cgroup(d, w->container) && !(bl_moves_tasks(d) && (!c || c->sees_others)))
			return 0;
		rule = BL_R_OTHER_TASKS;
	}
	if (magic == BL_NSFS && !bl_ns_taken(d))
		return 0;
	if (magic == BL_PROC && rule == BL_R_KERNEL_CONTROL && bl_others_proc(d, w->container))
		rule = BL_R_OTHER_TASKS;
	slot = bl_rule_slot(p, rule);
	if (slot == BL_SLOTS)
		return 0;
	if (rule != BL_R_OTHER_TASKS && mode != BL_S_IFBLK && mode != BL_S_IFCHR) {
		bl_name16(leaf, d);
		if (rule == BL_R_RAW_DEVICES && !BL_IS(leaf, "kcore"))
			return 0;
		if (rule == BL_R_KERNEL_CONTROL && magic == BL_PROC && !bl_proc_control(d))
			return 0;
		if (magic == BL_CGROUP1 && !bl_cgroup_control(d))
			return 0;
	}
	return bl_priv_report(w, c, p, set, slot, rule, __builtin_preserve_access_index(&file->f_path),
			      BL_H_FILE_OPEN, 0);
}

#endif
