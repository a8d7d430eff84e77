#!/usr/bin/env bash
# Makes a virtual environment with Gesso and its pinned dependencies: on a laptop (make calls it)
# and on every worker of a TPU pod.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/venv.sh [VENV] [EXTRAS]

  VENV     folder of the virtual environment (default: .venv); one that exists is kept
  EXTRAS   optional dependencies, comma-separated (default: dev); tpu and cuda are others, '' is none

Needs Python 3.11 or 3.12 with venv. Set PYTHON to say which one. The versions come from
constraints/py311.txt or constraints/py312.txt.

Example: PYTHON=python3.12 launch/venv.sh .venv312 dev
TEXT
}

supported() { # is "$1" a Python that runs here, of a version we support?
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

find_python() {
  if [[ -n ${PYTHON:-} ]]; then
    supported "$PYTHON" && printf '%s\n' "$PYTHON" && return
    printf 'PYTHON=%s is not a Python 3.11 or 3.12 that runs here\n' "$PYTHON" >&2
    return 2
  fi
  local name
  for name in python3.11 python3.12 python3 python; do
    if supported "$name"; then
      printf '%s\n' "$name"
      return
    fi
  done
  echo 'Gesso needs Python 3.11 or 3.12, and none of python3.11, python3.12, python3 is one;' \
    'install one of them, or set PYTHON to where it is' >&2
  return 2
}

main() {
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    return
  fi
  local venv=${1:-.venv} extras=${2-dev} python version constraints
  # Relative names are the caller's, everything else is in the checkout.
  [[ $venv == /* ]] || venv=$PWD/$venv
  cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
  if ! supported "$venv/bin/python"; then
    python=$(find_python)
    "$python" -m venv --clear "$venv"
  fi
  version=$("$venv/bin/python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
  constraints=constraints/py$version.txt
  printf 'installing gesso%s into %s by %s\n' "${extras:+[$extras]}" "$venv" "$constraints" >&2
  PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$venv/bin/python" -m pip install --quiet --constraint "$constraints" --editable ".${extras:+[$extras]}"
  # For what reads no import hooks (pyright): the checkout under its package's name.
  mkdir -p -- "$venv/links"
  ln -sfn -- "$PWD" "$venv/links/gesso"
  touch -- "$venv/installed"
}

main "$@"
