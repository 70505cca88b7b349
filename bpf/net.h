/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * net.h: what the programs for sockets share.
 */
#ifndef BL_NET_H
#define BL_NET_H

#include "facts.h"
#include "pure/net.h"
#include <bpf/bpf_endian.h>

/* What a cgroup program returns. */
#define BL_CG_DENY	0
#define BL_CG_PASS	1

/* Both ends of a connection, as far as known. Addresses as in bl_event. */
struct bl_ends {
	__u32 addr[4];
	__u32 laddr[4];
	__u16 port;
	__u16 lport;
	__u16 family;
	__u16 proto;
};

static __always_inline void bl_map_ip4(__u32 *to, __be32 ip)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = ip;
}

/* The network namespace of a socket. verifier: all; refuses arithmetic on a socket's pointer: read
 * as a number.
 */
static __always_inline struct net *bl_sk_net(struct bpf_sock *sk)
{
	__u64 at = 0;

	if (bpf_probe_read_kernel(&at, sizeof(at), &sk))
		return NULL;
	return BPF_CORE_READ((struct sock *)at, __sk_common.skc_net.net);
}

/* The policy of a container, by its cgroup id. NULL: see bl_net_decide. */
static __always_inline struct bl_policy *bl_net_policy(__u64 top, struct bl_container **c,
						       __u32 *set)
{
	*c = bpf_map_lookup_elem(&bl_containers, &top);
	if (!*c)
		bl_count(BL_E_CONTAINER_GONE);
	return bl_policy_of(*c, set);
}

/* Does a slot's list of destinations hold the remote address and port?
 * verifier: all; global, so that its loop is verified once.
 */
__noinline int bl_ssh_listed(__u32 set, __u32 slot, const struct bl_ends *n)
{
	struct bl_ssh_key key = { .prefixlen = 64 + 128, .set = set, .slot = slot };
	struct bl_ssh_ports *v;
	__u32 i;

	if (!n)
		return 0;
	__builtin_memcpy(key.addr, n->addr, sizeof(key.addr));
	v = bpf_map_lookup_elem(&bl_ssh_to, &key);
	if (!v)
		return 0;
	if (!v->n)
		return 1;
	for (i = 0; i < BL_SSH_PORTS; i++)
		if (i < v->n && v->port[i] == n->port)
			return 1;
	return 0;
}

static __always_inline void bl_list_facts(const struct bl_policy *p, __u32 set,
					  const struct bl_ends *n, struct bl_net_facts *f)
{
	int slot;

	for (slot = 0; slot < BL_SLOTS; slot++)
		if (p && bl_rule_on(&p->rules[slot][BL_R_SSH_CLIENT]) &&
		    p->rules[slot][BL_R_SSH_CLIENT].opt & BL_O_SSH_TO)
			f->listed[slot] = bl_ssh_listed(set, slot, n) != 0;
}

static __always_inline struct bl_event *bl_net_event(struct bl_container *c, __u64 top,
						     const struct bl_policy *p, __u32 set,
						     const struct bl_decision *d,
						     const struct bl_ends *n, __u8 hook, __u8 decided)
{
	struct bl_event *e = bl_event_new(decided != BL_ALLOWED, c, top, BL_EV_NET);

	if (!e)
		return NULL;
	e->decided = decided;
	e->rule = d->rule;
	e->policy = d->policy;
	e->hook = hook;
	e->set = set;
	e->revision = p ? p->revision : 0;
	e->family = n->family;
	e->proto = n->proto;
	e->port = n->port;
	e->lport = n->lport;
	__builtin_memcpy(e->addr, n->addr, sizeof(e->addr));
	__builtin_memcpy(e->laddr, n->laddr, sizeof(e->laddr));
	return e;
}

static __always_inline __u8 bl_net_decided(const struct bl_decision *d)
{
	return d->verdict == BL_DENY ? BL_DENIED : BL_WOULD_DENY;
}

#endif
