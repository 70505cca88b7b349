/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * cgroup_name.h: which cgroup is a container's. The names are those that the
 * runtimes give; the client chooses the parent's path, so only the cgroup's own
 * name (and, for build steps, its parent's) is read.
 *
 *   <64 hex>                       docker, containerd/CRI, CRI-O, podman; cgroupfs driver
 *   docker-<64 hex>.scope          docker; systemd driver
 *   cri-containerd-<64 hex>.scope  containerd/CRI
 *   crio-<64 hex>.scope            CRI-O
 *   libpod-<64 hex>.scope          podman
 *   crio-<64 hex>, libpod-<64 hex> the same with the cgroupfs driver
 *   …-conmon-<64 hex>.scope        the monitor of CRI-O or podman: no container
 *   buildkit/<25 of a-z0-9>        a build step of BuildKit
 */
#ifndef BL_PURE_CGROUP_NAME_H
#define BL_PURE_CGROUP_NAME_H

#include "types.h"

#define BL_CGNAME	96	/* longest name that can be a container's, and its end */
#define BL_ID_HEX	64

enum bl_cgname {
	BL_CG_OTHER = 0,
	BL_CG_CONTAINER = 1,
	BL_CG_BUILD = 2,
};

/* The value of a lower-case hexadecimal digit, BL_NO_HEX for any other byte. A table,
 * so that 64 digits make no 2^64 paths for the verifier.
 */
#define BL_NO_HEX 0x80
#define X BL_NO_HEX
static const __u8 bl_hex[256] = {
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	0, 1, 2, 3, 4, 5, 6, 7, 8, 9, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, 10, 11, 12, 13, 14, 15, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
	X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
};
#undef X

static __always_inline int bl_is_buildkit(const char *p)
{
	return p[0] == 'b' && p[1] == 'u' && p[2] == 'i' && p[3] == 'l' && p[4] == 'd' &&
	       p[5] == 'k' && p[6] == 'i' && p[7] == 't' && p[8] == 0;
}

/* The part of a name that can hold an ID: the 8 bytes before it, zero where the name
 * has fewer, the 64 digits, and what follows. At fixed places, because older verifiers
 * follow no variable offsets into the stack.
 */
#define BL_WIN_ID	8
#define BL_WIN_END	(BL_WIN_ID + BL_ID_HEX)
#define BL_WIN		(BL_WIN_END + 8)

/* Where the ID would start in a name of len bytes; -1: too short or too long. last2: the
 * last byte but one, which is no digit in a name that ends in .scope.
 */
static __always_inline int bl_id_offset(__u32 len, char last2)
{
	if (len == BL_ID_HEX)
		return 0;
	if (len < BL_ID_HEX + 2 || len > BL_CGNAME - 1)
		return -1;
	if (last2 != 'p')
		return len - BL_ID_HEX;	/* prefix-<64 hex> */
	return len < BL_ID_HEX + 8 ? -1 : (int)len - BL_ID_HEX - 6;	/* prefix-<64 hex>.scope */
}

/* A build step? name: the cgroup's own, len bytes, at least 25 readable; parent: at least
 * 9 bytes readable.
 */
static __always_inline int bl_build_name(const char *name, __u32 len, const char *parent)
{
	__u32 i;

	if (len != 25 || !bl_is_buildkit(parent))
		return 0;
	for (i = 0; i < 25; i++)
		if (!((name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9')))
			return 0;
	return 1;
}

/* A container? len: of the whole name; win: see BL_WIN. id gets the 32 bytes of the ID. */
static __always_inline int bl_container_name(const char *win, __u32 len, __u8 *id)
{
	const char *before = win + BL_WIN_ID, *end = win + BL_WIN_END;
	__u8 hi, lo, bad = 0;
	__u32 i;

	if (len != BL_ID_HEX) {
		if (before[-1] != '-')
			return 0;
		if (end[0] && (end[0] != '.' || end[1] != 's' || end[2] != 'c' || end[3] != 'o' ||
			       end[4] != 'p' || end[5] != 'e' || end[6]))
			return 0;
		if (before[-7] == 'c' && before[-6] == 'o' && before[-5] == 'n' &&
		    before[-4] == 'm' && before[-3] == 'o' && before[-2] == 'n')
			return 0;
	}
	for (i = 0; i < BL_ID_HEX / 2; i++) {
		hi = bl_hex[(__u8)win[BL_WIN_ID + 2 * i]];
		lo = bl_hex[(__u8)win[BL_WIN_ID + 2 * i + 1]];
		bad |= hi | lo;
		id[i] = hi << 4 | lo;
	}
	return !(bad & BL_NO_HEX);
}

#endif
