/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * dns.h: what is read of a DNS message (RFC 1035): one question, and the addresses of the
 * answers to it. Pure, but for how bytes are loaded, BL_DNS_LOAD. Compression pointers are
 * stepped over and never followed, so that no message makes a loop. What cannot be read opens
 * nothing.
 */
#ifndef BL_PURE_DNS_H
#define BL_PURE_DNS_H

#include "types.h"
#include "../rules.h"

#ifdef __bpf__
typedef struct __sk_buff bl_dns_src;
#define BL_DNS_LOAD(s, off, to, n) bpf_skb_load_bytes(s, off, to, n)
#else
typedef struct {
	const __u8 *b;
	__u32 len;
} bl_dns_src;

#ifndef __noinline
#define __noinline static __attribute__((noinline))
#endif

static inline int bl_dns_load(const bl_dns_src *s, __u32 off, void *to, __u32 n)
{
	if (off > s->len || n > s->len - off)
		return -1;
	__builtin_memcpy(to, s->b + off, n);
	return 0;
}
#define BL_DNS_LOAD(s, off, to, n) bl_dns_load(s, off, to, n)
#endif

#define BL_DNS_HEADER	12
#define BL_DNS_LABELS	32	/* of a name; one with more opens nothing */
#define BL_DNS_RECORDS	32	/* of the answers; what is behind them opens nothing */

/* https://www.iana.org/assignments/dns-parameters */
#define BL_DNS_A	1
#define BL_DNS_CNAME	5
#define BL_DNS_AAAA	28
#define BL_DNS_IN	1

#define BL_DNS_TTL_MIN	5	/* seconds: a client needs some to connect, whatever the TTL is */
#define BL_DNS_TTL_MAX	86400

static __always_inline __u32 bl_be16(const __u8 *b)
{
	return (__u32)b[0] << 8 | b[1];
}

static __always_inline __u32 bl_be32(const __u8 *b)
{
	return bl_be16(b) << 16 | bl_be16(b + 2);
}

struct bl_dns_question {
	__u32 name;	/* where its name starts */
	__u32 len;	/* of the name as text, without the last dot */
	__u32 end;	/* what is behind the question */
	__u16 id;
	__u16 flags;
	__u16 type;
	__u16 answers;
};

/* A query, or an answer without an error; not a notify or an update. */
static __always_inline int bl_dns_is_query(const struct bl_dns_question *q)
{
	return !(q->flags & 0xf800);
}

static __always_inline int bl_dns_is_answer(const struct bl_dns_question *q)
{
	return (q->flags & 0xf80f) == 0x8000;
}

/* Reads the header and the question of the message at off. 0, or -1: nothing to be used.
 * verifier: all; the functions with loops are global, so that each is verified once.
 */
__noinline int bl_dns_begin(bl_dns_src *s, __u32 off, struct bl_dns_question *q)
{
	__u8 h[BL_DNS_HEADER], n = 1;
	__u32 at = off + BL_DNS_HEADER;
	int i;

	if (!q || off > 0xffff || BL_DNS_LOAD(s, off, h, sizeof(h)) || bl_be16(h + 4) != 1)
		return -1;
	q->id = bl_be16(h);
	q->flags = bl_be16(h + 2);
	q->answers = bl_be16(h + 6);
	q->name = at;
	for (i = 0; i <= BL_DNS_LABELS; i++) {
		if (BL_DNS_LOAD(s, at, &n, 1) || n > 63)
			return -1;
		if (!n)
			break;
		at += n + 1;
	}
	if (n || at == q->name || at - q->name > BL_NAME_TEXT)
		return -1;
	q->len = at - q->name - 1;
	if (BL_DNS_LOAD(s, at + 1, h, 4) || bl_be16(h + 2) != BL_DNS_IN)
		return -1;
	q->type = bl_be16(h);
	q->end = at + 5;
	return 0;
}

/* Writes the name of len characters at off backwards into k, in lower case, and returns a hash
 * of it; 0: it has other characters than names of hosts have. k->name is zero before.
 */
static __always_inline __u64 bl_dns_key(bl_dns_src *s, __u32 off, __u32 len, struct bl_name_key *k)
{
	__u64 hash = 0xcbf29ce484222325ULL, at;	/* FNV-1a */
	__u8 b, left;
	__u32 i;

	if (!len || len >= BL_NAME_TEXT || off > 0xffff || BL_DNS_LOAD(s, off, &left, 1))
		return 0;
	for (i = 0; i < BL_NAME_TEXT - 1; i++) {
		if (i >= len)
			break;
		if (BL_DNS_LOAD(s, off + 1 + i, &b, 1))
			return 0;
		if (!left) {
			left = b;
			b = '.';
		} else {
			left--;
			if (b >= 'A' && b <= 'Z')
				b += 'a' - 'A';
			if (!(b >= 'a' && b <= 'z') && !(b >= '0' && b <= '9') && b != '-' && b != '_')
				return 0;
		}
		at = len - 1 - i;
		/* verifier: all; clang would check one copy of the index and use another */
		asm volatile("" : "+r"(at));
		if (at >= BL_NAME_TEXT)
			return 0;
		k->name[at] = b;
		hash = (hash ^ b) * 0x100000001b3ULL;
	}
	return hash ? hash : 1;
}

/* One resource record. type is 0 unless it is an address or a CNAME. */
struct bl_dns_record {
	__u32 addr[4];	/* IPv4 as ::ffff:a.b.c.d, network byte order */
	__u32 ttl;
	__u32 next;	/* where the next one starts */
	__u32 type;
};

/* Returns where the name at off ends, of a message that starts at base; 0: it does not, or points
 * to what is not before it.
 */
__noinline __u32 bl_dns_skip(bl_dns_src *s, __u32 base, __u32 off)
{
	__u32 first = off, to;
	__u8 n, low;
	int i;

	for (i = 0; i <= BL_DNS_LABELS; i++) {
		if (off > 0x1ffff || BL_DNS_LOAD(s, off, &n, 1))
			return 0;
		if (!n)
			return off + 1;
		if ((n & 0xc0) == 0xc0) {
			if (BL_DNS_LOAD(s, off + 1, &low, 1))
				return 0;
			to = (__u32)(n & 0x3f) << 8 | low;
			return to >= BL_DNS_HEADER && to < first - base ? off + 2 : 0;
		}
		if (n > 63)
			return 0;
		off += n + 1;
	}
	return 0;
}

/* Reads the record at off of a message that starts at base. 0, or -1: it is none. */
__noinline int bl_dns_read(bl_dns_src *s, __u32 base, __u32 off, struct bl_dns_record *r)
{
	__u8 h[10], mapped[4] = { 0, 0, 0xff, 0xff };
	__u32 len, type;

	if (!r)
		return -1;
	off = bl_dns_skip(s, base, off);
	if (!off || off > 0x1ffff || BL_DNS_LOAD(s, off, h, sizeof(h)))
		return -1;
	type = bl_be16(h);
	len = bl_be16(h + 8);
	r->ttl = bl_be32(h + 4);
	if (r->ttl >> 31)	/* RFC 2181, 8 */
		r->ttl = 0;
	off += sizeof(h);
	r->next = off + len;
	r->type = 0;
	if (bl_be16(h + 2) != BL_DNS_IN)
		return 0;
	if (type == BL_DNS_A) {
		if (len != 4 || BL_DNS_LOAD(s, off, &r->addr[3], 4))
			return -1;
		r->addr[0] = 0;
		r->addr[1] = 0;
		__builtin_memcpy(&r->addr[2], mapped, 4);
	} else if (type == BL_DNS_AAAA) {
		if (len != 16 || BL_DNS_LOAD(s, off, r->addr, 16))
			return -1;
	} else if (type != BL_DNS_CNAME) {
		return 0;
	}
	r->type = type;
	return 0;
}

/* May a name open this address? Not those that mean the own host, the own link, or many. */
static __always_inline int bl_dns_opens(const __u32 *addr)
{
	const __u8 *a = (const __u8 *)addr;

	if (!addr[0] && !addr[1] && a[8] == 0 && a[9] == 0 && a[10] == 0xff && a[11] == 0xff)
		return a[12] != 0 && a[12] != 127 && a[12] < 224 && !(a[12] == 169 && a[13] == 254);
	if (!addr[0] && !addr[1] && !addr[2])	/* ::, ::1 and IPv4-compatible ones */
		return 0;
	return a[0] != 0xff && !(a[0] == 0xfe && (a[1] & 0xc0) == 0x80);
}

/* Does a record open an address? ttl: the lowest so far, for which it does. */
static __always_inline int bl_dns_counts(const struct bl_dns_record *r, __u32 *ttl)
{
	if (!r->type)
		return 0;
	if (r->ttl < *ttl)	/* also of the aliases that lead to it */
		*ttl = r->ttl;
	return r->type != BL_DNS_CNAME && bl_dns_opens(r->addr);
}

/* For how many seconds an address is open by a chain whose lowest TTL is this. */
static __always_inline __u32 bl_dns_ttl(__u32 ttl)
{
	if (ttl < BL_DNS_TTL_MIN)
		return BL_DNS_TTL_MIN;
	return ttl > BL_DNS_TTL_MAX ? BL_DNS_TTL_MAX : ttl;
}

#endif
