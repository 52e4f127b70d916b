"""The lock of a run or a cache: a file with a heartbeat instead of an OS file lock, so that it also works on NFS."""

import contextlib
import json
import multiprocessing
import os
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Self, TypedDict

STALE_SECONDS = 60.0
"""A heartbeat older than this, by the clock of the file system, belongs to a dead owner."""
BEAT_SECONDS = 2.0


class Owner(TypedDict):
    """What the file of a lock says."""

    host: str
    pid: int
    token: str
    """Its own, as process numbers come again."""


class HeldError(Exception):
    """Another live process has the lock."""


class Lock:
    """Hold `path` while inside the `with` block; raise HeldError when a live owner has it, take over from a dead one.

    A thread renews the heartbeat. It ends the process when the lock has been taken over, and when the process that
    started this one is gone: an orphan must not keep writing to a run that the next sweep continues. With
    `exit_when_lost=False` it only sets `lost`.
    """

    def __init__(self, path: Path, *, exit_when_lost: bool = True) -> None:
        self.path, self.lost, self._exit_when_lost = path, False, exit_when_lost
        self._token: Owner = {"host": os.uname().nodename, "pid": os.getpid(), "token": uuid.uuid4().hex}
        self._parent = None if multiprocessing.parent_process() is None else os.getppid()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat of {path}", daemon=True)

    def __enter__(self) -> Self:
        while True:
            try:
                _create(self.path, self._token)
                break
            except FileExistsError:
                owner = _read(self.path)
                if _alive(self.path, owner):
                    by = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
                    raise HeldError(f"{self.path.parent.name} is locked by {by}") from None
                self._remove_stale(owner)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if _read(self.path) == self._token:
            self.path.unlink(missing_ok=True)

    def _remove_stale(self, owner: Owner | None) -> None:
        aside = self.path.with_name(f".lock.stale.{self._token['token']}")
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            self.path.rename(aside)
            found = _read(aside)
            if found is not None and found != owner:  # it had already taken over: give its lock back
                with contextlib.suppress(FileExistsError):
                    _create(self.path, found)
            aside.unlink()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            self.lost = self._is_lost()
            if self._exit_when_lost and (self.lost or self._parent not in (None, os.getppid())):
                os._exit(75)
            if self.lost:
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _is_lost(self) -> bool:
        """Return whether the file is gone or belongs to another; a file system that does not answer proves nothing."""
        try:
            return bool(json.loads(self.path.read_text()) != self._token)
        except (FileNotFoundError, ValueError):
            return True
        except OSError:
            return False


def is_held(path: Path) -> bool:
    """Return whether a live process holds the lock."""
    return path.exists() and _alive(path, _read(path))


def _create(path: Path, owner: Owner) -> None:
    """Write a lock; raise FileExistsError when there is one. A reader that sees it empty treats it as held."""
    with path.open("x") as file:
        try:
            file.write(json.dumps(owner))
            file.flush()
        except OSError:  # a full disk: an empty lock would hold the run until it is stale
            path.unlink()
            raise


def _read(path: Path) -> Owner | None:
    try:
        owner = json.loads(path.read_text())
        return owner if isinstance(owner["host"], str) and 0 < owner["pid"] < 2**31 else None
    except (LookupError, OSError, TypeError, ValueError):  # of anything else than a lock
        return None


def _alive(path: Path, owner: Owner | None) -> bool:
    """Compare a heartbeat with a file written now next to it; on the owner's host, ask the kernel as well.

    A heartbeat from the future counts as dead too: the clock jumped, and a live owner renews it soon.
    """
    if owner is not None and owner["host"] == os.uname().nodename and not process_runs(owner["pid"]):
        return False
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            now = os.fstat(probe.fileno()).st_mtime
    except OSError:  # we may only read here: our own clock has to do
        now = time.time()
    try:
        return abs(now - path.stat().st_mtime) < STALE_SECONDS
    except FileNotFoundError:
        return False


def process_runs(pid: int) -> bool:
    """Return whether a process of this machine lives; a zombie answers signals but works no more."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or a system without /proc
        return True
    return state != "Z"
