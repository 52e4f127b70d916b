"""Measurements that need no training: equivariance of operations to shifts, pooling, sizes of known models."""

from typing import Any

import timm
import torch
import torch.nn.functional as F

from crossover.studies.demo import SHIFT, WHOLE, convolve, demonstrate, normalised, pictures
from crossover.studies.probes.equivariance import relative_error, translate
from crossover.training.models import count_parameters

KNOWN = ("resnet50", "vit_base_patch16_224", "vit_small_patch16_224")
"""timm's names of ResNet-50, ViT-B/16 and ViT-S/16 (DeiT-S)."""


def operation_measures() -> list[dict[str, Any]]:
    """Return model, measure, layer, value: `layer` is the picture that the operation was applied to.

    `shift_error_3px`, `shift_error_8px`: |f(shift x) - shift f(x)| / |shift f(x)|, as in `make demo`;
    `map_change_1px`: |f(shift x) - f(x)| / |f(x)| for one pixel; `params`: of known models, with 1,000 classes.
    """
    rows: list[dict[str, Any]] = []
    names = {"convolution": "convolution", "the same": "pooling"}
    for row in demonstrate():
        model = names.get(row.operation.split(",")[0])
        if model is not None:
            at = {"model": model, "layer": row.image}
            rows.append(at | {"measure": f"shift_error_{SHIFT}px", "value": row.error})
            rows.append(at | {"measure": f"shift_error_{WHOLE}px", "value": row.error_whole})
    for name, picture in pictures().items():
        x = normalised(picture)
        one, other = convolve(translate(x, 0, 1)), convolve(x)
        change = {"convolution": relative_error(one, other)}
        change["pooling"] = relative_error(F.max_pool2d(one, 4), F.max_pool2d(other, 4))
        rows += [{"model": m, "layer": name, "measure": "map_change_1px", "value": v} for m, v in change.items()]
    for tag in KNOWN:
        with torch.device("meta"):
            params = count_parameters(timm.create_model(tag))
        rows.append({"model": f"timm:{tag}", "layer": "", "measure": "params", "value": float(params)})
    return rows
