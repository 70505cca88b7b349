/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel side of Belay as one object: the files below share maps and constants.
 * Which of the programs are loaded depends on the backend: internal/enforce/hooks.go.
 */
#include "include/vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "exec.bpf.c"
#include "lifecycle.bpf.c"
#include "file.bpf.c"
#include "files.bpf.c"
#include "priv.bpf.c"
#include "host.bpf.c"
#include "net.bpf.c"
#include "ssh.bpf.c"
#include "netrules.bpf.c"
#include "netpacket.bpf.c"
#include "dns.bpf.c"
#include "held.bpf.c"
#include "sock.bpf.c"
#include "syscall.bpf.c"
#include "contract.bpf.c"

/* bpf2go makes Go twins of the types that BTF holds; these are used only by value. */
#define BL_TWIN(kind, name) const kind name *bl_twin_##name __attribute__((unused))
BL_TWIN(enum, bl_rule_id);
BL_TWIN(enum, bl_verdict);
BL_TWIN(enum, bl_slot);
BL_TWIN(enum, bl_path_kind);
BL_TWIN(enum, bl_event_type);
BL_TWIN(enum, bl_decided);
BL_TWIN(enum, bl_hook);
BL_TWIN(enum, bl_layer);
BL_TWIN(enum, bl_state);
BL_TWIN(enum, bl_class);
BL_TWIN(enum, bl_held);
BL_TWIN(enum, bl_global);
BL_TWIN(enum, bl_backend_id);
BL_TWIN(enum, bl_code);
BL_TWIN(enum, bl_sock_kind);
BL_TWIN(enum, bl_host_kind);
BL_TWIN(enum, bl_caller_kind);
BL_TWIN(enum, bl_guard_mode);
BL_TWIN(enum, bl_net_dir);
BL_TWIN(struct, bl_event);

/* The kernel refuses LSM programs whose licence is not GPL-compatible. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
