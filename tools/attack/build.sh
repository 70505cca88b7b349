#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build.sh OUT builds ctr and the attack programs into the folder OUT, all that
# `ctr mkroot` wants to find there. Needs: go, a C compiler, libc6-dev.
set -eu
[ $# -eq 1 ] || { echo "usage: build.sh OUT" >&2; exit 64; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")"
cc=${CC:-cc}
cflags="-O2 -Wall -Wextra -Werror -std=gnu11"

CGO_ENABLED=0 go build -trimpath -o "$out/ctr" ../ctr
CGO_ENABLED=0 go build -trimpath -o "$out/attack" .
# shellcheck disable=SC2086 # the flags are words
{
	$cc $cflags -static -o "$out/id" c/id.c
	$cc $cflags -static -o "$out/prim" c/prim.c c/uring.c c/code.c
	$cc $cflags -static -nostdlib -o "$out/first" c/first.c
	$cc $cflags -o "$out/dyn-id" c/id.c
	$cc $cflags -o "$out/dlrun" c/dlrun.c
	$cc $cflags -shared -fPIC -o "$out/evil.so" c/evil.c
}
