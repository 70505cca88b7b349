/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * vmlinux.h: the kernel types that we read, cut by hand: only fields in use, each
 * found by CO-RE at load time. A struct named x___y is another kernel's layout of
 * x (a CO-RE flavour); the comment says which commit changed it.
 */
#ifndef BL_VMLINUX_H
#define BL_VMLINUX_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;
typedef _Bool bool;
#define NULL ((void *)0)

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum bpf_func_id {
	BPF_FUNC_loop = 181,	/* since 5.17 */
};

#define BPF_ANY			0
#define BPF_NOEXIST		1
#define BPF_F_NO_PREALLOC	1
#define BPF_RB_AVAIL_DATA	0
#define BPF_LOCAL_STORAGE_GET_F_CREATE 1
#define BPF_SK_STORAGE_GET_F_CREATE 1

#define EPERM		1
#define EBUSY		16
#define SIGKILL		9
#define PROT_READ	0x1
#define PROT_WRITE	0x2
#define PROT_EXEC	0x4
#define MAP_SHARED	0x01	/* and of MAP_SHARED_VALIDATE, 0x03; MAP_PRIVATE is 0x02 */
#define VM_EXEC		0x4
#define VM_SHARED	0x8
#define S_IFMT		0170000	/* include/uapi/linux/stat.h */
#define S_IFREG		0100000
#define S_IFSOCK	0140000
#define S_IFDIR		0040000
#define READ_IMPLIES_EXEC 0x0400000	/* personality(2) */
#define O_TRUNC		00001000	/* include/uapi/asm-generic/fcntl.h */
#define FMODE_READ	0x1
#define FMODE_WRITE	0x2
/* FMODE_BACKING: bit 25 since 6.5, bit 24 in later kernels (include/linux/fs.h) */
#define FMODE_BACKING_A	(1 << 25)
#define FMODE_BACKING_B	(1 << 24)
#define CAP_SYS_ADMIN	21
#define RENAME_EXCHANGE	(1 << 1)	/* include/uapi/linux/fs.h */
#define MNT_READONLY	0x40		/* include/linux/mount.h */
#define SB_NOUSER	(1UL << 31)	/* include/linux/fs.h */
#define SB_RDONLY	1
#define MAY_WRITE	0x2	/* include/linux/fs.h */
#define MAY_READ	0x4
#define MAY_APPEND	0x8
#define SB_KERNMOUNT	(1 << 22)
#define AF_UNIX		1
#define AF_INET		2
#define AF_INET6	10
#define TCP_SYN_SENT	2
#define TCP_LISTEN	10
#define SOCK_STREAM	1
#define SOCK_RAW	3
#define IPPROTO_TCP	6
#define IPPROTO_MPTCP	262

/* include/uapi/linux/bpf.h: bpf_sock_ops.op */
#define BPF_SOCK_OPS_TCP_CONNECT_CB		3
#define BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB	5

/* include/uapi/linux/magic.h */
#define TMPFS_MAGIC		0x01021994
#define RAMFS_MAGIC		0x858458f6
#define HUGETLBFS_MAGIC		0x958458f6
#define OVERLAYFS_SUPER_MAGIC	0x794c7630

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next;
};

struct rb_node {
	struct rb_node *rb_right;
};

struct rb_root {
	struct rb_node *rb_node;
};

typedef struct {
	__u32 val;
} kuid_t;

typedef struct {
	__u32 val;
} kgid_t;

/* cap_t became one u64 with 6.3 (commit f122a08b197d); before it was two u32. The
 * layout of the eight bytes is the same on little endian.
 */
typedef struct {
	__u64 val;
} kernel_cap_t;

struct uid_gid_extent {
	__u32 first;
	__u32 lower_first;
	__u32 count;
};

struct uid_gid_map {
	struct uid_gid_extent extent[5];
	struct uid_gid_extent *forward;
	__u32 nr_extents;
};

struct proc_ns_operations;

struct ns_common {
	unsigned int inum;
	const struct proc_ns_operations *ops;
};

struct user_namespace {
	struct uid_gid_map uid_map;
	struct user_namespace *parent;
	int level;
};

struct cred {
	kuid_t uid;
	kgid_t gid;
	kuid_t euid;
	kgid_t egid;
	kernel_cap_t cap_permitted;
	kernel_cap_t cap_effective;
	kernel_cap_t cap_bset;
	kernel_cap_t cap_ambient;
	struct user_namespace *user_ns;
};

struct qstr {
	__u32 len;
	const unsigned char *name;
};

struct super_block {
	__u32 s_dev;
	unsigned long s_flags;
	unsigned long s_magic;
	struct dentry *s_root;
	struct list_head s_mounts;
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct inode {
	__u16 i_mode;
	struct hlist_head i_dentry;
	struct super_block *i_sb;
	unsigned long i_ino;
	unsigned int i_nlink;
	__u32 i_rdev;
	void *i_private;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	unsigned char d_iname[32];
	struct super_block *d_sb;
	union {
		struct hlist_node d_alias;
	} d_u;
};

struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
	int mnt_flags;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct mnt_namespace {
	struct ns_common ns;
	struct mount *root;
	struct rb_root mounts;	/* since 6.8 (commit 2eea9ce4310d), ordered by mnt_id_unique */
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct rb_node mnt_node;	/* since 6.8 */
	struct mnt_namespace *mnt_ns;
	struct list_head mnt_instance;	/* of super_block.s_mounts; not since 6.17 */
	int mnt_group_id;		/* 0: it is not shared */
	__u64 mnt_id_unique;		/* since 6.8 (commit 98d2b43081972abe) */
};

#define ATTR_MODE	0x1	/* include/linux/fs.h */
#define ATTR_UID	0x2
#define ATTR_GID	0x4
#define ATTR_SIZE	0x8
#define ATTR_ATIME	0x10
#define ATTR_MTIME	0x20

struct iattr {
	unsigned int ia_valid;
};

struct file {
	unsigned int f_mode;
	unsigned int f_flags;
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
};

/* Since 6.5 (commit 62d53c4a1dfe): a file that overlayfs opens below itself; vm_file of
 * a mapping. Its f_path is the lower file system's, user_path what the user opened.
 */
struct backing_file {
	struct path user_path;
};

struct kernfs_node {
	const char *name;
	void *priv;
	__u64 id;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	unsigned int flags;
	struct cgroup_subsys_state *parent;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	struct cgroup_subsys_state self;
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct cgroup *dfl_cgrp;
};

struct bpf_iter__task {
	void *meta;
	struct task_struct *task;
};

struct bpf_iter__task_file {
	void *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

struct net;

struct uts_namespace {
	struct ns_common ns;
};

struct ipc_namespace {
	struct ns_common ns;
};

struct nsproxy {
	struct uts_namespace *uts_ns;
	struct ipc_namespace *ipc_ns;
	struct mnt_namespace *mnt_ns;
	struct net *net_ns;
};

struct fs_struct {
	struct path root;
	struct path pwd;
};

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
	struct file *exe_file;
};

struct vm_area_struct {
	unsigned long vm_end;
	struct file *vm_file;
	unsigned long vm_flags;
};

struct signal_struct {
	int nr_threads;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct bpf_local_storage;

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	unsigned int personality;
	__u64 start_time;
	__u64 start_boottime;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	const struct cred *real_cred;
	const struct cred *cred;
	char comm[16];
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct pid *thread_pid;
	struct signal_struct *signal;
	struct css_set *cgroups;
	struct mm_struct *mm;
	struct bpf_local_storage *bpf_storage;
	void *io_uring;			/* since 5.1, with CONFIG_IO_URING */
	struct hlist_node pid_links[4];
};

struct pid_namespace {
	struct task_struct *child_reaper;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct hlist_head tasks[4];
	struct upid numbers[1];		/* of each namespace, the last is the innermost */
};

struct proc_inode {
	struct pid *pid;
	struct inode vfs_inode;
};

struct bpf_map {
	__u32 id;
};

struct bpf_prog_aux {
	__u32 id;
};

struct bpf_prog {
	struct bpf_prog_aux *aux;
};

struct linux_binprm {
	struct file *file;
	struct cred *cred;
	const char *filename;
	const char *interp;
};

struct in6_addr {
	__u32 s6_addr32[4];	/* in the kernel below a union: always read as 16 bytes */
};

struct net {
	struct user_namespace *user_ns;
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__u16 skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	__u16 skc_num;
	__be32 skc_rcv_saddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;	/* since 5.15 (commit 8520e224f547); a tagged u64 before */
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	struct sock_cgroup_data sk_cgrp_data;
};

struct socket {
	struct sock *sk;
};

struct sockaddr_un {
	__u16 sun_family;
	char sun_path[108];
};

struct unix_address {
	int len;
	struct sockaddr_un name[];
};

struct unix_sock {
	struct unix_address *addr;	/* what is accepted has those of what listens */
	struct path path;
};

struct tcp_sock {
	__u8 repair : 1;
};

#pragma clang attribute pop

union bpf_attr;

/* Contexts of cgroup programs (include/uapi/linux/bpf.h): stable, no CO-RE. */
struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port;
	__be16 dst_port;
	__u16 pad;
	__u32 dst_ip4;
	__u32 dst_ip6[4];
	__u32 state;
	__s32 rx_queue_mapping;
};

struct bpf_tcp_sock {
	__u32 snd_cwnd;
	__u32 srtt_us;
	__u32 rtt_min;
	__u32 snd_ssthresh;
	__u32 rcv_nxt;
	__u32 snd_nxt;
	__u32 snd_una;
};

struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 msg_src_ip4;
	__u32 msg_src_ip6[4];
	struct bpf_sock *sk;
} __attribute__((aligned(8)));

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	__u64 :64;	/* flow_keys */
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	union {
		struct bpf_sock *sk;
	};
	__u32 gso_size;
	__u8 tstamp_type;
	__u64 hwtstamp;
};

struct bpf_sock_ops {
	__u32 op;
	union {
		__u32 args[4];
		__u32 reply;
		__u32 replylong[4];
	};
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 is_fullsock;
	__u32 snd_cwnd;
	__u32 srtt_us;
	__u32 bpf_sock_ops_cb_flags;
	__u32 state;
	__u32 rtt_min;
	__u32 snd_ssthresh;
	__u32 rcv_nxt;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 mss_cache;
	__u32 ecn_flags;
	__u32 rate_delivered;
	__u32 rate_interval_us;
	__u32 packets_out;
	__u32 retrans_out;
	__u32 total_retrans;
	__u32 segs_in;
	__u32 data_segs_in;
	__u32 segs_out;
	__u32 data_segs_out;
	__u32 lost_out;
	__u32 sacked_out;
	__u32 sk_txhash;
	__u64 bytes_received;
	__u64 bytes_acked;
	union {
		struct bpf_sock *sk;
	};
	union {
		void *skb_data;
	};
	union {
		void *skb_data_end;
	};
	__u32 skb_len;
	__u32 skb_tcp_flags;
	__u64 skb_hwtstamp;
};

struct bpf_raw_tracepoint_args {
	__u64 args[0];
};

#endif
