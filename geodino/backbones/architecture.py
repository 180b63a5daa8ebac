"""Architectures: from a timm name and tensors to a module, without initialising what is about to be replaced."""

import hashlib
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.overrides import TorchFunctionMode

from geodino.backbones.timm_import import timm
from tiles.errors import InputError


def create_module(architecture: str, bands: int, **model_args: Any) -> Any:
    """Make an untrained timm module that any square or oblong of whole patches goes through.

    Args:
        architecture: timm name, with or without a tag.
        bands: Number of input bands.
        **model_args: Further arguments of ``timm.create_model``.

    Raises:
        InputError: When timm has no such model or does not take the arguments.
    """
    name = architecture.split(".")[0]
    if not timm.is_model(name):
        raise InputError(f"timm knows no model called '{architecture}'; `geodino models` lists the DINO family")
    args: dict[str, Any] = {"num_classes": 0, "in_chans": bands}
    if name.startswith("vit_"):
        # the class token, not the mean, is a ViT's summary; it also keeps the final norm on every token
        args |= {"global_pool": "token", "dynamic_img_size": True}
    try:
        module = timm.create_model(name, pretrained=False, **(args | model_args))
    except TypeError as error:
        raise InputError(f"'{architecture}' does not take these arguments: {error}") from None
    if isinstance(module, timm.models.VisionTransformer) and module.cls_token is not None and module.reg_token is None:
        module._pos_embed = partial(_add_positions, module)
    return module


class UntiedNorm(nn.LayerNorm):
    """The final norm of a DINOv3 that norms its prefix tokens apart (``untie_cls_and_patch_norms``).

    The parameters of this module are the patches' norm; ``prefix`` is that of the class and register tokens.
    """

    def __init__(self, norm: nn.LayerNorm, prefix_tokens: int) -> None:
        super().__init__(norm.normalized_shape, eps=norm.eps)
        self.prefix = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
        self.prefix_tokens = prefix_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """Norm tokens ``[B, P + N, D]``, the first ``P`` with the prefix's norm."""
        prefix, patches = tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]
        return torch.cat([self.prefix(prefix), super().forward(patches)], dim=1)


class _NothingDrawn(TorchFunctionMode):
    """Leaves out what initialises on the meta device, where no value exists: it loads the compiler and sympy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in _IN_PLACE else func(*args, **(kwargs or {}))


_IN_PLACE = (Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.clamp_, Tensor.mul_, Tensor.add_, Tensor.div_)


def _add_positions(module: Any, x: Tensor) -> Tensor:
    """Put the class token before patches ``[B, h, w, D]`` and add learned positions, resampled to their grid.

    timm resamples with antialiasing, whose bicubic kernel differs even where nothing shrinks. DINO and DINOv2 without
    registers were trained and are used without it; only DINOv2 with registers has it, and keeps timm's own.
    """
    height, width = x.shape[1:3]
    positions = module.pos_embed
    before, side = positions[:, :1], module.patch_embed.grid_size
    if (height, width) != tuple(side):
        grid = positions[:, 1:].float().reshape(1, *side, -1).permute(0, 3, 1, 2)
        grid = interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
        positions = torch.cat([before, grid.flatten(2).transpose(1, 2).to(before.dtype)], dim=1)
    tokens = torch.cat([module.cls_token.expand(len(x), -1, -1), x.flatten(1, 2)], dim=1)
    return module.pos_drop(tokens + positions)


def build_from_tensors(
    architecture: str, bands: int, tensors: dict[str, Tensor], source: str, model_args: dict[str, Any]
) -> Any:
    """Make a module around existing tensors without ever initialising or copying weights.

    The module is made on the meta device, where it costs nothing, and the tensors become its parameters: loading 7B
    parameters takes the memory of the tensors and no more.

    Args:
        architecture: timm name.
        bands: Number of input bands.
        tensors: Every parameter and persistent buffer under timm's names.
        source: What to call the tensors in an error.
        model_args: Further arguments of ``timm.create_model``.

    Raises:
        InputError: When a tensor has no place, is missing or has another shape.
    """
    with torch.device("meta"), _NothingDrawn():
        module: Any = create_module(architecture, bands, **model_args)
        # two things that DINOv3's original files hold and timm's models lack: a norm for the prefix tokens alone, and
        # the rotary periods, whose rounding to bf16 is part of the published features
        if "norm.prefix.weight" in tensors and isinstance(getattr(module, "norm", None), nn.LayerNorm):
            module.norm = UntiedNorm(module.norm, module.num_prefix_tokens)
        if "rope.periods" in tensors and hasattr(module, "rope"):
            module.rope.register_buffer("periods", module.rope.periods, persistent=True)
    expected = module.state_dict()
    for problem, keys in (
        ("has no place for", sorted(tensors.keys() - expected.keys())),
        ("lacks", sorted(expected.keys() - tensors.keys())),
    ):
        if keys:
            what = f"{', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
            subject = f"{architecture}, named for {source}," if problem.startswith("has") else source
            raise InputError(f"{subject} {problem} {what}")
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            shapes = f"{list(value.shape)} instead of {list(expected[key].shape)}"
            raise InputError(f"{key} of {source} has shape {shapes}, so it is not a {architecture}")
    periods = tensors["rope.periods"].to(torch.float32, copy=True) if "rope.periods" in tensors else None
    module.load_state_dict(tensors, assign=True)
    _fill_buffers(module)  # overwrites the periods with computed ones
    if periods is not None:
        module.rope.periods = periods
    return module


def place(module: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move and cast a module in place, rotary periods excepted: they stay the float32 values that they are.

    Weights are cast, and not computed with under autocast, which would cast every one of them again in every call.
    """
    rope = getattr(module, "rope", None)
    periods = getattr(rope, "periods", None)
    kept = None if periods is None else periods.clone()
    module.to(device, dtype)
    if rope is not None and kept is not None:
        rope.periods = kept.to(device)
    return module


def _fill_buffers(module: Any) -> None:
    """Give the buffers that no file stores (rotary periods, zero key biases) their values after meta creation."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta:
                persistent = name not in owner._non_persistent_buffers_set
                owner.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype), persistent=persistent)
    for owner in module.modules():
        if hasattr(owner, "init_non_persistent_buffers"):
            owner.init_non_persistent_buffers()


def patch_size_of(module: Any) -> int:
    """Side of a token in pixels: the patch of a ViT, the final stride of a ConvNeXt."""
    if hasattr(module, "patch_embed"):
        return int(module.patch_embed.patch_size[0])
    return int(module.feature_info[-1]["reduction"])


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and persistent buffers; see ``hash_tensors``."""
    return hash_tensors(module.state_dict())


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors, independent of their order and of the float type that holds the same values."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key].detach().cpu()
        value = (value.float() if value.is_floating_point() else value).contiguous()
        digest.update(f"{key}{list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
