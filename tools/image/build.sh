#!/bin/bash
# Build dist/belay-image_VERSION.oci.tar and .docker.tar for each of ARCH... (amd64 arm64).
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- amd64 arm64
. tools/release/lib.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
platforms=()
for arch; do
	compile "$arch" "$work/$arch"
	platforms+=("$arch=$work/$arch")
done
"$go" run ./tools/image -version "$ver" -out "$out" ${BELAY_NOTICES:+-notices "$BELAY_NOTICES"} "${platforms[@]}"
