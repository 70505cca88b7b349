/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * events.h: what the kernel side tells user space. Go twins are generated
 * (bpf2go -type). Records are decoded as hostile bytes all the same.
 */
#ifndef BL_EVENTS_H
#define BL_EVENTS_H

#define BL_EVENT_VERSION 1

enum bl_event_type {
	BL_EV_EXEC = 1,
	BL_EV_MMAP = 2,
	BL_EV_FILE = 3,
	BL_EV_NET = 4,
	BL_EV_BPF = 5,
	BL_EV_START = 6,	/* container: first exec */
	BL_EV_CREATED = 7,	/* container: cgroup made */
	BL_EV_GONE = 8,		/* container: cgroup removed */
	BL_EV_PRIVILEGE = 10,
	BL_EV_USED = 16,	/* a container uses a file, by the hook: for which packages are in use */
};

enum bl_decided {
	BL_DENIED = 0,
	BL_ALLOWED = 1,
	BL_WOULD_DENY = 2,
	BL_KILLED = 3,
	BL_DETECTED = 4,	/* seen too late to stop */
};

enum bl_hook {
	BL_H_NONE = 0,
	BL_H_BPRM_CHECK = 1,
	BL_H_BPRM_CREDS = 2,
	BL_H_EXEC = 3,		/* sched_process_exec */
	BL_H_MMAP = 4,
	BL_H_MPROTECT = 5,
	BL_H_FILE_OPEN = 6,
	BL_H_RENAME = 7,
	BL_H_LINK = 8,
	BL_H_TRUNCATE = 9,
	BL_H_BPF = 10,
	BL_H_CONNECT = 11,
	BL_H_BIND = 12,
	BL_H_LISTEN = 13,
	BL_H_SKB = 14,
	BL_H_CGROUP = 15,
	BL_H_SYMLINK = 16,
	BL_H_CREATE = 17,
	BL_H_DELETE = 18,
	BL_H_ATTRIBUTES = 19,
	BL_H_RECEIVE = 20,	/* a descriptor that was handed in */
	BL_H_UNIX_CONNECT = 21,
	BL_H_UNIX_READY = 22,	/* sk_data_ready */
	BL_H_SENDMSG = 24,
	BL_H_SOCK_CREATE = 25,
	BL_H_SKB_IN = 26,
	BL_H_SOCKET = 27,	/* socket_create */
	BL_H_MOUNT = 32,
	BL_H_UMOUNT = 33,
	BL_H_PIVOT_ROOT = 34,
	BL_H_MOVE_MOUNT = 35,
	BL_H_PTRACE = 36,
	BL_H_TRACEME = 37,
	BL_H_KILL = 38,
	BL_H_SCHED = 39,
	BL_H_USERNS = 40,
	BL_H_READ_MODULE = 41,
	BL_H_LOAD_MODULE = 42,
	BL_H_AUTOLOAD = 43,
	BL_H_PERF = 44,
	BL_H_KEY = 45,
	BL_H_ANON_INODE = 46,
	BL_H_CAPABLE = 47,
	BL_H_RLIMIT = 48,
	BL_H_FCNTL = 49,
	BL_H_IOCTL = 50,
	BL_H_PERMISSION = 51,	/* a read or write by a descriptor */
	BL_H_SOCKET_SEND = 52,
	BL_H_SOCKET_RECEIVE = 53,
};

enum bl_layer {
	BL_L_UNKNOWN = 0,
	BL_L_IMAGE = 1,
	BL_L_UPPER = 2,
	BL_L_VOLUME = 3,
	BL_L_TMPFS = 4,
	BL_L_MEMFD = 5,
	BL_L_DELETED = 6,
	BL_L_MOUNTED = 7,
	BL_L_PLAIN = 8,		/* the root is no overlay: image and writable layer look alike */
};

#define BL_E_ARGS_CUT	0x01
#define BL_E_PATH_CUT	0x02
#define BL_E_CWD_CUT	0x04
#define BL_E_SCRIPT	0x08	/* obj is the script, exe its interpreter */
#define BL_E_LATE	0x10	/* own policy bound after the start */
#define BL_E_NO_PROC	0x20	/* no process: seen in softirq */

#define BL_ANCESTORS	6
#define BL_DATA		2048
#define BL_NAME		256
#define BL_ARGS		512	/* bytes of the arguments of a denied exec */
#define BL_ARG		128	/* longest part of one of them */
#define BL_ARGV		32

struct bl_ancestor {
	__u64 start_ns;		/* since boot */
	__u32 pid;
	__u32 uid;
	__u8 comm[16];
};

struct bl_event {
	__u8 version;		/* BL_EVENT_VERSION */
	__u8 type;		/* bl_event_type */
	__u8 decided;		/* bl_decided */
	__u8 rule;		/* bl_rule_id */
	__u8 hook;		/* bl_hook */
	__u8 layer;		/* bl_layer of the object of an exec, mmap or file event */
	__u16 flags;		/* BL_E_* */
	__u16 policy;		/* index in the set's sources */
	__u16 exe_len;		/* lengths in data, in this order */
	__u16 obj_len;
	__u16 cwd_len;
	__u16 args_len;
	__u8 ancestors;		/* entries used in ancestor[] */
	__u8 class;		/* bl_class */
	__u32 set;
	__u32 revision;
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 euid;
	__u32 gid;
	__u32 egid;
	__u32 exe_dev;
	__u32 file_flags;	/* BL_F_* of the decision */
	__u64 seq;
	__u64 time_ns;		/* CLOCK_BOOTTIME */
	__u64 start_ns;		/* of the process, since boot */
	__u64 cgroup;		/* of the container */
	__u64 cap_effective;
	__u64 cap_permitted;
	__u64 exe_ino;
	__u8 id[32];		/* container ID, binary; zero for build steps */
	__u16 family;		/* AF_* of a net event */
	__u16 port;
	__u16 lport;
	__u16 proto;
	__u8 addr[16];		/* remote; IPv4 as ::ffff:a.b.c.d */
	__u8 laddr[16];
	__u8 comm[16];
	struct bl_ancestor ancestor[BL_ANCESTORS];
	__u8 data[BL_DATA + BL_NAME];
};

#endif
