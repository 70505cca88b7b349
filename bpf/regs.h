/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * regs.h: the registers with which a task entered the kernel, on each architecture.
 */
#ifndef BL_REGS_H
#define BL_REGS_H

struct pt_regs___x86 {
	unsigned long bx, cx, dx, si, di;
	unsigned long orig_ax;
} __attribute__((preserve_access_index));

struct pt_regs___arm64 {
	__u64 regs[31];
	__u64 orig_x0;
	__s32 syscallno;
} __attribute__((preserve_access_index));

struct thread_info___x86 {
	__u32 status;
} __attribute__((preserve_access_index));

struct thread_info___arm64 {
	unsigned long flags;
} __attribute__((preserve_access_index));

struct task_struct___x86 {
	struct thread_info___x86 thread_info;
} __attribute__((preserve_access_index));

struct task_struct___arm64 {
	struct thread_info___arm64 thread_info;
} __attribute__((preserve_access_index));

#define BL_TS_COMPAT	0x0002	/* arch/x86/include/asm/thread_info.h */
#define BL_TIF_32BIT	22	/* arch/arm64/include/asm/thread_info.h */
#define BL_X32_BIT	0x40000000	/* arch/x86/include/uapi/asm/unistd.h */

static __always_inline int bl_is_x86(void)
{
	return bpf_core_field_exists(struct pt_regs___x86, orig_ax);
}

static __always_inline int bl_is_32(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (bl_is_x86())
		return !!(((struct task_struct___x86 *)task)->thread_info.status & BL_TS_COMPAT);
	return !!(((struct task_struct___arm64 *)task)->thread_info.flags & 1UL << BL_TIF_32BIT);
}

/* The number of the call that current is in. Of what a task puts above 32 bits the kernel takes no
 * notice.
 */
static __always_inline __u32 bl_call(void)
{
	void *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());

	if (bl_is_x86())
		return BPF_CORE_READ((struct pt_regs___x86 *)regs, orig_ax) & ~BL_X32_BIT;
	return BPF_CORE_READ((struct pt_regs___arm64 *)regs, syscallno);
}

/* Is current in a call of the mount family that has no hook? Those that there are since 5.2 have one
 * number on all architectures, and ask for CAP_SYS_ADMIN before they do anything.
 */
static __always_inline int bl_mount_call(void)
{
	switch (bl_call()) {
	case 428:	/* open_tree: asked for clones alone */
	case 430:	/* fsopen */
	case 432:	/* fsmount */
	case 433:	/* fspick */
	case 442:	/* mount_setattr */
	case 467:	/* open_tree_attr */
		return 1;
	}
	return 0;
}

/* Is current in ioctl(2)? 514: x32's. */
static __always_inline int bl_ioctl_call(void)
{
	__u32 call = bl_call();

	if (bl_is_32())
		return call == 54;
	return bl_is_x86() ? call == 16 || call == 514 : call == 29;
}

/* In an ioctl(2) other than PIDFD_GET_MNT_NAMESPACE (include/uapi/linux/pidfd.h), which is judged as access to a
 * process? nsfs goes by the number of a request alone, whatever its type, until 6.18.
 */
static __always_inline int bl_ns_ioctl(void)
{
	void *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct pt_regs___arm64 *a = regs;
	struct pt_regs___x86 *x = regs;
	__u32 request;

	if (!bl_ioctl_call())
		return 0;
	if (bl_is_x86())
		request = bl_is_32() ? BPF_CORE_READ(x, cx) : BPF_CORE_READ(x, si);
	else
		request = BPF_CORE_READ(a, regs[1]);
	return request != 0xff03;
}

/* In open_by_handle_at(2)? */
static __always_inline int bl_handle_call(void)
{
	__u32 call = bl_call();

	if (bl_is_x86())
		return call == (bl_is_32() ? 342 : 304);
	return call == (bl_is_32() ? 371 : 265);
}

/* Where the arguments of the exec that current is in lie: the argv of execve or execveat. 0:
 * this is neither (a helper that the kernel starts).
 */
static __always_inline __u64 bl_exec_argv(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	void *regs = (void *)bpf_task_pt_regs(task);
	struct pt_regs___arm64 *a = regs;
	struct pt_regs___x86 *x = regs;

	if (!bl_is_x86()) {
		switch (BPF_CORE_READ(a, syscallno)) {
		case 221: return bl_is_32() ? 0 : BPF_CORE_READ(a, regs[1]);	/* execve */
		case 281: return bl_is_32() ? 0 : BPF_CORE_READ(a, regs[2]);	/* execveat */
		case 11: return bl_is_32() ? BPF_CORE_READ(a, regs[1]) : 0;
		case 387: return bl_is_32() ? BPF_CORE_READ(a, regs[2]) : 0;
		}
		return 0;
	}
	if (bl_is_32()) {
		switch ((__u32)BPF_CORE_READ(x, orig_ax)) {
		case 11: return (__u32)BPF_CORE_READ(x, cx);
		case 358: return (__u32)BPF_CORE_READ(x, dx);
		}
		return 0;
	}
	switch ((__u32)BPF_CORE_READ(x, orig_ax) & ~BL_X32_BIT) {
	case 59: case 520: return BPF_CORE_READ(x, si);
	case 322: case 545: return BPF_CORE_READ(x, dx);
	}
	return 0;
}

#endif
