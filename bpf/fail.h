/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * fail.h: every internal failure goes through here: it is counted, and the caller
 * gets a verdict that does not depend on luck.
 */
#ifndef BL_FAIL_H
#define BL_FAIL_H

#include "maps.h"

enum bl_code {
#define BL_CODE(number, name, verdict, meaning) BL_E_##name = number,
#include "codes.def"
#undef BL_CODE
};

static __always_inline void bl_count(__u32 code)
{
	__u64 *n = bpf_map_lookup_elem(&bl_errs, &code);

	if (n)
		(*n)++;
}

/* The verdict of a policy at a failure: deny unless the policy says allow. */
static __always_inline __u8 bl_fail(const struct bl_policy *p, __u32 code)
{
	bl_count(code);
	return p && p->fail == BL_ALLOW ? BL_ALLOW : BL_DENY;
}

#endif
