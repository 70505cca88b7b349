#!/bin/bash
# Run every fuzz target for a time (default 5s each), seeds first.
set -euo pipefail
cd "$(dirname "$0")/../.."
time=${1:-5s}
n=0
while IFS=: read -r file _ rest; do
	name=$(sed -E 's/func (Fuzz[A-Za-z0-9_]+)\(.*/\1/' <<<"$rest")
	pkg=./$(dirname "$file")
	echo "fuzz: $pkg $name $time"
	go test "$pkg" -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x >/tmp/belay-fuzz.$$ 2>&1 || {
		cat /tmp/belay-fuzz.$$; rm -f /tmp/belay-fuzz.$$; exit 1
	}
	n=$((n + 1))
done < <(grep -rnE '^func Fuzz[A-Za-z0-9_]+\(' --include='*_test.go' internal bpf cmd tools test 2>/dev/null | sort)
rm -f /tmp/belay-fuzz.$$
echo "fuzz: $n targets, no finding"
