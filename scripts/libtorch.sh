#!/usr/bin/env bash
# Finds or installs libtorch and tells the Go tool where it is.
#
#     scripts/libtorch.sh [VERSION]
#
# In this order: $LIBTORCH (a libtorch folder, or a Python's torch folder); a torch that the active Python can import, if
# its version is supported; else torch VERSION (the pin, if none is given) from PyPI, in a per-user cache folder, without
# root and without touching any Python's packages. With a VERSION given only that version will do.
#
# Writes build/libtorch/ (or $ONESTEP_BUILD): onestep-libtorch.pc, and pkg-config, a stand-in for machines without one, so
# that PKG_CONFIG=that/pkg-config is all that `go build` needs; the same is put into the cache folder, for programs of
# other modules. Prints nothing on standard output but the path of that pkg-config.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
build=${ONESTEP_BUILD:-$root/build/libtorch}
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/onestep
want=${1:-}

die() { echo "onestep: $*" >&2; exit 1; }
note() { echo "onestep: $*" >&2; }

supported() { grep -v '^#' "$root/scripts/libtorch-versions" | cut -d' ' -f1; }
supported_list() { supported | tr '\n' ' ' | sed 's/ $//; s/ / and /'; }
is_supported() { supported | grep -qxF "$1" && { [ -z "$want" ] || [ "$1" = "$want" ]; }; }

# The version of the libtorch in a folder: a libtorch archive has build-version, a Python package version.py.
version_of() {
  if [ -f "$1/build-version" ]; then sed 's/+.*//' "$1/build-version" | head -n 1
  elif [ -f "$1/version.py" ]; then sed -n "s/^__version__ *= *['\"]\([0-9.]*\).*/\1/p" "$1/version.py" | head -n 1
  fi
}

# Go, a C++ compiler: what the build needs whatever libtorch it uses.
check_tools() {
  command -v go >/dev/null || die "Go is missing: install go $(awk '/^go /{print $2}' "$root/go.mod") or newer from https://go.dev/dl/"
  local have need
  have=$(go env GOVERSION | sed 's/^go//; s/[^0-9.].*//') need=$(awk '/^go /{print $2}' "$root/go.mod")
  [ "$(printf '%s\n%s\n' "$need" "$have" | sort -V | head -n 1)" = "$need" ] ||
    die "Go is too old: this needs $need, and go is $have: get a newer one from https://go.dev/dl/"
  command -v "${CXX:-g++}" >/dev/null || die "a C++ compiler (g++) is missing: sudo apt-get install g++"
}

find_python() {
  for p in python3 python; do
    if command -v "$p" >/dev/null && "$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$p"; return
    fi
  done
}

# Installs the wheels of a version into a folder of its own. Everything goes to a folder beside it first, so that an
# interrupted run leaves nothing that looks finished.
install() {
  local version=$1 into=$2 wheels cuda=$3 free
  local py; py=$(find_python)
  [ -n "$py" ] || die "Python 3.10 or newer is missing, to fetch libtorch: sudo apt-get install python3 python3-pip"
  mkdir -p "$(dirname "$into")" 2>/dev/null && [ -w "$(dirname "$into")" ] || die "cannot write to $(dirname "$into"): set XDG_CACHE_HOME to a folder of yours"
  exec 9>"$(dirname "$into")/.lock"
  flock 9 2>/dev/null || true
  [ -f "$into/torch/version.py" ] && return
  free=$(df -Pk "$(dirname "$into")" | awk 'NR==2 {print int($4/1024)}')
  local need_mb=2500; [ "$cuda" = 1 ] && need_mb=9000
  [ "$free" -ge "$need_mb" ] || die "too little disk space in $(dirname "$into"): libtorch needs $need_mb MB, $free are free"
  wheels=$(grep "^$version " "$root/scripts/libtorch-versions" | cut -d' ' -f2-)
  local tmp="$into.part.$$"
  rm -rf "$into".part.*
  trap 'rm -rf "'"$tmp"'"' EXIT
  local pip=("$py" -m pip)
  if ! "${pip[@]}" --version >/dev/null 2>&1; then
    "$py" -m venv "$tmp/venv" >/dev/null 2>&1 || die "pip is missing: sudo apt-get install python3-pip"
    pip=("$tmp/venv/bin/python" -m pip)
  fi
  note "fetching libtorch $version into $into (about 600 MB, once)"
  # --target leaves every Python's own packages alone; a PEP 668 Python refuses without the variable all the same.
  local log="$tmp.log"
  run_pip() {
    PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1 "${pip[@]}" install --no-deps --only-binary=:all: --no-compile --no-warn-script-location \
      --progress-bar off --quiet --target "$tmp/site" "$@" >"$log" 2>&1 ||
      die "pip could not install $*: $(grep -i error "$log" | head -n 1 || tail -n 1 "$log") (no network, or a pip older than 20.3? full log: $log)"
  }
  # shellcheck disable=SC2086 # the list is words
  run_pip "torch==$version" $wheels
  if [ "$cuda" = 1 ]; then
    note "an NVIDIA GPU is here: fetching the CUDA libraries too (about 2.5 GB, once)"
    run_pip_deps "$tmp/site" "$version"
  fi
  rm -f "$log"
  mv "$tmp/site" "$into"
  rm -rf "$tmp"
  trap - EXIT
}

# The CUDA libraries that a torch wheel asks for, at its own pins, without the Python packages beside them.
run_pip_deps() {
  local site=$1 version=$2 list
  list=$("$py" - "$site" <<'PY'
import glob, re, sys
meta = open(glob.glob(sys.argv[1] + "/torch-*.dist-info/METADATA")[0]).read()
for line in meta.splitlines():
    m = re.match(r"Requires-Dist: ((?:nvidia|cuda-toolkit)[^;]*)", line)
    if m:
        print(m.group(1).strip().replace(" ", ""))
PY
)
  local full=()
  local deps
  while read -r deps; do full+=("$deps"); done <<<"$list"
  PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1 "${pip[@]}" install --only-binary=:all: --no-compile --progress-bar off --quiet \
    --upgrade --target "$site" "${full[@]}" >"$log" 2>&1 || die "pip could not install the CUDA libraries: $(tail -n 1 "$log") (full log: $log)"
}

write_pc() {
  local dir=$1 version=$2 source=$3 into
  for into in "$build" "$cache"; do
    mkdir -p "$into"
    cat >"$into/.pc.$$" <<EOF
Name: onestep-libtorch
Description: libtorch for onestep ($source)
Version: $version
Cflags: -I$dir/include -I$dir/include/torch/csrc/api/include
Libs: -L$dir/lib -Wl,-rpath,$dir/lib -Wl,--enable-new-dtags -ltorch_cpu -lc10
EOF
    cat >"$into/.pkg-config.$$" <<EOF
#!/bin/sh
# A stand-in for pkg-config that knows onestep-libtorch and passes everything else on. Written by scripts/libtorch.sh.
for a in "\$@"; do
  case "\$a" in onestep-libtorch) ours=1 ;; --cflags) cflags=1 ;; --libs) libs=1 ;; esac
done
if [ -z "\$ours" ]; then
  command -v pkg-config >/dev/null || { echo "pkg-config is missing: sudo apt-get install pkg-config" >&2; exit 1; }
  exec pkg-config "\$@"
fi
[ -z "\$cflags" ] || printf '%s ' '-I$dir/include' '-I$dir/include/torch/csrc/api/include'
[ -z "\$libs" ] || printf '%s ' '-L$dir/lib' '-Wl,-rpath,$dir/lib' '-Wl,--enable-new-dtags' -ltorch_cpu -lc10
echo
EOF
    chmod +x "$into/.pkg-config.$$"
    mv "$into/.pc.$$" "$into/onestep-libtorch.pc"
    mv "$into/.pkg-config.$$" "$into/pkg-config"
  done
}

check_tools
cuda=0
if [ "${ONESTEP_CUDA:-}" = 1 ] || { [ "${ONESTEP_CUDA:-}" != 0 ] && [ -e /dev/nvidiactl ]; }; then cuda=1; fi

dir='' source=''
if [ -n "${LIBTORCH:-}" ]; then
  dir=${LIBTORCH%/} source='$LIBTORCH'
  [ -f "$dir/lib/libtorch_cpu.so" ] || die "LIBTORCH=$LIBTORCH is no libtorch: want a folder with lib/libtorch_cpu.so (a libtorch archive, or the folder of a Python's torch package)"
  version=$(version_of "$dir")
  [ -n "$version" ] || die "LIBTORCH=$LIBTORCH: cannot tell its version (no version.py and no build-version in it)"
  is_supported "$version" || die "LIBTORCH=$LIBTORCH is libtorch $version: this supports ${want:-$(supported_list)}"
else
  if py=$(find_python) && [ -n "$py" ]; then
    found=$("$py" -c 'import importlib.util as u, os
s = u.find_spec("torch")
print(os.path.dirname(s.origin) if s and s.origin else "")' 2>/dev/null || true)
    if [ -n "$found" ] && [ -f "$found/lib/libtorch_cpu.so" ] && version=$(version_of "$found") && is_supported "$version"; then
      dir=$found source="$py"
    fi
  fi
  if [ -z "$dir" ]; then
    version=${want:-$(supported | head -n 1)}
    is_supported "$version" || die "libtorch $version is not supported: this supports $(supported_list)"
    suffix=''; [ "$cuda" = 1 ] && suffix='-cuda'
    [ -f "$cache/libtorch-$version-cuda/torch/version.py" ] && suffix='-cuda'
    [ -f "$cache/libtorch-$version$suffix/torch/version.py" ] || install "$version" "$cache/libtorch-$version$suffix" "$cuda"
    dir=$cache/libtorch-$version$suffix/torch source=PyPI
  fi
fi
case "$dir" in *[[:space:]\'\"]*) die "the path $dir holds spaces or quotes, which the compiler's flags cannot carry: choose another" ;; esac
write_pc "$dir" "$version" "$source"
note "libtorch $version ($source): $dir"
echo "$build/pkg-config"
