"""Effects of changed images on a network: shifts and shuffled patches.

When an image moves, maps may move along (equivariance) and the answer stay (invariance). Shifts wrap around, so that
nothing enters or leaves the image: what remains is the network's own doing.
"""

import copy
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.studies.probes.networks import Found, feature_maps, layer_strides, logits_of


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
def equivariance(model: nn.Module, images: Tensor, shifts: Sequence[int] = ()) -> Iterator[Found]:
    """Yield the relative L2 error |f(shift x) - shift f(x)| / |shift f(x)| of each layer and shift.

    In float64, the mean over both axes. Shifts are in pixels; by default 1, and the cell of the deepest map.
    `analytic`: the error if f(shift x) were the map of another image, which is what "no relation" looks like.
    """
    model, images = copy.deepcopy(model).double(), images.double()
    strides = layer_strides(model)
    still = feature_maps(model, images)
    for shift in shifts or dict.fromkeys((1, max(strides.values()))):
        moved = [feature_maps(model, translate(images, *axis)) for axis in ((shift, 0), (0, shift))]
        for name, stride in strides.items():
            wanted = [translate(still[name], *axis) for axis in ((shift / stride, 0), (0, shift / stride))]
            pairs = list(zip([maps[name] for maps in moved], wanted, strict=True))
            error = sum(relative_error(*pair) for pair in pairs) / 2
            unrelated = sum(relative_error(a.roll(1, 0), b) for a, b in pairs) / 2
            yield Found(f"equivariance_{shift}px", name, error, unrelated)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return |actual - expected| / |expected| over all entries; 0 when both are zero."""
    scale = float(torch.linalg.vector_norm(expected))
    difference = float(torch.linalg.vector_norm(actual - expected))
    return difference / scale if scale else difference


@torch.no_grad()
def shift_consistency(
    model: nn.Module, images: Tensor, labels: Tensor, *, max_shift: int = 4, draws: int = 4, seed: int = 0
) -> Iterator[Found]:
    """Yield the accuracy, and how stable predictions are under random shifts of up to `max_shift` pixels on each axis.

    `consistency`: P(same class on two random shifts), Zhang 2019, over all pairs of `draws`; `consistency_correct`:
    the same over images classified correctly unshifted, to compare models of unequal accuracy. `analytic`:
    independent predictions with the same class frequencies.
    """
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randint(-max_shift, max_shift + 1, (draws, 2), generator=generator).tolist()
    right = logits_of(model, images).argmax(1) == labels
    shifted = torch.stack([logits_of(model, translate(images, *offset)).argmax(1) for offset in offsets])
    same = torch.stack([shifted[i] == shifted[j] for i, j in itertools.combinations(range(draws), 2)]).double()
    frequency = torch.bincount(shifted.flatten()).double() / shifted.numel()
    yield Found("accuracy", "", float(right.double().mean()))
    yield Found("accuracy_shifted", "", float((shifted == labels).double().mean()))
    yield Found("consistency", "", float(same.mean()), float((frequency**2).sum()))
    yield Found("consistency_correct", "", float(same[:, right].mean()))


@torch.no_grad()
def lie_derivative(model: nn.Module, images: Tensor, step: float = 0.01) -> Found:
    """Return how fast the logits change as the image shifts, per pixel, the mean over both axes (Gruver et al. 2022).

    Root mean square of df/dt over that of f between images, 0 for a translation-invariant function.
    Central differences of `step` pixels in float64 with band-limited shifts; they replace the paper's bilinear ones.
    """
    model, images = copy.deepcopy(model).double(), images.double()
    logits = model(images)
    scale = float((logits - logits.mean(0)).square().sum(1).mean().sqrt()) or 1.0
    rates = []
    for down, right in ((step, 0.0), (0.0, step)):
        change = model(translate(images, down, right)) - model(translate(images, -down, -right))
        rates.append(float((change / (2 * step)).square().sum(1).mean().sqrt()) / scale)
    return Found("lie_rate", "", sum(rates) / 2, 0.0)


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


def patch_order(model: nn.Module, images: Tensor) -> Found:
    """Return the relative change of the logits, in float64, when the patches of every image are shuffled.

    The patches are a ViT's own; for other networks, those of its deepest map.
    """
    model, x = copy.deepcopy(model).double(), images.double()
    cells = images.shape[-1] // max(layer_strides(model).values())
    return Found("patch_order", "", relative_error(logits_of(model, patch_shuffle(x, cells)), logits_of(model, x)), 0.0)
