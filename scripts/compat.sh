#!/usr/bin/env bash
# Tests with every version in internal/libtorch/versions. The programs are the same: only the layer that they open differs.
set -euo pipefail
cd "$(dirname "$0")/.."
unset LIBTORCH
mapfile -t versions < <(sed '/^#/d; s/ .*//' internal/libtorch/versions)
failed=()
for v in "${versions[@]}"; do
  echo "== libtorch $v"
  ONESTEP_LAYER=$(ONESTEP_BUILD=$PWD/build/compat-$v go run ./scripts/setup "$v")
  export ONESTEP_LAYER
  { go build ./... && go test -v -timeout 20m ./... 2>&1 | awk -f scripts/testlog.awk; } || failed+=("$v")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed with libtorch ${failed[*]}" >&2; exit 1; }
echo "passed with libtorch ${versions[*]}"
