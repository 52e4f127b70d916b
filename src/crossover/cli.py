"""What all commands share: parsing of overrides, and failures reported as one line that says what to do."""

import difflib
import errno
import functools
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, get_args

from hydra import compose
from hydra.errors import HydraException, OverrideParseException
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from crossover.config import CrossoverError, RunConfig, RunValues

if not os.environ.get("MPLBACKEND", "").startswith("module://"):  # a notebook's
    os.environ["MPLBACKEND"] = "agg"  # matplotlib cannot be imported with the name of a backend that it does not know
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and repeat the command: what is done is kept",
    errno.EDQUOT: "your disk quota is used up; free some space and repeat the command: what is done is kept",
    errno.EROFS: "the file system is read-only; choose other folders: outputs=DIR, machine.data_dir=DIR",
    errno.EACCES: "no permission to write there; choose other folders: outputs=DIR, machine.data_dir=DIR",
}
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
_USER_ERRORS = (CrossoverError, HydraException, OmegaConfBaseException, OSError)


def one_line_errors(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Let the body of a Hydra entry point end with one line and exit status 2 after a mistake of the user.

    With HYDRA_FULL_ERROR=1 in the environment the traceback is shown instead.
    """

    @functools.wraps(main)
    def wrapped(config: DictConfig) -> None:
        try:
            main(config)
        except _USER_ERRORS as error:
            _exit(error)

    return wrapped


def run_app(main: Callable[[], Any]) -> NoReturn:
    """Run an entry point and exit; mistakes in its overrides end like those in its body, Ctrl-C with 130."""
    _open_closed_streams()
    end_on_signals()
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end an hour of training
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    os.environ.setdefault("CROSSOVER_TRACEBACK", os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions reach us; Hydra would print a page of its own
    try:
        main()
    except BrokenPipeError:  # a pager was left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except _USER_ERRORS as error:
        _exit(error)
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
            signal.signal(number, _end)


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def run_hydra(main: Callable[[], Any]) -> NoReturn:
    """Run a Hydra entry point with the arguments of the command line and SET of make, as in run_app."""
    given = sys.argv[1:]
    overrides = [word for word in given if not word.startswith("-") and (word.startswith("~") or "=" in word)]
    flags = [word for word in given if word not in overrides]
    if {"-m", "--multirun"}.isdisjoint(given):
        overrides = quoted(overrides)
    try:
        changes = shlex.split(os.environ.get("CROSSOVER_SET", ""))
    except ValueError as error:
        _exit(CrossoverError(f"SET cannot be read ({error}); put a value with quotes into quotes: SET='KEY=\"VALUE\"'"))
    if changes:
        overrides.append(f"set=[{','.join(map(_text, changes))}]")
    sys.argv[1:] = [*QUIET, *overrides, *flags]
    run_app(main)


def quoted(overrides: Sequence[str]) -> list[str]:
    """Return overrides with paths quoted as Hydra's grammar requires, so that users can type paths unquoted.

    `~` is the home of the user, which the shell does not replace there.
    """
    return [_quoted(item) for item in overrides]


def _quoted(item: str) -> str:
    key, _, value = item.partition("=")
    as_it_is = re.fullmatch(r"""'.*'|".*"|\$\{.*|[\w./:-]*""", value, re.ASCII)
    if key.rsplit(".", 1)[-1].lstrip("+") not in PATHS or as_it_is:
        return item
    with suppress(RuntimeError):  # no user of that name
        value = str(Path(value).expanduser()) if value.startswith("~") else value
    return f"{key}={_text(value)}"


def _text(value: str) -> str:
    """Return a text as Hydra's grammar quotes it."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\'", value) + "'"


def _field_meanings() -> str:
    """Return one line for each field of a run, with its meaning."""
    return "\n".join(f"{name}: {' '.join(text.split())}" for name, text in sorted(_described(RunConfig, "").items()))


def _described(model: type[BaseModel], prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        nested = [part for part in _types(field.annotation) if issubclass(part, BaseModel)]
        for part in nested:
            found |= _described(part, f"{prefix}{name}.")
        if not nested and field.description:
            found[f"{prefix}{name}"] = field.description
    return found


def _types(annotation: object) -> list[type]:
    """Return the classes that an annotation is made of."""
    return [annotation] if isinstance(annotation, type) else [t for part in get_args(annotation) for t in _types(part)]


# the recipe searched for a model on a data set, or its default: used in the YAML of models
OmegaConf.register_new_resolver("recipe_for", lambda data, searched, other: searched.get(data, other), replace=True)
OmegaConf.register_new_resolver("field_meanings", _field_meanings, replace=True)


def composed(name: str, overrides: Sequence[str]) -> dict[str, object]:
    """Return the resolved values of a config of conf/ with overrides; Hydra is initialised."""
    return resolved(compose(name, quoted(overrides)))


def compose_train(overrides: Sequence[str]) -> RunValues:
    """Return the resolved values of conf/train.yaml with overrides; Hydra is initialised."""
    return composed("train", overrides)  # type: ignore[return-value]


def _exit(error: BaseException) -> NoReturn:
    if os.environ.get("CROSSOVER_TRACEBACK") == "1":
        raise error
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(2)


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, with the choices that Hydra knows of."""
    text = str(error)
    missing = re.search(r"Could not find '(\S+?)/(\S+)'", text)
    if missing:
        group, name = missing.groups()
        options = re.findall(r"^\t(\S+)$", text.split("Available options in", 1)[-1], re.MULTILINE)
        return f"no {group} named {name!r}; there is {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is not KEY=VALUE as Hydra reads it; put quotes around the value: \"KEY='VALUE'\""
    if unknown := _unknown_key(error):
        return unknown
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        where = f"{error.filename2} (from {error.filename})" if error.filename2 else error.filename or "a file"
        return f"{where}: {_ADVICE.get(error.errno or 0, error.strerror or text)}"
    lines = [line.strip() for line in f"{text}\n{error.__cause__ or ''}".splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key", "object_type", "Set the environment"))]
    return "; ".join(dict.fromkeys(kept))


def _unknown_key(error: BaseException | None) -> str | None:
    """Return the message for an unknown key, with similar keys."""
    while error is not None and not isinstance(error, OmegaConfBaseException):
        error = error.__cause__
    if error is None or "is not in struct" not in str(error):
        return None
    known = [str(key) for key in error.parent_node] if isinstance(error.parent_node, Container) else []
    key = str(error.full_key)
    close = difflib.get_close_matches(key.rsplit(".", 1)[-1], known, 1)
    return f"unknown key {key}{f' (did you mean {close[0]}?)' if close else ''}; there is {', '.join(known)}"


def resolved(config: DictConfig) -> dict[str, object]:
    """Return a Hydra config as plain, resolved values; raise for a mandatory value that is missing."""
    for key in sorted(OmegaConf.missing_keys(config)):
        raise CrossoverError(f"{key} has no value; give it: {key}=VALUE")
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
