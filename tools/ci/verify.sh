#!/bin/bash
# Regenerate everything that is generated and require that nothing changed.
set -euo pipefail
cd "$(dirname "$0")/../.."
files=(internal/enforce/kernel_bpfel.go internal/enforce/kernel_bpfel.o internal/enforce/codes_gen.go docs/failure-codes.md)
keep=$(mktemp -d)
trap 'rm -rf "$keep"' EXIT
for f in "${files[@]}"; do cp --parents "$f" "$keep"; done
go generate ./internal/enforce
bad=0
for f in "${files[@]}"; do
	if ! cmp -s "$f" "$keep/$f"; then
		echo "verify: $f does not match its sources: run make generate and commit it" >&2
		bad=1
	fi
done
[ $bad = 0 ] && echo "verify: generated files match their sources ($(clang-16 --version | head -1))"
exit $bad
