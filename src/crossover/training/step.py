"""One optimiser step: a function that runs as it is, compiled, or captured with its augmentation as a CUDA graph.

The captured function is the one that the other engines run, so that a test of one covers the arithmetic of all.
"""

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from crossover.data.loader import TrainBatches

Engine = Literal["eager", "compile", "graph"]
Function = Callable[[Tensor, Tensor], None]
Update = Callable[[nn.Module, Tensor, Tensor], None]
"""Trains a network on images and targets."""
WARM_UP = 3
"""Steps run eagerly before the capture, to create the optimiser's state and choose kernels."""


def metric_sums(loss: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Return (summed loss, errors, images) as float64 (3,); a soft target counts as its largest class."""
    labels = target if target.ndim == 1 else target.argmax(1)
    count = len(labels)
    errors = (logits.argmax(1) != labels).sum()
    return torch.stack([loss.double() * count, errors.double(), torch.full_like(errors, count).double()])


def with_engine(update: Update, network: nn.Module, batches: TrainBatches, engine: Engine) -> Function:
    """Return the function that takes one step from raw images (uint8) and labels.

    On CUDA both `compile` and `graph` replay the whole step as one CUDA graph.
    """
    trained = network
    if engine == "compile":
        # with the draws of the other engines, as the engine is no part of a run's identity
        trained = torch.compile(network, options={"fallback_random": True})  # type: ignore[assignment]

    def whole(images: Tensor, labels: Tensor) -> None:
        update(trained, *batches.augment(images, labels))

    return whole if engine == "eager" or batches.images.device.type != "cuda" else Captured(whole, batches.generator)


class Captured:
    """A function that runs eagerly at first, and then as a CUDA graph over inputs at fixed addresses.

    Draws of the generator continue from their seed at each replay.
    """

    def __init__(self, function: Function, generator: torch.Generator) -> None:
        self._function, self._calls = function, 0
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        self._graph.register_generator_state(generator)

    def __call__(self, *given: Tensor) -> None:
        self._calls += 1
        if self._calls <= WARM_UP:
            self.warm_up(*given)
            return
        if self._calls == WARM_UP + 1:
            self._inputs = tuple(value.clone() for value in given)
            self.capture()
        for place, value in zip(self._inputs, given, strict=True):
            place.copy_(value)
        self._graph.replay()

    def warm_up(self, *given: Tensor) -> None:
        """Run the function on the stream of the capture, as the capture of a backward pass requires."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            # AdamW(capturable=True) says that it is not captured yet
            warnings.filterwarnings("ignore", message=r".*step\(\) is running without CUDA graph capture")
            self._function(*given)
        torch.cuda.current_stream().wait_stream(self._stream)

    def capture(self) -> None:
        # images read ahead in another thread may be copied meanwhile
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            self._function(*self._inputs)
