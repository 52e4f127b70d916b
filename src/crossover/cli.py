"""What all commands share: parsing of overrides, and failures reported as one line that says what to do."""

import difflib
import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, get_args

from hydra import compose
from hydra.errors import HydraException, OverrideParseException
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel
from yaml import YAMLError

from crossover.config import CrossoverError, RunConfig

if not os.environ.get("MPLBACKEND", "").startswith("module://"):  # a notebook's
    os.environ["MPLBACKEND"] = "agg"  # matplotlib cannot be imported with the name of a backend that it does not know
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and repeat the command: what is done is kept",
    errno.EDQUOT: "your disk quota is used up; free some space and repeat the command: what is done is kept",
    errno.EROFS: "the file system is read-only; choose other folders: outputs=DIR, machine.data_dir=DIR",
    errno.EACCES: "no permission to write there; choose other folders: outputs=DIR, machine.data_dir=DIR",
}
_OPEN = ("model.args.", "sweep.axes.", "sweep.fixed.")
"""Where any key may be added."""
_OF_RUNS = "{0} is no setting of this command but of its runs: SET='{0}...=VALUE'"
_FOR_EXPERTS = ("full_key", "object_type", "Set the environment", "To append to your default list")
"""How lines of Hydra's begin that lead users astray."""
_MISTAKES = (CrossoverError, HydraException, OmegaConfBaseException, YAMLError, OSError, MemoryError)
QUIET = (
    *("hydra/help=fields", "hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null"),
    *("hydra.run.dir=.", "hydra.sweep.dir=outputs", "hydra.sweep.subdir=."),
)
"""Hydra writes no files and no log of its own, and does not change the folder."""
PATHS = (
    "curves", "data_dir", "init_from", "output", "outputs", "readme", "results", "root", "sets", "timm",
    "trials",
)  # fmt: skip
"""Keys whose values are paths."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End with one line and exit status 2 after a mistake of the user; also decorates the body of a Hydra entry point.

    With HYDRA_FULL_ERROR=1 in the environment of the command the traceback is shown instead.
    """
    try:
        yield
    except Exception as error:
        mistake = isinstance(error, _MISTAKES) or str(error).startswith("Config group override must")  # data=null
        if not mistake or os.environ.get("CROSSOVER_TRACEBACK") == "1":
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def run_app(main: Callable[[], Any]) -> NoReturn:
    """Run an entry point and exit; mistakes in its overrides end like those in its body, Ctrl-C with 130."""
    _open_closed_streams()
    end_on_signals()
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end an hour of training
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    os.environ.setdefault("CROSSOVER_TRACEBACK", os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions reach us; Hydra would print a page of its own
    try:
        with one_line_errors():
            main()
    except BrokenPipeError:  # a pager was left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _open_closed_streams() -> None:
    """Replace the standard streams that the shell closed (`>&-`): the next files would take their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode)  # noqa: SIM115 - for as long as the process lives
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def end_on_signals() -> None:
    """Let SIGTERM and a closed terminal end this process in order: its runs save, and partial files are removed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def run_hydra(main: Callable[[], Any]) -> NoReturn:
    """Run a Hydra entry point with the arguments of the command line and SET of make, as in run_app."""
    given = sys.argv[1:]
    overrides = [word for word in given if not word.startswith("-") and (word.startswith("~") or "=" in word)]
    flags = [word for word in given if word not in overrides]
    if {"-m", "--multirun"}.isdisjoint(given):
        overrides = quoted(overrides)
    with one_line_errors():
        try:
            changes = shlex.split(os.environ.get("CROSSOVER_SET", ""))
        except ValueError as error:
            raise CrossoverError(
                f"SET cannot be read ({error}); put a value with quotes into quotes: SET='KEY=\"VALUE\"'"
            ) from None
        if changes and any(item.startswith("set=") for item in overrides):
            raise CrossoverError("SET and set=[...] of ARGS are the same setting: give all changes in SET")
    if changes:
        overrides.append(f"set=[{','.join(map(_text, changes))}]")
    sys.argv[1:] = [*QUIET, *overrides, *flags]
    run_app(main)


def quoted(overrides: Sequence[str]) -> list[str]:
    """Return overrides with paths quoted as Hydra's grammar requires, so that users can type paths unquoted.

    `~` is the home of the user, which the shell does not replace there.
    """
    items = []
    for item in overrides:
        key, _, value = item.partition("=")
        as_it_is = re.fullmatch(r"""'.*'|".*"|\$\{.*|[\w./:-]*""", value, re.ASCII)
        if key.rsplit(".", 1)[-1].lstrip("+") in PATHS and not as_it_is:
            with suppress(RuntimeError):  # no user of that name
                value = str(Path(value).expanduser()) if value.startswith("~") else value
            item = f"{key}={_text(value)}"
        items.append(item)
    return items


def _text(value: str) -> str:
    """Return a text as Hydra's grammar quotes it."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\'", value) + "'"


def _meanings(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Return what each field of a model, and of the models in it, means."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        parts = [part for part in _classes(field.annotation) if issubclass(part, BaseModel)]
        for part in parts:
            found |= _meanings(part, f"{prefix}{name}.")
        if not parts and field.description:
            found[f"{prefix}{name}"] = " ".join(field.description.split())
    return found


def _classes(annotation: object) -> list[type]:
    """Return the classes that an annotation is made of."""
    return (
        [annotation] if isinstance(annotation, type) else [t for part in get_args(annotation) for t in _classes(part)]
    )


# the recipe searched for a model on a data set, or its default: used in the YAML of models
OmegaConf.register_new_resolver("recipe_for", lambda data, searched, other: searched.get(data, other), replace=True)
OmegaConf.register_new_resolver(
    "field_meanings",
    lambda: "\n".join(f"{name}: {meaning}" for name, meaning in sorted(_meanings(RunConfig).items())),
    replace=True,
)


def composed(name: str, overrides: Sequence[str]) -> dict[str, object]:
    """Return the resolved values of a config of conf/ with overrides; Hydra must be initialised."""
    return resolved(compose(name, quoted(overrides)))


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, with the choices that Hydra knows of."""
    text = str(error)
    if missing := re.search(r"Could not find '(\S+?)/(.*?)'", text):
        group, name = missing.groups()
        options = re.findall(r"^\t(\S+)$", text.split("Available options in", 1)[-1], re.MULTILINE)
        return f"no {group} named {name!r}; there is {', '.join(options)}"
    if text.startswith("Config group override must"):
        return (
            "a group, such as model or data, takes the name of a file in conf/GROUP; quote one such as 'no' or 'null'"
        )
    if (group := re.match(r"Could not override '(\w+)'", text)) and group[1] in RunConfig.model_fields:
        return _OF_RUNS.format(group[1])
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is not KEY=VALUE as Hydra reads it; put quotes around the value: \"KEY='VALUE'\""
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        where = f"{error.filename2} (from {error.filename})" if error.filename2 else error.filename or "a file"
        return f"{where}: {_ADVICE.get(error.errno or 0, error.strerror or text)}"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    if cause is not None and "is not in struct" in str(cause):
        if cause.full_key in RunConfig.model_fields:
            return _OF_RUNS.format(cause.full_key)
        if cause.full_key in _meanings(RunConfig) or str(cause.full_key).startswith(_OPEN):
            return f"{cause.full_key} has no value in conf/ to replace; add it with a plus: +{cause.full_key}=VALUE"
        known = [str(key) for key in cause.parent_node] if isinstance(cause.parent_node, Container) else []
        close = difflib.get_close_matches(str(cause.full_key).rsplit(".", 1)[-1], known, 1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        return f"unknown key {cause.full_key}{meant}; there is {', '.join(known)}"
    more = "" if isinstance(error, CrossoverError) else error.__cause__ or ""
    lines = [line.strip() for line in f"{text}\n{more}".splitlines()]
    kept = [line for line in lines if line and not line.startswith(_FOR_EXPERTS)]
    return "; ".join(dict.fromkeys(kept))


def resolved(config: DictConfig) -> dict[str, object]:
    """Return a Hydra config as plain, resolved values; raise for a mandatory value that is missing."""
    for key in sorted(OmegaConf.missing_keys(config)):
        raise CrossoverError(f"{key} has no value; give it: {key}=VALUE")
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
