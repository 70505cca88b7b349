/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * contract: runs the pure decisions in the kernel, on input that a test or benchmark
 * puts into bl_contracts. LSM programs cannot be run by BPF_PROG_TEST_RUN; raw_tp
 * ones can. Never attached.
 */
#include "files.h"

/* What one turn of bl_bench_run does. Each holds what the one before it does, but for
 * BL_B_OPEN and what follows.
 */
enum bl_bench {
	BL_B_EMPTY = 0,		/* the loop itself */
	BL_B_LABEL = 1,		/* whose is the task: all that an unconfined one costs */
	BL_B_POLICY = 2,	/* and its container and policy */
	BL_B_FILE = 3,		/* and where the file comes from, and its name */
	BL_B_EXEC = 4,		/* and the rules on paths, the credentials, the decision */
	BL_B_OPEN = 5,		/* what an open costs: the label, and is it a key? */
	BL_B_CGROUP = 6,	/* whose is the task, for programs without task storage */
	BL_B_EMIT = 7,		/* BL_B_EXEC, and a record of it in the ring of denials */
	BL_B_FILES_ASK = 8,	/* what file rules of nobody cost: is there one? */
	BL_B_FILES = 9,		/* an open that file rules judge: the label, the walk, the rules */
};

struct bl_contract {
	struct bl_exec_facts facts;
	struct bl_policy policy;
	struct bl_decision decision;
	__u32 pad;
	__u64 path_h[2];
	char path_name[BL_NAME];
	__u32 path_len;
	enum bl_bench bench;	/* what to time */
	__u32 loops;	/* how often */
	__u32 pad2;
	__u64 loop_ns;	/* how long it took */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bl_contract);
} bl_contracts SEC(".maps");

SEC("raw_tp/bl_contract")
int bl_contract_run(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 zero = 0;
	struct bl_contract *c = bpf_map_lookup_elem(&bl_contracts, &zero);
	struct bl_sip sip;

	if (!c)
		return -1;
	c->decision = bl_decision(&c->policy, &c->facts);
	bl_sip_init(&sip, bl_sip_k0, bl_sip_k1);
	if (c->path_len && c->path_len < BL_NAME)
		bl_sip_name(&sip, c->path_name, c->path_len);
	bl_sip_sum(&sip, &c->path_h[0], &c->path_h[1]);
	return 0;
}

/* The task that runs this judges its own program, the way bl_exec_done does under
 * signal. There is no tracepoint whose arguments could be given here.
 */
static long bl_bench_turn(__u32 i, __u32 *what)
{
	struct bl_exec_facts f = { .allow_bits = 0, .path_verdict = { BL_ALLOW, BL_ALLOW } };
	struct task_struct *task = bpf_get_current_task_btf();
	struct bl_container *c = NULL;
	struct bl_who w = {};
	struct bl_decision d;
	struct bl_policy *p;
	struct file *file;
	__u32 set = 0;
	__u8 layer;

	switch (*what) {
	case BL_B_EMPTY:
		return 0;
	case BL_B_LABEL:
		bl_who(&w);
		return 0;
	case BL_B_CGROUP:
		bl_container_of(bl_cgroup_of(task));
		return 0;
	}
	file = task->mm->exe_file;
	if (*what == BL_B_OPEN) {
		if (bl_key_maybe(file) && bl_inside(&w, &c) && !bl_overlay_inside(c, file->f_path.dentry))
			bl_key_dentry(file->f_path.dentry, file->f_path.mnt);
		return 0;
	}
	if (!bl_armed(&w, &c))
		return 0;
	p = bl_policy_of(c, &set);
	if (!p || *what == BL_B_POLICY)
		return 0;
	layer = bl_file_facts(c, bl_user_path(file), &f);
	bl_name_facts(file, &f);
	if (*what == BL_B_FILE)
		return 0;
	bl_path_facts(c, p, set, bl_user_path(file), &f);
	bl_root_facts(c, task->cred, &f);
	if (f.flags & (BL_F_ROOT | BL_F_NESTED))
		bl_start_facts(c, &w, &f);
	d = bl_decision(p, &f);
	if (*what == BL_B_EMIT)
		bl_exec_report(&w, c, p, set, d, &f, file, layer, BL_H_EXEC, BL_DENIED, NULL);
	return 0;
}

static long bl_bench_files(__u32 i, __u32 *what)
{
	struct bl_container *c = NULL;
	struct bl_who w = {};

	if (bl_files_used() && *what == BL_B_FILES && bl_inside(&w, &c))
		bl_files_opened(&w, c, bpf_get_current_task_btf()->mm->exe_file);
	return 0;
}

SEC("raw_tp/bl_bench")
int bl_bench_run(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 zero = 0, what;
	struct bl_contract *c = bpf_map_lookup_elem(&bl_contracts, &zero);
	__u64 start;

	if (!c)
		return -1;
	what = c->bench;
	start = bpf_ktime_get_ns();
	if (what >= BL_B_FILES_ASK)
		bpf_loop(c->loops, bl_bench_files, &what, 0);
	else
		bpf_loop(c->loops, bl_bench_turn, &what, 0);
	c->loop_ns = bpf_ktime_get_ns() - start;
	return 0;
}

/* What it costs to be called and timed at all: bpf_stats of programs that return at once.
 * The body of bl_exec_done is there, since the size of a program decides how cold it is.
 */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(bl_bench_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	if (old_pid >= 0)	/* always */
		return 0;
	return bl_after_exec(task, bprm);
}

SEC("cgroup_skb/egress")
int bl_bench_skb(struct __sk_buff *skb)
{
	return 1;
}
