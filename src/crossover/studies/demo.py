"""The article's demonstration of equivariance: f(shift x) beside shift f(x)."""

import textwrap
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib import cbook
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from torch import Tensor

from crossover.fields import ModelConfig
from crossover.report.section import table_of, terminal_table
from crossover.report.style import panels, save
from crossover.store import write_json, write_text
from crossover.studies.probes.equivariance import relative_error, translate
from crossover.studies.probes.networks import feature_maps, logits_of
from crossover.text import tracked
from crossover.training.models import build_model

SIDE = 64
SHIFT, WHOLE = 3, 8
"""Shifts to the right in pixels: an odd one, and one that every stride here divides."""
EXACT = 1e-9
"""A relative error below this counts as 0: it is float64 rounding."""
Function = Callable[[Tensor], Tensor]
SAYS = (
    f"Move the image by {SHIFT} pixels and then compute f, or compute f and then move its map: is it the same?\n"
    "A convolution follows every move. Pooling follows only moves by whole cells.\n"
    "A ViT, bound to its patches and their positions, does not follow at all before it has learned to.\n"
    "Photograph: Grace Hopper, U.S. Navy (public domain), from matplotlib's sample data."
)
RESNET = {"widths": [16, 32, 64], "depths": [1, 1, 1], "zero_init_last": False}
VIT = {"embed_dim": 64, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0}
MODELS = {
    "ResNet, 3 stages": ModelConfig(name="resnet_demo", arch="basic_resnet", args=RESNET),
    "ViT, patches of 8 x 8": ModelConfig(name="vit_demo", arch="vit", args=VIT, position_std=0.5),
}


def main(values: dict[str, Any], console: Console) -> None:
    """Write the figure and the table of the demonstration to the folder `output`."""
    folder, rows = Path(values["output"]), demonstrate()
    save(draw(rows), folder, "equivariance", ["png"])
    table = pd.DataFrame(rows)[["operation", "image", "error", "error_whole", "answer"]]
    write_text(folder / "equivariance.csv", table.to_csv(index=False, float_format="%.6g"))
    versions = {name: version(name) for name in ("torch", "timm", "numpy", "matplotlib")}
    write_json(folder / "environment.json", {"command": "make demo", "precision": "float64"} | versions)
    named = table.rename(columns={"error": f"{SHIFT} px", "error_whole": f"{WHOLE} px"}).to_dict("records")
    console.print(terminal_table(table_of(named, caption="relative change")))
    print(f"figure: {folder / 'equivariance.png'}")


class Row(NamedTuple):
    """One operation on one image: maps float64 (SIDE, SIDE) for a shift of SHIFT pixels, and relative errors."""

    operation: str
    image: str
    moved_first: np.ndarray
    """f(shift x)."""
    moved_after: np.ndarray
    """shift f(x)."""
    error: float
    """|f(shift x) - shift f(x)| / |shift f(x)| for SHIFT pixels, over all channels."""
    error_whole: float
    """The same for WHOLE pixels."""
    answer: float | None
    """Relative change of the output when the image moves by SHIFT: a network's logits, a pooled mean; else None."""


def pictures() -> dict[str, np.ndarray]:
    """Return a white square on black and a photograph, as float64 (SIDE, SIDE, 3) in 0..1."""
    square = np.zeros((SIDE, SIDE, 3))
    square[20:44, 20:44] = 1
    with Image.open(cbook._get_data_path("sample_data/grace_hopper.jpg")) as photo:
        face = photo.crop((100, 20, 412, 332)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        return {"square": square, "photograph": np.asarray(face.convert("RGB"), np.float64) / 255}


def normalised(picture: np.ndarray) -> Tensor:
    """Return a picture as float64 (1, 3, SIDE, SIDE) of mean 0 and standard deviation 1."""
    x = torch.from_numpy(picture).permute(2, 0, 1)[None]
    return (x - x.mean()) / x.std()


def convolve(x: Tensor) -> Tensor:
    """Return the vertical edges of each channel (Sobel), with stride 1 and circular padding."""
    edge = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=x.dtype).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), edge, groups=3)


def pool(x: Tensor) -> Tensor:
    """Return the maximum of the edges in cells of 4 x 4, at the size of the image."""
    return F.interpolate(F.max_pool2d(convolve(x), 4), SIDE)


def _last_map(model: Any, x: Tensor) -> Tensor:
    return F.interpolate(list(feature_maps(model, x).values())[-1].detach(), SIDE)


def operations() -> dict[str, tuple[Function, Function | None]]:
    """Return by name: functions from images to maps of the image's size (cells repeated), and from images to outputs.

    Everything is float64, so that exact equivariance shows as such.
    """
    found: dict[str, tuple[Function, Function | None]] = {
        "convolution, a 3 x 3 edge filter": (convolve, None),
        "the same, then pooling, 4 x 4 maximum": (pool, lambda x: pool(x).mean((2, 3))),
    }
    for name, config in MODELS.items():
        torch.manual_seed(0)
        model: Any = build_model(config, image_size=SIDE, classes=10).double().eval()
        found[f"{name}, untrained"] = (partial(_last_map, model), partial(logits_of, model))
    return found


def demonstrate() -> list[Row]:
    rows = []
    known = operations()
    for operation, (maps, answer) in tracked(known.items(), "operations demonstrated", len(known)):
        for name, picture in pictures().items():
            x = normalised(picture)
            first, after = maps(translate(x, 0, SHIFT)), translate(maps(x), 0, SHIFT)
            whole = relative_error(maps(translate(x, 0, WHOLE)), translate(maps(x), 0, WHOLE))
            changed = None if answer is None else relative_error(answer(translate(x, 0, SHIFT)), answer(x))
            centre = maps(x).mean((2, 3), keepdim=True)
            one, two = ((m - centre)[0].square().mean(0).sqrt().numpy() for m in (first, after))
            rows.append(Row(operation, name, one, two, relative_error(first, after), whole, changed))
    return rows


def draw(rows: list[Row]) -> Figure:
    """Return the figure: for each operation and picture the picture, both maps and their difference."""
    figure, drawn = panels(4 * len(rows), columns=8, size=(1.7, 2.2))
    for place, row in enumerate(rows):
        said = f"difference {_percent(row.error)}\nfor {WHOLE} px: {_percent(row.error_whole)}"
        if row.answer is not None:
            said += f"\nof the answer: {_percent(row.answer)}"
        difference = np.abs(row.moved_first - row.moved_after)
        shown = {
            textwrap.fill(row.operation, 18): pictures()[row.image],
            "move, then f": row.moved_first,
            "f, then move": row.moved_after,
            said: difference,
        }
        top = max(row.moved_first.max(), row.moved_after.max())
        for axes, (title, image) in zip(drawn[4 * place :], shown.items(), strict=False):
            axes.imshow(image, cmap="magma" if image is difference else "gray", vmin=0, vmax=top)
            axes.set_title(title, fontsize=8)
            axes.axis("off")
    figure.suptitle(SAYS, fontsize=11)
    return figure


def _percent(value: float) -> str:
    return "0" if value < EXACT else f"{100 * value:.1f} %"
