#!/bin/bash
# test.sh ROOT DEB NEXT: install DEB, upgrade it to NEXT, a later version, and remove and purge that in a copy of the
# Debian root ROOT (debootstrap --include=systemd), and hold the lists of files before and after equal.
# Needs root. systemd does not run there: units are enabled and not started.
set -euo pipefail
base=$1 deb=$(readlink -f "$2") next=$(readlink -f "$3")
work=$(mktemp -d)
trap 'umount "$work/root" 2>/dev/null || true; umount "$work/rw" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/root" "$work/rw"
mount -t tmpfs t "$work/rw" && mkdir "$work/rw/u" "$work/rw/w"
mount -t overlay -o "lowerdir=$base,upperdir=$work/rw/u,workdir=$work/rw/w" o "$work/root"
inroot() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive unshare -mpf chroot "$work/root" "$@"; }
# dpkg's own log and backups of its database are no trace of a package.
list() { (cd "$work/root" && find . -xdev \( -path './var/lib/dpkg/*-old' -o -path ./var/log/dpkg.log -o -path ./tmp -o -path ./var/lib/dpkg/triggers \) -prune -o -printf '%p %y %m %U:%G %l\n' | sort); }
fail() { echo "package test: $*" >&2; exit 1; }
version() { dpkg-deb -f "$1" Version; }
dpkg --compare-versions "$(version "$deb")" lt "$(version "$next")" || fail "$(version "$next") is no upgrade of $(version "$deb")"
cp "$deb" "$work/root/tmp/belay.deb" && cp "$next" "$work/root/tmp/next.deb"
inroot dpkg --list >/dev/null # what dpkg makes at its first call
list >"$work/before"
inroot dpkg -i /tmp/belay.deb >/dev/null
[ -L "$work/root/etc/systemd/system/docker.service.wants/belay-agent.service" ] || fail "the agent is not started before docker.service"
# What runs is that version, and not merely what dpkg says.
is() { inroot belay version | grep -qF "$1" || fail "belay is not $1: $(inroot belay version)"; }
is "$(version "$deb")"
for text in copyright THIRD-PARTY-LICENCES.txt LICENSE.GPL-2.0 LICENSE.BSD-2-Clause; do
	[ -s "$work/root/usr/share/doc/belay/$text" ] || fail "the package has no $text"
done
for file in zsh/vendor-completions/_belay bash-completion/completions/belay fish/vendor_completions.d/belay.fish man/man1/belay.1.gz man/man8/belay-agent.8.gz; do
	[ -s "$work/root/usr/share/$file" ] || fail "the package has no $file"
done
inroot belay policy check /etc/belay/policies >/dev/null || fail "the shipped policy is refused"
echo 'BELAY_AGENT_FLAGS=--log-allowed' >"$work/root/etc/belay/agent.conf"
inroot systemctl disable belay-agent >/dev/null 2>&1
inroot dpkg -i --force-confdef --force-confold /tmp/next.deb >/dev/null
is "$(version "$next")"
grep -q log-allowed "$work/root/etc/belay/agent.conf" || fail "an upgrade took the operator's configuration"
[ ! -L "$work/root/etc/systemd/system/docker.service.wants/belay-agent.service" ] || fail "an upgrade enabled what the operator had disabled"
inroot dpkg -r belay >/dev/null
grep -q log-allowed "$work/root/etc/belay/agent.conf" || fail "removal took the configuration, which is purge's"
[ ! -e "$work/root/usr/sbin/belay-agent" ] || fail "removal left the agent"
inroot dpkg -i --force-confold /tmp/next.deb >/dev/null
[ -L "$work/root/etc/systemd/system/docker.service.wants/belay-agent.service" ] || fail "installing after a removal does not enable the agent"
mkdir -p "$work/root/var/cache/belay/layers" && : >"$work/root/var/cache/belay/layers/kept" # as a scan of root's
inroot dpkg -P belay >/dev/null 2>&1
list >"$work/after"
diff "$work/before" "$work/after" || fail "purge left the above"
echo "package test: installed, upgraded, removed, purged; $(wc -l <"$work/before") files as before"
