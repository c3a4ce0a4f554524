#!/usr/bin/env bash
# Finds or installs libtorch and compiles the layer over it (csrc/layer), with which programs open it.
#
#     scripts/libtorch.sh [VERSION]
#
# In this order: $LIBTORCH (a libtorch folder, or a Python's torch folder); a torch that the active Python can import, if
# its version is supported; else the pinned version from PyPI in a per-user cache folder, without root and without touching
# any Python's packages. With a VERSION given, only that version will do.
#
# Writes, and prints the path of the last:
#
#     libtorch.json           version, path and source, for people and scripts: into build/libtorch and the cache folder
#     csrc/layer/found.json   the layer's path, which goes into the programs that are built from this tree
#     layers/libonestep-torch-VERSION-SOURCES-KEY.so   the layer, in the cache folder; compiled once for each libtorch,
#                             compiler and state of the sources
#
# With $ONESTEP_BUILD set, all goes into that folder and found.json is left alone: ONESTEP_LAYER=the layer's path then tells
# a program to take it. Environment: LIBTORCH, ONESTEP_BUILD, ONESTEP_CUDA (1: with the CUDA libraries, 0: without; unset:
# with them when a GPU is here), XDG_CACHE_HOME, CXX and CGO_CXXFLAGS as for Go.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
want=${1:-}
site_version=3.12 # the Python whose wheel is fetched: its libraries do not depend on the Python that runs pip

note() { echo "onestep: $*" >&2; }
die() { note "$*"; exit 1; }

# ---- versions -----------------------------------------------------------------------------------------------------

supported() { sed '/^#/d; s/ .*//' "$root/scripts/libtorch-versions"; }
supported_list() { supported | paste -sd' ' | sed 's/ / and /g'; }
is_wanted() { supported | grep -qxF -- "$1" && { [ -z "$want" ] || [ "$1" = "$want" ]; }; }

# The version of the libtorch in a folder, as the compiler will see it; nothing when there is none.
version_of() {
  local h
  for h in "$1/include/torch/headeronly/version.h" "$1/include/torch/csrc/api/include/torch/version.h"; do
    [ -f "$h" ] || continue
    awk '$2 ~ /^TORCH_VERSION_(MAJOR|MINOR|PATCH)$/ { v = v sep $3; sep = "." } END { print v }' "$h"
    return
  done
}

# The first library that libtorch_cpu asks for and does not find; nothing when it will load.
lacks() { { ldd "$1/lib/libtorch_cpu.so" 2>/dev/null || true; } | awk '/not found/ { print $1; exit }'; }

# ---- what must be there -------------------------------------------------------------------------------------------

check_tools() {
  local need out have cgo cxx
  need=$(awk '$1 == "go" { print $2 }' "$root/go.mod")
  command -v go >/dev/null || die "Go is missing: get go $need or newer from https://go.dev/dl/"
  out=$(cd "$root" && go env GOVERSION CGO_ENABLED CXX 2>&1) || die "Go does not run: $(head -n 1 <<<"$out") (get go $need or newer from https://go.dev/dl/)"
  { read -r have; read -r cgo; read -r cxx; } <<<"$out"
  have=${have#go} have=${have%%[!0-9.]*}
  [ "$(printf '%s\n%s\n' "$need" "$have" | sort -V | head -n 1)" = "$need" ] ||
    die "Go is too old: go.mod needs go $need and this is go $have: get a newer one from https://go.dev/dl/"
  command -v "${cxx%% *}" >/dev/null || die "a C++ compiler (${cxx%% *}) is missing: apt-get install g++"
  [ "$cgo" = 1 ] || die "cgo is switched off, and libtorch needs it: unset CGO_ENABLED"
}

# A Python 3 that runs. Version managers leave commands behind that only print an error.
find_python() {
  local p
  for p in python3 python; do
    if command -v "$p" >/dev/null && "$p" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
      echo "$p"
      return
    fi
  done
}

has_gpu() { [ -e /dev/nvidiactl ] || command -v nvidia-smi >/dev/null; }

# ---- install ------------------------------------------------------------------------------------------------------

# install VERSION INTO CUDA: the wheels into a folder of their own. All is made in a folder beside it and renamed at the
# end, so that an interrupted run leaves nothing that looks finished; a lock keeps two runs apart.
install() {
  local version=$1 into=$2 cuda=$3 cache py pip tmp free need wheels
  cache=$(dirname "$into")
  py=$(find_python)
  [ -n "$py" ] || die "Python 3 is missing, and fetching libtorch needs it: apt-get install python3 python3-pip (or set LIBTORCH to a libtorch $version folder)"

  exec 9>"$cache/.lock"
  if ! flock -n 9; then
    note "another run is installing libtorch into $cache: waiting for it"
    flock 9
  fi
  if whole "$into"; then return; fi

  need=2500
  [ "$cuda" = 0 ] || need=9000
  free=$(df -Pm "$cache" | awk 'NR == 2 { print $4 }')
  [ "$free" -ge "$need" ] || die "too little disk space: libtorch needs $need MB free in $cache, and there are $free: make room or set XDG_CACHE_HOME to another disk"

  rm -rf "$into" "$into".part.*
  tmp=$into.part.$$
  mkdir -p "$tmp/tmp"
  # shellcheck disable=SC2064 # now, not later: tmp is local
  trap "rm -rf '$tmp'" EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM

  if "$py" -m pip --version >/dev/null 2>&1; then
    pip=("$py" -m pip)
  elif "$py" -m venv "$tmp/venv" >/dev/null 2>&1 && "$tmp/venv/bin/python" -m pip --version >/dev/null 2>&1; then
    pip=("$tmp/venv/bin/python" -m pip) # Python carries a pip of its own (ensurepip)
  else
    die "pip is missing: apt-get install python3-pip"
  fi

  wheels=$(sed -n "s/^$version //p" "$root/scripts/libtorch-versions")
  if [ "$cuda" = 1 ] && complete "${into%-cuda}"; then
    cp -al "${into%-cuda}" "$tmp/site" 2>/dev/null || { rm -rf "$tmp/site" && cp -a "${into%-cuda}" "$tmp/site"; }
  else
    note "fetching libtorch $version from PyPI into $cache (600 MB, once)"
    # shellcheck disable=SC2086 # the list is words
    run_pip --no-deps "torch==$version" $wheels
  fi
  if [ "$cuda" = 1 ]; then
    note "fetching its CUDA libraries too (2 GB, once; ONESTEP_CUDA=0 does without)"
    # What the torch wheel itself asks for, at its own pins; not the Python packages beside them.
    mapfile -t wheels < <(sed -n 's/^Requires-Dist: *\(\(nvidia-\|cuda-toolkit\)[^;]*\).*/\1/p' "$tmp/site/torch-$version".dist-info/METADATA | tr -d ' ')
    run_pip --upgrade "${wheels[@]}"
  fi

  complete "$tmp/site" || die "the torch $version that pip installed has no libtorch_cpu for this machine ($(uname -m))"
  [ -z "$(lacks "$tmp/site/torch")" ] || die "the torch $version that pip installed does not load here: $(lacks "$tmp/site/torch") is missing"
  mv -T "$tmp/site" "$into"
  rm -rf "$tmp"
  trap - EXIT INT TERM
}

# Whether a folder of ours holds a libtorch; whole: and whether that finds all it needs.
whole() { complete "$1" && [ -z "$(lacks "$1/torch")" ]; }
complete() { [ -f "$1/torch/lib/libtorch_cpu.so" ] && [ "$(version_of "$1/torch")" = "$version" ]; }

# Runs pip into $tmp/site whatever the user's settings and the Python's are: a Python that belongs to the system (PEP 668)
# is not touched, since all goes to a folder of ours. Progress goes to standard error; errors become one line.
run_pip() {
  if ! TMPDIR=$tmp/tmp PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore \
    "${pip[@]}" --disable-pip-version-check --no-input --no-cache-dir install --target "$tmp/site" --no-compile \
    --only-binary=:all: --python-version "$site_version" "$@" >&2 2>"$tmp/errors"; then
    if grep -qiE 'No space left|Disk quota' "$tmp/errors"; then
      die "the disk is full: make room in $(dirname "$tmp") or set XDG_CACHE_HOME to another disk"
    elif grep -qiE 'NewConnectionError|Retrying \(|ReadTimeout|ConnectTimeout|ProxyError|Connection (aborted|broken|refused|reset)|Temporary failure' "$tmp/errors"; then
      die "pip could not reach PyPI: connect to the network (or set LIBTORCH to a libtorch $version folder), then run this again"
    fi
    die "pip could not install $*: $(grep -m 1 '^ERROR' "$tmp/errors" || tail -n 1 "$tmp/errors")"
  fi
}

# ---- what is written ------------------------------------------------------------------------------------------------

# write INTO DIR VERSION SOURCE
write() {
  mkdir -p "$1" || die "cannot write to $1"
  put "$1/libtorch.json" <<END
{"version": "$3", "path": "$2", "source": "$4"}
END
}

# Replaces a file by standard input in one step.
put() {
  cat >"$1.$$"
  mv "$1.$$" "$1"
}

# ---- the layer ----------------------------------------------------------------------------------------------------

# layer INTO DIR VERSION: compiles csrc/layer against a libtorch, unless that has been done, and sets $layer to the file.
layer() {
  local into=$1 dir=$2 version=$3 cxx sum key flags link tmp file failed=
  local sources=() objects=() jobs=()
  cxx=$(cd "$root" && go env CXX)
  # csrc.go computes the same: the library says what it was made from.
  sum=$(cd "$root/csrc" && LC_ALL=C && cat ct.h functions.h table.h layer/*.cpp layer/*.h | sha256sum | cut -c 1-12)
  # -z now: a libtorch that lacks a function is an error when it is opened, not a crash when it is called.
  flags="-std=c++20 -O2 -fPIC -fvisibility=hidden -Wall -Wno-unknown-pragmas -Wno-deprecated-declarations -Wno-maybe-uninitialized"
  link="-Wl,--enable-new-dtags -Wl,-z,now -Wl,-z,relro -Wl,--no-undefined"
  # shellcheck disable=SC2086 # CXX may be a command with arguments
  key=$({ echo "$cxx $flags $link ${CGO_CXXFLAGS:-} $dir" && $cxx --version && stat -Lc '%s %Y' "$dir/lib/libtorch_cpu.so"; } | sha256sum | cut -c 1-8)
  mkdir -p "$into" || die "cannot write to $into"
  layer=$into/libonestep-torch-$version-$sum-$key.so

  exec 8>"$into/.lock"
  flock 8
  if [ -f "$layer" ]; then
    touch "$layer" # the last one goes first
  else
    note "compiling the layer over libtorch $version (a minute, once)"
    tmp=$into/.part.$$
    rm -rf "$into"/.part.*
    mkdir "$tmp"
    # shellcheck disable=SC2064 # now, not later: tmp is local
    trap "rm -rf '$tmp'" EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    sources=("$root"/csrc/layer/*.cpp)
    for file in "${sources[@]}"; do
      [ "$(jobs -rp | wc -l)" -lt "$(nproc)" ] || wait -n || failed=1
      objects+=("$tmp/$(basename "$file").o")
      # shellcheck disable=SC2086 # flags are words
      $cxx $flags -I"$dir/include" -I"$dir/include/torch/csrc/api/include" -DONESTEP_SOURCE="\"$sum\"" ${CGO_CXXFLAGS:-} \
        -c "$file" -o "${objects[-1]}" 2>>"$tmp/errors" 8>&- &
      jobs+=($!)
    done
    for file in "${jobs[@]}"; do wait "$file" || failed=1; done
    # shellcheck disable=SC2086
    [ -n "$failed" ] || $cxx -shared ${CGO_CXXFLAGS:-} -o "$tmp/layer.so" "${objects[@]}" -L"$dir/lib" -Wl,-rpath,"$dir/lib" $link -ltorch_cpu -lc10 2>>"$tmp/errors" || failed=1
    if [ -n "$failed" ]; then
      cat "$tmp/errors" >&2
      die "the layer over libtorch $version does not compile with $cxx: $(grep -m 1 -E 'error|undefined' "$tmp/errors" || tail -n 1 "$tmp/errors")"
    fi
    mv "$tmp/layer.so" "$layer"
    rm -rf "$tmp"
    trap - EXIT INT TERM
  fi
  find "$into" -name 'libonestep-torch-*.so' -mtime +90 -delete
  exec 8>&-
}

# ---- main ---------------------------------------------------------------------------------------------------------

check_tools
[ -n "${XDG_CACHE_HOME:-}${HOME:-}" ] || die "neither HOME nor XDG_CACHE_HOME is set: where may libtorch be kept?"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/onestep
build=${ONESTEP_BUILD:-$root/build/libtorch}
mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ] || die "cannot write to $cache: set XDG_CACHE_HOME to a folder of yours"
[ -z "$want" ] || supported | grep -qxF -- "$want" || die "libtorch $want is not supported: use $(supported_list)"

case ${ONESTEP_CUDA:-} in
0 | 1) cuda=$ONESTEP_CUDA ;;
'') if has_gpu; then cuda=1; else cuda=0; fi ;;
*) die "ONESTEP_CUDA=$ONESTEP_CUDA: want 1 or 0" ;;
esac

dir=
if [ -n "${LIBTORCH:-}" ]; then
  [ -f "$LIBTORCH/lib/libtorch_cpu.so" ] || die "LIBTORCH=$LIBTORCH is no libtorch: want a folder with lib/libtorch_cpu.so in it (an unpacked libtorch, or the folder of a Python's torch package)"
  dir=$(cd "$LIBTORCH" && pwd) source=LIBTORCH
  version=$(version_of "$dir")
  [ -n "$version" ] || die "LIBTORCH=$LIBTORCH has no headers (include/torch/headeronly/version.h): want a libtorch to compile against"
  is_wanted "$version" || die "LIBTORCH=$LIBTORCH is libtorch $version: use ${want:-$(supported_list)}, or unset LIBTORCH to have it fetched"
  lib=$(lacks "$dir")
  [ -z "$lib" ] || die "LIBTORCH=$LIBTORCH does not load: $lib is missing; pip install what its torch asks for (at least $(sed -n "s/^$version //p" "$root/scripts/libtorch-versions"))"
else
  py=$(find_python)
  if [ -n "$py" ]; then
    # Where it is, without importing it, which would take seconds. From /, so that our own folder torch is not meant.
    found=$(cd / && "$py" -c 'import importlib.util as u; s = u.find_spec("torch"); print(*(s.submodule_search_locations if s and s.origin else []))' 2>/dev/null || true)
    if [ -n "$found" ] && [ -f "$found/lib/libtorch_cpu.so" ]; then
      version=$(version_of "$found")
      if ! is_wanted "$version"; then
        note "the torch of $py is ${version:-without headers}: looking for ${want:-$(supported_list)}"
      elif [ -n "$(lacks "$found")" ]; then
        note "the torch of $py does not load ($(lacks "$found") is missing): not using it"
      elif [ "${ONESTEP_CUDA:-}" = 1 ] && [ ! -f "$found/lib/libtorch_cuda.so" ]; then
        note "the torch of $py has no CUDA: not using it"
      else
        dir=$found source=$(command -v "$py")
      fi
    fi
  fi
  if [ -z "$dir" ]; then
    version=${want:-$(supported | head -n 1)} source=PyPI
    site=$cache/libtorch-$version
    if [ "$cuda" = 1 ] || { [ "${ONESTEP_CUDA:-}" != 0 ] && complete "$site-cuda"; }; then site=$site-cuda; fi
    whole "$site" || install "$version" "$site" "$cuda"
    dir=$site/torch
  fi
fi

# These become words of a compiler's command line, and parts of JSON.
for path in "$dir" "$build" "$cache"; do
  case "$path" in *[!A-Za-z0-9/._+@%:=~-]*) die "the path '$path' holds a character that cannot go through the compiler's flags: keep to letters, digits and /._+-" ;; esac
done
if [ -n "${ONESTEP_BUILD:-}" ]; then
  layer "$build" "$dir" "$version"
  write "$build" "$dir" "$version" "$source"
else
  layer "$cache/layers" "$dir" "$version"
  write "$cache" "$dir" "$version" "$source"
  # Not in Go's module cache, whose folders are read-only, if not for root: programs from there look into the folder of layers.
  if [ -w "$root/csrc/layer" ] && [ -n "$(find "$root/csrc/layer" -maxdepth 0 -perm -u+w)" ]; then
    write "$build" "$dir" "$version" "$source"
    put "$root/csrc/layer/found.json" <<END
{"layer": "$layer"}
END
  fi
fi
note "libtorch $version from $source: $dir"
echo "$layer"
