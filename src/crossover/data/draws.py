"""Random numbers for the images of a batch, independent of how many processes share it."""

import torch
from torch import Tensor

EACH = -1
"""Stands for the images in a shape."""


class Draws:
    """Random draws for a batch of `count` images, kept for the images `rows` (int64 positions), or for all."""

    def __init__(self, generator: torch.Generator, count: int, rows: Tensor | None = None) -> None:
        self.generator, self.count, self.rows = generator, count, rows

    def uniform(self, *shape: int) -> Tensor:
        """Return float32 in [0, 1) of a shape in which EACH stands for the images."""
        return self._kept(torch.rand(self._full(shape), device=self.generator.device, generator=self.generator), shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return int64 in 0..high-1 of a shape in which EACH stands for the images."""
        full, device = self._full(shape), self.generator.device
        return self._kept(torch.randint(high, full, device=device, generator=self.generator), shape)

    def beta(self, alpha: float) -> Tensor:
        """Return draws of Beta(alpha, alpha), as the share of one of two gamma variates; ones when alpha is 0."""
        shape, device = (2, EACH), self.generator.device
        if alpha == 0:
            return self._kept(torch.ones(self.count, device=device), (EACH,))
        alphas = torch.full(self._full(shape), alpha, device=device)
        gamma = self._kept(torch._standard_gamma(alphas, generator=self.generator).clamp(min=1e-12), shape)
        return gamma[0] / gamma.sum(dim=0)

    def _full(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.count if length == EACH else length for length in shape)

    def _kept(self, drawn: Tensor, shape: tuple[int, ...]) -> Tensor:
        return drawn if self.rows is None else drawn.index_select(shape.index(EACH), self.rows)
