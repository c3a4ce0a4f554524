#!/usr/bin/env bash
# Builds and tests against every version in scripts/libtorch-versions, each in a build folder of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
for v in $(grep -v '^#' scripts/libtorch-versions | cut -d' ' -f1); do
  echo "== libtorch $v"
  PKG_CONFIG=$(ONESTEP_BUILD="$PWD/build/compat-$v" scripts/libtorch.sh "$v")
  export PKG_CONFIG
  go build ./...
  go test ./...
done
