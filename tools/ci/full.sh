#!/bin/bash
# Full counts, fuzz minutes and the whole kernel matrix; takes hours. Writes
# docs/test-report.md with date, commit, kernels and durations. STAGES names some of:
# unit clone vulncheck fuzz native matrix survive survivevm docker modern crash soak demo demo-vm release package booted (default: all), and matrix:6.1:lsm
# is one kernel and backend of the matrix; of the others the report keeps what it said, with the commit that it was true of.
set -uo pipefail
cd "$(dirname "$0")/../.."
stages=${STAGES:-unit clone vulncheck fuzz native matrix survive survivevm docker modern crash soak demo demo-vm release package booted}
export BELAY_HAMMER_STARTS=${BELAY_HAMMER_STARTS:-2000} BELAY_HAMMER_RETRIES=${BELAY_HAMMER_RETRIES:-10000}
export BELAY_KILL_STARTS=${BELAY_KILL_STARTS:-1000} BELAY_KILL_TRIES=${BELAY_KILL_TRIES:-10000} BELAY_CHURN=${BELAY_CHURN:-2000} BELAY_BROKEN_ROUNDS=${BELAY_BROKEN_ROUNDS:-3}
# The scanner reads an image of two million entries.
export BELAY_SCAN_ENTRIES=${BELAY_SCAN_ENTRIES:-1000000}
export BELAY_REUSE_ROUNDS=${BELAY_REUSE_ROUNDS:-100}
# The ways around the gate are played on both sides, and their page is written.
export BELAY_WRITE_BYPASSES=1 BELAY_STREAMS=${BELAY_STREAMS:-1000}
# The planner of moves is simulated on 1,000 nodes × 50 containers.
export BELAY_PLAN_NODES=${BELAY_PLAN_NODES:-1000}
# Load swings around a cap for ten minutes.
export BELAY_SWING=${BELAY_SWING:-10m}
export BELAY_MATRIX=full BELAY_VM_TIMEOUT=${BELAY_VM_TIMEOUT:-7200}
report=docs/test-report.md
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
rc=0
rows=()
stage() { # stage NAME WHAT COMMAND…
	local name=$1 what=$2 from=$SECONDS status
	shift 2
	if [[ " $stages " != *" $name "* && " $stages " != *" ${name%%:*} "* ]]; then
		rows+=("$(grep -F "| $name | $what | " "$report" 2>/dev/null || echo "| $name | $what | not run | | |")")
		return
	fi
	echo "== $name: $what"
	if "$@" >"$out/$name" 2>&1; then status=passed; else status=**failed**; rc=1; fi
	local counts
	counts=$(grep -hE '^[^ ].*: [0-9]+ passed, [0-9]+ failed|targets, no finding|promises kept|starts, none ran|tries, none passed|agents killed: none ran|after [0-9]+ containers|recorded [0-9]+, lost|^No vulnerabilities found|^DB updated:|^reboot:|^release-check:|^package test:|^booted:|^streams:|^soak:' "$out/$name" | sed 's/\x1b\[[0-9;]*m//g; s/^ *//' | tr '\n' ';' | sed 's/;$//; s/;/<br>/g')
	rows+=("| $name | $what | $(git rev-parse --short HEAD), $(date -u +%F) | $status in $((SECONDS - from)) s | $counts |")
	[ "$status" = passed ] && return
	cp "$out/$name" "bin/full-$name.log"
	grep -E '^ *--- FAIL' "$out/$name" || tail -40 "$out/$name"
	echo "== $name failed; all that it said: bin/full-$name.log"
}
make -s build build-test || exit 1
. tools/ci/scandata.sh
unit() {
	local require=${BELAY_TEST_REQUIRE:-} rpmdb=${BELAY_TEST_RPMDB:-}
	[ ! -d "$scan_data" ] || require=$require,scan-data
	# Databases of RPM as distributions write them lie in the tests of another reader.
	if go mod download github.com/anchore/go-rpmdb@v0.2.2; then
		rpmdb=${rpmdb:-$(go env GOMODCACHE)/github.com/anchore/go-rpmdb@v0.2.2/pkg/testdata}
		require=$require,rpmdb
	fi
	BELAY_TEST_RPMDB=$rpmdb BELAY_TEST_REQUIRE=$require go test -race -count=1 -v -timeout 60m ./... 2>&1 | tools/ci/count.sh unit
}
stage unit "unit tests, with the race detector" unit
clone() {
	git clone -q --no-hardlinks . "$out/tree" && make -C "$out/tree" package &&
		env -u BELAY_TEST_RPMDB -u BELAY_MATRIX -u BELAY_SCAN_ENTRIES -u BELAY_PLAN_NODES -u BELAY_WRITE_BYPASSES BELAY_SCAN_DATA=/nonexistent \
			go -C "$out/tree" test -count=1 -v -timeout 60m ./... 2>&1 | tools/ci/count.sh clone
}
stage clone "unit tests and make package in a clone, without test data" clone
stage vulncheck "govulncheck of the programs" tools/release/vulncheck.sh
stage fuzz "every fuzz target for a minute" tools/ci/fuzz.sh 60s
stage native "kernel suites on this kernel" tools/ci/native.sh
for kernel in 6.1 6.12; do
	for backend in lsm modret signal; do
		stage matrix:$kernel:$backend "kernel suites and reboot scene on $kernel under $backend" tools/vmtest/matrix.sh $kernel:$backend
	done
done
survive() {
	BELAY_E2E=1 BELAY_BIN=$PWD/bin BELAY_TEST_REQUIRE=root,docker \
		go test -count=1 -v -timeout 3h ./test/survive 2>&1 | tools/ci/count.sh survive
}
stage survive "agents killed, broken and flooded, and engines restarted, under containers that start" survive
stage survivevm "what holds without an agent and over an upgrade of it; 6.1 under lsm, 6.12 under modret" env \
	BELAY_MATRIX_TESTS='TestSurvival|TestUpgrade|TestPhaseAgentDead|TestDNSWithoutAgent|TestEnrol' tools/vmtest/matrix.sh 6.1:lsm 6.12:modret
stage docker "scenes on the Docker Engine of Debian" env -u BELAY_TEST_MODERN_ENGINE tools/ci/e2e.sh
modern() {
	[ -n "${BELAY_TEST_MODERN_ENGINE:-}" ] || { echo "BELAY_TEST_MODERN_ENGINE names no folder with dockerd, containerd, shim and runc"; return 1; }
	BELAY_HAMMER_STARTS=20 BELAY_HAMMER_RETRIES=500 tools/ci/e2e.sh
}
stage modern "scenes on a modern engine (BELAY_TEST_MODERN_ENGINE), reduced counts" modern
crash() {
	BELAY_E2E=1 BELAY_BIN=$PWD/bin BELAY_TEST_REQUIRE=root,docker \
		go test -count=1 -v -timeout 3h -run '^Test(Faults|AgentKilled|Killed|KilledAndAborted)$' ./test/move 2>&1 | tools/ci/count.sh crash
}
stage crash "engines, agents and the mover killed and the network cut, at every step of a move" crash
soak() {
	BELAY_E2E=1 BELAY_BIN=$PWD/bin BELAY_TEST_REQUIRE=root,docker,soak BELAY_SOAK=${BELAY_SOAK:-30m} \
		go test -count=1 -v -timeout 6h -run TestSoak ./test/gate 2>&1 | tools/ci/count.sh soak
}
stage soak "the gate of an agent under mixed calls of two users (BELAY_SOAK, 30m)" soak
stage demo "the demo on this kernel" tools/ci/demo.sh
stage demo-vm "the demo under lsm and modret" tools/ci/demo.sh --vm
stage release "the release twice, with and without a build cache: one set of digests" env COLD=1 tools/release/check.sh
stage package "the .deb installed, upgraded, removed and purged in a Debian root" tools/ci/package.sh
stage booted "the .deb on a Debian that systemd has booted: the gate, a reboot, an upgrade, a purge; 6.12 under modret, 6.1 under lsm" env -u BELAY_VM_TIMEOUT tools/ci/booted.sh
{
	echo "# Test report"
	echo
	echo "Written by \`make test-full\`, which runs all stages or some (\`STAGES\`), on kernel $(uname -r),"
	echo "$(nproc) × $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1). Start hammers: $BELAY_HAMMER_STARTS starts; retry hammers: $BELAY_HAMMER_RETRIES tries."
	echo
	echo "| stage | what | commit, date | result | counts |"
	echo "|---|---|---|---|---|"
	printf '%s\n' "${rows[@]}"
} >$report
cat $report
exit $rc
