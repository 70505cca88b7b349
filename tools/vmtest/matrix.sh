#!/bin/bash
# matrix.sh [KERNEL:BACKEND…]: the kernel suites inside stock kernels, one boot for each
# pair; default 6.1:lsm 6.12:modret. BELAY_MATRIX=full runs every pair.
set -euo pipefail
cd "$(dirname "$0")/../.."
pairs=("$@")
if [ ${#pairs[@]} = 0 ]; then
	pairs=(6.1:lsm 6.12:modret)
	[ "${BELAY_MATRIX:-}" != full ] ||
		pairs=(6.1:lsm 6.1:modret 6.1:signal 6.12:lsm 6.12:modret 6.12:signal)
fi
job=$(mktemp)
trap 'rm -f "$job"' EXIT
for pair in "${pairs[@]}"; do
	kernel=${pair%%:*} backend=${pair##*:}
	lsm=lockdown,yama,integrity
	[ "$backend" != lsm ] || lsm=$lsm,bpf
	cat >"$job" <<JOB
set -uo pipefail
cd "$PWD"
mkdir -p /tmp/vm/bin && for f in bin/*; do case \$f in *belay*|*golangci*|*demo) ;; *) cp "\$f" /tmp/vm/bin/ ;; esac; done
export BELAY_BIN=/tmp/vm/bin TMPDIR=/tmp/vm BELAY_TEST_BACKEND=$backend
export BELAY_POLICIES=$PWD/policies
export BELAY_TEST_REQUIRE=root,bpf,cgroup2,bpf-$backend
rc=0
cd /tmp/vm
bin/enforce.test -test.v 2>&1 | "$PWD/tools/ci/count.sh" $kernel $backend enforce || rc=1
[ ! -x bin/kernel.test ] || bin/kernel.test -test.v -test.timeout 20m 2>&1 | "$PWD/tools/ci/count.sh" $kernel $backend kernel || rc=1
"$PWD/tools/vmtest/reboot.sh" "$PWD" || rc=1
exit \$rc
JOB
	echo "matrix: $kernel with lsm=$lsm, backend $backend"
	# 125: the guest died. With two CPUs, qemu 7.2 now and then keeps the translation of an
	# instruction that the guest's kernel has patched since (seen: the int3 with which it
	# switches a tracepoint, in syscall_trace_enter); both CPUs then take that trap for
	# ever. A guest that dies is said to have died, and is started again.
	for try in 1 2 3; do
		rc=0
		BELAY_VM_TIMEOUT=${BELAY_VM_TIMEOUT:-1500} tools/vmtest/vm.sh "$kernel" "$lsm" "$job" || rc=$?
		[ "$rc" = 125 ] || break
		echo "matrix: THE GUEST DIED on $kernel $backend, try $try of 3 (above)"
	done
	[ "$rc" = 0 ] || exit "$rc"
done
