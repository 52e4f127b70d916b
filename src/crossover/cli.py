"""How does a command fail? In one line that says what was given, what is allowed and what to do."""

import errno
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from crossover.config import CrossoverError

_FILE_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space and repeat the command: what is done is kept",
    errno.EROFS: "the file system is read-only; choose another folder with outputs=DIR or machine.data_dir=DIR",
    errno.EACCES: "no permission to write there; choose another folder with outputs=DIR or machine.data_dir=DIR",
}


def run_app(main: Callable[[], Any]) -> NoReturn:
    """Run a Hydra entry point and exit: 0, 2 after a mistake the user can mend (one line), 130 after Ctrl-C.

    With HYDRA_FULL_ERROR=1 in the environment the traceback is shown instead.
    """
    verbose = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions reach us; Hydra would print its own page
    try:
        main()
    except (CrossoverError, HydraException, OmegaConfBaseException, OSError) as error:
        if verbose or (isinstance(error, OSError) and error.errno not in _FILE_ERRORS):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, with the choices that Hydra lists under its own."""
    if isinstance(error, OSError) and error.errno in _FILE_ERRORS:
        return f"{error.filename}: {_FILE_ERRORS[error.errno]}"
    text = str(error)
    missing = re.search(r"Could not find '(\S+?)/(\S+)'", text)
    if missing and "Available options" in text:
        group, name = missing.groups()
        options = [line.strip() for line in text.split("Available options in", 1)[1].splitlines()[1:] if line.strip()]
        options = [option for option in options if not option.startswith(("Config search", "provider="))]
        return f"no {group} named {name!r}; there is {', '.join(options)}"
    cause = f"{error.__cause__}" if error.__cause__ else ""
    lines = [line.strip() for line in f"{text}\n{cause}".splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key", "object_type", "Set the environment"))]
    return "; ".join(dict.fromkeys(kept))


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return a Hydra config as plain, resolved values."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
