#!/usr/bin/env bash
# Runs the compiled tests of this bundle against this machine's PyTorch, and on a GPU the benchmarks, and reports. See README.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
want=@TORCH@

# one PACKAGE runs the tests of a package and writes a line of results and of JSON.
one() {
  local name=$1 start=$SECONDS log code passed failed skipped gpu
  log=$(cd "tests/$name" && ./run.test -test.v -test.timeout "$limit" 2>&1)
  code=$?
  echo "$log" >"$results/logs/${name//\//_}.log"
  count() { grep -c -- "$1" <<<"$log"; }
  passed=$(count '^--- PASS') failed=$(count '^--- FAIL') skipped=$(count '^--- SKIP')
  if [ $code -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi # it died, took too long, or its leak check failed
  gpu=$(grep -E '^ *--- (PASS|FAIL|SKIP): .*(CUDA|cuda|GPU|gpu)' <<<"$log" | grep -v TestSetup) # however deeply nested
  {
    printf '%-36s %4d passed %4d failed %4d skipped %5d s\n' "$name" "$passed" "$failed" "$skipped" $((SECONDS - start))
    [ -z "$gpu" ] || echo "$gpu"
    awk -f testlog.awk <<<"$log"
  } >"$results/logs/${name//\//_}.txt"
  awk -v name="$name" -v passed="$passed" -v failed="$failed" -v skipped="$skipped" -v seconds=$((SECONDS - start)) '
    BEGIN { printf "{\"package\": \"%s\", \"passed\": %d, \"failed\": %d, \"skipped\": %d, \"seconds\": %d, \"gpu\": {", name, passed, failed, skipped, seconds }
    $1 == "---" { result = tolower($2); sub(":", "", result); test = $3; gsub(/[\\"]/, "\\\\&", test); printf "%s\"%s\": \"%s\"", n++ ? ", " : "", test, result }
    END { print "}}" }' <<<"$gpu" >"$results/logs/${name//\//_}.json"
  cat "$results/logs/${name//\//_}.txt"
}
if [ "${1:-}" = --one ]; then # this script, from itself
  one "$2"
  exit
fi

die() { echo "run-tests: $*" >&2; exit 1; }

torch=${LIBTORCH:-}
if [ -z "$torch" ]; then
  command -v python3 >/dev/null || die "no python3, and LIBTORCH is not set: where is PyTorch $want?"
  torch=$(cd / && python3 -c 'import importlib.util as u; s = u.find_spec("torch"); print(*(s.submodule_search_locations if s and s.origin else []))')
fi
[ -f "$torch/lib/libtorch_cpu.so" ] || die "no PyTorch at '$torch': pip install torch==$want, or set LIBTORCH to the folder of the Python package torch"
have=$(awk '$2 ~ /^TORCH_VERSION_(MAJOR|MINOR|PATCH)$/ { v = v s $3; s = "." } END { print v }' "$torch/include/torch/headeronly/version.h" 2>/dev/null)
[ "$have" = "$want" ] || die "$torch is PyTorch ${have:-of an unknown version}, and this bundle is compiled for $want"
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
if [ ! -d tests ]; then
  python3 -c 'import tarfile; tarfile.open("programs.tar.xz").extractall(".")' 2>/dev/null || tar -xJf programs.tar.xz || die "cannot unpack programs.tar.xz"
fi
if [ "${1:-}" = --env ]; then
  echo "export LD_LIBRARY_PATH=$LD_LIBRARY_PATH"
  exit
fi

for file in "$PWD"/lib/libonestep-torch-*.so; do
  [ ! -f "$file" ] || export ONESTEP_LAYER=$file # bin/ finds it by itself, the tests do not
done
bin/onestep doctor || die "bin/onestep doctor says that nothing can work here"
echo

results=${RESULTS:-$PWD/results}
mkdir -p "$results/logs"
limit=${LIMIT:-5m} # of a package's tests
together=${TOGETHER:-$(($(nproc) > 16 ? 8 : ($(nproc) + 1) / 2))} # packages whose tests run at the same time; tests use one thread

export results limit

names=()
while read -r test; do
  name=$(dirname "${test#./tests/}")
  if [ $# -eq 0 ] || [[ " $* " == *" $name "* ]]; then names+=("$name"); fi
done < <(find ./tests -name run.test | sort)
[ ${#names[@]} -gt 0 ] || die "there are no tests of $*"
rm -f "$results"/logs/*
printf '%s\n' "${names[@]}" | xargs -P "$together" -I NAME bash ./run-tests.sh --one NAME >"$results/tests.txt"
cat "$results/tests.txt"

total() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$results"/logs/*.json | awk '{ n += $1 } END { print n + 0 }'; }
gpu() { grep -ho "\": \"$1\"" "$results"/logs/*.json | wc -l; }
passed=$(total passed) failed=$(total failed) skipped=$(total skipped)
{
  echo
  echo "on the GPU: $(gpu pass) passed, $(gpu fail) failed, $(gpu skip) skipped; skipped in all: $skipped; full output: $results/logs"
  echo "$passed passed, $failed failed"
} | tee -a "$results/tests.txt"

bench=null
if [ $# -eq 0 ] && [ "$(gpu pass)" -gt 0 ]; then
  sd=$(mktemp -d)
  trap 'rm -rf "$sd"' EXIT
  bin/fullsize -kind sd15 -dtype bf16 -out "$sd/sd15" || die "cannot write a model to $sd"
  bin/bench gpu --scripts scripts --model "$sd/sd15" ${PEERS:+--peers "$PEERS"} --limit 100s --json "$results/bench.json" --text "$results/bench.txt"
  bench=$(cat "$results/bench.json")
fi
{
  printf '{"tests": [\n'
  first=1
  for file in "$results"/logs/*.json; do
    [ -n "$first" ] || printf ',\n'
    first=
    printf '%s' "$(cat "$file")"
  done
  printf '\n],\n"bench": %s}\n' "$bench"
} >"$results/results.json"
cat "$results"/tests.txt "$results"/bench.txt >"$results/results.txt" 2>/dev/null
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
