"""Tokens whose directions count more evenly: the final norm of a trained ViT, set along the axes of its own tokens.

A few directions carry most of the variance of trained tokens, and a cosine sees little else. Dividing each principal
direction by the root of its standard deviation lets the others count; Jégou and Chum (ECCV 2012) whiten the descriptors
of image retrieval for the same reason. No new layer is needed: LayerNorm commutes with every rotation that keeps the
direction of equal components, so the residual stream of a pre-norm ViT can be turned until its axes are those of the
tokens, and the weights of the final norm do the dividing. Up to that one affine map the network gives the same tokens.
"""

from typing import Any, cast

import torch
from timm.models.eva import Eva, EvaBlock
from torch import Tensor, nn

from geodino.architecture import UntiedNorm

# The power of the standard deviation that a direction is divided by: 0 leaves it, 1 whitens.
_POWER = 0.5


@torch.no_grad()
def level_tokens(module: nn.Module, tokens: Tensor) -> None:
    """Turn a ViT's residual stream into the axes of its tokens and divide by the roots of their deviations.

    Args:
        module: Trained timm ``Eva``, float32, such as a DINOv3; changed in place.
        tokens: ``[N, D]`` float32, a sample of its final tokens.

    Raises:
        ValueError: When the module is built otherwise than a plain DINOv3, or a norm has a weight of zero.
    """
    model, norms = cast(Any, module), _norms(module)
    if any((norm.weight == 0).any() for norm in norms):
        raise ValueError("a norm has a weight of zero, so its input cannot be recovered")
    scale, shift = model.norm.weight.double(), model.norm.bias.double()
    normed = (tokens.double() - shift) / scale
    rotation = principal_rotation(normed)
    turned = normed @ rotation.T
    _turn(model, rotation)
    deviation = turned.std(0)
    # LayerNorm took the mean off, so one direction is empty but for a remainder that dividing would blow up.
    weight = deviation.clamp(min=float(deviation.median()) * 1e-2).pow(-_POWER)
    model.norm.weight.copy_(weight)
    model.norm.bias.copy_(-turned.mean(0) * weight)


def principal_rotation(normed: Tensor) -> Tensor:
    """A rotation that keeps the direction of equal components and nearly brings principal directions to the axes.

    Args:
        normed: ``[N, D]`` float64 whose rows have mean zero, as LayerNorm without weights gives them.

    Returns:
        ``[D, D]`` orthogonal float64. Rows of mean zero have no room for ``D`` free coordinates; each axis differs from
        its principal direction by a shift common to all, with a variance of about 1 / D of the mean one.
    """
    width = normed.shape[1]
    equal = torch.full((width,), width**-0.5, dtype=torch.float64)
    # The empty direction is moved below all others, to be replaced by the exact one.
    _, directions = torch.linalg.eigh(torch.cov(normed.T) - torch.outer(equal, equal))
    directions = directions.flip(1)
    directions[:, -1] = equal
    mirror = -equal.clone()
    mirror[-1] += 1
    mirror /= mirror.norm()
    return directions.T - 2 * torch.outer(mirror, mirror @ directions.T)


def _norms(module: nn.Module) -> list[nn.LayerNorm]:
    """All norms of the residual stream.

    Raises:
        ValueError: When something else than what :func:`_turn` knows reads or writes the stream.
    """
    model = cast(Any, module)
    plain = (
        isinstance(module, Eva)
        and model.pos_embed is None
        and model.reg_token is None
        and isinstance(model.norm_pre, nn.Identity)
        and isinstance(model.head, nn.Identity)
        and all(
            isinstance(block, EvaBlock)
            and block.gamma_1 is not None
            and block.attn.qkv is not None
            and block.attn.gate is None
            and isinstance(getattr(block.mlp, "fc1", None), nn.Linear)
            for block in model.blocks
        )
    )
    norms = [model.norm, *(norm for block in model.blocks for norm in (block.norm1, block.norm2))] if plain else []
    if not norms or not all(isinstance(norm, nn.LayerNorm) for norm in norms) or isinstance(model.norm, UntiedNorm):
        raise ValueError("only a DINOv3 ViT without registers, with LayerScale and fused projections, can be turned")
    return norms


def _turn(model: Any, rotation: Tensor) -> None:
    """Rotate the residual stream: whatever writes to it writes rotated, whatever reads it turns back."""
    model.cls_token.copy_(model.cls_token.double() @ rotation.T)
    _write(model.patch_embed.proj, None, rotation)
    for block in model.blocks:
        for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
            weight = norm.weight.double()
            linear.weight.copy_((linear.weight.double() * weight) @ rotation.T)
            norm.bias.copy_(rotation @ (norm.bias.double() / weight))
            norm.weight.fill_(1)
        _write(block.attn.proj, block.gamma_1, rotation)
        _write(block.mlp.fc2, block.gamma_2, rotation)


def _write(layer: Any, gamma: Tensor | None, rotation: Tensor) -> None:
    """Rotate what a layer gives; LayerScale, which acts along the old axes, goes into its weights."""
    scale = torch.ones(len(rotation), dtype=torch.float64) if gamma is None else gamma.double()
    flat = layer.weight.double().flatten(1) * scale[:, None]
    layer.weight.copy_((rotation @ flat).view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(rotation @ (layer.bias.double() * scale))
    if gamma is not None:
        gamma.fill_(1)
