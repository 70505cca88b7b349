//go:build cgo

// Package pure builds the kernel side's decision logic as plain C, so that the same
// lines which run under BPF are tested and fuzzed in user space. The headers lie in
// this folder because cgo does not see changes of headers elsewhere.
//
// It is for tests only: no binary links it. It owns nothing. Row: tests.
package pure

/*
#cgo CFLAGS: -O1 -Wall -Werror -Wno-unused-function
#include <stdlib.h>
#include "exec.h"
#include "cgroup_name.h"
#include "path.h"
#include "ssh_names.h"

static struct bl_decision pure_decide(const void *p, const void *f)
{
	return bl_exec_decide(p, f);
}

// As bl_recognise in bpf/task.h reads a cgroup's name and its parent's.
static int pure_cgroup(const char *name, __u32 len, const char *parent, __u8 *id)
{
	char buf[BL_CGNAME] = {}, up[16] = {};
	int off;
	__u32 i;

	if (!len || len >= BL_CGNAME)
		return BL_CG_OTHER;
	for (i = 0; i < len; i++)
		buf[i] = name[i];
	for (i = 0; i < 15 && parent[i]; i++)
		up[i] = parent[i];
	if (len == 25)
		return bl_build_name(buf, len, up) ? BL_CG_BUILD : BL_CG_OTHER;
	off = bl_id_offset(len);
	if (off < 0)
		return BL_CG_OTHER;
	{
		char win[BL_WIN] = {};

		for (i = 0; i < BL_WIN - BL_WIN_ID - 1 && off + i < len; i++)
			win[BL_WIN_ID + i] = name[off + i];
		if (off > 0)
			win[BL_WIN_ID - 1] = name[off - 1];
		if (off >= 7)
			for (i = 0; i < 7; i++)
				win[BL_WIN_ID - 7 + i] = name[off - 7 + i];
		return bl_container_name(win, len, id) ? BL_CG_CONTAINER : BL_CG_OTHER;
	}
}

static void pure_sip_name(struct bl_sip *s, const char *name, __u32 len)
{
	char buf[256] __attribute__((aligned(8)));
	__u32 i;

	for (i = 0; i < 256; i++)	// what lies behind the name is arbitrary
		buf[i] = i < len ? name[i] : 0xa5;
	bl_sip_name(s, buf, len);
}

static int pure_key(const char *name, __u32 len, const char *dir)
{
	char n[BL_KEY_NAME] = {}, d[BL_KEY_NAME] = {}, tail[4] = {};
	__u32 i;

	for (i = 0; i < BL_KEY_NAME - 1 && i < len; i++)
		n[i] = name[i];
	for (i = 0; i < BL_KEY_NAME - 1 && dir[i]; i++)
		d[i] = dir[i];
	if (len >= 4)
		for (i = 0; i < 4; i++)
			tail[i] = name[len - 4 + i];
	return bl_key_file(n, tail, d);
}

static int pure_ssh_program(const char *name)
{
	char n[BL_SSH_NAME] = {};
	__u32 i;

	for (i = 0; i < BL_SSH_NAME - 1 && name[i]; i++)
		n[i] = name[i];
	return bl_ssh_program(n);
}
*/
import "C"

import "unsafe"

// Decision is struct bl_decision.
type Decision struct {
	Verdict, Rule uint8
	Policy        uint16
}

// Decide runs bl_exec_decide on a struct bl_policy and a struct bl_exec_facts.
func Decide(policy, facts unsafe.Pointer) Decision {
	d := C.pure_decide(policy, facts)
	return Decision{uint8(d.verdict), uint8(d.rule), uint16(d.policy)}
}

// CgroupName runs bl_container_name and bl_build_name: 0 other, 1 container, 2 build.
func CgroupName(name, parent string) (kind int, id [32]byte) {
	n, p := C.CString(name), C.CString(parent)
	defer C.free(unsafe.Pointer(n))
	defer C.free(unsafe.Pointer(p))
	kind = int(C.pure_cgroup(n, C.__u32(len(name)), p, (*C.__u8)(&id[0])))
	if kind != 1 {
		id = [32]byte{}
	}
	return kind, id
}

// HashPath runs the path hash over components.
func HashPath(k0, k1 uint64, components []string) [2]uint64 {
	var s C.struct_bl_sip
	C.bl_sip_init(&s, C.__u64(k0), C.__u64(k1))
	for _, c := range components {
		p := C.CString(c)
		C.pure_sip_name(&s, p, C.__u32(len(c)))
		C.free(unsafe.Pointer(p))
	}
	var h [2]C.__u64
	C.bl_sip_sum(&s, &h[0], &h[1])
	return [2]uint64{uint64(h[0]), uint64(h[1])}
}

// KeyFile runs bl_key_file: 0 none, 1 private key, 2 authorized keys, 4 .ssh directory.
func KeyFile(name, dir string) int {
	n, d := C.CString(name), C.CString(dir)
	defer C.free(unsafe.Pointer(n))
	defer C.free(unsafe.Pointer(d))
	return int(C.pure_key(n, C.__u32(len(name)), d))
}

// SSHProgram runs bl_ssh_program.
func SSHProgram(name string) bool {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	return C.pure_ssh_program(n) != 0
}
