"""The slots of a sweep on one machine: one run per core, or as many on each GPU as asked for."""

from collections.abc import Sequence

from crossover.config import CrossoverError, RunConfig
from crossover.sweep.pool import Slot, local_slots
from crossover.training.ranks import visible_gpus


def slots_for(runs: Sequence[RunConfig], parallel: int | None, runs_per_gpu: int) -> list[Slot]:
    """Return the slots for the runs that are left; a run of several devices has as many GPUs or cores in its slot."""
    devices = max((run.trainer.devices for run in runs), default=1)
    gpus = visible_gpus()
    if gpus and devices > len(gpus):
        raise CrossoverError(f"trainer.devices={devices} is more than the {len(gpus)} GPUs that are visible here")
    return local_slots(parallel, runs_per_gpu, devices)
