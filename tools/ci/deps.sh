#!/bin/bash
# Install the Debian packages that the tests and the demo need and that are missing.
set -euo pipefail
want=(docker.io iptables iproute2 clang-16 llvm-16 libbpf-dev busybox-static qemu-system-x86
	cpio kmod xz-utils debootstrap gcc libc6-dev make git tmux openssh-client openssh-server)
missing=()
for p in "${want[@]}"; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "deps: root is needed to install: ${missing[*]}" >&2
	exit 1
fi
echo "deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# A package must not start a service on this machine: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
	trap 'rm -f $policy' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
# Nor may it at the next boot, in the case of a server that nobody asked for.
case " ${missing[*]} " in *" openssh-server "*) update-rc.d ssh disable ;; esac
