"""How does a W&B run start, so that an outage costs a bounded time and an offline run opens no connection?"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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

    End it with `finish_run`: its own finish() waits as long as the server is silent.
    """
    import wandb

    if online:
        try:
            return _init(folder, "online", what)
        except (wandb.errors.Error, OSError) as error:
            give_up()  # it may have begun the run, and would refuse its id
            why = str(error).split("\n", 1)[0]
            print(f"W&B cannot be reached ({why}): {what['id']} is logged offline; `make sync` uploads it", flush=True)
    return _init(folder, "offline", what)


def _init(folder: Path, mode: Any, what: dict[str, Any]) -> "wandb.Run":
    import wandb

    os.environ["WANDB_DATA_DIR"] = str(folder.resolve())  # else artifacts wait below the user's home
    os.environ["WANDB_SILENT"] = "true"
    if mode == "offline":
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # else even an offline run opens a connection
    settings = wandb.Settings(
        console="off",
        init_timeout=INIT_SECONDS,
        x_disable_stats=True,
        x_transaction_log_flush_interval=1.0,  # what is on disk is what can be uploaded after an outage
        x_save_requirements=False,  # the record has versions and commit; looking them up takes 0.3 s
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
    )
    run = wandb.init(mode=mode, dir=folder, settings=settings, **what)
    run.log_artifact = partial(_hand_over, run)  # type: ignore[method-assign,assignment] # tables use it too
    return run


def _hand_over(run: "wandb.Run", artifact: "wandb.Artifact") -> None:
    """Log an artifact as offline runs do it: wandb's own way asks the server first, and waits while it is silent."""
    artifact.finalize()
    run._interface.publish_artifact(run, artifact, ["latest"])  # type: ignore[union-attr]


def finish_run(run: "wandb.Run", exit_code: int = 0) -> None:
    """End a run; raise TimeoutError when W&B has not taken all of it within FINISH_SECONDS."""
    pool = ThreadPoolExecutor(1)
    try:
        pool.submit(run.finish, exit_code=exit_code).result(FINISH_SECONDS)
    except TimeoutError:
        give_up()
        raise TimeoutError(f"no answer within {FINISH_SECONDS:g} s") from None
    finally:
        pool.shutdown(wait=False)


def give_up() -> None:
    """End W&B's own process: it would go on trying, and hold this one at its end. What it was told is on disk."""
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib.service import service_token

    session = wandb_setup.singleton()
    service, session._connection = session._connection, None  # the next run starts another
    if service is not None and service._proc is not None and service._cleanup is not None:
        service._cleanup()  # else it is waited for at the exit
        service._proc._process.kill()
        service_token.clear_service_in_env()
