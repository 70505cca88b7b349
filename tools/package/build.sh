#!/bin/bash
# Build dist/belay_VERSION_ARCH.deb and .rpm: build.sh [ARCH...] (amd64 arm64). Cross-built, no C
# compiler, no root. The same commit gives the same bytes: times are the commit's, paths are
# trimmed, the packager is pinned in tools/package/nfpm.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- amd64 arm64
. tools/release/lib.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
"$go" -C tools/package/nfpm build -o "$work/nfpm" github.com/goreleaser/nfpm/v2/cmd/nfpm

# texts DIRECTORY writes man pages and completions, by the programs built for this machine:
# they are the same for every architecture.
texts() {
	local t=$1 p
	mkdir -p "$t"/{host,man/man1,man/man8,completion/{bash,zsh,fish}}
	compile "$("$go" env GOHOSTARCH)" "$t/host"
	"$t/host/belay" man "$t/man/man1"
	"$t/host/belay-agent" man "$t/man/man8"
	gzip -9n "$t"/man/man?/*
	for p in belay belay-agent; do
		"$t/host/$p" completion bash >"$t/completion/bash/$p"
		"$t/host/$p" completion zsh >"$t/completion/zsh/_$p"
		"$t/host/$p" completion fish >"$t/completion/fish/$p.fish"
	done
}

# stage ARCH DIRECTORY lays out what is not configuration as it will lie on the host.
stage() {
	local s=$2
	install -d "$s"/usr/{bin,sbin,lib/systemd/system,share/{belay/policies,belay/docker,doc/belay,man,bash-completion/completions,fish/vendor_completions.d}} "$s.zsh"
	compile "$1" "$work/bin-$1"
	install -m 755 "$work/bin-$1/belay-agent" "$s/usr/sbin/"
	install -m 755 "$work/bin-$1/belay" "$work/bin-$1/belay-scanner" "$s/usr/bin/"
	install -m 644 deploy/systemd/belay-agent.service deploy/systemd/belay.slice "$s/usr/lib/systemd/system/"
	install -m 644 policies/*.yaml "$s/usr/share/belay/policies/"
	install -m 644 deploy/docker/daemon.json "$s/usr/share/belay/docker/"
	install -D -m 644 -t "$s/usr/share/belay/grafana" deploy/grafana/*.json
	install -m 644 deploy/package/copyright README.md bpf/LICENSE.* "$BELAY_NOTICES" "$s/usr/share/doc/belay/"
	gzip -9nc CHANGELOG.md >"$s/usr/share/doc/belay/changelog.gz"
	cp -r "$work/texts/man/." "$s/usr/share/man/"
	cp "$work"/texts/completion/bash/* "$s/usr/share/bash-completion/completions/"
	cp "$work"/texts/completion/zsh/* "$s.zsh/"
	cp "$work"/texts/completion/fish/* "$s/usr/share/fish/vendor_completions.d/"
	install -d "$s.conf/policies"
	install -m 644 deploy/package/agent.conf "$s.conf/"
	install -m 644 policies/audit-floor.yaml "$s.conf/policies/"
	find "$s" "$s.conf" "$s.zsh" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

texts "$work/texts"
if [ -z "${BELAY_NOTICES:-}" ]; then # a release has them already
	BELAY_NOTICES=$work/THIRD-PARTY-LICENCES.txt
	for arch; do compile "$arch" "$work/bin-$arch"; done
	"$go" run ./tools/release licences "$work"/bin-*/* >"$BELAY_NOTICES"
fi
for arch; do
	stage "$arch" "$work/$arch"
	sed -e "s|@ARCH@|$arch|; s|@VERSION@|$ver|; s|@STAGE@|$work/$arch|; s|@CONF@|$work/$arch.conf|; s|@ZSH@|$work/$arch.zsh|; s|@SCRIPTS@|$PWD/deploy/package|" \
		deploy/package/nfpm.yaml >"$work/nfpm.yaml"
	for format in deb rpm; do
		file=$out/belay_${ver}_$arch.$format
		"$work/nfpm" package --config "$work/nfpm.yaml" --packager $format --target "$file" >/dev/null
		echo "$file"
	done
done
