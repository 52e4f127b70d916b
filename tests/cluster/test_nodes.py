"""One run over two nodes through Lightning's DDP, as one Slurm job."""

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Cluster, records, runs, until

pytestmark = pytest.mark.cluster

FIXED: dict[str, Any] = {"budget.steps": 300, "budget.evaluations": 10}
AXES: dict[str, Any] = {"model": ["vit_tiny"], "n_train": [64], "chain": [0]}
WIDE = {"axes": AXES, "fixed": FIXED | {"trainer.num_nodes": 2}}
# the nodes' names lead nowhere: both are this machine
TASK = ["launcher.gpus=1", "launcher.cpus=1", "launcher.setup=['export MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=lo']"]


def test_a_run_on_two_nodes_trains_as_one_process_and_continues_after_a_requeue(
    cluster: Cluster, tmp_path: Path
) -> None:
    alone, wide, requeued = (tmp_path / name for name in ("alone", "wide", "requeued"))
    cluster.sweep(alone, {"axes": AXES, "fixed": FIXED}, launcher="local")
    cluster.sweep(wide, WIDE, *TASK)
    cluster.settle()
    logs = {path.name.split("_")[-2]: path.read_text() for path in wide.glob("outputs/sweeps/t/slurm/*_log.out")}
    assert "host=n1" in logs["1"]
    one, two = (next(iter(records(folder).values())) for folder in (alone, wide))
    assert two["steps"] == two["history"][-1]["step"] == 300
    for row, other in zip(one["history"], two["history"], strict=True):
        assert row["step"] == other["step"]
        assert row["val_loss"] == pytest.approx(other["val_loss"], rel=1e-2)
    assert two["history"][0]["train_loss"] == pytest.approx(one["history"][0]["train_loss"], rel=1e-4)

    cluster.sweep(requeued, WIDE, *TASK)
    until(lambda: list((requeued / "outputs" / "runs").glob("*/last.ckpt")))
    for job in cluster.jobs():
        cluster.slurm("scontrol", "requeue", job)
    cluster.settle()
    assert records(requeued) == records(wide)
    log = (runs(requeued)[0] / "log.txt").read_text()
    assert "stopped and saved" in log
    assert log.count("started 20") == 2
