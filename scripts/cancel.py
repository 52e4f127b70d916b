"""Cancel the queued and running Slurm jobs of a sweep: python scripts/cancel.py SWEEP [OUTPUTS] (make cancel)."""

import sys

from crossover.config import CrossoverError
from crossover.sweep.jobs import cancel_jobs
from crossover.sweep.plan import sweep_dir

USAGE = "usage: python scripts/cancel.py SWEEP [OUTPUTS]    OUTPUTS: the folder of runs and sweeps; default: outputs"


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2) or any(a.startswith("-") for a in arguments):
        print(USAGE, file=sys.stderr)
        return 2
    directory = sweep_dir(arguments[1] if len(arguments) > 1 else "outputs", arguments[0])
    try:
        if not directory.is_dir():
            raise CrossoverError(f"no sweep {arguments[0]!r}: {directory} does not exist; `make status` lists them")
        count = cancel_jobs(directory)
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{count} tasks cancelled; runs save what they have, and the same `make sweep` continues them")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
