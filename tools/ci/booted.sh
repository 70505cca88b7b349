#!/bin/bash
# booted.sh: build the .deb of this machine's architecture and a next version of it, and play them on a Debian that
# systemd has booted (tools/package/booted.sh), under each KERNEL:BACKEND of BOOTED. Needs root; takes hours.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debs=$(tools/package/pair.sh "$work")
export BELAY_VM_TIMEOUT=${BELAY_VM_TIMEOUT:-10800}
for pair in ${BOOTED:-6.12:modret 6.1:lsm}; do
	for try in 1 2 3; do
		rc=0
		tools/package/booted.sh "$pair" $debs || rc=$?
		[ "$rc" = 125 ] || break
		echo "booted: THE GUEST DIED on $pair, try $try of 3 (above)"
	done
	[ "$rc" = 0 ] || exit "$rc"
	echo "booted: $pair: played to its end"
done
