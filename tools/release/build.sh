#!/bin/bash
# Build a release into an empty directory DIST (dist/release): programs, packages, image and chart for
# ARCHES (amd64 arm64), bills of materials, licences, notes and SHA256SUMS. The same commit gives the same
# bytes, wherever its tree lies: tools/release/check.sh tries it.
set -euo pipefail
cd "$(dirname "$0")/../.."
export DIST=${DIST:-dist/release}
# A release is built by one toolchain, not by whichever the builder has: its bytes are its library's too.
export GOTOOLCHAIN=${GOTOOLCHAIN:-$(cat tools/release/toolchain)}
. tools/release/lib.sh
read -ra arches <<<"${ARCHES:-amd64 arm64}"
if [ -n "$(ls -A "$out" 2>/dev/null)" ]; then
	echo "release: $out is not empty: what is in it would be taken for this release" >&2
	exit 1
fi
mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export VERSION=$ver BELAY_PROGRAMS=$work/bin DIST=$out BELAY_NOTICES=$work/THIRD-PARTY-LICENCES.txt
# pack NAME DIRECTORY: a tar of a directory in work whose bytes depend on its files alone.
pack() {
	tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw,a-s --mtime="@$SOURCE_DATE_EPOCH" -c "$2" | gzip -9n >"$out/$1"
}
"$go" build -trimpath -o "$work/release" ./tools/release

for arch in "${arches[@]}"; do
	BELAY_PROGRAMS='' compile $arch "$work/bin/$arch"
done
"$work/release" licences "$work"/bin/*/* >"$BELAY_NOTICES"
cp "$BELAY_NOTICES" "$out/"
for arch in "${arches[@]}"; do
	top=belay_${ver}_linux_$arch
	mkdir "$work/$top"
	cp "$work/bin/$arch"/* LICENSE README.md "$BELAY_NOTICES" "$work/$top/"
	cp -r policies deploy/systemd "$work/$top/"
	rm -rf "$work/$top/policies"/{tests,*.go}
	install -D -m 644 -t "$work/$top/bpf" bpf/LICENSE.*
	pack "$top.tar.gz" "$top"
	for p in belay belay-agent belay-scanner; do
		"$work/release" sbom -version "$ver" -arch $arch -out "$out/${p}_${ver}_$arch.cdx.json" "$work/bin/$arch/$p"
	done
done
tools/package/build.sh "${arches[@]}"
tools/image/build.sh "${arches[@]}"
# A chart's version is SemVer: what dpkg writes with ~ is older than the release, as SemVer has it with -.
chart=${ver//\~/-}
cp -r deploy/helm/belay "$work/belay"
sed -i -E "s|^version: .*|version: $chart|; s|^appVersion: .*|appVersion: \"$ver\"|" "$work/belay/Chart.yaml"
pack "belay-chart-$chart.tgz" belay
"$work/release" notes -version "$ver" CHANGELOG.md >"$out/RELEASE-NOTES.md"
"$work/release" sums "$out"
echo "release $ver: $(wc -l <"$out/SHA256SUMS") files in $out"
