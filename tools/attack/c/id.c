// SPDX-License-Identifier: Apache-2.0
/*
 * id: prints the credentials it runs with. "id setuid0 PROG ARGS…" becomes user 0
 * first and then executes PROG: what a program with the right to do so can do.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/capability.h>

static unsigned long long effective(void)
{
	struct __user_cap_header_struct hdr = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (syscall(SYS_capget, &hdr, data))
		return 0;
	return data[0].effective | (unsigned long long)data[1].effective << 32;
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "setuid0")) {
		/* Not through libc, which would do nothing more for a single thread. */
		if (syscall(SYS_setresuid, 0, 0, 0)) {
			perror("setresuid");
			return 2;
		}
		execv(argv[2], argv + 2);
		perror(argv[2]);
		return errno == EPERM || errno == EACCES ? 1 : 2;
	}
	printf("uid=%d euid=%d gid=%d egid=%d cap=%016llx\n", getuid(), geteuid(), getgid(),
	       getegid(), effective());
	return 0;
}
