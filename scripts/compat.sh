#!/usr/bin/env bash
# Builds and tests against every version in scripts/libtorch-versions, each with flags of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
unset LIBTORCH
mapfile -t versions < <(sed '/^#/d; s/ .*//' scripts/libtorch-versions)
failed=()
for v in "${versions[@]}"; do
  echo "== libtorch $v"
  PKG_CONFIG=$(ONESTEP_BUILD=$PWD/build/compat-$v scripts/libtorch.sh "$v")
  export PKG_CONFIG
  # Go's build cache does not see what pkg-config prints, but it sees this, and nothing but csrc is compiled again.
  export CGO_CXXFLAGS="-O2 -g -DONESTEP_COMPAT_${v//./_}"
  { go build ./... && go test -v -timeout 20m ./... 2>&1 | awk -f scripts/testlog.awk; } || failed+=("$v")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed with libtorch ${failed[*]}" >&2; exit 1; }
echo "passed with libtorch ${versions[*]}"
