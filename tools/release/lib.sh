# lib.sh: what packages, the image and a release have in common. Sourced, from the top of the tree.
umask 022
go=${GO:-go}
out=${DIST:-dist}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export TZ=UTC LC_ALL=C

# version prints what dpkg and rpm both take and order: a tag's v1.2.3 is 1.2.3, five commits
# later it is 1.2.3+5.gabcdef0; without a tag it is older than every release.
version() {
	local d
	if d=$(git describe --tags --match 'v[0-9]*' --dirty=.dirty 2>/dev/null); then
		d=${d#v}
		case $d in *-*-g*) d=$(sed -E 's/-([0-9]+)-g/+\1.g/' <<<"$d") ;; esac
		printf '%s\n' "${d//-/\~}"
	else
		printf '0.0.0~git%s.%s\n' "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d)" \
			"$(git describe --always --abbrev=12 --dirty=.dirty)"
	fi
}
ver=${VERSION:-$(version)}

# compile ARCH DIRECTORY builds the three programs, or takes those in BELAY_PROGRAMS/ARCH. grpcnotrace leaves
# out gRPC's pages for debugging: their templates call methods by name, for which the linker keeps all (ADR 15).
compile() {
	local c
	mkdir -p "$2"
	if [ -d "${BELAY_PROGRAMS:-/nonexistent}/$1" ]; then
		cp "$BELAY_PROGRAMS/$1"/belay{,-agent,-scanner} "$2/"
		return
	fi
	for c in agent:belay-agent ctl:belay scanner:belay-scanner; do
		env -u GOFLAGS -u GOEXPERIMENT -u GOAMD64 -u GOARM64 CGO_ENABLED=0 GOOS=linux "GOARCH=$1" "$go" build -tags grpcnotrace -buildvcs=false -trimpath -ldflags "-s -w -buildid= -X main.version=$ver" \
			-o "$2/${c#*:}" "./cmd/${c%:*}"
	done
}
