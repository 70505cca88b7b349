#!/bin/bash
# package.sh: build the .deb of this machine's architecture, and install, upgrade, remove and purge it in a
# Debian root, which is made once and cached. Needs root and debootstrap, and a mirror the first time.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${BELAY_CACHE:-$HOME/.cache/belay} && mkdir -p "$cache"
tree=$cache/systemd-root # booted.sh's, which has more
[ -d "$tree" ] || tree=$cache/package-root
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ ! -d "$tree" ]; then
	rm -rf "$tree.new"
	mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)
	debootstrap --variant=minbase --include=systemd bookworm "$tree.new" "${mirror:-http://deb.debian.org/debian}" >"$work/log" 2>&1 || { tail -n 3 "$work/log" >&2; exit 1; }
	mv "$tree.new" "$tree"
fi
DIST=$work tools/package/build.sh "$(go env GOHOSTARCH)"
tools/package/test.sh "$tree" "$work"/belay_*.deb
