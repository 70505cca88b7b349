/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sock.h: which unix sockets are the container engine's, and who may connect to them.
 *
 * A socket is known by what it was bound to, read from the socket that listens: the inode
 * and the place (directory and name). The path that the caller named is never asked, so a
 * hard link, a bind mount, a symbolic link or /proc/PID/root lead to the same answer.
 */
#ifndef BL_SOCK_H
#define BL_SOCK_H

#include "facts.h"

#define BL_SOCK_NAME	64	/* a longer name is known by its inode only */
#define BL_SOCK_DEPTH	8	/* directories above a socket that are looked at */
#define BL_UNIT_DEPTH	16	/* cgroups above a task that are looked at */

enum bl_sock_kind {
	BL_SOCK_SELF = 0,	/* ino: what the socket is bound to */
	BL_SOCK_PLACE = 1,	/* ino: its directory; name: its name there */
	BL_SOCK_DIR = 2,	/* ino: a directory; every socket bound below it */
};

struct bl_sock_key {
	__u64 ino;
	__u32 dev;	/* kernel encoding: major << 20 | minor */
	__u32 kind;	/* bl_sock_kind */
	char name[BL_SOCK_NAME];
};

/* Prefix of an abstract name, without the zero that it starts with. */
struct bl_abstract_key {
	__u32 prefixlen;
	char name[BL_SOCK_NAME];
};

enum bl_caller_kind {
	BL_CALLER_EXE = 0,	/* ino, dev: the program; uid: who runs it */
	BL_CALLER_UID = 1,	/* uid */
	BL_CALLER_UNIT = 2,	/* name: cgroup directly below /system.slice */
};

/* uid is the real one, as the initial user namespace sees it. */
struct bl_caller_key {
	__u64 ino;
	__u32 dev;
	__u32 uid;
	__u32 kind;	/* bl_caller_kind */
	__u32 pad;
	char name[BL_SOCK_NAME];
};

enum bl_guard_mode {
	BL_GUARD_OFF = 0,
	BL_GUARD_AUDIT = 1,
	BL_GUARD_ENFORCE = 2,
};

/* The engine's sockets. Written by the agent, read at connect; full: reported. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_sock_key);
	__type(value, __u32);
} bl_socks SEC(".maps");

/* Its abstract ones, in the host's network namespace. As bl_socks. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_abstract_key);
	__type(value, __u32);
} bl_abstracts SEC(".maps");

/* Processes of the host that may connect to them. As bl_socks. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_caller_key);
	__type(value, __u32);
} bl_callers SEC(".maps");

/* What becomes of other processes of the host: bl_guard_mode. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} bl_guards SEC(".maps");

static __always_inline void bl_sock_at(struct bl_sock_key *k, struct dentry *d, __u32 kind)
{
	k->ino = BPF_CORE_READ(d, d_inode, i_ino);
	k->dev = BPF_CORE_READ(d, d_sb, s_dev);
	k->kind = kind;
}

/* Is a socket, given by the dentry that it is bound to, one of the engine's?
 * verifier: all; global, so that its loop is verified once.
 */
__noinline int bl_sock_path(__u64 dentry)
{
	struct dentry *d = (void *)dentry, *up;
	struct bl_sock_key k = {};
	int i;

	bl_sock_at(&k, d, BL_SOCK_SELF);
	if (bpf_map_lookup_elem(&bl_socks, &k))
		return 1;
	up = BPF_CORE_READ(d, d_parent);
	bl_sock_at(&k, up, BL_SOCK_PLACE);
	if (bpf_probe_read_kernel_str(k.name, sizeof(k.name), BPF_CORE_READ(d, d_name.name)) < 0)
		bl_count(BL_E_READ);
	if (bpf_map_lookup_elem(&bl_socks, &k))
		return 1;
	__builtin_memset(k.name, 0, sizeof(k.name));
	for (i = 0; i < BL_SOCK_DEPTH && up && up != d; i++) {
		bl_sock_at(&k, up, BL_SOCK_DIR);
		if (bpf_map_lookup_elem(&bl_socks, &k))
			return 1;
		d = up;
		up = BPF_CORE_READ(d, d_parent);
	}
	return 0;
}

/* The same of an abstract one, given by its address. */
__noinline int bl_sock_abstract(__u64 address)
{
	struct unix_address *a = (void *)address;
	struct bl_abstract_key k = { .prefixlen = 8 * BL_SOCK_NAME };
	const char *name = __builtin_preserve_access_index(&a->name[0].sun_path[0]);
	__u32 len = BPF_CORE_READ(a, len);
	char first = 1;

	if (len <= 3 || len > 110 || bpf_probe_read_kernel(&first, 1, name) || first)
		return 0;
	len -= 3;	/* sun_family and the zero */
	if (len > BL_SOCK_NAME - 1)
		len = BL_SOCK_NAME - 1;
	if (bpf_probe_read_kernel(k.name, len & (BL_SOCK_NAME - 1), name + 1))
		bl_count(BL_E_READ);
	return bpf_map_lookup_elem(&bl_abstracts, &k) != NULL;
}

/* Is what listens (or was accepted from what listens) one of the engine's? */
static __always_inline int bl_sock_guarded(const struct sock *sk)
{
	struct unix_sock *u = (struct unix_sock *)sk;
	struct dentry *d = BPF_CORE_READ(u, path.dentry);
	struct unix_address *a;

	if (d)
		return bl_sock_path((__u64)d);
	a = BPF_CORE_READ(u, addr);
	if (!a || BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum) != bl_host_net)
		return 0;
	return bl_sock_abstract((__u64)a);
}

/* Is current in the cgroup of a unit that may connect? Only root makes cgroups in
 * /system.slice.
 */
static __noinline int bl_unit_allowed(struct task_struct *task)
{
	struct bl_caller_key k = { .kind = BL_CALLER_UNIT, .uid = -1 };
	struct cgroup *cg = bl_cgroup_of(task), *up;
	char slice[16] = {};
	int i;

	for (i = 0; i < BL_UNIT_DEPTH && cg; i++) {
		if (BPF_CORE_READ(cg, level) == 2)
			break;
		cg = (struct cgroup *)BPF_CORE_READ(cg, self.parent);
	}
	if (!cg || BPF_CORE_READ(cg, level) != 2)
		return 0;
	up = (struct cgroup *)BPF_CORE_READ(cg, self.parent);
	bpf_probe_read_kernel_str(slice, sizeof(slice), BPF_CORE_READ(up, kn, name));
	if (__builtin_memcmp(slice, "system.slice", sizeof("system.slice")))
		return 0;
	if (bpf_probe_read_kernel_str(k.name, sizeof(k.name), BPF_CORE_READ(cg, kn, name)) <= 1)
		return 0;
	return bpf_map_lookup_elem(&bl_callers, &k) != NULL;
}

/* May current, a process of the host, connect? */
static __always_inline int bl_caller_allowed(struct task_struct *task)
{
	struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	struct bl_caller_key k = { .kind = BL_CALLER_UID, .uid = task->cred->uid.val };

	if (bpf_map_lookup_elem(&bl_callers, &k))
		return 1;
	if (exe) {
		k.kind = BL_CALLER_EXE;
		k.ino = BPF_CORE_READ(exe, f_path.dentry, d_inode, i_ino);
		k.dev = BPF_CORE_READ(exe, f_path.dentry, d_sb, s_dev);
		if (bpf_map_lookup_elem(&bl_callers, &k))
			return 1;
	}
	return bl_unit_allowed(task);
}

#endif
