#!/usr/bin/env bash
# Makes .venv with exactly the locked packages; does nothing when they are there. With uv where it is, else with pip.
set -euo pipefail
cd "$(dirname "$0")/.."
export UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV="$PWD/.venv"
ready=.venv/ready
[ -e "$ready" ] && [ "$ready" -nt requirements.lock ] && [ "$ready" -nt pyproject.toml ] && exit 0

suitable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
python=
for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
  if command -v "$name" >/dev/null && suitable "$name"; then python=$name; break; fi
done
if [ -z "$python" ]; then
  echo "error: Python 3.11, 3.12 or 3.13 is needed, found $(python3 --version 2>&1); install one, or name it: make setup PYTHON=/path/to/python3.12" >&2
  exit 2
fi

echo "Installing the locked packages into .venv (about 6 GB with CUDA; once)"
if command -v uv >/dev/null; then
  [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
  uv=uv
else
  if [ ! -x .venv/bin/python ] && ! "$python" -m venv .venv; then
    echo "error: $python has no venv module; install it (Debian: apt-get install python3-venv) or install uv" >&2
    exit 2
  fi
  uv=.venv/bin/uv
  # uv halves the time; where it cannot be had, pip does the same
  [ -x "$uv" ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv || uv=
fi
if [ -n "$uv" ]; then
  # compiled now, as pip does: else the first import takes twice as long, and each one where __pycache__ is not written
  "$uv" pip install --quiet --compile-bytecode --require-hashes -r requirements.lock
  "$uv" pip install --quiet --no-deps --no-build-isolation -e .
else
  .venv/bin/python -m pip install --quiet --require-hashes -r requirements.lock
  .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
fi
touch "$ready"
