/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * walk.h: the path of a resolved file, from its dentry up to the root of its mount
 * namespace, across mounts. Whole or not at all: deeper than BL_DEPTH, detached or
 * in another namespace is "lost", which path rules take as denied.
 *
 * bpf_d_path would be simpler, but is refused in bprm_check under fmod_ret and in
 * sched_process_exec.
 */
#ifndef BL_WALK_H
#define BL_WALK_H

#include "task.h"
#include "pure/path.h"
#include "pure/files.h"

/* The key of the path hashes: random, set by the loader at the first start and kept
 * with the pinned maps.
 */
volatile const __u64 bl_sip_k0, bl_sip_k1;

/* kallsyms address of rename_lock (fs/dcache.c), set by the loader; 0: unknown. Its
 * first word is a sequence count that every rename raises twice.
 */
volatile const __u64 bl_rename_lock;

#define BL_WALK_STEPS (BL_DEPTH + 32)

static __always_inline struct bl_scratch *bl_scratch_get(void)
{
	__u32 key = (bpf_get_smp_processor_id() & (BL_SLOTS_CPUS - 1)) * BL_SLOTS_CPU;
	struct bl_scratch *s;
	int i;

	for (i = 0; i < BL_SLOTS_CPU; i++, key++) {
		s = bpf_map_lookup_elem(&bl_slots, &key);
		if (s && !__sync_val_compare_and_swap(&s->busy, 0, 1))
			return s;
	}
	return bpf_task_storage_get(&bl_scratches, bpf_get_current_task_btf(), 0,
				    BPF_LOCAL_STORAGE_GET_F_CREATE);
}

static __always_inline void bl_scratch_put(struct bl_scratch *s)
{
	__sync_fetch_and_and(&s->busy, 0);
}

static __always_inline __u32 bl_rename_seq(void)
{
	__u32 seq = 0;

	if (bl_rename_lock)
		bpf_probe_read_kernel(&seq, sizeof(seq), (void *)bl_rename_lock);
	return seq;
}

enum bl_step {
	BL_STEP_ON = 0,
	BL_STEP_DONE = 1,
	BL_STEP_LOST = 2,
};

/* Is a mount the container's root, as it was? It lies on the namespace's own root mount, and
 * so would one that the container makes and turns to (pivot_root): all of the same file
 * system, or files would have other paths under it.
 */
static __always_inline int bl_own_root(struct bl_scratch *s, struct vfsmount *m,
				       struct mount *parent)
{
	struct super_block *sb = BPF_CORE_READ(m, mnt_sb);

	return BPF_CORE_READ(parent, mnt_parent) == parent &&
	       BPF_CORE_READ(sb, s_dev) == s->root_dev &&
	       BPF_CORE_READ(m, mnt_root) == BPF_CORE_READ(sb, s_root);
}

/* One step up: to the parent dentry, or from a mount's root to where it is mounted. */
__noinline int bl_walk_step(struct bl_scratch *s)
{
	struct mount *real, *parent;
	struct mnt_namespace *n;
	struct vfsmount *m;
	struct dentry *d, *up;
	__u32 k;

	if (!s)
		return BL_STEP_LOST;
	m = (void *)s->mnt;
	d = (void *)s->at;
	if (d == BPF_CORE_READ(m, mnt_root)) {
		real = (void *)m - bpf_core_field_offset(struct mount, mnt);
		parent = BPF_CORE_READ(real, mnt_parent);
		if (parent == real) {
			n = BPF_CORE_READ(real, mnt_ns);
			if (!n || (s->ns && BPF_CORE_READ(n, ns.inum) != s->ns))
				return BL_STEP_LOST;
			return BL_STEP_DONE;
		}
		/* What was mounted after the start can give a file any path. */
		if (s->no_mounts && !bl_own_root(s, m, parent))
			return BL_STEP_LOST;
		if (s->max_mount && bpf_core_field_exists(struct mount, mnt_id_unique) &&
		    BPF_CORE_READ(real, mnt_id_unique) > s->max_mount)
			return BL_STEP_LOST;
		s->at = (__u64)BPF_CORE_READ(real, mnt_mountpoint);
		s->mnt = (__u64)parent + bpf_core_field_offset(struct mount, mnt);
		return BL_STEP_ON;
	}
	up = BPF_CORE_READ(d, d_parent);
	if (!m && up == d)	/* for a record of an act whose mount is not known */
		return BL_STEP_DONE;
	k = s->n;
	if (!up || k >= BL_DEPTH)
		return BL_STEP_LOST;
	s->dentry[k] = (__u64)d;
	s->n = k + 1;
	if (up == d)	/* a memfd, a pipe: no path, but a name for the record */
		return BL_STEP_LOST;
	s->at = (__u64)up;
	return BL_STEP_ON;
}

/* Collects the dentries of a path, leaf first, in s->dentry. mnt is a vfsmount.
 * ns: see bl_scratch. Returns the number of components, or -1 if the path is lost.
 */
__noinline int bl_walk(struct bl_scratch *s, __u64 mnt, __u64 dentry, __u32 ns)
{
	int i, step;

	if (!s)
		return -1;
	s->mnt = mnt;
	s->at = dentry;
	s->n = 0;
	s->ns = ns;
	for (i = 0; i < BL_WALK_STEPS; i++) {
		step = bl_walk_step(s);
		if (step == BL_STEP_DONE)
			return s->n;
		if (step != BL_STEP_ON)
			return -1;
	}
	return -1;
}

/* As bl_walk, within one file system: up to its root, whatever is mounted where. */
__noinline int bl_walk_fs(struct bl_scratch *s, __u64 dentry)
{
	struct dentry *d = (void *)dentry, *up, *root;
	__u32 i;

	if (!s)
		return -1;
	root = BPF_CORE_READ(d, d_sb, s_root);
	s->n = 0;
	for (i = 0; i < BL_DEPTH; i++) {
		if (d == root) {
			s->n = i;
			return i;
		}
		up = BPF_CORE_READ(d, d_parent);
		if (!up || up == d)	/* opened by handle: it has no name */
			return -1;
		s->dentry[i] = (__u64)d;
		d = up;
	}
	return -1;
}

/* Reads the name of component i (0 is the leaf) into s->name; returns its length. */
static __always_inline int bl_name(struct bl_scratch *s, __u32 i)
{
	struct dentry *d = (void *)s->dentry[i & (BL_DEPTH - 1)];
	long len;

	len = bpf_probe_read_kernel_str(s->name, BL_NAME, BPF_CORE_READ(d, d_name.name));
	if (len < 0)
		bl_count(BL_E_READ);
	return len < 2 ? 0 : len - 1;
}

struct bl_path_found {
	__u32 allow_bits;
	__u8 verdict[BL_SLOTS];
	__u16 policy[BL_SLOTS];
	__u16 pad;	/* verifier: < 6.3; no byte of what a global function is given may be unset */
};

static __always_inline void bl_found_add(struct bl_path_found *f, const struct bl_path_rule *r)
{
	int i;

	f->allow_bits |= r->allow_bits;
	for (i = 0; i < BL_SLOTS; i++) {
		if (r->verdict[i] != BL_DENY)
			continue;
		/* of several patterns, the policy first in order gets the credit */
		if (f->verdict[i] == BL_DENY && f->policy[i] <= r->policy[i])
			continue;
		f->verdict[i] = BL_DENY;
		f->policy[i] = r->policy[i];
	}
}

/* Takes component i (0 is the leaf) into the hash in s. */
__noinline int bl_path_take(struct bl_scratch *s, __u32 i)
{
	struct bl_sip sip;
	int len, k;

	if (!s)
		return -1;
	len = bl_name(s, i);
	if (len <= 0 || len >= BL_NAME)
		return -1;
	for (k = 0; k < 4; k++)
		sip.v[k] = s->sip[k];
	bl_sip_name(&sip, s->name, len);
	for (k = 0; k < 4; k++)
		s->sip[k] = sip.v[k];
	return 0;
}

/* Looks up the rules of one kind on the path taken so far. */
__noinline int bl_path_lookup(struct bl_scratch *s, __u32 set, __u32 kind, struct bl_path_found *f)
{
	struct bl_path_key key = { .set = set, .kind = kind };
	struct bl_path_rule *r;
	struct bl_sip sip;
	int k;

	if (!s || !f)
		return -1;
	for (k = 0; k < 4; k++)
		sip.v[k] = s->sip[k];
	bl_sip_sum(&sip, &key.h[0], &key.h[1]);
	r = bpf_map_lookup_elem(&bl_paths, &key);
	if (r)
		bl_found_add(f, r);
	return 0;
}

/* Looks up the rules on the directory of the path taken so far. at: the kind, and above it how many
 * components are taken. A function of its own, so that what it decides is verified once and not in
 * each turn of the loop that calls it.
 */
__noinline int bl_path_dir(struct bl_scratch *s, __u32 set, __u32 dirs, __u32 at,
			   struct bl_path_found *f)
{
	__u32 asks, kind = at & 0xff;

	if (!s)
		return -1;
	asks = bl_path_asks(at >> 8, s->n, dirs);
	if (asks & 1 << BL_PATH_TREE)
		bl_path_lookup(s, set, kind + BL_PATH_TREE, f);
	if (asks & 1 << BL_PATH_CHILD)
		bl_path_lookup(s, set, kind + BL_PATH_CHILD, f);
	return 0;
}

/* Hashes the path that bl_walk left in s and looks its rules up. dirs: BL_DIRS_*, the
 * ancestors that are looked up too. kind: BL_PATH_EXACT, or
 * BL_PATH_FILES_EXACT for file rules.
 */
__noinline int bl_path_rules(struct bl_scratch *s, __u32 set, __u32 dirs, __u32 kind,
			     struct bl_path_found *f)
{
	struct bl_sip sip;
	__u32 i, n;
	int k;

	if (!s || !f)
		return -1;
	n = s->n;
	bl_sip_init(&sip, bl_sip_k0, bl_sip_k1);
	for (k = 0; k < 4; k++)
		s->sip[k] = sip.v[k];
	for (i = 0; i < BL_DEPTH; i++) {
		if (i >= n)
			break;
		bl_path_dir(s, set, dirs, kind | i << 8, f);	/* that component i lies in */
		if (bl_path_take(s, n - 1 - i) < 0)
			return -1;
	}
	return bl_path_lookup(s, set, kind + BL_PATH_EXACT, f);
}

#endif
