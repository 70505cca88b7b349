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

/* Is there no set with network rules? Asked first of all, by every program. */
static __always_inline int bl_net_idle(void)
{
	struct bl_config *cfg = bl_config();

	return cfg && cfg->abi == BL_ABI && !cfg->net;
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

	if (!q)
		return BL_DENY;
	__builtin_memcpy(key.addr, q->addr, sizeof(key.addr));
	a = bpf_map_lookup_elem(&bl_net_addrs, &key);
	if (!a) {
		bl_count(BL_E_NET_GONE);
		return BL_DENY;
	}
	if (!a->list)
		return a->verdict | (__u64)a->policy << 16;
	if (q->blind)	/* the port matters */
		return BL_DENY | (__u64)a->policy << 16;
	pk.list = a->list;
	pk.proto = bpf_htons(q->proto);
	pk.port = bpf_htons(q->port);
	r = bpf_map_lookup_elem(&bl_net_ports, &pk);
	if (r)
		return r->verdict | (__u64)r->policy << 16;
	return a->verdict | (__u64)a->policy << 16;
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

/* In the context of who acts: is its loopback its own? */
static __always_inline int bl_net_own(struct bl_container *c, struct task_struct *t)
{
	__u8 ns = bl_net_ns_of(t);

	if (c && c->net == BL_NET_UNKNOWN && c->started == 2)
		c->net = ns;
	return ns == BL_NET_OWN;
}

static __always_inline void bl_net_peer(struct bl_peer *q, const struct bl_ends *n, __u32 dir)
{
	__builtin_memcpy(q->addr, n->addr, sizeof(q->addr));
	q->proto = n->proto;
	q->port = dir == BL_NET_EGRESS ? n->port : n->lport;
	if (dir == BL_NET_BOUND)
		__builtin_memset(q->addr, 0, sizeof(q->addr));
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
#define BL_FLOW_TELL_NS	1000000000ULL		/* a denied one is reported as often as this */

/* The entry of an exchange, NULL if there is none that still counts. */
static __always_inline struct bl_flow *bl_flow_get(const struct bl_flow_key *k, int in, __u64 now)
{
	struct bl_flow *f = bpf_map_lookup_elem(&bl_flows, k);

	if (!f || now - f->seen_ns > (f->denied ? BL_FLOW_TELL_NS : BL_FLOW_NS))
		return NULL;
	if (f->denied && f->in != in)	/* says nothing of the other way */
		return NULL;
	return f;
}

static __always_inline void bl_flow_put(const struct bl_flow_key *k, __u32 set, int in, int denied,
					__u64 now)
{
	struct bl_flow f = { .seen_ns = now, .set = set, .in = in, .denied = denied };

	if (bpf_map_update_elem(&bl_flows, k, &f, BPF_ANY))
		bl_count(BL_E_FLOW);
}

#endif
