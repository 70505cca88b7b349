/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * file: files mapped as code (drift through ld.so, dlopen or mmap), SSH keys, and where
 * both meet on a hook, file rules (files.h).
 */
#include "priv.h"
#include "uses.h"

static __always_inline int bl_rule_used(const struct bl_policy *p, __u32 rule)
{
	return p->rules[BL_ENFORCE][rule & (BL_R_MAX - 1)].verdict == BL_DENY ||
	       p->rules[BL_AUDITED][rule & (BL_R_MAX - 1)].verdict == BL_DENY;
}

/* kill: the mapping exists already. */
static __always_inline int bl_map_code(struct bl_who *w, struct bl_container *c,
				       struct file *file, int shared, __u8 hook, int kill)
{
	struct bl_exec_facts f = { .flags = BL_F_MAPPING | (shared ? BL_F_SHARED : 0), .allow_bits = ~0U,
				   .path_verdict = { BL_ALLOW, BL_ALLOW } };
	struct bl_policy *p;
	struct bl_decision d;
	struct bl_report r = {};
	__u32 set = 0;

	p = bl_policy_of(c, &set);
	if (!p) {
		if (kill)
			bl_kill();
		return -EPERM;
	}
	if (!bl_rule_used(p, BL_R_DRIFT) && !bl_rule_used(p, BL_R_MEMFD) &&
	    !bl_rule_used(p, BL_R_PATH_DENY))
		return 0;
	r.object = bl_user_path(file);
	r.layer = bl_file_facts(c, r.object, &f);
	if (bl_rule_used(p, BL_R_PATH_DENY) && !(f.flags & (BL_F_TMPFS | BL_F_DELETED)))
		bl_path_facts(c, p, set, r.object, &f);
	d = bl_decision(p, &f);
	if (d.verdict == BL_ALLOW)
		return 0;
	r.who = w;
	r.c = c;
	r.p = p;
	r.d = d;
	r.set = set;
	r.file_flags = f.flags;
	r.type = BL_EV_MMAP;
	r.hook = hook;
	r.decided = d.verdict == BL_DENY ? BL_DENIED : BL_WOULD_DENY;
	if (kill && r.decided == BL_DENIED)
		r.decided = bl_kill();
	bl_emit(&r);
	return d.verdict == BL_DENY ? -EPERM : 0;
}

/* Does a protection that a program asks for make code? */
static __always_inline int bl_code_prot(unsigned long prot)
{
	return prot & PROT_EXEC ||
	       (prot & PROT_READ && bpf_get_current_task_btf()->personality & READ_IMPLIES_EXEC);
}

static __always_inline int bl_mmap(struct file *file, unsigned long prot, unsigned long flags)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;
	int ret;

	if (!file || !bl_code_prot(prot) || !bl_confined(&w, &c))
		return 0;
	ret = bl_map_code(&w, c, file, flags & MAP_SHARED, BL_H_MMAP, 0);
	if (!ret)
		bl_note_use(c, w.container, file, BL_USE_MAPPED);
	return ret;
}

static __always_inline int bl_mprotect(struct vm_area_struct *vma, unsigned long prot)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct file *file;

	if (!(prot & PROT_EXEC))
		return 0;
	file = vma->vm_file;
	if (!file || !bl_confined(&w, &c))
		return 0;
	return bl_map_code(&w, c, file, !!(BPF_CORE_READ(vma, vm_flags) & VM_SHARED), BL_H_MPROTECT, 0);
}

SEC("lsm/mmap_file")
int BPF_PROG(bl_lsm_mmap, struct file *file, unsigned long reqprot, unsigned long prot,
	     unsigned long flags)
{
	return bl_mmap(file, prot, flags);
}

SEC("fmod_ret/security_mmap_file")
int BPF_PROG(bl_mod_mmap, struct file *file, unsigned long prot, unsigned long flags)
{
	return bl_mmap(file, prot, flags);
}

SEC("lsm/file_mprotect")
int BPF_PROG(bl_lsm_mprotect, struct vm_area_struct *vma, unsigned long reqprot,
	     unsigned long prot)
{
	return bl_mprotect(vma, prot);
}

SEC("fmod_ret/security_file_mprotect")
int BPF_PROG(bl_mod_mprotect, struct vm_area_struct *vma, unsigned long reqprot,
	     unsigned long prot)
{
	return bl_mprotect(vma, prot);
}

/* What a dentry is to the keys rule: BL_KEY_*. m: the mount it was reached by, NULL if that
 * is not known; a volume mounted on .ssh has no directory of that name itself.
 */
static __always_inline int bl_key_dentry(struct dentry *d, struct vfsmount *m)
{
	char name[BL_KEY_NAME] = {}, dir[BL_KEY_NAME] = {}, tail[4] = {};
	const char *src = (const char *)BPF_CORE_READ(d, d_name.name);
	__u32 len = BPF_CORE_READ(d, d_name.len);
	struct mount *real;
	struct dentry *up;

	bpf_probe_read_kernel_str(name, sizeof(name), src);
	if (len >= sizeof(tail))
		bpf_probe_read_kernel(tail, sizeof(tail), src + len - sizeof(tail));
	up = BPF_CORE_READ(d, d_parent);
	if (m && up == d && !(BPF_CORE_READ(d, d_sb, s_flags) & SB_NOUSER) &&
	    d != BPF_CORE_READ(m, mnt_root))
		return BL_KEY_PRIVATE | BL_KEY_AUTHORIZED;	/* opened by handle: it has no name */
	if (m && up == BPF_CORE_READ(m, mnt_root)) {
		real = (void *)m - bpf_core_field_offset(struct mount, mnt);
		if (BPF_CORE_READ(real, mnt_parent) != real)
			up = BPF_CORE_READ(real, mnt_mountpoint);
	}
	bpf_probe_read_kernel_str(dir, sizeof(dir), BPF_CORE_READ(up, d_name.name));
	return bl_key_file(name, tail, dir);
}

/* Is this overlayfs at work for itself? It copies files up and moves them into place on
 * the layer below, as the task that caused it, but with the credentials of who mounted
 * it; the task's own act was judged on the overlay. A container's own credentials can be
 * overridden too (io_uring personalities, an overlay that the container mounted), but not
 * to more capabilities than it started with. One that has them all has no such acts: a
 * key of its image is not copied up.
 */
static __always_inline int bl_overlay_inside(const struct bl_container *c, struct dentry *d)
{
	struct task_struct *t = bpf_get_current_task_btf();
	const struct cred *as = t->cred;
	__u64 caps = 0;

	if ((__u64)as == (__u64)t->real_cred ||
	    BPF_CORE_READ(d, d_sb, s_magic) == OVERLAYFS_SUPER_MAGIC)
		return 0;
	bpf_probe_read_kernel(&caps, sizeof(caps), __builtin_preserve_access_index(&as->cap_effective));
	return !as->euid.val && caps & (1ULL << CAP_SYS_ADMIN) && !BPF_CORE_READ(as, user_ns, level) &&
	       c && caps & ~c->caps;
}

/* Decides the keys rule on an act that has matched. kill: it is over already. */
static __always_inline int bl_key_verdict(struct bl_who *w, struct bl_container *c, __u8 hook,
					  const struct path *path, int kill)
{
	struct bl_report r = {};
	struct bl_policy *p;
	__u32 set = 0;
	int slot;

	p = bl_policy_of(c, &set);
	if (!p) {
		if (kill)
			bl_kill();
		return -EPERM;
	}
	if (p->rules[BL_ENFORCE][BL_R_SSH_KEYS].verdict == BL_DENY)
		slot = BL_ENFORCE;
	else if (p->rules[BL_AUDITED][BL_R_SSH_KEYS].verdict == BL_DENY)
		slot = BL_AUDITED;
	else
		return 0;
	r.who = w;
	r.c = c;
	r.p = p;
	r.d.rule = BL_R_SSH_KEYS;
	r.d.policy = p->rules[slot & 1][BL_R_SSH_KEYS].policy;
	r.set = set;
	r.object = path;
	r.type = BL_EV_FILE;
	r.hook = hook;
	r.decided = slot == BL_ENFORCE ? BL_DENIED : BL_WOULD_DENY;
	if (kill && slot == BL_ENFORCE)
		r.decided = bl_kill();
	bl_emit(&r);
	return slot == BL_ENFORCE ? -EPERM : 0;
}

/* Could bl_key_dentry say anything but BL_KEY_NONE? Asked before whose the task is: most
 * opens of the host end here.
 */
static __always_inline int bl_key_maybe(struct file *file)
{
	struct dentry *d = file->f_path.dentry, *up = d->d_parent;
	__u64 name, dir;

	if ((__u64)up == (__u64)d || (__u64)up == (__u64)file->f_path.mnt->mnt_root)
		return 1;
	name = bl_short_name(d);
	if (!name)
		return 1;
	dir = *(__u64 *)up->d_iname;	/* if its name is not there, it is too long to be .ssh */
	return (dir & 0xffffffffffULL) == 0x6873732eULL ||	/* .ssh and its end */
	       (name & 0xffffffULL) == 0x5f6469ULL ||		/* id_ */
	       name == 0x74736f685f687373ULL ||			/* ssh_host */
	       name == 0x7a69726f68747561ULL ||			/* authoriz */
	       name == 0x72616562706f7264ULL;			/* dropbear */
}

static __always_inline int bl_key_opened(struct bl_who *w, struct bl_container *c,
					 struct file *file, int kill)
{
	struct dentry *d = BPF_CORE_READ(file, f_path.dentry);
	__u32 mode;
	int kind;

	if (bl_overlay_inside(c, d))
		return 0;
	kind = bl_key_dentry(d, BPF_CORE_READ(file, f_path.mnt));
	if (kind == BL_KEY_NONE || kind == BL_KEY_DIR)
		return 0;
	mode = BPF_CORE_READ(file, f_mode);
	if (!(kind & BL_KEY_PRIVATE && mode & FMODE_READ) &&
	    !(kind & BL_KEY_AUTHORIZED && mode & FMODE_WRITE))
		return 0;
	return bl_key_verdict(w, c, BL_H_FILE_OPEN,
			      __builtin_preserve_access_index(&file->f_path), kill);
}

static __always_inline int bl_open(struct file *file)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;

	__u32 asked = bl_opens_asked(), use = bl_use_of_open(file), any;
	__u8 rule = BL_R_NONE;
	int keys, files, ret;

	keys = asked & BL_OPENS_KEYS && bl_key_maybe(file);
	files = asked & BL_OPENS_FILES;
	if (asked & BL_OPENS_PRIV)
		rule = bl_open_rule(file);
	/* verifier: all; a branch on use alone would have what follows verified for each value of it */
	any = keys | files | (rule != BL_R_NONE) | use;
	barrier_var(any);
	if (!any || !bl_inside(&w, &c))
		return 0;
	if (rule != BL_R_NONE) {
		ret = bl_priv_open(&w, c, file, rule);
		if (ret)
			return ret;
	}
	if (keys) {
		ret = bl_key_opened(&w, c, file, 0);
		if (ret)
			return ret;
	}
	if (bl_on_layer(file))
		return 0;
	if (files) {
		ret = bl_files_opened(&w, c, file);
		if (ret)
			return ret;
	}
	if (use != BL_USE_NONE && bl_use_reads(file))
		bl_note_use(c, w.container, file, use);
	return 0;
}

SEC("lsm/file_open")
int BPF_PROG(bl_lsm_open, struct file *file)
{
	return bl_open(file);
}

SEC("fmod_ret/security_file_open")
int BPF_PROG(bl_mod_open, struct file *file)
{
	return bl_open(file);
}

/* A key must keep its name, and nothing else may get the name authorized_keys. */
/* flags: RENAME_EXCHANGE gives both a new name; lsm calls its hook twice, modret once. */
static __always_inline int bl_rename(struct dentry *from, struct dentry *to, unsigned int flags)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (!bl_inside(&w, &c))
		return 0;
	if (bl_overlay_inside(c, from))
		return 0;
	if (bl_key_dentry(from, NULL) == BL_KEY_NONE &&
	    !(bl_key_dentry(to, NULL) &
	      (BL_KEY_AUTHORIZED | BL_KEY_DIR | (flags & RENAME_EXCHANGE ? BL_KEY_PRIVATE : 0))))
		return 0;
	return bl_key_verdict(&w, c, BL_H_RENAME, NULL, 0);
}

SEC("lsm/inode_rename")
int BPF_PROG(bl_lsm_rename, struct inode *old_dir, struct dentry *old_dentry,
	     struct inode *new_dir, struct dentry *new_dentry)
{
	return bl_rename(old_dentry, new_dentry, 0);
}

SEC("fmod_ret/security_inode_rename")
int BPF_PROG(bl_mod_rename, struct inode *old_dir, struct dentry *old_dentry,
	     struct inode *new_dir, struct dentry *new_dentry, unsigned int flags)
{
	return bl_rename(old_dentry, new_dentry, flags);
}

static __always_inline int bl_link(struct dentry *from, struct dentry *to)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (!bl_inside(&w, &c))
		return 0;
	if (bl_overlay_inside(c, from))
		return 0;
	if (bl_key_dentry(from, NULL) == BL_KEY_NONE && bl_key_dentry(to, NULL) != BL_KEY_AUTHORIZED)
		return 0;
	return bl_key_verdict(&w, c, BL_H_LINK, NULL, 0);
}

SEC("lsm/inode_link")
int BPF_PROG(bl_lsm_link, struct dentry *old_dentry, struct inode *dir, struct dentry *new_dentry)
{
	return bl_link(old_dentry, new_dentry);
}

SEC("fmod_ret/security_inode_link")
int BPF_PROG(bl_mod_link, struct dentry *old_dentry, struct inode *dir, struct dentry *new_dentry)
{
	return bl_link(old_dentry, new_dentry);
}

/* Nor may a symbolic link take the place of authorized_keys, or of .ssh. */
static __always_inline int bl_symlink(struct dentry *d)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;

	if (!bl_inside(&w, &c))
		return 0;
	if (bl_overlay_inside(c, d) || !(bl_key_dentry(d, NULL) & (BL_KEY_AUTHORIZED | BL_KEY_DIR)))
		return 0;
	return bl_key_verdict(&w, c, BL_H_SYMLINK, NULL, 0);
}

SEC("lsm/inode_symlink")
int BPF_PROG(bl_lsm_symlink, struct inode *dir, struct dentry *dentry, const char *old_name)
{
	return bl_symlink(dentry);
}

SEC("fmod_ret/security_inode_symlink")
int BPF_PROG(bl_mod_symlink, struct inode *dir, struct dentry *dentry, const char *old_name)
{
	return bl_symlink(dentry);
}

/* truncate(2) writes without an open. */
static __always_inline int bl_truncate(const struct path *path)
{
	struct bl_who w = {};
	struct bl_container *c = NULL;
	int ret;

	if (!bl_inside(&w, &c))
		return 0;
	if (!bl_overlay_inside(c, path->dentry) &&
	    bl_key_dentry(path->dentry, path->mnt) & BL_KEY_AUTHORIZED) {
		ret = bl_key_verdict(&w, c, BL_H_TRUNCATE, path, 0);
		if (ret)
			return ret;
	}
	if (!bl_files_used())
		return 0;
	return bl_files_act(&w, c, path, NULL, BL_A_WRITE, BL_H_TRUNCATE);
}

SEC("lsm/path_truncate")
int BPF_PROG(bl_lsm_truncate, const struct path *path)
{
	return bl_truncate(path);
}

SEC("fmod_ret/security_path_truncate")
int BPF_PROG(bl_mod_truncate, const struct path *path)
{
	return bl_truncate(path);
}

/* ftruncate(2), by a descriptor that may be older than the rule. Since 6.2; before, path_truncate. */
SEC("lsm/file_truncate")
int BPF_PROG(bl_lsm_ftruncate, struct file *file)
{
	return bl_truncate(__builtin_preserve_access_index(&file->f_path));
}

SEC("fmod_ret/security_file_truncate")
int BPF_PROG(bl_mod_ftruncate, struct file *file)
{
	return bl_truncate(__builtin_preserve_access_index(&file->f_path));
}
