/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * rules.h: what user space tells the kernel side. Go twins of every struct here
 * are generated (bpf2go -type); nothing here is written by hand twice.
 *
 * Plain C with fixed-width types only: bpf/pure includes it too.
 */
#ifndef BL_RULES_H
#define BL_RULES_H

/* Raised when a struct or map of the kernel side changes shape. Pinned state of
 * another ABI is never adopted: see internal/enforce. Containers and labels are carried
 * over where the size of an entry is the same, so a change of meaning changes the size too.
 */
#define BL_ABI 8

/* The zero value of a verdict is deny. */
enum bl_verdict {
	BL_DENY = 0,
	BL_ALLOW = 1,
	BL_AUDIT = 2,
};

/* A compiled policy has two slots; the slot number is the mode. A rule may be set
 * in both (one policy audits what another enforces in a weaker form).
 */
enum bl_slot {
	BL_ENFORCE = 0,
	BL_AUDITED = 1,
	BL_SLOTS = 2,
};

/* Numbers are never reused; internal/verdict has the same. */
enum bl_rule_id {
	BL_R_AS_ROOT = 0,
	BL_R_FILE_CAPS = 1,
	BL_R_DRIFT = 2,
	BL_R_MEMFD = 3,
	BL_R_PATH_DENY = 4,
	BL_R_PATH_ALLOW = 5,
	BL_R_SSH_SERVER = 6,
	BL_R_SSH_CLIENT = 7,
	BL_R_SSH_KEYS = 8,
	BL_R_BPF = 9,
	BL_R_FILES = 10,
	BL_R_SOCKETS = 11,
	BL_R_MOUNT = 12,
	BL_R_PTRACE = 13,
	BL_R_OTHER_TASKS = 14,
	BL_R_USERNS = 15,
	BL_R_MODULES = 16,
	BL_R_AUTOLOAD = 17,
	BL_R_PERF = 18,
	BL_R_KEYCTL = 19,
	BL_R_IO_URING = 20,
	BL_R_RAW_DEVICES = 21,
	BL_R_KERNEL_CONTROL = 22,
	BL_R_SETID = 23,
	BL_R_CAPABILITIES = 24,
	BL_R_EGRESS = 25,
	BL_R_INGRESS = 26,
	BL_R_LISTEN = 27,
	BL_R_RAW_SOCKETS = 28,
	BL_R_PACKET_SOCKETS = 29,
	BL_R_HOST_AGENT = 30,
	BL_R_HOST_RUNTIMES = 31,
	BL_R_HOST_ENGINE = 32,
	BL_R_COUNT = 33,
	BL_R_MAX = 64,
	BL_R_NONE = 255,
};

/* bl_rule.opt of BL_R_AS_ROOT */
#define BL_O_AFTER_START	0x01	/* denyAfterStart */
#define BL_O_NESTED_ALLOW	0x02	/* root of the task's own nested user namespace passes */
/* bl_rule.opt of BL_R_MEMFD */
#define BL_O_PROGRAMS		0x01	/* memfd: programs; shared mappings pass */
/* bl_rule.opt of BL_R_DRIFT; no volumes bit = volumes: deny */
#define BL_O_VOLUMES_RO		0x01	/* volumes: readOnly */
#define BL_O_VOLUMES		0x02	/* volumes: allow */
#define BL_O_METADATA		0x04	/* metadataOnly: allow */
/* bl_rule.opt of BL_R_SSH_CLIENT */
#define BL_O_SSH_TO		0x01	/* bl_ssh_to holds the allowed destinations */
/* bl_rule.opt of BL_R_PTRACE */
#define BL_O_PTRACE_OWN		0x01	/* tasks of the own container may be traced */
/* Acts on files. bl_rule.opt of BL_R_FILES holds those that any path of the slot denies;
 * bl_path_rule.allow_bits of the kinds BL_PATH_FILES_* those that its path denies: of the
 * enforce slot as they are, of the audit slot << BL_A_SHIFT.
 */
#define BL_A_READ		0x01
#define BL_A_WRITE		0x02	/* open for writing, truncate */
#define BL_A_CREATE		0x04	/* any kind of file or directory; also by rename or link */
#define BL_A_DELETE		0x08
#define BL_A_RENAME		0x10	/* from this name or to it */
#define BL_A_LINK		0x20	/* another hard link to it */
#define BL_A_ATTRIBUTES		0x40	/* mode, owner, extended attributes, ACL */
#define BL_A_KEEP		0x80	/* a directory above such a path: no rename, no symlink in its place */
#define BL_A_SHIFT		8

struct bl_rule {
	__u8 verdict;	/* BL_DENY: the rule is on. BL_ALLOW: it is off */
	__u8 opt;	/* BL_O_* of the rule */
	__u16 policy;	/* index of the source policy in the set's list, for events */
};

#define BL_P_PATHS	0x01	/* bl_paths has entries for this set */
#define BL_P_DIRS	0x02	/* among them rules on directories */
#define BL_P_INODES	0x04	/* bl_inodes may have entries for this set */

#define BL_P_FILES	0x08	/* the set has file rules */
#define BL_P_NAMES	0x10	/* the set has rules on names */
#define BL_P_FLAT_SHIFT	8	/* the bits above: BL_DIRS_* (pure/files.h) that file rules do not have */

#define BL_MAX_ALLOW_LISTS 32
#define BL_NAMES_WORDS 4	/* words of bits for names */

/* Which set holds in a container from that age on, while it has not listened and since it
 * has. An entry that is not needed says what the last does.
 */
struct bl_phase {
	__u64 from_ns;	/* since the container's first exec */
	__u32 quiet;
	__u32 listened;
};

#define BL_PHASES 5

/* One effective policy: what all policies that select a container come to. */
struct bl_policy {
	__u32 abi;		/* BL_ABI */
	__u32 revision;
	__u32 flags;		/* BL_P_* */
	__u8 fail;		/* bl_verdict at an internal failure; zero denies */
	__u8 phased;		/* phases says which set holds instead of this one */
	__u8 pad[2];
	__u32 allow_need[BL_SLOTS];	/* bit i: allow list i must name the file */
	__u64 start_for_ns[BL_SLOTS];	/* of asRoot: denyAfterStart */
	__u64 caps[BL_SLOTS];		/* bit i: capability i is denied */
	__u64 read_names[BL_NAMES_WORDS];	/* bl_name_bit of the last components of file rules that deny reading */
	__u16 allow_policy[BL_MAX_ALLOW_LISTS];	/* source policy of allow list i */
	struct bl_rule rules[BL_SLOTS][BL_R_MAX];
	struct bl_phase phases[BL_PHASES];	/* ascending; the first is from 0 on */
};

enum bl_path_kind {
	BL_PATH_EXACT = 0,	/* the file itself */
	BL_PATH_TREE = 1,	/* every file below DIR, at any depth */
	BL_PATH_CHILD = 2,	/* one level: files directly in DIR */
	/* The same of file rules, in the same order. */
	BL_PATH_FILES_EXACT = 3,
	BL_PATH_FILES_TREE = 4,
	BL_PATH_FILES_CHILD = 5,
};

/* Key of bl_paths. h is the keyed hash of the path, component by component
 * (pure/path.h); the key is random per host, so nobody can aim at a collision.
 */
struct bl_path_key {
	__u32 set;
	__u32 kind;	/* bl_path_kind */
	__u64 h[2];
};

/* Value of bl_paths and bl_inodes. */
struct bl_path_rule {
	__u32 allow_bits;		/* allow lists that name this path; of file rules: BL_A_* */
	__u8 verdict[BL_SLOTS];		/* BL_DENY: a deny rule of that slot names it */
	__u16 policy[BL_SLOTS];
	__u16 pad;
};

/* Key of bl_inodes: an inode that a rule was bound to in one container. */
struct bl_inode_key {
	__u64 ino;
	__u32 dev;	/* kernel encoding: major << 20 | minor */
	__u32 set;
};

#define BL_SSH_PORTS 30

/* Key and value of bl_ssh_to, a longest-prefix-match trie. */
struct bl_ssh_key {
	__u32 prefixlen;	/* 64 + bits of addr */
	__u32 set;
	__u32 slot;
	__u8 addr[16];		/* IPv4 as ::ffff:a.b.c.d */
};

struct bl_ssh_ports {
	__u16 n;		/* 0: any port */
	__u16 pad;
	__u16 port[BL_SSH_PORTS];	/* host byte order */
};

/* What a rule on addresses is about. Its number is BL_R_EGRESS + this. */
enum bl_net_dir {
	BL_NET_EGRESS = 0,	/* the remote address and port */
	BL_NET_INGRESS = 1,	/* the remote address, the local port */
	BL_NET_BOUND = 2,	/* the local port */
};

/* Key and value of bl_net_addrs, a longest-prefix-match trie. Each rule that is on has an
 * entry for all addresses.
 */
struct bl_net_key {
	__u32 prefixlen;	/* 64 + bits of addr */
	__u32 set;
	__u32 kind;		/* bl_net_dir << 1 | slot */
	__u8 addr[16];		/* IPv4 as ::ffff:a.b.c.d */
};

struct bl_net_addr {
	__u32 list;	/* of bl_net_ports; 0: the verdict is that of every port */
	__u8 verdict;
	__u8 pad;
	__u16 policy;
	__u32 cond;	/* of a denial: which names open it all the same, bl_name_rules; 0: none */
};

/* Key and value of bl_net_ports: the same over a protocol and a port. What no entry of a list
 * has, the bl_net_addr says.
 */
struct bl_port_key {
	__u32 prefixlen;	/* 80 + bits of port */
	__u32 set;
	__u32 list;
	__be16 proto;
	__be16 port;
};

struct bl_port_rule {
	__u8 verdict;
	__u8 pad;
	__u16 policy;
	__u32 cond;	/* as in bl_net_addr */
};

#define BL_NAME_TEXT 252

/* Key of bl_names, a longest-prefix-match trie over names written backwards, so that
 * *.example.org is a prefix of what it matches. A whole name ends with a zero.
 */
struct bl_name_key {
	__u32 prefixlen;
	__u32 set;	/* << 1 | slot, here and below */
	char name[BL_NAME_TEXT];
};

/* Key of bl_name_rules: that what matches a pattern is let pass under a condition. */
struct bl_name_rule {
	__u32 set;
	__u32 cond;
	__u64 name;	/* of the pattern: value of bl_names */
};

/* Key of bl_resolvers: a server whose answers count. */
struct bl_resolver {
	__u32 set;
	__u8 addr[16];	/* IPv4 as ::ffff:a.b.c.d */
};

/* What opens are asked about, by any set. */
#define BL_OPENS_FILES 0x01	/* file rules, which other acts on files are asked about too */
#define BL_OPENS_KEYS 0x02	/* ssh.keys */
#define BL_OPENS_PRIV 0x04	/* privileges.rawDevices, .kernelControl, .otherTasks */
#define BL_OPENS_HOST 0x08	/* section host, which other acts are asked about too */

/* The only entry of bl_config. */
struct bl_config {
	__u32 abi;
	__u32 floor_set;	/* set of containers without a binding */
	__u32 build_set;	/* set of build steps */
	__u8 scoped;		/* only cgroups below bl_scopes are recognised */
	__u8 report_allowed;	/* emit a record for every allowed exec */
	__u8 net;		/* a set may have rules on packets or ports: never cleared while the maps live */
	__u8 names;		/* a set may have rules on names: likewise */
	__u32 opens;		/* BL_OPENS_* of all sets: never cleared while the maps live */
};

#endif
