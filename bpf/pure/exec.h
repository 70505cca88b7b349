/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * exec.h: what a container may execute or map as code. Pure: facts and a compiled
 * policy in, a decision out. The Go reference of the same logic is
 * internal/policy; internal/policy/policytest holds the suite that both, and the
 * kernel, must pass.
 */
#ifndef BL_PURE_EXEC_H
#define BL_PURE_EXEC_H

#include "types.h"
#include "../rules.h"

/* Facts about one exec or one executable mapping: bl_exec_facts.flags. */
#define BL_F_ROOT	0x0001	/* real or effective uid is uid 0 of the initial user namespace or of the container's own */
#define BL_F_NESTED	0x0002	/* real or effective uid is uid 0 of the task's user namespace, which is neither */
#define BL_F_INIT_TREE	0x0004	/* pid 1 of the container or its descendant, never an entered task */
#define BL_F_INIT_ROOT	0x0008	/* pid 1's real or effective uid is uid 0 now */
#define BL_F_FILE_CAPS	0x0010	/* the file's capabilities give the task permitted ones */
#define BL_F_UPPER	0x0020	/* the file lies in the container's writable layer */
#define BL_F_METADATA	0x0040	/* with BL_F_UPPER: only its metadata does */
#define BL_F_TMPFS	0x0080	/* memfd, tmpfs, ramfs, hugetlbfs */
#define BL_F_DELETED	0x0100	/* no name is left (also O_TMPFILE) */
#define BL_F_VOLUME	0x0200	/* on another file system than the root, mounted before the start */
#define BL_F_VOLUME_RO	0x0400	/* with BL_F_VOLUME: mounted read-only */
#define BL_F_MOUNTED	0x0800	/* mounted after the start, or a mount of another namespace */
#define BL_F_SSH_PROGRAM 0x1000	/* the file has the name of an SSH server */
#define BL_F_PATH_LOST	0x2000	/* the path could not be walked whole */
#define BL_F_MAPPING	0x4000	/* not an exec: a file mapped with PROT_EXEC; only drift, memfd and exec.deny apply */
#define BL_F_SHARED	0x10000	/* with BL_F_MAPPING: shared, as ld.so never maps what it runs */
#define BL_F_HELPER	0x8000	/* the inode is bound as a helper of the runtime: drift and memfd pass */

struct bl_exec_facts {
	__u32 flags;
	__u32 allow_bits;		/* allow lists that name the file */
	__u8 path_verdict[BL_SLOTS];	/* BL_DENY: a deny rule names the file */
	__u16 path_policy[BL_SLOTS];
	__u16 pad;
	__u64 age_ns;			/* since the container's first exec */
};

/* A decision. The zero value denies. */
struct bl_decision {
	__u8 verdict;	/* bl_verdict */
	__u8 rule;	/* bl_rule_id; BL_R_NONE if allowed */
	__u16 policy;
};

static __always_inline int bl_rule_on(const struct bl_rule *r)
{
	return r->verdict == BL_DENY;
}

static __always_inline int bl_root_matches(const struct bl_policy *p, int slot,
					   const struct bl_rule *r, const struct bl_exec_facts *f)
{
	if (!(f->flags & BL_F_ROOT) && !(f->flags & BL_F_NESTED && !(r->opt & BL_O_NESTED_ALLOW)))
		return 0;
	if (!(r->opt & BL_O_AFTER_START))
		return 1;
	return !(f->flags & BL_F_INIT_TREE && f->flags & BL_F_INIT_ROOT &&
		 f->age_ns < p->start_for_ns[slot]);
}

/* The tests are mutually independent; a file can match several. */
static __always_inline int bl_drift_matches(const struct bl_rule *r, const struct bl_exec_facts *f)
{
	if (f->flags & BL_F_HELPER)
		return 0;
	if (f->flags & BL_F_MOUNTED)
		return 1;
	if (f->flags & BL_F_UPPER && !(f->flags & BL_F_METADATA && r->opt & BL_O_METADATA))
		return 1;
	if (!(f->flags & BL_F_VOLUME) || r->opt & BL_O_VOLUMES)
		return 0;
	return !(r->opt & BL_O_VOLUMES_RO && f->flags & BL_F_VOLUME_RO);
}

/* The first rule of one slot that denies, in the order of this function; BL_R_NONE
 * if none does.
 */
static __always_inline __u32 bl_exec_slot(const struct bl_policy *p, int slot,
					  const struct bl_exec_facts *f, __u16 *policy)
{
	const struct bl_rule *r = p->rules[slot];
	__u32 missing;

	if (bl_rule_on(&r[BL_R_MEMFD]) && f->flags & (BL_F_TMPFS | BL_F_DELETED) &&
	    !(f->flags & BL_F_HELPER) &&
	    !(f->flags & BL_F_MAPPING && f->flags & BL_F_SHARED && r[BL_R_MEMFD].opt & BL_O_PROGRAMS)) {
		*policy = r[BL_R_MEMFD].policy;
		return BL_R_MEMFD;
	}
	if (bl_rule_on(&r[BL_R_DRIFT]) && bl_drift_matches(&r[BL_R_DRIFT], f)) {
		*policy = r[BL_R_DRIFT].policy;
		return BL_R_DRIFT;
	}
	if (f->flags & BL_F_MAPPING) {
		/* a denied program run by ld.so, or a denied library; what never had a path is
		 * the memfd rule's
		 */
		if (!bl_rule_on(&r[BL_R_PATH_DENY]) || f->flags & (BL_F_TMPFS | BL_F_DELETED))
			return BL_R_NONE;
		if (f->path_verdict[slot] == BL_DENY) {
			*policy = f->path_policy[slot];
			return BL_R_PATH_DENY;
		}
		if (!(f->flags & BL_F_PATH_LOST))
			return BL_R_NONE;
		*policy = r[BL_R_PATH_DENY].policy;
		return BL_R_PATH_DENY;
	}
	if (bl_rule_on(&r[BL_R_AS_ROOT]) && bl_root_matches(p, slot, &r[BL_R_AS_ROOT], f)) {
		*policy = r[BL_R_AS_ROOT].policy;
		return BL_R_AS_ROOT;
	}
	if (bl_rule_on(&r[BL_R_FILE_CAPS]) && f->flags & BL_F_FILE_CAPS) {
		*policy = r[BL_R_FILE_CAPS].policy;
		return BL_R_FILE_CAPS;
	}
	if (bl_rule_on(&r[BL_R_SSH_SERVER]) && f->flags & BL_F_SSH_PROGRAM) {
		*policy = r[BL_R_SSH_SERVER].policy;
		return BL_R_SSH_SERVER;
	}
	if (bl_rule_on(&r[BL_R_PATH_DENY])) {
		if (f->path_verdict[slot] == BL_DENY) {
			*policy = f->path_policy[slot];
			return BL_R_PATH_DENY;
		}
		if (f->flags & BL_F_PATH_LOST) {
			*policy = r[BL_R_PATH_DENY].policy;
			return BL_R_PATH_DENY;
		}
	}
	if (bl_rule_on(&r[BL_R_PATH_ALLOW])) {
		missing = p->allow_need[slot];
		if (!(f->flags & BL_F_PATH_LOST))
			missing &= ~f->allow_bits;
		if (missing) {
			/* verifier: all; a variable index needs the mask */
			*policy = p->allow_policy[bl_ctz(missing) & (BL_MAX_ALLOW_LISTS - 1)];
			return BL_R_PATH_ALLOW;
		}
	}
	return BL_R_NONE;
}

/* The decision on one exec or mapping: what the enforce slot denies is denied,
 * else what the audit slot denies is reported.
 */
static __always_inline struct bl_decision bl_exec_decide(const struct bl_policy *p,
							 const struct bl_exec_facts *f)
{
	struct bl_decision d = { .verdict = BL_ALLOW, .rule = BL_R_NONE };
	__u16 policy = 0;
	__u32 rule;

	rule = bl_exec_slot(p, BL_ENFORCE, f, &policy);
	if (rule != BL_R_NONE) {
		d.verdict = BL_DENY;
	} else {
		rule = bl_exec_slot(p, BL_AUDITED, f, &policy);
		if (rule == BL_R_NONE)
			return d;
		d.verdict = BL_AUDIT;
	}
	d.rule = rule;
	d.policy = policy;
	return d;
}

#endif
