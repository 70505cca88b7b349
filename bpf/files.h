/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * files.h: the decision of the files rules on one act on one path.
 *
 * An object on the container's root overlay is known by its path within that file system:
 * no mount, namespace, chroot or link of a task's making changes it. On another file system
 * it is known by the container's own mounts, as for exec rules; a path that cannot be
 * walked whole is denied.
 */
#ifndef BL_FILES_H
#define BL_FILES_H

#include "facts.h"

/* The container's policy if current is armed; else 0. Unlike bl_armed it arms
 * nothing: only an exec does.
 */
static __always_inline int bl_confined(struct bl_who *w, struct bl_container **c)
{
	if (bl_who(w) != BL_ARMED)
		return 0;
	*c = bpf_map_lookup_elem(&bl_containers, &w->container);
	if (!*c)
		bl_count(BL_E_CONTAINER_GONE);
	return 1;
}

/* As bl_confined, and also for a task that has entered and is in the container's mounts
 * already, though it has executed nothing there: what it does could be asked for by
 * the container (CRIU, code put into runc init).
 */
static __always_inline int bl_inside(struct bl_who *w, struct bl_container **c)
{
	if (bl_who(w) == BL_HOST)
		return 0;
	if (w->state == BL_ENTERING &&
	    (!w->label || w->label->outside_mnt_ns == bl_mnt_ns(bpf_get_current_task_btf())))
		return 0;
	*c = bpf_map_lookup_elem(&bl_containers, &w->container);
	if (!*c)
		bl_count(BL_E_CONTAINER_GONE);
	return 1;
}

/* What is any open asked about? Asked before whose the task is: on a host where policies ask
 * about none, an open costs no more than this.
 */
static __always_inline __u32 bl_opens_asked(void)
{
	struct bl_config *cfg = bl_config();

	return cfg ? cfg->opens : ~0U;
}

static __always_inline int bl_files_used(void)
{
	return bl_opens_asked() & BL_OPENS_FILES;
}

/* Is the mount the kernel's own (a pipe's, a memfd's, a layer below an overlay)? What is
 * on it has no path in any namespace. MNT_NS_INTERNAL: fs/mount.h.
 */
static __always_inline int bl_internal_mount(const struct vfsmount *m)
{
	struct mount *real = (void *)m - bpf_core_field_offset(struct mount, mnt);

	return BPF_CORE_READ(real, mnt_ns) == (void *)-22L;
}

/* Does an overlay open a file of a layer for itself? File rules have judged it on the overlay. Before 6.8 it has the
 * overlay's path with the layer's inode (open_with_fake_path), since then that of a mount which is the kernel's own;
 * nothing else on such a mount has a path either, but for what lies on an overlay.
 */
static __always_inline int bl_on_layer(struct file *file)
{
	struct dentry *d = file->f_path.dentry;

	if (d->d_sb->s_magic == OVERLAYFS_SUPER_MAGIC)
		return (__u64)file->f_inode != (__u64)d->d_inode;
	return bl_internal_mount(BPF_CORE_READ(file, f_path.mnt));
}

struct bl_files_ask {
	struct bl_who *w;
	struct bl_container *c;
	struct bl_policy *p;
	__u32 set;
	__u32 lost;
	__u32 hit;		/* denied acts: BL_A_*, audit << BL_A_SHIFT */
	__u16 policy[BL_SLOTS];
};

/* The policy, if it says anything on one of the acts. Returns which of them any path denies, 0:
 * nothing to judge; < 0: denied.
 */
static __always_inline int bl_files_ask(struct bl_files_ask *q, __u32 acts)
{
	/* The runtime makes mount points in the root file system before the first exec. */
	if (q->w->state == BL_ENTERING && (!q->c || q->c->started != 2))
		return 0;
	q->p = bl_policy_of(q->c, &q->set);
	if (!q->p)
		return -EPERM;
	if (!(q->p->flags & BL_P_FILES))
		return 0;
	return acts & (q->p->rules[BL_ENFORCE][BL_R_FILES].opt |
		       q->p->rules[BL_AUDITED][BL_R_FILES].opt);
}

/* The acts of overlayfs for itself run with the credentials of who mounted it. Are these such? They have
 * capabilities that the container did not start with, or the container started with all.
 */
static __always_inline int bl_lent(const struct cred *cred, const struct bl_container *c)
{
	__u64 caps = 0;

	if ((__u64)cred == (__u64)bpf_get_current_task_btf()->real_cred)
		return 0;
	bpf_probe_read_kernel(&caps, sizeof(caps), __builtin_preserve_access_index(&cred->cap_effective));
	return !c || caps & ~c->caps || !~(c->caps | ~0ULL << 40);
}

static __always_inline int bl_on_root(const struct bl_container *c, struct dentry *d)
{
	return c && c->started == 2 && c->root_magic == OVERLAYFS_SUPER_MAGIC &&
	       BPF_CORE_READ(d, d_sb, s_dev) == c->root_dev;
}

/* The first bytes of a name that lies in the dentry itself, as short ones do; 0: it does not,
 * or this kernel's layout is unknown.
 */
static __always_inline __u64 bl_short_name(struct dentry *d)
{
	if (!bpf_core_field_exists(d->d_iname) || d->d_name.len >= bpf_core_field_size(d->d_iname))
		return 0;
	return *(__u64 *)d->d_iname;
}

#define BL_READ_DEPTH 16

/* Is reading a file none that a rule denies, by the names in its path alone? A rule that denies it names the
 * file or a directory above; most paths have no such name, and are spared the walk. On the root file system
 * only, where a path is the names in it: elsewhere what is mounted where counts too.
 */
static __always_inline int bl_read_unnamed(const struct bl_files_ask *q, struct file *file)
{
	struct dentry *d = file->f_path.dentry, *up = d->d_parent;
	const struct bl_container *c = q->c;
	__u32 seq, i;
	__u64 head;

	if (!c || c->started != 2 || c->root_magic != OVERLAYFS_SUPER_MAGIC ||
	    d->d_sb->s_dev != c->root_dev || (__u64)d == (__u64)up)
		return 0;
	seq = bl_rename_seq();
	for (i = 0; i < BL_READ_DEPTH; i++) {
		head = bl_short_name(d);
		if (!head || bl_name_noted(q->p->read_names, head, d->d_name.len))
			return 0;
		d = up;
		up = d->d_parent;
		if ((__u64)d == (__u64)up)
			return (__u64)d == (__u64)d->d_sb->s_root && !(seq & 1) &&
			       seq == bl_rename_seq();
	}
	return 0;
}

/* An act whose path could not be found out is denied by whatever is said of such acts. */
static __always_inline void bl_files_lost(struct bl_files_ask *q, __u32 acts)
{
	q->lost = 1;
	q->hit |= acts & q->p->rules[BL_ENFORCE][BL_R_FILES].opt;
	q->hit |= (acts & q->p->rules[BL_AUDITED][BL_R_FILES].opt) << BL_A_SHIFT;
	q->policy[BL_ENFORCE] = q->p->rules[BL_ENFORCE][BL_R_FILES].policy;
	q->policy[BL_AUDITED] = q->p->rules[BL_AUDITED][BL_R_FILES].policy;
}

/* The mount namespace by which paths off the root file system are told. */
static __always_inline __u32 bl_files_ns(const struct bl_container *c)
{
	return c && c->started == 2 ? c->mnt_ns : bl_mnt_ns(bpf_get_current_task_btf());
}

/* Adds to q->hit which of the acts are denied on a path. Its mnt NULL: not known; then only the
 * root file system is judged.
 */
static __always_inline void bl_files_judge(struct bl_files_ask *q, const struct path *path,
					   __u32 acts)
{
	/* verifier: all; a kernel pointer is no number to a global function, one that was read is */
	struct vfsmount *mnt = BPF_CORE_READ(path, mnt);
	struct dentry *d = BPF_CORE_READ(path, dentry);
	int on_root = bl_on_root(q->c, d), i, n;
	struct bl_scratch *s;
	__u32 seq, ns, hit, dirs = bl_files_dirs(q->p->flags);

	/* A task that still enters has the runtime's files open, which are on no mount of the
	 * container.
	 */
	if (!on_root && (!mnt || bl_internal_mount(mnt) || q->w->state == BL_ENTERING))
		return;
	s = bl_scratch_get();
	if (!s) {
		bl_count(BL_E_SCRATCH);
		goto lost;
	}
	ns = bl_files_ns(q->c);
	s->max_mount = q->c ? q->c->max_mount : 0;
	s->no_mounts = q->c && bl_no_mounts(q->c);
	s->root_dev = q->c ? q->c->root_dev : 0;
	for (i = 0; i < BL_RACES; i++) {
		struct bl_path_found found = { .verdict = { BL_ALLOW, BL_ALLOW } };

		seq = bl_rename_seq();
		n = on_root ? bl_walk_fs(s, (__u64)d) : bl_walk(s, (__u64)mnt, (__u64)d, ns);
		if (n < 0 || bl_path_rules(s, q->set, dirs, BL_PATH_FILES_EXACT, &found) < 0) {
			bl_count(BL_E_PATH_DEPTH);
			i = -1;
			break;
		}
		if (!(seq & 1) && seq == bl_rename_seq()) {
			hit = bl_acts_denied(found.allow_bits, acts);
			q->hit |= hit;
			if (hit & BL_ACTS)
				q->policy[BL_ENFORCE] = found.policy[BL_ENFORCE];
			if (hit >> BL_A_SHIFT)
				q->policy[BL_AUDITED] = found.policy[BL_AUDITED];
			break;
		}
	}
	bl_scratch_put(s);
	if (i >= 0 && i < BL_RACES)
		return;
	if (i == BL_RACES)
		bl_count(BL_E_PATH_RACE);
lost:
	bl_files_lost(q, acts);
}

/* Decides and reports. object: for the record, NULL if no path is known. */
static __always_inline int bl_files_verdict(struct bl_files_ask *q, const struct path *object,
					    __u8 hook)
{
	struct bl_report r = {};
	int deny = q->hit & BL_ACTS;

	if (!q->hit)
		return 0;
	r.who = q->w;
	r.c = q->c;
	r.p = q->p;
	r.d.rule = BL_R_FILES;
	r.d.policy = deny ? q->policy[BL_ENFORCE] : q->policy[BL_AUDITED];
	r.set = q->set;
	r.object = object;
	r.file_flags = q->lost ? BL_F_PATH_LOST : 0;
	r.type = BL_EV_FILE;
	r.hook = hook;
	r.decided = deny ? BL_DENIED : BL_WOULD_DENY;
	bl_emit(&r);
	return deny ? -EPERM : 0;
}

/* One act of a task in a container on one path. file: the one at the path, if it is open. */
static __always_inline int bl_files_act(struct bl_who *w, struct bl_container *c,
					const struct path *path, struct file *file, __u32 acts,
					__u8 hook)
{
	struct bl_files_ask q = { .w = w, .c = c };
	int asked = bl_files_ask(&q, acts);

	if (asked <= 0)
		return asked;
	if (file && asked == BL_A_READ && bl_read_unnamed(&q, file))
		return 0;
	bl_files_judge(&q, path, acts);
	return bl_files_verdict(&q, path, hook);
}

static __always_inline __u32 bl_file_acts(struct file *file)
{
	return bl_acts_opened(file->f_mode & FMODE_READ, file->f_mode & FMODE_WRITE,
			      file->f_flags & O_TRUNC);
}

static __always_inline int bl_files_opened(struct bl_who *w, struct bl_container *c,
					   struct file *file)
{
	return bl_files_act(w, c, __builtin_preserve_access_index(&file->f_path), file,
			    bl_file_acts(file), BL_H_FILE_OPEN);
}

/* A mapping of a descriptor that was opened before the rule came, or was handed in. */
static __always_inline int bl_files_mapped(struct bl_who *w, struct bl_container *c,
					   struct file *file, unsigned long prot, int shared,
					   __u8 hook)
{
	return bl_files_act(w, c, bl_user_path(file), file,
			    bl_acts_mapped(!!(prot & (PROT_READ | PROT_WRITE | PROT_EXEC)),
					   !!(prot & PROT_WRITE), shared), hook);
}

/* Set by the loader: how many arguments the backend's hook of setattr has. Since 6.9, and
 * security_inode_setattr since 6.0, it is given the mount's mapping of ids too.
 */
volatile const __u32 bl_setattr_args;

#define BL_SETATTR_HOOK(section, name, act)						\
SEC(section)										\
int name(__u64 *ctx)									\
{											\
	struct dentry *dentry;								\
	struct iattr *attr;								\
											\
	/* verifier: all; ctx itself is not moved: the two ways must not be made one */	\
	if (bl_setattr_args == 3) {							\
		dentry = (void *)ctx[1];						\
		attr = (void *)ctx[2];							\
		asm volatile("/* 3 */" : "+r"(dentry), "+r"(attr));			\
	} else {									\
		dentry = (void *)ctx[0];						\
		attr = (void *)ctx[1];							\
		asm volatile("/* 2 */" : "+r"(dentry), "+r"(attr));			\
	}										\
	(void)attr;									\
	return act;									\
}

#define BL_SETATTR(id, act)								\
BL_SETATTR_HOOK("lsm/inode_setattr", bl_lsm_##id, act)					\
BL_SETATTR_HOOK("fmod_ret/security_inode_setattr", bl_mod_##id, act)

#endif
