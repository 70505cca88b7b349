#!/bin/bash
# Build the static programs that kernel tests start: the container helper, the attacks,
# and the test binaries themselves, which run in virtual machines without Go.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CGO_ENABLED=0
mkdir -p bin
go build -trimpath -o bin/ctr ./tools/ctr
[ ! -x tools/attack/build.sh ] || tools/attack/build.sh bin
go build -trimpath -o bin/ ./tools/demo ./tools/lab/actor
(cd tools/otlpreceiver && go build -trimpath -o ../../bin/otlpreceiver .)
go test -c -trimpath -o bin/enforce.test ./internal/enforce
[ ! -d test/kernel ] || go test -c -trimpath -o bin/kernel.test ./test/kernel
