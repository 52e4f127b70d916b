"""How does a W&B run start, so that an outage costs a bounded time and an offline run opens no connection?"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 10.0
"""Time that W&B has to answer before a run is logged offline."""
FINISH_SECONDS = 20.0
"""Time that W&B has to take what is left when a run ends."""


def start_run(folder: Path, *, online: bool, **what: Any) -> "wandb.Run":
    """Start the W&B run `what` (arguments of wandb.init) below `folder`; offline when W&B does not answer.

    Its finish() raises TimeoutError when W&B has not taken everything within FINISH_SECONDS.
    """
    import wandb

    if online:
        try:
            return _init(folder, "online", what)
        except (wandb.errors.Error, OSError) as error:
            print(
                f"W&B cannot be reached ({error}): {what['id']} is logged offline; `make sync` uploads it", flush=True
            )
    return _init(folder, "offline", what)


def _init(folder: Path, mode: Any, what: dict[str, Any]) -> "wandb.Run":
    import wandb

    os.environ["WANDB_DATA_DIR"] = str(folder.resolve())  # else artifacts wait below the user's home
    if mode == "offline":
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # else even an offline run opens a connection
    settings = wandb.Settings(
        console="off",
        silent=True,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        x_disable_stats=True,
        x_save_requirements=False,  # the record has versions and commit; looking them up takes 0.3 s
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
    )
    return wandb.init(mode=mode, dir=folder, settings=settings, **what)
