/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * uses.h: which opens tell that a package is in use, by the end of the file's name.
 */
#ifndef BL_PURE_USES_H
#define BL_PURE_USES_H

#include "types.h"

enum bl_use {
	BL_USE_NONE = 0,
	BL_USE_EXECUTED = 1,
	BL_USE_MAPPED = 2,	/* as code */
	BL_USE_ARCHIVE = 3,	/* opened: code that another program reads, told file by file */
	BL_USE_SCRIPT = 4,	/* opened: source or bytecode, of which a package has many: told by directories */
};

/* Four bytes at a place in a name, the last in the highest. low: the aligned word in which they begin, high:
 * the next.
 */
static __always_inline __u32 bl_name_end(__u64 low, __u64 high, __u32 at)
{
	__u32 shift = (at & 7) * 8;

	return shift > 32 ? low >> shift | high << (64 - shift) : low >> shift;
}

#define BL_END(a, b, c, d) ((__u32)(a) | (__u32)(b) << 8 | (__u32)(c) << 16 | (__u32)(d) << 24)

/* What opening a file whose name ends so tells. */
static __always_inline __u32 bl_use_named(__u32 end)
{
	if ((end & 0xff) != '.' && (end >> 8 & 0xff) != '.')
		return BL_USE_NONE;
	switch (end) {
	case BL_END('.', 'j', 'a', 'r'):
	case BL_END('.', 'w', 'a', 'r'):
	case BL_END('.', 'e', 'a', 'r'):
	case BL_END('.', 'd', 'l', 'l'):
		return BL_USE_ARCHIVE;
	case BL_END('.', 'p', 'y', 'c'):
	case BL_END('.', 'm', 'j', 's'):
	case BL_END('.', 'c', 'j', 's'):
	case BL_END('.', 'p', 'h', 'p'):
		return BL_USE_SCRIPT;
	}
	switch (end >> 8) {
	case BL_END('.', 'p', 'y', 0):
	case BL_END('.', 'j', 's', 0):
	case BL_END('.', 'r', 'b', 0):
		return BL_USE_SCRIPT;
	}
	return BL_USE_NONE;
}

#endif
