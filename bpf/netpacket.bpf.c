/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * netpacket: the section network, packet by packet: raw sockets, sockets that were connected
 * before the rule or elsewhere, protocols without a hook. Cgroup programs, the same under every
 * backend.
 *
 * A TCP connection is judged when it is opened, and again when the rules have changed. Of
 * everything else an answer passes for as long as the exchange that it belongs to goes on.
 *
 * What passes by the loopback device does not leave a container that has a network namespace of
 * its own, and is not judged there, but for whom an answer to it would go to.
 *
 * Not seen: as in ssh.bpf.c; also a connected socket other than TCP's whose container is gone, and
 * a listener's SYN-ACK by IPv6 where the kernel (6.1) runs no program on it.
 */
#include "netrules.h"

#define BL_LOOPBACK_IF	1	/* include/net/flow.h, LOOPBACK_IFINDEX: of every namespace */
#define BL_PACKET_LOOPBACK	5	/* include/uapi/linux/if_packet.h */
#define BL_ETH_IP	0x0800	/* include/uapi/linux/if_ether.h */
#define BL_ETH_IPV6	0x86dd

/* What a packet's headers say. */
struct bl_said {
	struct bl_ends n;
	__u8 blind;	/* it shows no ports */
	__u8 opens;	/* TCP: SYN without ACK */
	__u8 options;	/* IP options or extension headers */
	__u8 ported;	/* of a protocol with ports */
};

/* One packet, and whose it is. */
struct bl_pkt {
	struct bl_said said;
	struct bl_container *c;
	struct bl_policy *p;
	__u64 top;
	__u32 set;
	__u8 in;
	__u8 lo;	/* by the loopback device */
	__u8 own;	/* of the container's own making: by that device, or a multicast given back */
};

static __always_inline void bl_pkt_tell(struct bl_pkt *k, const struct bl_decision *d)
{
	struct bl_event *e;

	if (k->in && !bl_net_may_tell(k->top, bpf_ktime_get_ns()))
		return;
	e = bl_net_event(k->c, k->top, k->p, k->set, d, &k->said.n, k->in ? BL_H_SKB_IN : BL_H_SKB,
			 bl_net_decided(d));
	if (!e)
		return;
	e->flags = BL_E_NO_PROC;
	bpf_ringbuf_submit(e, 0);
}

/* Reads addresses, protocol and ports. 0, or minus a code. The data of the packet starts with
 * its IP header. verifier: all; verified once, and what follows not for each form of a packet.
 */
__noinline int bl_pkt_parse(struct __sk_buff *skb, struct bl_said *k, __u32 in)
{
	__u32 h[10], off, ports, from[4], to[4], proto;
	__u8 flags = 0;
	int next;

	if (!k || bpf_skb_load_bytes(skb, 0, h, 20))
		return -BL_E_SKB_READ;
	/* Which of both it is says the kernel. A raw socket may write another version than the packet
	 * is sent as.
	 */
	if (bpf_ntohl(h[0]) >> 28 == 4 && skb->protocol == bpf_htons(BL_ETH_IP)) {
		proto = bpf_ntohl(h[2]) >> 16 & 0xff;
		off = (bpf_ntohl(h[0]) >> 24 & 0xf) * 4;
		if (off < 20)
			return -BL_E_SKB_PARSE;
		k->options = off > 20;
		if (bpf_ntohl(h[1]) & 0x3fff)	/* a fragment: only a raw socket makes one */
			off = 0;
		bl_map_ip4(from, h[3]);
		bl_map_ip4(to, h[4]);
		k->n.family = AF_INET;
	} else if (bpf_ntohl(h[0]) >> 28 == 6 && skb->protocol == bpf_htons(BL_ETH_IPV6)) {
		if (bpf_skb_load_bytes(skb, 0, h, 40))
			return -BL_E_SKB_READ;
		off = 40;
		next = bl_ip6_transport(skb, bpf_ntohl(h[1]) >> 8 & 0xff, &off);
		if (next < 0)
			return next;
		proto = next;
		k->options = off != 40;
		__builtin_memcpy(from, &h[2], 16);
		__builtin_memcpy(to, &h[6], 16);
		k->n.family = AF_INET6;
	} else {
		return -BL_E_SKB_PARSE;
	}
	__builtin_memcpy(k->n.addr, in ? from : to, 16);
	__builtin_memcpy(k->n.laddr, in ? to : from, 16);
	k->n.proto = bl_net_proto(proto);
	/* TCP, UDP, SCTP, DCCP */
	if (k->n.proto != IPPROTO_TCP && k->n.proto != BL_NEXT_UDP && proto != 132 && proto != 33)
		return 0;
	k->ported = 1;
	if (!off || bpf_skb_load_bytes(skb, off, &ports, 4)) {
		k->blind = 1;
		return 0;
	}
	ports = bpf_ntohl(ports);
	k->n.port = in ? ports >> 16 : ports & 0xffff;
	k->n.lport = in ? ports & 0xffff : ports >> 16;
	if (k->n.proto != IPPROTO_TCP)
		return 0;
	if (bpf_skb_load_bytes(skb, off + 13, &flags, 1))
		return -BL_E_SKB_PARSE;
	k->opens = (flags & 0x12) == 0x02;
	return 0;
}

#define BL_BY_US	BL_ASK(BL_NET_EGRESS)
#define BL_BY_THEM	(BL_ASK(BL_NET_INGRESS) | BL_ASK(BL_NET_BOUND))

/* The decision on a packet of who is taken for having opened it, BL_BY_*. */
static __always_inline struct bl_decision bl_pkt_rule(struct bl_pkt *k, __u32 by)
{
	struct bl_decision d;
	__u64 v;

	if (!k->said.ported)
		by &= ~BL_ASK(BL_NET_BOUND);
	if (k->said.blind)
		by |= BL_ASK_BLIND;
	v = bl_net_asks(k->p, k->set, by, &k->said.n, k->top);
	d.verdict = v;
	d.rule = v >> 8;
	d.policy = v >> 16;
	return d;
}

/* Is a packet that came in from an address that it cannot have come from? What the container, or
 * the host whose namespace it shares, sends to itself has one address as source and destination,
 * or those of loopback; unless a raw socket or IP_FREEBIND made it up. (To a second address of a
 * device IPv4 sends from its first: taken for made up too.)
 */
static __always_inline int bl_pkt_made_up(const struct bl_pkt *k)
{
	return k->in && k->own && !bl_net_is_loopback(k->said.n.addr) &&
	       __builtin_memcmp(k->said.n.addr, k->said.n.laddr, sizeof(k->said.n.addr));
}

/* TCP that comes in: who opens a connection, and to which port. free: what passes by loopback. An
 * answer to a made up opener would go to whom it names: that is asked about as if the container
 * had opened it.
 */
static __always_inline int bl_pkt_tcp_in(struct bl_pkt *k, struct bpf_sock *sk, int free)
{
	struct bl_decision d;
	__u32 by = free ? 0 : BL_BY_THEM;

	if (!k->said.opens)
		return BL_CG_PASS;
	/* Both open it. If the first SYN was not seen, which has no entry, the second makes one of
	 * unknown origin.
	 */
	if (sk->state == TCP_SYN_SENT && !bpf_sk_storage_get(&bl_conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE))
		bl_count(BL_E_SK_STORAGE);
	if (bl_pkt_made_up(k))
		by |= BL_BY_US;
	if (!by)
		return BL_CG_PASS;
	d = bl_pkt_rule(k, by);
	if (d.verdict != BL_ALLOW)
		bl_pkt_tell(k, &d);
	return d.verdict == BL_DENY ? BL_CG_DENY : BL_CG_PASS;
}

/* Does a source route take the packet elsewhere than to the socket's peer? */
static __always_inline int bl_pkt_strays(const struct bl_pkt *k, struct bpf_sock *sk)
{
	__u32 ip4, ip6[4];

	if (!k->said.options)
		return 0;
	ip4 = sk->dst_ip4;
	barrier_var(ip4); /* verifier: all; a select between two fields is arithmetic on a socket */
	ip6[0] = sk->dst_ip6[0];
	ip6[1] = sk->dst_ip6[1];
	ip6[2] = sk->dst_ip6[2];
	ip6[3] = sk->dst_ip6[3];
	if (k->said.n.family == AF_INET)
		return k->said.n.addr[3] != ip4;
	return __builtin_memcmp(k->said.n.addr, ip6, sizeof(ip6)) != 0;
}

/* TCP that goes out. Who opened a connection that stood before the rules is not known: it is
 * judged as if both had. One that strays is judged by where it goes, each time.
 */
static __always_inline int bl_pkt_tcp_out(struct bl_pkt *k, struct bpf_sock *sk)
{
	struct bl_conn *conn = bpf_sk_storage_get(&bl_conns, sk, 0, 0);
	__u8 mark = k->said.opens ? BL_CONN_DIALLED : conn ? conn->mark : 0;
	int strays = bl_pkt_strays(k, sk);
	struct bl_decision d;
	__u32 by = 0;

	if (!k->said.opens && !strays && conn && conn->set == k->set)
		return BL_CG_PASS;
	if (mark != BL_CONN_ACCEPTED || strays)
		by |= BL_BY_US;
	if (mark != BL_CONN_DIALLED)
		by |= BL_ASK(BL_NET_INGRESS);
	if (!k->said.opens && !strays && conn && conn->set)
		by |= BL_ASK_STANDING;
	d = bl_pkt_rule(k, by);
	if (!conn)
		conn = bpf_sk_storage_get(&bl_conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conn)
		bl_count(BL_E_SK_STORAGE);
	if (d.verdict != BL_ALLOW && !(conn && conn->told == k->set)) {
		bl_pkt_tell(k, &d);
		if (conn)
			conn->told = k->set;
	}
	if (d.verdict == BL_DENY)
		return BL_CG_DENY;
	if (conn && !strays)
		conn->set = k->set;
	return BL_CG_PASS;
}

static __always_inline int bl_sk_connected(struct bpf_sock *sk)
{
	return sk->dst_port || sk->dst_ip4 || sk->dst_ip6[0] || sk->dst_ip6[3];
}

/* Everything else: who sent first decides which rule holds for an exchange. */
static __always_inline int bl_pkt_flow(struct bl_pkt *k, struct bpf_sock *sk)
{
	__u32 by = k->in ? BL_BY_THEM : BL_BY_US;
	__u64 now = bpf_ktime_get_ns();
	struct bl_flow_key key = {};
	struct bl_decision d;
	struct bl_flow *f, *r;

	bl_flow_key_of(&key, k->top, &k->said.n);
	/* A packet that does not show its ports is of no exchange. */
	f = k->said.blind ? NULL : bl_flow_get(&key, now);
	if (f && f->set == k->set) {
		if (bl_net_past(now, f->seen_ns, BL_FLOW_TELL_NS))
			f->seen_ns = now;
		return BL_CG_PASS;
	}
	r = k->said.blind ? NULL : bl_refusal_get(&key, k->set, now);
	if (r && (!r->in || k->in || f) && !bl_net_past(now, r->seen_ns, BL_FLOW_TELL_NS))
		return BL_CG_DENY;
	if (f)
		by = (f->in ? BL_BY_THEM : BL_BY_US) | BL_ASK_STANDING;
	else if (k->in && r && !r->in)	/* it goes on with what the container was refused */
		by = BL_BY_THEM | BL_BY_US;
	else if (k->in && bl_sk_connected(sk))	/* or with what began before the rule */
		by = BL_ASK(BL_NET_INGRESS) | BL_BY_US;
	d = bl_pkt_rule(k, by);
	if (d.verdict != BL_ALLOW)
		bl_pkt_tell(k, &d);
	if (d.verdict == BL_DENY) {
		if (!k->said.blind)
			bl_refuse(&key, k->set, d.rule != BL_R_EGRESS, now);
		return BL_CG_DENY;
	}
	/* What the container itself may have made up is nobody's first word. */
	if (!k->said.blind && !(k->in && k->own && !bl_net_is_loopback(k->said.n.addr)))
		bl_flow_put(&key, k->set, !(by & BL_BY_US), now);
	return BL_CG_PASS;
}

/* A raw socket that is there in spite of rawSockets: from before the rule, or handed in. It is
 * reported once.
 */
static __always_inline int bl_pkt_raw(struct bl_pkt *k, struct bpf_sock *sk)
{
	struct bl_decision d = { .rule = BL_R_RAW_SOCKETS };
	int slot = bl_rule_slot(k->p, BL_R_RAW_SOCKETS);
	struct bl_conn *conn;

	if (slot == BL_SLOTS)
		return BL_CG_PASS;
	d.verdict = slot == BL_ENFORCE ? BL_DENY : BL_AUDIT;
	d.policy = k->p->rules[slot & 1][BL_R_RAW_SOCKETS].policy;
	conn = bpf_sk_storage_get(&bl_conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conn)
		bl_count(BL_E_SK_STORAGE);
	if (!(conn && conn->told == k->set)) {
		bl_pkt_tell(k, &d);
		if (conn)
			conn->told = k->set;
	}
	return d.verdict == BL_DENY ? BL_CG_DENY : BL_CG_PASS;
}

static __always_inline int bl_packet(struct __sk_buff *skb, int in)
{
	struct bl_pkt k = { .in = in };
	struct bpf_sock *sk;
	int stream, free, answers, r;

	if (bl_net_idle())
		return BL_CG_PASS;
	sk = skb->sk;
	if (!sk)
		return BL_CG_PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)	/* a connection that is not there yet, or not any more */
		return BL_CG_PASS;
	stream = sk->type == SOCK_STREAM && sk->protocol == IPPROTO_TCP;
	answers = stream && !in && sk->state == TCP_LISTEN;	/* who was let in */
	k.top = bl_skb_container(skb, sk);
	if (!k.top)
		return BL_CG_PASS;
	k.p = bl_net_policy(k.top, &k.c, &k.set);
	k.lo = skb->ifindex == BL_LOOPBACK_IF;
	k.own = k.lo || skb->pkt_type == BL_PACKET_LOOPBACK;
	free = k.lo && bl_net_own(sk);
	if (free && (!k.p || !in || !stream || (sk->state != TCP_LISTEN && sk->state != TCP_SYN_SENT)))
		return BL_CG_PASS;
	if (!k.p)
		return BL_CG_DENY;
	if (!bl_net_on(k.p))
		return BL_CG_PASS;
	r = bl_pkt_parse(skb, &k.said, in);
	if (r < 0)
		return bl_fail(k.p, -r) == BL_ALLOW ? BL_CG_PASS : BL_CG_DENY;
	if (answers && !k.said.options)
		return BL_CG_PASS;
	if (stream)
		return in ? bl_pkt_tcp_in(&k, sk, free) : bl_pkt_tcp_out(&k, sk);
	if (sk->type == SOCK_RAW && bl_pkt_raw(&k, sk) == BL_CG_DENY)
		return BL_CG_DENY;
	return bl_pkt_flow(&k, sk);
}

SEC("cgroup_skb/egress")
int bl_net_egress(struct __sk_buff *skb)
{
	return bl_packet(skb, 0);
}

SEC("cgroup_skb/ingress")
int bl_net_ingress(struct __sk_buff *skb)
{
	return bl_packet(skb, 1);
}

/* A connection is being opened, or was accepted: notes which. */
SEC("sockops")
int bl_net_sockops(struct bpf_sock_ops *ctx)
{
	struct bl_conn fresh = {}, *conn;
	struct bl_container *c;
	struct tcp_sock *tp;
	struct bl_policy *p;
	struct bpf_sock *sk;
	__u32 op = ctx->op, set = 0;
	__u64 top;

	if ((op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) ||
	    bl_net_idle())
		return 1;
	sk = ctx->sk;
	if (!sk)
		return 1;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 1;
	top = bl_container_of(((struct sock *)tp)->sk_cgrp_data.cgroup);
	if (!top)
		return 1;
	if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		fresh.mark = BL_CONN_ACCEPTED;
	else if (!BPF_CORE_READ_BITFIELD_PROBED(tp, repair))
		fresh.mark = BL_CONN_DIALLED;
	/* else TCP_REPAIR: the socket may be made to look like either */
	conn = bpf_sk_storage_get(&bl_conns, sk, 0, 0);
	if (conn) {
		if (op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
			conn->mark = fresh.mark;
		else if (conn->mark)	/* a simultaneous open: it has dialled too */
			conn->mark |= BL_CONN_ACCEPTED;
		conn->set = 0;
		return 1;
	}
	p = bl_net_policy(top, &c, &set);
	if (p && !bl_net_on(p))
		return 1;
	if (!bpf_sk_storage_get(&bl_conns, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE))
		bl_count(BL_E_SK_STORAGE);
	return 1;
}
