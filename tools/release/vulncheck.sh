#!/bin/bash
# Look for known vulnerabilities in what the programs are linked with: govulncheck on programs that
# keep their symbols, so that what is never called is told apart. The database is vuln.go.dev; where that does not
# answer, or BELAY_SCAN_DATA is set, that of the test data (docs/scan.md, "Test data"), which is as old as it is. Exit
# status 3: there are some.
set -euo pipefail
cd "$(dirname "$0")/../.."
export GOTOOLCHAIN=${GOTOOLCHAIN:-$(cat tools/release/toolchain)} # that of a release
go=${GO:-go}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$go" -C tools/govulncheck build -o "$work/govulncheck" golang.org/x/vuln/cmd/govulncheck
db=()
# -version says of when the database is, if there is one.
if [ -n "${BELAY_SCAN_DATA:-}" ] || ! timeout 60 "$work/govulncheck" -version | grep '^DB updated: ' >/dev/null; then
	. tools/ci/scandata.sh
	[ -d "$scan_data/osv/Go" ] || { echo "vulncheck: vuln.go.dev does not answer or was not to be asked, and there is no $scan_data/osv/Go" >&2; exit 1; }
	echo "by the records in $scan_data/osv/Go"
	"$go" run ./tools/release govulndb -out "$work/db" "$scan_data/osv/Go"
	db=(-db "file://$work/db")
fi
"$work/govulncheck" "${db[@]}" -version | grep '^DB'
rc=0
for c in agent ctl scanner; do
	CGO_ENABLED=0 GOOS=linux "$go" build -tags grpcnotrace -trimpath -o "$work/$c" "./cmd/$c"
	echo "== cmd/$c"
	"$work/govulncheck" "${db[@]}" -mode binary "$work/$c" || rc=$?
done
exit $rc
