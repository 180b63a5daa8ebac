"""What a patch looks at: the attention of one block of a vision transformer around a place of a scene."""

import threading
from dataclasses import dataclass

import numpy as np
import torch
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from geodino.backbones.attention import attention_maps
from geodino.backbones.backbone import Backbone
from geodino.backbones.normalize import standardize
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
    scene = open_scene(address).select(model.bands)
    patch = model.patch_size
    rows, columns = (min(SIDE_TOKENS, max(1, size // patch)) for size in (scene.height, scene.width))
    top, left = _first(row, rows * patch, scene.height, patch), _first(column, columns * patch, scene.width, patch)
    with SceneReader(scene) as reader:
        pixels = reader.read(Window(left, top, columns * patch, rows * patch))
    values = standardize(pixels.values, pixels.valid, model.normalization)
    token = min((row - top) // patch, rows - 1) * columns + min((column - left) // patch, columns - 1)
    with _lock:
        maps = attention_maps(model, torch.as_tensor(values)[None], block=block, token=model.prefix_tokens + token)
    window = scene.geobox[top : top + rows * patch, left : left + columns * patch]
    return Attention(maps[0].cpu().numpy(), window.zoom_out(patch))


def _first(at: int, side: int, size: int, patch: int) -> int:
    """First pixel of a window of ``side`` pixels around a pixel, inside the scene and on the grid of patches."""
    return max(0, min(at - side // 2, size - side)) // patch * patch
