"""At how many training images does a Vision Transformer overtake a ResNet, and why?"""

import sys
from types import TracebackType

__version__ = "0.1.0"


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


if sys.argv[0] == "-m" or sys.argv[0].rpartition("/")[0].endswith("scripts"):
    sys.excepthook = _say  # Ctrl-C while a command imports the rest ends it by that signal, without a traceback
