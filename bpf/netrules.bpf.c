/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * netrules: the section network, in the context of who calls, so that the call fails: connect,
 * sendmsg, bind, listen, socket. Cgroup programs at the root of the v2 hierarchy, the same under
 * every backend, but for listen and AF_PACKET. What no call shows: netpacket.bpf.c.
 */
#include "netrules.h"

/* connect and sendmsg */
static __always_inline int bl_net_dial(struct bpf_sock_addr *ctx, struct bl_ends *n, __u8 hook)
{
	struct bl_conn fresh = {}, *conn;
	__u64 top, now = bpf_ktime_get_ns();
	struct bpf_sock *sk = ctx->sk;
	struct bl_flow_key k = {};
	struct bl_container *c;
	struct bl_peer q = {};
	struct bl_decision d;
	struct bl_policy *p;
	struct bl_flow *f;
	__u32 set = 0;

	top = bl_container_of(bl_cgroup_of(bpf_get_current_task_btf()));
	if (!top)
		return BL_CG_PASS;
	p = bl_net_policy(top, &c, &set);
	if (bl_net_own(sk) && bl_net_is_loopback(n->addr))
		return BL_CG_PASS;
	if (!n->addr[3] && bl_net_is_mapped(n->addr))	/* in the host's namespace: what it will be */
		n->addr[3] = bpf_htonl(0x7f000001);
	else if (bl_net_is_loopback(n->addr) && !n->addr[3])
		n->addr[3] = bpf_htonl(1);
	n->port = bpf_ntohs((__u16)ctx->user_port);
	n->proto = bl_net_proto(ctx->protocol);
	if (n->proto != IPPROTO_TCP && sk) {
		n->lport = sk->src_port;
		bl_flow_key_of(&k, top, n);
		f = bl_flow_get(&k, now);
		/* An answer, or reported already. Of an answer its packet is judged again. */
		if (p && f && (f->set == set || f->in))
			return BL_CG_PASS;
		q.standing = f != NULL;
	}
	bl_net_peer(&q, n, BL_NET_EGRESS);
	q.top = top;
	d = bl_net_ask(p, set, BL_NET_EGRESS, &q);
	if (d.verdict == BL_ALLOW)
		return BL_CG_PASS;
	if (d.verdict == BL_DENY) {
		if (n->lport && n->proto != IPPROTO_TCP)	/* nor may the other end go on with it */
			bl_refuse(&k, set, 0, now);
		bl_net_tell(c, top, p, set, &d, n, hook);
		return BL_CG_DENY;
	}
	/* reported here: not again by its packets */
	if (n->proto == IPPROTO_TCP && sk) {
		conn = bpf_sk_storage_get(&bl_conns, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
		if (conn)
			conn->told = set;
	} else if (sk) {
		bl_flow_put(&k, set, 0, now);
	}
	bl_net_tell(c, top, p, set, &d, n, hook);
	return BL_CG_PASS;
}

static __always_inline int bl_net_dial4(struct bpf_sock_addr *ctx, __u8 hook)
{
	struct bl_ends n = { .family = AF_INET };

	if (bl_net_idle())
		return BL_CG_PASS;
	bl_map_ip4(n.addr, ctx->user_ip4);
	return bl_net_dial(ctx, &n, hook);
}

static __always_inline int bl_net_dial6(struct bpf_sock_addr *ctx, __u8 hook)
{
	struct bl_ends n = { .family = AF_INET6 };

	if (bl_net_idle())
		return BL_CG_PASS;
	n.addr[0] = ctx->user_ip6[0];
	n.addr[1] = ctx->user_ip6[1];
	n.addr[2] = ctx->user_ip6[2];
	n.addr[3] = ctx->user_ip6[3];
	return bl_net_dial(ctx, &n, hook);
}

SEC("cgroup/connect4")
int bl_net_connect4(struct bpf_sock_addr *ctx)
{
	return bl_net_dial4(ctx, BL_H_CONNECT);
}

SEC("cgroup/connect6")
int bl_net_connect6(struct bpf_sock_addr *ctx)
{
	return bl_net_dial6(ctx, BL_H_CONNECT);
}

SEC("cgroup/sendmsg4")
int bl_net_sendmsg4(struct bpf_sock_addr *ctx)
{
	return bl_net_dial4(ctx, BL_H_SENDMSG);
}

SEC("cgroup/sendmsg6")
int bl_net_sendmsg6(struct bpf_sock_addr *ctx)
{
	return bl_net_dial6(ctx, BL_H_SENDMSG);
}

static __always_inline int bl_net_bind(struct bpf_sock_addr *ctx, __u16 family)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct bl_ends n = { .family = family };
	struct bl_container *c;
	struct bl_peer q = {};
	struct bl_decision d;
	struct bl_policy *p;
	__u32 set = 0;
	__u64 top;

	n.lport = bpf_ntohs((__u16)ctx->user_port);
	if (!n.lport || bl_net_idle())	/* port 0: a client, or judged by listen */
		return BL_CG_PASS;
	top = bl_container_of(bl_cgroup_of(t));
	if (!top)
		return BL_CG_PASS;
	p = bl_net_policy(top, &c, &set);
	n.proto = bl_net_proto(ctx->protocol);
	bl_net_peer(&q, &n, BL_NET_BOUND);
	d = bl_net_ask(p, set, BL_NET_BOUND, &q);
	if (d.verdict == BL_ALLOW)
		return BL_CG_PASS;
	bl_net_tell(c, top, p, set, &d, &n, BL_H_BIND);
	return d.verdict == BL_DENY ? BL_CG_DENY : BL_CG_PASS;
}

SEC("cgroup/bind4")
int bl_net_bind4(struct bpf_sock_addr *ctx)
{
	return bl_net_bind(ctx, AF_INET);
}

SEC("cgroup/bind6")
int bl_net_bind6(struct bpf_sock_addr *ctx)
{
	return bl_net_bind(ctx, AF_INET6);
}

/* listen: of a socket that was bound before the rule, or not at all. kill: the hook cannot
 * prevent.
 */
static __always_inline int bl_net_listen(const struct sock *sk, int kill)
{
	struct bl_report r = { .type = BL_EV_NET, .hook = BL_H_LISTEN };
	struct bl_container *c = NULL;
	struct bl_peer q = {};
	struct bl_who w = {};

	/* verifier: 6.12; a socket's sk may be NULL */
	if (bl_net_idle() || !sk ||
	    (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6))
		return 0;
	if (!bl_confined(&w, &c))
		return 0;
	q.proto = bl_net_proto(sk->sk_protocol);
	q.port = sk->__sk_common.skc_num;
	r.p = bl_policy_of(c, &r.set);
	r.d = bl_net_ask(r.p, r.set, BL_NET_BOUND, &q);
	if (r.d.verdict == BL_ALLOW)
		return 0;
	r.who = &w;
	r.c = c;
	r.decided = bl_net_decided(&r.d);
	if (kill && r.decided == BL_DENIED)
		r.decided = bl_kill();
	bl_priv_emit(&r);
	return r.d.verdict == BL_DENY ? -EPERM : 0;
}

SEC("lsm/socket_listen")
int BPF_PROG(bl_lsm_net_listen, struct socket *sock, int backlog)
{
	bl_note_listen(sock->sk);
	return bl_net_listen(sock->sk, 0);
}

SEC("fmod_ret/security_socket_listen")
int BPF_PROG(bl_mod_net_listen, struct socket *sock, int backlog)
{
	bl_note_listen(sock->sk);
	return bl_net_listen(sock->sk, 0);
}

/* signal: in the context of listen(2). */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(bl_sig_net_listen, const struct sock *sk, int oldstate, int newstate)
{
	if (newstate == TCP_LISTEN)
		bl_net_listen(sk, 1);
	return 0;
}

/* A raw socket of IP. What the kernel makes for itself is not asked about. */
SEC("cgroup/sock_create")
int bl_net_sock_create(struct bpf_sock *ctx)
{
	struct bl_ends n = { .family = ctx->family, .proto = ctx->protocol };
	struct bl_decision d = { .rule = BL_R_RAW_SOCKETS };
	struct bl_container *c;
	struct bl_policy *p;
	__u32 set = 0;
	int slot;
	__u64 top;

	if (ctx->type != SOCK_RAW || bl_net_idle())
		return BL_CG_PASS;
	top = bl_container_of(bl_cgroup_of(bpf_get_current_task_btf()));
	if (!top)
		return BL_CG_PASS;
	p = bl_net_policy(top, &c, &set);
	slot = p ? bl_rule_slot(p, BL_R_RAW_SOCKETS) : BL_ENFORCE;
	if (slot == BL_SLOTS)
		return BL_CG_PASS;
	d.verdict = slot == BL_ENFORCE ? BL_DENY : BL_AUDIT;
	d.policy = p ? p->rules[slot & 1][BL_R_RAW_SOCKETS].policy : 0;
	bl_net_tell(c, top, p, set, &d, &n, BL_H_SOCK_CREATE);
	return d.verdict == BL_DENY ? BL_CG_DENY : BL_CG_PASS;
}

/* include/linux/socket.h */
#define BL_AF_PACKET	17
#define BL_AF_RDS	21
#define BL_AF_PPPOX	24
#define BL_AF_XDP	44

/* Families of sockets to which no other rule applies: what they send is below IP, or (RDS) the kernel sends
 * it by a socket that is nobody's.
 */
static __always_inline int bl_below_ip(int family)
{
	return family == BL_AF_PACKET || family == BL_AF_XDP || family == BL_AF_PPPOX || family == BL_AF_RDS;
}

/* Rules that go by the cgroup which a socket was made in. */
static const __u8 bl_cgroup_rules[] = {
	BL_R_SSH_SERVER, BL_R_SSH_CLIENT, BL_R_EGRESS, BL_R_INGRESS, BL_R_LISTEN, BL_R_RAW_SOCKETS,
};

/* A task that has left its container's cgroup would make a socket that none of these knows for the
 * container's: it makes none while one of them is on. However it left: by writing cgroup.procs, or
 * being born elsewhere (CLONE_INTO_CGROUP).
 */
static __always_inline int bl_net_left(void)
{
	__u32 i, set = 0, rule = BL_R_NONE;
	struct bl_container *c = NULL;
	int slot = BL_SLOTS, s;
	struct bl_who w = {};
	struct bl_policy *p;

	if (!bl_confined(&w, &c) ||
	    bl_container_of(bl_cgroup_of(bpf_get_current_task_btf())) == w.container)
		return 0;
	p = bl_policy_of(c, &set);
	if (!p)
		return -EPERM;
	for (i = 0; i < sizeof(bl_cgroup_rules); i++) {
		s = bl_rule_slot(p, bl_cgroup_rules[i]);
		if (s < slot) {
			slot = s;
			rule = bl_cgroup_rules[i];
		}
	}
	if (slot == BL_SLOTS)
		return 0;
	slot = bl_priv_report(&w, c, p, set, slot, rule, NULL, BL_H_SOCKET, 0);
	/* verifier: 6.12; see bl_other */
	asm volatile("" : "+r"(slot));
	return slot ? -EPERM : 0;
}

static __always_inline int bl_net_socket(int family, int kern)
{
	if (family == AF_INET || family == AF_INET6)	/* also one that the kernel makes for it (SMC) */
		return bl_net_left();
	if (kern || !bl_below_ip(family))
		return 0;
	return bl_priv(BL_R_PACKET_SOCKETS, NULL, BL_H_SOCKET);
}

SEC("lsm/socket_create")
int BPF_PROG(bl_lsm_socket, int family, int type, int protocol, int kern)
{
	return bl_net_socket(family, kern);
}

SEC("fmod_ret/security_socket_create")
int BPF_PROG(bl_mod_socket, int family, int type, int protocol, int kern)
{
	return bl_net_socket(family, kern);
}
