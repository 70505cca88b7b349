#!/bin/bash
# Look for known vulnerabilities in what the programs are linked with: govulncheck on programs that
# keep their symbols, so that what is never called is told apart. The database is that of
# the test data (docs/scan.md, "Test data"), osv/Go (OSV records, no network), or else vuln.go.dev. Exit status 3: there are some.
set -euo pipefail
cd "$(dirname "$0")/../.."
export GOTOOLCHAIN=${GOTOOLCHAIN:-$(cat tools/release/toolchain)} # that of a release
go=${GO:-go}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$go" -C tools/govulncheck build -o "$work/govulncheck" golang.org/x/vuln/cmd/govulncheck
db=()
. tools/ci/scandata.sh
if [ -d "$scan_data/osv/Go" ]; then
	"$go" run ./tools/release govulndb -out "$work/db" "$scan_data/osv/Go"
	db=(-db "file://$work/db")
fi
rc=0
for c in agent ctl scanner; do
	CGO_ENABLED=0 GOOS=linux "$go" build -tags grpcnotrace -trimpath -o "$work/$c" "./cmd/$c"
	echo "== cmd/$c"
	"$work/govulncheck" "${db[@]}" -mode binary "$work/$c" || rc=$?
done
exit $rc
