"""Effects of changed images on a network: shifts, shuffled patches, and removed high or low frequencies.

When an image moves, maps may move along (equivariance) and the answer stay (invariance). Shifts wrap around, so that
nothing enters or leaves the image: what remains is the network's own doing.
"""

import copy
import itertools
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.studies.probes.features import evaluating, feature_maps, layer_strides, logits_of


def translate(x: Tensor, down: float, right: float) -> Tensor:
    """Return maps (..., H, W) shifted with wrap-around; shifts by parts of a cell are band-limited (Fourier).

    A frequency at the Nyquist limit has no sign and is attenuated by cos(pi * shift), so that the result stays real.
    """
    if float(down).is_integer() and float(right).is_integer():
        return torch.roll(x, (int(down), int(right)), (-2, -1))
    height, width = x.shape[-2:]
    rows = torch.fft.fftfreq(height, device=x.device, dtype=x.dtype)[:, None]
    columns = torch.fft.fftfreq(width, device=x.device, dtype=x.dtype)[None]
    turn = torch.exp(-2j * torch.pi * (rows * down + columns * right))
    return torch.fft.ifft2(torch.fft.fft2(x) * turn).real


@torch.no_grad()
def equivariance_error(
    model: nn.Module, images: Tensor, shifts: tuple[int, ...] = (1, 2, 3, 4), layers: tuple[str, ...] | None = None
) -> pd.DataFrame:
    """Return the relative L2 error |f(shift x) - shift f(x)| / |shift f(x)| of each layer and shift (pixels).

    Computed in float64, mean over both axes. `residue`: shift modulo the layer's stride, the pixels that a map cannot
    follow but by interpolation. `error_interior`: the same over the middle half of the map, away from padding.
    `error_unrelated`: the error if f(shift x) were the map of another image, which is what "no relation" looks like.
    """
    model = copy.deepcopy(model).double()
    images = images.double()
    strides = layer_strides(model)
    names = layers or tuple(strides)
    still = feature_maps(model, images, names)
    rows = []
    for shift in shifts:
        moved = [feature_maps(model, translate(images, *axis), names) for axis in ((shift, 0), (0, shift))]
        for name in names:
            cells = shift / strides[name]
            wanted = [translate(still[name], *axis) for axis in ((cells, 0), (0, cells))]
            pairs = list(zip([maps[name] for maps in moved], wanted, strict=True))
            rows.append(
                {
                    "layer": name,
                    "stride": strides[name],
                    "shift": shift,
                    "residue": shift % strides[name],
                    "error": sum(relative_error(*pair) for pair in pairs) / 2,
                    "error_interior": sum(relative_error(_interior(a), _interior(b)) for a, b in pairs) / 2,
                    "error_unrelated": sum(relative_error(a.roll(1, 0), b) for a, b in pairs) / 2,
                }
            )
    return pd.DataFrame(rows)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return |actual - expected| / |expected| over all entries; 0 when both are zero."""
    scale = float(torch.linalg.vector_norm(expected))
    difference = float(torch.linalg.vector_norm(actual - expected))
    return difference / scale if scale else difference


def _interior(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    return x[..., height // 4 : height - height // 4, width // 4 : width - width // 4]


@torch.no_grad()
def shift_consistency(
    model: nn.Module, images: Tensor, labels: Tensor, *, max_shift: int = 4, draws: int = 8, seed: int = 0
) -> pd.DataFrame:
    """Return how stable predictions are under random shifts of up to `max_shift` pixels on each axis (one row).

    `consistency`: P(same class on two random shifts), Zhang 2019, over all pairs of `draws`; `consistency_correct`:
    the same over images classified correctly unshifted, to compare models of unequal accuracy; `consistency_chance`:
    the value for independent predictions with the same class frequencies.
    """
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randint(-max_shift, max_shift + 1, (draws, 2), generator=generator).tolist()
    right = logits_of(model, images).argmax(1) == labels
    shifted = torch.stack([logits_of(model, translate(images, *offset)).argmax(1) for offset in offsets])
    same = torch.stack([shifted[i] == shifted[j] for i, j in itertools.combinations(range(draws), 2)]).double()
    frequency = torch.bincount(shifted.flatten()).double() / shifted.numel()
    return pd.DataFrame(
        [
            {
                "max_shift": max_shift,
                "accuracy": float(right.double().mean()),
                "accuracy_shifted": float((shifted == labels).double().mean()),
                "consistency": float(same.mean()),
                "consistency_correct": float(same[:, right].mean()) if right.any() else float("nan"),
                "consistency_chance": float((frequency**2).sum()),
            }
        ]
    )


@torch.no_grad()
def lie_derivative(model: nn.Module, images: Tensor, step: float = 0.01) -> pd.DataFrame:
    """Return how fast the logits change as the image shifts, per pixel and axis (Gruver et al. 2022).

    `rate`: root mean square of df/dt over that of f between images, 0 for a translation-invariant function. `margin`:
    mean |d(margin)/dt| / mean margin, the margin being the lead of the first class over the second. Central differences
    of `step` pixels in float64 with band-limited shifts; they replace the paper's bilinear ones.
    """
    model = copy.deepcopy(model).double()
    images = images.double()
    rows = []
    with evaluating(model):
        logits = model(images)
        scale = float((logits - logits.mean(0)).square().sum(1).mean().sqrt())
        top, second = logits.topk(2, dim=1).indices.unbind(1)
        margin = _margin(logits, top, second)
        for axis, (down, right) in {"rows": (step, 0.0), "columns": (0.0, step)}.items():
            ahead, behind = (model(translate(images, sign * down, sign * right)) for sign in (1, -1))
            rate = float(((ahead - behind) / (2 * step)).square().sum(1).mean().sqrt())
            change = (_margin(ahead, top, second) - _margin(behind, top, second)) / (2 * step)
            lead = float(change.abs().mean() / margin.mean())
            rows.append({"axis": axis, "rate": rate / scale if scale else rate, "margin": lead})
    return pd.DataFrame(rows)


def _margin(logits: Tensor, top: Tensor, second: Tensor) -> Tensor:
    return (logits.gather(1, top[:, None]) - logits.gather(1, second[:, None]))[:, 0]


def patch_shuffle(images: Tensor, cells: int, *, seed: int = 0) -> Tensor:
    """Return images cut into cells x cells patches, each image with its own random order of them."""
    count, channels, height, width = images.shape
    if height % cells or width % cells:
        raise CrossoverError(f"{cells} x {cells} patches do not divide images of {height} x {width} px")
    tall, wide = height // cells, width // cells
    patches = images.reshape(count, channels, cells, tall, cells, wide).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand((count, cells * cells), generator=generator).argsort(1).to(images.device)
    patches = patches.gather(1, order[:, :, None, None, None].expand_as(patches))
    whole = patches.reshape(count, cells, cells, channels, tall, wide).permute(0, 3, 1, 4, 2, 5)
    return whole.reshape(images.shape)


def low_pass(images: Tensor, cutoff: float) -> Tensor:
    """Return images without frequencies above `cutoff` (cycles per pixel, at most 0.71: the corner of the spectrum)."""
    rows, columns = (torch.fft.fftfreq(n, device=images.device) for n in images.shape[-2:])
    keep = (rows[:, None].square() + columns[None].square()).sqrt() <= cutoff
    return torch.fft.ifft2(torch.fft.fft2(images) * keep).real


def high_pass(images: Tensor, cutoff: float) -> Tensor:
    """Return images without frequencies up to `cutoff`, the mean of each channel kept."""
    return images - low_pass(images, cutoff) + images.mean((-2, -1), keepdim=True)


def robustness(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    cells: Sequence[int] = (2, 4),
    cutoffs: Sequence[float] = (0.125, 0.25, 0.375),
    seed: int = 0,
) -> pd.DataFrame:
    """Return the accuracy of a trained network on changed images: change, level, accuracy, unchanged, chance.

    `level`: patches per side, or the cutoff in cycles per pixel. `chance`: always the most frequent class. The images
    then differ from those of training, so that a drop may come from unfamiliarity as well as from the loss of a cue.
    """
    changed = {("patch_shuffle", float(n)): patch_shuffle(images, n, seed=seed) for n in cells}
    changed |= {("low_pass", c): low_pass(images, c) for c in cutoffs}
    changed |= {("high_pass", c): high_pass(images, c) for c in cutoffs}
    unchanged = accuracy(model, images, labels)
    chance = float(torch.bincount(labels).max()) / len(labels)
    rows = [
        {"change": change, "level": level, "accuracy": accuracy(model, x, labels)}
        for (change, level), x in changed.items()
    ]
    return pd.DataFrame(rows).assign(unchanged=unchanged, chance=chance)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of right answers."""
    return float((logits_of(model, images).argmax(1) == labels).double().mean())
