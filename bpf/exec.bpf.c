/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * exec: what may be executed, and as whom.
 *
 * lsm and modret judge the file at bprm_check_security (once per interpreter of a
 * #! chain) and the credentials at bprm_creds_from_file, where set-user-ID has
 * taken effect and -EPERM still reaches the caller. signal judges both at
 * sched_process_exec, after the exec and before its first instruction.
 */
#include "priv.h"
#include "uses.h"

/* The first exec of a container: what its drift and root rules compare with. */
static __always_inline void bl_start(struct bl_container *c, struct bl_who *w)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct mnt_namespace *ns;
	struct super_block *sb;

	if (__sync_val_compare_and_swap(&c->started, 0, 1))
		return;
	ns = t->nsproxy->mnt_ns;
	sb = t->fs->root.mnt->mnt_sb;
	c->start_ns = bpf_ktime_get_boot_ns();
	c->init_tgid = t->tgid;
	c->root_dev = sb->s_dev;
	c->root_magic = sb->s_magic;
	c->mnt_ns = ns->ns.inum;
	c->user_level = BPF_CORE_READ(t, cred, user_ns, level);
	c->root_kuid = bl_ns_root((__u64)BPF_CORE_READ(t, cred, user_ns));
	bpf_probe_read_kernel(&c->caps, 8, __builtin_preserve_access_index(&t->cred->cap_bset));
	c->max_mount = bl_max_mount((__u64)BPF_CORE_READ(t, nsproxy, mnt_ns));
	c->sees_others = bl_own_number() != 1;
	c->started = 2;
	if (w->label)
		w->label->flags |= BL_T_INIT_TREE;
	w->init_tree = 1;
	bl_announce(w->container, c, BL_EV_START);
}

static __always_inline void bl_note_mounts(struct bl_container *c)
{
	struct task_struct *t = bpf_get_current_task_btf();

	if (bl_mnt_ns(t) == c->mnt_ns)
		c->max_mount = bl_max_mount((__u64)BPF_CORE_READ(t, nsproxy, mnt_ns));
}

/* A task that is put in later can have been given more than the container's first had. */
static __always_inline void bl_note_caps(struct bl_container *c)
{
	__u64 caps = 0;

	if (!c || c->started != 2)
		return;
	bpf_probe_read_kernel(&caps, sizeof(caps), __builtin_preserve_access_index(&bpf_get_current_task_btf()->cred->cap_bset));
	if (caps & 1ULL << CAP_SYS_ADMIN)
		c->admin = 1;
}

/* An OCI hook is run by the container's first process while that is still the runtime's
 * (createContainer: with the host's root directory). It is not what starts the container.
 */
static __always_inline int bl_is_hook(const struct bl_who *w)
{
	struct task_struct *up = bpf_get_current_task_btf()->real_parent;
	struct bl_task *t = up ? bpf_task_storage_get(&bl_tasks, up, 0, 0) : NULL;

	return t && t->state == BL_ENTERING && t->container == w->container;
}

/* Is this exec one that rules apply to? Arms a task that has entered at its first
 * exec in another mount namespace than the outside's.
 */
static __always_inline int bl_armed(struct bl_who *w, struct bl_container **c)
{
	int enters = 0;

	if (bl_who(w) == BL_HOST)
		return 0;
	if (w->state == BL_ENTERING) {
		if (w->label &&
		    w->label->outside_mnt_ns == bl_mnt_ns(bpf_get_current_task_btf()))
			return 0;	/* still the runtime */
		if (w->label)
			w->label->state = BL_ARMED;
		w->state = BL_ARMED;
		enters = 1;
	}
	*c = bpf_map_lookup_elem(&bl_containers, &w->container);
	if (enters)
		bl_note_caps(*c);
	if (!*c)
		bl_count(BL_E_CONTAINER_GONE);
	else if (!(*c)->started && bl_is_hook(w))
		return 1;
	else if (!(*c)->started)
		bl_start(*c, w);
	else if (!(*c)->max_mount && (*c)->started == 2 && !(*c)->mounted_after)	/* enrolled while running */
		bl_note_mounts(*c);
	return 1;
}

static __always_inline void bl_exec_report(struct bl_who *w, struct bl_container *c,
					   struct bl_policy *p, __u32 set, struct bl_decision d,
					   struct bl_exec_facts *f, struct file *file, __u8 layer,
					   __u8 hook, __u8 decided, const char *script)
{
	struct bl_report r = {
		.who = w, .c = c, .p = p, .d = d, .set = set,
		.object = __builtin_preserve_access_index(&file->f_path),
		.file_flags = f->flags,
		.type = BL_EV_EXEC, .hook = hook, .decided = decided, .layer = layer,
		.script = script,
	};

	bl_emit(&r);
}

static __always_inline int bl_exec_file(struct linux_binprm *bprm)
{
	struct bl_exec_facts f = { .allow_bits = 0, .path_verdict = { BL_ALLOW, BL_ALLOW } };
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct bl_policy *p;
	struct bl_decision d;
	__u32 set = 0;
	__u8 layer;

	if (!bl_armed(&w, &c))
		return 0;
	p = bl_policy_of(c, &set);
	if (!p)
		return -EPERM;
	layer = bl_file_facts(c, bl_user_path(bprm->file), &f);
	bl_name_facts(bprm->file, &f);
	bl_path_facts(c, p, set, bl_user_path(bprm->file), &f);
	d = bl_decision(p, &f);
	if (d.verdict == BL_ALLOW)
		return 0;
	bl_exec_report(&w, c, p, set, d, &f, bprm->file, layer, BL_H_BPRM_CHECK,
		       d.verdict == BL_DENY ? BL_DENIED : BL_WOULD_DENY, NULL);
	return d.verdict == BL_DENY ? -EPERM : 0;
}

/* Does the exec change who the task is? */
static __always_inline int bl_sets_id(struct linux_binprm *bprm)
{
	const struct cred *old = bpf_get_current_task_btf()->cred;

	return BPF_CORE_READ(bprm, cred, euid.val) != old->euid.val ||
	       BPF_CORE_READ(bprm, cred, egid.val) != old->egid.val;
}

static __always_inline int bl_exec_creds(struct linux_binprm *bprm, struct file *file)
{
	struct bl_exec_facts f = { .allow_bits = ~0U, .path_verdict = { BL_ALLOW, BL_ALLOW } };
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct bl_policy *p;
	struct bl_decision d;
	__u32 set = 0;
	__u8 layer;
	int slot;

	if (!bl_armed(&w, &c))
		return 0;
	p = bl_policy_of(c, &set);
	if (!p)
		return -EPERM;
	slot = bl_sets_id(bprm) ? bl_rule_slot(p, BL_R_SETID) : BL_SLOTS;
	if (slot != BL_SLOTS && bl_priv_report(&w, c, p, set, slot, BL_R_SETID, bl_user_path(file), BL_H_BPRM_CREDS, 0))
		return -EPERM;
	bl_root_facts(c, bprm->cred, &f);
	if (bl_backend == BL_MODRET)	/* runs before commoncap: see bl_exec_done */
		f.flags &= ~BL_F_FILE_CAPS;
	if (!(f.flags & (BL_F_ROOT | BL_F_NESTED | BL_F_FILE_CAPS)))
		return 0;
	bl_start_facts(c, &w, &f);
	d = bl_decision(p, &f);
	if (d.verdict == BL_ALLOW)
		return 0;
	layer = bl_file_facts(c, bl_user_path(file), &f);	/* for the record */
	bl_exec_report(&w, c, p, set, d, &f, file, layer, BL_H_BPRM_CREDS,
		       d.verdict == BL_DENY ? BL_DENIED : BL_WOULD_DENY, NULL);
	return d.verdict == BL_DENY ? -EPERM : 0;
}

SEC("lsm/bprm_check_security")
int BPF_PROG(bl_lsm_bprm, struct linux_binprm *bprm)
{
	return bl_exec_file(bprm);
}

SEC("fmod_ret/security_bprm_check")
int BPF_PROG(bl_mod_bprm, struct linux_binprm *bprm)
{
	return bl_exec_file(bprm);
}

SEC("lsm/bprm_creds_from_file")
int BPF_PROG(bl_lsm_creds, struct linux_binprm *bprm, struct file *file)
{
	return bl_exec_creds(bprm, file);
}

SEC("fmod_ret/security_bprm_creds_from_file")
int BPF_PROG(bl_mod_creds, struct linux_binprm *bprm, struct file *file)
{
	return bl_exec_creds(bprm, file);
}

/* After the exec. lsm: reports. modret: kills for file capabilities, which its
 * earlier hook cannot see. signal: judges everything, and kills.
 */
static __always_inline int bl_after_exec(struct task_struct *task, struct linux_binprm *bprm)
{
	struct bl_exec_facts f = { .allow_bits = ~0U, .path_verdict = { BL_ALLOW, BL_ALLOW } };
	struct bl_decision d = { .verdict = BL_ALLOW, .rule = BL_R_NONE };
	struct bl_config *cfg;
	struct bl_who w = {};
	struct bl_container *c = NULL;
	struct bl_policy *p;
	__u8 layer = BL_L_UNKNOWN, decided = BL_ALLOWED;
	__u32 set = 0;

	if (!bl_armed(&w, &c))
		return 0;
	cfg = bl_config();
	p = bl_policy_of(c, &set);
	if (bl_backend == BL_SIGNAL) {
		if (!p) {
			bl_kill();
			return 0;
		}
		f.allow_bits = 0;
		layer = bl_file_facts(c, bl_user_path(bprm->file), &f);
		bl_name_facts(bprm->file, &f);
		bl_path_facts(c, p, set, bl_user_path(bprm->file), &f);
		bl_root_facts(c, task->cred, &f);
		if (f.flags & (BL_F_ROOT | BL_F_NESTED))
			bl_start_facts(c, &w, &f);
		d = bl_decision(p, &f);
	} else if (bl_backend == BL_MODRET && p) {
		bl_root_facts(c, task->cred, &f);
		f.flags &= BL_F_FILE_CAPS;
		d = bl_decision(p, &f);
	}
	if (d.verdict != BL_DENY)
		bl_note_use(c, w.container, bprm->file, BL_USE_EXECUTED);
	if (d.verdict == BL_DENY) {
		decided = bl_kill();
	} else if (d.verdict == BL_AUDIT) {
		decided = BL_WOULD_DENY;
	} else if (!cfg || !cfg->report_allowed) {
		/* a script under signal: only its interpreter was judged; user
		 * space looks at the script */
		if (bl_backend != BL_SIGNAL || bprm->filename == bprm->interp || !p ||
		    (p->rules[BL_ENFORCE][BL_R_DRIFT].verdict != BL_DENY &&
		     p->rules[BL_AUDITED][BL_R_DRIFT].verdict != BL_DENY))
			return 0;
	}
	bl_exec_report(&w, c, p, set, d, &f, bprm->file, layer, BL_H_EXEC, decided,
		       bprm->filename != bprm->interp ? bprm->filename : NULL);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(bl_exec_done, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	return bl_after_exec(task, bprm);
}
