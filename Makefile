# Belay. `make help` lists the targets. Logic lives in Go and in tools/, not here.
SHELL := /bin/bash
export PATH := $(PATH):/usr/local/go/bin
export CGO_ENABLED ?= 1
GO ?= go
BIN := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATIC := CGO_ENABLED=0 $(GO) build -tags grpcnotrace -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

.PHONY: build
build: ## build bin/belay-agent, bin/belay and bin/belay-scanner (needs no clang)
	$(STATIC) -o $(BIN)/belay-agent ./cmd/agent
	$(STATIC) -o $(BIN)/belay ./cmd/ctl
	$(STATIC) -o $(BIN)/belay-scanner ./cmd/scanner

.PHONY: package
package: ## build dist/*.deb and dist/*.rpm for amd64 and arm64 (no root, no C compiler)
	GO=$(GO) tools/package/build.sh

.PHONY: image
image: ## build dist/belay-image_*: OCI layout and files for docker load, amd64 and arm64 (no engine)
	GO=$(GO) tools/image/build.sh

.PHONY: release
release: ## build dist/release: programs, packages, image, chart, bills of materials, licences, SHA256SUMS
	GO=$(GO) tools/release/build.sh

.PHONY: release-check
release-check: ## build the release of HEAD twice in different places and compare (COLD=1: without a build cache)
	GO=$(GO) tools/release/check.sh

.PHONY: vulncheck
vulncheck: ## govulncheck of the programs; by the test data where vuln.go.dev does not answer
	GO=$(GO) tools/release/vulncheck.sh

.PHONY: build-test
build-test: ## build the static helpers that kernel tests start
	tools/ci/build-test.sh

.PHONY: deps
deps: ## install Debian packages that tests and the demo need (root)
	tools/ci/deps.sh

.PHONY: generate
generate: ## rebuild the BPF object, its Go bindings and generated pages (needs clang-16)
	$(GO) generate ./internal/enforce

.PHONY: verify
verify: ## fail if generated files do not match their sources
	tools/ci/verify.sh

.PHONY: accuracy
accuracy: ## write docs/accuracy.md, from the test data of docs/scan.md
	$(GO) run ./tools/accuracy

.PHONY: fmt
fmt: ## format Go sources
	gofmt -l -w cmd internal tools test bpf

.PHONY: lint
lint: ## golangci-lint with .golangci.yml
	tools/ci/lint.sh

.PHONY: test
test: deps ## everything that passes offline on this machine
	tools/ci/test.sh

.PHONY: test-unit
test-unit: ## unit tests only: unprivileged, no services
	$(GO) test ./...

.PHONY: test-kernel
test-kernel: build-test ## contract and attack suites in stock kernels under qemu (KERNELS="6.1:lsm 6.12:modret")
	tools/vmtest/matrix.sh $(KERNELS)

.PHONY: test-e2e
test-e2e: build build-test ## scenes on a real private Docker Engine
	tools/ci/e2e.sh

.PHONY: attack
attack: deps build-test ## play every attack here and in virtual machines; writes docs/bypass-matrix.md (RUNS="native 6.12:lsm")
	tools/ci/attack.sh $(RUNS)

.PHONY: test-full
test-full: deps ## full counts, soaks, fuzz minutes, whole kernel matrix; writes docs/test-report.md
	tools/ci/full.sh

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (5s)
	tools/ci/fuzz.sh $(or $(FUZZTIME),5s)

.PHONY: bench
bench: build build-test ## write docs/benchmarks.md
	tools/ci/bench.sh

.PHONY: demo
demo: deps build build-test ## the main job, on real containers; VM=1 shows it under lsm and modret too
	tools/ci/demo.sh $(if $(VM),--vm)

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) dist
