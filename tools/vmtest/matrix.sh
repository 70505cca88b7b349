#!/bin/bash
# matrix.sh [KERNEL:BACKEND…]: the kernel suites inside stock kernels, one boot for each
# pair; default 6.1:lsm 6.12:modret. BELAY_MATRIX=full runs every pair, with two CPUs each.
# BELAY_MATRIX_TESTS, of go test -run, has those of test/kernel played, and the check by the doctor.
#
# By default each guest has one CPU, and two guests run at a time if there is memory; fewer
# by BELAY_VM_AT_ONCE=1. With two CPUs, qemu 7.2 now and then keeps the translation of an instruction that the guest's
# kernel has patched since (seen: the int3 with which it switches a tracepoint in
# syscall_trace_enter, and a branch in kmem_cache_alloc): both CPUs take that trap for ever.
# A guest that dies is said to have died, and is started again, three times at most.
set -euo pipefail
cd "$(dirname "$0")/../.."
pairs=("$@")
full=${BELAY_MATRIX:-}
# Reduced: without tests that load the programs anew or play attacks with no policy: both run natively too, under its backend.
export BELAY_MATRIX=${full:-reduced}
export BELAY_VM_CPUS=${BELAY_VM_CPUS:-$([ "$full" = full ] && echo 2 || echo 1)}
if [ ${#pairs[@]} = 0 ]; then
	pairs=(6.1:lsm 6.12:modret)
	[ "$full" != full ] ||
		pairs=(6.1:lsm 6.1:modret 6.1:signal 6.12:lsm 6.12:modret 6.12:signal)
fi
at_once=${BELAY_VM_AT_ONCE:-2}
[ "$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)" -gt 8000000 ] && [ "$(nproc)" -gt 1 ] &&
	[ "$BELAY_VM_CPUS" = 1 ] || at_once=1
vm_timeout=${BELAY_VM_TIMEOUT:-3600}
work=$(mktemp -d)
running=()
trap 'jobs -pr | xargs -r kill || true; wait || true; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# one KERNEL BACKEND runs one pair.
one() {
	local kernel=$1 backend=$2 lsm=lockdown,yama,integrity job=$work/$1-$2.job try rc vm
	local advice='add lsm=[a-z,]*,bpf to ' status=4 # of belay doctor
	[ "$backend" != lsm ] || { lsm=$lsm,bpf advice='bpf is among the security modules' status=0; }
	cat >"$job" <<JOB
set -uo pipefail
cd "$PWD"
mkdir -p /tmp/vm/bin && for f in bin/*; do case \$f in *belay*|*golangci*|*demo) ;; *) cp "\$f" /tmp/vm/bin/ ;; esac; done
export BELAY_BIN=/tmp/vm/bin TMPDIR=/tmp/vm BELAY_TEST_BACKEND=$backend
export BELAY_POLICIES=$PWD/policies
export BELAY_TEST_REQUIRE=root,bpf,cgroup2,bpf-$backend
rc=0
cd /tmp/vm
said=\$("$PWD/bin/belay" --run-dir /tmp/vm/none doctor --only kernel.lsm)
[ \$? = $status ] && grep -q '$advice' <<<"\$said" || { echo "matrix: doctor: want status $status and '$advice': \$said"; rc=1; }
[ -n "\${BELAY_MATRIX_TESTS:-}" ] || bin/enforce.test -test.v 2>&1 | "$PWD/tools/ci/count.sh" $kernel $backend enforce || rc=1
[ ! -x bin/kernel.test ] || bin/kernel.test -test.v -test.run "\${BELAY_MATRIX_TESTS:-}" -test.timeout $((vm_timeout - 300))s 2>&1 | "$PWD/tools/ci/count.sh" $kernel $backend kernel || rc=1
[ -n "\${BELAY_MATRIX_TESTS:-}" ] || "$PWD/tools/vmtest/reboot.sh" "$PWD" || rc=1
exit \$rc
JOB
	echo "matrix: $kernel with lsm=$lsm, backend $backend"
	trap 'kill "$vm"; wait "$vm"; exit 143' TERM
	for try in 1 2 3; do
		rc=0
		BELAY_VM_TIMEOUT=$vm_timeout tools/vmtest/vm.sh "$kernel" "$lsm" "$job" &
		vm=$!
		wait "$vm" || rc=$?
		[ "$rc" = 125 ] || break
		echo "matrix: THE GUEST DIED on $kernel $backend, try $try of 3 (above)"
	done
	return "$rc"
}

# collect waits for the oldest guest and prints what it said.
collect() {
	local rc=0
	wait "${running[0]}" || rc=$?
	cat "$work/out-${running[0]}"
	running=("${running[@]:1}")
	[ "$rc" = 0 ] || failed=$rc
}

failed=0
for pair in "${pairs[@]}"; do
	[ ${#running[@]} -lt $at_once ] || collect
	exec 9>"$work/out"
	one "${pair%%:*}" "${pair##*:}" >&9 2>&1 &
	mv "$work/out" "$work/out-$!"
	exec 9>&-
	running+=($!)
	echo "matrix: ${pair%%:*} ${pair##*:} runs"
done
while [ ${#running[@]} -gt 0 ]; do collect; done
exit $failed
