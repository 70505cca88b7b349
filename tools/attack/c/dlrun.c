// SPDX-License-Identifier: Apache-2.0
/* dlrun LIB: loads LIB, as a program loads a plugin. */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	if (argc == 2 && dlopen(argv[1], RTLD_NOW))
		return 0;
	fprintf(stderr, "dlrun: %s\n", argc == 2 ? dlerror() : "usage: dlrun LIB");
	return 2;
}
