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

static __always_inline void bl_note_holder(const struct bl_who *w, __u32 what)
{
	struct bl_holder *old = bpf_map_lookup_elem(&bl_holders, &w->container), h = { .what = what };
	__u64 *round = bl_global(BL_G_ROUND);

	if (round && old) {
		old->round = *round;
		old->what |= what;
		return;
	}
	h.round = round ? *round : 0;
	if (!round || bpf_map_update_elem(&bl_holders, &w->container, &h, BPF_ANY))
		bl_count(BL_E_HELD);
}

/* What a ring can hold that the container's rules deny. files: they say something on those. */
static __always_inline __u32 bl_in_ring(const struct bl_files_ask *q, int files)
{
	return (files ? BL_HELD_FILES : 0) |
	       (q->p && bl_rule_slot(q->p, BL_R_PACKET_SOCKETS) != BL_SLOTS ? BL_HELD_SOCKETS : 0);
}

/* Is a socket one that rule packetSockets is about? */
static __always_inline int bl_held_socket(struct file *file)
{
	struct socket *sock = BPF_CORE_READ(file, private_data);

	return (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) == S_IFSOCK &&
	       bl_below_ip(BPF_CORE_READ(sock, sk, __sk_common.skc_family));
}

/* Run by the agent for every descriptor of every task. A ring, which a program can be started with, holds files that
 * are no descriptors any more; which they are is not looked at.
 */
SEC("iter/task_file")
int bl_find_held(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct bl_who w = {};
	struct bl_files_ask q = { .w = &w };
	__u32 acts, what = 0;
	int go, ring;

	if (!task || !file)
		return 0;
	ring = bl_is_ring(BPF_CORE_READ(file, f_path.dentry, d_name.name));
	acts = ring ? BL_A_READ | BL_A_WRITE : bl_file_acts(file);
	go = bl_held_ask(task, &q, acts);
	if (ring) {
		what = bl_in_ring(&q, go);
	} else if (bl_held_socket(file)) {
		what = bl_in_ring(&q, 0);
	} else if (go && bl_held_path(q.c, file)) {
		if (go > 0)
			bl_files_judge(&q, __builtin_preserve_access_index(&file->f_path), acts);
		what = go < 0 || q.hit ? BL_HELD_FILES : 0;
	}
	if (what)
		bl_note_holder(&w, what);
	return 0;
}

/* And for every task: one that uses a ring, as threads of the kernel do too, needs no descriptor of it. */
SEC("iter/task")
int bl_find_rings(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct bl_who w = {};
	struct bl_files_ask q = { .w = &w };
	__u32 what;
	int files;

	if (!task || !bpf_core_field_exists(task->io_uring) || !BPF_CORE_READ(task, io_uring))
		return 0;
	files = bl_held_ask(task, &q, BL_A_READ | BL_A_WRITE);
	what = bl_in_ring(&q, files);
	if (what)
		bl_note_holder(&w, what);
	return 0;
}

/* A descriptor that comes over a socket, by pidfd_getfd or from seccomp's supervisor was
 * opened by a task that other rules hold for, or none, or before they did. Files, directories and packet
 * sockets only: a terminal or a pipe of the outside has no path here, and none is protected.
 */
static __always_inline int bl_files_received(struct file *file)
{
	__u32 type = BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT;
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (bl_held_socket(file))
		return bl_priv(BL_R_PACKET_SOCKETS, NULL, BL_H_RECEIVE);
	if (!bl_files_used() || (type != S_IFREG && type != S_IFDIR) || !bl_inside(&w, &c))
		return 0;
	return bl_files_act(&w, c, __builtin_preserve_access_index(&file->f_path), file,
			    bl_file_acts(file), BL_H_RECEIVE);
}

SEC("lsm/file_receive")
int BPF_PROG(bl_lsm_f_receive, struct file *file)
{
	return bl_files_received(file);
}

SEC("fmod_ret/security_file_receive")
int BPF_PROG(bl_mod_f_receive, struct file *file)
{
	return bl_files_received(file);
}

/* What is only noted is told of once a second of a container: reads and writes by one descriptor come by the
 * thousand.
 */
#define BL_HELD_TOLD_NS	1000000000ULL

static __always_inline int bl_held_told(struct bl_holder *h)
{
	__u64 now = bpf_ktime_get_boot_ns();

	if (now - h->told_ns < BL_HELD_TOLD_NS)
		return 1;
	h->told_ns = now;
	return 0;
}

static __always_inline int bl_files_held(struct file *file, int mask)
{
	__u32 acts = (mask & MAY_READ ? BL_A_READ : 0) | (mask & (MAY_WRITE | MAY_APPEND) ? BL_A_WRITE : 0);
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct bl_files_ask q = { .w = &w };
	struct bl_holder *h;
	int go;

	if (!bl_confined(&w, &c))
		return 0;
	h = bpf_map_lookup_elem(&bl_holders, &w.container);
	if (!h || !bl_held_path(c, file))
		return 0;
	q.c = c;
	go = bl_files_ask(&q, acts);
	if (go <= 0)
		return go;
	bl_files_judge(&q, __builtin_preserve_access_index(&file->f_path), acts);
	if (q.hit && !(q.hit & BL_ACTS) && bl_held_told(h))
		return 0;
	return bl_files_verdict(&q, __builtin_preserve_access_index(&file->f_path), BL_H_PERMISSION);
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

/* And a packet socket's frames. What such a socket shares with the kernel (PACKET_RX_RING) no call shows. */
static __always_inline int bl_socket_held(struct socket *sock, __u8 number)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct bl_policy *p;
	struct bl_holder *h;
	__u32 set = 0;

	if (!bl_below_ip(BPF_CORE_READ(sock, sk, __sk_common.skc_family)) || !bl_confined(&w, &c))
		return 0;
	h = bpf_map_lookup_elem(&bl_holders, &w.container);
	if (!h)
		return 0;
	p = bl_policy_of(c, &set);
	if (p && bl_rule_slot(p, BL_R_PACKET_SOCKETS) == BL_AUDITED && bl_held_told(h))
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
