"""What holds for every test: nothing of the process that started them reaches the commands they start."""

import os


def pytest_configure() -> None:
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "CROSSOVER_SET"):  # of `make test`
        os.environ.pop(name, None)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker has one core: threads that wait for one another stall it
