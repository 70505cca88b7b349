#!/bin/bash
# fuzz.sh [TIME]: every fuzz target for a time (default 5s each), seeds first. A package is built
# once for all of its targets, and as many targets run at a time as there are CPUs, with one worker each.
set -euo pipefail
cd "$(dirname "$0")/../.."
time=${1:-5s}
work=$(mktemp -d)
running=()
trap 'kill "${running[@]}" 2>/dev/null || true; wait; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cache=$(go env GOCACHE)/fuzz

# Go before 1.27 at times reports the end of -fuzztime as a failure (golang/go#75804): the
# whole time was used and no input failed. An input that fails is written down, a seed is named,
# and a worker that dies or hangs says so: none of these is taken for the clock.
ended_by_clock() { # ended_by_clock NAME LOG
	grep -qx '    context deadline exceeded' "$2" &&
		! grep -qE 'Failing input|failure while testing|fuzzing process|panic:|fatal error:|_test\.go:[0-9]' "$2" &&
		echo "fuzz: $1: its time ended (golang/go#75804), no finding"
}

# one BINARY PACKAGE NAME fuzzes one target in the folder of its package, where a failing input is kept.
one() {
	local log=$work/$3.log pid rc=0
	trap 'kill "$pid" 2>/dev/null; wait; exit 143' TERM
	(cd "$2" && exec "$1" -test.run '^$' -test.fuzz "^$3\$" -test.fuzztime "$time" -test.fuzzminimizetime 10x \
		-test.fuzzcachedir "$cache/$2" -test.parallel 1) >"$log" 2>&1 &
	pid=$!
	wait "$pid" || rc=$?
	# Without a target of that name nothing is fuzzed, and that is no failure to the binary.
	if [ "$rc" = 0 ] && ! grep -q '^fuzz: elapsed' "$log"; then rc=1; fi
	[ "$rc" = 0 ] || ended_by_clock "$3" "$log" || { echo "fuzz: $2 $3"; cat "$log"; return 1; }
}

# collect waits for the oldest target.
collect() {
	wait "${running[0]}" || exit 1
	running=("${running[@]:1}")
}

n=0
for pkg in $(grep -rlE '^func Fuzz[A-Za-z0-9_]+\(' --include='*_test.go' internal bpf cmd tools test 2>/dev/null | xargs -n1 dirname | sort -u); do
	bin=$work/$(tr / - <<<"$pkg").test
	go test -c -fuzz=Fuzz -o "$bin" "./$pkg"
	for name in $(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$pkg"/*_test.go | sort); do
		[ ${#running[@]} -lt "$(nproc)" ] || collect
		echo "fuzz: ./$pkg $name $time"
		one "$bin" "$pkg" "$name" &
		running+=($!)
		n=$((n + 1))
	done
done
while [ ${#running[@]} -gt 0 ]; do collect; done
echo "fuzz: $n targets, no finding"
