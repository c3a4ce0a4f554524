# Thin: every target sets up libtorch if needed (scripts/libtorch.sh) and calls the Go tool. `make help` lists them.
.DEFAULT_GOAL := build
SHELL := bash
export PKG_CONFIG := $(CURDIR)/build/libtorch/pkg-config
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
PYTHON ?= python3

.PHONY: help libtorch build test short race lint fuzz golden bench demo compat bundle check clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

libtorch: ## find or install libtorch
	@scripts/libtorch.sh >/dev/null

build: libtorch ## the tool, at bin/onestep
	go build -ldflags '$(LDFLAGS)' -o bin/onestep ./cmd/onestep

test: libtorch ## every test
	go test ./...

short: libtorch ## the quick tests
	go test -short ./...

race: libtorch ## tests under the race detector
	go test -race -short ./torch/... ./training/... ./sampling/... ./cmd/...

lint: libtorch ## vet, staticcheck, formatting, the rules of imports
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt wants to change:" $$out; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go run ./scripts/checkcgo

fuzz: libtorch ## every fuzz target for 60 seconds
	scripts/fuzz.sh 60s

golden: ## write the golden files again, with PyTorch and diffusers
	for f in scripts/golden_*.py; do $(PYTHON) $$f || exit 1; done

bench: build ## the same work here and in PyTorch, as ratios (PEERS, PYTHON)
	go run ./scripts/bench compare --python $(PYTHON) $(if $(PEERS),--peers $(PEERS))

demo: build ## train for two minutes and draw
	scripts/demo.sh

compat: ## build and test against every supported libtorch
	scripts/compat.sh

bundle: build ## a folder that runs on a machine with PyTorch and without Go
	scripts/bundle.sh

check: lint test race ## all that CI runs

clean:
	rm -rf bin build dist demo
