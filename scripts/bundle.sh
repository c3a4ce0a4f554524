#!/usr/bin/env bash
# Makes dist/onestep-bundle: the tool, the compiled tests and the benchmark, for a machine with PyTorch and without Go.
set -euo pipefail
cd "$(dirname "$0")/.."
export PKG_CONFIG=${PKG_CONFIG:-$PWD/build/libtorch/pkg-config}
out=dist/onestep-bundle
rm -rf "$out"
mkdir -p "$out/bin" "$out/tests"
go build -trimpath -ldflags '-s -w' -o "$out/bin/onestep" ./cmd/onestep
go build -trimpath -ldflags '-s -w' -o "$out/bin/bench" ./scripts/bench
for pkg in $(go list -f '{{if .TestGoFiles}}{{.Dir}}{{else if .XTestGoFiles}}{{.Dir}}{{end}}' ./torch/... ./models/... ./sampling/... ./training/... ./cmd/... | sort -u); do
  rel=${pkg#"$PWD"/}
  mkdir -p "$out/tests/$rel"
  go test -c -trimpath -ldflags '-s -w' -o "$out/tests/$rel/run.test" "./$rel" >/dev/null
  [ ! -f "$out/tests/$rel/run.test" ] || [ ! -d "$rel/testdata" ] || cp -r "$rel/testdata" "$out/tests/$rel/"
done
cat >"$out/run-tests.sh" <<'EOF'
#!/usr/bin/env bash
# Runs the compiled tests against this machine's PyTorch ($LIBTORCH, or the torch of python3) and reports.
cd "$(dirname "$0")" || exit 1
here=$PWD
torch=${LIBTORCH:-$(python3 -c 'import importlib.util as u, os; print(os.path.dirname(u.find_spec("torch").origin))')}
[ -f "$torch/lib/libtorch_cpu.so" ] || { echo "no libtorch in '$torch': set LIBTORCH to the folder of a PyTorch 2.11 package" >&2; exit 1; }
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
bin/onestep doctor || exit 1
passed=0 failed=0 skipped=0
while read -r t; do
  name=$(dirname "${t#./tests/}")
  log=$(cd "$(dirname "$t")" && ./run.test -test.v 2>&1); rc=$?
  p=$(grep -c '^--- PASS' <<<"$log") f=$(grep -c '^--- FAIL' <<<"$log") s=$(grep -c '^--- SKIP' <<<"$log")
  [ $rc -eq 0 ] || [ "$f" -gt 0 ] || f=1
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  printf '%-40s %4d passed %4d failed %4d skipped\n' "$name" "$p" "$f" "$s"
  grep -iE '^ *--- (PASS|FAIL|SKIP): .*(cuda|gpu)' <<<"$log"
  [ "$f" -eq 0 ] || grep -A12 -E '^ *--- FAIL|panic:' <<<"$log" | head -n 40
done < <(find ./tests -name run.test | sort)
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
EOF
chmod +x "$out/run-tests.sh"
cat >"$out/README" <<'EOF'
onestep, compiled: bin/onestep and bin/bench need a PyTorch 2.11 (its libtorch) at run time, and neither Go nor a compiler.
    ./run-tests.sh                                        tests everything against this machine's PyTorch and GPU
    LD_LIBRARY_PATH=.../torch/lib bin/onestep doctor      what it finds
EOF
size=$(du -sm "$out" | cut -f1)
echo "$out: $size MB"
[ "$size" -le 60 ] || { echo "the bundle is larger than 60 MB" >&2; exit 1; }
