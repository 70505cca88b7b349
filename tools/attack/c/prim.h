// SPDX-License-Identifier: Apache-2.0
#ifndef PRIM_H
#define PRIM_H

int lost(const char *what);
int do_anon(char **argv);
int do_race(char **argv);
int do_rwx(char **argv);
int do_selfmem(char **argv);
int do_sqpoll(char **argv);
int do_sqpollsend(char **argv);
int do_sqpollwrite(char **argv);
int do_uffd(char **argv);
int do_uring(char **argv);
int do_uringheld(char **argv);
int do_uringconnect(char **argv);
int do_uringrmdir(char **argv);
int do_uringsend(char **argv);
int do_uringwrite(char **argv);

#endif
