/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ssh_names.h: SSH servers and key files by name. A name is the cheapest of several
 * tests, never the only one: a renamed server is still caught when it listens or
 * speaks (ssh_stream.h).
 */
#ifndef BL_PURE_SSH_NAMES_H
#define BL_PURE_SSH_NAMES_H

#include "types.h"

#define BL_SSH_NAME 16

/* Compares a name with a literal: the literal and the end must be there. */
#define BL_IS(name, lit) (!__builtin_memcmp(name, lit, sizeof(lit)))

/* name: a file's own name in BL_SSH_NAME bytes, zero-padded, cut if longer. */
static __always_inline int bl_ssh_program(const char *name)
{
	return BL_IS(name, "sshd") || BL_IS(name, "sshd-session") || BL_IS(name, "sshd-auth") ||
	       BL_IS(name, "dropbear") || BL_IS(name, "dropbearmulti") || BL_IS(name, "tinysshd") ||
	       BL_IS(name, "lshd") || BL_IS(name, "wolfsshd");
}

#define BL_KEY_NAME 32

enum bl_key_kind {
	BL_KEY_NONE = 0,
	BL_KEY_PRIVATE = 1,	/* may not be read */
	BL_KEY_AUTHORIZED = 2,	/* may not be written */
	BL_KEY_DIR = 4,		/* a directory named .ssh: may not be renamed */
};

/* name: a file's own name and its directory's, both in BL_KEY_NAME bytes, zero-padded,
 * cut if longer. tail: the last four bytes of the whole name.
 *
 * Private: ssh_host_*_key and dropbear_*_key anywhere, and in a directory .ssh everything but what is
 * public by purpose (*.pub, known_hosts*, config, authorized_keys*, environment, rc);
 * id_rsa, id_dsa, id_ecdsa, id_ed25519 and their _sk forms anywhere.
 */
static __always_inline int bl_key_file(const char *name, const char *tail, const char *dir)
{
	if (BL_IS(name, ".ssh"))
		return BL_KEY_DIR;
	if (!__builtin_memcmp(name, "authorized_keys", 15) && (!name[15] || (name[15] == '2' && !name[16])))
		return BL_KEY_AUTHORIZED;
	if (tail[0] == '.' && tail[1] == 'p' && tail[2] == 'u' && tail[3] == 'b')
		return BL_KEY_NONE;
	if (!__builtin_memcmp(name, "ssh_host_", 9) ||
	    (!__builtin_memcmp(name, "dropbear_", 9) && tail[0] == '_' && tail[1] == 'k' &&
	     tail[2] == 'e' && tail[3] == 'y'))
		return BL_KEY_PRIVATE;
	if (BL_IS(name, "id_rsa") || BL_IS(name, "id_dsa") || BL_IS(name, "id_ecdsa") ||
	    BL_IS(name, "id_ed25519") || BL_IS(name, "id_ecdsa_sk") || BL_IS(name, "id_ed25519_sk"))
		return BL_KEY_PRIVATE;
	if (!BL_IS(dir, ".ssh"))
		return BL_KEY_NONE;
	if (!__builtin_memcmp(name, "known_hosts", 11) || BL_IS(name, "config") ||
	    BL_IS(name, "environment") || BL_IS(name, "rc"))
		return BL_KEY_NONE;
	return BL_KEY_PRIVATE;
}

#endif
