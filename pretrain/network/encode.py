"""Pixels to tokens, with a gradient: every backbone of the DINO family in timm, with masks where it takes them.

``Eva`` (DINOv3), ``VisionTransformer`` (DINO and DINOv2) and ConvNeXt go through :func:`encode`. timm's own
``forward_features`` takes no mask, so the transformer's steps are walked here: patch embedding, mask token, position,
blocks, norm.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from geodino.backbones.architecture import create_module
from geodino.backbones.cpu_forward import compiled_block, embed_patches, is_plain, position, run_block
from pretrain.recipes.settings import NetworkSettings
from tiles.errors import InputError

# Up to so many tokens the processor's flash attention loses more in its backward pass than the plain product costs.
SHORT_SEQUENCE = 512


@dataclass(frozen=True)
class TokenBatch:
    """Final-norm tokens of a batch of crops: ``cls [B, D]`` and row-major ``patches [B, P, D]``."""

    cls: Tensor
    patches: Tensor


def create_backbone(architecture: str, bands: int, **arguments: Any) -> nn.Module:
    """Create an untrained timm model without a classifier.

    Args:
        architecture: timm name; DINO-family ViTs and ConvNeXts.
        bands: Number of input bands.
        **arguments: Passed to timm, for example ``init_values`` or ``drop_path_rate``.

    Returns:
        The module, in training mode.

    Raises:
        InputError: If timm knows no such model or the model is of another family.
    """
    module = create_module(architecture, bands, **arguments)
    blocks = getattr(module, "blocks", None)
    known = hasattr(module, "_pos_embed") and blocks is not None and all(is_plain(block) for block in blocks)
    if not is_convnext(module) and not known:
        raise InputError(f"{architecture} is neither a ViT of the DINO family nor a ConvNeXt; choose one of those")
    return module


def untrained(settings: NetworkSettings, bands: int) -> nn.Module:
    """The backbone that a recipe asks for, with weights of the global random state."""
    own_drop_path = {"drop_path_rate": settings.drop_path} if settings.is_convnext else {}
    return create_backbone(settings.architecture, bands, **settings.timm_arguments, **own_drop_path)


def is_convnext(module: nn.Module) -> bool:
    """Whether the module is a timm ConvNeXt, which has stages in place of blocks and no CLS token."""
    return hasattr(module, "stages") and hasattr(module, "stem")


def encode(
    module: nn.Module,
    pixels: Tensor,
    masks: Tensor | None = None,
    mask_token: Tensor | None = None,
    *,
    norm: nn.Module | None = None,
    drop_path: float = 0.0,
    checkpointing: bool = False,
    compiled: bool = False,
) -> TokenBatch:
    """Run a backbone on crops of one size.

    Args:
        module: A model of :func:`create_backbone`.
        pixels: ``[B, C, S, S]`` standardised, S a multiple of the patch size.
        masks: ``[B, P]`` bool, patches whose embedding is replaced; ViTs only.
        mask_token: ``[D]`` what replaces them.
        norm: Used in place of the model's last norm; ViTs only.
        drop_path: Share of samples that skip each branch of a ViT's blocks.
        checkpointing: Keep only block inputs for the backward pass and compute the rest again.
        compiled: Run blocks through ``torch.compile``.

    Returns:
        The tokens in the model's dtype; a ConvNeXt's CLS is the mean of its last map.
    """
    model = cast(Any, module)
    if is_convnext(module):
        features = model.stem(pixels)
        for stage in model.stages:
            features = checkpoint(stage, features, use_reentrant=False) if checkpointing else stage(features)
        patches = features.flatten(2).mT
        together = torch.cat([patches.mean(1, keepdim=True), patches], 1)
        normed = model.head.norm(together.mT.unsqueeze(-1)).squeeze(-1).mT
        return TokenBatch(normed[:, 0], normed[:, 1:])
    embedded = embed_patches(model.patch_embed, pixels)
    if masks is not None:
        flat = embedded.flatten(1, -2)
        embedded = torch.where(masks[..., None], cast(Tensor, mask_token).to(flat.dtype), flat).view_as(embedded)
    tokens, rotary = position(model, embedded)
    run = compiled_block() if compiled else run_block
    with attention_kernel(tokens):
        for block in model.blocks:
            if checkpointing:
                tokens = checkpoint(run, block, tokens, rotary, drop_path, use_reentrant=False)
            else:
                tokens = run(block, tokens, rotary, drop_path)
    prefix = int(model.num_prefix_tokens)
    normed = model.norm(tokens) if norm is None else norm(tokens)
    return TokenBatch(normed[:, 0], normed[:, prefix:])


@contextmanager
def attention_kernel(tokens: Tensor) -> Iterator[None]:
    """For attention that ``run_block`` leaves to timm: the plain product on a processor at short sequences."""
    if tokens.device.type == "cpu" and tokens.shape[1] <= SHORT_SEQUENCE:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield


def downsampled_tokens(tokens: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Bring patch tokens to a coarser grid, such as those of a higher-resolution teacher to the student's, bicubically.

    Args:
        tokens: ``[B, h*w, D]`` row-major tokens.
        grid: Their (h, w).
        target: The (h, w) wanted.

    Returns:
        ``[B, target_h*target_w, D]`` float32, or the tokens themselves when the grids agree.
    """
    if grid == target:
        return tokens
    maps = tokens.float().mT.reshape(len(tokens), -1, *grid)
    return F.interpolate(maps, size=target, mode="bicubic", align_corners=False, antialias=False).flatten(2).mT
