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

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_SOURCES = "a run id, a run's folder, a .safetensors or torch file, or timm:<tag> such as timm:resnet18.a1_in1k"


def start_from(network: nn.Module, init_from: str, outputs: Path) -> str:
    """Load the weights that `init_from` names into `network`, in place, and return the SHA-256 of what was loaded.

    The classifier stays as it was drawn. A position embedding for another grid is resampled (bicubic, antialiased);
    the class token and its embedding are dropped if the network has none.
    """
    own = network.state_dict()
    head = head_prefix(network)
    given = {name: value for name, value in find_weights(init_from, outputs).items() if not name.startswith(head)}
    wanted = {name: value for name, value in own.items() if not name.startswith(head)}
    given = _on_grid(given, network, init_from)
    reasons = [f"it lacks {name}" for name in wanted if name not in given]
    reasons += [f"it has {name}, which the model has not" for name in given if name not in wanted]
    reasons += [
        f"{name} is {tuple(given[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in given and given[name].shape != value.shape
    ]
    if reasons:
        more = f" and {len(reasons) - 1} more differences" if len(reasons) > 1 else ""
        raise CrossoverError(
            f"init_from={init_from} is of another network: {reasons[0]}{more}; choose the model (model.arch, args,"
            " patch_size, pool) that it was made with"
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
        return load_timm(init_from).state_dict()
    if not path.is_file():
        run = outputs / "runs" / init_from
        state = f"{path} does not exist" if path.name == "weights.safetensors" else f"there is no {run} and no {path}"
        raise CrossoverError(f"init_from={init_from}: {state}; give {_SOURCES}, and finish the run it names first")
    if path.suffix not in SUFFIXES:
        raise CrossoverError(
            f"init_from={init_from}: weights in {path.suffix or 'a file without a suffix'} are not read; allowed:"
            f" {', '.join(SUFFIXES)}"
        )
    try:
        found = load_state_dict(str(path), use_ema=False, weights_only=True)
        if not (found and all(isinstance(value, Tensor) for value in found.values())):
            raise ValueError("no state_dict in it")
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, LookupError, UnpicklingError) as error:
        if isinstance(error.__cause__ or error, UnpicklingError):
            raise CrossoverError(
                f"{path} is no file of weights alone, and others can run code; save a state_dict"
            ) from None
        raise CrossoverError(f"{path} cannot be read ({_first_line(error)}); make or fetch it again") from None
    return found


def load_timm(init_from: str) -> nn.Module:
    """Return a network with published weights, `init_from=timm:<tag>`, such as timm:resnet18.a1_in1k."""
    source, _, tag = init_from.partition(":")
    if source != "timm" or not tag:
        raise CrossoverError(f"init_from={init_from} is not known; give timm:<tag>, such as timm:resnet18.a1_in1k")
    if not timm.is_model(tag):
        near = ", ".join(timm.list_models(f"*{tag.split('.')[0]}*")[:5]) or "see timm.list_models()"
        raise CrossoverError(f"timm has no model {tag}; near: {near}")
    try:
        return timm.create_model(tag, pretrained=True).eval()
    except (OSError, RuntimeError, ValueError) as error:  # of the hub, of the network, of a missing tag
        raise CrossoverError(
            f"the weights of {init_from} cannot be fetched ({_first_line(error)}); they come from the Hugging Face hub:"
            " use a machine with a network, or copy the hub's cache (HF_HOME) from one"
        ) from None


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _on_grid(given: dict[str, Tensor], network: Any, init_from: str) -> dict[str, Tensor]:
    position = given.get("pos_embed")
    if position is None or getattr(network, "pos_embed", None) is None:
        return given
    prefix = network.pos_embed.shape[1] - math.prod(network.patch_embed.grid_size)
    side = math.isqrt(position.shape[1])
    extra = position.shape[1] - side**2
    if prefix == 0 and extra:  # pooled without a class token
        given = {name: value for name, value in given.items() if name not in ("cls_token", "reg_token")}
        position, extra = position[:, extra:], 0
    if extra != prefix:
        raise CrossoverError(
            f"init_from={init_from} has {extra} class and register tokens, the model {prefix}: set model.pool"
        )
    grid = list(network.patch_embed.grid_size)
    moved = resample_abs_pos_embed(position, new_size=grid, old_size=[side, side], num_prefix_tokens=prefix)
    return given | {"pos_embed": moved}
