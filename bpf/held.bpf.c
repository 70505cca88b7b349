/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * held: descriptors that were opened before the rules came, so that what they can do was never judged. The
 * agent looks for them when rules have changed: bl_find_held and bl_find_rings, which note containers in
 * bl_holders. Only while there are some, what is done by descriptors is judged, of such containers' tasks.
 */
#include "host.h"
#include "netrules.h"

/* Is it a file or directory of the container's? What the runtime was given on the host to take the
 * container's output has no path in it.
 */
static __always_inline int bl_held_path(const struct bl_container *c, struct file *file)
{
	__u32 ns, type = BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT;
	struct mount *m;

	if (type != S_IFREG && type != S_IFDIR)
		return 0;
	m = (void *)BPF_CORE_READ(file, f_path.mnt) - bpf_core_field_offset(struct mount, mnt);
	ns = BPF_CORE_READ(m, mnt_ns, ns.inum);
	return ns != bl_host_mnt || (c && c->mnt_ns == bl_host_mnt);
}

/* Do the rules of the container that a task is in say anything on such acts? As bl_files_ask. */
static __always_inline int bl_held_ask(struct task_struct *task, struct bl_files_ask *q, __u32 acts)
{
	struct bl_task *t = bl_label(task);

	if (t && t->state == BL_ENTERING)
		return 0;
	q->w->state = BL_ARMED;
	q->w->container = t && t->state != BL_HOST ? t->container : bl_container_of(bl_cgroup_of(task));
	if (!q->w->container)
		return 0;
	q->c = bpf_map_lookup_elem(&bl_containers, &q->w->container);
	return q->c && q->c->started == 2 ? bl_files_ask(q, acts) : 0;
}

static __always_inline void bl_note_holder(const struct bl_who *w)
{
	__u64 *round = bl_global(BL_G_ROUND);

	if (!round || bpf_map_update_elem(&bl_holders, &w->container, round, BPF_ANY))
		bl_count(BL_E_HELD);
}

/* A socket that rule packetSockets is about: its family, else 0. */
static __always_inline int bl_held_family(struct file *file)
{
	struct socket *sock = BPF_CORE_READ(file, private_data);
	int family = BPF_CORE_READ(sock, sk, __sk_common.skc_family);

	return bl_below_ip(family) ? family : 0;
}

/* Run by the agent for every descriptor of every task. */
SEC("iter/task_file")
int bl_find_held(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct bl_who w = {};
	struct bl_files_ask q = { .w = &w };
	int go, socket;
	__u32 acts;

	if (!task || !file)
		return 0;
	socket = (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) == S_IFSOCK;
	if (socket && !bl_held_family(file))
		return 0;
	acts = bl_file_acts(file);
	go = bl_held_ask(task, &q, acts);
	if (socket && q.p) {
		if (bl_rule_slot(q.p, BL_R_PACKET_SOCKETS) != BL_SLOTS)
			bl_note_holder(&w);
		return 0;
	}
	if (!go || !bl_held_path(q.c, file))
		return 0;
	if (go > 0)
		bl_files_judge(&q, __builtin_preserve_access_index(&file->f_path), acts);
	if (go < 0 || q.hit)
		bl_note_holder(&w);
	return 0;
}

/* And for every task: an io_uring holds files that are no descriptors any more, and is used, by a thread of the
 * kernel too, when it is none itself. Which they are is not looked at.
 */
SEC("iter/task")
int bl_find_rings(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct bl_who w = {};
	struct bl_files_ask q = { .w = &w };

	if (task && bpf_core_field_exists(task->io_uring) && BPF_CORE_READ(task, io_uring) &&
	    bl_held_ask(task, &q, BL_A_READ | BL_A_WRITE))
		bl_note_holder(&w);
	return 0;
}

static __always_inline int bl_files_held(struct file *file, int mask)
{
	__u32 acts = (mask & MAY_READ ? BL_A_READ : 0) | (mask & (MAY_WRITE | MAY_APPEND) ? BL_A_WRITE : 0);
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (!bl_confined(&w, &c) || !bpf_map_lookup_elem(&bl_holders, &w.container) || !bl_held_path(c, file))
		return 0;
	return bl_files_act(&w, c, __builtin_preserve_access_index(&file->f_path), acts, BL_H_PERMISSION);
}

SEC("lsm/file_permission")
int BPF_PROG(bl_lsm_f_held, struct file *file, int mask)
{
	return bl_files_held(file, mask);
}

SEC("fmod_ret/security_file_permission")
int BPF_PROG(bl_mod_f_held, struct file *file, int mask)
{
	return bl_files_held(file, mask);
}

/* And a packet socket's frames. What one shares with the kernel (PACKET_RX_RING) no call shows. */
static __always_inline int bl_socket_held(struct socket *sock, __u8 number)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (!bl_below_ip(BPF_CORE_READ(sock, sk, __sk_common.skc_family)) || !bl_confined(&w, &c) ||
	    !bpf_map_lookup_elem(&bl_holders, &w.container))
		return 0;
	return bl_priv_ask(&w, c, BL_R_PACKET_SOCKETS, NULL, number, 0);
}

#define BL_SOCKET_HELD(id, hook, number)						\
SEC("lsm/" #hook)									\
int BPF_PROG(bl_lsm_##id, struct socket *sock)						\
{											\
	return bl_socket_held(sock, number);						\
}											\
											\
SEC("fmod_ret/security_" #hook)								\
int BPF_PROG(bl_mod_##id, struct socket *sock)						\
{											\
	return bl_socket_held(sock, number);						\
}

BL_SOCKET_HELD(held_send, socket_sendmsg, BL_H_SOCKET_SEND)
BL_SOCKET_HELD(held_receive, socket_recvmsg, BL_H_SOCKET_RECEIVE)
