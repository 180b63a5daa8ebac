"""A patch embedding that starts as a whitening of the tiles' own patches.

Patches of imagery differ mostly in mean colour: behind random filters nearly all that distinguishes two tokens is their
brightness, and a short run spends its first epochs on finding texture. Filters along the principal directions of
patches, each divided by its standard deviation, let all of them speak from the first step (Coates, Ng and Lee 2011,
section 3.2, for single-layer networks; as a fixed first layer in Jordan 2024, arXiv 2404.00498, section 3.2).
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from geodino.backbones.normalize import Normalization
from pretrain.data.batches import Tiles
from pretrain.network.encode import is_convnext

# Added to each variance, in units of the mean one: directions that are mostly noise are not made loud.
_FLOOR = 0.3
# Standard deviation of what a filter of a strong direction gives: tokens of about unit length after a few channels.
_GAIN = 0.3
_TILES = 3000


def whitening_filters(patches: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Filters that turn patches into decorrelated values of about equal variance.

    Args:
        patches: ``[N, F]`` float32.
        count: How many filters.

    Returns:
        ``[count, F]`` filters, the strongest direction first, and ``[count]`` biases that take the mean off. Beyond F
        filters the strongest come again with opposite sign. A direction's largest component is positive, since
        eigenvectors come with either sign.
    """
    variance, directions = torch.linalg.eigh(torch.cov(patches.double().T).reshape(2 * (patches.shape[1],)))
    variance, directions = variance.flip(0).clamp(min=0), directions.flip(1)
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    floor = _FLOOR * variance.mean().clamp(min=1e-12)
    own = _GAIN * (directions / (variance + floor).sqrt()).T
    times = -(-count // len(own))
    filters = torch.cat([own * (-1) ** turn for turn in range(times)])[:count]
    return filters.float(), -(filters @ patches.double().mean(0)).float()


@torch.no_grad()
def whiten_patch_embedding(
    backbone: nn.Module, tiles: Tiles, channels: list[int] | None, normalization: Normalization, seed: int
) -> None:
    """Set the filters of a backbone's first layer by a seeded sample of a tile set.

    Args:
        backbone: Model of ``pretrain.network.encode.create_backbone``.
        tiles: The tile set.
        channels: Places of the backbone's bands in it; None for all in order.
        normalization: Of those bands.
        seed: Of the sample of tiles.
    """
    first = cast(Any, backbone).stem[0] if is_convnext(backbone) else cast(Any, backbone).patch_embed.proj
    side = int(first.kernel_size[0])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(tiles))[:_TILES])
    read = tiles.read_batch(chosen)
    values, valid = torch.from_numpy(read.values), torch.from_numpy(read.valid)
    if channels is not None:
        values = values[:, channels]
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (normalization.mean, normalization.std))
    windows = ((values - mean) / std).unfold(2, side, side).unfold(3, side, side)  # [N, C, y, x, side, side]
    patches = windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    whole = valid.unfold(1, side, side).unfold(2, side, side).flatten(3).all(-1).flatten()
    if int(whole.sum()) <= patches.shape[1]:  # too few to tell directions apart: the random filters stay
        return
    filters, bias = whitening_filters(patches[whole], len(first.weight))
    first.weight.copy_(filters.view_as(first.weight))
    if first.bias is not None:
        first.bias.copy_(bias)
