// SPDX-License-Identifier: Apache-2.0
/*
 * first: its very first instructions make the file argv[1]. If that file appears, a
 * program was killed too late. No C library: its start-up would come first.
 */
#if defined(__x86_64__)
__asm__(".globl _start\n"
	"_start:\n"
	"	mov 16(%rsp), %rdi\n"	/* argv[1] */
	"	mov $0600, %esi\n"
	"	mov $85, %eax\n"	/* creat */
	"	syscall\n"
	"	xor %edi, %edi\n"
	"	mov $231, %eax\n"	/* exit_group */
	"	syscall\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n"
	"_start:\n"
	"	mov x0, #-100\n"	/* AT_FDCWD */
	"	ldr x1, [sp, #16]\n"	/* argv[1] */
	"	mov x2, #0x41\n"	/* O_CREAT | O_WRONLY */
	"	mov x3, #0600\n"
	"	mov x8, #56\n"		/* openat */
	"	svc #0\n"
	"	mov x0, #0\n"
	"	mov x8, #94\n"		/* exit_group */
	"	svc #0\n");
#else
#error "write _start for this machine"
#endif
