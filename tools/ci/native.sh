#!/bin/bash
# The kernel suites on the kernel of this machine, with the backend that it allows.
set -euo pipefail
cd "$(dirname "$0")/../.."
export BELAY_BIN=$PWD/bin BELAY_TEST_REQUIRE=root,bpf,cgroup2
bin/enforce.test -test.v 2>&1 | tools/ci/count.sh native enforce
[ ! -x bin/kernel.test ] || bin/kernel.test -test.v 2>&1 | tools/ci/count.sh native kernel
