#!/bin/bash
# Scenes on a private Docker Engine of this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -d test/e2e ] || exit 0
export BELAY_BIN=$PWD/bin BELAY_E2E=1 BELAY_TEST_REQUIRE=${BELAY_TEST_REQUIRE:-root,docker,otlpreceiver,bin,busybox,debian-root,sshd}
. tools/ci/scandata.sh
[ ! -d "$scan_data" ] || BELAY_TEST_REQUIRE=$BELAY_TEST_REQUIRE,scan-data
go test -count=1 -v -p 1 -timeout 120m ./test/e2e/... ./test/gate/... ./test/scan/... ./test/telemetry/... ./test/load/... ./test/move/... ./test/survive/... ./test/ship/... 2>&1 | tools/ci/count.sh e2e
