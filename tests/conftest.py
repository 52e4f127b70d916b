"""What holds for every test: nothing of the process that started them reaches the commands they start."""

import os


def pytest_configure() -> None:
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "CROSSOVER_SET"):  # of `make test`
        os.environ.pop(name, None)
