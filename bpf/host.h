/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * host.h: what of the host no container may touch: the agent, the programs of the container
 * engine and its configuration.
 *
 * An object is known by its place among the dentries of its file system: no mount, namespace
 * or link through which a container reaches it changes that. Acts are judged on inode hooks,
 * which also see what an overlay does below itself.
 */
#ifndef BL_HOST_H
#define BL_HOST_H

#include "priv.h"

#define BL_HOST_NAME	64	/* a longer name is known by its inode only */

/* Values of both maps are sets of rules: bit r - BL_R_HOST_AGENT. */
#define BL_HOST_RULES	3
#define BL_HOST_BIT(rule) (1 << ((rule) - BL_R_HOST_AGENT))

enum bl_host_kind {
	BL_HOST_INODE = 0,
	BL_HOST_FS = 1,		/* dev: a file system with guarded objects; tree: by which rules */
	BL_HOST_MAP = 2,	/* ino: id of a BPF map; likewise */
	BL_HOST_PROG = 3,
	BL_HOST_LINK = 4,
};

struct bl_host_key {
	__u64 ino;
	__u32 dev;	/* kernel encoding: major << 20 | minor */
	__u32 kind;	/* bl_host_kind */
};

struct bl_host_is {
	__u8 self;	/* this file, by whatever name */
	__u8 tree;	/* this directory and all below it */
	__u8 child;	/* what lies directly in it */
	__u8 above;	/* guarded objects are below: it keeps its name and is not mounted over */
	__u8 names;	/* bl_host_names has names in it */
	__u8 deeper;	/* and names in its subdirectories */
	__u8 pad[2];
};

struct bl_host_name {
	__u64 ino;	/* of a directory */
	__u32 dev;
	__u32 deeper;	/* 0: a name in it, with all below; 1: a name in a subdirectory */
	char name[BL_HOST_NAME];
};

/* The guarded objects. Written by the agent, read at each act that could harm one; full:
 * reported.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_host_key);
	__type(value, struct bl_host_is);
} bl_hosts SEC(".maps");

/* Their names, which hold before and after there is a file. As bl_hosts. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_host_name);
	__type(value, __u32);
} bl_host_names SEC(".maps");

/* Set by the loader: inode number of the host's mount namespace. */
volatile const __u32 bl_host_mnt;

static __always_inline int bl_host_used(void)
{
	return bl_opens_asked() & BL_OPENS_HOST;
}

static __always_inline struct bl_host_is *bl_host_look(__u64 ino, __u32 dev, __u32 kind)
{
	struct bl_host_key k = { .ino = ino, .dev = dev, .kind = kind };

	return bpf_map_lookup_elem(&bl_hosts, &k);
}

/* The rules on a name in a directory. verifier: all; a function of its own for the stack. */
__noinline __u32 bl_host_named(__u64 dentry, __u64 ino, __u32 dev, __u32 deeper)
{
	struct bl_host_name k = { .ino = ino, .dev = dev, .deeper = deeper };
	struct dentry *d = (void *)dentry;
	__u32 *rules;
	long len;

	len = bpf_probe_read_kernel_str(k.name, sizeof(k.name), BPF_CORE_READ(d, d_name.name));
	if (len < 0)
		bl_count(BL_E_READ);
	if (len >= BL_HOST_NAME)
		return 0;
	rules = bpf_map_lookup_elem(&bl_host_names, &k);
	return rules ? *rules : 0;
}

/* The rules by which what a dentry stands for is guarded, there or not. above: also as a
 * directory above guarded objects. A path deeper than BL_DEPTH is none's: nothing guarded can
 * be moved to there.
 */
__noinline __u32 bl_host_rules(__u64 dentry, __u32 above)
{
	struct dentry *d = (void *)dentry, *at = d, *up;
	struct bl_host_is *is, *fs;
	__u32 dev = BPF_CORE_READ(d, d_sb, s_dev), found = 0, i;
	__u64 ino = BPF_CORE_READ(d, d_inode, i_ino);

	fs = bl_host_look(0, dev, BL_HOST_FS);
	if (!fs)
		return 0;
	is = ino ? bl_host_look(ino, dev, BL_HOST_INODE) : NULL;
	if (is)
		found = is->self | is->tree | (above ? is->above : 0);
	up = BPF_CORE_READ(d, d_parent);
	if (up == d && d != BPF_CORE_READ(d, d_sb, s_root))
		return fs->tree;	/* opened by handle: it could be any */
	for (i = 0; i < BL_DEPTH; i++) {
		if (!up || up == at)
			break;
		ino = BPF_CORE_READ(up, d_inode, i_ino);
		is = bl_host_look(ino, dev, BL_HOST_INODE);
		if (is) {
			found |= is->tree;
			if (!i)
				found |= is->child;
			if (is->names)
				found |= bl_host_named((__u64)at, ino, dev, 0);
			if (i == 1 && is->deeper)
				found |= bl_host_named(dentry, ino, dev, 1);
		}
		at = up;
		up = BPF_CORE_READ(at, d_parent);
	}
	return found;
}

/* Judges an act on what these rules guard. kill: it is over already. */
static __always_inline int bl_host_judge(struct bl_who *w, struct bl_container *c, __u32 rules,
					 const struct path *object, __u8 hook, int kill)
{
	struct bl_policy *p;
	__u32 set = 0, i;
	int slot;

	p = bl_policy_of(c, &set);
	if (!p) {
		if (kill)
			bl_kill();
		return -EPERM;
	}
	for (slot = BL_ENFORCE; slot < BL_SLOTS; slot++)
		for (i = 0; i < BL_HOST_RULES; i++)
			if (rules & 1 << i &&
			    p->rules[slot][BL_R_HOST_AGENT + i].verdict == BL_DENY)
				return bl_priv_denied(w, c, p, set, slot, BL_R_HOST_AGENT + i, object,
						      hook, 0, kill) ? -EPERM : 0;
	return 0;
}

static __noinline int bl_host_verdict(struct bl_who *w, struct bl_container *c, __u32 rules,
				      const struct path *object, __u8 hook)
{
	return bl_host_judge(w, c, rules, object, hook, 0);
}

/* What the runtime does before the container's first program is no act of the container's. */
static __always_inline int bl_host_inside(struct bl_who *w, struct bl_container **c)
{
	return bl_host_used() && bl_inside(w, c) &&
	       (w->state != BL_ENTERING || (*c && (*c)->started == 2));
}

/* An act on a dentry. mnt: NULL if it is not known. */
static __always_inline int bl_host_act(const struct vfsmount *mnt, struct dentry *d, __u32 above,
				       __u8 hook)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct path path = {};
	__u32 rules;

	if (!bl_host_inside(&w, &c))
		return 0;
	path.mnt = (struct vfsmount *)mnt;
	path.dentry = d;
	/* verifier: all; a kernel pointer is no number to a global function, one that was read is */
	rules = bl_host_rules((__u64)BPF_CORE_READ(&path, dentry), above);
	return rules ? bl_host_verdict(&w, c, rules, &path, hook) : 0;
}

/* Is a task one of the agent's program? */
static __always_inline int bl_host_task(struct task_struct *t)
{
	struct file *exe;
	struct bl_host_is *is;

	if (!bl_host_used())
		return 0;
	exe = BPF_CORE_READ(t, mm, exe_file);
	if (!exe)
		return 0;
	is = bl_host_look(BPF_CORE_READ(exe, f_path.dentry, d_inode, i_ino),
			  BPF_CORE_READ(exe, f_path.dentry, d_sb, s_dev), BL_HOST_INODE);
	return is && is->self & BL_HOST_BIT(BL_R_HOST_AGENT);
}

/* Is a file of procfs about such a task? */
static __noinline int bl_host_proc(struct dentry *d)
{
	struct task_struct *t = bl_proc_task(d);

	return t && bl_host_task(t);
}

/* The rules on a file that was opened, if it was for writing. */
static __always_inline __u32 bl_host_written(struct file *file)
{
	struct dentry *d = BPF_CORE_READ(file, f_path.dentry);
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct hlist_node *alias;

	if (!(BPF_CORE_READ(file, f_mode) & FMODE_WRITE) && !(BPF_CORE_READ(file, f_flags) & O_TRUNC))
		return 0;
	if (BPF_CORE_READ(d, d_sb, s_magic) == BL_PROC)
		return bl_host_proc(d) ? BL_HOST_BIT(BL_R_HOST_AGENT) : 0;
	/* Before 6.5 what an overlay opens below itself has the overlay's path. */
	if (inode != BPF_CORE_READ(d, d_inode)) {
		alias = BPF_CORE_READ(inode, i_dentry.first);
		if (alias)
			d = (void *)alias - bpf_core_field_offset(struct dentry, d_u.d_alias);
	}
	return bl_host_rules((__u64)d, 0);
}

/* enum bpf_cmd of include/uapi/linux/bpf.h */
#define BL_BPF_LINK_UPDATE	29
#define BL_BPF_LINK_BY_ID	30
#define BL_BPF_LINK_DETACH	34

static __always_inline int bl_host_bpf_object(__u32 id, __u32 kind)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct bl_host_is *is;

	if (!bl_host_inside(&w, &c))
		return 0;
	is = bl_host_look(id, 0, kind);
	return is ? bl_host_verdict(&w, c, is->tree, NULL, BL_H_BPF) : 0;
}

/* Maps and programs are judged when a descriptor is made (host.bpf.c). For links there is no
 * such hook: the agent's are not opened by id, and a pin, which may be opened, is of no use
 * where nothing detaches or updates any.
 */
static __always_inline int bl_host_bpf(int cmd, const union bpf_attr *attr)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;
	__u32 id = 0;

	if (cmd == BL_BPF_LINK_BY_ID) {
		if (bpf_probe_read_kernel(&id, sizeof(id), attr))
			bl_count(BL_E_READ);
		return bl_host_bpf_object(id, BL_HOST_LINK);
	}
	if ((cmd != BL_BPF_LINK_DETACH && cmd != BL_BPF_LINK_UPDATE) || !bl_host_inside(&w, &c))
		return 0;
	return bl_host_verdict(&w, c, BL_HOST_BIT(BL_R_HOST_AGENT), NULL, BL_H_BPF);
}

#endif
