// SPDX-License-Identifier: Apache-2.0
/* prim anon, rwx, uffd, selfmem: code that no file holds; race: a path that changes while it is executed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

#include "prim.h"

/* A function that returns 42. */
#if defined(__x86_64__)
static const unsigned char answer[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
#elif defined(__aarch64__)
static const unsigned char answer[] = { 0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6 };
#else
#error "write the function for this machine"
#endif

static int call(void *p)
{
	int (*code)(void);

	__builtin___clear_cache((char *)p, (char *)p + sizeof(answer));
	memcpy(&code, &p, sizeof(code));
	if (code() != 42)
		return 2;
	printf("uid=code\n");
	return 0;
}

/* anon: written into memory of its own, and then made executable. */
int do_anon(char **argv)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)argv;
	if (p == MAP_FAILED)
		return lost("mmap");
	memcpy(p, answer, sizeof(answer));
	if (mprotect(p, 4096, PROT_READ | PROT_EXEC))
		return lost("mprotect");
	return call(p);
}

/* rwx: written into memory that is writable and executable from the start. */
int do_rwx(char **argv)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)argv;
	if (p == MAP_FAILED)
		return lost("mmap");
	memcpy(p, answer, sizeof(answer));
	return call(p);
}

/* uffd: put by the kernel, at its owner's wish, into memory that is never writable. */
int do_uffd(char **argv)
{
	static unsigned char page[4096] __attribute__((aligned(4096)));
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING, .range.len = 4096 };
	struct uffdio_copy copy = { .len = 4096 };

	(void)argv;
	if (fd < 0 || p == MAP_FAILED)
		return lost("userfaultfd") + 1;
	memcpy(page, answer, sizeof(answer));
	reg.range.start = copy.dst = (uintptr_t)p;
	copy.src = (uintptr_t)page;
	if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg))
		return lost("register") + 1;
	if (ioctl(fd, UFFDIO_COPY, &copy))
		return lost("copy");
	return call(p);
}

/* What selfmem writes over; long enough for it. */
__attribute__((noinline, aligned(64))) static int victim(void)
{
	static volatile int n = 7;

	return n * n + n;
}

/* selfmem: written over a function of the program by /proc/self/mem, which asks for no right to write there. */
int do_selfmem(char **argv)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC), (*f)(void) = victim;
	void *p;

	(void)argv;
	if (fd < 0)
		return lost("/proc/self/mem");
	memcpy(&p, &f, sizeof(p));
	if (pwrite(fd, answer, sizeof(answer), (off_t)(uintptr_t)p) != sizeof(answer))
		return lost("write /proc/self/mem");
	return call(p);
}

/* race A B MARK: executes a path that another process changes from A to B and back. B makes MARK. */
int do_race(char **argv)
{
	char *path = mmap(NULL, PATH_MAX, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *args[] = { "race", argv[2], NULL };
	int i, won = 0;
	pid_t flip, pid;

	if (path == MAP_FAILED)
		return lost("mmap") + 1;
	strncpy(path, argv[0], PATH_MAX - 1);
	flip = fork();
	if (flip < 0)
		return lost("fork") + 1;
	while (!flip) {
		memcpy(path, argv[1], strlen(argv[1]) + 1);
		memcpy(path, argv[0], strlen(argv[0]) + 1);
	}
	for (i = 0; i < 200 && !won; i++) {
		pid = fork();
		if (!pid) {
			close(1);
			execve(path, args, environ);
			_exit(1);
		}
		if (pid > 0)
			waitpid(pid, NULL, 0);
		won = !access(argv[2], F_OK);
	}
	kill(flip, SIGKILL);
	waitpid(flip, NULL, 0);
	if (!won) {
		fprintf(stderr, "prim: in %d tries the other program never ran\n", i);
		return 1;
	}
	printf("uid=race\n");
	return 0;
}
