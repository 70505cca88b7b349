#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Run one script as root inside a stock Debian kernel: `vm.sh -h`.
set -euo pipefail

usage() {
	cat <<'TEXT'
usage: vm.sh {6.1|6.12|RELEASE} LSM-LIST JOB-SCRIPT [MEMORY-MiB]

Boots a stock Debian kernel under qemu (software emulation) with this machine's
root file system as a read-only lower layer (9p) under a tmpfs, runs JOB-SCRIPT
with bash as root, and powers off. What the guest writes is gone afterwards.

  KERNEL      a series (6.1, 6.12), resolved through Debian's meta package to the
              release the archive has now, or a full release (6.1.0-56-amd64)
  LSM-LIST    the kernel's lsm= argument, for example lockdown,yama,integrity,bpf
  MEMORY-MiB  default 3072; the tmpfs mounts share it

In the guest: /tmp/vm is an empty tmpfs (9p is slow: copy there what runs often),
and so are /run, /dev/shm, /var/lib/docker and /var/lib/containerd; cgroup2 is on
/sys/fs/cgroup, bpffs on /sys/fs/bpf, securityfs and tracefs in their usual places;
the loopback device is up and there is no other. The job starts in the caller's
directory with the caller's BELAY_* variables.

environment:
  BELAY_VM_CACHE    unpacked kernels (default $HOME/.cache/belay-vm)
  BELAY_VM_CPUS     CPUs of the guest (default 2); see matrix.sh for what two can do
  BELAY_VM_ICOUNT   1: one CPU whose clock counts instructions, so that timings repeat
  BELAY_VM_TIMEOUT  seconds until the guest is stopped (default 600)
  BELAY_VM_APPEND   more kernel arguments
  BELAY_VM_ROOT     a Debian root in the place of this machine's, booted by its own systemd:
                    the job is a service after multi-user.target, with no other place
                    of the host in sight than what it brings along in that root
  BELAY_VM_DISK     with it: an ext4 image (mkfs.ext4 on a file) that keeps what the guest
                    writes, in the place of the tmpfs. The guest may then reboot: a job
                    that ends with 194 asks for it, and runs again after it

A CPU stuck in the kernel for 45 s ends the guest, with the stack of each CPU.

exit status: the job's; 124 on timeout; 125 if the guest ended without giving one
(panic) or could not be built; 64 on wrong usage.
example: tools/vmtest/vm.sh 6.1 lockdown,yama,integrity,bpf job.sh
needs: qemu-system-x86 busybox-static cpio kmod xz-utils (apt-get install)
TEXT
}

die() { # die STATUS MESSAGE
	printf 'vm.sh: %s\n' "$2" >&2
	exit "$1"
}

# release KERNEL prints the release that KERNEL means: the archive drops old kernels
# when a new one comes, so only a meta package can be named, never a file. With no
# package lists (offline) the newest unpacked kernel of the series is taken.
release() {
	local series=$1 meta dep
	case $series in *-*) printf '%s\n' "$series" && return ;; esac
	for meta in "linux-image-$series-amd64" linux-image-amd64; do
		dep=$(apt-cache depends "$meta" 2>/dev/null |
			sed -n "s/^ *Depends: linux-image-\(${series//./\\.}\.[0-9].*\)$/\1/p" | head -n 1)
		[ -z "$dep" ] || { printf '%s\n' "$dep" && return; }
	done
	find "$cache" -maxdepth 1 -name "kernel-$series.*" -printf '%f\n' 2>/dev/null |
		sed 's/^kernel-//' | sort -V | tail -n 1
}

# unpack RELEASE leaves the kernel package unpacked in $cache/kernel-RELEASE. The
# rename is last, so a run that was cut off leaves no half kernel in the cache.
unpack() {
	local rel=$1 tmp
	(
		flock 9
		[ ! -d "$cache/kernel-$rel" ] || exit 0
		tmp=$work/deb && mkdir "$tmp"
		# A world-readable folder would let apt drop to its own user; root it is.
		cd "$tmp" && apt-get -o APT::Sandbox::User=root download "linux-image-$rel" >"$tmp/log" 2>&1 ||
			{ cat "$tmp/log" >&2 && exit 1; }
		dpkg-deb -x "$tmp"/linux-image-*.deb "$tmp/root" && depmod -b "$tmp/root" "$rel"
		mkdir "$cache/.new.$$" && cp -a "$tmp/root/." "$cache/.new.$$" && rm -rf "$tmp"
		mv "$cache/.new.$$" "$cache/kernel-$rel"
	) 9>"$cache/.lock"
}

# initramfs RELEASE JOB writes $work/initrd.gz: busybox, the modules that reach the
# host's files, and the script that becomes the guest's init.
initramfs() {
	local rel=$1 job=$2 ird=$work/ird applet m f b
	mkdir -p "$ird"/{bin,proc,sys,dev,mod,new,lower,rw}
	cp "$(command -v busybox)" "$ird/bin/busybox"
	for applet in sh mount umount cat insmod switch_root mkdir; do ln -s busybox "$ird/bin/$applet"; done
	for m in virtio_pci 9pnet_virtio 9p overlay ${disk:+virtio_blk ext4 crc32c_generic}; do
		modprobe -d "$cache/kernel-$rel" -S "$rel" --show-depends "$m" || die 125 "module $m of $rel"
	done >"$work/depends"
	while read -r verb f _; do
		[ "$verb" = insmod ] || continue # "builtin" needs nothing
		b=$(basename "$f" .xz)
		[ ! -e "$ird/mod/$b" ] || continue
		case $f in *.xz) xz -dc "$f" >"$ird/mod/$b" ;; *) cp "$f" "$ird/mod/$b" ;; esac
		printf '%s\n' "$b" >>"$ird/mod/list"
	done <"$work/depends"
	if [ -n "$root" ]; then
		systemd_init >"$ird/init"
		cp "$job" "$ird/job" && systemd_job >"$ird/guest" && systemd_unit >"$ird/unit"
	else
		guest_init >"$ird/init"
		guest_main "$rel" "$job" >"$ird/guest"
	fi
	chmod +x "$ird/init"
	(cd "$ird" && find . | cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initrd.gz"
}

guest_init() {
	cat <<'INIT'
#!/bin/sh
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
while read m; do insmod /mod/$m; done </mod/list
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /lower
mount -t tmpfs t /rw; mkdir -p /rw/u /rw/w
mount -t overlay -o lowerdir=/lower,upperdir=/rw/u,workdir=/rw/w o /new
cat /guest >/new/.guest; umount /proc /sys; mount -t devtmpfs d /new/dev
exec switch_root /new /bin/bash /.guest
INIT
}

# systemd_init hands over to systemd of the other root. Docker wants its files on a disk
# that is no overlay.
systemd_init() {
	cat <<'INIT'
#!/bin/sh
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
while read m; do insmod /mod/$m; done </mod/list
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /lower
[ -b /dev/vda ] && mount -t ext4 /dev/vda /rw || mount -t tmpfs t /rw
mkdir -p /rw/u /rw/w /rw/docker /rw/containerd
mount -t overlay -o lowerdir=/lower,upperdir=/rw/u,workdir=/rw/w o /new
mkdir -p /new/var/lib/docker /new/var/lib/containerd /new/lib/modules
mount -o bind /rw/docker /new/var/lib/docker; mount -o bind /rw/containerd /new/var/lib/containerd
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro modules /new/lib/modules
cat /job >/new/.job; cat /guest >/new/.guest
cat /unit >/new/etc/systemd/system/belay-vm-job.service
mkdir -p /new/etc/systemd/system/multi-user.target.wants
ln -sf ../belay-vm-job.service /new/etc/systemd/system/multi-user.target.wants/belay-vm-job.service
[ -s /new/etc/machine-id ] || echo 0123456789abcdef0123456789abcdef >/new/etc/machine-id
umount /proc /sys; mount -t devtmpfs d /new/dev
exec switch_root /new /lib/systemd/systemd
INIT
}

systemd_unit() {
	cat <<'UNIT'
[Unit]
Description=the job of a test
After=multi-user.target
[Service]
Type=simple
ExecStart=/bin/bash /.guest
StandardOutput=file:/dev/ttyS0
StandardError=inherit
TimeoutStopSec=10
UNIT
}

systemd_job() {
	local v
	printf 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb\n'
	for v in "${!BELAY_@}"; do printf 'export %s=%q\n' "$v" "${!v}"; done
	cat <<'GUEST'
cd /; echo up >/dev/ttyS1
bash /.job </dev/null; rc=$?
if [ $rc = 194 ]; then echo reboot >/dev/ttyS1; sync; systemctl reboot; sleep 600; fi
stty -F /dev/ttyS0 -echo; echo "exit $rc" >/dev/ttyS1; stty -F /dev/ttyS1 -echo
sync; busybox poweroff -f; sleep 60
GUEST
}

# guest_main prints the script of the guest's pid 1. The second serial line carries
# what the host must know (booted, exit status), so no output of the job can forge it.
guest_main() {
	local rel=$1 job=$2 v
	cat <<'GUEST'
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin HOME=/root TERM=dumb
mount -t proc p /proc; mount -t sysfs s /sys; mount -t tmpfs -o mode=755 t /run
mkdir -p /dev/pts /dev/shm /tmp/vm /var/lib/docker /var/lib/containerd /lib/modules
mount -t devpts -o ptmxmode=666 d /dev/pts; ln -sf /proc/self/fd /dev/fd
for d in /dev/shm /tmp/vm /var/lib/docker /var/lib/containerd; do mount -t tmpfs t $d; done
chmod 1777 /dev/shm /tmp/vm
mount -t securityfs s /sys/kernel/security; mount -t bpf b /sys/fs/bpf
mount -t tracefs t /sys/kernel/tracing; mount -t cgroup2 c /sys/fs/cgroup
ip link set lo up; hostname belay-vm
GUEST
	printf 'mount --bind %q /lib/modules\n' "$cache/kernel-$rel/lib/modules"
	# Shared, as systemd makes it: what a container leaks of its mounts must be seen.
	printf 'mount --make-rshared /\n'
	for v in "${!BELAY_@}"; do printf 'export %s=%q\n' "$v" "${!v}"; done
	printf 'rm -f /.guest; cd %q 2>/dev/null || cd /\n' "$PWD"
	printf 'echo up >/dev/ttyS1\n'
	printf 'bash %q </dev/null; rc=$?\n' "$job"
	# stty waits until the line has sent everything.
	printf 'stty -F /dev/ttyS0 -echo; echo "exit $rc" >/dev/ttyS1; stty -F /dev/ttyS1 -echo\n'
	printf 'busybox poweroff -f; sleep 60\n'
}

# watch RELEASE LSM reads the second serial line until qemu closes it.
watch() {
	local word value begin=$EPOCHREALTIME
	while read -r word value; do
		value=${value%$'\r'}
		case ${word%$'\r'} in
		up) awk -v a="$begin" -v b="$EPOCHREALTIME" -v r="$1" -v l="$2" \
			'BEGIN { printf "vm: %s lsm=%s user space after %.1f s\n", r, l, b - a }' >&2 ;;
		reboot) : >"$work/reboot" ;;
		exit) printf '%s\n' "$value" >"$work/exit" ;;
		esac
	done <"$work/status"
}

# sweep removes what runs left that were killed outright. The lock is inherited by
# qemu: it is held as long as anything of a run lives.
sweep() {
	local d
	while read -r d; do
		flock -n "$d" rm -rf "$d" || true
	done < <(find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'belay-vm.*' -mmin +1 2>/dev/null)
}

cleanup() {
	local p
	for p in ${qemu_pid:-} ${watch_pid:-}; do kill "$p" 2>/dev/null || true; done
	[ -z "${qemu_pid:-}" ] || wait "$qemu_pid" 2>/dev/null || true
	rm -rf "$work" "$cache/.new.$$"
}

case ${1:-} in -h | --help | help) usage && exit 0 ;; esac
[ $# -ge 3 ] && [ $# -le 4 ] || { usage >&2 && exit 64; }
lsm=$2 job=$(readlink -f -- "$3") memory=${4:-3072}
[ -r "$job" ] || die 64 "job script $3: no such file"
for tool in qemu-system-x86_64 busybox cpio depmod modprobe xz; do
	command -v "$tool" >/dev/null ||
		die 125 "$tool is missing; apt-get install qemu-system-x86 busybox-static cpio kmod xz-utils"
done
root=${BELAY_VM_ROOT:-} disk=${BELAY_VM_DISK:-} more=()
[ -z "$disk" ] || [ -n "$root" ] || die 64 "BELAY_VM_DISK is for BELAY_VM_ROOT"
[ -z "$root" ] || [ -x "$root/lib/systemd/systemd" ] || die 64 "BELAY_VM_ROOT=$root has no systemd"
cache=${BELAY_VM_CACHE:-$HOME/.cache/belay-vm}
mkdir -p "$cache" && cache=$(readlink -f "$cache")
sweep
work=$(mktemp -d -t belay-vm.XXXXXX)
exec 8<"$work" && flock 8
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
rel=$(release "$1")
[ -n "$rel" ] || die 125 "no kernel of series $1 in the package lists; apt-get update"
[ -d "$cache/kernel-$rel" ] || unpack "$rel" || die 125 "download linux-image-$rel; apt-get update"
initramfs "$rel" "$job"

cpu=(-accel tcg,thread=multi -smp "${BELAY_VM_CPUS:-2}")
# A CPU that is stuck in the kernel ends the guest, with the stack of each.
watchdog=(watchdog_thresh=30 softlockup_panic=1 panic_print=0x40
	rcupdate.rcu_cpu_stall_timeout=45 sysctl.kernel.panic_on_rcu_stall=1)
if [ -n "$root" ]; then
	more+=(-virtfs "local,path=$cache/kernel-$rel/lib/modules,mount_tag=modules,security_model=none,readonly=on,multidevs=remap")
	[ -z "$disk" ] || more+=(-drive "file=$disk,format=raw,if=virtio")
fi
# One instruction is one nanosecond; sleep=off lets an idle guest jump to its next timer.
[ "${BELAY_VM_ICOUNT:-}" != 1 ] || cpu=(-accel tcg,thread=single -icount shift=0,sleep=off -smp 1) watchdog=()
mkfifo "$work/status"
end=$((SECONDS + ${BELAY_VM_TIMEOUT:-600}))

# boot runs the guest until it is off. A panic and a reboot both end qemu: whether the guest
# had asked for the reboot tells them apart.
boot() {
	local rc=0
	watch "$rel" "$lsm" &
	watch_pid=$!
	# pdeathsig: a vm.sh that is killed outright takes its guest along. A limit of 0 would be none.
	setpriv --pdeathsig TERM timeout -k 5 $((end > SECONDS ? end - SECONDS : 1)) qemu-system-x86_64 "${cpu[@]}" -cpu max \
		-m "$memory" -kernel "$cache/kernel-$rel/boot/vmlinuz-$rel" -initrd "$work/initrd.gz" \
		-append "console=ttyS0 quiet panic=-1 lsm=$lsm ${watchdog[*]} ${BELAY_VM_APPEND:-}" \
		-display none -monitor none -serial stdio -serial "file:$work/status" -no-reboot -nic none "${more[@]}" \
		-virtfs "local,path=${root:-/},mount_tag=host,security_model=none,readonly=on,multidevs=remap" \
		</dev/null > >(exec sed -u 's/\r//g; /^\[[^]]*\] reboot: Power down$/d; s/\[[^]]*\] reboot: Power down$//') &
	qemu_pid=$!
	wait "$qemu_pid" || rc=$?
	qemu_pid=
	[ "$rc" != 124 ] || die 124 "stopped after ${BELAY_VM_TIMEOUT:-600} s"
	wait "$watch_pid" || true
	watch_pid=
	# A guest without a disk would forget that its job ran, and reboot for ever.
	[ -e "$work/exit" ] || { [ -n "$disk" ] && [ -e "$work/reboot" ]; } || die 125 "the guest ended without an exit status (qemu: $rc)"
}
boot
while [ ! -e "$work/exit" ]; do
	rm "$work/reboot"
	boot
done
grep -qxE '[0-9]+' "$work/exit" || die 125 "the guest ended without an exit status"
exit "$(cat "$work/exit")"
