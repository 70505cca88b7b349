/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * facts.h: reads from kernel objects what the pure decisions ask about a file, a
 * task's credentials and a path.
 */
#ifndef BL_FACTS_H
#define BL_FACTS_H

#include "emit.h"
#include "pure/exec.h"
#include "pure/ssh_names.h"

/* Offsets from overlayfs's vfs_inode to __upperdentry and flags in struct ovl_inode
 * (fs/overlayfs/ovl_entry.h), and the number of the flag OVL_UPPERDATA: from the
 * BTF of the kernel or of the overlay module, set by the loader. 0: unknown.
 */
volatile const __s32 bl_ovl_upper, bl_ovl_flags, bl_ovl_upperdata = -1;

enum bl_backend_id {
	BL_LSM = 0,
	BL_MODRET = 1,
	BL_SIGNAL = 2,
};

volatile const __u32 bl_backend;

/* The highest unique mount id of a mount namespace; 0: this kernel has none. */
__noinline __u64 bl_max_mount(__u64 ns)
{
	struct mnt_namespace *n = (void *)ns;
	struct rb_node *node, *last = NULL;
	struct mount *m;
	int i;

	if (!bpf_core_field_exists(struct mount, mnt_id_unique) ||
	    !bpf_core_field_exists(struct mnt_namespace, mounts) ||
	    !bpf_core_field_exists(struct mount, mnt_node))
		return 0;
	node = BPF_CORE_READ(n, mounts.rb_node);
	for (i = 0; i < 64 && node; i++) {
		last = node;
		node = BPF_CORE_READ(node, rb_right);
	}
	if (!last)
		return 0;
	m = (void *)last - bpf_core_field_offset(struct mount, mnt_node);
	return BPF_CORE_READ(m, mnt_id_unique);
}

#define BL_ROOT_UNKNOWN	((__u32)-2)

/* uid 0 of a user namespace, as the initial one sees it; -1: it has none; BL_ROOT_UNKNOWN:
 * it could not be read.
 */
__noinline __u32 bl_ns_root(__u64 user_ns)
{
	struct user_namespace *ns = (void *)user_ns;
	struct uid_gid_extent e = {};
	__u32 n, i;
	void *from;

	if (!BPF_CORE_READ(ns, level))
		return 0;
	n = BPF_CORE_READ(ns, uid_map.nr_extents);
	if (n <= 5)	/* UID_GID_MAP_MAX_BASE_EXTENTS */
		from = __builtin_preserve_access_index(&ns->uid_map.extent);
	else
		from = BPF_CORE_READ(ns, uid_map.forward);
	for (i = 0; i < 340; i++) {	/* UID_GID_MAP_MAX_EXTENTS */
		if (i >= n)
			break;
		if (bpf_probe_read_kernel(&e, sizeof(e), from + i * sizeof(e))) {
			bl_count(BL_E_READ);
			return BL_ROOT_UNKNOWN;
		}
		if (!e.first && e.count)
			return e.lower_first;
	}
	return -1;
}

static __always_inline void bl_root_facts(const struct bl_container *c, const struct cred *cred,
					  struct bl_exec_facts *f)
{
	__u32 uid = cred->uid.val, euid = cred->euid.val, root;
	__u64 permitted = 0, ambient = 0;

	if (!uid || !euid) {
		f->flags |= BL_F_ROOT;
		return;
	}
	if (c && (uid == c->root_kuid || euid == c->root_kuid ||
		  c->root_kuid == BL_ROOT_UNKNOWN)) {
		f->flags |= BL_F_ROOT;
		return;
	}
	root = bl_ns_root((__u64)BPF_CORE_READ(cred, user_ns));
	if (root == uid || root == euid || root == BL_ROOT_UNKNOWN) {
		f->flags |= BL_F_NESTED;
		return;
	}
	/* capabilities(7): after execve by a user who is not root, permitted is
	 * ambient and what the file's own capabilities gave.
	 */
	if (bpf_probe_read_kernel(&permitted, 8, __builtin_preserve_access_index(&cred->cap_permitted)) ||
	    bpf_probe_read_kernel(&ambient, 8, __builtin_preserve_access_index(&cred->cap_ambient))) {
		bl_count(BL_E_READ);
		permitted = ~0ULL;
	}
	if (permitted & ~ambient)
		f->flags |= BL_F_FILE_CAPS;
	/* In a user namespace that the container made, capabilities are root's, whatever
	 * uid it gave itself.
	 */
	if (permitted && c && c->started == 2 && BPF_CORE_READ(cred, user_ns, level) > c->user_level)
		f->flags |= BL_F_NESTED;
}

/* pid 1 of the container: found among the ancestors, so that its credentials are
 * read from the task itself and not from a number that could be reused.
 */
__noinline int bl_init_is_root(__u32 init_tgid, __u32 root_kuid)
{
	struct task_struct *t = bpf_get_current_task_btf();
	__u32 uid, euid;
	int i;

	for (i = 0; i < 32 && t; i++) {
		t = BPF_CORE_READ(t, group_leader);
		if (BPF_CORE_READ(t, tgid) == init_tgid) {
			uid = BPF_CORE_READ(t, cred, uid.val);
			euid = BPF_CORE_READ(t, cred, euid.val);
			return !uid || !euid || uid == root_kuid || euid == root_kuid;
		}
		t = BPF_CORE_READ(t, real_parent);
	}
	return 0;
}

static __always_inline void bl_start_facts(const struct bl_container *c, const struct bl_who *w,
					   struct bl_exec_facts *f)
{
	if (!c || !c->start_ns)
		return;
	f->age_ns = bpf_ktime_get_boot_ns() - c->start_ns;
	if (w->init_tree) {
		f->flags |= BL_F_INIT_TREE;
		if (bl_init_is_root(c->init_tgid, c->root_kuid))
			f->flags |= BL_F_INIT_ROOT;
	}
}

/* The path by which a user knows a file. For a mapping of a file on overlayfs, vm_file is
 * the file below; before 6.5 its f_path is the overlay's all the same. The bit that marks
 * such a file has moved between kernels and is in no BTF, so what lies behind the file is
 * taken for a path only if it leads to an overlay.
 */
static __always_inline const struct path *bl_user_path(struct file *file)
{
	struct backing_file *b = (struct backing_file *)file;

	if (bpf_core_type_exists(struct backing_file) &&
	    BPF_CORE_READ(file, f_mode) & (FMODE_BACKING_A | FMODE_BACKING_B) &&
	    BPF_CORE_READ(b, user_path.dentry, d_sb, s_magic) == OVERLAYFS_SUPER_MAGIC &&
	    BPF_CORE_READ(b, user_path.mnt, mnt_sb) == BPF_CORE_READ(b, user_path.dentry, d_sb))
		return __builtin_preserve_access_index(&b->user_path);
	return __builtin_preserve_access_index(&file->f_path);
}

static __always_inline __u8 bl_overlay_facts(struct inode *inode, struct bl_exec_facts *f)
{
	__u64 upper = 1;
	unsigned long flags = 0;

	/* an unreadable or unknown layout counts as the writable layer */
	if (bl_ovl_upper &&
	    bpf_probe_read_kernel(&upper, sizeof(upper), (void *)inode + bl_ovl_upper)) {
		bl_count(BL_E_READ);
		upper = 1;
	}
	if (upper) {
		f->flags |= BL_F_UPPER;
		if (bl_ovl_flags && bl_ovl_upperdata >= 0 &&
		    !bpf_probe_read_kernel(&flags, sizeof(flags), (void *)inode + bl_ovl_flags) &&
		    !(flags & (1UL << (bl_ovl_upperdata & 63))))
			f->flags |= BL_F_METADATA;
		return BL_L_UPPER;
	}
	return BL_L_IMAGE;
}

/* The number of a process in the PID namespace that it is in, and that namespace. */
static __always_inline struct upid *bl_upid(struct pid *pid)
{
	__u64 numbers = (__u64)pid + bpf_core_field_offset(struct pid, numbers);

	return (void *)(numbers + BPF_CORE_READ(pid, level) * bpf_core_type_size(struct upid));
}

/* By which current's process knows itself. */
static __noinline int bl_own_number(void)
{
	struct pid *pid = BPF_CORE_READ(bpf_get_current_task_btf(), group_leader, thread_pid);
	struct upid *u = bl_upid(pid);

	return BPF_CORE_READ(u, nr);
}

/* Can any mount but the root's be one that the container has made what it is? */
static __always_inline int bl_no_mounts(const struct bl_container *c)
{
	return c->moved || (!c->max_mount && c->mounted_after);
}

static __always_inline __u8 bl_mount_facts(const struct bl_container *c, struct vfsmount *m,
					   struct super_block *sb, struct bl_exec_facts *f)
{
	struct mount *real = (void *)m - bpf_core_field_offset(struct mount, mnt);
	struct mnt_namespace *ns = BPF_CORE_READ(real, mnt_ns);
	__u64 id = 0;

	if (!ns || !c || BPF_CORE_READ(ns, ns.inum) != c->mnt_ns) {
		f->flags |= BL_F_MOUNTED;
		return BL_L_MOUNTED;
	}
	if (bpf_core_field_exists(struct mount, mnt_id_unique))
		id = BPF_CORE_READ(real, mnt_id_unique);
	if (bl_no_mounts(c) || (c->max_mount && id > c->max_mount)) {
		f->flags |= BL_F_MOUNTED;
		return BL_L_MOUNTED;
	}
	f->flags |= BL_F_VOLUME;
	/* With CAP_SYS_ADMIN read-only is what the container makes it (remount, mount_setattr). */
	if (!(c->caps & 1ULL << CAP_SYS_ADMIN) && !c->admin &&
	    (BPF_CORE_READ(m, mnt_flags) & MNT_READONLY || BPF_CORE_READ(sb, s_flags) & SB_RDONLY))
		f->flags |= BL_F_VOLUME_RO;
	return BL_L_VOLUME;
}

/* Where a file comes from. Returns its layer. */
static __always_inline __u8 bl_file_facts(const struct bl_container *c, const struct path *path,
					  struct bl_exec_facts *f)
{
	struct inode *inode = BPF_CORE_READ(path, dentry, d_inode);
	struct super_block *sb = BPF_CORE_READ(inode, i_sb);
	unsigned long magic = BPF_CORE_READ(sb, s_magic);
	struct bl_inode_key key = { .ino = BPF_CORE_READ(inode, i_ino), .dev = BPF_CORE_READ(sb, s_dev) };
	__u32 links = BPF_CORE_READ(inode, i_nlink);
	__u8 layer;

	if (!links)
		f->flags |= BL_F_DELETED;
	if (magic == TMPFS_MAGIC || magic == RAMFS_MAGIC || magic == HUGETLBFS_MAGIC) {
		f->flags |= BL_F_TMPFS;
		return links ? BL_L_TMPFS : BL_L_MEMFD;
	}
	if (c && c->started == 2 && key.dev == c->root_dev) {
		if (magic != OVERLAYFS_SUPER_MAGIC)
			return BL_L_PLAIN;
		layer = bl_overlay_facts(inode, f);
	} else {
		if (bpf_map_lookup_elem(&bl_helpers, &key))
			f->flags |= BL_F_HELPER;
		layer = bl_mount_facts(c, BPF_CORE_READ(path, mnt), sb, f);
	}
	return links ? layer : BL_L_DELETED;
}

static __always_inline void bl_name_facts(struct file *file, struct bl_exec_facts *f)
{
	struct dentry *d = file->f_path.dentry;
	char name[BL_SSH_NAME] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), d->d_name.name);
	if (bl_ssh_program(name))
		f->flags |= BL_F_SSH_PROGRAM;
}

/* The pure decision as a function of its own: verified once, for any facts, instead of
 * once for every way the facts can be gathered. Returns verdict | rule << 8 |
 * policy << 16; a verdict of zero denies.
 */
__noinline __u64 bl_decide(struct bl_policy *p, struct bl_exec_facts *f)
{
	struct bl_decision d;

	if (!p || !f)
		return 0;
	d = bl_exec_decide(p, f);
	return d.verdict | (__u64)d.rule << 8 | (__u64)d.policy << 16;
}

static __always_inline struct bl_decision bl_decision(struct bl_policy *p, struct bl_exec_facts *f)
{
	__u64 v = bl_decide(p, f);
	struct bl_decision d = { .verdict = v, .rule = v >> 8, .policy = v >> 16 };

	return d;
}

#define BL_RACES 3

/* The rules on paths and inodes that name a file. */
static __always_inline void bl_path_facts(const struct bl_container *c, const struct bl_policy *p,
					  __u32 set, const struct path *path,
					  struct bl_exec_facts *f)
{
	struct bl_inode_key key = { .ino = BPF_CORE_READ(path, dentry, d_inode, i_ino),
				    .dev = BPF_CORE_READ(path, dentry, d_sb, s_dev), .set = set };
	struct bl_path_found found = { .verdict = { BL_ALLOW, BL_ALLOW } };
	struct bl_path_rule *r;
	struct bl_scratch *s;
	__u32 seq, ns;
	int i;

	if (p->flags & BL_P_INODES) {
		r = bpf_map_lookup_elem(&bl_inodes, &key);
		if (r)
			bl_found_add(&found, r);
	}
	if (p->flags & BL_P_PATHS) {
		s = bl_scratch_get();
		if (!s) {
			bl_count(BL_E_SCRATCH);
			f->flags |= BL_F_PATH_LOST;
			return;
		}
		/* A path means what the container's own mounts make of it, and not those
		 * that a task of it made for itself.
		 */
		ns = c && c->started == 2 ? c->mnt_ns : bl_mnt_ns(bpf_get_current_task_btf());
		s->max_mount = c ? c->max_mount : 0;
		s->no_mounts = c && bl_no_mounts(c);
		s->root_dev = c ? c->root_dev : 0;
		for (i = 0; i < BL_RACES; i++) {
			struct bl_path_found try = found;

			seq = bl_rename_seq();
			if (bl_walk(s, (__u64)BPF_CORE_READ(path, mnt),
				    (__u64)BPF_CORE_READ(path, dentry), ns) < 1 ||
			    bl_path_rules(s, set, p->flags & BL_P_DIRS ? ~0U : 0, BL_PATH_EXACT, &try) < 0) {
				bl_count(BL_E_PATH_DEPTH);
				f->flags |= BL_F_PATH_LOST;
				break;
			}
			if (!(seq & 1) && seq == bl_rename_seq()) {
				found = try;
				break;
			}
		}
		bl_scratch_put(s);
		if (i == BL_RACES) {
			bl_count(BL_E_PATH_RACE);
			f->flags |= BL_F_PATH_LOST;
		}
	}
	f->allow_bits = found.allow_bits;
	for (i = 0; i < BL_SLOTS; i++) {
		f->path_verdict[i] = found.verdict[i];
		f->path_policy[i] = found.policy[i];
	}
}

#endif
