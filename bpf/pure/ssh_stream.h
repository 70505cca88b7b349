/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ssh_stream.h: finds the SSH identification line in one direction of a TCP stream:
 * a line that starts with "SSH-" within the first 8 KiB, over segments of any size
 * and repeated in any way. A server may send other lines first (RFC 4253, 4.2).
 *
 * Lines end in LF. Carriage returns are left out wherever they are, since a client
 * (dropbear's ident_readln) leaves them out too; so is the urgent byte of a segment,
 * which a receiver without SO_OOBINLINE takes out of the stream (tcp(7)).
 *
 * Pure: sequence numbers and bytes in, a finding out. Follows one stream in 16 bytes.
 */
#ifndef BL_PURE_SSH_STREAM_H
#define BL_PURE_SSH_STREAM_H

#include "types.h"

#define BL_SSH_WINDOW	8192	/* bytes of a stream that are looked at */
#define BL_SSH_CHUNK	128	/* bytes taken in at once */

/* Which end opened a connection: bl_ssh_stream.mark. Neither: not known. Both: a
 * simultaneous open.
 */
#define BL_SSH_ACCEPTED	0x01
#define BL_SSH_DIALLED	0x02
#define BL_SSH_ENDS	(BL_SSH_ACCEPTED | BL_SSH_DIALLED)
#define BL_SSH_TOLD	0x04	/* a raw socket's packets were reported */

enum bl_ssh_state {
	BL_SSH_NEW = 0,		/* its first sequence number is not known */
	BL_SSH_OPEN = 1,	/* being looked at */
	BL_SSH_CLEAR = 2,	/* passes, for good */
	BL_SSH_DENIED = 3,	/* stopped, for good */
};

/* The zero value is a stream of which nothing is known. */
struct bl_ssh_stream {
	__u64 last;	/* the last bytes, the newest lowest; carriage returns left out */
	__u32 next_seq;	/* sequence number of the byte that comes next */
	__u16 seen;	/* bytes of the window that are past */
	__u8 state;	/* bl_ssh_state */
	__u8 mark;	/* BL_SSH_* */
};

_Static_assert(sizeof(struct bl_ssh_stream) == 16, "kept for every TCP stream of a container");

#define BL_SSH_LINE	0x0a5353482dULL	/* "\nSSH-" */
#define BL_SSH_TAIL(v, bytes) ((v) & ((1ULL << ((bytes) * 8)) - 1))

/* The stream starts at seq, at the start of a line. */
static __always_inline void bl_ssh_begin(struct bl_ssh_stream *s, __u32 seq)
{
	s->last = '\n';
	s->next_seq = seq;
	s->seen = 0;
	s->state = BL_SSH_OPEN;
}

/* Goes on at seq; what lay between was not seen and counts as the middle of a line. */
static __always_inline void bl_ssh_resume(struct bl_ssh_stream *s, __u32 seq)
{
	__u32 lost = seq - s->next_seq;

	s->last = 0;
	s->next_seq = seq;
	s->state = BL_SSH_OPEN;
	if (lost >= BL_SSH_WINDOW - (__u32)s->seen) {
		s->seen = BL_SSH_WINDOW;
		s->state = BL_SSH_CLEAR;
	} else {
		s->seen += lost;
	}
}

enum bl_ssh_place {
	BL_SSH_OLD = 0,		/* all of it was taken in before */
	BL_SSH_FRESH = 1,	/* what follows *skip bytes is new and comes next */
	BL_SSH_AHEAD = 2,	/* bytes before it are missing */
};

/* Where a segment of len bytes at seq lies. Sequence numbers wrap. */
static __always_inline int bl_ssh_place(const struct bl_ssh_stream *s, __u32 seq, __u32 len,
					__u32 *skip)
{
	__u32 behind = s->next_seq - seq;

	if ((__s32)behind < 0)
		return BL_SSH_AHEAD;
	if (behind >= len)
		return BL_SSH_OLD;
	*skip = behind;
	return BL_SSH_FRESH;
}

/* Takes in the next n bytes, at most BL_SSH_CHUNK, in a buffer of BL_SSH_CHUNK. urgent:
 * index of the urgent byte, which is overwritten; n or more: none. Returns 1 when the
 * line was found.
 */
static __always_inline int bl_ssh_bytes(struct bl_ssh_stream *s, __u8 *b, __u32 n, __u32 urgent)
{
	__u64 last = s->last;
	__u32 i;

	if (urgent < n && urgent < BL_SSH_CHUNK)
		b[urgent] = '\r';
	for (i = 0; i < BL_SSH_CHUNK; i++) {
		if (i >= n)
			break;
		if (b[i] == '\r')
			continue;
		last = last << 8 | b[i];
		if (BL_SSH_TAIL(last, 5) == BL_SSH_LINE)
			return 1;
	}
	s->last = last;
	s->next_seq += n;
	s->seen += n;
	return 0;
}

/* Does what was taken in end within the line's first four bytes? */
static __always_inline int bl_ssh_partial(const struct bl_ssh_stream *s)
{
	return BL_SSH_TAIL(s->last, 2) == 0x0a53 || BL_SSH_TAIL(s->last, 3) == 0x0a5353 ||
	       BL_SSH_TAIL(s->last, 4) == 0x0a535348;
}

#endif
