#!/usr/bin/env bash
# Runs every fuzz target for the given time: scripts/fuzz.sh 60s
set -euo pipefail
cd "$(dirname "$0")/.."
for file in $(git ls-files '*_test.go' | xargs grep -l '^func Fuzz'); do
  for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
    echo "== $file $target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "${1:-60s}" -parallel 1 "./$(dirname "$file")"
  done
done
