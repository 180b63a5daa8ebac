"""Tokens that say more of the place than of the view: the final norm of a trained ViT, set by what should not differ.

Tokens of one place differ from view to view: with where the place lies in its window and what else is in it, with
light and haze. A cosine sums all directions alike, so those in which views differ drown those in which places do.
Dividing by the deviation of such differences is within-class covariance normalisation (Hatch, Kajarekar and Stolcke,
Interspeech 2006) whose classes are the places themselves: no label is needed. A little of the tokens' own covariance is
mixed in, which whitens them as Jégou and Chum (ECCV 2012) do for image retrieval, and holds directions in check in
which hardly anything differs.

No new layer is needed: LayerNorm commutes with every rotation that keeps the direction of equal components, so the
residual stream of a pre-norm ViT can be turned until the weights of the final norm divide along the principal
directions of that mixture. Up to that one affine map the network gives the same tokens.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from timm.models.eva import Eva, EvaBlock
from torch import Tensor, nn

from geodino.backbones.architecture import UntiedNorm
from geodino.backbones.backbone import Backbone
from geodino.backbones.normalize import standardize
from pretrain.data.batches import Tiles
from pretrain.data.crops import make_crops
from pretrain.recipes.views import CropSettings
from tiles.errors import InputError

# Weight of the tokens' own covariance beside that of their differences, each of trace 1.
_OWN = 0.1
# The power of the deviation that a direction is divided by: 0 leaves it, 1 makes all directions alike.
_POWER = 0.75
# Tiles looked at, and how many of them pass through the backbone at once.
_TILES, _BATCH = 3000, 100


@dataclass(frozen=True)
class TokenSample:
    """Final tokens of a sample of tiles, and how far tokens of the same place are apart.

    Attributes:
        tokens: ``[N, D]`` float32, patch tokens of whole tiles.
        differences: Of each kind a ``[M, D]`` float32: patch tokens of one place in two windows; class tokens of one
            tile in two views.
    """

    tokens: Tensor
    differences: tuple[Tensor, ...]


def sample_tokens(backbone: Backbone, tiles: Tiles, crops: CropSettings) -> TokenSample:
    """Tokens of a seeded sample of tiles and of two windows and two views of each.

    Windows are three quarters of a tile, cut from two of its corners, so that they share its middle. Views are the
    first two global crops that training takes, light and haze included. Tiles with gaps are left out.

    Args:
        backbone: Trained, float32.
        tiles: What it was trained on, of its bands.
        crops: How it was trained.

    Raises:
        InputError: A tile is less than four tokens wide, or all have gaps.
    """
    crops = crops.model_copy(update={"local_count": 0, "gram_scale": None})
    random = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    chosen = np.sort(random.permutation(len(tiles))[:_TILES])
    own, moved, seen = [], [], []
    for part in np.array_split(chosen, -(-len(chosen) // _BATCH)):
        read = tiles.read_batch(part)
        whole = read.valid.all(axis=(1, 2))
        if not whole.any():
            continue
        values, valid = read.values[whole], read.valid[whole]
        pixels = torch.from_numpy(standardize(values, None, backbone.normalization))
        own.append(_rows(backbone.encode(pixels).patches))
        first, second = random.permutation(4)[:2]
        moved.append(_middle(backbone, pixels, first) - _middle(backbone, pixels, second))
        gsd_m = torch.from_numpy(read.gsd_m[whole])
        views = make_crops(
            torch.from_numpy(values), torch.from_numpy(valid), gsd_m, crops, backbone.normalization, generator
        ).global_views
        one, other = (backbone.encode(view.pixels).cls for view in views[:2])
        seen.append(one - other)
    if not own:
        raise InputError(f"each of {len(chosen)} tiles has gaps, so none can be seen whole; cut tiles with more data")
    return TokenSample(torch.cat(own), (torch.cat(moved), torch.cat(seen)))


def _middle(backbone: Backbone, pixels: Tensor, corner: int) -> Tensor:
    """Tokens ``[N, D]`` of a batch's middle, seen in windows of three quarters that keep to a corner, 0 to 3."""
    patch, side = backbone.patch_size, pixels.shape[2] // backbone.patch_size
    step = side // 4
    if not step:
        raise InputError(f"tiles of {pixels.shape[2]} pixels hold {side} tokens a side; cut them to 4 or more")
    top, left = step * (corner // 2), step * (corner % 2)
    window = pixels[:, :, top * patch : (top + side - step) * patch, left * patch : (left + side - step) * patch]
    tokens = backbone.encode(window.contiguous()).patches
    shared = side - 2 * step
    return _rows(tokens[:, :, step - top :, step - left :][:, :, :shared, :shared])


def _rows(tokens: Tensor) -> Tensor:
    return tokens.flatten(2).mT.flatten(0, 1)


@torch.no_grad()
def level_tokens(module: nn.Module, sample: TokenSample) -> None:
    """Turn a ViT's residual stream and weigh its axes so that views of one place differ alike along all of them.

    Args:
        module: Trained timm ``Eva``, float32, such as a DINOv3; changed in place.
        sample: Of its final tokens.

    Raises:
        ValueError: When the module is built otherwise than a plain DINOv3, or a norm has a weight of zero.
    """
    model, norms = cast(Any, module), _norms(module)
    if any((norm.weight == 0).any() for norm in norms):
        raise ValueError("a norm has a weight of zero, so its input cannot be recovered")
    scale, shift = model.norm.weight.double(), model.norm.bias.double()
    normed = (sample.tokens.double() - shift) / scale
    apart = [difference.double() / scale for difference in sample.differences]
    spread = _OWN * _of_trace_1(torch.cov(normed.T)) + sum(_of_trace_1(one.T @ one) for one in apart) / len(apart)
    rotation, weight = turn_and_weigh(spread)
    _turn(model, rotation)
    model.norm.weight.copy_(weight)
    model.norm.bias.copy_(-(rotation @ normed.mean(0)) * weight)


def _of_trace_1(covariance: Tensor) -> Tensor:
    return covariance / covariance.trace()


def turn_and_weigh(spread: Tensor) -> tuple[Tensor, Tensor]:
    """A rotation and weights of the axes after it that divide each principal direction by a power of its deviation.

    Rows that LayerNorm leaves have mean zero, so their ``D - 1`` principal directions cannot all be axes. But the
    weights act on such rows as a symmetric matrix, whose eigenvalues lie between those of the weights' squares
    (Cauchy's interlacing); the rotation brings the principal directions to its eigenvectors.

    Args:
        spread: ``[D, D]`` float64, covariance of rows of mean zero.

    Returns:
        ``[D, D]`` orthogonal, which keeps the direction of equal components, and ``[D]`` positive, both float64.
    """
    width = len(spread)
    equal = torch.full((width,), width**-0.5, dtype=torch.float64)
    outer = torch.outer(equal, equal)
    # The direction without variance is moved above all others, then left out.
    variance, principal = torch.linalg.eigh(spread + 2 * spread.trace() * outer)
    variance, principal = variance[:-1].flip(0), principal[:, :-1].flip(1)
    squares = (width * variance / variance.sum()).clamp(min=1e-6).pow(-_POWER)
    squares = torch.cat([squares, squares[-1:]])
    rows = torch.eye(width, dtype=torch.float64) - outer
    _, acting = torch.linalg.eigh(rows @ squares.diag() @ rows + 2 * squares.sum() * outer)
    return acting[:, :-1] @ principal.T + outer, squares.sqrt()


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
