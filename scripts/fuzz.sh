#!/usr/bin/env bash
# Runs every fuzz target for the given time each: scripts/fuzz.sh 60s. Few runs go into making inputs smaller: what libtorch does
# makes coverage differ from run to run, so that a minute would pass with the first.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files '*_test.go' | xargs grep -H '^func Fuzz' | sed 's/^\(.*\):func \(Fuzz[A-Za-z0-9_]*\).*/\1 \2/' | while read -r file target; do
  echo "== $(dirname "$file") $target"
  go test -run '^$' -fuzz "^$target\$" -fuzztime "${1:-60s}" -fuzzminimizetime 20x "./$(dirname "$file")" </dev/null
done
