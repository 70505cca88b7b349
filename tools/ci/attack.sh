#!/bin/bash
# attack.sh [native|KERNEL:BACKEND…]: play every attack and write docs/bypass-matrix.md. With no
# argument on this machine and in a virtual machine for each pair of kernel and backend, two guests at a
# time if there are two CPUs and memory for them (BELAY_VM_AT_ONCE). "attack.sh page" plays none and writes the page anew. ATTACKS="net-left host-self"
# plays those alone, and keeps what the page says of others. An end that is not 0: an attack was stopped
# with no record, or one that has not been stopped has no reason on the page.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" != 0 ]; then
	echo "attack: root is needed: it loads programs into the kernel and starts containers" >&2
	exit 1
fi
[ -x bin/kernel.test ] && [ -x bin/attack ] || {
	echo "attack: bin/kernel.test or bin/attack is missing: make build-test" >&2
	exit 1
}
runs=("$@")
[ ${#runs[@]} -gt 0 ] || runs=(native 6.1:lsm 6.1:modret 6.1:signal 6.12:lsm 6.12:modret 6.12:signal)
work=$(mktemp -d)
guests=() # KERNEL-BACKEND of those that run
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
failed=0
lines=
matrix='^TestMatrix$' # of go test -run
[ -z "${ATTACKS:-}" ] || matrix="$matrix/^(${ATTACKS// /|})_"
at_once=${BELAY_VM_AT_ONCE:-2}
[ "$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)" -gt 8000000 ] && [ "$(nproc)" -gt 1 ] || at_once=1

# native plays on this machine, the second time with the program on system calls.
native() {
	local out=$work/native rc=0
	BELAY_BIN=$PWD/bin BELAY_ATTACK_OUT=$out bin/kernel.test -test.v -test.timeout 40m -test.run "$matrix" >"$out.log" 2>&1 || rc=1
	if grep -q '"column":"[0-9.]* signal"' "$out" 2>/dev/null; then
		BELAY_BIN=$PWD/bin BELAY_ATTACK_OUT=$out BELAY_TEST_SYSCALLS=1 bin/kernel.test -test.v -test.timeout 40m -test.run "$matrix" >>"$out.log" 2>&1 || rc=1
	fi
	[ "$rc" = 0 ] || grep -vE '^(=== |    --- (PASS|SKIP)|--- PASS)' "$out.log"
	lines=$lines:$out
	return "$rc"
}

# guest KERNEL BACKEND plays in a virtual machine, whose files are gone afterwards: what it prints remains.
guest() {
	local out=$work/$1-$2 lsm=lockdown,yama,integrity rc=0 try vm=
	trap 'kill "$vm" 2>/dev/null; wait; exit 143' TERM
	[ "$2" != lsm ] || lsm=$lsm,bpf
	cat >"$out.job" <<JOB
set -uo pipefail
mkdir -p /tmp/vm/bin && for f in $PWD/bin/*; do case \$f in *belay*|*golangci*|*demo) ;; *) cp "\$f" /tmp/vm/bin/ ;; esac; done
export BELAY_BIN=/tmp/vm/bin TMPDIR=/tmp/vm BELAY_TEST_BACKEND=$2 BELAY_ATTACK_OUT=/tmp/vm/lines
export BELAY_POLICIES=$PWD/policies BELAY_TEST_REQUIRE=root,bpf,cgroup2,bpf-$2
cd /tmp/vm
touch lines
tail -n +1 -f lines | sed -u 's/^/BELAY-ATTACK /' & # also of a guest that does not come to its end
bin/kernel.test -test.v -test.timeout 80m -test.run '$matrix'
rc=\$?
sleep 2
exit \$rc
JOB
	for try in 1 2 3; do
		rc=0
		BELAY_VM_CPUS=${BELAY_VM_CPUS:-1} BELAY_VM_TIMEOUT=${BELAY_VM_TIMEOUT:-5400} tools/vmtest/vm.sh "$1" "$lsm" "$out.job" >"$out.log" 2>&1 &
		vm=$!
		wait "$vm" || rc=$?
		[ "$rc" = 125 ] || break
		echo "attack: the guest of $1 $2 died, try $try of 3"
	done
	tr -d '\r' <"$out.log" | sed -n 's/^BELAY-ATTACK //p' >"$out"
	[ "$rc" = 0 ] || grep -vE '^(=== |BELAY-ATTACK|    --- (PASS|SKIP)|--- PASS)' "$out.log"
	return "$rc"
}

# collect waits for the oldest guest and takes what it played.
collect() {
	wait "${pids[0]}" || failed=1
	cat "$work/${guests[0]}.said"
	[ ! -s "$work/${guests[0]}" ] || lines=$lines:$work/${guests[0]}
	pids=("${pids[@]:1}") guests=("${guests[@]:1}")
}

for run in "${runs[@]}"; do
	echo "attack: $run"
	case $run in
	page) lines=page ;;
	native) native || failed=1 ;;
	*:*)
		[ ${#pids[@]} -lt "$at_once" ] || collect
		name=${run%%:*}-${run##*:}
		guest "${run%%:*}" "${run##*:}" >"$work/$name.said" 2>&1 &
		pids+=($!) guests+=("$name")
		;;
	*)
		echo "attack.sh: $run is neither native nor KERNEL:BACKEND" >&2
		exit 64
		;;
	esac
done
while [ ${#pids[@]} -gt 0 ]; do collect; done
lines=${lines#:}
if [ -n "${ATTACKS:-}" ] && [ "$lines" != page ] && ! tr : '\n' <<<"$lines" | xargs -r cat 2>/dev/null | grep . >/dev/null; then # not -q: cat would die of the pipe
	echo "attack.sh: nothing was played: no attack is named as ATTACKS has it: $ATTACKS" >&2
	exit 64
fi
(cd test/kernel && BELAY_BIN=$OLDPWD/bin BELAY_ATTACK_LINES=$lines "$OLDPWD/bin/kernel.test" -test.run '^TestMatrixPage$') || failed=1
sed -n '/^| id | attack/,/^$/p' docs/bypass-matrix.md
exit $failed
