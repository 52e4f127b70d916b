"""How many runs at a time? One per core, or as many on each GPU as asked for, or as a short probe finds best."""

from collections.abc import Callable, Sequence

from crossover.config import CrossoverError, RunConfig
from crossover.sweep.launch import Density
from crossover.sweep.pool import Slot, local_slots, visible_gpus

LIMIT = 16
"""Runs on one GPU, at most: each has a context of its own, of about 0.5 GB."""
GAIN = 1.1
"""Twice as many runs must be this much faster in all, or their memory is not worth it."""
PROBE_STEPS = 50


def slots_for(runs: Sequence[RunConfig], parallel: int | None, runs_per_gpu: Density) -> list[Slot]:
    """Return the slots for the runs that are left; a run of several devices has as many GPUs or cores in its slot."""
    devices = max((run.trainer.devices for run in runs), default=1)
    gpus = visible_gpus()
    if gpus and devices > len(gpus):
        raise CrossoverError(f"trainer.devices={devices} is more than the {len(gpus)} GPUs that are visible here")
    if runs_per_gpu == "auto":
        runs_per_gpu = probe(runs) if gpus and devices == 1 and runs else 1
    return local_slots(parallel, runs_per_gpu, devices)


def probe(runs: Sequence[RunConfig]) -> int:
    """Return how many runs side by side do most on the first GPU: the smallest answer over the models of the sweep."""
    from crossover.bench.race import Apart, side_by_side  # torch: only when a GPU is there to be probed
    from crossover.bench.worlds import Task

    apart, answers = Apart(), []
    for run in {run.model.name: run for run in runs}.values():
        task = Task(run, synthetic=False)

        def measure(count: int, task: Task = task) -> float:
            return side_by_side(apart, task, count, steps=PROBE_STEPS, cores=[None])

        answers.append(best_density(measure))
        print(f"runs_per_gpu=auto: {answers[-1]} for {run.model.name}", flush=True)
    return min(answers)


def best_density(measure: Callable[[int], float]) -> int:
    """Return the number of runs with the best total rate, doubling it while that gains; a failed measurement is none.

    `measure` returns the total rate of so many runs, and raises CrossoverError when they do not fit.
    """
    best, rate = 1, measure(1)
    while 2 * best <= LIMIT:
        try:
            doubled = measure(2 * best)
        except CrossoverError:
            return best
        if doubled < GAIN * rate:
            return best
        best, rate = 2 * best, doubled
    return best
