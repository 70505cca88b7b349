/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * maps.h: all maps, each with key, value, who writes, who reads, its bound and
 * what a full map does. All are pinned and outlive the agent.
 */
#ifndef BL_MAPS_H
#define BL_MAPS_H

#include "rules.h"
#include "events.h"
#include "pure/ssh_stream.h"

#define BL_MAX_CGROUPS	16384
#define BL_MAX_CONTAINERS 4096
#define BL_DEPTH	64	/* path components that a walk takes */

enum bl_class {
	BL_CLASS_CONTAINER = 0,
	BL_CLASS_BUILD = 1,
};

/* Value of bl_containers. The kernel side writes it; the agent only when it enrols
 * a container that ran before. Everything after started is valid once it is 2.
 */
struct bl_container {
	__u8 id[32];
	__u64 start_ns;		/* first exec, since boot */
	__u64 max_mount;	/* highest unique mount id at the start; 0: this kernel has none */
	__u64 lost;		/* records lost */
	__u64 caps;		/* bounding set of pid 1 at the start */
	__u32 started;		/* 0 no, 1 being filled, 2 yes */
	__u32 init_tgid;
	__u32 root_dev;		/* of the root file system */
	__u32 root_magic;
	__u32 mnt_ns;		/* inode number of pid 1's mount namespace */
	__u32 root_kuid;	/* uid 0 of the container's user namespace, as the host sees it */
	__u8 mounted_after;	/* a mount was made after the start (kernels without unique mount ids) */
	__u8 listened;		/* listen(2) was called on a socket of IP: never taken back */
	__u8 moved;		/* a mount got another place after the start, or another is the root: no id tells */
	__u8 sees_others;	/* its first task is not the first of its PID namespace */
	__u8 user_level;	/* of the container's user namespace; 0: the initial one */
	__u8 class;		/* bl_class */
	__u8 was_net;		/* an earlier version's, whose entries are carried over: not asked */
	__u8 admin;		/* something with CAP_SYS_ADMIN has entered it since */
};

enum bl_state {
	BL_HOST = 0,
	BL_ENTERING = 1,
	BL_ARMED = 2,
};

#define BL_T_INIT_TREE	0x01

/* A task's label. One whose state is HOST says no more than none does. */
struct bl_task {
	__u64 container;	/* cgroup id of the container */
	__u32 outside_mnt_ns;	/* of the task that put this one in */
	__u8 state;		/* bl_state */
	__u8 flags;		/* BL_T_* */
	__u8 pad[2];
};

struct bl_scratch {
	__u64 dentry[BL_DEPTH];
	char name[BL_NAME];
	__u64 sip[4];
	__u64 mnt;	/* where a walk is: a vfsmount and a dentry */
	__u64 at;
	__u64 max_mount;	/* as in bl_container: mounts after it lose the walk; 0: all may be crossed */
	__u32 n;	/* components collected */
	__u32 ns;	/* inode number of the namespace that the path must end in; 0: any */
	__u32 no_mounts;	/* only the container's root mount may be crossed */
	__u32 root_dev;	/* as in bl_container */
	__u32 busy;	/* of a slot: taken */
	__u32 pad;
};

/* cgroup id -> cgroup id of its container. Written by cgroup_mkdir/rmdir and at
 * enrolment, read by every hook. Full: BL_G_OVERFLOW counts it, and the ancestors of a
 * cgroup that is not found are walked until the agent has entered those that were missed.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BL_MAX_CGROUPS);
	__type(key, __u64);
	__type(value, __u64);
} bl_cgroups SEC(".maps");

/* container's cgroup id -> state. Writers as bl_cgroups. Full: the container has
 * the floor policy and no start of its own; counted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BL_MAX_CONTAINERS);
	__type(key, __u64);
	__type(value, struct bl_container);
} bl_containers SEC(".maps");

/* Containers that hold descriptors which their rules deny, opened before those came. Written by the programs of held.bpf.c that the agent
 * runs, emptied by the agent; while it is not empty, what is done by descriptors is judged. Full: HELD.
 */
struct bl_holder {
	__u64 round;	/* in which it was last found to be one (BL_G_ROUND) */
	__u64 told_ns;	/* since boot: when what was only noted was last told */
	__u32 what;	/* BL_HELD_* */
	__u32 pad;
};

enum bl_held {
	BL_HELD_FILES = 1,
	BL_HELD_SOCKETS = 2,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BL_MAX_CONTAINERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct bl_holder);
} bl_holders SEC(".maps");

/* container ID (32 bytes) -> set. Written by the agent, kept until the runtime
 * destroys the container. Missing: the floor. Full: the agent reports it.
 */
struct bl_id {
	__u8 b[32];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_id);
	__type(value, __u32);
} bl_binds SEC(".maps");

/* set -> compiled policy. Written by the agent before the set is bound. Missing:
 * denied and counted (POLICY_GONE).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct bl_policy);
} bl_policies SEC(".maps");

/* Path rules of all sets. Written by the agent; full: the policy is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_path_key);
	__type(value, struct bl_path_rule);
} bl_paths SEC(".maps");

/* Inodes that rules were bound to. Written by the agent; full: reported. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_inode_key);
	__type(value, struct bl_path_rule);
} bl_inodes SEC(".maps");

/* Inodes on the host that the runtime runs inside containers (docker-init): key
 * with set 0. Written by the agent; full: reported.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_inode_key);
	__type(value, __u32);
} bl_helpers SEC(".maps");

/* Destinations an SSH client may reach. Written by the agent; full: the policy is
 * refused.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_ssh_key);
	__type(value, struct bl_ssh_ports);
} bl_ssh_to SEC(".maps");

/* Network rules by address, of all sets. Written by the agent; full: the policy is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_net_key);
	__type(value, struct bl_net_addr);
} bl_net_addrs SEC(".maps");

/* And by port. Likewise. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_port_key);
	__type(value, struct bl_port_rule);
} bl_net_ports SEC(".maps");

/* Names that rules name -> number of the most specific pattern that matches. Written by the agent;
 * full: the policy is refused.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_name_key);
	__type(value, __u64);
} bl_names SEC(".maps");

/* What those names open. Likewise. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_name_rule);
	__type(value, __u32);
} bl_name_rules SEC(".maps");

/* Whose answers count. Likewise. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bl_resolver);
	__type(value, __u32);
} bl_resolvers SEC(".maps");

/* Questions after such names that wait for their answer. Written by the DNS programs; all
 * containers share it. Full: the oldest goes, and its answer opens nothing.
 */
struct bl_dns_ask {
	__u32 server[4];
	__u32 client[4];
	__u32 net;	/* inode number of the network namespace */
	__u16 port;	/* of the client */
	__u16 id;
	__u16 type;
	__u16 pad;
};

struct bl_dns_asked {
	__u64 container;
	__u64 question;	/* hash of the name */
	__u64 since_ns;	/* since boot */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct bl_dns_ask);
	__type(value, struct bl_dns_asked);
} bl_dns_asks SEC(".maps");

/* Addresses that answers have opened, and by which patterns. Written by the DNS programs, read
 * where an address is denied; all containers share it. Full: what was not used for longest goes, and
 * is opened again by the next answer. The key is in the value too: an entry may be another's by the
 * time that it is read.
 */
#define BL_DNS_NAMES	6	/* patterns that one address is open for; full: see DNS_FULL */

struct bl_dns_addr {
	__u64 container;
	__u32 addr[4];
};

struct bl_dns_name {
	__u64 name;
	__u64 until_ns;	/* since boot */
};

struct bl_dns_open {
	struct bl_dns_addr key;
	struct bl_dns_name by[BL_DNS_NAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct bl_dns_addr);
	__type(value, struct bl_dns_open);
} bl_dns_addrs SEC(".maps");

/* How often something was done for a container in one second. */
struct bl_told {
	__u64 since_ns;	/* start of the second, monotonic */
	__u64 n;
};

/* How many questions and addresses of a container were kept in one second. Full: the oldest goes,
 * and counts anew.
 */
struct bl_dns_rate_key {
	__u64 container;
	__u32 kind;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct bl_dns_rate_key);
	__type(value, struct bl_told);
} bl_dns_rates SEC(".maps");

/* What is known of a TCP connection, or of a raw socket, under network rules. Written by the
 * sockops, connect and packet programs; ends with the socket. No memory: SK_STORAGE.
 */
struct bl_conn {
	__u32 set;	/* under whose rules it was last let pass; 0: none's */
	__u32 told;	/* under whose rules it was last reported */
	__u8 mark;	/* BL_CONN_* */
	__u8 pad[3];
};

#define BL_CONN_DIALLED		0x01
#define BL_CONN_ACCEPTED	0x02

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct bl_conn);
} bl_conns SEC(".maps");

/* Who has talked with whom, of all but TCP: an answer is not judged again. Written by the
 * packet and sendmsg programs; all containers share it. Full: the oldest goes, and what belongs
 * to it is judged anew.
 */
struct bl_flow_key {
	__u64 container;
	__u32 addr[4];	/* remote */
	__u16 port;
	__u16 lport;
	__u16 proto;
	__u16 pad;
};

struct bl_flow {
	__u64 seen_ns;	/* last packet, monotonic; of a refused one: when it was reported */
	__u32 set;	/* under whose rules */
	__u8 in;	/* the first packet came in */
	__u8 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct bl_flow_key);
	__type(value, struct bl_flow);
} bl_flows SEC(".maps");

/* Exchanges that were denied, apart: whoever has many denied takes no place of another's. Full:
 * the oldest goes, and is reported again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct bl_flow_key);
	__type(value, struct bl_flow);
} bl_refused SEC(".maps");

/* How many records of packets that came in a container has caused in one second. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);	/* container, by its cgroup id */
	__type(value, struct bl_told);
} bl_tolds SEC(".maps");

/* Cgroups below which containers are recognised (bl_config.scoped). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u64);
	__type(value, __u32);
} bl_scopes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bl_config);
} bl_configs SEC(".maps");

/* The label of a task. Written at attach, fork and lazily. No memory: see
 * TASK_STORAGE, FORK_LABEL in codes.def.
 */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct bl_task);
} bl_tasks SEC(".maps");

/* The labels of an earlier agent whose maps have another layout: that agent's bl_tasks,
 * put in place while bl_carry_labels is loaded. Read by that program only.
 */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct bl_task);
} bl_tasks_old SEC(".maps");

/* Memory for walking paths: slots that are taken and given back, not per CPU, because LSM
 * programs can be preempted and a half-walked path must not be another task's. Four for
 * each of 16 CPUs, by the number of the CPU; if all four are taken, or a task is the
 * fifth that was preempted there, its own storage serves.
 */
#define BL_SLOTS_CPU	4
#define BL_SLOTS_CPUS	16

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BL_SLOTS_CPU * BL_SLOTS_CPUS);
	__type(key, __u32);
	__type(value, struct bl_scratch);
} bl_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct bl_scratch);
} bl_scratches SEC(".maps");

/* What is known of the TCP streams of containers under an ssh rule; of a raw socket,
 * whether its packets were reported. Written by the sockops program when a connection
 * is opened and by the egress program; read by the latter; ends with the socket. No
 * memory: see SK_STORAGE in codes.def.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct bl_ssh_stream);
} bl_streams SEC(".maps");

/* What containers have executed, mapped as code or opened as such, and when that was last told: the agent
 * learns of a file once an hour, and not of each exec. Written by bl_note_path, emptied by an agent at its
 * start. Full: the oldest goes, and is told again.
 */
struct bl_use_key {
	__u64 container;	/* by its cgroup id */
	__u64 ino;		/* of a script its directory's */
	__u32 dev;
	__u32 use;		/* enum bl_use */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct bl_use_key);
	__type(value, __u64);	/* since boot */
} bl_used SEC(".maps");

/* Records of that, apart from all others: what containers use must not push out what the
 * agent enforces by. Full: USE_RING is counted, and the next use of the file tells. Scripts fill
 * half of it at most: USE_SCRIPTS.
 */
#define BL_USES_BYTES	(256 * 1024)

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, BL_USES_BYTES);
} bl_uses SEC(".maps");

/* Failures by code (codes.def). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} bl_errs SEC(".maps");

/* Global numbers: see enum bl_global. */
enum bl_global {
	BL_G_SEQ = 0,		/* last sequence number given to a record */
	BL_G_OVERFLOW = 1,	/* how often bl_cgroups was full */
	BL_G_KEY0 = 2,		/* key of the path hashes, random, kept while the maps are pinned */
	BL_G_KEY1 = 3,
	BL_G_MENDED = 4,	/* BL_G_OVERFLOW when the agent last found every cgroup in the map */
	BL_G_SET = 5,		/* next set number: sockets remember under which they were judged */
	BL_G_ROUND = 6,		/* how often descriptors were looked at: bl_holders */
	BL_G_MAX = 8,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BL_G_MAX);
	__type(key, __u32);
	__type(value, __u64);
} bl_globals SEC(".maps");

/* Records of what was denied, killed, or would have been: a ring of their own, so
 * that a flood of others cannot push them out. 2 MiB hold about 750 records; user space
 * maps a ring twice, so its size counts double in the agent's memory.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 * 1024 * 1024);
} bl_denials SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} bl_events SEC(".maps");

#endif
