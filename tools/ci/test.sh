#!/bin/bash
# What `make test` does: build, generated files, vet, unit tests, the chart, the dashboards, fuzz seeds and 5 s
# each, kernel suites natively and, beside all that, in two virtual machines, scenes on real Docker.
set -euo pipefail
cd "$(dirname "$0")/../.."
step() { printf '\n== %s (%ds)\n' "$*" "$SECONDS"; }

step build
go build ./...
make -s build build-test
step generated files
tools/ci/verify.sh
step vet
test -z "$(gofmt -l cmd internal tools test bpf)" || { gofmt -l cmd internal tools test bpf; exit 1; }
go vet ./...
guests=
if [ "$(id -u)" = 0 ]; then
	step the virtual machines are started
	# They take longest and a processor each: one after the other where there are two.
	guests=$(mktemp)
	[ "$(nproc)" -gt 2 ] || export BELAY_VM_AT_ONCE=1
	tools/vmtest/matrix.sh >"$guests" 2>&1 &
	matrix=$!
	trap 'jobs -pr | xargs -r kill || true; wait || true; cat "$guests"; rm -f "$guests"' EXIT
fi
step unit tests
# dependency and layer tests read the tree: never from the cache
BELAY_TEST_REQUIRE=${BELAY_TEST_REQUIRE:+$BELAY_TEST_REQUIRE,}tmux go test -count=1 -v ./... 2>&1 | tools/ci/count.sh unit
go test -race -count=1 -v ./internal/journal ./internal/health ./internal/control ./internal/policy ./internal/workload 2>&1 | tools/ci/count.sh race
step the Helm chart
go -C tools/charttest test -count=1 -v . 2>&1 | tools/ci/count.sh chart
step the dashboards
go -C tools/dashboardtest test -count=1 -v . 2>&1 | tools/ci/count.sh dashboards
step fuzz
tools/ci/fuzz.sh 5s
if [ -n "$guests" ]; then
	step kernel suites on this kernel
	tools/ci/native.sh
	step scenes on real Docker
	tools/ci/e2e.sh
	step kernel suites in virtual machines
	rc=0
	wait "$matrix" || rc=$?
	cat "$guests"
	: >"$guests"
	[ "$rc" = 0 ] || exit "$rc"
else
	echo "not root: kernel suites and Docker scenes are left out"
fi
step done
