/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * files: what a container may do to its files beside opening and truncating them, which
 * file.bpf.c judges. The path hooks see the acts of programs only, not overlayfs's own on
 * the layers below, and know the mount.
 */
#include "files.h"

/* An act on a name in a directory. */
static __always_inline int bl_files_name(const struct path *dir, struct dentry *d, __u32 acts,
					 __u8 hook)
{
	struct path path = {};
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (!bl_files_used() || !bl_inside(&w, &c))
		return 0;
	path.mnt = dir->mnt;
	path.dentry = d;
	return bl_files_act(&w, c, &path, NULL, acts, hook);
}

#define BL_FILES_NAME(id, hook, acts, number, ...)					\
SEC("lsm/path_" #hook)									\
int BPF_PROG(bl_lsm_##id, const struct path *dir, struct dentry *dentry, ##__VA_ARGS__)	\
{											\
	return bl_files_name(dir, dentry, acts, number);				\
}											\
											\
SEC("fmod_ret/security_path_" #hook)							\
int BPF_PROG(bl_mod_##id, const struct path *dir, struct dentry *dentry, ##__VA_ARGS__)	\
{											\
	return bl_files_name(dir, dentry, acts, number);				\
}

BL_FILES_NAME(f_unlink, unlink, BL_A_DELETE, BL_H_DELETE)
BL_FILES_NAME(f_rmdir, rmdir, BL_A_DELETE, BL_H_DELETE)
BL_FILES_NAME(f_mkdir, mkdir, BL_A_CREATE, BL_H_CREATE, unsigned short mode)
BL_FILES_NAME(f_mknod, mknod, BL_A_CREATE, BL_H_CREATE, unsigned short mode, unsigned int dev)
BL_FILES_NAME(f_symlink, symlink, BL_A_CREATE | BL_A_KEEP, BL_H_SYMLINK, const char *old_name)

/* Both ends keep their names, or get none that is denied. One question for both: a record
 * names the old one.
 */
static __always_inline int bl_files_two(const struct path *old_dir, struct dentry *from,
					const struct path *new_dir, struct dentry *to,
					__u32 from_acts, __u32 to_acts, __u8 hook)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct bl_files_ask q = { .w = &w };
	struct path path = {};
	int go;

	if (!bl_files_used() || !bl_inside(&w, &c))
		return 0;
	q.c = c;
	go = bl_files_ask(&q, from_acts | to_acts);
	if (go <= 0)
		return go;
	path.mnt = old_dir->mnt;
	path.dentry = from;
	bl_files_judge(&q, &path, from_acts);
	if (!(q.hit & BL_ACTS)) {
		__u32 before = q.hit;

		path.mnt = new_dir->mnt;
		path.dentry = to;
		bl_files_judge(&q, &path, to_acts);
		if (q.hit == before) {
			path.mnt = old_dir->mnt;
			path.dentry = from;
		}
	}
	return bl_files_verdict(&q, &path, hook);
}

SEC("lsm/path_rename")
int BPF_PROG(bl_lsm_f_rename, const struct path *old_dir, struct dentry *old_dentry,
	     const struct path *new_dir, struct dentry *new_dentry, unsigned int flags)
{
	return bl_files_two(old_dir, old_dentry, new_dir, new_dentry,
			    bl_acts_from(flags & RENAME_EXCHANGE), bl_acts_to(), BL_H_RENAME);
}

SEC("fmod_ret/security_path_rename")
int BPF_PROG(bl_mod_f_rename, const struct path *old_dir, struct dentry *old_dentry,
	     const struct path *new_dir, struct dentry *new_dentry, unsigned int flags)
{
	return bl_files_two(old_dir, old_dentry, new_dir, new_dentry,
			    bl_acts_from(flags & RENAME_EXCHANGE), bl_acts_to(), BL_H_RENAME);
}

/* The old name's mount is the new one's: link(2) does not cross mounts. */
SEC("lsm/path_link")
int BPF_PROG(bl_lsm_f_link, struct dentry *old_dentry, const struct path *new_dir,
	     struct dentry *new_dentry)
{
	return bl_files_two(new_dir, old_dentry, new_dir, new_dentry, BL_A_LINK,
			    BL_A_CREATE, BL_H_LINK);
}

SEC("fmod_ret/security_path_link")
int BPF_PROG(bl_mod_f_link, struct dentry *old_dentry, const struct path *new_dir,
	     struct dentry *new_dentry)
{
	return bl_files_two(new_dir, old_dentry, new_dir, new_dentry, BL_A_LINK,
			    BL_A_CREATE, BL_H_LINK);
}

static __always_inline int bl_files_attributes(const struct path *path)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (!bl_files_used() || !bl_inside(&w, &c))
		return 0;
	return bl_files_act(&w, c, path, NULL, BL_A_ATTRIBUTES, BL_H_ATTRIBUTES);
}

SEC("lsm/path_chmod")
int BPF_PROG(bl_lsm_f_chmod, const struct path *path)
{
	return bl_files_attributes(path);
}

SEC("fmod_ret/security_path_chmod")
int BPF_PROG(bl_mod_f_chmod, const struct path *path)
{
	return bl_files_attributes(path);
}

SEC("lsm/path_chown")
int BPF_PROG(bl_lsm_f_chown, const struct path *path)
{
	return bl_files_attributes(path);
}

SEC("fmod_ret/security_path_chown")
int BPF_PROG(bl_mod_f_chown, const struct path *path)
{
	return bl_files_attributes(path);
}

/* ioctl(2) changes flags of an inode, and what verity and encryption make of them, by a descriptor
 * that was opened for reading.
 */
static __always_inline int bl_files_ioctl(struct file *file, unsigned int cmd)
{
	if (!bl_sets_flags(cmd))
		return 0;
	return bl_files_attributes(__builtin_preserve_access_index(&file->f_path));
}

#define BL_FILES_IOCTL(id, hook)							\
SEC("lsm/" #hook)									\
int BPF_PROG(bl_lsm_f_##id, struct file *file, unsigned int cmd, unsigned long arg)	\
{											\
	return bl_files_ioctl(file, cmd);						\
}											\
											\
SEC("fmod_ret/security_" #hook)								\
int BPF_PROG(bl_mod_f_##id, struct file *file, unsigned int cmd, unsigned long arg)	\
{											\
	return bl_files_ioctl(file, cmd);						\
}

BL_FILES_IOCTL(ioctl, file_ioctl)
BL_FILES_IOCTL(ioctl32, file_ioctl_compat)	/* since 6.8; before, file_ioctl */

/* Is a dentry at or below another? Deeper than BL_DEPTH it is: the walk then says that it is lost. */
__noinline int bl_below(__u64 dentry, __u64 top)
{
	struct dentry *d = (void *)dentry, *up;
	__u32 i;

	for (i = 0; i < BL_DEPTH; i++) {
		if ((__u64)d == top)
			return 1;
		up = BPF_CORE_READ(d, d_parent);
		if (up == d)
			return 0;
		d = up;
	}
	return 1;
}

/* The places where a container has an object of a file system mounted. */
#define BL_PLACES	4
#define BL_MOUNTS_MAX	16384

struct bl_places {
	__u64 head, at;		/* of the file system's list of mounts; at 0: it broke while it was read */
	__u64 dentry;
	__u64 mnt[BL_PLACES];
	__u32 ns, n;		/* n may be BL_PLACES + 1: more than are looked at */
};

static long bl_find_place(__u32 turn, struct bl_places *s)
{
	struct mount *m = (void *)s->at - bpf_core_field_offset(struct mount, mnt_instance);

	if (!s->at || s->at == s->head || s->n > BL_PLACES)
		return 1;
	if (BPF_CORE_READ(m, mnt_ns, ns.inum) == s->ns && bl_below(s->dentry, (__u64)BPF_CORE_READ(m, mnt.mnt_root))) {
		if (s->n < BL_PLACES)
			s->mnt[s->n & (BL_PLACES - 1)] = (__u64)m + bpf_core_field_offset(struct mount, mnt);
		s->n++;
	}
	s->at = (__u64)BPF_CORE_READ(m, mnt_instance.next);
	return 0;
}

/* Finds them. Returns 0 if not all could be. */
static __always_inline int bl_find_places(const struct path *path, struct bl_places *s)
{
	/* verifier: all; a kernel pointer is no number to a global function, one that was read is */
	struct dentry *d = BPF_CORE_READ(path, dentry);
	int i;

	s->dentry = (__u64)d;
	s->head = (__u64)BPF_CORE_READ(d, d_sb) + bpf_core_field_offset(struct super_block, s_mounts);
	for (i = 0; i < BL_RACES; i++) {
		s->n = 0;
		s->at = (__u64)BPF_CORE_READ(d, d_sb, s_mounts.next);
		bpf_loop(BL_MOUNTS_MAX, bl_find_place, s, 0);
		if (s->at)
			return s->at == s->head && s->n <= BL_PLACES;
	}
	return 0;
}

/* Times, extended attributes and ACLs: no path hook, so no mount. On the root file system none is
 * needed; elsewhere the object is judged at each place where the container has it mounted.
 */
static __always_inline int bl_files_dentry(struct dentry *d)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct bl_files_ask q = { .w = &w };
	struct path path = { .dentry = d };
	struct bl_places s = {};
	int go, all;
	__u32 i;

	if (!bl_files_used() || !bl_inside(&w, &c))
		return 0;
	q.c = c;
	go = bl_files_ask(&q, BL_A_ATTRIBUTES);
	if (go <= 0)
		return go;
	if (bl_on_root(c, d)) {
		bl_files_judge(&q, &path, BL_A_ATTRIBUTES);
		return bl_files_verdict(&q, NULL, BL_H_ATTRIBUTES);
	}
	/* What overlayfs does to its layers. And kernels that do not tell: docs/kernel-support.md. */
	if (bl_lent(t->cred, c) || !bpf_core_field_exists(struct mount, mnt_instance) ||
	    !bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_loop))
		return 0;
	s.ns = bl_files_ns(c);
	all = bl_find_places(&path, &s);
	for (i = 0; i < BL_PLACES && i < s.n; i++) {
		path.mnt = (void *)s.mnt[i];
		bl_files_judge(&q, &path, BL_A_ATTRIBUTES);
	}
	/* On none of its mounts: the container has taken that away, unless it is the kernel's own or a layer
	 * of an overlay that was mounted inside.
	 */
	if (!s.n && !(BPF_CORE_READ(d, d_sb, s_flags) & SB_KERNMOUNT) &&
	    (__u64)t->cred == (__u64)t->real_cred)
		all = 0;
	if (!all) {
		bl_count(BL_E_PATH_DEPTH);
		bl_files_lost(&q, BL_A_ATTRIBUTES);
	}
	return bl_files_verdict(&q, NULL, BL_H_ATTRIBUTES);
}

#define BL_FILES_DENTRY(hook)								\
SEC("lsm/inode_" #hook)									\
int BPF_PROG(bl_lsm_f_##hook, void *idmap, struct dentry *dentry)			\
{											\
	return bl_files_dentry(dentry);							\
}											\
											\
SEC("fmod_ret/security_inode_" #hook)							\
int BPF_PROG(bl_mod_f_##hook, void *idmap, struct dentry *dentry)			\
{											\
	return bl_files_dentry(dentry);							\
}

BL_FILES_DENTRY(setxattr)
BL_FILES_DENTRY(removexattr)
BL_FILES_DENTRY(set_acl)	/* since 6.2; before, setxattr */
BL_FILES_DENTRY(remove_acl)

/* Times alone: mode, owner and size have path hooks. */
static __always_inline int bl_files_times(struct dentry *d, struct iattr *attr)
{
	__u32 valid = BPF_CORE_READ(attr, ia_valid);

	if (!(valid & (ATTR_ATIME | ATTR_MTIME)) ||
	    valid & (ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_SIZE))
		return 0;
	return bl_files_dentry(d);
}

BL_SETATTR(f_setattr, bl_files_times(dentry, attr))

/* Mappings for file rules. Programs of their own, beside those of file.bpf.c on the same hooks.
 * verifier: < 6.3; rejects both judgements in one program as too large; delete at minimum 6.3
 */
static __always_inline int bl_files_mmap(struct file *file, unsigned long prot, int shared,
					 __u8 hook)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (!file || !bl_files_used() || !bl_inside(&w, &c))
		return 0;
	return bl_files_mapped(&w, c, file, prot, shared, hook);
}

SEC("lsm/mmap_file")
int BPF_PROG(bl_lsm_f_mmap, struct file *file, unsigned long reqprot, unsigned long prot,
	     unsigned long flags)
{
	return bl_files_mmap(file, prot, !!(flags & MAP_SHARED), BL_H_MMAP);
}

SEC("fmod_ret/security_mmap_file")
int BPF_PROG(bl_mod_f_mmap, struct file *file, unsigned long prot, unsigned long flags)
{
	return bl_files_mmap(file, prot, !!(flags & MAP_SHARED), BL_H_MMAP);
}

SEC("lsm/file_mprotect")
int BPF_PROG(bl_lsm_f_mprotect, struct vm_area_struct *vma, unsigned long reqprot,
	     unsigned long prot)
{
	return bl_files_mmap(vma->vm_file, prot, !!(BPF_CORE_READ(vma, vm_flags) & VM_SHARED),
			     BL_H_MPROTECT);
}

SEC("fmod_ret/security_file_mprotect")
int BPF_PROG(bl_mod_f_mprotect, struct vm_area_struct *vma, unsigned long reqprot,
	     unsigned long prot)
{
	return bl_files_mmap(vma->vm_file, prot, !!(BPF_CORE_READ(vma, vm_flags) & VM_SHARED),
			     BL_H_MPROTECT);
}
