# Thin: every target sets up libtorch if needed (scripts/setup), then calls the Go tool. `make help` lists them.
.DEFAULT_GOAL := build
SHELL := bash
.SHELLFLAGS := -o pipefail -c
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
PYTHON ?= python3
PEERS ?= ../shared/bench/peers
TESTFLAGS ?= -timeout 20m
SHORTLY := awk -f scripts/testlog.awk

.PHONY: help libtorch build test short race lint fuzz truth table golden bench bench-quick demo compat bundle check clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

libtorch: ## find or install libtorch, and compile the layer over it
	@command -v go >/dev/null || { echo "the go command is missing: see https://go.dev/doc/install" >&2; exit 1; }
	@go run ./scripts/setup >/dev/null

build: libtorch ## the tool, at bin/onestep
	go build -ldflags '-X main.version=$(VERSION)' -o bin/onestep ./cmd/onestep

test: libtorch ## every test
	go test -v $(TESTFLAGS) ./... 2>&1 | $(SHORTLY)

short: libtorch ## the quick tests
	go test -v -short $(TESTFLAGS) ./... 2>&1 | $(SHORTLY)

race: libtorch ## the quick tests under the race detector
	go test -v -race -short $(TESTFLAGS) ./... 2>&1 | $(SHORTLY)

lint: libtorch ## formatting, vet, staticcheck, the rules of imports and of texts
	@bad=$$(gofmt -l .) && [ -z "$$bad" ] || { echo "gofmt wants to change: $$bad" >&2; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go run ./scripts/checkcgo
	go run ./scripts/checkquote ./internal/... ./torch/... ./models/... ./sampling/... ./training/... ./lora/... ./evaluation/... ./serve/...

fuzz: libtorch ## every fuzz target for 60 seconds
	scripts/fuzz.sh 60s

truth: libtorch ## what each method learns, against the exact function, into docs/results/truth.md (an hour of one core)
	go run ./scripts/truth

table: build ## all methods on one network and data set, measured, into docs/results/table-*.md (many hours of one core; resumes)
	go run ./scripts/table -part fashion-mnist
	go run ./scripts/table -part cifar10
	go run ./scripts/table -part precision
	for part in fashion-mnist cifar10; do $(PYTHON) scripts/plot_table.py docs/results/table-$$part.json docs/results/table-$$part-curves.png || exit 1; done

golden: ## write the golden files again (PYTHON with scripts/requirements-dev.txt)
	find scripts/golden -mindepth 2 -name '*.py' ! -path '*/shared/*' | sort | while read -r script; do echo "$$script"; $(PYTHON) "$$script" || exit 1; done

bench: build ## the same work here and in PyTorch, as ratios (PYTHON with PyTorch, PEERS; SD: a folder of sd_model.py's)
	go run ./scripts/bench compare --python $(PYTHON) --peers $(PEERS) $(if $(SD),--sd $(SD))

bench-quick: build ## a few of them once, in three minutes at most, beside PyTorch and beside the last time (bench-last.json)
	PEERS_PATIENCE_S=5 go run ./scripts/bench compare --quick --python $(PYTHON) --peers $(PEERS) --last bench-last.json --json bench-last.json

demo: build ## turn a denoiser into a one-step model in 90 seconds and draw, into demo/
	go run ./scripts/demo

compat: ## build and test against every supported libtorch
	scripts/compat.sh

bundle: libtorch ## tool, GPU tests and benchmarks for a machine with PyTorch but without Go, into dist/
	scripts/bundle.sh

check: lint test race ## all that continuous integration runs

clean: ## remove what was built here; libtorch stays in the cache folder
	rm -rf bin build dist csrc/layer/found.json
