#!/usr/bin/env bash
# Runs every fuzz target for the given time each: scripts/fuzz.sh 60s
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files '*_test.go' | xargs grep -H '^func Fuzz' | sed 's/^\(.*\):func \(Fuzz[A-Za-z0-9_]*\).*/\1 \2/' | while read -r file target; do
  echo "== $(dirname "$file") $target"
  go test -run '^$' -fuzz "^$target\$" -fuzztime "${1:-60s}" "./$(dirname "$file")" </dev/null
done
