"""The server's backbone: loaded once, used by every session, one at a time."""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from app.store.workspace import Workspace
from geodino.backbones.backbone import Backbone, load_backbone
from geodino.backbones.normalize import standardize
from tiles.errors import InputError
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader

_loaded: dict[str | None, Backbone] = {}
_lock = threading.Lock()
ATTENTION_TOKENS = 28  # side of the window whose attention is shown, as far as the scene reaches


def backbone(workspace: Workspace) -> Backbone:
    """The backbone that the server was started with.

    Raises:
        InputError: Where it cannot be loaded; the sentence says why.
    """
    with _lock:
        if workspace.backbone not in _loaded:
            _loaded[workspace.backbone] = load_backbone(workspace.backbone)
        return _loaded[workspace.backbone]


@dataclass(frozen=True)
class Attention:
    """What one token looks at.

    Attributes:
        maps: One map a head ``[heads, h, w]``, each summing to at most 1 (registers and class take the rest).
        geobox: Grid of the maps.
    """

    maps: np.ndarray
    geobox: GeoBox


def attention(workspace: Workspace, address: str, row: int, column: int, block: int) -> Attention:
    """Attention of the patch at a pixel to the patches around it.

    Args:
        workspace: The server's.
        address: The scene.
        row: Pixel row.
        column: Pixel column.
        block: Which block of the backbone, from 0; negative from the end.

    Raises:
        InputError: Where the backbone has no attention (ConvNeXt) or the scene lacks its bands.
    """
    model = backbone(workspace)
    blocks = getattr(model.module, "blocks", None)
    if blocks is None or not hasattr(blocks[block], "attn"):
        raise InputError(f"{model.name} has no attention maps: it is no vision transformer.")
    scene = open_scene(address).select(model.bands)
    patch = model.patch_size
    shape = tuple(min(ATTENTION_TOKENS, max(1, size // patch)) for size in (scene.height, scene.width))
    top = _first(row, shape[0] * patch, scene.height, patch)
    left = _first(column, shape[1] * patch, scene.width, patch)
    with SceneReader(scene) as reader:
        pixels = reader.read(Window(left, top, shape[1] * patch, shape[0] * patch))
    values = standardize(pixels.values, pixels.valid, model.normalization)
    found = _attention_of(model, torch.as_tensor(values)[None], blocks[block].attn)
    token = min((row - top) // patch, shape[0] - 1) * shape[1] + min((column - left) // patch, shape[1] - 1)
    maps = found[:, model.prefix_tokens + token, model.prefix_tokens :]
    a, b, c, d, e, f = tuple(scene.geobox.affine)[:6]
    affine = type(scene.geobox.affine)(
        a * patch, b * patch, c + a * left + b * top, d * patch, e * patch, f + d * left + e * top
    )
    return Attention(maps.reshape(-1, *shape), GeoBox(shape, affine, scene.geobox.crs))


def _first(at: int, side: int, size: int, patch: int) -> int:
    """First pixel of a window of ``side`` pixels around a pixel, inside the scene and on the grid of patches."""
    return max(0, min(at - side // 2, size - side)) // patch * patch


def _attention_of(model: Backbone, x: torch.Tensor, module: Any) -> np.ndarray:
    """Softmaxed attention ``[heads, N, N]`` of one module, caught on its way through the (idle) dropout."""
    caught: list[torch.Tensor] = []
    with _lock:
        fused, module.fused_attn = module.fused_attn, False
        hook = module.attn_drop.register_forward_hook(lambda _, inputs, __: caught.append(inputs[0]))
        try:
            model.encode(x)
        finally:
            hook.remove()
            module.fused_attn = fused
    if not caught:
        raise InputError(f"{model.name} does not show its attention.")
    return caught[0][0].float().cpu().numpy()
