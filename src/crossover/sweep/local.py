"""How does a command do runs that it needs? Their data first, then side by side here, with how far they are."""

import signal
import sys
from collections.abc import Sequence

from rich.console import Console

from crossover.config import CrossoverError, RunConfig
from crossover.record import Record
from crossover.store import freeze, is_done, read_record
from crossover.sweep.launch import check_data
from crossover.sweep.pool import fork_server, run_pool
from crossover.sweep.progress import Display
from crossover.sweep.slots import slots_for


def do_runs(runs: Sequence[RunConfig], console: Console, *, parallel: int | None) -> list[Record]:
    """Do the runs that are left, and return the records of all; raise CrossoverError when one is not done then."""
    left = [run for run in runs if not is_done(run.run_dir)]
    if left:
        fork_server()  # imports while the data is prepared
        for line in check_data(left):
            console.print(line, highlight=False)
        freeze(left)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the pool then lets its runs save
        with Display(console, len(runs)) as display:
            run_pool(runs, slots=slots_for(left, parallel, 1), report=display)
    return read_done(runs)


def read_done(runs: Sequence[RunConfig]) -> list[Record]:
    """Return the records of all runs; raise CrossoverError when one is not done."""
    missing = [run.run_id for run in runs if not is_done(run.run_dir)]
    if missing:
        raise CrossoverError(
            f"{len(missing)} of {len(runs)} runs are not done, such as {missing[0]}; see its error.txt and repeat the"
            " command"
        )
    return [read_record(run.run_dir / "record.json") for run in runs]
