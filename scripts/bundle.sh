#!/usr/bin/env bash
# Makes dist/onestep-bundle-VERSION-linux-ARCH: the tool, the benchmarks and the compiled tests of every package that has some for a GPU, for a
# machine with PyTorch and without Go; with EVERY=1 those of all packages, which is more than the limit. The programs are kept packed, in one
# archive: they are alike, and pack to an eighth.
set -euo pipefail
cd "$(dirname "$0")/.."
limit=60 # MB
[ -z "${EVERY:-}" ] || limit=1000

version=$(git describe --tags --always --dirty 2>/dev/null || echo unknown)
layer=$(go run ./scripts/setup)
torch=${layer##*/libonestep-torch-} torch=${torch%%-*}
out=dist/onestep-bundle-$version-linux-$(go env GOARCH)
rm -rf "$out"
mkdir -p "$out/lib"
strip -o "$out/lib/${layer##*/}" "$layer"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$work/bin/onestep" ./cmd/onestep
go build -trimpath -ldflags '-s -w' -o "$work/bin/bench" ./scripts/bench
go build -trimpath -ldflags '-s -w' -o "$work/bin/fullsize" ./scripts/fullsize
go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./... | while read -r dir; do
  rel=${dir#"$PWD"/}
  [ -n "${EVERY:-}" ] || grep -qE 'torchtest\.(Devices|SkipIfNoCUDA)|func Test\w*CUDA' "$dir"/*_test.go || continue
  echo "compiling the tests of $rel"
  mkdir -p "$work/tests/$rel"
  go test -c -trimpath -ldflags '-s -w' -o "$work/tests/$rel/run.test" "./$rel" </dev/null
  # Where `go test` would run them: the package's folder, with the files that they read.
  [ ! -d "$rel/testdata" ] || cp -r "$rel/testdata" "$work/tests/$rel/"
done
cp README.md "$work/tests/" # one of the tests reads it, and itself
cp tests/example_test.go "$work/tests/tests/"
# The dictionary reaches over most programs, to what they have in common. Packing takes 3 GB of memory, unpacking as much as it has.
tar -C "$work" -c bin tests | xz -T1 --x86 --lzma2=preset=6,dict=256MiB >"$out/programs.tar.xz"

sed "s/@TORCH@/$torch/" scripts/run-tests.sh >"$out/run-tests.sh"
chmod +x "$out/run-tests.sh"
cp scripts/testlog.awk "$out/"
mkdir "$out/scripts"
cp scripts/bench/gpu.py "$out/scripts/"
cat >"$out/README" <<END
onestep $version, compiled against libtorch $torch for $(go env GOOS)/$(go env GOARCH).

It needs a PyTorch $torch on the machine (pip install torch==$torch), and neither Go nor a compiler.

    ./run-tests.sh [PACKAGE...]    runs the tests (or those of the packages named, such as torch/replay) against the
                                   PyTorch of \$LIBTORCH (the folder of the Python package torch) or of python3, and
                                   says what passed, also what passed on the GPU. On a GPU the benchmarks follow:
                                   images beside diffusers, if it is installed, and training beside PyTorch, if
                                   \$PEERS is the directory of its scripts. All is in results/results.txt and
                                   results/results.json. Each package has \$LIMIT (5m), each benchmark 100 s
    ./run-tests.sh --env           unpacks the programs and prints the line that lets them find that PyTorch; then:
    bin/onestep doctor             what it finds on this machine
    bin/bench work train           the benchmark's training step, with its figures as JSON
END
size=$(du -sm "$out" | cut -f1)
[ "$size" -le "$limit" ] || { echo "$out has $size MB, and $limit is the limit" >&2; exit 1; }
echo "$out: $size MB"
