/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ssh: SSH by protocol, on any port. Cgroup programs at the root of the v2 hierarchy,
 * the same under every backend: they see every packet that a socket of the host sends,
 * and cost TCP of no container one hash lookup. A socket is its maker's: the cgroup
 * it was made in says whose it is.
 *
 * Not seen: AF_PACKET, TUN and whatever else leaves without passing ip_output with its
 * socket; what a container with CAP_NET_ADMIN rewrites behind this hook (tc); pages
 * that were sent without a copy (sendfile, vmsplice, MSG_ZEROCOPY) and are changed
 * afterwards; the first line behind BL_SSH_WINDOW.
 */
#include "net.h"

/* A connection is being opened, or was accepted: notes which. Without memory for it
 * the stream counts as one of unknown origin, to which both rules apply.
 */
SEC("sockops")
int bl_sockops(struct bpf_sock_ops *ctx)
{
	struct bl_ssh_stream fresh = {}, *s;
	struct bl_container *c;
	struct tcp_sock *tp;
	struct bl_policy *p;
	struct bpf_sock *sk;
	__u32 op = ctx->op, set = 0;
	__u64 top;

	if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
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
	s = bpf_sk_storage_get(&bl_streams, sk, 0, 0);
	if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		if (s) {	/* a simultaneous open: it has dialled too */
			s->mark |= BL_SSH_ACCEPTED;
			return 1;
		}
		fresh.mark = BL_SSH_ACCEPTED;
		bl_ssh_begin(&fresh, ctx->snd_nxt);
	} else if (!BPF_CORE_READ_BITFIELD_PROBED(tp, repair)) {
		fresh.mark = BL_SSH_DIALLED;
	}	/* else TCP_REPAIR: the socket may be made to look like either */
	if (s) {	/* the socket is used a second time */
		*s = fresh;
		return 1;
	}
	p = bl_net_policy(top, &c, &set);
	if (!bl_ssh_applies(p, BL_ENFORCE, 0) && !bl_ssh_applies(p, BL_AUDITED, 0))
		return 1;
	if (!bpf_sk_storage_get(&bl_streams, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE))
		bl_count(BL_E_SK_STORAGE);
	return 1;
}

/* bl_cgroups was full. A raw socket cannot be read as a struct sock: of its
 * cgroups only the ids can be asked.
 */
static __always_inline __u64 bl_skb_container_slow(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 id, *top;
	int i;

	if (tp)
		return bl_container_of(((struct sock *)tp)->sk_cgrp_data.cgroup);
	for (i = 1; i < BL_MAX_LEVELS; i++) {
		id = bpf_skb_ancestor_cgroup_id(skb, i);
		if (!id)
			return 0;
		top = bpf_map_lookup_elem(&bl_cgroups, &id);
		if (top)
			return *top;
	}
	return 0;
}

#define BL_CSS_ONLINE 2	/* include/linux/cgroup-defs.h */

/* A socket can outlive its cgroup, in the hands of another container: then the cgroup's
 * name says what it was. 0: no container's.
 */
static __always_inline __u64 bl_dead_container(struct bpf_sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct cgroup *cg;

	if (!tp)
		return 0;
	cg = ((struct sock *)tp)->sk_cgrp_data.cgroup;
	if (cg->self.flags & BL_CSS_ONLINE)
		return 0;
	return bl_container_slow((__u64)BPF_CORE_READ(cg, self.cgroup));
}

/* The container that a packet's socket is of; 0: none. */
static __always_inline __u64 bl_skb_container(struct __sk_buff *skb, struct bpf_sock *sk)
{
	__u64 id = bpf_skb_cgroup_id(skb), *known = bpf_map_lookup_elem(&bl_cgroups, &id);

	if (known)
		return *known;
	/* a cgroup below a container's may be removed, and its sockets live on */
	if (bl_overflow() || sk->protocol != IPPROTO_TCP || sk->type != SOCK_STREAM)
		return bl_skb_container_slow(skb, sk);
	return bl_dead_container(sk);
}

/* One TCP segment: where its payload lies. */
struct bl_seg {
	__u32 seq;	/* of the first byte of payload */
	__u32 off;
	__u32 len;
	__u32 urgent;	/* index in the payload of the urgent byte; all ones: none */
	__u8 syn;
};

#define BL_IP6_HEADERS	8	/* extension headers before TCP that are walked */

/* include/uapi/linux/in6.h, in.h */
#define BL_NEXT_HOP	0
#define BL_NEXT_UDP	17
#define BL_NEXT_ROUTING	43
#define BL_NEXT_FRAG	44
#define BL_NEXT_AH	51
#define BL_NEXT_ICMP6	58
#define BL_NEXT_DEST	60
#define BL_NEXT_MOBILE	135

/* Walks the extension headers. Returns the transport's number, or minus a code; off becomes
 * where its header is, 0 if that may be elsewhere. A
 * fragment can only come from a raw socket: the kernel cuts packets after this hook.
 * verifier: all; global, so that its loop is verified once.
 */
__noinline int bl_ip6_transport(struct __sk_buff *skb, __u32 next, __u32 *off)
{
	__u8 h[4];
	int i;

	if (!off)
		return -BL_E_SKB_PARSE;
	for (i = 0; i < BL_IP6_HEADERS; i++) {
		if (next != BL_NEXT_HOP && next != BL_NEXT_ROUTING && next != BL_NEXT_FRAG &&
		    next != BL_NEXT_AH && next != BL_NEXT_DEST && next != BL_NEXT_MOBILE)
			return next;
		if (bpf_skb_load_bytes(skb, *off, h, sizeof(h)))
			return -BL_E_SKB_PARSE;
		if (next == BL_NEXT_FRAG) {
			if (h[2] || h[3] & 0xf9) {	/* an offset, or more to come */
				*off = 0;
				return h[0] == BL_NEXT_UDP || h[0] == BL_NEXT_ICMP6 ? h[0] :
										      -BL_E_SKB_PARSE;
			}
			*off += 8;
		} else if (next == BL_NEXT_AH) {
			*off += (h[1] + 2) * 4;
		} else {
			*off += (h[1] + 1) * 8;
		}
		next = h[0];
	}
	return -BL_E_SKB_PARSE;
}

/* Finds the TCP header. 1: found, 0: not TCP, else minus a code. n gets the packet's
 * addresses. The data of the packet starts with its IP header.
 */
static __always_inline int bl_parse(struct __sk_buff *skb, struct bl_seg *g, struct bl_ends *n)
{
	__u32 h[10], w, off, len = skb->len;
	int next;

	if (bpf_skb_load_bytes(skb, 0, h, 20))
		return -BL_E_SKB_READ;
	w = bpf_ntohl(h[0]);
	if (w >> 28 == 4) {
		next = bpf_ntohl(h[2]) >> 16 & 0xff;
		if (next != IPPROTO_TCP)
			return 0;
		off = (w >> 24 & 0xf) * 4;
		if (off < 20 || bpf_ntohl(h[1]) & 0x3fff)	/* a fragment: as in IPv6 */
			return -BL_E_SKB_PARSE;
		bl_map_ip4(n->laddr, h[3]);
		bl_map_ip4(n->addr, h[4]);
		n->family = AF_INET;
	} else if (w >> 28 == 6) {
		if (bpf_skb_load_bytes(skb, 0, h, 40))
			return -BL_E_SKB_READ;
		off = 40;
		next = bl_ip6_transport(skb, bpf_ntohl(h[1]) >> 8 & 0xff, &off);
		if (next != IPPROTO_TCP)
			return next < 0 ? next : 0;
		__builtin_memcpy(n->laddr, &h[2], 16);
		__builtin_memcpy(n->addr, &h[6], 16);
		n->family = AF_INET6;
	} else {
		return -BL_E_SKB_PARSE;
	}
	n->proto = IPPROTO_TCP;
	if (bpf_skb_load_bytes(skb, off, h, 20))
		return -BL_E_SKB_PARSE;
	n->lport = bpf_ntohl(h[0]) >> 16;
	n->port = bpf_ntohl(h[0]) & 0xffff;
	w = bpf_ntohl(h[3]);	/* data offset, flags, window */
	g->syn = w >> 17 & 1;
	g->seq = bpf_ntohl(h[1]) + g->syn;
	g->off = off + (w >> 28) * 4;
	if (w >> 28 < 5 || g->off > len)
		return -BL_E_SKB_PARSE;
	g->len = len - g->off;
	g->urgent = -1;
	if (w >> 21 & 1 && bpf_ntohl(h[4]) & 0xffff)	/* URG; points behind the byte */
		g->urgent = (bpf_ntohl(h[4]) & 0xffff) - 1 - g->syn;
	return 1;
}

/* Takes in the first BL_SSH_CHUNK of left (1 or more) bytes at off. 1: found, 0: not
 * yet, -1: unreadable.
 * verifier: all; this function and the next are global, so that each is verified once
 * and not for each of its calls (600,000 instructions otherwise).
 */
__noinline int bl_ssh_chunk(struct __sk_buff *skb, struct bl_ssh_stream *s, __u32 off,
			    __u32 left, __u32 urgent)
{
	__u8 b[BL_SSH_CHUNK] = {};
	__u32 above = left < BL_SSH_CHUNK ? left - 1 : BL_SSH_CHUNK - 1;

	if (!s || !left)
		return -1;
	/* verifier: 6.1; forgets that the length is not 0 ("invalid zero-sized read") */
	asm volatile("%0 &= %1" : "+r"(above) : "i"(BL_SSH_CHUNK - 1));
	if (bpf_skb_load_bytes(skb, off, b, above + 1))
		return -1;
	return bl_ssh_bytes(s, b, above + 1, urgent);
}

/* Takes in left bytes at off, but not more than the stream's window has left. */
__noinline int bl_ssh_scan(struct __sk_buff *skb, struct bl_ssh_stream *s, __u32 off, __u32 left,
			   __u32 urgent)
{
	__u32 window;
	int i, found;

	if (!s || s->seen > BL_SSH_WINDOW)
		return -1;
	window = BL_SSH_WINDOW - (__u32)s->seen;
	if (left > window)
		left = window;
	if (!left)
		return 0;
	for (i = 0; i < BL_SSH_WINDOW / BL_SSH_CHUNK; i++) {
		found = bl_ssh_chunk(skb, s, off, left, urgent);
		if (found || left <= BL_SSH_CHUNK)
			return found;
		off += BL_SSH_CHUNK;
		left -= BL_SSH_CHUNK;
		urgent -= BL_SSH_CHUNK;	/* wraps once it is past */
	}
	return 0;
}

/* A packet that cannot be judged: counted; the fail mode if a rule in force could have
 * denied it.
 */
static __always_inline int bl_unjudged(const struct bl_policy *p, __u8 mark, __u32 code)
{
	if (bl_ssh_applies(p, BL_ENFORCE, mark))
		return bl_fail(p, code) == BL_ALLOW ? BL_CG_PASS : BL_CG_DENY;
	bl_count(code);
	return BL_CG_PASS;
}

static __always_inline void bl_stream_report(struct bl_container *c, __u64 top,
					     const struct bl_policy *p, __u32 set,
					     const struct bl_decision *d, const struct bl_ends *n)
{
	struct bl_event *e = bl_net_event(c, top, p, set, d, n, BL_H_SKB, bl_net_decided(d));

	if (!e)
		return;
	e->flags = BL_E_NO_PROC;
	bpf_ringbuf_submit(e, 0);
}

/* A raw socket makes its own TCP, if it does. Each packet is judged by itself, and the
 * socket is reported once.
 */
static __always_inline int bl_egress_raw(struct __sk_buff *skb, struct bpf_sock *sk, __u64 top)
{
	struct bl_net_facts f = { .act = BL_NET_STREAM };
	struct bl_ssh_stream now = {}, *s;
	struct bl_container *c;
	struct bl_decision d;
	struct bl_ends n = {};
	struct bl_policy *p;
	struct bl_seg g = {};
	__u32 set = 0;
	int r;

	p = bl_net_policy(top, &c, &set);
	if (!bl_ssh_applies(p, BL_ENFORCE, 0) && !bl_ssh_applies(p, BL_AUDITED, 0))
		return BL_CG_PASS;
	r = bl_parse(skb, &g, &n);
	if (r < 0)
		return bl_unjudged(p, 0, -r);
	if (!r || !g.len)
		return BL_CG_PASS;
	bl_ssh_begin(&now, g.seq);
	r = bl_ssh_scan(skb, &now, g.off, g.len, g.urgent);
	if (r < 0)
		return bl_unjudged(p, 0, BL_E_SKB_READ);
	if (!r && !bl_ssh_partial(&now))
		return BL_CG_PASS;
	bl_list_facts(p, set, &n, &f);
	d = bl_net_decide(p, &f);
	if (d.verdict == BL_ALLOW)
		return BL_CG_PASS;
	s = bpf_sk_storage_get(&bl_streams, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s) {
		bl_count(BL_E_SK_STORAGE);
	} else if (!(s->mark & BL_SSH_TOLD)) {
		s->mark |= BL_SSH_TOLD;
		bl_stream_report(c, top, p, set, &d, &n);
	}
	return d.verdict == BL_DENY ? BL_CG_DENY : BL_CG_PASS;
}

/* verifier: all; refuses arithmetic on a socket's pointer, which clang makes of loads
 * that it moves.
 */
#define BL_ONCE(x) (*(volatile typeof(x) *)&(x))

/* The addresses that the socket was connected with: a list of destinations means these,
 * and the packet's may have been translated.
 */
static __always_inline void bl_sock_ends(struct bpf_sock *sk, struct bl_ends *n)
{
	n->port = bpf_ntohs(sk->dst_port);
	n->lport = sk->src_port;
	n->family = sk->family;
	n->addr[0] = BL_ONCE(sk->dst_ip6[0]);
	n->addr[1] = BL_ONCE(sk->dst_ip6[1]);
	n->addr[2] = BL_ONCE(sk->dst_ip6[2]);
	n->addr[3] = BL_ONCE(sk->dst_ip6[3]);
	n->laddr[0] = BL_ONCE(sk->src_ip6[0]);
	n->laddr[1] = BL_ONCE(sk->src_ip6[1]);
	n->laddr[2] = BL_ONCE(sk->src_ip6[2]);
	n->laddr[3] = BL_ONCE(sk->src_ip6[3]);
	if (n->family == AF_INET) {
		bl_map_ip4(n->addr, BL_ONCE(sk->dst_ip4));
		bl_map_ip4(n->laddr, BL_ONCE(sk->src_ip4));
	}
}

/* Bytes before the segment are missing. They were sent before, so TCP sends them again:
 * until then nothing that follows may pass. Unless the peer has them already, or no
 * rule in force could deny. Returns 1 to go on with the segment.
 */
static __always_inline int bl_stream_gap(struct bpf_sock *sk, struct bl_ssh_stream *s,
					 const struct bl_policy *p, __u32 seq)
{
	struct bpf_tcp_sock *tp = bpf_tcp_sock(sk);

	if (bl_ssh_applies(p, BL_ENFORCE, s->mark) &&
	    !(tp && (__s32)(s->next_seq - tp->snd_una) < 0))
		return 0;
	bl_count(BL_E_STREAM_GAP);
	bl_ssh_resume(s, seq);
	return s->state == BL_SSH_OPEN;
}

/* The line was found. */
static __always_inline int bl_stream_found(struct bpf_sock *sk, struct bl_ssh_stream *s,
					   struct bl_container *c, __u64 top,
					   const struct bl_policy *p, __u32 set, struct bl_ends *n)
{
	struct bl_net_facts f = { .act = BL_NET_STREAM, .mark = s->mark };
	struct bl_decision d;

	bl_sock_ends(sk, n);
	bl_list_facts(p, set, n, &f);
	d = bl_net_decide(p, &f);
	s->state = d.verdict == BL_DENY ? BL_SSH_DENIED : BL_SSH_CLEAR;
	if (d.verdict != BL_ALLOW)
		bl_stream_report(c, top, p, set, &d, n);
	return d.verdict == BL_DENY ? BL_CG_DENY : BL_CG_PASS;
}

/* A stream that has a state is followed whatever the rules are now, so that they can
 * change while it runs.
 */
static __always_inline int bl_egress_tcp(struct __sk_buff *skb, struct bpf_sock *sk, __u64 top)
{
	struct bl_ssh_stream *s = bpf_sk_storage_get(&bl_streams, sk, 0, 0), now;
	struct bl_container *c;
	struct bl_ends n = {};
	struct bl_policy *p;
	struct bl_seg g = {};
	__u32 set = 0, skip = 0;
	int r, found;

	if (s && s->state == BL_SSH_CLEAR)
		return BL_CG_PASS;
	if (s && s->state == BL_SSH_DENIED)
		return BL_CG_DENY;
	r = bl_parse(skb, &g, &n);
	if (r > 0 && s && g.syn && s->state == BL_SSH_NEW)
		bl_ssh_begin(s, g.seq);
	if (r > 0 && !g.len)
		return BL_CG_PASS;
	p = bl_net_policy(top, &c, &set);
	if (!s && !bl_ssh_applies(p, BL_ENFORCE, 0) && !bl_ssh_applies(p, BL_AUDITED, 0))
		return BL_CG_PASS;
	if (r <= 0)
		return bl_unjudged(p, s ? s->mark : 0, r ? -r : BL_E_SKB_PARSE);
	if (!s) {
		s = bpf_sk_storage_get(&bl_streams, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!s)
			return bl_unjudged(p, 0, BL_E_SK_STORAGE);
	}
	if (s->state == BL_SSH_NEW)
		bl_ssh_begin(s, g.seq);
	switch (bl_ssh_place(s, g.seq, g.len, &skip)) {
	case BL_SSH_OLD:
		return BL_CG_PASS;
	case BL_SSH_AHEAD:
		if (!bl_stream_gap(sk, s, p, g.seq))
			return s->state == BL_SSH_CLEAR ? BL_CG_PASS : BL_CG_DENY;
	}
	now = *s;
	found = bl_ssh_scan(skb, &now, g.off + skip, g.len - skip, g.urgent - skip);
	if (found < 0) {
		if (bl_unjudged(p, s->mark, BL_E_SKB_READ) == BL_CG_DENY)
			return BL_CG_DENY;
		bl_ssh_resume(s, g.seq + g.len);
		return BL_CG_PASS;
	}
	if (now.seen >= BL_SSH_WINDOW)
		now.state = BL_SSH_CLEAR;
	*s = now;
	return found ? bl_stream_found(sk, s, c, top, p, set, &n) : BL_CG_PASS;
}

/* Every packet that a socket of this host sends. */
SEC("cgroup_skb/egress")
int bl_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk;
	__u64 top;

	sk = skb->sk;
	if (!sk)
		return BL_CG_PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)	/* no data leaves before there is a full socket */
		return BL_CG_PASS;
	if (sk->type != SOCK_RAW && (sk->type != SOCK_STREAM || sk->protocol != IPPROTO_TCP))
		return BL_CG_PASS;
	top = bl_skb_container(skb, sk);
	if (!top)
		return BL_CG_PASS;
	if (sk->type == SOCK_RAW)
		return bl_egress_raw(skb, sk, top);
	return bl_egress_tcp(skb, sk, top);
}
