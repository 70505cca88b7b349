#!/bin/bash
# Measure and write docs/benchmarks.md; arguments are passed on (-only, -out).
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" != 0 ]; then
	echo "bench: root is needed: it loads programs into the kernel and starts containers" >&2
	exit 1
fi
${CC:-cc} -O2 -Wall -Wextra -Werror -std=gnu11 -static -o bin/loop tools/bench/c/loop.c
export CGO_ENABLED=0
go build -trimpath -o bin/bench ./tools/bench
for p in vulndb stock; do
	go test -c -trimpath -o bin/$p.test ./internal/scan/$p
done
go test -c -trimpath -o bin/load.test ./test/load
go test -c -trimpath -o bin/telemetry.test ./internal/telemetry
exec bin/bench "$@"
