# Shared by tools/quickstart, tools/test and .ci/run: named steps with times, packages, LibTorch.
# To be sourced from a bash script that runs with `set -Eeuo pipefail`; changes to the tree's top.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

step_name="start"
step_hint=""
step_start=$SECONDS
step_times=()

# step NAME [HINT]: the next part of the script; HINT is what to do when it fails.
step() {
  finish_step
  step_name="$1"
  step_hint="${2:-}"
  step_start=$SECONDS
  printf '\n== %s\n' "$step_name"
}

finish_step() {
  if [ "$step_name" != start ]; then
    step_times+=("$(printf '%6d s  %s' $((SECONDS - step_start)) "$step_name")")
  fi
  step_name="start"
}

print_times() {
  finish_step
  printf '\nTime used\n'
  printf '%s\n' "${step_times[@]}"
}

on_failure() {
  local status=$?
  printf '\n%s: step "%s" failed (exit %d).\n' "$0" "$step_name" "$status" >&2
  if [ -n "$step_hint" ]; then
    printf '  %s\n' "$step_hint" >&2
  fi
  exit "$status"
}
trap on_failure ERR

# How many compilers at once: a file that includes LibTorch takes about 2 GiB.
num_jobs() {
  local cores memory_gib
  cores="$(nproc)"
  memory_gib="$(awk '/^MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)"
  echo $((memory_gib / 2 < 1 ? 1 : memory_gib / 2 < cores ? memory_gib / 2 : cores))
}

# Lines "package version" of the given sets, with the names of this distribution.
list_packages() {
  local set_name column=2
  . /etc/os-release 2>/dev/null || true
  case "${ID:-} ${ID_LIKE:-}" in
    *ubuntu*) column=4 ;;
  esac
  for set_name in "$@"; do
    awk -v s="$set_name" -v c="$column" '$1 == s {print (c == 4 && $4 != "" ? $4 : $2), $3}' \
      tools/ci/packages.txt
  done
}

# Prints the packages of the given sets that are missing or too old.
missing_packages() {
  local package wanted status have
  list_packages "$@" | while read -r package wanted; do
    # Nothing where the package is not known.
    have="$(dpkg-query -W -f '${db:Status-Status} ${Version}' "$package" 2>/dev/null || true)"
    status="${have%% *}"
    if [ "$status" != installed ] || ! dpkg --compare-versions "${have#* }" ge "$wanted"; then
      printf '%s\n' "$package"
    fi
  done
}

# ensure_packages SET...: checks each package and its version; installs what is missing, when it may.
ensure_packages() {
  if ! command -v dpkg-query >/dev/null; then
    printf 'No dpkg here: this script knows Debian 12 and Ubuntu 24.04. Needed, at least:\n' >&2
    list_packages "$@" >&2
    printf 'Install their like, then: cmake --preset release && cmake --build --preset release\n' >&2
    return 1
  fi
  (
    . /etc/os-release
    case "${ID:-} ${VERSION_ID:-}" in
      "debian 12") ;;
      "ubuntu 24.04") echo "Ubuntu 24.04: package names are mapped, but this is untested." ;;
      *) echo "${PRETTY_NAME:-unknown system}: untested; Debian 12 is what we test on." ;;
    esac
  )
  local missing
  missing="$(missing_packages "$@")"
  if [ -z "$missing" ]; then
    echo "all $(list_packages "$@" | wc -l) packages are here"
    return 0
  fi
  local names
  names="$(tr '\n' ' ' <<<"$missing")"
  local install="apt-get install -y --no-install-recommends $names"
  local as_root=()
  if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    else
      printf 'Missing packages, and no right to install them. As root:\n\n' >&2
      printf '  apt-get update && %s\n\nThen start this script again.\n' "$install" >&2
      return 1
    fi
  fi
  echo "installing: $names"
  local log
  log="$(mktemp)"
  if ! { "${as_root[@]}" apt-get update &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      $install -o DPkg::Lock::Timeout=300; } >"$log" 2>&1 </dev/null; then
    tail -n 30 "$log" >&2
    rm -f "$log"
    printf 'apt failed (above). By hand: apt-get update && %s\n' "$install" >&2
    return 1
  fi
  rm -f "$log"
  missing="$(missing_packages "$@")"
  if [ -n "$missing" ]; then
    printf 'apt worked, yet these are missing or older than needed: %s\n' "$(tr '\n' ' ' <<<"$missing")" >&2
    printf 'tools/ci/packages.txt has the versions; Debian 12 and Ubuntu 24.04 have them.\n' >&2
    return 1
  fi
}
