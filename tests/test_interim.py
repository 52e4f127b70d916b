"""A sweep says what the verdict is so far after each whole chain but the last."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from crossover import sweep_report
from crossover.analysis.runs import Method
from crossover.config import RunConfig
from crossover.store import State
from crossover.sweep.pool import Progress
from crossover.sweep_report import Interim
from tests.worlds import small_run


def test_the_verdict_so_far_is_said_once_after_each_whole_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [small_run(tmp_path, chain=chain, n_train=n) for chain in (0, 1, 2) for n in (100, 200)]
    for run in runs:
        run.run_dir.mkdir(parents=True)
        np.savez(run.run_dir / "predictions.npz", labels=[0], predictions=[0])
    seen: list[list[int]] = []

    def records(runs: Sequence[RunConfig]) -> list[dict[str, Any]]:
        seen.append([run.chain for run in runs])
        return [{"run_id": run.run_id} for run in runs]

    def analyse(table: pd.DataFrame, method: Method) -> dict[str, Any]:
        assert set(method.predictions) == set(table["run_id"])
        return {"studies": [{"dataset": "cues", "pairs": [{"summary": f"{len(table)} runs say so"}]}]}

    monkeypatch.setattr(sweep_report, "read_done", records)
    monkeypatch.setattr(sweep_report, "analyse", analyse)
    console = Console(file=io.StringIO(), width=200)
    interim = Interim(runs, console)
    states: dict[str, State] = {run.run_id: "missing" for run in runs}
    for run in [runs[0], runs[2], runs[1], runs[3], runs[4], runs[5]]:
        states[run.run_id] = "done"
        for _ in range(2):
            interim(Progress(states))
            for thread in interim.threads:
                thread.join()
    assert seen == [[0, 0], [0, 0, 1, 1]]
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "after 1 of 3 chains, cues: 2 runs say so",
        "after 2 of 3 chains, cues: 4 runs say so",
    ]
