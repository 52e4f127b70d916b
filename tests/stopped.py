"""Runs that are stopped in their middle."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from crossover.config import RunConfig
from crossover.training.epochs import ResumePoint
from crossover.training.run import execute


class KilledError(Exception):
    """Stands for a killed process."""


def stop_after(monkeypatch: pytest.MonkeyPatch, leg: int) -> None:
    """Let a run end like a killed process after it wrote its resume point of `leg`."""
    write = ResumePoint.on_train_epoch_end

    def write_then_stop(self: ResumePoint, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        write(self, trainer, module)
        if trainer.current_epoch == leg:
            raise KilledError

    monkeypatch.setattr(ResumePoint, "on_train_epoch_end", write_then_stop)


def stopped(run: RunConfig, monkeypatch: pytest.MonkeyPatch, after: int = 1) -> dict[str, Any]:
    """Stop a run after its second leg (or another, counted from 0) and return its checkpoint."""
    with monkeypatch.context() as patch:
        stop_after(patch, after)
        with pytest.raises(KilledError):
            execute(run)
    return torch.load(run.run_dir / "last.ckpt", weights_only=True)
