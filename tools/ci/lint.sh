#!/bin/bash
# golangci-lint at a pinned version, built into bin/ so that go.mod stays clean.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=v2.15.0
if ! bin/golangci-lint version 2>/dev/null | grep -q "${version#v}"; then
	GOBIN=$PWD/bin go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
fi
bin/golangci-lint run ./...
