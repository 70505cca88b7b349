#!/bin/bash
# Run every fuzz target for a time (default 5s each), seeds first.
set -euo pipefail
cd "$(dirname "$0")/../.."
time=${1:-5s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Go before 1.27 at times reports the end of -fuzztime as a failure (golang/go#75804): the
# whole time was used and no input failed. An input that fails is written down, a seed is named,
# and a worker that dies or hangs says so: none of these is taken for the clock.
ended_by_clock() {
	grep -qx '    context deadline exceeded' "$log" &&
		! grep -qE 'Failing input|failure while testing|fuzzing process|panic:|fatal error:|_test\.go:[0-9]' "$log" &&
		echo "fuzz: $name: its time ended (golang/go#75804), no finding"
}

n=0
while IFS=: read -r file _ rest; do
	name=$(sed -E 's/func (Fuzz[A-Za-z0-9_]+)\(.*/\1/' <<<"$rest")
	pkg=./$(dirname "$file")
	echo "fuzz: $pkg $name $time"
	go test "$pkg" -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x >"$log" 2>&1 || ended_by_clock || {
		cat "$log"; exit 1
	}
	n=$((n + 1))
done < <(grep -rnE '^func Fuzz[A-Za-z0-9_]+\(' --include='*_test.go' internal bpf cmd tools test 2>/dev/null | sort)
echo "fuzz: $n targets, no finding"
