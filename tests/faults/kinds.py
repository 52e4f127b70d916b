"""What can happen to a sweep. Each fault starts the command if it needs it running, strikes, and waits for its end."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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


def signal_run(world: World, number: signal.Signals) -> str | None:
    process = world.start(pause=0.6)
    workers = world.workers(process)
    if workers:
        os.kill(world.rng.choice(workers), number)
    process.join()
    return f"one of {len(workers)} running" if workers else None


def signal_command(world: World, number: signal.Signals, whole: bool = False) -> str | None:
    """End the pool, or the `whole` group with its runs: those of a killed pool notice that and end."""
    process = world.start(pause=0.6)
    alive = process.is_alive()
    if whole and alive:
        _kill_group(process.pid)
    else:
        (process.kill if number == signal.SIGKILL else process.terminate)()
    process.join()
    hit = alive if number == signal.SIGKILL else process.exitcode == 143
    return ("the pool and its runs" if whole else "the pool") if hit else None


def _kill_group(leader: int | None) -> None:
    while leader and os.getsid(leader) != leader:  # it has just been forked
        time.sleep(0.001)
    os.killpg(leader or 0, signal.SIGKILL)


def two_commands(world: World, killed: bool) -> str | None:
    first = world.start()
    second = world.start() if killed else None
    world.pause(0.6)
    alive = first.is_alive()
    if killed:
        first.kill()
    second = second or world.start()
    first.join()
    second.join()
    return "the first pool" if alive else None


def tear_after(world: World, name: str) -> str | None:
    """Kill the command and its runs once there is such a file, and damage one; only checkpoints have checksums."""
    process = world.start()
    world.wait_for(lambda: world.some(name), process)
    world.pause(0.3)
    if process.is_alive():
        _kill_group(process.pid)
    process.join()
    path = world.some(name)
    if path is None or path.stat().st_size < 2:  # an earlier fault has emptied it
        return None
    world.torn.append(path)
    content = bytearray(path.read_bytes())
    how = world.rng.choice(["empty", "truncated", *(["one byte changed"] if path.suffix == ".ckpt" else [])])
    if how == "one byte changed":
        content[world.rng.randrange(len(content))] ^= 0xFF
    else:
        del content[world.rng.randrange(len(content) - 1) if how == "truncated" else 0 :]
    path.write_bytes(content)
    return f"{name} {how}"


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
    process = world.start(pause=0.6)
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
    process = world.start(pause=0.6)
    runs = world.outputs / "runs"
    if not process.is_alive() or not runs.is_dir():
        process.join()
        return None
    subprocess.run(["mount", "--bind", runs, runs], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", runs], check=True)
        process.join()
    finally:
        subprocess.run(["umount", "--lazy", runs], check=True)
    return "the folder of the runs"


KILL, TERM = signal.SIGKILL, signal.SIGTERM
AFTER = "after a kill: emptied or truncated"
FAULTS = [
    Fault("run killed", "SIGKILL of a run at a random moment", partial(signal_run, number=KILL)),
    Fault("run told to stop", "SIGTERM to a run at a random moment", partial(signal_run, number=TERM)),
    Fault("pool killed", "SIGKILL of the command; its runs are orphans", partial(signal_command, number=KILL)),
    Fault("all killed", "SIGKILL of the command and its runs", partial(signal_command, number=KILL, whole=True)),
    Fault("sweep told to stop", "SIGTERM to the command", partial(signal_command, number=TERM)),
    Fault("two at once", "a second command while one is at work", partial(two_commands, killed=False)),
    Fault("two at once, one killed", "two commands, SIGKILL of the first", partial(two_commands, killed=True)),
    Fault("checkpoint torn", f"{AFTER}, or one byte changed", partial(tear_after, name="last.ckpt")),
    Fault("record torn", AFTER, partial(tear_after, name="record.json")),
    Fault("frozen config torn", AFTER, partial(tear_after, name="config.yaml")),
    Fault("clock jumped", "heartbeats off by 100 s to a year, then a second command", jumped_clock),
    Fault("disk full", "0 to 64 kB left from a random moment on", full_disk, mounts=True),
    Fault("folder read-only", "the folder of the runs, from a random moment on", read_only, mounts=True),
]
