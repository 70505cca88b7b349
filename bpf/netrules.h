/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * netrules.h: what the rules of the section network say, by two tries: one over addresses and
 * one over ports. The cost does not depend on how many rules there are.
 */
#ifndef BL_NETRULES_H
#define BL_NETRULES_H

#include "net.h"
#include "priv.h"

/* The end that a rule is about: see bl_net_dir. */
struct bl_peer {
	__u32 addr[4];	/* IPv4 as ::ffff:a.b.c.d */
	__u16 proto;	/* see bl_net_proto */
	__u16 port;
	__u32 blind;	/* the port is not known */
	__u32 standing;	/* of what was let pass before: names whose time is over count */
	__u64 top;	/* the container */
};

/* Protocols that are another's on the wire, or for what a rule means by it. */
static __always_inline __u16 bl_net_proto(__u32 proto)
{
	switch (proto) {
	case IPPROTO_MPTCP:
		return IPPROTO_TCP;
	case 136:	/* UDP-Lite */
		return BL_NEXT_UDP;
	case BL_NEXT_ICMP6:
		return 1;
	}
	return proto;
}

/* Is there no set with rules on packets or ports? Asked first of all, by every program on them. */
static __always_inline int bl_net_idle(void)
{
	struct bl_config *cfg = bl_config();

	return cfg && cfg->abi == BL_ABI && !cfg->net;
}

/* Is an address open for a name that lets pass under a condition? slot: set << 1 | slot.
 * verifier: all; global, so that it is verified once.
 */
__noinline int bl_dns_is_open(__u32 slot, __u32 cond, const struct bl_peer *q)
{
	struct bl_name_rule rule = { .set = slot, .cond = cond };
	__u64 now = bpf_ktime_get_boot_ns(), until;
	struct bl_dns_addr key = {};
	struct bl_dns_open *o;
	int i;

	if (!q)
		return 0;
	key.container = q->top;
	__builtin_memcpy(key.addr, q->addr, sizeof(key.addr));
	o = bpf_map_lookup_elem(&bl_dns_addrs, &key);
	if (!o)
		return 0;
	for (i = 0; i < BL_DNS_NAMES; i++) {
		rule.name = o->by[i].name;
		until = o->by[i].until_ns;
		if (!rule.name || (!q->standing && (__s64)(now - until) >= 0))
			continue;
		if (!bpf_map_lookup_elem(&bl_name_rules, &rule))
			continue;
		/* last: see bl_dns_addrs */
		asm volatile("" ::: "memory");
		if (o->key.container == key.container && !__builtin_memcmp(o->key.addr, key.addr, sizeof(key.addr)))
			return 1;
	}
	return 0;
}

/* What one slot's rule says of an end: verdict | policy << 16; a verdict of zero denies.
 * verifier: all; global, so that it is verified once.
 */
__noinline __u64 bl_net_judge(__u32 set, __u32 kind, const struct bl_peer *q)
{
	struct bl_net_key key = { .prefixlen = 64 + 128, .set = set, .kind = kind };
	struct bl_port_key pk = { .prefixlen = 96, .set = set };
	struct bl_port_rule *r;
	struct bl_net_addr *a;
	__u64 verdict, policy;
	__u32 cond;

	if (!q)
		return BL_DENY;
	__builtin_memcpy(key.addr, q->addr, sizeof(key.addr));
	a = bpf_map_lookup_elem(&bl_net_addrs, &key);
	if (!a) {
		bl_count(BL_E_NET_GONE);
		return BL_DENY;
	}
	verdict = a->verdict;
	policy = a->policy;
	cond = a->cond;
	if (a->list) {
		if (q->blind)	/* the port matters */
			return BL_DENY | policy << 16;
		pk.list = a->list;
		pk.proto = bpf_htons(q->proto);
		pk.port = bpf_htons(q->port);
		r = bpf_map_lookup_elem(&bl_net_ports, &pk);
		if (r) {
			verdict = r->verdict;
			policy = r->policy;
			cond = r->cond;
		}
	}
	if (verdict != BL_ALLOW && cond && bl_dns_is_open(set << 1 | (kind & 1), cond, q))
		return BL_ALLOW;
	return verdict | policy << 16;
}

/* The decision of both slots on one direction. p is NULL when a container's policy cannot be
 * found: denied.
 */
static __always_inline struct bl_decision bl_net_ask(const struct bl_policy *p, __u32 set, __u32 dir,
						      const struct bl_peer *q)
{
	struct bl_decision d = { .verdict = BL_ALLOW, .rule = BL_R_NONE };
	__u32 rule = BL_R_EGRESS + dir, slot;
	__u64 v;

	if (!p) {
		d.verdict = BL_DENY;
		d.rule = rule;
		return d;
	}
	for (slot = 0; slot < BL_SLOTS; slot++) {
		if (!bl_rule_on(&p->rules[slot][rule & (BL_R_MAX - 1)]))
			continue;
		v = bl_net_judge(set, dir << 1 | slot, q);
		if ((v & 0xff) == BL_ALLOW)
			continue;
		d.verdict = slot == BL_ENFORCE ? BL_DENY : BL_AUDIT;
		d.rule = rule;
		d.policy = v >> 16;
		return d;
	}
	return d;
}

/* Does a policy have any rule on packets? */
static __always_inline int bl_net_on(const struct bl_policy *p)
{
	int slot;

	for (slot = 0; slot < BL_SLOTS; slot++)
		if (bl_rule_on(&p->rules[slot][BL_R_EGRESS]) || bl_rule_on(&p->rules[slot][BL_R_INGRESS]) ||
		    bl_rule_on(&p->rules[slot][BL_R_LISTEN]) || bl_rule_on(&p->rules[slot][BL_R_RAW_SOCKETS]))
			return 1;
	return 0;
}

static __always_inline int bl_net_is_mapped(const __u32 *a)
{
	return !a[0] && !a[1] && a[2] == bpf_htonl(0xffff);
}

/* Loopback, and the unspecified address, by which a caller means loopback too. */
static __always_inline int bl_net_is_loopback(const __u32 *a)
{
	if (bl_net_is_mapped(a))
		return (a[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000) || !a[3];
	return !a[0] && !a[1] && !a[2] && (!a[3] || a[3] == bpf_htonl(1));
}

/* Is a socket's loopback another than the host's? The socket is asked, and not who uses it or what the
 * container began with: a task can make a socket in one namespace and take it to another.
 */
static __always_inline int bl_net_own(struct bpf_sock *sk)
{
	return bl_not_host_net(BPF_CORE_READ(bl_sk_net(sk), ns.inum));
}

static __always_inline void bl_net_peer(struct bl_peer *q, const struct bl_ends *n, __u32 dir)
{
	__builtin_memcpy(q->addr, n->addr, sizeof(q->addr));
	q->proto = n->proto;
	q->port = dir == BL_NET_EGRESS ? n->port : n->lport;
	if (dir == BL_NET_BOUND)
		__builtin_memset(q->addr, 0, sizeof(q->addr));
}

/* The decision that is stricter. */
static __always_inline struct bl_decision bl_net_stricter(struct bl_decision a, struct bl_decision b)
{
	if (a.verdict == BL_DENY || b.verdict == BL_ALLOW)
		return a;
	return b.verdict == BL_DENY || a.verdict == BL_ALLOW ? b : a;
}

#define BL_ASK(dir)	(1 << (dir))
#define BL_ASK_BLIND	8	/* the ports are not known */
#define BL_ASK_STANDING	16	/* it was let pass under other rules */

/* The strictest decision on several directions, BL_ASK bits: verdict | rule << 8 | policy << 16.
 * verifier: all; global, so that it is verified once.
 */
__noinline __u64 bl_net_asks(const struct bl_policy *p, __u32 set, __u32 dirs, const struct bl_ends *n,
			     __u64 top)
{
	struct bl_decision d = { .verdict = BL_ALLOW, .rule = BL_R_NONE };
	struct bl_peer q = { .blind = dirs & BL_ASK_BLIND, .standing = dirs & BL_ASK_STANDING, .top = top };
	__u32 dir;

	if (!p || !n)
		return BL_DENY | BL_R_EGRESS << 8;
	for (dir = BL_NET_EGRESS; dir <= BL_NET_BOUND; dir++) {
		if (!(dirs & BL_ASK(dir)) || d.verdict == BL_DENY)
			continue;
		bl_net_peer(&q, n, dir);
		d = bl_net_stricter(d, bl_net_ask(p, set, dir, &q));
	}
	return d.verdict | d.rule << 8 | (__u64)d.policy << 16;
}

/* A record of an act of current, which is in a container. The record has no path of the
 * program: walking one needs task storage.
 */
static __always_inline void bl_net_tell(struct bl_container *c, __u64 top, const struct bl_policy *p,
					__u32 set, const struct bl_decision *d,
					const struct bl_ends *n, __u8 hook)
{
	struct bl_event *e = bl_net_event(c, top, p, set, d, n, hook, bl_net_decided(d));

	if (!e)
		return;
	bl_put_task(e, bpf_get_current_task_btf());
	bpf_ringbuf_submit(e, 0);
}

static __always_inline void bl_flow_key_of(struct bl_flow_key *k, __u64 top, const struct bl_ends *n)
{
	k->container = top;
	__builtin_memcpy(k->addr, n->addr, sizeof(k->addr));
	k->port = n->port;
	k->lport = n->lport;
	k->proto = n->proto;
	k->pad = 0;
}

#define BL_FLOW_NS	(120 * 1000000000ULL)	/* an exchange is over after this silence */
#define BL_FLOW_TELL_NS	1000000000ULL		/* a refused one is reported as often as this */

/* Has so much time passed since then? Another CPU may have set then later than this one's now. */
static __always_inline int bl_net_past(__u64 now, __u64 then, __u64 ns)
{
	return (__s64)(now - then) > (__s64)ns;
}

/* The entry of an exchange, NULL if there is none that still counts. */
static __always_inline struct bl_flow *bl_flow_get(const struct bl_flow_key *k, __u64 now)
{
	struct bl_flow *f = bpf_map_lookup_elem(&bl_flows, k);

	return f && bl_net_past(now, f->seen_ns, BL_FLOW_NS) ? NULL : f;
}

static __always_inline void bl_flow_put(const struct bl_flow_key *k, __u32 set, int in, __u64 now)
{
	struct bl_flow f = { .seen_ns = now, .set = set, .in = in };

	if (bpf_map_update_elem(&bl_flows, k, &f, BPF_ANY))
		bl_count(BL_E_FLOW);
}

/* The entry of a refused exchange, NULL if there is none of these rules. */
static __always_inline struct bl_flow *bl_refusal_get(const struct bl_flow_key *k, __u32 set, __u64 now)
{
	struct bl_flow *f = bpf_map_lookup_elem(&bl_refused, k);

	return f && (f->set != set || bl_net_past(now, f->seen_ns, BL_FLOW_NS)) ? NULL : f;
}

/* Notes a refusal; in: the exchange is the other end's, and nothing is said of what the
 * container may send.
 */
static __always_inline void bl_refuse(const struct bl_flow_key *k, __u32 set, int in, __u64 now)
{
	struct bl_flow f = { .seen_ns = now, .set = set, .in = in };

	if (bpf_map_update_elem(&bl_refused, k, &f, BPF_ANY))
		bl_count(BL_E_FLOW);
}

#define BL_TOLD_MAX	64	/* records in a second of what comes in to one container */

/* May another such record be made? Who sends from outside could flood the ring. A record too
 * many, when two CPUs begin a second at once, does no harm.
 */
static __always_inline int bl_net_may_tell(__u64 top, __u64 now)
{
	struct bl_told fresh = { .since_ns = now }, *t = bpf_map_lookup_elem(&bl_tolds, &top);

	if (!t) {
		bpf_map_update_elem(&bl_tolds, &top, &fresh, BPF_ANY);
		return 1;
	}
	if (bl_net_past(now, t->since_ns, BL_FLOW_TELL_NS)) {
		t->since_ns = now;
		t->n = 0;
	}
	if (__sync_fetch_and_add(&t->n, 1) < BL_TOLD_MAX)
		return 1;
	bl_count(BL_E_NET_MUTED);
	return 0;
}

#endif
