"""What can happen to a sweep? Each fault starts the command if it needs it running, strikes, and waits for its end."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.world import World

Strike = Callable[[World], str | None]
"""Returns what was hit, or None when there was nothing to hit: such a fault does not count."""


@dataclass(frozen=True)
class Fault:
    name: str
    how: str
    """For the table."""
    strike: Strike
    mounts: bool = False
    """Needs file systems of its own (Linux, a mount namespace)."""


def kill_run(world: World) -> str | None:
    return _signal_run(world, signal.SIGKILL)


def stop_run(world: World) -> str | None:
    return _signal_run(world, signal.SIGTERM)


def _signal_run(world: World, number: signal.Signals) -> str | None:
    process = world.start()
    world.pause(0.6)
    workers = world.workers(process)
    if workers:
        os.kill(world.rng.choice(workers), number)
    process.join()
    return f"one of {len(workers)} running" if workers else None


def kill_command(world: World) -> str | None:
    """The pool is gone; its runs notice that and end."""
    process = world.start()
    world.pause(0.6)
    alive = process.is_alive()
    process.kill()
    process.join()
    return "the pool" if alive else None


def kill_all(world: World) -> str | None:
    process = world.start()
    world.pause(0.6)
    return _kill_group(process.pid) if process.is_alive() else None


def _kill_group(leader: int | None) -> str:
    while leader and os.getsid(leader) != leader:  # it has just been forked
        time.sleep(0.001)
    os.killpg(leader or 0, signal.SIGKILL)
    return "the pool and its runs"


def stop_command(world: World) -> str | None:
    process = world.start()
    world.pause(0.6)
    process.terminate()
    process.join()
    return "the pool" if process.exitcode == 143 else None


def two_commands(world: World) -> str | None:
    first = world.start()
    world.pause(0.5)
    both = first.is_alive()
    second = world.start()
    first.join()
    second.join()
    return "both ended" if both else None


def two_commands_one_killed(world: World) -> str | None:
    first, second = world.start(), world.start()
    world.pause(0.6)
    alive = first.is_alive()
    first.kill()
    first.join()
    second.join()
    return "the first pool" if alive else None


def torn_checkpoint(world: World) -> str | None:
    return _tear_after(world, "last.ckpt")


def torn_record(world: World) -> str | None:
    return _tear_after(world, "record.json")


def torn_config(world: World) -> str | None:
    return _tear_after(world, "config.yaml")


def _tear_after(world: World, name: str) -> str | None:
    """Let the command run until there is such a file, kill it with its runs, and damage one."""
    process = world.start()
    world.wait_for(lambda: world.some(name), process)
    world.pause(0.3)
    if process.is_alive():
        _kill_group(process.pid)
    process.join()
    path = world.some(name)
    if path is None:
        return None
    world.torn.append(path)
    return f"{name} {tear(path, world)}"


def tear(path: Path, world: World) -> str:
    """Damage a file and return how. A changed byte is for checkpoints alone: they have checksums."""
    content = path.read_bytes()
    hows = ["empty", "truncated"] + (["one byte changed"] if path.suffix == ".ckpt" else [])
    how = world.rng.choice(hows)
    if how == "one byte changed":
        position = world.rng.randrange(len(content))
        torn = content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]
    else:
        torn = content[: world.rng.randrange(len(content) - 1) if how == "truncated" else 0]
    path.write_bytes(torn)
    return how


def jumped_clock(world: World) -> str | None:
    """The clock of the file system jumps, and a second command then judges the heartbeats of the first one's runs."""
    first = world.start()
    world.pause(0.7)
    jump = world.rng.choice([-1, 1]) * 10 ** world.rng.uniform(2, 7.5)
    hit = 0
    for pattern in ("*/lock", "*/last.ckpt"):
        for path in (world.outputs / "runs").glob(pattern):
            try:
                os.utime(path, (time.time() + jump,) * 2)
                hit += 1
            except FileNotFoundError:
                continue
    second = world.start()
    first.join()
    second.join()
    return f"by {jump:+.0f} s" if hit else None


def full_disk(world: World) -> str | None:
    process = world.start()
    world.pause(0.6)
    left = world.rng.randrange(64 * 1024)
    filler = world.folder / "filler"
    alive = process.is_alive()
    with filler.open("wb") as file:
        filled = False
        while not filled:
            with contextlib.suppress(OSError):  # the runs wrote meanwhile
                os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(world.folder).free - left))
                filled = True
    process.join()
    filler.unlink()
    return f"{left} bytes left" if alive else None


def read_only(world: World) -> str | None:
    process = world.start()
    world.pause(0.6)
    runs = world.outputs / "runs"
    if not process.is_alive() or not runs.is_dir():
        process.join()
        return None
    _mount("--bind", runs, runs)
    try:
        _mount("-o", "remount,bind,ro", runs)
        process.join()
    finally:
        subprocess.run(["umount", "--lazy", runs], check=True)
    return "the folder of the runs"


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


FAULTS = [
    Fault("run killed", "SIGKILL of a run at a random moment", kill_run),
    Fault("run told to stop", "SIGTERM to a run at a random moment", stop_run),
    Fault("pool killed", "SIGKILL of the command; its runs are orphans", kill_command),
    Fault("all killed", "SIGKILL of the command and its runs", kill_all),
    Fault("sweep told to stop", "SIGTERM to the command", stop_command),
    Fault("two at once", "a second command while one is at work", two_commands),
    Fault("two at once, one killed", "two commands, SIGKILL of the first", two_commands_one_killed),
    Fault("checkpoint torn", "after a kill: emptied, truncated, or one byte changed", torn_checkpoint),
    Fault("record torn", "after a kill: emptied or truncated", torn_record),
    Fault("frozen config torn", "after a kill: emptied or truncated", torn_config),
    Fault("clock jumped", "heartbeats off by 100 s to a year, then a second command", jumped_clock),
    Fault("disk full", "0 to 64 kB left from a random moment on", full_disk, mounts=True),
    Fault("folder read-only", "the folder of the runs, from a random moment on", read_only, mounts=True),
]
