"""Pictures of what a backbone sees: where the class token looks, and the main directions of the patch tokens.

One PNG an image, side by side: the image, the attention of the class token in the last block averaged over heads, each
head's own, and the first three principal components of the patch tokens as red, green and blue. The components are
fitted once over all images drawn, so that one colour means one thing throughout.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from geodino.backbones.attention import attention_maps
from geodino.backbones.backbone import Backbone
from geodino.backbones.card import RGB
from geodino.backbones.normalize import standardize
from geodino.dense.quicklook import PcaColours
from geodino.evaluation.dataset import ImageSet
from geodino.evaluation.extract import load_batch
from tiles.writing.outputs import replacing

PATCHES = 32  # patches a side unless a size is asked for: fewer show little
HEADS = 6  # heads drawn at most
GAP = 4  # pixels between panels


def pca_colours(patches: np.ndarray) -> np.ndarray:
    """First three principal components of tokens as colours.

    Args:
        patches: ``[N, D, h, w]``; components are fitted over all of them together.

    Returns:
        ``[N, h, w, 3]`` float32 in [0, 1], see ``geodino.dense.quicklook.PcaColours``.
    """
    tokens = patches.swapaxes(0, 1)  # [D, N, h, w]
    colours = PcaColours.fit(tokens.reshape(len(tokens), -1).T)
    painted = colours.paint(tokens.reshape(*tokens.shape[:2], -1), np.ones((tokens.shape[1], 1), bool))
    return painted.reshape(3, *tokens.shape[1:]).transpose(1, 2, 3, 0).astype(np.float32) / 255


def draw(
    backbone: Backbone, images: ImageSet, folder: Path, *, count: int = 8, size: int | None = None, seed: int = 0
) -> list[Path]:
    """Draw attention maps and PCA colours of a seeded sample of a data set's images.

    Args:
        backbone: Any backbone; one without attention gets the PCA panel only.
        images: The data set.
        folder: Where PNG files go.
        count: How many images.
        size: Side in pixels that images are brought to; 32 patches when None.
        seed: Seed of the sample.

    Returns:
        The files written.
    """
    chosen = np.sort(np.random.default_rng(seed).choice(len(images), min(count, len(images)), replace=False))
    side = size or PATCHES * backbone.patch_size
    values, valid = load_batch(images, chosen.tolist(), side)
    if values.ndim == 5:  # two dates: the later one
        values, valid = values[:, 1], valid[:, 0]
    patches, maps = [], []
    for one, mask in zip(values, valid, strict=True):
        x = standardize(one[None], mask[None], backbone.normalization)
        patches.append(backbone.encode(x).patches.cpu().numpy())
        if hasattr(backbone.module, "blocks"):
            maps.append(attention_maps(backbone, x)[0].cpu().numpy())
    colours = pca_colours(np.concatenate(patches))
    shown = [backbone.bands.index(band) for band in RGB] if set(RGB) <= set(backbone.bands) else [0, 0, 0]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for place, i in enumerate(chosen):
        panels = [values[place][shown].permute(1, 2, 0).numpy()]
        if maps:
            heads = maps[place]
            panels += [_grey(heads.mean(0)), *(_grey(head) for head in heads[:HEADS])]
        panels.append(colours[place])
        path = folder / f"{images.name}-{i:06d}.png"
        with replacing(path) as part:
            _row(panels, side).save(part, format="PNG")
        written.append(path)
    return written


def _grey(weights: np.ndarray) -> np.ndarray:
    """Weights ``[h, w]`` as grey ``[h, w, 3]``, the largest white."""
    return np.repeat((weights / max(float(weights.max()), 1e-12))[..., None], 3, axis=2)


def _row(panels: list[np.ndarray], side: int) -> Image.Image:
    row = Image.new("RGB", (len(panels) * (side + GAP) - GAP, side), "white")
    for place, panel in enumerate(panels):
        picture = Image.fromarray((np.clip(panel, 0, 1) * 255).round().astype(np.uint8))
        # nearest: a patch is a square, and a smooth picture would claim a resolution that is not there
        row.paste(picture.resize((side, side), Image.Resampling.NEAREST), (place * (side + GAP), 0))
    return row
