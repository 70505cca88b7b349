#!/bin/bash
# pair.sh DIRECTORY: build the .deb of this machine's architecture and that of a next version, as an upgrade takes
# them; print both.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tools/release/lib.sh
arch=$("$go" env GOHOSTARCH)
for v in "$ver" "$ver+next"; do
	DIST=$1 VERSION=$v tools/package/build.sh "$arch" >/dev/null
	echo "$1/belay_${v}_$arch.deb"
done
