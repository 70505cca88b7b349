#!/bin/bash
# package.sh: build the .deb of this machine's architecture and a next version of it, and install, upgrade, remove and
# purge them in a Debian root, which is made once and cached (tools/package/root.sh). Needs root.
set -euo pipefail
cd "$(dirname "$0")/../.."
tree=$(tools/package/root.sh)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debs=$(tools/package/pair.sh "$work")
# The names of an rpm's directories stand in its header as they are.
grep -aqF /usr/share/zsh/site-functions/ "$work"/belay_*+next_*.rpm || { echo "package: the .rpm has no completion for zsh where zsh looks" >&2; exit 1; }
tools/package/test.sh "$tree" $debs
