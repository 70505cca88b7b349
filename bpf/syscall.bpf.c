/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * syscall: --signal-syscalls. Under the signal backend no hook sees a file being mapped or
 * opened; this looks at what a system call has done when it is over, and kills. It makes
 * every system call of the host slower, confined or not, so it is an option.
 *
 * What it cannot see: what io_uring opens, renames and links, whose names are gone by
 * then, and what ipc(2) attaches, of which a 32-bit program is not told the address by the
 * call's result. A thread can use what another has mapped or opened until the signal arrives,
 * and put another file in the place of a descriptor that was just opened.
 */
#include "host.h"

enum bl_sys {
	BL_SYS_OTHER = 0,
	BL_SYS_OPEN = 1,	/* returns a descriptor */
	BL_SYS_MAP = 2,		/* returns an address */
	BL_SYS_PROTECT = 3,	/* (address, length, protection) */
	BL_SYS_REMAP = 4,	/* (address, length, ...) */
};

/* arch/x86/entry/syscalls/syscall_64.tbl */
static __always_inline enum bl_sys bl_sys_x86_64(__u32 nr)
{
	switch (nr & ~BL_X32_BIT) {
	case 2: case 85: case 257: case 304: case 437:	/* open, creat, openat, open_by_handle_at, openat2 */
		return BL_SYS_OPEN;
	case 9: case 30:	/* mmap, shmat */
		return BL_SYS_MAP;
	case 10: case 329:	/* mprotect, pkey_mprotect */
		return BL_SYS_PROTECT;
	case 216:	/* remap_file_pages */
		return BL_SYS_REMAP;
	}
	return BL_SYS_OTHER;
}

/* arch/x86/entry/syscalls/syscall_32.tbl, arch/arm64/tools/syscall_32.tbl */
static __always_inline enum bl_sys bl_sys_32(__u32 nr, int arm)
{
	switch (nr) {
	case 5: case 8: case 437:	/* open, creat, openat2 */
		return BL_SYS_OPEN;
	case 295: case 342:	/* openat, open_by_handle_at */
		return arm ? BL_SYS_OTHER : BL_SYS_OPEN;
	case 322: case 371:
		return arm ? BL_SYS_OPEN : BL_SYS_OTHER;
	case 90: case 192:	/* mmap, mmap2 */
		return BL_SYS_MAP;
	case 305: case 397:	/* shmat */
		return arm == (nr == 305) ? BL_SYS_MAP : BL_SYS_OTHER;
	case 253: case 257:	/* remap_file_pages */
		return arm == (nr == 253) ? BL_SYS_REMAP : BL_SYS_OTHER;
	case 125:	/* mprotect */
		return BL_SYS_PROTECT;
	case 380:	/* pkey_mprotect */
		return arm ? BL_SYS_OTHER : BL_SYS_PROTECT;
	case 394:
		return arm ? BL_SYS_PROTECT : BL_SYS_OTHER;
	}
	return BL_SYS_OTHER;
}

/* include/uapi/asm-generic/unistd.h */
static __always_inline enum bl_sys bl_sys_generic(__u32 nr)
{
	switch (nr) {
	case 56: case 265: case 437:	/* openat, open_by_handle_at, openat2 */
		return BL_SYS_OPEN;
	case 222: case 196:	/* mmap, shmat */
		return BL_SYS_MAP;
	case 226: case 288:	/* mprotect, pkey_mprotect */
		return BL_SYS_PROTECT;
	case 234:	/* remap_file_pages */
		return BL_SYS_REMAP;
	}
	return BL_SYS_OTHER;
}

static __always_inline enum bl_sys bl_sys_kind(struct pt_regs *regs)
{
	if (bl_is_x86()) {
		__u32 nr = ((struct pt_regs___x86 *)regs)->orig_ax;

		return bl_is_32() ? bl_sys_32(nr, 0) : bl_sys_x86_64(nr);
	}
	if (bpf_core_field_exists(struct pt_regs___arm64, syscallno)) {
		__u32 nr = ((struct pt_regs___arm64 *)regs)->syscallno;

		return bl_is_32() ? bl_sys_32(nr, 1) : bl_sys_generic(nr);
	}
	return BL_SYS_OTHER;
}

/* The mappings that a system call may have made code. */
struct bl_call {
	__u64 at;
	__u64 end;
	__u32 hook;
};

/* The addresses that a call was told first: (address, length, ...). Returns its third argument. */
static __always_inline unsigned long bl_sys_range(struct pt_regs *regs, struct bl_call *c)
{
	if (bl_is_x86()) {
		struct pt_regs___x86 *x = (void *)regs;

		c->at = bl_is_32() ? (__u32)x->bx : x->di;
		c->end = c->at + (bl_is_32() ? (__u32)x->cx : x->si);
		return x->dx;
	} else {
		struct pt_regs___arm64 *a = (void *)regs;

		c->at = a->orig_x0;
		c->end = c->at + a->regs[1];
		return a->regs[2];
	}
}

/* One mapping at a time of those that a system call may have made executable. */
struct bl_span {
	__u64 at;
	__u64 next;	/* 0: there is none */
	__u64 file;	/* 0: not code of a file */
	__u32 shared;
	int err;
};

static long bl_seen_vma(struct task_struct *task, struct vm_area_struct *vma, struct bl_span *s)
{
	s->next = vma->vm_end;
	if (vma->vm_flags & VM_EXEC)
		s->file = (__u64)BPF_CORE_READ(vma, vm_file);
	s->shared = !!(vma->vm_flags & VM_SHARED);
	return 0;
}

static long bl_try_vma(__u32 i, struct bl_span *s)
{
	s->err = bpf_find_vma(bpf_get_current_task_btf(), s->at, bl_seen_vma, s, 0);
	return s->err != -EBUSY;	/* another thread is changing mappings: again */
}

/* Judges a file that is mapped as code. It is only read by probing: a thread that unmaps it
 * meanwhile has no use of it any more. verifier: 6.1; in a function of its own for the stack.
 */
__noinline int bl_seen_code(__u64 file, __u32 shared, __u32 hook, __u64 container)
{
	struct bl_who w = { .container = container, .state = BL_ARMED };
	struct bl_container *c = bpf_map_lookup_elem(&bl_containers, &container);

	return bl_map_code(&w, c, (struct file *)file, shared, hook, 1);
}

/* verifier: 6.1; what follows are functions of their own for the stack of the one below. */
__noinline __u64 bl_armed_container(void)
{
	struct bl_container *c = NULL;
	struct bl_who w = {};

	return bl_confined(&w, &c) ? w.container : 0;
}

__noinline int bl_vma_failed(void)
{
	struct bl_container *c = NULL;
	struct bl_who w = {};
	__u32 set = 0;

	if (bl_confined(&w, &c) && bl_fail(bl_policy_of(c, &set), BL_E_VMA_BUSY) == BL_DENY)
		bl_kill();
	return 0;
}

#define BL_VMA_TRIES	8192
#define BL_VMAS		64	/* mappings that one mprotect makes executable, and that are looked at */

static __always_inline int bl_seen_map(const struct bl_call *c)
{
	struct bl_span s = { .at = c->at };
	__u64 container = bl_armed_container();
	int i;

	if (!container)
		return 0;
	for (i = 0; i < BL_VMAS; i++) {
		if (s.at >= c->end)
			return 0;
		s.next = 0;
		s.file = 0;
		bpf_loop(BL_VMA_TRIES, bl_try_vma, &s, 0);
		if (s.err == -EBUSY)
			break;
		if (s.file && bl_seen_code(s.file, s.shared, c->hook, container))
			return 0;	/* killed */
		if (s.next <= s.at)	/* a hole: what lies behind it was not changed */
			return 0;
		s.at = s.next;
	}
	return bl_vma_failed();
}

/* The file of a descriptor; NULL: closed by another thread. */
static __always_inline struct file *bl_fd_file(__u32 fd)
{
	struct fdtable *fdt = BPF_CORE_READ(bpf_get_current_task_btf(), files, fdt);
	struct file *file = NULL, **fds;

	if (fd >= BPF_CORE_READ(fdt, max_fds))
		return NULL;
	fds = BPF_CORE_READ(fdt, fd);
	if (bpf_probe_read_kernel(&file, sizeof(file), fds + fd))
		return NULL;
	return file;
}

/* A descriptor was opened: of a key? */
__noinline int bl_seen_open(__u32 fd)
{
	struct bl_container *c = NULL;
	struct bl_who w = {};
	struct file *file;

	if (!bl_inside(&w, &c))
		return 0;
	file = bl_fd_file(fd);
	if (file)
		bl_key_opened(&w, c, file, 1);
	return 0;
}

/* Of a file of the host's, for writing? */
__noinline int bl_seen_host(__u32 fd)
{
	struct bl_container *c = NULL;
	struct bl_who w = {};
	struct file *file;
	__u32 rules;

	if (!bl_host_inside(&w, &c))
		return 0;
	file = bl_fd_file(fd);
	rules = file ? bl_host_written(file) : 0;
	if (rules)
		bl_host_judge(&w, c, rules, __builtin_preserve_access_index(&file->f_path),
			      BL_H_FILE_OPEN, 1);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(bl_sys_exit, struct pt_regs *regs, long ret)
{
	struct bl_call call = {};

	switch (bl_sys_kind(regs)) {
	case BL_SYS_OPEN:
		if (ret >= 0) {
			bl_seen_open(ret);
			bl_seen_host(ret);
		}
		return 0;
	case BL_SYS_MAP:
		/* The result of a 32-bit call is an address above 2 GiB, negative or not. */
		if (bl_is_32())
			ret = (__u32)ret;
		if (ret > -4096 && ret < 0)
			return 0;
		call.at = ret;
		call.end = (__u64)ret + 1;
		call.hook = BL_H_MMAP;
		break;
	case BL_SYS_PROTECT:	/* also if it failed: it may have come half way */
		call.hook = BL_H_MPROTECT;
		if (!bl_code_prot(bl_sys_range(regs, &call)))
			return 0;
		break;
	case BL_SYS_REMAP:
		call.hook = BL_H_MMAP;
		bl_sys_range(regs, &call);
		break;
	default:
		return 0;
	}
	return bl_seen_map(&call);
}
