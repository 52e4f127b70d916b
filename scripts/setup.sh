#!/usr/bin/env bash
# Makes .venv for this checkout; does nothing when it is there. Without options: exactly the locked packages, with uv
# where it is, else with pip. WHEELS=dir installs without a network, from a folder that `make wheels` filled.
# SYSTEM_TORCH=1 uses the packages of the machine's Python and installs only what is missing there or too old.
# `scripts/setup.sh check PYTHON` says whether an interpreter has everything, for `make TARGET PYTHON=...`.
set -euo pipefail
cd -P "$(dirname "$0")/.."
# wheels are unpacked in .venv: TMPDIR may be small
export UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV="$PWD/.venv" TMPDIR="$PWD/.venv/tmp" PIP_DISABLE_PIP_VERSION_CHECK=1
python=${PYTHON:-} wheels=${WHEELS:-} system=${SYSTEM_TORCH:-} extras=${EXTRAS:-tensorboard,test,wandb} versions="3.13 3.12 3.11"
packages=$(cat requirements.lock pyproject.toml | cksum) mode=${system:+SYSTEM_TORCH=1 }${wheels:+WHEELS=$wheels}
without_network="Without a network: on a machine that has one, \`make wheels PYTHON_VERSION=3.12\` fills the folder wheels/; copy it here,
then \`make setup WHEELS=wheels\` (both times with SYSTEM_TORCH=1 where torch is already here). Or name a Python that has
everything: \`make test PYTHON=/path/to/python\`. docs/cluster.md says more."

fail() {
  printf '%s\n' "error: $1" "${@:2}" >&2
  exit 2
}

run() {
  "$@" || fail "this failed: $*" "$without_network"
}

pip_install() {
  run .venv/bin/python -m pip install ${wheels:+--no-index --find-links "$wheels"} "$@"
}

find_python() { # PYTHON, or one of the usual names: the first of a version that will do
  local name version
  for name in "${python:-python3}" $(printf 'python%s ' $versions); do
    version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    [[ " $versions " != *" $version "* ]] || { python=$name && return; }
  done
  fail "Python ${versions// / or } is needed${wheels:+ for the wheels in $wheels}, found $("${python:-python3}" --version 2>&1);" \
    "install it, or name it: make setup PYTHON=/path/to/python"
}

make_environment() { # for Debian's Python it needs the package python3-venv, which its message names
  rm -rf .venv
  mkdir -p "$TMPDIR"
  printf '%s\n' "$PWD" unfinished "$mode" > .venv/ready
  run "$python" -m venv ${system:+--system-site-packages --without-pip} .venv
}

use_system_packages() { # pip takes what it finds there for installed where the versions of pyproject.toml allow it
  make_environment
  "$python" - "$(echo .venv/lib/python*/site-packages)" <<'PYTHON' || fail "SYSTEM_TORCH=1: $python has no torch and torchvision; install them there, or leave SYSTEM_TORCH out"
import importlib.metadata, pathlib, sys, sysconfig
try:
    pins = [f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "torchvision")]
except importlib.metadata.PackageNotFoundError:
    sys.exit(1)
pathlib.Path(".venv/system.txt").write_text("\n".join(pins))
if sys.prefix != sys.base_prefix:  # .venv sees the packages of the base Python, but not those of a virtual environment
    line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    pathlib.Path(sys.argv[1], "system.pth").write_text(line)
PYTHON
  .venv/bin/python -m pip --version >/dev/null 2>&1 || run .venv/bin/python -m ensurepip >/dev/null
  echo "Installing what $python lacks; $(paste -sd ' ' .venv/system.txt) are its own"
  pip_install hatchling editables
  pip_install --no-build-isolation --constraint .venv/system.txt -e ".[$extras]"
}

use_wheels() {
  make_environment
  echo "Installing the wheels in $wheels"
  pip_install --no-deps "$wheels"/*.whl
  pip_install --no-deps --no-build-isolation -e .
}

use_lock() {
  echo "Installing the locked packages into .venv (about 6 GB with CUDA; once)"
  local install=(pip_install) uv=.venv/bin/uv
  if command -v uv >/dev/null; then
    uv=uv
    [ -x .venv/bin/python ] || run uv venv --quiet --python "$python" .venv
  else
    [ -x .venv/bin/python ] || make_environment
    [ -x $uv ] || .venv/bin/python -m pip install --quiet uv || uv= # it halves the time; pip does the same
  fi
  # compiled now, as pip does: else the first import takes twice as long, and each one where __pycache__ is not written
  [ -z "$uv" ] || install=(run "$uv" pip install --compile-bytecode)
  mkdir -p "$TMPDIR"
  "${install[@]}" --require-hashes -r requirements.lock
  "${install[@]}" --no-deps --no-build-isolation -e .
}

link() { # the environment of another checkout was copied or moved here: its code and its commands become ours
  .venv/bin/python - "$1/" "$PWD/" <<'PYTHON'
import pathlib, sys
old, new = (path.encode() for path in sys.argv[1:])
for file in [*pathlib.Path(".venv/bin").iterdir(), *pathlib.Path(".venv").glob("lib/python*/site-packages/*.pth")]:
    if file.is_file() and not file.is_symlink() and old in file.read_bytes():
        file.write_bytes(file.read_bytes().replace(old, new))
PYTHON
}

check() { # says what an interpreter lacks to do without .venv
  local missing
  missing=$("$1" -c 'import importlib.util as u, sys; print(*(name for name in sys.argv[1:] if not u.find_spec(name)))' \
    hydra matplotlib numpy pandas pydantic pytest pytorch_lightning rich safetensors scipy seaborn submitit timm torchvision xdist) ||
    fail "PYTHON=$1 does not run"
  [ -z "$missing" ] || fail "PYTHON=$1 lacks $missing; let .venv have them: make setup SYSTEM_TORCH=1 PYTHON=$1" "$without_network"
  exit
}

[ "${1:-}" != check ] || check "$2"
[ ! -L .venv ] || fail ".venv is a link to another checkout's environment, whose code it runs; remove the link (rm .venv) and try again"
was='' was_packages='' was_mode=''
[ ! -e .venv/ready ] || { read -r was && read -r was_packages && read -r was_mode; } < .venv/ready || true
works=$(.venv/bin/python -c 'print(1)' 2>/dev/null) || rm -rf .venv
if [[ "$works" && "$was_packages" = "$packages" && ( -z "$mode" || "$mode" = "$was_mode" ) ]]; then
  [ ! "$was" -ef . ] || exit 0
  link "$was"
  echo "The environment in .venv was that of $was; now it is tied to this checkout"
  mode=$was_mode
elif [[ -z "$mode$python" && "$was_mode" ]]; then
  fail "requirements.lock or pyproject.toml changed since .venv was made, or it was not finished; repeat: make setup $was_mode"
else
  if [ -n "$wheels" ]; then
    [ -e "$wheels/target" ] || fail "WHEELS=$wheels has no file named target; \`make wheels\` fills such a folder"
    versions=$(sed -n 's/^python=//p' "$wheels/target") extras=$(sed -n 's/^extras=//p' "$wheels/target")
  fi
  find_python
  if [ -n "$system" ]; then use_system_packages; elif [ -n "$wheels" ]; then use_wheels; else use_lock; fi
fi
rm -rf "$TMPDIR"
printf '%s\n' "$PWD" "$packages" "$mode" > .venv/ready
