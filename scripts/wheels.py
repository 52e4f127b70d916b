"""Collect the wheels that a machine without a network needs: python scripts/wheels.py --python 3.12 (make wheels).

The versions are those of requirements.lock, and each file is checked against the hashes there. A package without a
wheel is built.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

GPU_STACK = r"torch|torchvision|triton|cuda-.*|nvidia-(?!ml-py).*"
"""Torch, torchvision and their GPU packages."""


def there(listing: Path) -> set[str]:
    """Return the names in a `pip list --format=freeze` whose versions pyproject.toml allows."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    allowed = {canonicalize_name(r.name): r.specifier for r in map(Requirement, project["dependencies"])}
    pairs = [line.strip().partition("==")[::2] for line in listing.read_text().splitlines() if line.strip()]
    names = {canonicalize_name(name): version for name, version in pairs}
    return {name for name, version in names.items() if not version or name not in allowed or version in allowed[name]}


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12", choices=["3.11", "3.12", "3.13"], help="the other machine's Python")
    parser.add_argument("--platform", default="manylinux_2_28_x86_64", help="manylinux_2_N_x86_64 or …_aarch64")
    parser.add_argument("--folder", type=Path, default=Path("wheels"), help="where they go (default: wheels)")
    parser.add_argument("--extras", default="tensorboard,test,wandb", help="groups of pyproject.toml")
    parser.add_argument("--system-torch", action="store_true", help="leave out torch and what it brings for a GPU")
    parser.add_argument("--have", type=Path, help="leave out what is in this `pip list --format=freeze` of the machine")
    given = parser.parse_args(arguments)
    if not re.fullmatch(r"manylinux_2_\d+_(x86_64|aarch64)", given.platform):
        parser.error(f"--platform {given.platform}: give manylinux_2_N_x86_64 or manylinux_2_N_aarch64")
    old = next(given.folder.glob("*.whl"), None)
    if old and not (given.folder / "target").is_file():
        parser.error(f"{given.folder} holds wheels of others, such as {old.name}; name a new folder")
    return given


def run(place: Path, *command: str | Path) -> None:
    """Run a command with its temporary files in `place`, as torch alone has half a gigabyte."""
    if subprocess.run(command, env=os.environ | {"TMPDIR": str(place)}).returncode:
        sys.exit(f"error: {' '.join(map(str, command[:3]))} failed; its message is above")


def choose(given: argparse.Namespace, lock: Path) -> None:
    """Reduce a copy of the lock to what the other machine lacks; uv keeps the versions and hashes of its output."""
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    if uv is None:
        sys.exit("error: make wheels needs uv, which reads the lock for other machines: pip install uv")
    left_out = there(given.have) if given.have else set()
    if given.system_torch:
        names = re.findall(r"^([\w.-]+)==", lock.read_text(), re.MULTILINE)
        left_out |= {name for name in names if re.fullmatch(GPU_STACK, name)}
    tag, machine = re.split(r"_(?=x86|aarch)", given.platform)
    command = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes", "pyproject.toml"]
    command += [f"--output-file={lock}", f"--python-version={given.python}", f"--python-platform={machine}-{tag}"]
    command += [f"--extra={extra}" for extra in given.extras.split(",")]
    run(lock.parent, *command, *(f"--no-emit-package={name}" for name in sorted(left_out)))


def collect(given: argparse.Namespace, lock: Path) -> Sequence[Path]:
    """Download or build the wheels of a lock, and put them in the place of earlier ones; return their files."""
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["uv", "tool", "run", "pip"]
    place = lock.parent / "wheels"
    _, _, glibc, machine = given.platform.split("_", 3)
    tags = [f"manylinux_2_{n}" for n in range(int(glibc), 4, -1)] + ["manylinux2014", "manylinux2010", "manylinux1"]
    command = [*pip, "download", "--no-deps", "--require-hashes", f"--dest={place}", f"--requirement={lock}"]
    command += [f"--progress-bar={'on' if sys.stdout.isatty() else 'off'}", f"--python-version={given.python}"]
    run(lock.parent, *command, "--implementation=cp", *(f"--platform={tag}_{machine}" for tag in tags))
    for source in place.glob("*.tar.gz"):
        run(lock.parent, *pip, "wheel", "--no-deps", f"--wheel-dir={place}", source)
    for old in (*given.folder.glob("*.whl"), given.folder / "target"):
        old.unlink(missing_ok=True)
    return [wheel.rename(given.folder / wheel.name) for wheel in place.glob("*.whl")]


def main(arguments: list[str]) -> None:
    given = options(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    print("Finding out what is needed", flush=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        lock = Path(shutil.copy("requirements.lock", place))
        choose(given, lock)
        wheels = collect(given, lock)
    target = f"python={given.python}\nplatform={given.platform}\nextras={given.extras}\n"
    (given.folder / "target").write_text(target)
    size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    print(f"{len(wheels)} wheels, {size:,.0f} MB, in {given.folder}; there: make setup WHEELS={given.folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
