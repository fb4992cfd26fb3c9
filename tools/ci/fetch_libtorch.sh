#!/usr/bin/env bash
# Puts LibTorch into the cache: $TANDEM_DEPS, or tandem/ in the user's cache folder. Does nothing,
# and touches no network, when it is there already.  Usage: fetch_libtorch.sh [--nccl] [--print-root]
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
version="$(sed -n 's/^torch==\([0-9.]*\) .*/\1/p' "$here/libtorch.txt")"
cache="${TANDEM_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/tandem}"
root="${TANDEM_LIBTORCH_ROOT:-$cache/libtorch-$version}"

nccl=no
for option in "$@"; do
  case "$option" in
    --nccl) nccl=yes ;;
    --print-root) printf '%s\n' "$root"; exit 0 ;;
    *) echo "fetch_libtorch.sh: unknown option $option (known: --nccl, --print-root)" >&2; exit 2 ;;
  esac
done

# The stamp is the list of pins that was unpacked, written last: a changed pin fetches again.
stamped() { cmp -s "$here/$1.txt" "$root/.$1"; }

# Downloads, checks and unpacks the wheels of one list into the given folder.
fetch_list() {
  local list="$1" target="$2" wheels="$cache/.download.$$"
  local platforms=() glibc
  for glibc in 28 27 26 25 24 23 22 21 20 19 18 17; do
    platforms+=(--platform "manylinux_2_${glibc}_x86_64")
  done
  platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
  mkdir -p "$wheels"
  trap 'rm -rf "$cache/.download.$$" "$cache/.unpack.$$"' EXIT
  echo "  fetching $(grep -v '^#' "$here/$list.txt" | cut -d' ' -f1 | tr '\n' ' ')"
  local start=$SECONDS
  PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip download --no-deps --require-hashes \
    --only-binary=:all: --no-cache-dir --retries 5 --python-version 3.11 --implementation cp --abi cp311 --abi none \
    "${platforms[@]}" -r "$here/$list.txt" -d "$wheels" >"$wheels/pip.log" 2>&1 || {
      cat "$wheels/pip.log" >&2
      echo "fetch_libtorch.sh: pip could not fetch the wheels; see its message above." >&2
      echo "  No network? On a machine that has one, run this script and copy $root here." >&2
      return 1
    }
  echo "  fetched and checked by SHA-256 in $((SECONDS - start)) s: $(du -ch "$wheels"/*.whl | tail -1 | cut -f1)"
  start=$SECONDS
  python3 "$here/unpack_wheels.py" "$target" "$wheels"/*.whl
  cp "$here/$list.txt" "$target/.$list"
  rm -rf "$wheels"
  echo "  unpacked in $((SECONDS - start)) s"
}

if [ -n "${TANDEM_LIBTORCH_ROOT:-}" ]; then
  [ -e "$root/torch/lib/libtorch_cpu.so" ] || {
    echo "fetch_libtorch.sh: TANDEM_LIBTORCH_ROOT=$root has no torch/lib/libtorch_cpu.so" >&2
    exit 1
  }
  echo "LibTorch: $root (named by TANDEM_LIBTORCH_ROOT, not checked)"
  exit 0
fi
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9  # two builds may start together; the second one finds the work done
rm -rf "$cache"/.download.* "$cache"/.unpack.*  # left by one that was killed
if stamped libtorch; then
  echo "LibTorch $version: $root (already there)"
else
  echo "LibTorch $version: into $root (about 550 MB to fetch, 530 MB unpacked)"
  fetch_list libtorch "$cache/.unpack.$$"
  rm -rf "$root"
  mv "$cache/.unpack.$$" "$root"
fi
if [ "$nccl" = yes ] && ! stamped nccl; then
  echo "NCCL: into $root (about 200 MB)"
  fetch_list nccl "$root"
fi
