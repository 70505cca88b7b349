/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * uses.h: tells which files of its root a container executes, maps as code and opens as code, so that user
 * space knows which packages are in use. It decides nothing, and nothing waits for it.
 */
#ifndef BL_USES_H
#define BL_USES_H

#include "emit.h"
#include "pure/ssh_names.h"
#include "pure/uses.h"

#define BL_USE_AGAIN_NS	(3600ULL * 1000000000)

/* The last four bytes of a name, 0 if it has fewer. Names of fewer than 32 are in the entry itself, and since 6.8 those of
 * fewer than 40, of which the words below know the first 32 bytes.
 */
static __always_inline __u32 bl_file_end(struct dentry *d)
{
	__u32 len = d->d_name.len, end = 0;

	if (len < sizeof(end))
		return 0;
	if (!bpf_core_field_exists(d->d_iname) || len >= 32 || len >= bpf_core_field_size(d->d_iname)) {
		bpf_probe_read_kernel(&end, sizeof(end), d->d_name.name + len - sizeof(end));
		return end;
	}
	len -= sizeof(end);
	switch (len / 8) {
	case 0:
		return bl_name_end(*(__u64 *)d->d_iname, *(__u64 *)(d->d_iname + 8), len);
	case 1:
		return bl_name_end(*(__u64 *)(d->d_iname + 8), *(__u64 *)(d->d_iname + 16), len);
	case 2:
		return bl_name_end(*(__u64 *)(d->d_iname + 16), *(__u64 *)(d->d_iname + 24), len);
	}
	return bl_name_end(*(__u64 *)(d->d_iname + 24), 0, len);
}

/* verifier: all; its answer is any number to a caller, and what follows is not verified once for each */
__noinline __u32 bl_use_of_end(__u32 end)
{
	return bl_use_named(end);
}

/* What an open of a file tells of use, by its name alone. A task that no program has stored anything for is
 * the host's, as in bl_label; a thread of a container that has no label yet opens nothing that is told.
 */
static __always_inline __u32 bl_use_of_open(struct file *file)
{
	__u32 end = 0;

	if (bpf_get_current_task_btf()->bpf_storage)
		end = bl_file_end(file->f_path.dentry);
	return bl_use_of_end(end);
}

/* Is it a file that is read, and not a folder or one that is written? */
static __always_inline int bl_use_reads(struct file *file)
{
	return (file->f_mode & (FMODE_READ | FMODE_WRITE)) == FMODE_READ &&
	       (file->f_path.dentry->d_inode->i_mode & S_IFMT) == S_IFREG;
}

/* Is a directory one of many packages of Python, each of which can be a single file of it? */
static __always_inline int bl_python_shared(struct dentry *dir)
{
	char name[16] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(dir, d_name.name));
	if (BL_IS(name, "__pycache__")) {
		__builtin_memset(name, 0, sizeof(name));
		bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(dir, d_parent, d_name.name));
	}
	return BL_IS(name, "site-packages") || BL_IS(name, "dist-packages");
}

/* Tells of a file, the first time in an hour: of scripts the first of a directory. use: enum bl_use.
 * Verified once: it comes after all that a decision can be.
 */
__noinline int bl_note_path(struct bl_container *c, __u64 cgroup, __u64 mnt, __u64 dentry, __u32 use)
{
	struct bl_use_key key = { .container = cgroup, .use = use };
	struct dentry *d = (void *)dentry, *named = d;
	__u64 now = bpf_ktime_get_boot_ns(), *told;
	struct bl_scratch *s;
	struct bl_event *e;

	if (!c || c->class != BL_CLASS_CONTAINER || c->started != 2)
		return 0;
	key.dev = BPF_CORE_READ(d, d_sb, s_dev);
	if (key.dev != c->root_dev)
		return 0;
	if (use == BL_USE_SCRIPT) {
		named = BPF_CORE_READ(d, d_parent);
		if (bl_python_shared(named))
			named = d;
	}
	key.ino = BPF_CORE_READ(named, d_inode, i_ino);
	told = bpf_map_lookup_elem(&bl_used, &key);
	if (told && now - *told < BL_USE_AGAIN_NS)
		return 0;
	/* scripts are many, and leave half the ring to what says that a package is not in use */
	if (use == BL_USE_SCRIPT && bpf_ringbuf_query(&bl_uses, BPF_RB_AVAIL_DATA) > BL_USES_BYTES / 2) {
		bl_count(BL_E_USE_SCRIPTS);
		return 0;
	}
	bpf_map_update_elem(&bl_used, &key, &now, BPF_ANY);
	e = bpf_ringbuf_reserve(&bl_uses, sizeof(*e), 0);
	if (!e) {
		bl_count(use == BL_USE_SCRIPT ? BL_E_USE_SCRIPTS : BL_E_USE_RING);
		bpf_map_delete_elem(&bl_used, &key);
		return 0;
	}
	/* all but the data: its lengths say what of it is valid */
	__builtin_memset(e, 0, offsetof(struct bl_event, ancestor));
	e->version = BL_EVENT_VERSION;
	e->type = BL_EV_USED;
	e->decided = BL_ALLOWED;
	e->rule = BL_R_NONE;
	e->hook = use == BL_USE_EXECUTED ? BL_H_EXEC : use == BL_USE_MAPPED ? BL_H_MMAP : BL_H_FILE_OPEN;
	e->time_ns = now;
	e->cgroup = cgroup;
	e->exe_ino = BPF_CORE_READ(d, d_inode, i_ino);
	e->exe_dev = key.dev;
	__builtin_memcpy(e->id, c->id, sizeof(e->id));
	s = bl_scratch_get();
	if (s) {
		e->exe_len = bl_put_place(s, e, 0, mnt, dentry);
		bl_scratch_put(s);
	} else {
		e->flags |= BL_E_PATH_CUT;	/* which file it was nobody knows */
	}
	bpf_ringbuf_submit(e, 0);
	return 0;
}

static __always_inline void bl_note_use(struct bl_container *c, __u64 cgroup, struct file *file, __u32 use)
{
	bl_note_path(c, cgroup, (__u64)BPF_CORE_READ(file, f_path.mnt), (__u64)BPF_CORE_READ(file, f_path.dentry), use);
}

#endif
