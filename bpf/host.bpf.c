/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * host: what containers do to the files, mounts and BPF objects that host.h says are the
 * host's own. Acts on tasks are in priv.bpf.c.
 */
#include "host.h"

static __always_inline int bl_host_file(struct file *file, __u8 hook)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;
	__u32 rules;

	/* Reading is nobody's act here, and what most opens are for. */
	if ((!(file->f_mode & FMODE_WRITE) && !(file->f_flags & O_TRUNC)) || !bl_host_inside(&w, &c))
		return 0;
	rules = bl_host_written(file);
	if (!rules)
		return 0;
	return bl_host_verdict(&w, c, rules, __builtin_preserve_access_index(&file->f_path), hook);
}

static __always_inline int bl_host_flags(struct file *file, unsigned int cmd)
{
	return bl_sets_flags(cmd) ? bl_host_act(BPF_CORE_READ(file, f_path.mnt),
						BPF_CORE_READ(file, f_path.dentry), 0,
						BL_H_ATTRIBUTES) : 0;
}

/* verifier: 6.12; with lsm/ it must see for itself that this is no other number */
static __always_inline int bl_host_answer(int err)
{
	asm volatile("" : "+r"(err));
	return err ? -EPERM : 0;
}

/* One hook of both backends: the act, and the arguments that the hook has. */
#define BL_HOST_HOOK(id, hook, act, ...)						\
SEC("lsm/" #hook)									\
int BPF_PROG(bl_lsm_h_##id, __VA_ARGS__)						\
{											\
	return bl_host_answer(act);							\
}											\
											\
SEC("fmod_ret/security_" #hook)								\
int BPF_PROG(bl_mod_h_##id, __VA_ARGS__)						\
{											\
	return bl_host_answer(act);							\
}

BL_HOST_HOOK(open, file_open, bl_host_file(file, BL_H_FILE_OPEN), struct file *file)
BL_HOST_HOOK(receive, file_receive, bl_host_file(file, BL_H_RECEIVE), struct file *file)
BL_HOST_HOOK(create, inode_create, bl_host_act(NULL, d, 0, BL_H_CREATE),
	     struct inode *dir, struct dentry *d)
BL_HOST_HOOK(mkdir, inode_mkdir, bl_host_act(NULL, d, 0, BL_H_CREATE),
	     struct inode *dir, struct dentry *d)
BL_HOST_HOOK(mknod, inode_mknod, bl_host_act(NULL, d, 0, BL_H_CREATE),
	     struct inode *dir, struct dentry *d)
BL_HOST_HOOK(symlink, inode_symlink, bl_host_act(NULL, d, 0, BL_H_SYMLINK),
	     struct inode *dir, struct dentry *d)
BL_HOST_HOOK(unlink, inode_unlink, bl_host_act(NULL, d, 0, BL_H_DELETE),
	     struct inode *dir, struct dentry *d)
BL_HOST_HOOK(rmdir, inode_rmdir, bl_host_act(NULL, d, 1, BL_H_DELETE),
	     struct inode *dir, struct dentry *d)
BL_HOST_HOOK(truncate, path_truncate, bl_host_act(path->mnt, path->dentry, 0, BL_H_TRUNCATE),
	     const struct path *path)
BL_HOST_HOOK(chmod, path_chmod, bl_host_act(path->mnt, path->dentry, 0, BL_H_ATTRIBUTES),
	     const struct path *path)
BL_HOST_HOOK(chown, path_chown, bl_host_act(path->mnt, path->dentry, 0, BL_H_ATTRIBUTES),
	     const struct path *path)
BL_HOST_HOOK(setxattr, inode_setxattr, bl_host_act(NULL, d, 0, BL_H_ATTRIBUTES),
	     void *idmap, struct dentry *d)
BL_HOST_HOOK(removexattr, inode_removexattr, bl_host_act(NULL, d, 0, BL_H_ATTRIBUTES),
	     void *idmap, struct dentry *d)
BL_HOST_HOOK(set_acl, inode_set_acl, bl_host_act(NULL, d, 0, BL_H_ATTRIBUTES),
	     void *idmap, struct dentry *d)		/* since 6.2; before, setxattr */

BL_HOST_HOOK(ioctl, file_ioctl, bl_host_flags(file, cmd), struct file *file, unsigned int cmd)
BL_HOST_HOOK(ioctl32, file_ioctl_compat, bl_host_flags(file, cmd),
	     struct file *file, unsigned int cmd)	/* since 6.8; before, file_ioctl */

/* Times, and all that an overlay on top of the object does to it. */
BL_SETATTR(h_setattr, bl_host_answer(bl_host_act(NULL, dentry, 0, BL_H_ATTRIBUTES)))

static __always_inline int bl_host_two(struct dentry *from, struct dentry *to, __u32 above,
				       __u8 hook)
{
	int err = bl_host_act(NULL, from, above, hook);

	if (!err)
		err = bl_host_act(NULL, to, above, hook);
	return err;
}

BL_HOST_HOOK(rename, inode_rename, bl_host_two(from, to, 1, BL_H_RENAME),
	     struct inode *old_dir, struct dentry *from, struct inode *new_dir, struct dentry *to)
BL_HOST_HOOK(link, inode_link, bl_host_two(from, to, 0, BL_H_LINK),
	     struct dentry *from, struct inode *dir, struct dentry *to)

static __always_inline struct mount *bl_mount_of(const struct vfsmount *mnt)
{
	return (void *)mnt - bpf_core_field_offset(struct mount, mnt);
}

/* Is a mount or umount at a mount judged? What a runtime does on the way in, before anything ran
 * in the container's mounts, is the container's alone, unless it is done in the host's namespace
 * or spreads there.
 */
static __always_inline int bl_host_mounter(struct bl_who *w, struct bl_container **c,
					   struct mount *at)
{
	if (bl_host_inside(w, c))
		return 1;
	if (w->state != BL_ENTERING || (BPF_CORE_READ(at, mnt_ns, ns.inum) != bl_host_mnt &&
					!BPF_CORE_READ(at, mnt_group_id)))
		return 0;
	*c = bpf_map_lookup_elem(&bl_containers, &w->container);
	return 1;
}

/* Mounting over a guarded object or a directory above one. A remount or a change of propagation
 * covers nothing.
 */
static __always_inline int bl_host_mounting(const struct path *to, unsigned long flags, __u8 hook)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;
	__u32 rules;

	if (flags & BL_MS_REMOUNT || (flags & BL_MS_PROPAGATE && !(flags & BL_MS_BIND)) ||
	    !bl_host_mounter(&w, &c, bl_mount_of(BPF_CORE_READ(to, mnt))))
		return 0;
	rules = bl_host_rules((__u64)BPF_CORE_READ(to, dentry), 1);
	return rules ? bl_host_verdict(&w, c, rules, to, hook) : 0;
}

BL_HOST_HOOK(mount, sb_mount, bl_host_mounting(to, flags, BL_H_MOUNT),
	     const char *dev, const struct path *to, const char *type, unsigned long flags)

static __always_inline int bl_host_moving(const struct path *from, const struct path *to)
{
	int err = bl_host_act(from->mnt, from->dentry, 0, BL_H_MOVE_MOUNT);

	if (!err)
		err = bl_host_mounting(to, 0, BL_H_MOVE_MOUNT);
	return err;
}

BL_HOST_HOOK(move_mount, move_mount, bl_host_moving(from, to),
	     const struct path *from, const struct path *to)

/* Taking a guarded mount away; in the host's own namespace also one above such. */
static __always_inline int bl_host_umount(struct vfsmount *mnt)
{
	struct mount *real = bl_mount_of(mnt);
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct path path = {};
	__u32 rules;

	if (!bl_host_mounter(&w, &c, BPF_CORE_READ(real, mnt_parent)))
		return 0;
	rules = bl_host_rules((__u64)BPF_CORE_READ(mnt, mnt_root),
			      BPF_CORE_READ(real, mnt_ns, ns.inum) == bl_host_mnt);
	path.mnt = mnt;
	path.dentry = BPF_CORE_READ(mnt, mnt_root);
	return rules ? bl_host_verdict(&w, c, rules, &path, BL_H_UMOUNT) : 0;
}

BL_HOST_HOOK(umount, sb_umount, bl_host_umount(mnt), struct vfsmount *mnt)

BL_HOST_HOOK(bpf_map, bpf_map, bl_host_bpf_object(map->id, BL_HOST_MAP), struct bpf_map *map)
BL_HOST_HOOK(bpf_prog, bpf_prog, bl_host_bpf_object(prog->aux->id, BL_HOST_PROG),
	     struct bpf_prog *prog)
