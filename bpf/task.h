/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * task.h: whose task is this? A label in task storage answers; where there is none, the
 * cgroup does. "No label" never means "host".
 */
#ifndef BL_TASK_H
#define BL_TASK_H

#include "fail.h"
#include "pure/cgroup_name.h"

/* Set by the loader: index of the pids controller in css_set.subsys on hosts with
 * no cgroup v2 hierarchy, else -1.
 */
volatile const __s32 bl_v1_subsys = -1;

/* Then also that hierarchy's number: cgroup ids are unique in one hierarchy only. */
volatile const __s32 bl_v1_hierarchy;

#define BL_MAX_LEVELS 24

static __always_inline struct bl_config *bl_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&bl_configs, &zero);
}

static __always_inline __u64 *bl_global(__u32 which)
{
	return bpf_map_lookup_elem(&bl_globals, &which);
}

static __always_inline struct cgroup *bl_cgroup_of(struct task_struct *task)
{
	/* verifier: all; an index from .rodata must be a constant at the access */
	if (bl_v1_subsys >= 0 && bl_v1_subsys < 16)
		return task->cgroups->subsys[bl_v1_subsys]->cgroup;
	return task->cgroups->dfl_cgrp;
}

/* Whose cgroup is this, by its name? buf: BL_CGNAME bytes, zero; used twice, since the
 * stack is small.
 */
static __always_inline int bl_recognise(struct cgroup *cg, char *buf, __u8 *id)
{
	const char *src = BPF_CORE_READ(cg, kn, name);
	char parent[16] = {};
	struct cgroup *up;
	long len;
	int off;

	len = bpf_probe_read_kernel_str(buf, BL_CGNAME, src);
	if (len < 0)
		bl_count(BL_E_READ);
	if (len <= 1 || len == BL_CGNAME)	/* cut: too long to be a container's */
		return BL_CG_OTHER;
	len--;
	if (len == 25) {
		up = (struct cgroup *)BPF_CORE_READ(cg, self.parent);	/* self is the first member */
		bpf_probe_read_kernel_str(parent, sizeof(parent), BPF_CORE_READ(up, kn, name));
		return bl_build_name(buf, len, parent) ? BL_CG_BUILD : BL_CG_OTHER;
	}
	bpf_probe_read_kernel(parent, 1, src + len - 2);
	off = bl_id_offset(len, len > 1 ? parent[0] : 0);
	if (off < 0)
		return BL_CG_OTHER;
	__builtin_memset(buf, 0, BL_WIN_ID);
	bpf_probe_read_kernel_str(buf + BL_WIN_ID, BL_WIN - BL_WIN_ID, src + off);
	if (off > 0)
		bpf_probe_read_kernel(buf + BL_WIN_ID - 1, 1, src + off - 1);
	if (off >= 7)
		bpf_probe_read_kernel(buf + BL_WIN_ID - 7, 7, src + off - 7);
	return bl_container_name(buf, len, id) ? BL_CG_CONTAINER : BL_CG_OTHER;
}

static __always_inline int bl_in_scope(__u64 id)
{
	return bpf_map_lookup_elem(&bl_scopes, &id) != NULL;
}

/* Is a cgroup, given by its parent, below a scope (or are there none)? */
static __always_inline int bl_scoped_below(struct cgroup *up)
{
	struct bl_config *cfg = bl_config();
	int i;

	if (!cfg || !cfg->scoped)
		return 1;
	for (i = 0; i < BL_MAX_LEVELS && up; i++) {
		if (bl_in_scope(BPF_CORE_READ(up, kn, id)))
			return 1;
		up = (struct cgroup *)BPF_CORE_READ(up, self.parent);
	}
	return up != NULL;	/* deeper than this looks: recognised rather than lost */
}

/* By its name, is a cgroup one that is recognised? */
__noinline int bl_by_name(__u64 cgroup)
{
	struct cgroup *cg = (void *)cgroup;
	char buf[BL_CGNAME] = {};
	__u8 id[32];

	return bl_recognise(cg, buf, id) != BL_CG_OTHER &&
	       bl_scoped_below((struct cgroup *)BPF_CORE_READ(cg, self.parent));
}

/* Are there cgroups of containers that bl_cgroups had no room for? */
static __always_inline int bl_overflow(void)
{
	__u64 *over = bl_global(BL_G_OVERFLOW), *mended = bl_global(BL_G_MENDED);

	return over && mended && *over != *mended;
}

/* In the place of a container's cgroup, of one that is deeper than bl_container_slow looks: a
 * container of which nothing is known, under the floor. Only a container makes such trees.
 */
#define BL_DEEPER (~0ULL)

/* bl_cgroups was full: look at the ancestors, by id and then by name. */
__noinline __u64 bl_container_slow(__u64 cgroup)
{
	struct cgroup *cg = (void *)cgroup;
	__u64 key, *top;
	int i;

	for (i = 0; i < BL_MAX_LEVELS && cg; i++) {
		key = BPF_CORE_READ(cg, kn, id);
		top = bpf_map_lookup_elem(&bl_cgroups, &key);
		if (top)
			return *top;
		if (bl_by_name((__u64)cg))
			return key;
		cg = (struct cgroup *)BPF_CORE_READ(cg, self.parent);
	}
	return cg ? BL_DEEPER : 0;
}

/* The container that a cgroup belongs to; 0: none. */
static __always_inline __u64 bl_container_of(struct cgroup *cg)
{
	__u64 id = cg->kn->id;
	__u64 *top = bpf_map_lookup_elem(&bl_cgroups, &id);

	if (top)
		return *top;
	if (bl_overflow())
		/* self.cgroup is cg again, as the plain number that a global function takes */
		return bl_container_slow((__u64)BPF_CORE_READ(cg, self.cgroup));
	return 0;
}

static __always_inline __u32 bl_mnt_ns(struct task_struct *task)
{
	/* nsproxy is NULL in an exiting task */
	return BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
}

/* Set by the loader: inode numbers of the host's namespaces. */
volatile const __u32 bl_host_net;
volatile const __u32 bl_host_ipc;
volatile const __u32 bl_host_uts;

/* What cannot be read is taken for the host's. */
static __always_inline int bl_not_host_net(__u32 inum)
{
	return inum && inum != bl_host_net;
}

/* The label of a task, NULL if it has none. A task for which no program has stored anything,
 * as most of the host's, is told by a load instead of a call.
 */
static __always_inline struct bl_task *bl_label(struct task_struct *task)
{
	if (!task->bpf_storage)
		return NULL;
	return bpf_task_storage_get(&bl_tasks, task, 0, 0);
}

/* Who a task is: the answer of bl_who. */
struct bl_who {
	struct bl_task *label;	/* NULL if none could be stored */
	__u64 container;
	__u8 state;
	__u8 init_tree;
};

/* The label of a task that has none and is in a container's cgroup: armed. But one that is
 * being moved in is there a moment before cgroup_attach_task says so. It is known by its
 * parent, which is in no container, and whose namespaces it has by its birth: it is entering.
 * A container's task that has entered the host's has a set of its own, of the same namespaces.
 */
static __always_inline void bl_found_in(struct task_struct *task, __u64 container, struct bl_task *found)
{
	struct task_struct *up = task->real_parent;
	struct bl_task *t = up ? bpf_task_storage_get(&bl_tasks, up, 0, 0) : NULL;

	found->container = container;
	found->state = BL_ARMED;
	if (up && (!t || t->state == BL_HOST) && !bl_container_of(bl_cgroup_of(up)) &&
	    BPF_CORE_READ(task, nsproxy) && BPF_CORE_READ(task, nsproxy) == BPF_CORE_READ(up, nsproxy)) {
		found->state = BL_ENTERING;
		found->outside_mnt_ns = bl_mnt_ns(task);
	}
}

/* A task without a label of its own: a thread has its leader's. */
static __noinline int bl_who_slow(struct task_struct *task, __u64 top, struct bl_who *w)
{
	struct task_struct *leader = task->group_leader;
	struct bl_task fresh = {}, *t;

	if (leader && leader != task) {
		t = bpf_task_storage_get(&bl_tasks, leader, 0, 0);
		if (t)
			fresh = *t;
	}
	if (fresh.state == BL_HOST) {
		if (!top)
			return 0;
		bl_found_in(task, top, &fresh);
	}
	t = bpf_task_storage_get(&bl_tasks, task, &fresh, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (t)
		*t = fresh;
	else
		bl_count(BL_E_TASK_STORAGE);
	w->label = t;
	w->container = fresh.container;
	w->state = fresh.state;
	w->init_tree = fresh.flags & BL_T_INIT_TREE;
	return 0;
}

/* Who is current? Returns its state. The label is asked before the cgroup. Tasks of the
 * host have none, nor has the leader of their threads: they cost a lookup that finds
 * nothing.
 */
static __always_inline int bl_who(struct bl_who *w)
{
	struct task_struct *task = bpf_get_current_task_btf(), *leader;
	struct bl_task *t = bl_label(task);
	__u64 top;

	if (t && t->state != BL_HOST) {
		w->label = t;
		w->container = t->container;
		w->state = t->state;
		w->init_tree = t->flags & BL_T_INIT_TREE;
		return t->state;
	}
	top = bl_container_of(bl_cgroup_of(task));
	if (!top) {
		leader = task->group_leader;
		if (leader == task || (leader && !leader->bpf_storage))
			return BL_HOST;
	}
	bl_who_slow(task, top, w);
	return w->state;
}

/* The set that holds for a container now, of those that its policies name for its phases.
 * What it is told by only grows: age, and whether it has listened. A container of which
 * nothing is known has started long ago. verifier: all; global, so that it is verified once.
 */
__noinline __u32 bl_phase_set(const struct bl_container *c, const struct bl_policy *p, __u32 set)
{
	__u64 age = ~0ULL;
	__u32 listened = 1, i;

	if (!p)
		return set;
	if (c) {
		age = c->start_ns ? bpf_ktime_get_boot_ns() - c->start_ns : 0;
		listened = c->listened;
	}
	for (i = 0; i < BL_PHASES; i++)
		if (age >= p->phases[i].from_ns)
			set = listened ? p->phases[i].listened : p->phases[i].quiet;
	return set;
}

/* The set that holds for a container: its binding, else the floor; of the two, that of its
 * phase.
 */
static __always_inline struct bl_policy *bl_policy_of(struct bl_container *c, __u32 *set)
{
	struct bl_config *cfg = bl_config();
	struct bl_policy *p;
	struct bl_id id;
	__u32 *bound = NULL;

	if (!cfg || cfg->abi != BL_ABI) {
		bl_count(BL_E_CONFIG);
		return NULL;
	}
	*set = cfg->floor_set;
	if (c && c->class == BL_CLASS_BUILD) {
		*set = cfg->build_set;
	} else if (c) {
		__builtin_memcpy(&id, c->id, sizeof(id));
		bound = bpf_map_lookup_elem(&bl_binds, &id);
		if (bound)
			*set = *bound;
	}
	p = bpf_map_lookup_elem(&bl_policies, set);
	if (!p && bound) {	/* being replaced: the floor holds meanwhile */
		*set = cfg->floor_set;
		p = bpf_map_lookup_elem(&bl_policies, set);
	}
	if (p && p->phased) {
		*set = bl_phase_set(c, p, *set);
		p = bpf_map_lookup_elem(&bl_policies, set);
	}
	if (!p)
		bl_count(BL_E_POLICY_GONE);
	return p;
}

#endif
