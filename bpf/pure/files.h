/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * files.h: which acts on a file there are, which rules are asked for a path, and which acts
 * they deny. The Go reference is FileActsDenied in internal/policy; test/contract compares.
 */
#ifndef BL_PURE_FILES_H
#define BL_PURE_FILES_H

#include "types.h"

/* The acts of one slot: BL_A_* below BL_A_SHIFT. */
#define BL_ACTS ((1U << BL_A_SHIFT) - 1)

/* What a descriptor can do: by an open, or by being handed in. trunc: O_TRUNC, which
 * changes a file that is opened for reading too.
 */
static __always_inline __u32 bl_acts_opened(int reads, int writes, int trunc)
{
	return (reads ? BL_A_READ : 0) | (writes || trunc ? BL_A_WRITE : 0);
}

/* Does an ioctl change flags or the like of an inode? By its type and number, which its size is no
 * part of: include/uapi/linux/fs.h, fsverity.h, fscrypt.h, and of ext4 and FAT.
 */
static __always_inline int bl_sets_flags(__u32 cmd)
{
	switch (cmd & 0xffff) {
	case 'f' << 8 | 2:	/* FS_IOC_SETFLAGS */
	case 'X' << 8 | 32:	/* FS_IOC_FSSETXATTR */
	case 'v' << 8 | 2:	/* FS_IOC_SETVERSION */
	case 'f' << 8 | 4:	/* EXT4_IOC_SETVERSION */
	case 'f' << 8 | 133:	/* FS_IOC_ENABLE_VERITY */
	case 'f' << 8 | 19:	/* FS_IOC_SET_ENCRYPTION_POLICY */
	case 'r' << 8 | 0x11:	/* FAT_IOCTL_SET_ATTRIBUTES */
		return 1;
	}
	return 0;
}

/* What a mapping can do: any access reads, and what is stored in a shared one is written. */
static __always_inline __u32 bl_acts_mapped(int any, int writes, int shared)
{
	return (any ? BL_A_READ : 0) | (writes && shared ? BL_A_WRITE : 0);
}

/* Of the name that a rename takes away. An exchange gives it another file. */
static __always_inline __u32 bl_acts_from(int exchange)
{
	return BL_A_RENAME | BL_A_DELETE | BL_A_KEEP | (exchange ? BL_A_CREATE | BL_A_WRITE : 0);
}

/* Of the name that it gives: what had it is deleted. */
static __always_inline __u32 bl_acts_to(void)
{
	return BL_A_CREATE | BL_A_DELETE | BL_A_WRITE | BL_A_RENAME | BL_A_KEEP;
}

/* Where a set has rules on directories. Bit i: TREE rules on some of i components, where those of
 * more than BL_DIRS_DEEP count as that many. BL_DIRS_CHILD: CHILD rules.
 */
#define BL_DIRS_DEEP	15
#define BL_DIRS_CHILD	(1U << (BL_DIRS_DEEP + 1))

/* Those of a set's file rules, from bl_policy.flags: a set that says nothing has all. */
static __always_inline __u32 bl_files_dirs(__u32 flags)
{
	return ~(flags >> BL_P_FLAT_SHIFT);
}

/* Which rules are asked when i of the n components of a path are taken in: bits
 * 1 << BL_PATH_EXACT, _TREE and _CHILD. dirs: BL_DIRS_*.
 */
static __always_inline __u32 bl_path_asks(__u32 i, __u32 n, __u32 dirs)
{
	if (i == n)
		return 1 << BL_PATH_EXACT;
	return (dirs >> (i < BL_DIRS_DEEP ? i : BL_DIRS_DEEP) & 1 ? 1 << BL_PATH_TREE : 0) |
	       (i + 1 == n && dirs & BL_DIRS_CHILD ? 1 << BL_PATH_CHILD : 0);
}

/* Which bit of bl_policy.read_names stands for a name. head: its first 8 bytes as they lie in memory,
 * of a shorter one with anything behind them.
 */
static __always_inline __u32 bl_name_bit(__u64 head, __u32 len)
{
	if (len < 8)
		head &= (1ULL << 8 * len) - 1;
	return (head + len) * 0x9e3779b97f4a7c15ULL >> 56;
}

/* Could a rule that denies reading end in this name? */
static __always_inline int bl_name_noted(const __u64 *names, __u64 head, __u32 len)
{
	__u32 bit = bl_name_bit(head, len);

	return names[bit >> 6] >> (bit & 63) & 1;
}

/* Which of the acts the rules found deny, in both slots. */
static __always_inline __u32 bl_acts_denied(__u32 found, __u32 acts)
{
	return found & (acts | acts << BL_A_SHIFT);
}

#endif
