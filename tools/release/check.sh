#!/bin/bash
# Build the release of HEAD twice, in two clones in different places, and hold SHA256SUMS of both equal.
# COLD=1 gives the second a build cache of its own, so that nothing of the first is used again: minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rev=$(git rev-parse HEAD) # also if somebody commits meanwhile
for n in first second/deeper; do
	git clone -q --no-hardlinks . "$work/$n/belay"
	git -C "$work/$n/belay" checkout -q --detach "$rev"
	(
		cd "$work/$n/belay"
		[ "$n" = first ] || [ -z "${COLD:-}" ] || export GOCACHE=$work/cache
		umask 027
		tools/release/build.sh
	)
done
diff "$work/first/belay/dist/release/SHA256SUMS" "$work/second/deeper/belay/dist/release/SHA256SUMS" || {
	echo "release-check: the two builds differ, see above" >&2
	exit 1
}
(cd "$work/first/belay/dist/release" && sha256sum --quiet -c SHA256SUMS)
echo "release-check: two builds, one set of digests, $(wc -l <"$work/first/belay/dist/release/SHA256SUMS") files"
