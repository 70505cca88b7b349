// SPDX-License-Identifier: Apache-2.0
/*
 * prim uring FILE: opens and reads FILE with no open(2) and no read(2); uringwrite writes it; uringsend sends,
 * uringconnect connects. sqpoll, sqpollwrite and sqpollsend have a thread of the kernel do it, as which the
 * act is none of this one's. uringheld writes a file that the ring alone holds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/io_uring.h>
#include <netinet/in.h>

#include "prim.h"

struct ring {
	int fd;
	char *sq, *cq;
	struct io_uring_sqe *sqe;
	struct io_uring_params p;
};

static int ring_open(struct ring *r)
{
	r->fd = (int)syscall(SYS_io_uring_setup, 4, &r->p);
	if (r->fd < 0)
		return -1;
	r->sq = mmap(NULL, r->p.sq_off.array + r->p.sq_entries * sizeof(uint32_t),
		     PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQ_RING);
	r->cq = mmap(NULL, r->p.cq_off.cqes + r->p.cq_entries * sizeof(struct io_uring_cqe),
		     PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_CQ_RING);
	r->sqe = mmap(NULL, r->p.sq_entries * sizeof(*r->sqe), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQES);
	return r->sq == MAP_FAILED || r->cq == MAP_FAILED || r->sqe == MAP_FAILED ? -1 : 0;
}

/* Submits sqe, or has the kernel's thread see it, and waits. Returns the result, or a negative errno as the kernel does. */
static int ring_do(struct ring *r, const struct io_uring_sqe *sqe)
{
	uint32_t *tail = (uint32_t *)(r->sq + r->p.sq_off.tail);
	uint32_t mask = *(uint32_t *)(r->sq + r->p.sq_off.ring_mask);
	uint32_t *array = (uint32_t *)(r->sq + r->p.sq_off.array);
	uint32_t *head = (uint32_t *)(r->cq + r->p.cq_off.head);
	struct io_uring_cqe *cqes = (struct io_uring_cqe *)(r->cq + r->p.cq_off.cqes);
	uint32_t cmask = *(uint32_t *)(r->cq + r->p.cq_off.ring_mask);
	uint32_t at = *tail & mask;
	unsigned int flags = IORING_ENTER_GETEVENTS;
	int res;

	if (r->p.flags & IORING_SETUP_SQPOLL)
		flags |= IORING_ENTER_SQ_WAKEUP;
	r->sqe[at] = *sqe;
	array[at] = at;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, r->fd, 1, 1, flags, NULL, 0) < 0)
		return -errno;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	res = cqes[*head & cmask].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return res;
}

/* Opens path by r, or says why not: -1 and the exit status in *status. */
static int ring_openat(struct ring *r, const char *path, int flags, int *status)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD };
	int res;

	if (ring_open(r)) {
		*status = lost("io_uring") + 1;	/* the ring itself is not what is tested */
		return -1;
	}
	sqe.addr = (uintptr_t)path;
	sqe.open_flags = flags;
	res = ring_do(r, &sqe);
	if (res >= 0)
		return res;
	errno = -res;
	*status = lost("openat by io_uring");
	return -1;
}

static int ring_rw(struct ring *r, int op, int fd, const void *buf, uint32_t len)
{
	struct io_uring_sqe sqe = { .opcode = (__u8)op, .fd = fd, .len = len };
	int res;

	sqe.addr = (uintptr_t)buf;
	res = ring_do(r, &sqe);
	if (res < 0)
		errno = -res;
	return res;
}

static int read_by(char **argv, uint32_t flags)
{
	struct ring r = { .p.flags = flags };
	char buf[4096];
	int status = 0, fd = ring_openat(&r, argv[0], O_RDONLY, &status), res;

	if (fd < 0)
		return status;
	res = ring_rw(&r, IORING_OP_READ, fd, buf, sizeof(buf));
	if (res < 0)
		return lost("read by io_uring");
	printf("uid=uring %.*s", res, buf);
	return 0;
}

int do_uring(char **argv)
{
	return read_by(argv, 0);
}

int do_sqpoll(char **argv)
{
	return read_by(argv, IORING_SETUP_SQPOLL);
}

/* uringwrite FILE TEXT: nor with write(2). O_TRUNC has a worker thread of the kernel do it. */
static int write_by(char **argv, uint32_t flags)
{
	struct ring r = { .p.flags = flags };
	int status = 0, fd = ring_openat(&r, argv[0], O_WRONLY | O_TRUNC, &status);

	if (fd < 0)
		return status;
	if (ring_rw(&r, IORING_OP_WRITE, fd, argv[1], (uint32_t)strlen(argv[1])) < 0)
		return lost("write by io_uring");
	printf("uid=uring\n");
	return 0;
}

int do_uringwrite(char **argv)
{
	return write_by(argv, 0);
}

int do_sqpollwrite(char **argv)
{
	return write_by(argv, IORING_SETUP_SQPOLL);
}

/* uringheld FILE TEXT GO: the ring takes FILE over; when GO is there, which GO.ready asks for, if it is named, it
 * writes TEXT to FILE, of which there is no descriptor.
 */
int do_uringheld(char **argv)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_WRITE, .flags = IOSQE_FIXED_FILE, .off = (__u64)-1 };
	int fd = open(argv[0], O_WRONLY | O_APPEND), i;
	struct ring r = {};
	char ready[4096];

	if (fd < 0 || ring_open(&r) || syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_FILES, &fd, 1) < 0)
		return lost("io_uring") + 1;
	close(fd);
	snprintf(ready, sizeof(ready), "%s.ready", argv[2]);
	if (*argv[2] && (fd = open(ready, O_CREAT | O_WRONLY, 0644)) < 0)
		return lost(ready) + 1;
	for (i = 0; *argv[2] && access(argv[2], F_OK); i++) {
		if (i == 6000)
			return lost(argv[2]) + 1;
		usleep(10000);
	}
	sqe.addr = (uintptr_t)argv[1];
	sqe.len = (uint32_t)strlen(argv[1]);
	i = ring_do(&r, &sqe);
	if (i < 0) {
		errno = -i;
		return lost("write by a file of io_uring");
	}
	printf("uid=uring\n");
	return 0;
}

/* uringrmdir DIR: a worker thread of the kernel removes it. */
int do_uringrmdir(char **argv)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_UNLINKAT, .fd = AT_FDCWD, .unlink_flags = AT_REMOVEDIR };
	struct ring r = {};
	int res;

	if (ring_open(&r))
		return lost("io_uring") + 1;
	sqe.addr = (uintptr_t)argv[0];
	res = ring_do(&r, &sqe);
	if (res < 0) {
		errno = -res;
		return lost("rmdir by io_uring");
	}
	printf("uid=uring\n");
	return 0;
}

/* uringsend PORT: a datagram to 127.0.0.1 with no system call for sockets but socket(2). */
static int send_by(char **argv, uint32_t flags)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[0])) };
	struct io_uring_sqe sqe = { .opcode = IORING_OP_SENDMSG, .len = 1 };
	struct iovec iov = { .iov_base = "x", .iov_len = 1 };
	struct msghdr m = { .msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &iov, .msg_iovlen = 1 };
	struct ring r = { .p.flags = flags };
	int res;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	sqe.fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (sqe.fd < 0 || ring_open(&r))
		return lost("io_uring") + 1;
	sqe.addr = (uintptr_t)&m;
	res = ring_do(&r, &sqe);
	if (res < 0) {
		errno = -res;
		return lost("sendmsg by io_uring");
	}
	printf("uid=uring\n");
	return 0;
}

int do_uringsend(char **argv)
{
	return send_by(argv, 0);
}

int do_sqpollsend(char **argv)
{
	return send_by(argv, IORING_SETUP_SQPOLL);
}

/* uringconnect PORT: by TCP, with neither connect(2) nor send(2). */
int do_uringconnect(char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[0])) };
	struct io_uring_sqe sqe = { .opcode = IORING_OP_CONNECT, .off = sizeof(to) };
	struct ring r = { 0 };
	int res;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	sqe.fd = socket(AF_INET, SOCK_STREAM, 0);
	if (sqe.fd < 0 || ring_open(&r))
		return lost("io_uring") + 1;
	sqe.addr = (uintptr_t)&to;
	alarm(2);	/* of packets that are dropped nobody is told */
	res = ring_do(&r, &sqe);
	if (res < 0) {
		errno = -res;
		return lost("connect by io_uring");
	}
	if (ring_rw(&r, IORING_OP_SEND, sqe.fd, "x", 1) < 0)
		return lost("send by io_uring");
	printf("uid=uring\n");
	return 0;
}
