"""The untrained timm network that a model's YAML names, its ablations, and its parameters and FLOPs."""

import copy
import difflib
import itertools
import math
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.layers.conv_bn_act import ConvNormAct
from timm.layers.hybrid_embed import HybridEmbed
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models import ByoBlockCfg, ByobNet, ByoModelCfg, ResNet, VisionTransformer, model_entrypoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from crossover.config import CrossoverError
from crossover.fields import ModelConfig

SMALL_IMAGE = 64
"""Up to this many pixels, a ResNet keeps the image size in its stem: 93-96 % instead of 90 % on CIFAR-10."""
_OWN = {"basic_resnet": "resnet", "vit": "vit", "hybrid_vit": "hybrid"}
_TIMM = {"timm.models.resnet": "resnet", "timm.models.vision_transformer": "vit"}
_DROPOUTS = ("drop_rate", "drop_path_rate")
_BASIC_ARGS = ("widths", "depths", "zero_init_last", *_DROPOUTS, "head", "weights")
_RESNET_ARGS = ("channels", "layers", "avg_down", "zero_init_last", *_DROPOUTS)
_VIT_SHAPE = ("embed_dim", "depth", "num_heads")
_VIT_ARGS = (
    *_VIT_SHAPE, "mlp_ratio", "qkv_bias", "qk_norm", "init_values", "reg_tokens", "no_embed_class", "weight_init",
    "fix_init", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", *_DROPOUTS,
)  # fmt: skip


def build_model(config: ModelConfig, *, image_size: int, classes: int) -> nn.Module:
    """Return the untrained network of `config`: float (B, 3, image_size, image_size) to logits (B, classes).

    Weights are drawn from torch's global generator. Raises CrossoverError for what cannot be built.
    """
    family = _family(config.arch)
    try:
        if wrong := [name for name, value in config.args.items() if name.endswith("_rate") and not 0 <= value <= 1]:
            raise ValueError(f"model.args.{wrong[0]} must lie in 0 to 1")
        if family not in (None, config.family):
            raise ValueError(f"model.family={config.family} is wrong, it is of the family {family}")
        if family in ("vit", "hybrid"):
            return _vision_transformer(config, image_size, classes)
        model = _convolutional(config, family, image_size, classes)
        if family is None:  # many of timm's are for images of one size, which only running them shows
            shadow, image = _shadow(model, image_size)
            if tuple(shape := shadow(image).shape) != (1, classes):
                raise ValueError(f"its output is of shape {tuple(shape)}, not of {classes} classes")
        return model
    # timm checks its arguments with all of these
    except (ArithmeticError, AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        given = f"model.arch={config.arch} with model.args={config.args} at {image_size} px"
        reason = " ".join(str(error).split("\n", 1)[0].split()) or type(error).__name__  # torch appends a C++ trace
        raise CrossoverError(f"{given} cannot be built: {reason}; correct the model") from error


def _family(arch: str) -> str | None:
    """Return the family of an architecture, None for timm's others."""
    if arch in _OWN:
        return _OWN[arch]
    if timm.is_model(arch):
        return _TIMM.get(model_entrypoint(arch).__module__)
    near = ", ".join(difflib.get_close_matches(arch, [*_OWN, *timm.list_models()], n=3))
    hint = f"; did you mean {near}?" if near else ""
    raise CrossoverError(f"unknown model.arch={arch}; allowed: {', '.join(_OWN)} or a name of timm.list_models(){hint}")


def _check_args(config: ModelConfig, allowed: Iterable[str], required: Iterable[str] = ()) -> None:
    if unknown := [name for name in config.args if name not in allowed]:
        raise ValueError(f"unknown model.args.{unknown[0]} of {config.arch}; allowed: {', '.join(allowed)}")
    if missing := [name for name in required if name not in config.args]:
        raise ValueError(f"model.args lacks {', '.join(missing)}")


def _convolutional(config: ModelConfig, family: str | None, image_size: int, classes: int) -> nn.Module:
    for name in ("patch_size", "position", "position_std", "pool"):
        if getattr(config, name) != ModelConfig.model_fields[name].default:
            raise ValueError(f"model.{name} is of ViTs and hybrids")
    if config.arch == "basic_resnet":
        return _basic_resnet(config, image_size, classes)
    if family == "resnet":
        _check_args(config, _RESNET_ARGS)
        if any(len(config.args.get(name, range(4))) != 4 for name in ("channels", "layers")):
            raise ValueError("model.args.channels and layers have four numbers, one for each stage")
    elif image_size <= SMALL_IMAGE:
        raise ValueError(f"up to {SMALL_IMAGE} px are for {', '.join(_OWN)} and timm's resnet* and vit_*")
    # trained weights come from init_from alone: they are then part of a run's identity, and hashed
    model: nn.Module = timm.create_model(
        config.arch, pretrained=False, checkpoint_path="", num_classes=classes, **config.args
    )
    if isinstance(model, ResNet) and image_size <= SMALL_IMAGE:
        _keep_resolution_in_stem(model)
    return model


def _keep_resolution_in_stem(model: Any) -> None:
    """Replace a stem that divides the sides by 4 with one 3x3 convolution of stride 1 (He et al. 2016, section 4.2)."""
    stem = nn.Conv2d(3, model.bn1.num_features, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as timm draws the others
    model.conv1, model.maxpool = stem, nn.Identity()
    for stage, info in enumerate(model.feature_info):
        info["reduction"] //= 4 if stage else 2


def _basic_resnet(config: ModelConfig, image_size: int, classes: int) -> ByobNet:
    """Return timm's ByobNet of basic blocks behind a 3x3 stem; every stage but the first halves the sides."""
    _check_args(config, _BASIC_ARGS, required=("widths", "depths"))
    args = dict(config.args)
    widths, depths = args.pop("widths"), args.pop("depths")
    head, weights = args.pop("head", "pool"), args.pop("weights", "shared")
    if head not in ("pool", "flatten") or weights not in ("shared", "untied"):
        raise ValueError("allowed are head=pool or flatten, and weights=shared or untied")
    whole = all(w >= 8 and w % 8 == 0 for w in widths) and all(d >= 1 for d in depths)  # timm rounds other widths
    if not (whole and 1 <= len(widths) <= 5 and len(widths) == len(depths)):
        raise ValueError(
            "give as many depths as widths, 1 to 5, with widths in multiples of 8 and depths of at least 1"
        )
    blocks = tuple(
        ByoBlockCfg(type="basic", d=depth, c=width, s=2 if stage else 1)
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True))
    )
    structure = ByoModelCfg(blocks, downsample="conv1x1", stem_type="3x3", stem_pool=None, stem_chs=widths[0])
    model = ByobNet(structure, num_classes=classes, **args)
    model.stem.conv.stride = (1, 1)  # ByobNet has no stem without a stride
    for info in model.feature_info:
        info["reduction"] //= 2
    if weights == "untied":
        untie(model, image_size)
    if head == "flatten":
        flatten_head(model, image_size, classes)
    return model


def _vision_transformer(config: ModelConfig, image_size: int, classes: int) -> nn.Module:
    hybrid, own = config.arch == "hybrid_vit", config.arch in _OWN
    _check_args(config, (*_VIT_ARGS, "stem_width") if hybrid else _VIT_ARGS, required=_VIT_SHAPE if own else ())
    patch = config.patch_size
    if patch is None:  # 16 to 196 tokens at 16 to 224 px
        patch = 4 if image_size < 48 else 8 if image_size < 128 else 16
    if patch < 1 or image_size % patch:
        raise ValueError(f"model.patch_size={patch} does not divide data.image_size={image_size}")
    args = dict(config.args)
    if any(args.get(name, 1) < 1 for name in _VIT_SHAPE):
        raise ValueError(f"{', '.join(_VIT_SHAPE)} must be at least 1")
    if hybrid:
        stem = _convolutional_stem(patch, args.pop("stem_width", args["embed_dim"]))
        # timm's patch size counts cells of the stem's output here
        args |= {"embed_layer": partial(HybridEmbed, stem), "patch_size": 1}
    else:
        args["patch_size"] = patch
    args |= {
        "img_size": image_size,
        "num_classes": classes,
        "class_token": config.pool == "token",
        "global_pool": config.pool,
        "pos_embed": "none" if config.position == "none" else "learn",
    }
    model: nn.Module = VisionTransformer(**args) if own else timm.create_model(config.arch, **args)
    _set_position(model, config)
    return model


def _convolutional_stem(patch: int, width: int) -> nn.Sequential:
    """Return stride-2 3x3 convolutions with batch norm and ReLU that shrink the sides by `patch`.

    The last one has `width` channels; HybridEmbed adds the 1x1 convolution to the embedding (Xiao et al. 2021, "Early
    convolutions help transformers see better", section 4).
    """
    halvings = patch.bit_length() - 1
    if patch != 2**halvings or halvings == 0 or width % 2 ** (halvings - 1):
        multiple = 2 ** max(0, halvings - 1)
        raise ValueError(
            f"model.patch_size={patch} must be 2, 4, 8 or 16, and stem_width={width} a multiple of {multiple}"
        )
    widths = [3, *(width >> k for k in reversed(range(halvings)))]
    return nn.Sequential(*(ConvNormAct(i, o, 3, stride=2) for i, o in itertools.pairwise(widths)))


def _set_position(model: Any, config: ModelConfig) -> None:
    """Draw or fix the position embedding (1, tokens, dim); after construction, because timm draws it with std 0.02."""
    if config.position == "none":  # no embedding to set
        return
    if config.position == "learned":
        nn.init.trunc_normal_(model.pos_embed, std=config.position_std)
        return
    if model.embed_dim % 4:
        raise ValueError(f"model.position=sinusoidal needs embed_dim in multiples of 4; got {model.embed_dim}")
    # fixed 2-D sine and cosine, zero for class and register tokens: Chen et al. 2021 (MoCo v3), He et al. 2022 (MAE)
    grid = build_sincos2d_pos_embed(list(model.patch_embed.grid_size), model.embed_dim)
    position = torch.zeros_like(model.pos_embed)
    position[0, position.shape[1] - len(grid) :] = grid
    model.pos_embed = nn.Parameter(position, requires_grad=False)


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def forward_flops(model: nn.Module, image_size: int) -> int:
    """Return the FLOPs of one image's forward pass, 2 per multiply-add of convolutions and matrix products.

    Attention is unfused: what torch's counter sees of fused one depends on the device.
    """
    shadow, image = _shadow(model, image_size)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        shadow(image)
    return int(counter.get_total_flops())


def _shadow(model: nn.Module, image_size: int) -> tuple[Any, Tensor]:
    """Return a copy of a network and an image for it, both without storage: running it computes nothing but shapes."""
    return copy.deepcopy(model).to("meta").eval(), torch.empty(1, 3, image_size, image_size, device="meta")


class LocallyConnected2d(nn.Module):
    """A convolution with unshared weights: every position of the output has its own."""

    def __init__(self, conv: nn.Conv2d, height: int, width: int) -> None:
        """Take the geometry of `conv` (no bias, groups or dilation) for maps of height x width; draw new weights."""
        super().__init__()
        self.kernel, self.stride = conv.kernel_size, conv.stride
        self.padding = cast(tuple[int, ...], conv.padding)
        size = zip((height, width), self.kernel, self.stride, self.padding, strict=True)
        self.out = [(n + 2 * p - k) // s + 1 for n, k, s, p in size]
        inputs = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
        self.weight = nn.Parameter(torch.empty(self.out[0] * self.out[1], inputs, conv.out_channels))
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_out))  # as timm draws the convolution

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w) of (B, in_channels, height, width)."""
        windows = F.unfold(x, self.kernel, padding=self.padding, stride=self.stride)  # (B, inputs, places)
        out = torch.bmm(windows.permute(2, 0, 1), self.weight)  # (places, B, out_channels)
        return out.permute(1, 2, 0).reshape(len(x), -1, *self.out)


def untie(model: nn.Module, image_size: int) -> None:
    """Replace every convolution wider than 1x1 by one without shared weights, in place."""
    for name, (height, width) in input_sizes(model, image_size).items():
        conv = model.get_submodule(name)
        if isinstance(conv, nn.Conv2d) and conv.kernel_size != (1, 1):
            model.set_submodule(name, LocallyConnected2d(conv, height, width))


def input_sizes(model: nn.Module, image_size: int) -> dict[str, tuple[int, int]]:
    """Return height and width of the input of each convolution, by name."""
    shadow, image = _shadow(model, image_size)
    sizes: dict[str, tuple[int, int]] = {}
    for name, module in shadow.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(
                lambda _m, inputs, name=name: sizes.update({name: tuple(inputs[0].shape[-2:])})
            )
    shadow(image)
    return sizes


def flatten_head(model: Any, image_size: int, classes: int) -> None:
    """Make the head of timm's ByobNet read every position of the last map instead of their mean, in place."""
    shadow, image = _shadow(model, image_size)
    model.head.global_pool = nn.Flatten(1)
    model.head.fc = nn.Linear(shadow.forward_features(image).numel(), classes)
    nn.init.normal_(model.head.fc.weight, std=0.01)  # as timm draws it
    nn.init.zeros_(model.head.fc.bias)
