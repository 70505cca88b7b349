/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * types.h: what the pure headers need when they are built as plain C. Under BPF
 * vmlinux.h and bpf_helpers.h have defined all of it already.
 */
#ifndef BL_PURE_TYPES_H
#define BL_PURE_TYPES_H

#ifndef __bpf__
#include <linux/types.h>
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#endif

/* Index of the lowest set bit; v is not zero. The BPF instruction set has none. */
static __always_inline __u32 bl_ctz(__u32 v)
{
	__u32 n = 0;

	if (!(v & 0xffff)) { n += 16; v >>= 16; }
	if (!(v & 0xff)) { n += 8; v >>= 8; }
	if (!(v & 0xf)) { n += 4; v >>= 4; }
	if (!(v & 0x3)) { n += 2; v >>= 2; }
	return n + !(v & 1);
}

#endif
