/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop: does one thing N times and prints what one took, in nanoseconds of the
 * monotonic clock. Static, so that every turn is the kernel's work and not the
 * dynamic loader's.
 *
 *   loop spawn N   fork, execute "bin/loop nop", wait for it
 *   loop open N    open usr/share/app/data and close it
 *   loop udp N     send a datagram to itself
 *   loop tcp N     connect to itself and close
 *   loop getppid N a system call that does next to nothing
 *   loop refused N connect to SSH's port, which must be refused, 10,000 times a second
 *
 * Paths are relative: what lies above the working directory, which is slow to walk in a
 * virtual machine, is no part of the figures.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void spawn(void)
{
	char *argv[] = { "loop", "nop", NULL }, *envp[] = { NULL };
	int st;
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid) {
		execve("bin/loop", argv, envp);
		_exit(127);
	}
	if (waitpid(pid, &st, 0) != pid || st)
		die("wait");
}

static void open_close(void)
{
	int fd = open("usr/share/app/data", O_RDONLY);

	if (fd < 0)
		die("open");
	close(fd);
}

static int udp_fd, tcp_fd;
static struct sockaddr_in to = { .sin_family = AF_INET };

static void prepare(int type, int *fd)
{
	socklen_t len = sizeof(to);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	*fd = socket(AF_INET, type, 0);
	if (*fd < 0 || bind(*fd, (struct sockaddr *)&to, sizeof(to)) ||
	    getsockname(*fd, (struct sockaddr *)&to, &len))
		die("socket");
	if (type == SOCK_STREAM && listen(*fd, 16))
		die("listen");
}

static void udp(void)
{
	char b[64];

	if (sendto(udp_fd, b, 64, 0, (struct sockaddr *)&to, sizeof(to)) != 64 ||
	    recv(udp_fd, b, sizeof(b), 0) != 64)
		die("udp");
}

static void tcp(void)
{
	struct linger now = { 1, 0 };	/* no TIME_WAIT: ports run out */
	int c = socket(AF_INET, SOCK_STREAM, 0), s;

	if (c < 0 || connect(c, (struct sockaddr *)&to, sizeof(to)))
		die("connect");
	s = accept(tcp_fd, NULL, NULL);
	if (s < 0 || write(c, "hello", 5) != 5)
		die("tcp");
	setsockopt(c, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(c);
	close(s);
}

#define TOGETHER	100	/* a burst each 10 ms */

static void refused(long i, const struct timespec *began)
{
	long ms = i / TOGETHER * 10;
	struct timespec due = { began->tv_sec + ms / 1000, began->tv_nsec + ms % 1000 * 1000000 };

	if (due.tv_nsec >= 1000000000) {
		due.tv_sec++;
		due.tv_nsec -= 1000000000;
	}
	if (i % TOGETHER == 0)
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
	if (!connect(tcp_fd, (struct sockaddr *)&to, sizeof(to)) || errno != EPERM)
		die("not refused");
}

int main(int argc, char **argv)
{
	struct timespec a, b;
	long i, n;

	if (argc == 2 && !strcmp(argv[1], "nop"))
		return 0;
	if (argc != 3 || (n = atol(argv[2])) <= 0) {
		fprintf(stderr, "usage: loop spawn|open|udp|tcp|getppid|refused N\n");
		return 64;
	}
	if (!strcmp(argv[1], "udp"))
		prepare(SOCK_DGRAM, &udp_fd);
	if (!strcmp(argv[1], "tcp"))
		prepare(SOCK_STREAM, &tcp_fd);
	if (!strcmp(argv[1], "refused")) {
		to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		to.sin_port = htons(22);
		tcp_fd = socket(AF_INET, SOCK_STREAM, 0);
	}
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (i = 0; i < n; i++) {
		switch (argv[1][0]) {
		case 's':
			spawn();
			break;
		case 'o':
			open_close();
			break;
		case 'u':
			udp();
			break;
		case 't':
			tcp();
			break;
		case 'g':
			syscall(SYS_getppid);
			break;
		case 'r':
			refused(i, &a);
			break;
		}
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%.1f\n", ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / n);
	return 0;
}
