#!/usr/bin/env bash
# Runs the compiled tests of this bundle against this machine's PyTorch and reports. See README.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
want=@TORCH@

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

count() { grep -c -- "$1" <<<"$log"; }
total_passed=0 total_failed=0 total_skipped=0 gpu_passed=0 gpu_failed=0 gpu_skipped=0
logs=$(mktemp -d)
while read -r test; do
  name=$(dirname "${test#./tests/}")
  [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
  start=$SECONDS
  log=$(cd "$(dirname "$test")" && ./run.test -test.v -test.timeout 20m 2>&1)
  code=$?
  echo "$log" >"$logs/${name//\//_}.log"
  passed=$(count '^--- PASS') failed=$(count '^--- FAIL') skipped=$(count '^--- SKIP')
  if [ $code -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi # it died, or its leak check failed
  printf '%-36s %4d passed %4d failed %4d skipped %5d s\n' "$name" "$passed" "$failed" "$skipped" $((SECONDS - start))
  gpu=$(grep -E '^ *--- (PASS|FAIL|SKIP): .*(CUDA|cuda|GPU|gpu)' <<<"$log" | grep -v TestSetup) # however deeply nested
  [ -z "$gpu" ] || echo "$gpu"
  awk -f testlog.awk <<<"$log"
  total_passed=$((total_passed + passed)) total_failed=$((total_failed + failed)) total_skipped=$((total_skipped + skipped))
  gpu_passed=$((gpu_passed + $(grep -c PASS <<<"$gpu"))) gpu_failed=$((gpu_failed + $(grep -c FAIL <<<"$gpu")))
  gpu_skipped=$((gpu_skipped + $(grep -c SKIP <<<"$gpu")))
done < <(find ./tests -name run.test | sort)

echo
echo "on the GPU: $gpu_passed passed, $gpu_failed failed, $gpu_skipped skipped; skipped in all: $total_skipped; full output: $logs"
echo "$total_passed passed, $total_failed failed"
[ "$total_failed" -eq 0 ] && [ "$total_passed" -gt 0 ]
