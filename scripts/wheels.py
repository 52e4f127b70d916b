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
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

GPU_STACK = r"torch|torchvision|triton|cuda-.*|nvidia-(?!ml-py).*"
"""Torch, torchvision and their GPU packages."""


def locked() -> dict[str, str]:
    """Return the lines of the lock, with their hashes, by `name==version`."""
    blocks = re.split(r"\n(?=\S)", Path("requirements.lock").read_text().strip())
    return {re.split(r"[ ;\\]", block, maxsplit=1)[0]: block for block in blocks}


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


def needed(given: argparse.Namespace, place: Path) -> list[str]:
    """Return the lines of the lock that the project needs on the other machine."""
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    if uv is None:
        sys.exit("error: make wheels needs uv, which reads the lock for other machines: pip install uv")
    blocks, left_out = locked(), there(given.have) if given.have else set()
    pins, (tag, machine) = place / "pins.txt", re.split(r"_(?=x86|aarch)", given.platform)
    pins.write_text("\n".join(block.partition(" \\")[0] for block in blocks.values()))
    command = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--constraint", str(pins)]
    command += ["--python-version", given.python, "--python-platform", f"{machine}-{tag}"]
    command += [*(f"--extra={extra}" for extra in given.extras.split(",")), "pyproject.toml"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    names = {line.partition("==")[0]: line.partition(" ")[0] for line in lines if "==" in line}
    return [
        re.sub(r" ;.*(?= \\)", "", blocks[pin])
        for name, pin in names.items()
        if name not in left_out and not (given.system_torch and re.fullmatch(GPU_STACK, name))
    ]


def collect(given: argparse.Namespace, chosen: list[str], place: Path) -> None:
    """Download or build the wheels of some lines of the lock, and put them in the place of earlier ones."""
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["uv", "tool", "run", "pip"]
    requirements, wheels = place / "requirements.txt", place / "wheels"
    requirements.write_text("\n".join(chosen) + "\n")
    _, _, glibc, machine = given.platform.split("_", 3)
    tags = [f"manylinux_2_{n}" for n in range(int(glibc), 4, -1)] + ["manylinux2014", "manylinux2010", "manylinux1"]
    environment = os.environ | {"TMPDIR": str(place)}  # torch alone has half a gigabyte
    command = [*pip, "download", "--no-deps", "--require-hashes", "--dest", str(wheels), "-r", str(requirements)]
    command += [
        "--python-version",
        given.python,
        "--implementation",
        "cp",
        *(f"--platform={t}_{machine}" for t in tags),
    ]
    command += [f"--progress-bar={'on' if sys.stdout.isatty() else 'off'}"]
    subprocess.run(command, check=True, env=environment)
    for source in wheels.glob("*.tar.gz"):
        subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={wheels}", source], check=True, env=environment)
    for path in (*given.folder.glob("*.whl"), given.folder / "target"):
        path.unlink(missing_ok=True)
    for wheel in wheels.glob("*.whl"):
        wheel.rename(given.folder / wheel.name)


def main(arguments: list[str]) -> None:
    given = options(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    print("Finding out what is needed", flush=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        chosen = needed(given, Path(place))
        collect(given, chosen, Path(place))
    target = f"python={given.python}\nplatform={given.platform}\nextras={given.extras}\n"
    (given.folder / "target").write_text(target)
    size = sum(file.stat().st_size for file in given.folder.glob("*.whl")) / 1e6
    print(f"{len(chosen)} wheels, {size:,.0f} MB, in {given.folder}; there: make setup WHEELS={given.folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
