"""The weights that a run starts from: those of another run, of a file or of timm, with a new classifier."""

import hashlib
import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import load_state_dict
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.store import weights_file

_SOURCES = "a run id, a run's folder, a .safetensors or torch file, or timm:<tag> such as timm:resnet18.a1_in1k"


def start_from(network: nn.Module, init_from: str, outputs: Path) -> str:
    """Load the weights that `init_from` names into `network`, in place, and return the SHA-256 of what was loaded.

    The classifier stays as it was drawn. A position embedding for another grid is resampled (bicubic, antialiased);
    the class token and its embedding are dropped if the network has none.
    """
    own, head = network.state_dict(), head_prefix(network)
    given = {name: value for name, value in find_weights(init_from, outputs).items() if not name.startswith(head)}
    given = _on_grid(given, network, init_from)
    theirs, ours = ({name: tuple(value.shape) for name, value in part.items()} for part in (given, own))
    ours = {name: shape for name, shape in ours.items() if not name.startswith(head)}
    if differing := [name for name in ours | theirs if theirs.get(name) != ours.get(name)]:
        name, more = differing[0], f" and {len(differing) - 1} more differences" if len(differing) > 1 else ""
        raise CrossoverError(
            f"init_from={init_from} is of another network: its {name} is {theirs.get(name, 'missing')}, not"
            f" {ours.get(name, 'missing')}{more}; choose the model (model.arch, args, patch_size, pool) that it was"
            " made with"
        )
    network.load_state_dict(own | given)
    digest = hashlib.sha256()
    for name in sorted(given):
        digest.update(name.encode() + given[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def head_prefix(network: Any) -> str:
    """Return the prefix of the classifier's parameter names, such as `head.fc.`."""
    classifier = network.get_classifier()
    return next(f"{name}." for name, module in network.named_modules() if module is classifier)


def find_weights(init_from: str, outputs: Path) -> dict[str, Tensor]:
    path = weights_file(init_from, outputs)
    if path is None:
        return _published(init_from.removeprefix("timm:"))
    if not path.is_file():
        run = outputs / "runs" / init_from
        state = f"{path} does not exist" if path.name == "weights.safetensors" else f"there is no {run} and no {path}"
        raise CrossoverError(f"init_from={init_from}: {state}; give {_SOURCES}, and finish the run it names first")
    try:
        found = load_state_dict(str(path), use_ema=False, weights_only=True)
        if not (found and all(isinstance(value, Tensor) for value in found.values())):
            raise ValueError("no state_dict in it")
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, LookupError, UnpicklingError) as error:
        torn = isinstance(error.__cause__ or error, UnpicklingError)
        reason = "it is damaged, or holds more than weights, and that can run code" if torn else _first_line(error)
        raise CrossoverError(f"{path} cannot be read ({reason}); save a state_dict, or fetch it again") from None
    return found


def _published(tag: str) -> dict[str, Tensor]:
    if not timm.is_model(tag):
        near = ", ".join(timm.list_models(f"*{tag.split('.')[0]}*")[:5]) or "see timm.list_models()"
        raise CrossoverError(f"timm has no model {tag}; near: {near}")
    try:
        return timm.create_model(tag, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:  # of the hub, of the network, of a missing tag
        raise CrossoverError(
            f"the weights of timm:{tag} cannot be fetched ({_first_line(error)}); they come from the Hugging Face hub:"
            " use a machine with a network, or copy the hub's cache (HF_HOME) from one"
        ) from None


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _on_grid(given: dict[str, Tensor], network: Any, init_from: str) -> dict[str, Tensor]:
    position = given.get("pos_embed")
    if position is None or getattr(network, "pos_embed", None) is None:
        return given
    grid, side = list(network.patch_embed.grid_size), math.isqrt(position.shape[1])
    prefix, extra = network.pos_embed.shape[1] - math.prod(grid), position.shape[1] - side**2
    if prefix == 0 and extra:  # pooled without a class token
        given = {name: value for name, value in given.items() if name not in ("cls_token", "reg_token")}
        position, extra = position[:, extra:], 0
    if extra != prefix:
        raise CrossoverError(
            f"init_from={init_from} has {extra} class and register tokens, the model {prefix}: set model.pool"
        )
    moved = resample_abs_pos_embed(position, new_size=grid, old_size=[side, side], num_prefix_tokens=prefix)
    return given | {"pos_embed": moved}
