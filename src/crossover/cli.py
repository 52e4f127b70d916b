"""How does a command fail? In one line that says what was given, what is allowed and what to do."""

import difflib
import errno
import functools
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from crossover.config import CrossoverError

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and repeat the command: what is done is kept",
    errno.EROFS: "the file system is read-only; choose other folders: outputs=DIR, machine.data_dir=DIR",
    errno.EACCES: "no permission to write there; choose other folders: outputs=DIR, machine.data_dir=DIR",
}
_USER_ERRORS = (CrossoverError, HydraException, OmegaConfBaseException, OSError)


def one_line_errors(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Let the body of a Hydra entry point end with one line and exit status 2 after a mistake the user can mend.

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
    """Run a Hydra entry point and exit; mistakes in its overrides end like those in its body, Ctrl-C with 130."""
    os.environ.setdefault("CROSSOVER_TRACEBACK", os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions reach us; Hydra would print a page of its own
    try:
        main()
    except _USER_ERRORS as error:
        _exit(error)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


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
    unknown = _unknown_key(error)
    if unknown is not None:
        return unknown
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return f"{error.filename or 'file'}: {_ADVICE.get(error.errno or 0, error.strerror or text)}"
    lines = [line.strip() for line in f"{text}\n{error.__cause__ or ''}".splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key", "object_type", "Set the environment"))]
    return "; ".join(dict.fromkeys(kept))


def _unknown_key(error: BaseException) -> str | None:
    """Return the message for a key that the config does not have, with its neighbours."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    if cause is None or "is not in struct" not in str(cause):
        return None
    parent = cause.parent_node
    known = [str(key) for key in parent] if isinstance(parent, Container) else []
    key = str(cause.full_key)
    close = difflib.get_close_matches(key.rsplit(".", 1)[-1], known, 1)
    return f"unknown key {key}{f' (did you mean {close[0]}?)' if close else ''}; there is {', '.join(known)}"


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return a Hydra config as plain, resolved values; raise for a mandatory value that is missing."""
    for key in sorted(OmegaConf.missing_keys(config)):
        raise CrossoverError(f"{key} has no value; give it: {key}=VALUE")
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
