/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * contract: runs the pure decisions in the kernel, on input that a test or benchmark
 * puts into bl_contracts. LSM programs cannot be run by BPF_PROG_TEST_RUN; raw_tp
 * ones can. Never attached.
 */
#include "facts.h"

struct bl_contract {
	struct bl_exec_facts facts;
	struct bl_policy policy;
	struct bl_decision decision;
	__u32 pad;
	__u64 path_h[2];
	char path_name[BL_NAME];
	__u32 path_len;
	__u32 pad2;
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

