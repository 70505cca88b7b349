/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * net: SSH by port: what a process of a container does with a socket. By protocol:
 * ssh.bpf.c.
 *
 * connect and bind are cgroup programs at the root of the v2 hierarchy, the same under
 * every backend: they run for every process of the host, and cost it two comparisons
 * unless the port is 22. They have no task storage (6.1, 6.12), so the caller's cgroup
 * says whose it is.
 */
#include "net.h"

static __always_inline int bl_is_tcp(__u32 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_MPTCP;
}

/* connect and bind, after the cheap tests: TCP and port 22. The record has no path of
 * the program: walking one needs task storage.
 */
static __always_inline int bl_sock_addr(const struct bl_ends *n, __u8 act, __u8 hook)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct bl_net_facts f = { .act = act, .port = BL_SSH_PORT };
	struct bl_container *c;
	struct bl_decision d;
	struct bl_policy *p;
	struct bl_event *e;
	__u32 set = 0;
	__u64 top;

	top = bl_container_of(bl_cgroup_of(t));
	if (!top)
		return BL_CG_PASS;
	p = bl_net_policy(top, &c, &set);
	if (act == BL_NET_CONNECT)
		bl_list_facts(p, set, n, &f);
	d = bl_net_decide(p, &f);
	if (d.verdict == BL_ALLOW)
		return BL_CG_PASS;
	e = bl_net_event(c, top, p, set, &d, n, hook, bl_net_decided(&d));
	if (e) {
		bl_put_task(e, t);
		bpf_ringbuf_submit(e, 0);
	}
	return d.verdict == BL_DENY ? BL_CG_DENY : BL_CG_PASS;
}

static __always_inline int bl_port22(const struct bpf_sock_addr *ctx)
{
	return bl_is_tcp(ctx->protocol) && (__u16)ctx->user_port == bpf_htons(BL_SSH_PORT);
}

SEC("cgroup/connect4")
int bl_connect4(struct bpf_sock_addr *ctx)
{
	struct bl_ends n = { .port = BL_SSH_PORT, .family = AF_INET, .proto = IPPROTO_TCP };

	if (!bl_port22(ctx))
		return BL_CG_PASS;
	bl_map_ip4(n.addr, ctx->user_ip4);
	return bl_sock_addr(&n, BL_NET_CONNECT, BL_H_CONNECT);
}

/* Also of IPv4 through an IPv6 socket, whose address has the form of bl_ssh_to's keys. */
SEC("cgroup/connect6")
int bl_connect6(struct bpf_sock_addr *ctx)
{
	struct bl_ends n = { .port = BL_SSH_PORT, .family = AF_INET6, .proto = IPPROTO_TCP };

	if (!bl_port22(ctx))
		return BL_CG_PASS;
	n.addr[0] = ctx->user_ip6[0];
	n.addr[1] = ctx->user_ip6[1];
	n.addr[2] = ctx->user_ip6[2];
	n.addr[3] = ctx->user_ip6[3];
	return bl_sock_addr(&n, BL_NET_CONNECT, BL_H_CONNECT);
}

SEC("cgroup/bind4")
int bl_bind4(struct bpf_sock_addr *ctx)
{
	struct bl_ends n = { .lport = BL_SSH_PORT, .family = AF_INET, .proto = IPPROTO_TCP };

	if (!bl_port22(ctx))
		return BL_CG_PASS;
	bl_map_ip4(n.laddr, ctx->user_ip4);
	return bl_sock_addr(&n, BL_NET_LISTEN, BL_H_BIND);
}

SEC("cgroup/bind6")
int bl_bind6(struct bpf_sock_addr *ctx)
{
	struct bl_ends n = { .lport = BL_SSH_PORT, .family = AF_INET6, .proto = IPPROTO_TCP };

	if (!bl_port22(ctx))
		return BL_CG_PASS;
	n.laddr[0] = ctx->user_ip6[0];
	n.laddr[1] = ctx->user_ip6[1];
	n.laddr[2] = ctx->user_ip6[2];
	n.laddr[3] = ctx->user_ip6[3];
	return bl_sock_addr(&n, BL_NET_LISTEN, BL_H_BIND);
}

static __always_inline void bl_listen_ends(const struct sock *sk, struct bl_ends *n)
{
	n->family = sk->__sk_common.skc_family;
	n->proto = IPPROTO_TCP;
	n->lport = sk->__sk_common.skc_num;
	if (n->family == AF_INET)
		bl_map_ip4(n->laddr, sk->__sk_common.skc_rcv_saddr);
	else
		bpf_probe_read_kernel(n->laddr, sizeof(n->laddr),
				      __builtin_preserve_access_index(&sk->__sk_common.skc_v6_rcv_saddr));
}

/* listen: a socket that was bound to port 22 before its container had the rule, or was
 * handed in. kill: the hook cannot prevent.
 */
static __always_inline int bl_listen(const struct sock *sk, int kill)
{
	struct bl_net_facts f = { .act = BL_NET_LISTEN, .port = BL_SSH_PORT };
	struct task_struct *t = bpf_get_current_task_btf();
	struct bl_container *c = NULL;
	struct bl_ends n = {};
	struct bl_scratch *s;
	struct bl_who w = {};
	struct bl_decision d;
	struct bl_policy *p;
	struct bl_event *e;
	struct file *exe;
	__u32 set = 0;
	__u8 decided;

	/* verifier: 6.12; a socket's sk may be NULL */
	if (!sk || sk->__sk_common.skc_num != BL_SSH_PORT || !bl_is_tcp(sk->sk_protocol) ||
	    (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6))
		return 0;
	if (!bl_confined(&w, &c))
		return 0;
	p = bl_policy_of(c, &set);
	d = bl_net_decide(p, &f);
	if (d.verdict == BL_ALLOW)
		return 0;
	decided = bl_net_decided(&d);
	if (kill && decided == BL_DENIED)
		decided = bl_kill();
	bl_listen_ends(sk, &n);
	e = bl_net_event(c, w.container, p, set, &d, &n, BL_H_LISTEN, decided);
	if (e) {
		bl_put_task(e, t);
		s = bl_scratch_get();
		exe = BPF_CORE_READ(t, mm, exe_file);
		if (s && exe)
			e->exe_len = bl_put_file(s, e, 0, __builtin_preserve_access_index(&exe->f_path));
		if (s)
			bl_scratch_put(s);
		bpf_ringbuf_submit(e, 0);
	}
	return d.verdict == BL_DENY ? -EPERM : 0;
}

/* A container's first listen ends its start (spec.phase), whether it is allowed or not, and is
 * judged by what holds after it: the programs that judge one note it first, since trampolines run
 * the last attached program first and stop at a denial. Only a socket of IP counts: entrypoints of
 * databases listen on unix sockets while they set up.
 */
static __always_inline int bl_note_listen(const struct sock *sk)
{
	struct bl_container *c = NULL;
	struct bl_who w = {};

	/* verifier: 6.12; as above */
	if (!sk || (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6))
		return 0;
	if (bl_confined(&w, &c) && c && !c->listened)
		c->listened = 1;
	return 0;
}

SEC("lsm/socket_listen")
int BPF_PROG(bl_lsm_note_listen, struct socket *sock, int backlog)
{
	return bl_note_listen(sock->sk);
}

SEC("fmod_ret/security_socket_listen")
int BPF_PROG(bl_mod_note_listen, struct socket *sock, int backlog)
{
	return bl_note_listen(sock->sk);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(bl_sig_note_listen, const struct sock *sk, int oldstate, int newstate)
{
	if (newstate == TCP_LISTEN)
		bl_note_listen(sk);
	return 0;
}

SEC("lsm/socket_listen")
int BPF_PROG(bl_lsm_listen, struct socket *sock, int backlog)
{
	bl_note_listen(sock->sk);
	return bl_listen(sock->sk, 0);
}

SEC("fmod_ret/security_socket_listen")
int BPF_PROG(bl_mod_listen, struct socket *sock, int backlog)
{
	bl_note_listen(sock->sk);
	return bl_listen(sock->sk, 0);
}

/* signal: in the context of listen(2). */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(bl_sig_listen, const struct sock *sk, int oldstate, int newstate)
{
	if (newstate == TCP_LISTEN)
		bl_listen(sk, 1);
	return 0;
}
