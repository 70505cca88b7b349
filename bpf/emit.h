/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * emit.h: records for user space. Always after the decision: a full ring costs a
 * record, counted per cause and per container, and nothing else.
 */
#ifndef BL_EMIT_H
#define BL_EMIT_H

#include "walk.h"
#include "regs.h"
#include "pure/exec.h"

/* Appends "/" and component i (0 is the leaf) of the path in s at off; returns the new
 * offset, or -1 if the data is full.
 */
__noinline int bl_put_name(struct bl_scratch *s, struct bl_event *e, __u32 i, __u32 off)
{
	int len;

	if (!s || !e || off >= BL_DATA - 1)
		return -1;
	e->data[off] = '/';
	off++;
	len = bl_name(s, i);
	if (len <= 0 || len >= BL_NAME)
		return off;
	bpf_probe_read_kernel(&e->data[off], len, s->name);
	return off + len;
}

/* Appends the path in s at off; returns the new offset. */
__noinline int bl_put_path(struct bl_scratch *s, struct bl_event *e, __u32 off)
{
	__u32 i, n, at = off;
	int next;

	if (!s || !e)
		return off;
	n = s->n;
	for (i = 0; i < BL_DEPTH; i++) {
		if (i >= n)
			break;
		next = bl_put_name(s, e, n - 1 - i, at);
		if (next < 0) {
			e->flags |= BL_E_PATH_CUT;
			break;
		}
		at = next;
	}
	if (!n && at < BL_DATA) {
		e->data[at & (BL_DATA - 1)] = '/';
		at++;
	}
	return at;
}

static __always_inline __u32 bl_put_place(struct bl_scratch *s, struct bl_event *e, __u32 off,
					  __u64 mnt, __u64 dentry)
{
	int end;

	s->max_mount = 0;
	s->no_mounts = 0;
	if (bl_walk(s, mnt, dentry, 0) < 0)
		e->flags |= BL_E_PATH_CUT;	/* as far as it was walked */
	end = bl_put_path(s, e, off);
	/* verifier: all; the result of a function is any number */
	return end < 0 || end > BL_DATA ? off : end;
}

static __always_inline __u32 bl_put_file(struct bl_scratch *s, struct bl_event *e, __u32 off,
					 const struct path *p)
{
	if (!p)
		return off;
	return bl_put_place(s, e, off, (__u64)BPF_CORE_READ(p, mnt), (__u64)BPF_CORE_READ(p, dentry));
}

static __always_inline void bl_put_task(struct bl_event *e, struct task_struct *t)
{
	struct task_struct *up = t;
	const struct cred *c = t->cred;
	int i;

	e->pid = t->tgid;
	e->tid = t->pid;
	e->start_ns = BPF_CORE_READ(t, group_leader, start_boottime);
	e->uid = c->uid.val;
	e->euid = c->euid.val;
	e->gid = c->gid.val;
	e->egid = c->egid.val;
	bpf_probe_read_kernel(&e->cap_effective, 8, __builtin_preserve_access_index(&c->cap_effective));
	bpf_probe_read_kernel(&e->cap_permitted, 8, __builtin_preserve_access_index(&c->cap_permitted));
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	for (i = 0; i < BL_ANCESTORS; i++) {
		struct bl_ancestor *a = &e->ancestor[i];
		struct task_struct *leader;

		up = BPF_CORE_READ(up, real_parent);
		if (!up)
			break;
		leader = BPF_CORE_READ(up, group_leader);
		a->pid = BPF_CORE_READ(up, tgid);
		if (!a->pid)
			break;
		a->start_ns = BPF_CORE_READ(leader, start_boottime);
		a->uid = BPF_CORE_READ(up, cred, uid.val);
		bpf_probe_read_kernel(a->comm, sizeof(a->comm),
				      __builtin_preserve_access_index(&leader->comm));
		e->ancestors = i + 1;
	}
}

/* Reserves a record and fills what every record has. NULL: the ring is full, which
 * is counted. denial: into the ring of denials.
 */
static __always_inline struct bl_event *bl_event_new(int denial, struct bl_container *c,
						     __u64 cgroup, __u8 type)
{
	struct bl_event *e;
	__u64 *last = bl_global(BL_G_SEQ), seq = 0;

	if (last)	/* a lost record takes a number too: the gap shows */
		seq = __sync_fetch_and_add(last, 1) + 1;
	if (denial)
		e = bpf_ringbuf_reserve(&bl_denials, sizeof(*e), 0);
	else
		e = bpf_ringbuf_reserve(&bl_events, sizeof(*e), 0);
	if (!e) {
		bl_count(denial ? BL_E_RING_DENIALS : BL_E_RING_EVENTS);
		if (c)
			__sync_fetch_and_add(&c->lost, 1);
		return NULL;
	}
	/* all but the data, whose lengths say what of it is valid */
	__builtin_memset(e, 0, offsetof(struct bl_event, ancestor));
	__builtin_memset(e->ancestor, 0, sizeof(e->ancestor));
	e->version = BL_EVENT_VERSION;
	e->type = type;
	e->rule = BL_R_NONE;
	e->seq = seq;
	e->time_ns = bpf_ktime_get_boot_ns();
	e->cgroup = cgroup;
	if (c) {
		e->class = c->class;
		__builtin_memcpy(e->id, c->id, sizeof(e->id));
	}
	return e;
}

/* Kills current. Returns what became of that (bl_decided). */
static __always_inline __u8 bl_kill(void)
{
	if (!bpf_send_signal(SIGKILL))
		return BL_KILLED;
	bl_count(BL_E_SIGNAL);
	return BL_DETECTED;
}

/* What a decision was about. */
struct bl_report {
	struct bl_who *who;
	struct bl_container *c;
	struct bl_policy *p;
	struct bl_decision d;
	const struct path *object;	/* the file; NULL: none */
	__u32 set;
	__u32 file_flags;
	__u8 type;
	__u8 hook;
	__u8 decided;
	__u8 layer;
	const char *script;	/* name of the #! script whose interpreter object is; NULL: none */
};

static __always_inline void bl_announce(__u64 cgroup, struct bl_container *c, __u8 type)
{
	struct bl_event *e = bl_event_new(0, c, cgroup, type);

	if (!e)
		return;
	e->decided = BL_ALLOWED;
	e->hook = BL_H_CGROUP;
	e->flags = BL_E_NO_PROC;
	if (c)
		e->pid = c->init_tgid;
	bpf_ringbuf_submit(e, 0);
}

static __always_inline void bl_put_args(struct bl_event *e, __u32 off)
{
	struct task_struct *t = bpf_get_current_task_btf();
	unsigned long from = BPF_CORE_READ(t, mm, arg_start);
	unsigned long to = BPF_CORE_READ(t, mm, arg_end);
	__u32 len = to - from;

	if (!from || to <= from)
		return;
	if (len > 511) {
		len = 511;
		e->flags |= BL_E_ARGS_CUT;
	}
	if (off > BL_DATA - 512) {
		e->flags |= BL_E_ARGS_CUT;
		return;
	}
	len &= 511;
	if (!bpf_probe_read_user(&e->data[off & (BL_DATA - 1)], len, (void *)from))
		e->args_len = len;
}

/* The arguments that an exec was asked for with, while the old program's memory is still
 * there: for the record of one that is denied. Never for decisions: other threads can change
 * them meanwhile.
 */
__noinline int bl_put_argv(struct bl_event *e, __u32 off)
{
	__u64 argv = bl_exec_argv(), arg;
	__u32 size = bl_is_32() ? 4 : 8, at = off, end = off + BL_ARGS, to;
	long n;
	int i;

	if (!e || !argv)
		return 0;
	e->flags |= BL_E_ARGS_CUT;
	if (off > BL_DATA)
		return 0;
	for (i = 0; i < BL_ARGV; i++) {
		arg = 0;
		if (bpf_probe_read_user(&arg, size, (void *)argv + i * size))
			break;
		if (!arg) {
			e->flags &= ~BL_E_ARGS_CUT;
			break;
		}
		to = at;
		/* verifier: all; clang would check one copy of the index and use another */
		asm volatile("" : "+r"(to));
		if (to >= end || to > BL_DATA - BL_ARG)
			break;
		n = bpf_probe_read_user_str(&e->data[to], BL_ARG, (void *)arg);
		if (n < 0)
			break;
		at += n;
		if (n == BL_ARG)	/* perhaps longer: what follows is not to be trusted to be whole */
			break;
	}
	e->args_len = at - off;
	return 0;
}

static __always_inline void bl_emit(const struct bl_report *r)
{
	struct task_struct *t = bpf_get_current_task_btf();
	const struct path *object = r->object;
	struct bl_scratch *s;
	struct bl_event *e;
	__u32 off = 0, end;

	e = bl_event_new(r->decided != BL_ALLOWED, r->c, r->who->container, r->type);
	if (!e)
		return;
	e->decided = r->decided;
	e->rule = r->d.rule;
	e->policy = r->d.policy;
	e->hook = r->hook;
	e->set = r->set;
	e->revision = r->p ? r->p->revision : 0;
	e->file_flags = r->file_flags;
	e->layer = r->layer;
	bl_put_task(e, t);
	s = bl_scratch_get();
	if (object) {
		e->exe_ino = BPF_CORE_READ(object, dentry, d_inode, i_ino);
		e->exe_dev = BPF_CORE_READ(object, dentry, d_sb, s_dev);
	}
	if (s) {
		struct file *exe = BPF_CORE_READ(t, mm, exe_file);

		/* exec: the file is what is executed. Others: by whom, and then what */
		if (r->type == BL_EV_EXEC) {
			end = r->object ? bl_put_file(s, e, 0, r->object) : 0;
			e->exe_len = end;
			off = end;
			if (r->script && off < BL_DATA - BL_NAME) {
				int n = bpf_probe_read_kernel_str(&e->data[off & (BL_DATA - 1)], BL_NAME,
								  r->script);

				if (n > 1 && n < BL_NAME) {	/* longer: cut, and no use */
					e->flags |= BL_E_SCRIPT;
					e->obj_len = n - 1;
					off += n - 1;
				}
			}
		} else {
			end = exe ? bl_put_file(s, e, 0, __builtin_preserve_access_index(&exe->f_path)) : 0;
			e->exe_len = end;
			off = end;
			if (r->object) {
				end = bl_put_file(s, e, off, r->object);
				e->obj_len = end - off;
				off = end;
			}
		}
		if (off <= BL_DATA) {
			struct fs_struct *fs = BPF_CORE_READ(t, fs);

			end = bl_put_file(s, e, off, __builtin_preserve_access_index(&fs->pwd));
			e->cwd_len = end - off;
			off = end;
		}
		bl_scratch_put(s);
	}
	if (r->hook == BL_H_EXEC)
		bl_put_args(e, off);
	else if (r->type == BL_EV_EXEC)
		bl_put_argv(e, off);
	bpf_ringbuf_submit(e, 0);
}

#endif
