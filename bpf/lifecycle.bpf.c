/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * lifecycle: a container is recognised when its cgroup is made, before any process
 * is in it; tasks get their labels when they are put in or born.
 */

static __always_inline int bl_our_hierarchy(struct cgroup *cg)
{
	if (bl_v1_subsys >= 0)
		return BPF_CORE_READ(cg, root, hierarchy_id) == bl_v1_hierarchy;
	return BPF_CORE_READ(cg, root, hierarchy_id) == 0;
}

static __always_inline void bl_overflowed(void)
{
	__u64 *over = bl_global(BL_G_OVERFLOW);

	bl_count(BL_E_CGROUP_FULL);
	if (over)
		__sync_fetch_and_add(over, 1);
}

/* Is current no container's? verifier: 6.1; bl_who would need more stack than is left. */
static __always_inline int bl_actor_outside(void)
{
	struct task_struct *task = bpf_get_current_task_btf(), *leader = task->group_leader;
	struct bl_task *t = bpf_task_storage_get(&bl_tasks, task, 0, 0);

	if (!t && leader && leader != task)
		t = bpf_task_storage_get(&bl_tasks, leader, 0, 0);
	if (t && t->state != BL_HOST)
		return 0;
	return !bl_container_of(bl_cgroup_of(task));
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(bl_cgroup_mkdir, struct cgroup *cg, const char *path)
{
	struct bl_container fresh = {}, *c;
	char buf[BL_CGNAME] = {};
	struct cgroup *up;
	__u64 id, top;
	int kind;

	if (!bl_our_hierarchy(cg))
		return 0;
	if (!cg->self.parent)
		return 0;
	up = cg->self.parent->cgroup;	/* verifier: all; a cast would keep the type of the css */
	id = cg->kn->id;
	kind = bl_recognise(cg, buf, fresh.id);
	top = bl_container_of(up);
	/* Below a container: that container's, whatever its name. But who asks for a
	 * container chooses its parent's path, and the runtime makes it: a container that
	 * is made from outside is its own, or its parent's name would choose its policy.
	 */
	if (top && !(kind == BL_CG_CONTAINER && bl_actor_outside())) {
		if (top == BL_DEEPER || bpf_map_update_elem(&bl_cgroups, &id, &top, BPF_ANY))
			bl_overflowed();
		return 0;
	}
	if (kind == BL_CG_OTHER || !bl_scoped_below(up))
		return 0;
	if (kind == BL_CG_BUILD)
		fresh.class = BL_CLASS_BUILD;
	if (bpf_map_update_elem(&bl_containers, &id, &fresh, BPF_ANY))
		bl_count(BL_E_CONTAINER_FULL);
	if (bpf_map_update_elem(&bl_cgroups, &id, &id, BPF_ANY))
		bl_overflowed();
	c = bpf_map_lookup_elem(&bl_containers, &id);
	bl_announce(id, c, BL_EV_CREATED);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(bl_cgroup_rmdir, struct cgroup *cg, const char *path)
{
	struct task_struct *task = bpf_get_current_task_btf(), *leader = task->group_leader;
	struct bl_container *c;
	struct bl_task *t;
	__u64 id;

	if (!bl_our_hierarchy(cg))
		return 0;
	id = cg->kn->id;
	c = bpf_map_lookup_elem(&bl_containers, &id);
	t = c ? bl_label(task) : NULL;
	if (c && !t && leader && leader != task)	/* a worker of an io_uring has no label of its own */
		t = bl_label(leader);
	/* A container's task that has left the cgroup and takes it away is still the container's,
	 * and so is the policy bound to it: the entry stays until an agent starts.
	 */
	if (t && t->state == BL_ARMED)
		return 0;
	if (c) {
		bl_announce(id, c, BL_EV_GONE);
		bpf_map_delete_elem(&bl_containers, &id);
	}
	bpf_map_delete_elem(&bl_cgroups, &id);
	return 0;
}

/* A task is moved. Armed tasks keep their container wherever they go. Fires once for a
 * group of threads, of which the others ask their leader's label.
 */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(bl_attach_task, struct cgroup *cg, const char *path, struct task_struct *task,
	     bool threadgroup)
{
	struct task_struct *mover = bpf_get_current_task_btf();
	struct bl_task fresh = {}, *t;
	int outside, self;
	__u64 top;

	if (!bl_our_hierarchy(cg))
		return 0;
	t = bpf_task_storage_get(&bl_tasks, task, 0, 0);
	top = bl_container_of(cg);
	if (t && t->state == BL_ARMED)
		return 0;
	/* Who moves itself is in cg already. A runtime's task on its way in may also be moved by
	 * who is inside, who says nothing about where it comes from.
	 */
	self = task == mover || task == mover->group_leader;
	outside = bl_actor_outside();
	if (!top) {
		/* taken back by the runtime, unless it is in the container's mounts already */
		if ((outside || self) && t && t->state == BL_ENTERING &&
		    t->outside_mnt_ns == bl_mnt_ns(task))
			t->state = BL_HOST;
		return 0;
	}
	if (!outside) {
		if (t && t->state == BL_ENTERING)
			return 0;
		bl_found_in(task, top, &fresh);
	} else {
		fresh.container = top;
		fresh.state = BL_ENTERING;
		fresh.outside_mnt_ns = bl_mnt_ns(mover);
	}
	if (t) {
		*t = fresh;
	} else if (!bpf_task_storage_get(&bl_tasks, task, &fresh, BPF_LOCAL_STORAGE_GET_F_CREATE)) {
		bl_count(BL_E_TASK_STORAGE);	/* no label: its cgroup will say armed */
	}
	return 0;
}

/* A runtime's task is on its way into a container for less. */
#define BL_ENTERS_NS	(10ULL * 1000000000)

/* Run by the agent when it has enrolled cgroups: a task found inside is armed now, and not
 * when it first does something that asks, by when it may have left. Unless it is young and on
 * its way in.
 */
SEC("iter/task")
int bl_arm_found(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct bl_task fresh = {}, *t;
	__u64 container;

	if (!task)
		return 0;
	t = bpf_task_storage_get(&bl_tasks, task, 0, 0);
	if (t && t->state != BL_HOST)
		return 0;
	container = bl_container_of(bl_cgroup_of(task));
	if (!container)
		return 0;
	bl_found_in(task, container, &fresh);
	if (bpf_ktime_get_boot_ns() - task->start_boottime > BL_ENTERS_NS)
		fresh.state = BL_ARMED;
	if (t)
		*t = fresh;
	else if (!bpf_task_storage_get(&bl_tasks, task, &fresh, BPF_LOCAL_STORAGE_GET_F_CREATE))
		bl_count(BL_E_TASK_STORAGE);
	return 0;
}

/* Run by an agent whose maps have another layout than those of the one before, while the
 * programs of both are attached: takes the labels over.
 */
SEC("iter/task")
int bl_carry_labels(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct bl_task *old, *t;

	if (!task)
		return 0;
	old = bpf_task_storage_get(&bl_tasks_old, task, 0, 0);
	if (!old || old->state == BL_HOST)
		return 0;
	t = bpf_task_storage_get(&bl_tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!t)
		bl_count(BL_E_TASK_STORAGE);
	else if (t->state != BL_ARMED)
		*t = *old;
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(bl_fork, struct task_struct *parent, struct task_struct *child)
{
	struct bl_task *t = bl_label(parent), fresh;
	struct task_struct *leader = parent->group_leader;
	__u64 top, from;

	/* a thread that was moved in with its group has no label of its own yet */
	if ((!t || t->state == BL_HOST) && leader && leader != parent)
		t = bl_label(leader);
	if (t && t->state != BL_HOST) {
		fresh = *t;
	} else {
		/* CLONE_INTO_CGROUP: born in another cgroup than its parent's. The
		 * child has not run yet. */
		if (parent->cgroups == child->cgroups)
			return 0;
		top = bl_container_of(bl_cgroup_of(child));
		from = bl_container_of(bl_cgroup_of(parent));
		if (top == from)
			return 0;	/* lazily: armed if its cgroup is a container's */
		__builtin_memset(&fresh, 0, sizeof(fresh));
		if (from)
			bl_found_in(parent, from, &fresh);
		if (fresh.state != BL_ARMED) {
			if (!top)
				return 0;
			fresh.container = top;
			fresh.state = BL_ENTERING;
			fresh.outside_mnt_ns = bl_mnt_ns(parent);
		}
	}
	t = bpf_task_storage_get(&bl_tasks, child, &fresh, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!t)
		bl_count(BL_E_FORK_LABEL);
	return 0;
}
