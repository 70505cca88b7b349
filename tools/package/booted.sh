#!/bin/bash
# booted.sh KERNEL:BACKEND DEB NEXT: the package on a Debian that systemd has booted, with Docker, in a virtual machine:
# installed, the quick start of docs/install.md, the gate put in front of the running engine, a reboot
# with restart=always containers, an upgrade to NEXT, a later version, the gate taken away, purged; what lies in the system is compared
# with what lay there before. Needs root, qemu and debootstrap; the root it boots is cached.
set -euo pipefail
cd "$(dirname "$0")/../.."
pair=$1 deb=$(readlink -f "$2") next=$(readlink -f "$3")
tree=$(tools/package/root.sh)
work=$(mktemp -d)
trap 'umount "$work/root" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$work/root" "$work/u" "$work/w"
mount -t overlay -o "lowerdir=$tree,upperdir=$work/u,workdir=$work/w" o "$work/root"
cp "$deb" "$work/root/belay.deb" && cp "$next" "$work/root/next.deb" && cp tools/package/scene.sh "$work/root/scene.sh"
# Half of an emulated processor is not what the unit's cap is made for.
mkdir -p "$work/root/etc/systemd/system/belay-agent.service.d"
printf '[Service]\nCPUQuota=\nTimeoutStartSec=15min\n' >"$work/root/etc/systemd/system/belay-agent.service.d/emulated.conf"
truncate -s 4G "$work/disk" && mkfs.ext4 -q "$work/disk"
lsm=lockdown,yama,integrity
[ "${pair##*:}" != lsm ] || lsm=$lsm,landlock,bpf
echo 'exec bash /scene.sh' >"$work/job"
BELAY_VM_ROOT=$work/root BELAY_VM_DISK=$work/disk BELAY_VM_CPUS=${BELAY_VM_CPUS:-1} BELAY_VM_TIMEOUT=${BELAY_VM_TIMEOUT:-2700} \
	tools/vmtest/vm.sh "${pair%%:*}" "$lsm" "$work/job"
