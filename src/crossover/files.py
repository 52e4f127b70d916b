"""How does a file appear whole or not at all?"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossover.config import CrossoverError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file in the folder of `path`, then rename it into place.

    The name is unique to the process, so that two writers never share a file; it is removed when `write` fails. The
    content reaches the disk before the name does: a crash of the machine leaves no empty file under it.
    """
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinity are errors."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def file_name(text: str) -> str:
    """Return text as a part of a file's name: another text gives another name, and none leads to another folder."""
    safe = re.sub(r"[^\w.-]", "-", text)[:80]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def with_block(path: Path, begin: str, end: str, block: str) -> str:
    """Return a text with `block` between its lines `begin` and `end`; raise CrossoverError when it has lost them."""
    text = path.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise CrossoverError(f"{path} has lost its markers {begin.strip()} and {end.strip()}; put them back")
    head, rest = text.split(begin, 1)
    return head + begin + block + end + rest.split(end, 1)[1]


def replace_block(path: Path, begin: str, end: str, block: str) -> None:
    """Write `block` between two lines of a text; see with_block."""
    write_text(path, with_block(path, begin, end, block))
