// SPDX-License-Identifier: Apache-2.0
/* evil.so: says that it was loaded, and ends the program that loaded it. */
#include <unistd.h>

__attribute__((constructor)) static void loaded(void)
{
	static const char msg[] = "uid=loaded\n";

	_exit(write(1, msg, sizeof(msg) - 1) < 0);
}
