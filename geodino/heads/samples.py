"""Features at labelled pixels, and how features vary over a scene."""

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from geodino.dense.tokens import SceneTokens
from geodino.heads.pixel_features import FEATURES_PER_BAND, HALO, spectral_features
from tiles.scenes.reader import SceneReader
from tiles.scenes.scene import Scene

_BLOCK = 256
_SURVEY_WINDOWS = 8  # windows of 64 pixels along each side of the scene
_SURVEY_SIDE = 64
_SURVEY_TOKENS = 20_000


def tokens_at(
    tokens: SceneTokens, rows: NDArray[np.int64], cols: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Token features interpolated to pixel centres, as the map interpolates its scores.

    Args:
        tokens: the scene's tokens.
        rows: pixel rows `[N]`.
        cols: pixel columns `[N]`.

    Returns:
        Features `[N, D]`, and whether any token there was valid `[N]`. Invalid tokens have no weight.
    """
    height, width = tokens.valid.shape
    row, col = (np.maximum((place + 0.5) / tokens.pixels - 0.5, 0) for place in (rows, cols))
    top, left = row.astype(np.int64), col.astype(np.int64)
    corners = [(down, right) for down in (0, 1) for right in (0, 1)]
    r = np.concatenate([np.minimum(top + down, height - 1) for down, _ in corners])
    c = np.concatenate([np.minimum(left + right, width - 1) for _, right in corners])
    near = [np.abs(1 - down - (row - top)) * np.abs(1 - right - (col - left)) for down, right in corners]
    weight = (np.concatenate(near) * tokens.valid[r, c]).astype(np.float32)
    shape = (len(corners), len(rows))
    features = (weight[:, None] * tokens.at(r, c)).reshape(*shape, -1).sum(axis=0)
    total = weight.reshape(shape).sum(axis=0)
    known = total > 1e-6
    features[known] /= total[known, None]
    return features, known


def spectra_at(
    scene: Scene, rows: NDArray[np.int64], cols: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Pixel features of ``scene`` at single pixels `[N, 4 C]` and their validity `[N]`, read block by block."""
    features = np.zeros((len(rows), FEATURES_PER_BAND * len(scene.bands)), dtype=np.float32)
    valid = np.zeros(len(rows), dtype=bool)
    block = (rows // _BLOCK) * (scene.width // _BLOCK + 1) + cols // _BLOCK
    order = np.argsort(block, kind="stable")
    with SceneReader(scene) as reader:
        for members in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
            r, c = rows[members], cols[members]
            top, left = int(r.min()) - HALO, int(c.min()) - HALO
            window = Window(left, top, int(c.max()) + HALO + 1 - left, int(r.max()) + HALO + 1 - top)
            pixels = reader.read(window)
            features[members] = spectral_features(pixels)[:, r - top, c - left].T
            valid[members] = pixels.valid[r - top, c - left]
    return features, valid


def survey_pixels(scene: Scene) -> NDArray[np.float32]:
    """Pixel features on a regular grid of small windows over the scene `[N, 4 C]`, valid pixels only."""
    side = min(_SURVEY_SIDE, scene.height, scene.width)
    found = []
    with SceneReader(scene) as reader:
        for top in np.unique(np.linspace(0, scene.height - side, _SURVEY_WINDOWS).astype(int)):
            for left in np.unique(np.linspace(0, scene.width - side, _SURVEY_WINDOWS).astype(int)):
                pixels = reader.read(Window(int(left) - HALO, int(top) - HALO, side + 2 * HALO, side + 2 * HALO))
                inner = np.s_[HALO : HALO + side : 3, HALO : HALO + side : 3]
                found.append(spectral_features(pixels)[:, *inner][:, pixels.valid[inner]].T)
    return np.concatenate(found)


def survey_tokens(tokens: SceneTokens) -> NDArray[np.float32]:
    """Valid tokens spread evenly over the scene `[at most 20,000, D]`."""
    rows, columns = np.nonzero(tokens.valid)
    step = max(1, len(rows) // _SURVEY_TOKENS)
    return tokens.at(rows[::step], columns[::step])
