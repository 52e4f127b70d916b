"""One optimiser step: a function that runs as it is, compiled, or captured with its augmentation as a CUDA graph.

The captured function is the one that the other engines run, so that a test of one covers the arithmetic of all.
"""

import warnings
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossover.data.loader import TrainBatches
from crossover.fields import RecipeConfig

Engine = Literal["eager", "compile", "graph"]
Function = Callable[[Tensor, Tensor], None]
WARM_UP = 3
"""Steps run eagerly before the capture, to create the optimiser's state and choose kernels."""


class Update:
    """Forward, backward and optimiser step on one batch; its metrics are added to `sums`, and nothing is read back."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: RecipeConfig,
        sums: Tensor,
        *,
        bf16: bool,
        backward: Callable[[Tensor], None],
    ) -> None:
        self.network, self.optimizer, self.recipe, self.sums = network, optimizer, recipe, sums
        self.bf16, self.backward = bf16, backward
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, x: Tensor, target: Tensor) -> None:
        # a context per step: autocast keeps its bf16 copies of the weights until it is left
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.network(x)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        self.backward(loss)
        if self.recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.recipe.grad_clip)
        self.optimizer.step()
        self.sums += metric_sums(loss.detach(), logits.detach(), target)


def metric_sums(loss: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Return (summed loss, errors, images) as float64 (3,); a soft target counts as its largest class."""
    labels = target if target.ndim == 1 else target.argmax(1)
    count = len(labels)
    errors = (logits.argmax(1) != labels).sum()
    return torch.stack([loss.double() * count, errors.double(), torch.full_like(errors, count).double()])


def with_engine(update: Update, batches: TrainBatches, engine: Engine, device: torch.device) -> Function:
    """Return the function that takes one step from raw images (uint8) and labels.

    On CUDA both `compile` and `graph` replay the whole step as one CUDA graph.
    """
    if engine == "compile":
        update.network = torch.compile(update.network)  # type: ignore[assignment]

    def whole(images: Tensor, labels: Tensor) -> None:
        update(*batches.augment(images, labels))

    if engine == "eager" or device.type != "cuda":
        return whole
    return Captured(whole, CudaGraph([batches.generator]))


class Captured:
    """A function that runs eagerly at first, and then as a graph over inputs at fixed addresses."""

    def __init__(self, function: Function, graph: "CudaGraph") -> None:
        self._function, self._graph = function, graph
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._calls = 0

    def __call__(self, first: Tensor, second: Tensor) -> None:
        self._calls += 1
        if self._calls <= WARM_UP:
            self._graph.warm_up(lambda: self._function(first, second))
            return
        if self._inputs is None:
            inputs = self._inputs = (first.clone(), second.clone())
            self._graph.capture(lambda: self._function(*inputs))
        for place, value in zip(self._inputs, (first, second), strict=True):
            place.copy_(value)
        self._graph.replay()


class CudaGraph:
    """A CUDA graph of a function without arguments; draws continue from their seed at each replay."""

    def __init__(self, generators: list[torch.Generator]) -> None:
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        for generator in generators:
            self._graph.register_generator_state(generator)

    def warm_up(self, function: Callable[[], None]) -> None:
        """Run the function on the stream of the capture, as the capture of a backward pass requires."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            # AdamW(capturable=True) says that it is not captured yet
            warnings.filterwarnings("ignore", message=r".*step\(\) is running without CUDA graph capture")
            function()
        torch.cuda.current_stream().wait_stream(self._stream)

    def capture(self, function: Callable[[], None]) -> None:
        # images read ahead in another thread may be copied meanwhile
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            function()

    def replay(self) -> None:
        self._graph.replay()
