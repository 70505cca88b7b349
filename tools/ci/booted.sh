#!/bin/bash
# booted.sh: build the .deb of this machine's architecture and a next version of it, and play them on a Debian that
# systemd has booted (tools/package/booted.sh), under each KERNEL:BACKEND of BOOTED. Needs root; takes hours.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debs=$(tools/package/pair.sh "$work")
for pair in ${BOOTED:-6.12:modret 6.1:lsm}; do
	tools/package/booted.sh "$pair" $debs
	echo "booted: $pair: played to its end"
done
