/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * priv: Belay guards itself: bpf() could detach links and edit maps. And mounts made
 * after the start are noted for the drift rule.
 */
#include "facts.h"

static __always_inline int bl_bpf_call(void)
{
	struct bl_report r = {};
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct bl_policy *p;
	__u32 set = 0;
	int slot;

	if (!bl_inside(&w, &c))
		return 0;
	p = bl_policy_of(c, &set);
	if (!p)
		return -EPERM;
	if (p->rules[BL_ENFORCE][BL_R_BPF].verdict == BL_DENY)
		slot = BL_ENFORCE;
	else if (p->rules[BL_AUDITED][BL_R_BPF].verdict == BL_DENY)
		slot = BL_AUDITED;
	else
		return 0;
	r.who = &w;
	r.c = c;
	r.p = p;
	r.d.rule = BL_R_BPF;
	r.d.policy = p->rules[slot & 1][BL_R_BPF].policy;
	r.set = set;
	r.type = BL_EV_BPF;
	r.hook = BL_H_BPF;
	r.decided = slot == BL_ENFORCE ? BL_DENIED : BL_WOULD_DENY;
	bl_emit(&r);
	return slot == BL_ENFORCE ? -EPERM : 0;
}

SEC("lsm/bpf")
int BPF_PROG(bl_lsm_bpf, int cmd, union bpf_attr *attr, unsigned int size)
{
	return bl_bpf_call();
}

SEC("fmod_ret/security_bpf")
int BPF_PROG(bl_mod_bpf, int cmd, union bpf_attr *attr, unsigned int size)
{
	return bl_bpf_call();
}

/* include/uapi/linux/mount.h. In the order of path_mount: MS_REMOUNT makes no mount; then
 * MS_BIND does, whatever else is set; then MS_UNBINDABLE, PRIVATE, SLAVE and SHARED do not.
 */
#define BL_MS_REMOUNT	32
#define BL_MS_BIND	4096
#define BL_MS_PROPAGATE	(1 << 17 | 1 << 18 | 1 << 19 | 1 << 20)

static __always_inline int bl_mounting(unsigned long flags)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (flags & BL_MS_REMOUNT || (flags & BL_MS_PROPAGATE && !(flags & BL_MS_BIND)))
		return 0;
	if (bl_confined(&w, &c) && c)
		c->mounted_after = 1;
	return 0;
}

SEC("lsm/sb_mount")
int BPF_PROG(bl_lsm_mount, const char *dev, const struct path *path, const char *type,
	     unsigned long flags, void *data)
{
	return bl_mounting(flags);
}

SEC("fmod_ret/security_sb_mount")
int BPF_PROG(bl_mod_mount, const char *dev, const struct path *path, const char *type,
	     unsigned long flags, void *data)
{
	return bl_mounting(flags);
}

SEC("lsm/move_mount")
int BPF_PROG(bl_lsm_move_mount, const struct path *from, const struct path *to)
{
	return bl_mounting(0);
}

SEC("fmod_ret/security_move_mount")
int BPF_PROG(bl_mod_move_mount, const struct path *from, const struct path *to)
{
	return bl_mounting(0);
}
