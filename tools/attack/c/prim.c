// SPDX-License-Identifier: Apache-2.0
/*
 * prim: single acts for tools/attack that need one thread, raw system calls or code
 * that Go cannot write. What is executed says "uid=…" by itself.
 *
 * Exit status: of the program executed; 0 done; 1 refused (EPERM, EACCES); 2 could not try.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "prim.h"

int lost(const char *what)
{
	int err = errno;

	fprintf(stderr, "prim: %s: %s\n", what, strerror(err));
	return err == EPERM || err == EACCES ? 1 : 2;
}

/* fexecve FD ARGS…: the file has no name that could be looked at. */
static int do_fexecve(char **argv)
{
	syscall(SYS_execveat, atoi(argv[0]), "", argv + 1, environ, AT_EMPTY_PATH);
	return lost("execveat");
}

/* execveat DIR NAME: not execve. */
static int do_execveat(char **argv)
{
	int dir = open(argv[0], O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0)
		return lost(argv[0]) + 1;
	syscall(SYS_execveat, dir, argv[1], argv + 1, environ, 0);
	return lost("execveat");
}

#ifdef __x86_64__
static void no_entry(int sig)
{
	static const char msg[] = "prim: int 0x80 faults: no 32-bit system calls on this kernel or under its hypervisor\n";

	(void)sig;
	(void)!write(2, msg, sizeof(msg) - 1);
	_exit(2);
}
#endif

/* What FILE holds goes to standard output. */
static int tell(int fd)
{
	char buf[4096];
	ssize_t n = read(fd, buf, sizeof(buf));

	if (n < 0)
		return lost("read");
	printf("%.*s", (int)n, buf);
	return 0;
}

/* int80open FILE: reads FILE, opened by the 32-bit entry. */
static int do_int80open(char **argv)
{
#ifdef __x86_64__
	char *low = mmap(NULL, PATH_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	long ret;

	if (low == MAP_FAILED)
		return lost("mmap") + 1;
	snprintf(low, PATH_MAX, "%s", argv[0]);
	signal(SIGSEGV, no_entry);
	__asm__ volatile("int $0x80" : "=a"(ret)
			 : "a"(5 /* open */), "b"(low), "c"(O_RDONLY), "d"(0)
			 : "memory", "r8", "r9", "r10", "r11");
	if (ret >= 0)
		return tell((int)ret);
	errno = (int)-ret;
#else
	(void)argv;
	errno = ENOSYS;
#endif
	return lost("open by int 0x80");
}

/* int80 PROG: the 32-bit entry, with 32-bit pointers. */
static int do_int80(char **argv)
{
#ifdef __x86_64__
	struct { uint32_t argv[2], envp[1]; char path[PATH_MAX]; } *low;
	long ret;

	low = mmap(NULL, sizeof(*low), PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED)
		return lost("mmap") + 1;
	snprintf(low->path, sizeof(low->path), "%s", argv[0]);
	low->argv[0] = (uint32_t)(uintptr_t)low->path;
	signal(SIGSEGV, no_entry); /* an exec resets it */
	__asm__ volatile("int $0x80" : "=a"(ret)
			 : "a"(11 /* execve */), "b"(low->path), "c"(low->argv), "d"(low->envp)
			 : "memory", "r8", "r9", "r10", "r11");
	errno = (int)-ret;
#else
	(void)argv;
	errno = ENOSYS;
#endif
	return lost("execve by int 0x80");
}

/* x32 PROG: the third table of system calls, where the kernel has it. */
static int do_x32(char **argv)
{
#ifdef __x86_64__
	uint32_t args[2] = { 0 };

	if (syscall(0x40000000 | 520 /* x32 execve */, argv[0], args, args + 1) && errno == ENOSYS)
		fprintf(stderr, "prim: this kernel has no x32\n");
#else
	(void)argv;
	errno = ENOSYS;
#endif
	return lost("execve by x32");
}

/* Runs the code at the start of a file: a function that returns 42. */
static int run_code(const char *path, int prot, int flags, int later)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int (*code)(void);
	void *p;

	if (fd < 0)
		return lost(path) + 1;
	p = mmap(NULL, 4096, prot, flags, fd, 0);
	if (p == MAP_FAILED)
		return lost("mmap");
	if (later && mprotect(p, 4096, later))
		return lost("mprotect");
	memcpy(&code, &p, sizeof(code));
	if (code() != 42)
		return 2;
	printf("uid=code\n");
	return 0;
}

static int do_mmap(char **argv)
{
	return run_code(argv[0], PROT_READ | PROT_EXEC, MAP_PRIVATE, 0);
}

static int do_mprotect(char **argv)
{
	return run_code(argv[0], PROT_READ, MAP_PRIVATE, PROT_READ | PROT_EXEC);
}

static int do_wx(char **argv)
{
	return run_code(argv[0], PROT_READ | PROT_WRITE, MAP_PRIVATE, PROT_READ | PROT_EXEC);
}

/* What is compiled, in place of a compiler. */
static __attribute__((noinline, aligned(64))) int answer(void)
{
	return 42;
}

/* Memory that is shared by a number, attached to be executed. */
static int do_shm(char **argv)
{
	int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0700);
	void *at;

	(void)argv;
	if (id < 0)
		return lost("shmget") + 1;
	at = shmat(id, NULL, SHM_EXEC);
	if (at == (void *)-1)
		return lost("shmat");
	shmctl(id, IPC_RMID, NULL);
	printf("uid=shm\n");
	return 0;
}

/* Code in memory by two shared mappings of one memfd, as compilers of Erlang and .NET write theirs. */
static int do_jit(char **argv)
{
	int fd = memfd_create("jit", MFD_CLOEXEC), (*code)(void) = answer;
	void *to, *run, *from;

	(void)argv;
	if (fd < 0 || ftruncate(fd, 4096))
		return lost("memfd_create");
	to = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	run = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (to == MAP_FAILED || run == MAP_FAILED)
		return lost("mmap");
	memcpy(&from, &code, sizeof(from));
	memcpy(to, from, 64);
	__builtin___clear_cache(run, (char *)run + 64);
	memcpy(&code, &run, sizeof(code));
	if (code() != 42)
		return 2;
	printf("uid=code\n");
	return 0;
}

static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int bad = fd < 0 || write(fd, text, strlen(text)) < 0;

	if (fd >= 0)
		close(fd);
	return bad;
}

/* A user namespace in which every user is itself, so that what is executed later is
 * no more root than before, and a mount namespace to go with it.
 */
static int own_namespaces(void)
{
	uid_t uid = getuid();
	gid_t gid = getgid();
	char map[64];

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return lost("unshare");
	put("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "%d %d 1", uid, uid);
	if (put("/proc/self/uid_map", map))
		return lost("uid_map");
	snprintf(map, sizeof(map), "%d %d 1", gid, gid);
	return put("/proc/self/gid_map", map) ? lost("gid_map") : 0;
}

/* mountdrop DIR PROG: a copy of PROG on a tmpfs mounted just now. */
static int do_mountdrop(char **argv)
{
	char to[PATH_MAX], *args[] = { to, NULL };
	int ret = own_namespaces(), in, out;
	struct stat st;

	if (ret)
		return ret;
	if (mount("tmpfs", argv[0], "tmpfs", 0, ""))
		return lost("mount");
	snprintf(to, sizeof(to), "%s/dropped", argv[0]);
	in = open(argv[1], O_RDONLY | O_CLOEXEC);
	out = open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0755);
	if (in < 0 || out < 0 || fstat(in, &st) || sendfile(out, in, NULL, st.st_size) != st.st_size)
		return lost("copy") + 1;
	close(out);
	execv(to, args);
	return lost("exec");
}

/* bindalias DIR PROG: PROG under another name. */
static int do_bindalias(char **argv)
{
	char to[PATH_MAX], *args[] = { to, NULL };
	int ret = own_namespaces(), fd;

	if (ret)
		return ret;
	snprintf(to, sizeof(to), "%s/alias", argv[0]);
	fd = open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0755);
	if (fd < 0)
		return lost(to) + 1;
	close(fd);
	if (mount(argv[1], to, NULL, MS_BIND, NULL))
		return lost("mount");
	execv(to, args);
	return lost("exec");
}

/* bindwrite FROM TO NAME: NAME of the directory FROM, by a bind mount on TO. */
static int do_bindwrite(char **argv)
{
	int ret = own_namespaces(), fd;
	char path[PATH_MAX];

	if (ret)
		return ret + (ret == 1);	/* the namespaces are not what is tested */
	if (mount(argv[0], argv[1], NULL, MS_BIND, NULL))
		return lost("mount");
	snprintf(path, sizeof(path), "%s/%s", argv[1], argv[2]);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return lost(path);
	if (write(fd, "bind", 4) != 4)
		return lost("write");
	printf("uid=bind\n");
	return 0;
}

/* chrootread DIR FILE: FILE below DIR, which is the root then. */
static int do_chrootread(char **argv)
{
	int ret = own_namespaces(), fd;

	if (ret)
		return ret + (ret == 1);	/* the namespaces are not what is tested */
	if (chroot(argv[0]) || chdir("/"))
		return lost("chroot") + 1;
	fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	return fd < 0 ? lost(argv[1]) : tell(fd);
}

/* setnsread FROM TO NAME: NAME of the directory FROM, which is TO in the namespaces of another process. */
static int do_setnsread(char **argv)
{
	char path[PATH_MAX], ok = 0;
	int ready[2], fd, ret = 2;
	pid_t pid;

	if (pipe(ready))
		return lost("pipe") + 1;
	pid = fork();
	if (!pid) {
		ok = !own_namespaces() && !mount(argv[0], argv[1], NULL, MS_BIND, NULL);
		(void)!write(ready[1], &ok, 1);
		pause();
		_exit(0);
	}
	if (pid < 0 || read(ready[0], &ok, 1) != 1 || !ok)
		goto end;
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0 || setns(fd, CLONE_NEWUSER | CLONE_NEWNS)) {
		ret = lost("setns") + 1;	/* nor are they here */
		goto end;
	}
	snprintf(path, sizeof(path), "%s/%s", argv[1], argv[2]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ret = fd < 0 ? lost(path) : tell(fd);
end:
	if (pid > 0)
		kill(pid, SIGKILL);
	return ret;
}

static const struct act {
	const char *name;
	int args;
	int (*run)(char **argv);
} acts[] = {
	{ "fexecve", 2, do_fexecve },	{ "execveat", 2, do_execveat }, { "int80", 1, do_int80 },
	{ "x32", 1, do_x32 },		{ "mmap", 1, do_mmap },		{ "mprotect", 1, do_mprotect },
	{ "jit", 0, do_jit },		{ "wx", 1, do_wx },		{ "mountdrop", 2, do_mountdrop },
	{ "bindalias", 2, do_bindalias }, { "uring", 1, do_uring },
	{ "uringwrite", 2, do_uringwrite }, { "bindwrite", 3, do_bindwrite },
	{ "anon", 0, do_anon },		{ "selfmem", 0, do_selfmem },
	{ "race", 3, do_race },		{ "chrootread", 2, do_chrootread },
	{ "uringsend", 1, do_uringsend }, { "uringconnect", 1, do_uringconnect },
	{ "uringheld", 3, do_uringheld }, { "uringrmdir", 1, do_uringrmdir },
	{ "sqpoll", 1, do_sqpoll },	{ "sqpollwrite", 2, do_sqpollwrite },
	{ "sqpollsend", 1, do_sqpollsend }, { "setnsread", 3, do_setnsread },
	{ "int80open", 1, do_int80open }, { "rwx", 0, do_rwx },	{ "uffd", 0, do_uffd },
	{ "shm", 0, do_shm },
};

int main(int argc, char **argv)
{
	size_t i;

	for (i = 0; i < sizeof(acts) / sizeof(acts[0]); i++)
		if (argc >= 2 + acts[i].args && !strcmp(argv[1], acts[i].name))
			return acts[i].run(argv + 2);
	fprintf(stderr, "usage: prim ACT ARGS; see tools/attack/c/prim.c\n");
	return 64;
}
