#!/bin/bash
# root.sh: print the directory of a Debian with systemd and Docker, which is made once and cached. Needs root and
# debootstrap, and a mirror the first time: without one the exit status is 3.
set -euo pipefail
cache=${BELAY_CACHE:-$HOME/.cache/belay} && mkdir -p "$cache"
tree=$cache/systemd-root
exec 9>"$tree.lock" && flock 9
if [ ! -d "$tree" ]; then
	rm -rf "$tree.new"
	mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Codename: bookworm' | head -n 1)
	debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,docker.io,iptables,iproute2,busybox-static,kmod,udev,ca-certificates,procps \
		bookworm "$tree.new" "${mirror:-http://deb.debian.org/debian}" >"$tree.log" 2>&1 || { tail -n 3 "$tree.log" >&2; exit 3; }
	mv "$tree.new" "$tree"
fi
echo "$tree"
