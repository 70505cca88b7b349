/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * path.h: the keyed hash of a path, component by component, so that every ancestor
 * directory's hash falls out of one pass. It is SipHash-1-3 (Aumasson and
 * Bernstein, "SipHash: a fast short-input PRF", 2012) with a 128-bit result over
 * the words of each name, zero-padded, followed by a word that holds its length:
 * reading from the end, this encoding is unambiguous.
 *
 * The key is random and secret, so a container cannot build a path that collides
 * with a rule's. The Go twin is internal/enforce/pathhash.go; the contract test
 * compares them.
 */
#ifndef BL_PURE_PATH_H
#define BL_PURE_PATH_H

#include "types.h"

struct bl_sip {
	__u64 v[4];
};

#define BL_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

static __always_inline void bl_sip_round(struct bl_sip *s)
{
	__u64 v0 = s->v[0], v1 = s->v[1], v2 = s->v[2], v3 = s->v[3];

	v0 += v1; v1 = BL_ROTL(v1, 13); v1 ^= v0; v0 = BL_ROTL(v0, 32);
	v2 += v3; v3 = BL_ROTL(v3, 16); v3 ^= v2;
	v0 += v3; v3 = BL_ROTL(v3, 21); v3 ^= v0;
	v2 += v1; v1 = BL_ROTL(v1, 17); v1 ^= v2; v2 = BL_ROTL(v2, 32);
	s->v[0] = v0; s->v[1] = v1; s->v[2] = v2; s->v[3] = v3;
}

static __always_inline void bl_sip_init(struct bl_sip *s, __u64 k0, __u64 k1)
{
	s->v[0] = k0 ^ 0x736f6d6570736575ULL;
	s->v[1] = k1 ^ 0x646f72616e646f6dULL ^ 0xee;
	s->v[2] = k0 ^ 0x6c7967656e657261ULL;
	s->v[3] = k1 ^ 0x7465646279746573ULL;
}

static __always_inline void bl_sip_word(struct bl_sip *s, __u64 w)
{
	s->v[3] ^= w;
	bl_sip_round(s);
	s->v[0] ^= w;
}

/* The hash of everything taken in so far; s can go on afterwards. */
static __always_inline void bl_sip_sum(const struct bl_sip *s, __u64 *h0, __u64 *h1)
{
	struct bl_sip t = *s;

	t.v[2] ^= 0xee;
	bl_sip_round(&t); bl_sip_round(&t); bl_sip_round(&t);
	*h0 = t.v[0] ^ t.v[1] ^ t.v[2] ^ t.v[3];
	t.v[1] ^= 0xdd;
	bl_sip_round(&t); bl_sip_round(&t); bl_sip_round(&t);
	*h1 = t.v[0] ^ t.v[1] ^ t.v[2] ^ t.v[3];
}

#define BL_NAME_WORDS 32

/* One component: len bytes (1..255) at name, in a buffer of 256 aligned bytes whose
 * content after len is arbitrary.
 */
static __always_inline void bl_sip_name(struct bl_sip *s, const char *name, __u32 len)
{
	const __u64 *w = (const __u64 *)name;
	__u32 i, left;
	__u64 v;

	for (i = 0; i < BL_NAME_WORDS; i++) {
		if (i * 8 >= len)
			break;
		v = w[i];
		left = len - i * 8;
		if (left < 8)
			v &= (1ULL << (left * 8)) - 1;
		bl_sip_word(s, v);
	}
	bl_sip_word(s, (__u64)len | 0x2fULL << 56);
}

#endif
