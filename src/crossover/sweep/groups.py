"""Which runs share a job? Groups of about equal cost, the longest first."""

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from crossover.config import RunConfig

Kind = tuple[str, str]
"""Dataset and model."""


def size_of(run: RunConfig) -> float:
    """Return how much a run has to do, as far as that is known without building its model: pixels trained on."""
    if run.budget.flops is not None:
        return run.budget.flops
    batch_size = run.recipe.batch_size
    return run.budget.total_steps(run.n_train, batch_size, forward_flops=1) * batch_size * run.data.image_size**2


def estimate_costs(runs: Sequence[RunConfig], records: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the cost of each run: seconds where runs of its dataset and model have records (by run id), else its size
    at the mean rate of all records. A guess that decides the order alone.
    """
    rates: dict[Kind, list[float]] = defaultdict(list)
    for run in runs:
        if run.run_id in records:
            rates[_kind(run)].append(records[run.run_id]["total_seconds"] / size_of(run))
    usual = fmean(fmean(values) for values in rates.values()) if rates else 1.0
    return {run.run_id: size_of(run) * fmean(rates.get(_kind(run)) or [usual]) for run in runs}


def group_runs(costs: Mapping[str, float], runs_per_group: int) -> list[list[str]]:
    """Return groups of at most so many run ids, of about equal cost, the longest group and its longest run first."""
    longest_first = sorted(costs, key=lambda run_id: -costs[run_id])
    count = -(-len(longest_first) // runs_per_group)
    open_groups: list[tuple[float, int, list[str]]] = [(0.0, number, []) for number in range(count)]
    full: list[tuple[float, int, list[str]]] = []
    for run_id in longest_first:
        cost, number, group = heapq.heappop(open_groups)
        group.append(run_id)
        target = full if len(group) == runs_per_group else open_groups
        heapq.heappush(target, (cost + costs[run_id], number, group))
    return [group for _, _, group in sorted(full + open_groups, key=lambda item: (-item[0], item[1]))]


def _kind(run: RunConfig) -> Kind:
    return run.data.name, run.model.name
