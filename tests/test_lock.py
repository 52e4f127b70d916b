import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from crossover import lock
from crossover.lock import HeldError, Lock, is_held


def write_owner(path: Path, pid: int, host: str = os.uname().nodename, age: float = 0.0) -> None:
    path.write_text(json.dumps({"host": host, "pid": pid, "token": "x"}))
    os.utime(path, (time.time() - age,) * 2)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_one_holds_a_lock_and_it_goes_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path):
        assert is_held(path)
        with pytest.raises(HeldError, match=f"process {os.getpid()}"), Lock(path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_owner(path, dead_pid())
    assert not is_held(path)
    with Lock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_lock_of_another_host_lives_while_its_heart_beats(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_owner(path, 1, host="elsewhere", age=lock.STALE_SECONDS / 2)
    assert is_held(path)
    write_owner(path, 1, host="elsewhere", age=lock.STALE_SECONDS * 2)
    assert not is_held(path)


def test_a_heartbeat_from_the_future_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_owner(path, 1, host="elsewhere", age=-lock.STALE_SECONDS * 2)
    assert not is_held(path)


def test_who_may_only_read_can_still_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    path = tmp_path / "lock"
    write_owner(path, 1, host="elsewhere")
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert is_held(path)
    write_owner(path, 1, host="elsewhere", age=lock.STALE_SECONDS * 2)
    assert not is_held(path)


def test_a_reused_process_id_does_not_keep_a_lock_alive(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_owner(path, os.getpid(), age=lock.STALE_SECONDS * 2)
    assert not is_held(path)


@pytest.mark.parametrize(
    "torn",
    [
        "",
        "[]",
        "5",
        f'{{"host": "{os.uname().nodename}"}}',
        '{"host": "x", "pid": "x"}',
        f'{{"host": "x", "pid": {10**30}}}',
    ],
)
def test_torn_lock_is_stale_after_its_time(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "lock"
    path.write_text(torn)
    assert is_held(path)  # perhaps being written on another host
    os.utime(path, (0, 0))
    with Lock(path):
        assert is_held(path)


def test_heartbeat_renews_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    path = tmp_path / "lock"
    with Lock(path):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 60
        while path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


@pytest.mark.parametrize(("code", "lost"), [(errno.EIO, False), (errno.ESTALE, False), (errno.ENOENT, True)])
def test_a_file_system_that_does_not_answer_takes_no_lock_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, lost: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with Lock(tmp_path / "lock") as held:
        assert not held._is_lost()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", fail)
            assert held._is_lost() is lost


def test_a_process_whose_lock_was_taken_over_ends(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from crossover import lock; lock.BEAT_SECONDS = 0.02\n"
        "with lock.Lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    )
    path = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    replacement = tmp_path / "new"
    write_owner(replacement, os.getpid())
    replacement.rename(path)
    assert process.wait(timeout=10) == 75
    process.stdout.close()


def test_a_lock_that_a_full_disk_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one would hold the run until it is stale, although room was made."""

    def begin(path: Path, mode: str) -> IO[str]:
        path.touch()
        return os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", begin)
        with pytest.raises(OSError, match="No space"):
            Lock(tmp_path / "lock").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_a_quicker_process_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_owner(path, os.getpid())
    taken = json.loads(path.read_text())
    Lock(path)._remove_stale({"host": "elsewhere", "pid": 1, "token": "stale"})
    assert json.loads(path.read_text()) == taken
    assert list(tmp_path.iterdir()) == [path]
