/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sock: who connects to the container engine's own sockets: containers by the rule
 * guard.sockets of their policy, processes of the host by the agent's guard.
 */
#include "sock.h"

/* Set of a record that the guard of the host caused: no policy's. */
#define BL_SET_HOST	((__u32)-1)

/* The slot that denies a container: BL_SLOTS if none does. */
static __always_inline int bl_sock_slot(const struct bl_policy *p)
{
	if (!p || p->rules[BL_ENFORCE][BL_R_SOCKETS].verdict == BL_DENY)
		return BL_ENFORCE;
	return p->rules[BL_AUDITED][BL_R_SOCKETS].verdict == BL_DENY ? BL_AUDITED : BL_SLOTS;
}

static __always_inline int bl_sock_report(struct bl_report *r, const struct sock *peer, int slot,
					  int kill, __u8 hook)
{
	struct unix_sock *u = (struct unix_sock *)peer;

	r->d.rule = BL_R_SOCKETS;
	r->type = BL_EV_NET;
	r->hook = hook;
	r->decided = slot == BL_ENFORCE ? BL_DENIED : BL_WOULD_DENY;
	if (kill && slot == BL_ENFORCE)
		r->decided = bl_kill();
	if (BPF_CORE_READ(u, path.dentry))
		r->object = __builtin_preserve_access_index(&u->path);
	bl_emit(r);
	return slot == BL_ENFORCE ? -EPERM : 0;
}

/* peer: what is connected to. sent: bytes came over a connection that stands. kill: the hook
 * cannot prevent.
 */
static __always_inline int bl_sock_connect(const struct sock *peer, int sent, int kill, __u8 hook)
{
	struct bl_container *c = NULL;
	struct bl_report r = {};
	struct bl_who w = {};
	__u32 zero = 0, *mode;
	int slot;

	if (bl_inside(&w, &c)) {
		r.p = bl_policy_of(c, &r.set);
		slot = bl_sock_slot(r.p);
		/* what was let pass is reported once, not at each write */
		if (slot == BL_SLOTS || (sent && slot == BL_AUDITED) || !bl_sock_guarded(peer))
			return 0;
		if (r.p)
			r.d.policy = r.p->rules[slot & 1][BL_R_SOCKETS].policy;
	} else {
		mode = bpf_map_lookup_elem(&bl_guards, &zero);
		if (sent || !mode || *mode == BL_GUARD_OFF || !bl_sock_guarded(peer) ||
		    bl_caller_allowed(bpf_get_current_task_btf()))
			return 0;
		slot = *mode == BL_GUARD_AUDIT ? BL_AUDITED : BL_ENFORCE;
		w.container = 0;
		r.set = BL_SET_HOST;
	}
	r.who = &w;
	r.c = c;
	return bl_sock_report(&r, peer, slot, kill, hook);
}

SEC("lsm/unix_stream_connect")
int BPF_PROG(bl_lsm_unix_connect, struct sock *sock, struct sock *other, struct sock *newsk)
{
	return bl_sock_connect(other, 0, 0, BL_H_UNIX_CONNECT);
}

SEC("fmod_ret/security_unix_stream_connect")
int BPF_PROG(bl_mod_unix_connect, struct sock *sock, struct sock *other, struct sock *newsk)
{
	return bl_sock_connect(other, 0, 0, BL_H_UNIX_CONNECT);
}

/* signal: connect(2) tells who listens that somebody has come, and what is written tells
 * the other end, both in the context of who does it.
 */
SEC("tp_btf/sk_data_ready")
int BPF_PROG(bl_sig_unix_connect, const struct sock *sk)
{
	if (sk->__sk_common.skc_family == AF_UNIX)
		bl_sock_connect(sk, sk->__sk_common.skc_state != TCP_LISTEN, 1, BL_H_UNIX_READY);
	return 0;
}
