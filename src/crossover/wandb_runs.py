"""W&B runs: always written to files first, and uploaded during training or later with `wandb sync`."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossover.config import CrossoverError
from crossover.lock import is_held
from crossover.record import CONFUSION, HISTORY, RUN_JOB, history_row, run_config, run_summary

if TYPE_CHECKING:
    import wandb

FINISH_SECONDS, UPLOAD_SECONDS = 60.0, 30.0
"""Time W&B is given at the end of a run to close its files, and to upload the rest of an online run."""
PATIENCE = 120.0
"""Seconds without an upload after which `make sync` ends."""
UPLOADING = "uploading to"
NOT_LOGGED = "not-uploaded"
"""File in the W&B folder of a training whose logging failed: it says why."""
MOST_CLASSES = 50
"""Most classes for which a confusion matrix is logged; its rows grow with their square."""
_WANDB = str(Path(sys.executable).with_name("wandb"))
_WHILE_WE_LIVE = (
    'exec 3<&0; "$@" & upload=$!; { read -r _ <&3; kill -9 $upload; } & wait $upload; exec 2>/dev/null; kill $!'
)
"""Shell code that runs a command until its standard input closes, as it does however this process ends."""


def start_run(folder: Path, logger: Mapping[str, Any], **what: Any) -> "wandb.Run":
    """Start a W&B run that writes to files below `folder` and opens no connection."""
    import wandb

    prepare(folder)
    settings = wandb.Settings(
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        reinit="create_new",
        x_transaction_log_flush_interval=1.0,  # what is on disk is what can be uploaded
        x_save_requirements=False,  # the record has the versions; looking them up takes 0.3 s
        disable_job_creation=True,
    )
    where = {"project": logger["project"], "entity": logger["entity"], "group": (logger["group"] or "")[:128] or None}
    return wandb.init(mode="offline", dir=folder, settings=settings, **where | what)


def prepare(folder: Path) -> None:
    """Let W&B keep its files below `folder`, say nothing, and report its errors to nobody."""
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve())  # else artifacts wait below the user's home
    os.environ["WANDB_SILENT"] = "true"
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # else even an offline run opens a connection
    try:
        Path.home()
    except RuntimeError:  # W&B looks for its settings there
        os.environ["HOME"] = str(folder.resolve())


def start_training(run_dir: Path, facts: Mapping[str, Any], *, again: bool = False) -> "wandb.Run":
    """Start or continue the W&B run of a training from (the first part of) its record; `again` replaces all of it."""
    continues = any((run_dir / "wandb").glob("*run-2*")) and not again
    named = {"id": facts["run_id"], "name": facts["run_id"], "job_type": RUN_JOB, "config": run_config(facts)}
    tags = [str(facts[name])[:64] for name in ("dataset", "model")]  # W&B refuses longer ones
    run = start_run(run_dir, facts["config"]["logger"], tags=tags, resume="allow" if continues else None, **named)
    for metric in HISTORY.values():
        run.define_metric(metric, step_metric=HISTORY["images_seen"], hidden=metric == HISTORY["images_seen"])
    return run


def log_end(run: "wandb.Run", record: Mapping[str, Any], run_dir: Path) -> None:
    """Log the final numbers (not points of a curve), the confusion matrix and the record."""
    import wandb

    if len(record["classes"]) <= MOST_CLASSES:
        with np.load(run_dir / "predictions.npz") as saved:
            truth, guess = saved["labels"].tolist(), saved["predictions"].tolist()
        matrix = wandb.plot.confusion_matrix(y_true=truth, preds=guess, class_names=record["classes"])
        run.log({CONFUSION: matrix}, step=record["steps"] + 1, commit=True)  # the row of the last step is closed
    run.summary.update(run_summary(record))
    artifact = wandb.Artifact(f"record-{record['run_id']}", type="record")
    artifact.add_file(str(run_dir / "record.json"), policy="immutable")  # not copied
    run.log_artifact(artifact)


def log_again(run_dir: Path) -> None:
    """Log a finished training from its record, after W&B failed during it."""
    record = json.loads((run_dir / "record.json").read_text(encoding="utf-8"))
    earlier = offline_folders(run_dir / "wandb")
    with start_training(run_dir, record, again=True) as run:
        for row in record["history"]:
            run.log(history_row(row), step=row["step"], commit=True)
        log_end(run, record, run_dir)
    for old in earlier:
        old.rename(old.with_name(f"incomplete-{old.name}"))
    (run_dir / "wandb" / NOT_LOGGED).unlink(missing_ok=True)


@contextlib.contextmanager
def guarded(run_dir: Path) -> Iterator[None]:
    """Keep any failure of W&B from ending the training: it is printed, and marked for `make sync`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 # a mirror must never end a training
        mark, why = run_dir / "wandb" / NOT_LOGGED, first_line(error)
        print(f"{run_dir.name} is not logged to W&B ({why}); `make sync` does it from the record", flush=True)
        with contextlib.suppress(OSError):  # such as a full disk
            mark.parent.mkdir(exist_ok=True)
            mark.write_text(f"{why}\n")


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def offline_folders(place: Path) -> list[Path]:
    """Return the W&B runs in a folder by start time; a resumed training has several."""
    return sorted(folder for folder in place.glob("offline-run-*") if folder.is_dir() and not folder.is_symlink())


def is_uploaded(folder: Path) -> bool:
    return any(folder.glob("*.wandb.synced"))


def is_left(place: Path) -> bool:
    """Return whether runs in the W&B folder of a training or a report are still to be uploaded."""
    return (place / NOT_LOGGED).exists() or not all(map(is_uploaded, offline_folders(place)))


class LiveUpload:
    """The upload of a W&B run during training, in a separate process that ends with this one."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._log = folder, folder.parent / "upload.log"
        command = ["sh", "-c", _WHILE_WE_LIVE, "sh", _WANDB, "beta", "sync", "--live", str(folder)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def end(self) -> None:
        """Wait for the rest to be uploaded, UPLOAD_SECONDS at most; print what went wrong."""
        try:
            self._process.wait(UPLOAD_SECONDS)
            why = (self._log.read_text(errors="replace").strip() or "it said nothing").splitlines()[-1]
        except subprocess.TimeoutExpired:
            why = f"not within {UPLOAD_SECONDS:g} s"
        self._process.communicate()  # closes its input, which ends it
        if not is_uploaded(self._folder):
            name = self._folder.parents[1].name
            print(f"W&B did not receive all of {name} ({why}); `make sync` uploads it", flush=True)


def upload(places: Sequence[Path], log: Path, patience: float, say: Callable[[str], object]) -> int:
    """Upload W&B folders with `wandb sync` until nothing was taken for `patience` seconds; return how many are left.

    A training whose logging failed is logged again first.
    """
    for place in places:
        if (place / NOT_LOGGED).exists():
            with guarded(place.parent):
                log_again(place.parent)
    folders = [folder for place in places for folder in offline_folders(place) if not is_uploaded(folder)]
    if not folders:  # wandb sync would look for some by itself
        return sum(map(is_left, places))
    with log.open("w") as output:
        command = [_WANDB, "sync", *map(str, folders)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    taken, since, ended = 0, time.monotonic(), False
    try:
        while not ended and time.monotonic() - since < patience:
            time.sleep(0.2)
            ended = process.poll() is not None
            if (now := sum(map(is_uploaded, folders))) > taken:
                taken, since = now, time.monotonic()
                say(f"{taken} of {len(folders)} uploaded")
    finally:
        process.kill()
        process.wait()
    return sum(map(is_left, places))


def sync(outputs: Path) -> None:
    """Upload what is left, except runs that still train or wait to be continued without a complete log."""
    left = [
        place for place in sorted(outputs.glob("*/*/wandb")) if is_left(place) and not is_held(place.parent / "lock")
    ]
    # a failed log is replaced from the record once that exists
    places = [p for p in left if not (p / NOT_LOGGED).exists() or (p.parent / "record.json").exists()]
    if not places:
        print("nothing to upload: W&B has all runs that are logged and do not train any more")
        return
    prepare(outputs)
    log = outputs / "wandb-sync.log"
    with log.open("w") as output:  # in a process of its own, which ends at once
        command = [sys.executable, "-c", "from crossover.wandb_runs import tell_server; tell_server()"]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
    told = (log.read_text(errors="replace").strip() or "it said nothing").splitlines()[-1]
    if not told.startswith(UPLOADING):
        advice = "nothing is lost, try again when the server answers"
        if "API key" in told:
            advice = "`.venv/bin/wandb login` logs in, or set WANDB_API_KEY"
        raise CrossoverError(f"W&B: {told}; {advice}")
    print(told, flush=True)
    refused = upload(places, log, PATIENCE, lambda said: print(said, flush=True))
    if refused:
        raise CrossoverError(f"W&B has not taken {refused} of {len(places)} ({log} says more); `make sync` tries again")


def tell_server() -> None:
    """Print the server that W&B uploads to, or why it does not answer, and end this process without its last steps.

    After a request that failed, W&B may wait for ever for its own service to end (0.31).
    """
    import wandb

    try:
        print(f"{UPLOADING} {wandb.Api(timeout=20).settings['base_url']}", flush=True)
    except Exception as error:  # noqa: BLE001 # it is raised as many types
        print(first_line(error), flush=True)
    os._exit(0)
