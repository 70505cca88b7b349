/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * net.h: what the ssh.server and ssh.client rules say about a connect, a bind or
 * listen, and a stream that has turned out to be SSH. Pure: facts and a compiled
 * policy in, a decision out.
 */
#ifndef BL_PURE_NET_H
#define BL_PURE_NET_H

#include "exec.h"
#include "ssh_stream.h"

#define BL_SSH_PORT 22

enum bl_net_act {
	BL_NET_STREAM = 0,	/* the identification line was seen */
	BL_NET_CONNECT = 1,
	BL_NET_LISTEN = 2,	/* bind or listen */
};

struct bl_net_facts {
	__u8 act;			/* bl_net_act */
	__u8 mark;			/* of a stream: BL_SSH_ACCEPTED, BL_SSH_DIALLED */
	__u16 port;			/* of a connect the remote one, of a listen the local one */
	__u8 listed[BL_SLOTS];		/* bl_ssh_to of the slot has the remote address and port */
};

static __always_inline int bl_ssh_server_applies(__u8 mark)
{
	return (mark & BL_SSH_ENDS) != BL_SSH_DIALLED;
}

static __always_inline int bl_ssh_client_applies(__u8 mark)
{
	return (mark & BL_SSH_ENDS) != BL_SSH_ACCEPTED;
}

/* Has a slot a rule that could deny a stream with this mark? No policy at all: yes. */
static __always_inline int bl_ssh_applies(const struct bl_policy *p, int slot, __u8 mark)
{
	if (!p)
		return 1;
	return (bl_rule_on(&p->rules[slot][BL_R_SSH_SERVER]) && bl_ssh_server_applies(mark)) ||
	       (bl_rule_on(&p->rules[slot][BL_R_SSH_CLIENT]) && bl_ssh_client_applies(mark));
}

/* The rule that denies; BL_R_NONE: none. Both rules off: opt does not matter. */
static __always_inline __u32 bl_net_rule(int server, int client, int to, int listed,
					 const struct bl_net_facts *f)
{
	client = client && !(to && listed);
	if (f->act == BL_NET_LISTEN)
		return server && f->port == BL_SSH_PORT ? BL_R_SSH_SERVER : BL_R_NONE;
	if (f->act == BL_NET_CONNECT)
		return client && f->port == BL_SSH_PORT ? BL_R_SSH_CLIENT : BL_R_NONE;
	if (server && bl_ssh_server_applies(f->mark))
		return BL_R_SSH_SERVER;
	if (client && bl_ssh_client_applies(f->mark))
		return BL_R_SSH_CLIENT;
	return BL_R_NONE;
}

/* The decision: what the enforce slot denies is denied, else what the audit slot
 * denies is reported. p is NULL when a container's policy cannot be found: then both
 * rules are on, so that what they could have denied is denied, and nothing else.
 */
static __always_inline struct bl_decision bl_net_decide(const struct bl_policy *p,
							const struct bl_net_facts *f)
{
	struct bl_decision d = { .verdict = BL_ALLOW, .rule = BL_R_NONE };
	const struct bl_rule *r;
	__u32 rule;
	int slot;

	if (!p) {
		rule = bl_net_rule(1, 1, 0, 0, f);
		if (rule != BL_R_NONE) {
			d.verdict = BL_DENY;
			d.rule = rule;
		}
		return d;
	}
	for (slot = 0; slot < BL_SLOTS; slot++) {
		r = p->rules[slot];
		rule = bl_net_rule(bl_rule_on(&r[BL_R_SSH_SERVER]), bl_rule_on(&r[BL_R_SSH_CLIENT]),
				   r[BL_R_SSH_CLIENT].opt & BL_O_SSH_TO, f->listed[slot], f);
		if (rule == BL_R_NONE)
			continue;
		d.verdict = slot == BL_ENFORCE ? BL_DENY : BL_AUDIT;
		d.rule = rule;
		d.policy = r[rule & (BL_R_MAX - 1)].policy;
		return d;
	}
	return d;
}

#endif
