# Millrace. "make" lists the targets, "make test" is what a change must pass.

GO           ?= go
BUILD        := .build
BIN          := $(BUILD)/bin
IMAGE        := $(BUILD)/millrace.img
BOARD        ?= qemu-amd64
DEB_PACKAGES ?= clang lld ovmf qemu-system-x86
ARM_PACKAGES := qemu-efi-aarch64 qemu-system-arm

# What the comparison and the command line tests run, pinned.
NATS_CLI     := github.com/nats-io/natscli/nats@v0.5.1
NATS_SERVER  := github.com/nats-io/nats-server/v2@v2.15.2

# Tests that boot machines, tests of the whole process, tests of the source text: not unit tests.
BOOT_TESTS   ?= ./image ./tools/qemu/...
RAFT_TESTS   := ./raft/...
E2E_TESTS    := ./tools/e2e
TIDY_TESTS   := ./tools/tidy
UNIT_TESTS    = $$($(GO) list ./... | grep -vE '^millrace/tools/(e2e|tidy)(/|$$)')

FUZZTIME     ?= 5s
BENCH        ?= Steady|Pipelined|Open|Mover|IdleGroups|Groups|Propose|Throughput|PingPong

.DEFAULT_GOAL := help

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install the Debian packages that are missing (as root; does nothing when all are there)
	@missing=; for p in $(DEB_PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" != 0 ]; then echo "make deps: as root: apt-get install$$missing" >&2; exit 1; fi; \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; \
	fi

deps-arm64: ## install what emulates arm64 boards (as root)
	@$(MAKE) --no-print-directory deps DEB_PACKAGES="$(ARM_PACKAGES)"

build: ## build everything; programs go to .build/bin
	$(GO) build ./...
	$(GO) build -o $(BIN)/ ./appliance/cmd/... ./tools/...

test: deps build lint tidy unit plugins e2e boot ## everything: static checks, unit, end-to-end and boot tests

unit: plugins ## unit tests
	$(GO) test $(UNIT_TESTS)
	$(GO) test -tags etcdraft35 $(RAFT_TESTS)

race: plugins $(BIN)/nats $(BIN)/nats-server ## unit and end-to-end tests under the race detector
	$(GO) test -race $(UNIT_TESTS)
	$(GO) build -race -o $(BIN)/millraced-race ./appliance/cmd/millraced
	$(PEERS) MILLRACE_TEST_SERVER=$(abspath $(BIN)/millraced-race) $(GO) test -race -count=1 $(E2E_TESTS)

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l appliance board image plugins raft storage tools); \
	if [ -n "$$unformatted" ]; then echo "not formatted by gofmt:" >&2; echo "$$unformatted" >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags qemu,etcdraft35 ./image/... ./tools/qemu/... ./raft/...
	$(GO) tool staticcheck ./...

tidy: ## imports, purity and habits, as tools/tidy has them
	$(GO) test -count=1 $(TIDY_TESTS)

SEEDS ?= 50
FIRST ?= 1

sim: ## the cluster simulator: SEEDS=50 runs from seed FIRST=1 on; prints how to replay those that fail
	$(GO) test -count=1 -timeout 0 -run '^(TestMany|TestMutants)$$' ./raft/rafttest/sim -v -seeds $(SEEDS) -first $(FIRST)

fuzz-smoke: ## run each fuzz target for FUZZTIME (5s)
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

PEERS         = MILLRACE_TEST_NATS=$(abspath $(BIN)/nats) MILLRACE_TEST_PEER=$(abspath $(BIN)/nats-server)

e2e: $(BIN)/nats $(BIN)/nats-server ## the real process: kill -9 in a loop, restarts, command line, conformance
	$(PEERS) $(GO) test -count=1 -parallel 3 $(E2E_TESTS)

CHAOS ?= 10

chaos: $(BIN)/nats $(BIN)/nats-server ## long failure tests of clusters, then CHAOS=10 minutes of random harm; MILLRACE_SEED=n repeats it
	$(PEERS) MILLRACE_CHAOS=$(CHAOS) $(GO) test -count=1 -timeout 0 -v -run '^TestCluster' $(E2E_TESTS)

boot: image plugins ## boot the image in QEMU: power cuts, foreign disks, plugins
	$(GO) test -tags qemu -count=1 -timeout 45m $(BOOT_TESTS)

CUTS ?= 5

boot-long: deps-arm64 image plugins ## what takes long on booted machines: all boards, a VLAN, little memory, CUTS=5 rounds of power cuts, an update while messages are published (25 min and more)
	MILLRACE_POWER_CUTS=$(CUTS) MILLRACE_BOOT_LONG=1 $(GO) test -tags qemu -count=1 -timeout 0 -v -run '^(TestFleet(OnVLAN|InLittleMemory|PowerCuts|Update)|TestBoardsServe)$$' ./tools/qemu

bench: build $(BIN)/nats $(BIN)/nats-server ## nats bench against millraced and nats-server, side by side
	$(BIN)/bench -millraced $(BIN)/millraced -nats-server $(BIN)/nats-server -nats $(BIN)/nats -out tools/bench/results

bench-storage: ## journal, message index and raft host on this disk (some minutes); results to tools/bench/results
	@at=tools/bench/results/storage-$$(date -u +%Y-%m-%dT%H%M).txt; \
	$(GO) test ./appliance/node ./storage/journal ./storage/index ./raft ./raft/core ./raft/transport -run '^$$' -bench '$(BENCH)' -timeout 60m | tee $$at

bench-reach: build $(BIN)/nats $(BIN)/nats-server ## clusters of both, side by side: fail-over, watchers, idle streams, a lost disk (some minutes)
	$(BIN)/bench -millraced $(BIN)/millraced -nats-server $(BIN)/nats-server -nats $(BIN)/nats -reach all -out tools/bench/results

plugins: deps ## build the example plugins to .build/plugins
	plugins/examples/build.sh $(BUILD)/plugins

image: deps ## build the disk image .build/millrace.img and .build/bin/millrace (BOARD=qemu-amd64, VERSION=0.1.0, SIGN_KEY=file of mkimage keygen, DEBUG=1: with a shell)
	$(GO) run ./tools/mkimage -board $(BOARD) -o $(IMAGE) $(if $(VERSION),-version $(VERSION)) $(if $(SIGN_KEY),-sign-key $(SIGN_KEY)) $(if $(DEBUG),-debug)
	@$(GO) build -o $(BIN)/ ./tools/millrace

NODES   ?= 3
ROUTERS ?= 1

run: image ## boot NODES=3 storage nodes and ROUTERS=1 routers in QEMU, on ports 14222 and up (FRESH=1: with new disks, so of the new image)
	$(BIN)/millrace qemu up -board $(BOARD) -image $(IMAGE) -nodes $(NODES) -routers $(ROUTERS) $(if $(FRESH),-fresh)

run-one: image ## boot one machine in QEMU with a data disk, NATS on port 14222
	$(BIN)/millrace qemu run -board $(BOARD) -image $(IMAGE)

dev: build ## three storage nodes and a router in the foreground, data in .build/dev; CLEAN=1 deletes it first
	$(BIN)/dev -program $(BIN)/millraced -dir $(BUILD)/dev $(if $(CLEAN),-clean)

bench-boot: image ## sizes, and the time from the start of QEMU to the first acknowledged publish; results to tools/bench/results
	@at=tools/bench/results/boot-$$(date -u +%Y-%m-%dT%H%M).txt; \
	$(GO) test -tags qemu -run '^$$' -bench BenchmarkBoot -benchtime 5x -timeout 30m ./tools/qemu | tee $$at

clean: ## remove .build
	rm -rf $(BUILD)

$(BIN)/nats:
	GOBIN=$(abspath $(BIN)) $(GO) install $(NATS_CLI)

$(BIN)/nats-server:
	GOBIN=$(abspath $(BIN)) $(GO) install $(NATS_SERVER)

.PHONY: help deps deps-arm64 build test unit race lint tidy sim fuzz-smoke e2e chaos boot boot-long bench bench-storage bench-reach bench-boot plugins image run run-one dev clean
