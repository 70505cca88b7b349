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
#include <string.h>
#include "exec.h"
#include "cgroup_name.h"
#include "path.h"
#include "files.h"
#include "ssh_names.h"
#include "ssh_stream.h"
#include "net.h"
#include "dns.h"
#include "uses.h"

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
	off = bl_id_offset(len, len > 1 ? name[len - 2] : 0);
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

// As bl_egress in bpf/ssh.bpf.c takes a segment in. 1: the line was found.
static int pure_ssh_segment(struct bl_ssh_stream *s, __u32 seq, const __u8 *b, __u32 len)
{
	__u8 chunk[BL_SSH_CHUNK];
	__u32 skip = 0, n, i;

	if (s->state == BL_SSH_NEW)
		bl_ssh_begin(s, seq);
	if (s->state != BL_SSH_OPEN || bl_ssh_place(s, seq, len, &skip) != BL_SSH_FRESH)
		return 0;
	while (skip < len && s->seen < BL_SSH_WINDOW) {
		n = len - skip;
		if (n > BL_SSH_CHUNK)
			n = BL_SSH_CHUNK;
		if (n > BL_SSH_WINDOW - (__u32)s->seen)
			n = BL_SSH_WINDOW - s->seen;
		for (i = 0; i < n; i++)
			chunk[i] = b[skip + i];
		if (bl_ssh_bytes(s, chunk, n, -1U))
			return 1;
		skip += n;
	}
	return 0;
}

static struct bl_decision pure_net(const void *p, __u8 act, __u8 mark, __u16 port, __u8 l0, __u8 l1)
{
	struct bl_net_facts f = { .act = act, .mark = mark, .port = port, .listed = { l0, l1 } };

	return bl_net_decide(p, &f);
}

struct pure_file_rule {	// FileRuleBytes of internal/enforce
	struct bl_path_key key;
	struct bl_path_rule rule;
};

static __u32 pure_lookup(const struct pure_file_rule *r, __u32 n, __u32 kind, const struct bl_sip *sip)
{
	__u64 h0, h1;
	__u32 i, found = 0;

	bl_sip_sum(sip, &h0, &h1);
	for (i = 0; i < n; i++)
		if (r[i].key.kind == kind && r[i].key.h[0] == h0 && r[i].key.h[1] == h1)
			found |= r[i].rule.allow_bits;
	return found;
}

// As bl_read_unnamed in bpf/files.h.
static int pure_unnamed(const struct bl_policy *p, const char *names, const __u32 *lens, __u32 n)
{
	__u64 head;
	__u32 i;

	for (i = 0; i < n; names += lens[i++]) {
		memset(&head, 0xff, sizeof(head)); // as what lies behind a short name
		memcpy(&head, names, lens[i] < 8 ? lens[i] : 8);
		if (bl_name_noted(p->read_names, head, lens[i]))
			return 0;
	}
	return n > 0;
}

// As bl_path_rules in bpf/walk.h and bl_files_act in bpf/files.h, on names one after the
// other with their lengths.
static __u32 pure_files(const void *rules, __u32 count, const void *policy, __u64 k0, __u64 k1, const char *names,
			const __u32 *lens, __u32 n, __u32 acts)
{
	const struct bl_policy *p = policy;
	__u32 flags = p->flags;
	__u32 i, kind, asks, found = 0;
	struct bl_sip sip;

	if (acts == BL_A_READ && pure_unnamed(p, names, lens, n))
		return 0;
	bl_sip_init(&sip, k0, k1);
	for (i = 0; i <= n; i++) {
		asks = bl_path_asks(i, n, bl_files_dirs(flags));
		for (kind = BL_PATH_EXACT; kind <= BL_PATH_CHILD; kind++)
			if (asks & 1 << kind)
				found |= pure_lookup(rules, count, BL_PATH_FILES_EXACT + kind, &sip);
		if (i == n)
			break;
		pure_sip_name(&sip, names, lens[i]);
		names += lens[i];
	}
	return bl_acts_denied(found, acts);
}

struct pure_dns {
	struct bl_dns_question q;
	struct bl_name_key key;
	__u64 hash;
	__u32 n;
	__u32 whole;
	struct bl_dns_record records[BL_DNS_RECORDS];
};

// As bl_dns_answer and bl_dns_take in bpf/dns.bpf.c read a message. 0: it is none.
static int pure_dns(const void *b, __u32 len, __u32 off, struct pure_dns *d)
{
	bl_dns_src s = { .b = b, .len = len };
	struct bl_dns_record r = {};
	__u32 at, ttl = ~0U, i;

	if (bl_dns_begin(&s, off, &d->q))
		return 0;
	d->hash = bl_dns_key(&s, d->q.name, d->q.len, &d->key);
	d->whole = d->q.answers <= BL_DNS_RECORDS;
	at = d->q.end;
	for (i = 0; i < BL_DNS_RECORDS && i < d->q.answers; i++) {
		if (bl_dns_read(&s, off, at, &r)) {
			d->whole = 0;
			break;
		}
		at = r.next;
		if (!bl_dns_counts(&r, &ttl))
			continue;
		d->records[d->n] = r;
		d->records[d->n++].ttl = bl_dns_ttl(ttl);
	}
	return 1;
}

static int pure_dns_kind(const struct pure_dns *d)
{
	return bl_dns_is_query(&d->q) | bl_dns_is_answer(&d->q) << 1;
}

// As bl_file_end in bpf/uses.h: of a short name by its words, behind which anything lies.
static __u32 pure_use(const char *name, __u32 len)
{
	__u64 w[5] = {};
	__u32 end = 0, at = len - 4;

	memset(w, 0xa5, 32);
	if (len >= 4 && len < 32) {
		memcpy(w, name, len);
		end = bl_name_end(w[at / 8], w[at / 8 + 1], at);
	} else if (len >= 4) {
		memcpy(&end, name + at, 4);
	}
	return bl_use_named(end);
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

import (
	"strings"
	"unsafe"
)

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

// FileActs runs the matching of file rules on the components of a path. rules points to count
// entries of enforce.FileRuleBytes, effective to the enforce.PolicyBytes of the set. It returns which of acts are denied: in the low byte by
// policies that enforce, in the next by those that audit.
func FileActs(rules unsafe.Pointer, count int, effective unsafe.Pointer, k0, k1 uint64, components []string, acts uint8) uint32 {
	names := C.CString(strings.Join(components, ""))
	defer C.free(unsafe.Pointer(names))
	lens := make([]C.__u32, len(components)+1)
	for i, c := range components {
		lens[i] = C.__u32(len(c))
	}
	return uint32(C.pure_files(rules, C.__u32(count), effective, C.__u64(k0), C.__u64(k1), names, &lens[0],
		C.__u32(len(components)), C.__u32(acts)))
}

// ActsOpened runs bl_acts_opened. It and those below return acts: BL_A_*, policy.FileActs.
func ActsOpened(reads, writes, trunc bool) uint8 {
	return uint8(C.bl_acts_opened(flag(reads), flag(writes), flag(trunc)))
}

// ActsMapped runs bl_acts_mapped.
func ActsMapped(access, writes, shared bool) uint8 {
	return uint8(C.bl_acts_mapped(flag(access), flag(writes), flag(shared)))
}

// ActsFrom runs bl_acts_from.
func ActsFrom(exchange bool) uint8 { return uint8(C.bl_acts_from(flag(exchange))) }

// ActsTo runs bl_acts_to.
func ActsTo() uint8 { return uint8(C.bl_acts_to()) }

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// KeyFile runs bl_key_file: 0 none, 1 private key, 2 authorized keys, 4 .ssh directory.
func KeyFile(name, dir string) int {
	n, d := C.CString(name), C.CString(dir)
	defer C.free(unsafe.Pointer(n))
	defer C.free(unsafe.Pointer(d))
	return int(C.pure_key(n, C.__u32(len(name)), d))
}

// UseOfOpen runs bl_name_end and bl_use_named: 0 none, 3 archive, 4 script.
func UseOfOpen(name string) int {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	return int(C.pure_use(n, C.__u32(len(name))))
}

// SSHProgram runs bl_ssh_program.
func SSHProgram(name string) bool {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	return C.pure_ssh_program(n) != 0
}

// Segment is a part of a TCP stream.
type Segment struct {
	Seq   uint32
	Bytes []byte
}

// ScanSSH tells whether the SSH identification line is found in segments that are sent
// in this order.
func ScanSSH(segments []Segment) bool {
	var s C.struct_bl_ssh_stream
	for _, g := range segments {
		if len(g.Bytes) == 0 {
			continue
		}
		p := C.CBytes(g.Bytes)
		found := C.pure_ssh_segment(&s, C.__u32(g.Seq), (*C.__u8)(p), C.__u32(len(g.Bytes)))
		C.free(p)
		if found != 0 {
			return true
		}
	}
	return false
}

// The acts and marks of [DecideNet].
const (
	NetStream    = 0 // enum bl_net_act
	NetConnect   = 1
	NetListen    = 2
	MarkAccepted = 1 // BL_SSH_*
	MarkDialled  = 2
)

// DecideNet runs bl_net_decide on a struct bl_policy; nil: the policy was not found.
func DecideNet(policy unsafe.Pointer, act, mark uint8, port uint16, listed [2]bool) Decision {
	var l [2]C.__u8
	for i, b := range listed {
		if b {
			l[i] = 1
		}
	}
	d := C.pure_net(policy, C.__u8(act), C.__u8(mark), C.__u16(port), l[0], l[1])
	return Decision{uint8(d.verdict), uint8(d.rule), uint16(d.policy)}
}

// DNSMessage is what is read of one.
type DNSMessage struct {
	ID, Type      uint16
	Query, Answer bool
	Name          string // lower case, without a last dot; empty: not one that a rule can name
	Whole         bool   // every answer was read
	Addrs         []DNSAddr
}

// DNSAddr is an address that a message opens, and for how many seconds.
type DNSAddr struct {
	Addr [16]byte
	TTL  uint32
}

// ReadDNS runs bpf/pure/dns.h on a packet whose DNS message starts at off. ok is false if it is none.
func ReadDNS(packet []byte, off int) (m DNSMessage, ok bool) {
	p := C.CBytes(packet)
	defer C.free(p)
	d := (*C.struct_pure_dns)(C.calloc(1, C.sizeof_struct_pure_dns))
	defer C.free(unsafe.Pointer(d))
	if C.pure_dns(p, C.__u32(len(packet)), C.__u32(off), d) == 0 {
		return m, false
	}
	kind := C.pure_dns_kind(d)
	m = DNSMessage{ID: uint16(d.q.id), Type: uint16(d.q._type), Query: kind&1 != 0, Answer: kind&2 != 0, Whole: d.whole != 0}
	if d.hash != 0 {
		for i := int(d.q.len) - 1; i >= 0; i-- {
			m.Name += string(rune(d.key.name[i]))
		}
	}
	for _, r := range d.records[:d.n] {
		m.Addrs = append(m.Addrs, DNSAddr{Addr: *(*[16]byte)(unsafe.Pointer(&r.addr)), TTL: uint32(r.ttl)})
	}
	return m, true
}
