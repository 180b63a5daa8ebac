"""Both dates' tokens compared over a whole scene: distances on disk, and how far they stand above what is stable."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geodino.change_detection.null_by_texture import TexturedBackground, TextureHistogram, fit_textured
from geodino.change_detection.null_model import log_distance
from geodino.change_detection.token_distance import ROWS, distance_rows, fit_token_change
from geodino.dense.tokens import SceneTokens
from tiles.writing.cog import disk_errors

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class TokenScore:
    """The calibrated distances of a pair's tokens.

    Attributes:
        before: tokens of the first date.
        after: tokens of the second date.
        centres: mean token of each date, `[2, D]`.
        distances: file of distances and textures, float32 `[rows, 2 x channels, columns]`.
        valid: tokens that both dates have, `[rows, columns]`.
        backgrounds: stable background of each channel.
    """

    before: SceneTokens
    after: SceneTokens
    centres: FloatArray
    distances: Path
    valid: NDArray[np.bool_]
    backgrounds: tuple[TexturedBackground, ...]

    @property
    def patch(self) -> int:
        """Pixels of a token's side."""
        return self.before.pixels

    def rows(self, start: int, stop: int) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Mean deviation over layers and scales `[stop - start, columns]` of token rows, and validity."""
        shape = (stop - start, 2, len(self.backgrounds), self.valid.shape[1])
        offset = start * math.prod(shape[1:]) * np.dtype(np.float32).itemsize
        values = np.fromfile(self.distances, np.float32, math.prod(shape), offset=offset).reshape(shape)
        logs, textures = np.moveaxis(log_distance(values), 0, 2)
        parts = [
            background.standardise(log, texture)
            for background, log, texture in zip(self.backgrounds, logs, textures, strict=True)
        ]
        valid = self.valid[start:stop]
        return np.where(valid, np.mean(parts, axis=0), 0).astype(np.float32), valid


def score_tokens(before: SceneTokens, after: SceneTokens, distances: Path, *, displacement: float) -> TokenScore:
    """Compare the tokens of the whole scene once, keep the distances and calibrate every channel.

    Args:
        before: tokens of the first date.
        after: tokens of the second date, of the same kind and on the same token grid.
        distances: where the distances are kept; whoever asked removes the file.
        displacement: what may be left of the shift between the dates, pixels.

    Raises:
        OutputError: the disk is full.
    """
    layers = max(1, len(before.origin.layers))
    change = fit_token_change(before, after, layers=layers, tolerance=displacement / before.pixels)
    histograms = [TextureHistogram() for _ in range(change.channels)]
    valid = before.valid & after.valid
    with disk_errors(distances), distances.open("wb") as file:
        for start in range(0, len(valid), ROWS):
            stop = min(start + ROWS, len(valid))
            found = distance_rows(change, before, after, start, stop)
            file.write(np.ascontiguousarray(np.moveaxis(found, 2, 0)).data)
            logs, textures = log_distance(found)
            for histogram, log, texture in zip(histograms, logs, textures, strict=True):
                histogram.add(log[valid[start:stop]], texture[valid[start:stop]])
    backgrounds = tuple(fit_textured(histogram) for histogram in histograms)
    return TokenScore(before, after, change.centres, distances, valid, backgrounds)
