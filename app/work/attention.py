"""What a patch looks at: the attention of one block of a vision transformer around a place of a scene."""

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from timm.utils import AttentionExtract

from geodino.backbones.backbone import Backbone
from geodino.backbones.normalize import standardize
from tiles.errors import InputError
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader

SIDE_TOKENS = 28  # side of the window whose attention is shown, as far as the scene reaches
_lock = threading.Lock()


@dataclass(frozen=True)
class Attention:
    """What one token looks at.

    Attributes:
        maps: One map a head ``[heads, h, w]``, each summing to at most 1 (registers and class take the rest).
        geobox: Grid of the maps.
    """

    maps: np.ndarray
    geobox: GeoBox


def blocks_of(model: Backbone) -> Any:
    """The blocks of a vision transformer.

    Raises:
        InputError: Where the backbone is none (ConvNeXt).
    """
    blocks = getattr(model.module, "blocks", None)
    if blocks is None:
        raise InputError(f"{model.name} has no attention maps: it is no vision transformer.")
    return blocks


def attention(model: Backbone, address: str, row: int, column: int, block: int) -> Attention:
    """Attention of the patch at a pixel to the patches around it.

    Args:
        model: The backbone.
        address: The scene.
        row: Pixel row.
        column: Pixel column.
        block: Which block of the backbone, from 0; negative from the end.

    Raises:
        InputError: Where the backbone has no attention (ConvNeXt) or the scene lacks its bands.
    """
    block %= len(blocks_of(model))
    scene = open_scene(address).select(model.bands)
    patch = model.patch_size
    rows, columns = (min(SIDE_TOKENS, max(1, size // patch)) for size in (scene.height, scene.width))
    top, left = _first(row, rows * patch, scene.height, patch), _first(column, columns * patch, scene.width, patch)
    with SceneReader(scene) as reader:
        pixels = reader.read(Window(left, top, columns * patch, rows * patch))
    values = standardize(pixels.values, pixels.valid, model.normalization)
    found = _attention_of(model, torch.as_tensor(values)[None], block)
    token = min((row - top) // patch, rows - 1) * columns + min((column - left) // patch, columns - 1)
    maps = found[:, model.prefix_tokens + token, model.prefix_tokens :]
    window = scene.geobox[top : top + rows * patch, left : left + columns * patch]
    return Attention(maps.reshape(-1, rows, columns), window.zoom_out(patch))


def _first(at: int, side: int, size: int, patch: int) -> int:
    """First pixel of a window of ``side`` pixels around a pixel, inside the scene and on the grid of patches."""
    return max(0, min(at - side // 2, size - side)) // patch * patch


@cache
def _extractor(model: Backbone, block: int) -> AttentionExtract:
    """Notes the attention of one block; idle where the block computes it fused. Kept: its hook stays on the model."""
    return AttentionExtract(model.module, [f"blocks.{block}.attn.attn_drop"], method="hook")


def _attention_of(model: Backbone, x: torch.Tensor, block: int) -> np.ndarray:
    """Softmaxed attention ``[heads, N, N]`` of one block."""
    module = blocks_of(model)[block].attn
    with _lock, torch.inference_mode():
        fused, module.fused_attn = module.fused_attn, False  # a fused kernel never holds the attention itself
        try:
            (found,) = _extractor(model, block)(x.to(model.device, model.dtype)).values()
        finally:
            module.fused_attn = fused
    return found[0].float().cpu().numpy()
