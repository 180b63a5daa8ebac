"""Embeddings of whole tiles, for curation: the class token and the mean patch of a backbone."""

import math

import numpy as np
import torch
from torch.nn.functional import interpolate

from geodino.backbones.backbone import Backbone
from geodino.backbones.normalize import standardize
from tiles.archive.curate import layout
from tiles.archive.dataset import TileDataset
from tiles.errors import InputError
from tiles.progress import Progress, Silent


def embed_tiles(
    tiles: TileDataset, backbone: Backbone, *, batch_size: int = 64, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Embed every tile.

    Args:
        tiles: The tile set; its bands include the backbone's.
        backbone: The model.
        batch_size: Tiles of one forward pass.
        progress: Told the share of tiles embedded.

    Returns:
        float32 ``[N, 2 D]``: class token and mean patch token, each at unit length; and the tiles' layouts, float32
        ``[N, 64 C]`` (`tiles.archive.curate.layout`), which tell copies from like ground.

    Raises:
        InputError: Where the tiles lack a band of the backbone.
    """
    missing = [name for name in backbone.bands if name not in tiles.bands]
    if missing:
        raise InputError(
            f"{backbone.name} needs the bands {', '.join(backbone.bands)}, but the tiles of {tiles.path} "
            f"have {', '.join(tiles.bands)}."
        )
    order = [tiles.bands.index(name) for name in backbone.bands]
    side = math.ceil(tiles.size / backbone.patch_size) * backbone.patch_size
    bar = progress or Silent()
    found, layouts = [], []
    for first in range(0, len(tiles), batch_size):
        batch = tiles.read_batch(range(first, min(first + batch_size, len(tiles))))
        values = standardize(
            torch.from_numpy(batch.values[:, order]), torch.from_numpy(batch.valid), backbone.normalization
        )
        if side != tiles.size:
            values = interpolate(values, size=(side, side), mode="bilinear", align_corners=False)
        tokens = backbone.encode(values.to(backbone.device))
        patches = tokens.patches.float().mean(dim=(2, 3))
        parts = [torch.nn.functional.normalize(part.float(), dim=1) for part in (tokens.cls, patches)]
        found.append(torch.cat(parts, dim=1).cpu().numpy())
        layouts.append(layout(batch.values))
        bar.update((first + len(batch.values)) / len(tiles))
    return np.concatenate(found), np.concatenate(layouts)
