/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * dns: which addresses the names of network.egress stand for, by the answers that a container
 * gets. Cgroup programs on packets, the same under every backend. They decide about no packet, and
 * need no agent: an address is open before the client has read the answer.
 *
 * An answer counts when a server that the policy trusts gives it to a question that the container
 * has sent: server, client, id, type and name are the same. Who sends is known by the address of
 * what came in by a device; on loopback, where Docker's own server is and where a container could
 * take any address, by the socket that sends, which must be of no container. Questions from a network
 * namespace that a user namespace in the container owns do not count: there the container is everybody.
 *
 * Not seen: DNS by TCP, TLS or HTTPS; a question or an answer in packets with IP options; who lets
 * others on the container's link write packets in the server's name (rawSockets, packetSockets).
 */
#include "netrules.h"
#include "pure/dns.h"

#define BL_DNS_PORT	53
#define BL_SOCK_DGRAM	2	/* include/linux/net.h */
#define BL_DNS_WAIT_NS	(30 * 1000000000ULL)	/* an answer comes within this, or is none */

/* The patterns that a name matches, by slot. */
struct bl_dns_found {
	__u64 by[BL_SLOTS];
	__u64 question;	/* hash of the name; 0: it was not readable */
};

/* Is there no set with rules on names? */
static __always_inline int bl_dns_idle(void)
{
	struct bl_config *cfg = bl_config();

	return !cfg || cfg->abi != BL_ABI || !cfg->names;
}

static __always_inline int bl_is_udp(const struct bpf_sock *sk)
{
	return sk->type == BL_SOCK_DGRAM && sk->protocol == BL_NEXT_UDP;
}

/* A DNS message, and between whom it goes. */
struct bl_dns_msg {
	struct bl_dns_question q;
	struct bl_dns_found f;
	struct bl_ends n;
	__u32 off;	/* where it starts */
	__u32 net;	/* inode number of the network namespace */
};

/* Reads a UDP packet. Returns where its payload is; 0: it is none, or not plain.
 * verifier: all; this and what follows is global, since the stack is small.
 */
__noinline int bl_udp_parse(struct __sk_buff *skb, int in, struct bl_dns_msg *m)
{
	__u32 h[10], from[4], to[4], ports, off;

	if (!m || bpf_skb_load_bytes(skb, 0, h, 20))
		return 0;
	if (bpf_ntohl(h[0]) >> 24 == 0x45) {
		if ((bpf_ntohl(h[2]) >> 16 & 0xff) != BL_NEXT_UDP || bpf_ntohl(h[1]) & 0x3fff)
			return 0;
		off = 20;
		bl_map_ip4(from, h[3]);
		bl_map_ip4(to, h[4]);
	} else if (bpf_ntohl(h[0]) >> 28 == 6) {
		if (bpf_skb_load_bytes(skb, 0, h, 40) || (bpf_ntohl(h[1]) >> 8 & 0xff) != BL_NEXT_UDP)
			return 0;
		off = 40;
		__builtin_memcpy(from, &h[2], 16);
		__builtin_memcpy(to, &h[6], 16);
	} else {
		return 0;
	}
	if (bpf_skb_load_bytes(skb, off, &ports, 4))
		return 0;
	ports = bpf_ntohl(ports);
	__builtin_memcpy(m->n.addr, in ? from : to, 16);
	__builtin_memcpy(m->n.laddr, in ? to : from, 16);
	m->n.port = in ? ports >> 16 : ports & 0xffff;
	m->n.lport = in ? ports & 0xffff : ports >> 16;
	m->off = off + 8;
	return off + 8;
}

/* Is the cgroup of a UDP socket still there? One that is gone may have been a container's, whose
 * socket lives on in the hands of another.
 */
static __always_inline int bl_sk_alive(struct bpf_sock *sk)
{
	__u64 at = 0;

	if (bpf_probe_read_kernel(&at, sizeof(at), &sk))
		return 0;
	return BPF_CORE_READ((struct sock *)at, sk_cgrp_data.cgroup, self.flags) & BL_CSS_ONLINE;
}

/* Is a network namespace one that a user namespace within the container's own made? Who makes one
 * is its servers, too, whatever their addresses.
 */
static __always_inline int bl_net_nested(struct net *net, __u64 top)
{
	struct bl_container *c = bpf_map_lookup_elem(&bl_containers, &top);

	return !net || BPF_CORE_READ(net, user_ns, level) > (c ? c->user_level : 0);
}

/* The set of rules that a container is under, if that has rules on names, else 0: no set has that
 * number.
 */
__noinline __u32 bl_dns_set(__u64 top)
{
	struct bl_container *c;
	struct bl_policy *p;
	__u32 set = 0;

	p = bl_net_policy(top, &c, &set);
	return p && p->flags & BL_P_NAMES ? set : 0;
}

/* Finds the patterns that the name in the question matches. */
__noinline int bl_dns_find(struct __sk_buff *skb, __u32 set, struct bl_dns_msg *m)
{
	struct bl_name_key k = { .prefixlen = 32 + 8 * BL_NAME_TEXT };
	__u64 *name;
	__u32 slot;

	if (!m)
		return 0;
	m->f.question = bl_dns_key(skb, m->q.name, m->q.len, &k);
	for (slot = 0; slot < BL_SLOTS; slot++) {
		k.set = set << 1 | slot;
		name = m->f.question ? bpf_map_lookup_elem(&bl_names, &k) : NULL;
		m->f.by[slot] = name ? *name : 0;
	}
	return 0;
}

/* Does a slot trust a server? */
static __always_inline int bl_dns_trusts(__u32 set, __u32 slot, const __u32 *server)
{
	struct bl_resolver r = { .set = set << 1 | slot };
	int known;

	__builtin_memcpy(r.addr, server, 16);
	known = bpf_map_lookup_elem(&bl_resolvers, &r) != NULL;
	/* verifier: all; clang would join the pointers of both slots */
	asm volatile("" : "+r"(known));
	return known;
}

/* Leaves of what was found that whose server is trusted; says whether anything is left. out: the
 * server is who the packet goes to.
 */
__noinline int bl_dns_trust(struct bl_dns_msg *m, __u32 set, int server_is_remote)
{
	const __u32 *server;
	int slot, left = 0;

	if (!m)
		return 0;
	server = server_is_remote ? m->n.addr : m->n.laddr;
	for (slot = 0; slot < BL_SLOTS; slot++) {
		if (!bl_dns_trusts(set, slot, server))
			m->f.by[slot] = 0;
		if (m->f.by[slot])
			left = 1;
	}
	return left;
}

#define BL_DNS_RATE	256	/* questions, and addresses, of one container that are kept in a second */

/* May a container have one more kept? All share the tables, in which the oldest goes: whoever asks
 * without end must not push out what others wait for. kind: 0 a question, 1 an address.
 */
static __always_inline int bl_dns_may(__u64 top, __u32 kind)
{
	struct bl_dns_rate_key k = { .container = top, .kind = kind };
	__u64 now = bpf_ktime_get_boot_ns();
	struct bl_told fresh = { .since_ns = now, .n = 1 }, *t = bpf_map_lookup_elem(&bl_dns_rates, &k);

	if (!t) {
		if (bpf_map_update_elem(&bl_dns_rates, &k, &fresh, BPF_ANY))
			bl_count(BL_E_DNS_TABLE);
		return 1;
	}
	if (bl_net_past(now, t->since_ns, 1000000000ULL)) {
		t->since_ns = now;
		t->n = 0;
	}
	if (__sync_fetch_and_add(&t->n, 1) < BL_DNS_RATE)
		return 1;
	bl_count(BL_E_DNS_MUTED);
	return 0;
}

/* Opens an address for a pattern. */
__noinline int bl_dns_put(__u64 top, __u64 name, const struct bl_dns_record *r, __u32 ttl)
{
	__u64 now = bpf_ktime_get_boot_ns(), until, soonest = ~0ULL;
	struct bl_dns_open o = {}, *old;
	int i, at = 0;

	if (!r)
		return 0;
	o.key.container = top;
	__builtin_memcpy(o.key.addr, r->addr, sizeof(o.key.addr));
	until = now + bl_dns_ttl(ttl) * 1000000000ULL;
	old = bpf_map_lookup_elem(&bl_dns_addrs, &o.key);
	if (old) {
		for (i = 0; i < BL_DNS_NAMES; i++)
			o.by[i] = old->by[i];
		asm volatile("" ::: "memory");
		if (old->key.container != top || __builtin_memcmp(old->key.addr, r->addr, sizeof(o.key.addr)))
			__builtin_memset(o.by, 0, sizeof(o.by));
	} else if (!bl_dns_may(top, 1)) {
		return 0;
	}
	for (i = 0; i < BL_DNS_NAMES; i++) {
		if (o.by[i].name == name) {
			at = i;
			soonest = o.by[i].until_ns;
			break;
		}
		if (o.by[i].until_ns < soonest) {
			at = i;
			soonest = o.by[i].until_ns;
		}
	}
	if (at < 0 || at >= BL_DNS_NAMES)
		return 0;
	if (o.by[at].name == name) {
		if (until < soonest)
			until = soonest;
	} else if (soonest > now) {
		bl_count(BL_E_DNS_FULL);
	}
	o.by[at].name = name;
	o.by[at].until_ns = until;
	if (bpf_map_update_elem(&bl_dns_addrs, &o.key, &o, BPF_ANY))
		bl_count(BL_E_DNS_TABLE);
	return 0;
}

/* Takes in the addresses of an answer. */
__noinline int bl_dns_take(struct __sk_buff *skb, __u64 top, struct bl_dns_msg *m)
{
	struct bl_dns_record r = {};
	__u32 at, ttl = ~0U, i, slot;

	if (!m)
		return 0;
	at = m->q.end;
	for (i = 0; i < BL_DNS_RECORDS; i++) {
		if (i >= m->q.answers)
			return 0;
		if (bl_dns_read(skb, m->off, at, &r))
			break;
		at = r.next;
		if (!bl_dns_counts(&r, &ttl))
			continue;
		for (slot = 0; slot < BL_SLOTS; slot++)
			if (m->f.by[slot])
				bl_dns_put(top, m->f.by[slot], &r, ttl);
	}
	if (i < m->q.answers)
		bl_count(BL_E_DNS_PARSE);
	return 0;
}

static __always_inline void bl_dns_ask_of(struct bl_dns_ask *a, const struct bl_dns_msg *m,
					  int server_is_remote)
{
	__builtin_memcpy(a->server, server_is_remote ? m->n.addr : m->n.laddr, 16);
	__builtin_memcpy(a->client, server_is_remote ? m->n.laddr : m->n.addr, 16);
	a->net = m->net;
	a->port = server_is_remote ? m->n.lport : m->n.port;
	a->id = m->q.id;
	a->type = m->q.type;
	a->pad = 0;
}

__noinline int bl_dns_note(struct bl_dns_msg *m, __u64 top)
{
	struct bl_dns_asked asked = { .container = top };
	struct bl_dns_ask a = {};

	if (!m || !bl_dns_may(top, 0))
		return 0;
	asked.question = m->f.question;
	asked.since_ns = bpf_ktime_get_boot_ns();
	bl_dns_ask_of(&a, m, 1);
	if (bpf_map_update_elem(&bl_dns_asks, &a, &asked, BPF_ANY))
		bl_count(BL_E_DNS_TABLE);
	return 0;
}

/* Who asked what a message answers; 0: nobody. question: the hash of what was asked. */
__noinline __u64 bl_dns_asker(struct bl_dns_msg *m, int server_is_remote)
{
	struct bl_dns_asked *asked;
	struct bl_dns_ask a = {};

	if (!m)
		return 0;
	bl_dns_ask_of(&a, m, server_is_remote);
	asked = bpf_map_lookup_elem(&bl_dns_asks, &a);
	if (!asked || bl_net_past(bpf_ktime_get_boot_ns(), asked->since_ns, BL_DNS_WAIT_NS))
		return 0;
	m->f.question = asked->question;
	return asked->container;
}

__noinline int bl_dns_done(struct bl_dns_msg *m, int server_is_remote)
{
	struct bl_dns_ask a = {};

	if (!m)
		return 0;
	bl_dns_ask_of(&a, m, server_is_remote);
	bpf_map_delete_elem(&bl_dns_asks, &a);
	return 0;
}

/* Is the packet's server trusted at all? */
static __always_inline int bl_dns_known(struct bl_dns_msg *m, __u32 set, int server_is_remote)
{
	m->f.by[BL_ENFORCE] = 1;
	m->f.by[BL_AUDITED] = 1;
	return bl_dns_trust(m, set, server_is_remote);
}

/* A packet of a container's to a server: notes what is asked. */
static __always_inline void bl_dns_query(struct __sk_buff *skb, struct bl_dns_msg *m, __u64 top)
{
	__u32 set = bl_dns_set(top);

	if (!set || !bl_udp_parse(skb, 0, m))
		return;
	/* Docker sends what goes to its own server to another port. */
	if ((m->n.port != BL_DNS_PORT && !bl_net_is_loopback(m->n.addr)) || !bl_dns_known(m, set, 1))
		return;
	if (bl_dns_begin(skb, m->off, &m->q)) {
		bl_count(BL_E_DNS_PARSE);
		return;
	}
	if (!bl_dns_is_query(&m->q))
		return;
	bl_dns_find(skb, set, m);
	if (bl_dns_trust(m, set, 1))
		bl_dns_note(m, top);
}

/* An answer. top: who gets it; 0: on loopback, who asked. */
static __always_inline void bl_dns_answer(struct __sk_buff *skb, struct bl_dns_msg *m, __u64 top,
					  int server_is_remote)
{
	__u64 question, asker;
	__u32 set;

	if (bl_dns_begin(skb, m->off, &m->q)) {
		bl_count(BL_E_DNS_PARSE);
		return;
	}
	if (!bl_dns_is_answer(&m->q))
		return;
	asker = bl_dns_asker(m, server_is_remote);
	if (!asker || (top && asker != top))
		return;
	question = m->f.question;
	set = bl_dns_set(asker);
	if (!set)
		return;
	bl_dns_find(skb, set, m);
	if (m->f.question != question) {
		bl_count(BL_E_DNS_UNASKED);
		return;
	}
	if (!bl_dns_trust(m, set, server_is_remote))
		return;
	bl_dns_done(m, server_is_remote);
	bl_dns_take(skb, asker, m);
}

SEC("cgroup_skb/egress")
int bl_dns_egress(struct __sk_buff *skb)
{
	struct bl_dns_msg m = {};
	struct bpf_sock *sk;
	struct net *net;
	__u64 top;

	if (bl_dns_idle())
		return BL_CG_PASS;
	sk = skb->sk;
	if (!sk)
		return BL_CG_PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk || !bl_is_udp(sk))
		return BL_CG_PASS;
	top = bl_skb_container(skb, sk);
	if (!top && skb->ifindex != BL_LOOPBACK_IF)
		return BL_CG_PASS;
	net = bl_sk_net(sk);
	m.net = BPF_CORE_READ(net, ns.inum);
	if (top && !bl_net_nested(net, top))
		bl_dns_query(skb, &m, top);
	else if (!top && bl_sk_alive(sk) && bl_udp_parse(skb, 0, &m) && m.n.lport == BL_DNS_PORT && bl_net_is_loopback(m.n.laddr))
		bl_dns_answer(skb, &m, 0, 0);
	return BL_CG_PASS;
}

SEC("cgroup_skb/ingress")
int bl_dns_ingress(struct __sk_buff *skb)
{
	struct bl_dns_msg m = {};
	struct bpf_sock *sk;
	__u64 top;
	__u32 set;

	if (bl_dns_idle() || skb->ifindex == BL_LOOPBACK_IF || skb->pkt_type == BL_PACKET_LOOPBACK)
		return BL_CG_PASS;
	sk = skb->sk;
	if (!sk)
		return BL_CG_PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk || !bl_is_udp(sk))
		return BL_CG_PASS;
	top = bl_skb_container(skb, sk);
	set = top ? bl_dns_set(top) : 0;
	if (!set)
		return BL_CG_PASS;
	m.net = BPF_CORE_READ(bl_sk_net(sk), ns.inum);
	if (bl_udp_parse(skb, 1, &m) && m.n.port == BL_DNS_PORT && !bl_net_is_loopback(m.n.addr) &&
	    bl_dns_known(&m, set, 1))
		bl_dns_answer(skb, &m, top, 1);
	return BL_CG_PASS;
}
