"""What "no change" looks like where the ground is smooth and where it is rough.

Two dates of calm water differ by less than two dates of a town in which nothing changed: light, season and what is left
of the shift between them move rough ground more. The log distance of the background therefore rises with the log
texture that both dates have, along a straight line: not at all where noise makes the distances, in proportion where
displacement does, never faster. The line is the median of many slopes, which a texture that is mostly change does not
move, and it is drawn towards level by the share of the variance that texture leaves unexplained.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geodino.change_detection.null_model import BINS, HIGHEST, LOWEST, Background, LogHistogram, fit_background

_TEXTURES = 112
# Classes of texture with as many tokens each: enough to follow a curve, few enough that each shows its own mode.
_CLASSES = 12
_FEWEST = 200
_FEWEST_CLASSES = 4


class TextureHistogram:
    """Counts of log distances by log texture, gathered block by block."""

    def __init__(self) -> None:
        self.counts = np.zeros((_TEXTURES, BINS), dtype=np.int64)

    def add(self, logs: NDArray, textures: NDArray) -> None:
        """Count log distances and the log texture of their places, both of one shape; NaN is left out."""
        known = np.isfinite(logs) & np.isfinite(textures)
        row = _place(textures[known], _TEXTURES)
        column = _place(logs[known], BINS)
        self.counts += np.bincount(row * BINS + column, minlength=self.counts.size).reshape(self.counts.shape)


@dataclass(frozen=True)
class TexturedBackground:
    """The stable background of one kind of distance, its centre a line over log texture.

    Attributes:
        slope: how fast the log distance rises with the log texture, 0 to 1.
        lowest: log texture below which it stays level.
        highest: log texture above which it stays level.
        rest: the background of what is left.
    """

    slope: float
    lowest: float
    highest: float
    rest: Background

    def standardise(self, logs: NDArray, textures: NDArray) -> NDArray[np.float32]:
        """Deviations of log distances above the background of their texture; NaN stays NaN."""
        return self.rest.standardise(logs - self.slope * np.clip(textures, self.lowest, self.highest))


def fit_textured(histogram: TextureHistogram) -> TexturedBackground:
    """The background by texture; level where there are too few places to tell."""
    counts = histogram.counts
    total = int(counts.sum())
    values = np.linspace(LOWEST, HIGHEST, _TEXTURES + 1)
    values = (values[1:] + values[:-1]) / 2
    classes = min(_CLASSES, total // _FEWEST)
    if classes < _FEWEST_CLASSES:
        return TexturedBackground(0.0, 0.0, 0.0, fit_background(_histogram(counts.sum(axis=0))))
    # A coarse texture that holds more than its share makes a class alone, so there may be fewer of them.
    member = ((np.cumsum(counts.sum(axis=1)) / total - 1e-9) * classes).astype(int)
    found = []
    for number in np.unique(member):
        here = counts[member == number]
        if here.sum() >= _FEWEST:
            background = fit_background(_histogram(here.sum(axis=0)))
            texture = float(np.average(values[member == number], weights=here.sum(axis=1)))
            found.append((texture, background.centre, background.spread))
    textures, centres, spreads = (np.array(part, dtype=np.float64) for part in zip(*found, strict=True))
    first, second = np.triu_indices(len(textures), 1)
    slope = 0.0
    if len(first):
        slopes = (centres[second] - centres[first]) / (textures[second] - textures[first])
        slope = float(np.clip(np.median(slopes), 0, 1))
        explained = slope**2 * float(np.var(textures))
        slope *= explained / max(explained + float(np.median(spreads) ** 2), 1e-12)
    step = (HIGHEST - LOWEST) / BINS
    rest = np.zeros(BINS, dtype=np.int64)
    offsets = slope * np.clip(values, textures[0], textures[-1])
    for row, offset in zip(counts, offsets, strict=True):
        filled = np.flatnonzero(row)
        np.add.at(rest, np.clip(filled - round(offset / step), 0, BINS - 1), row[filled])
    return TexturedBackground(slope, float(textures[0]), float(textures[-1]), fit_background(_histogram(rest)))


def _place(values: NDArray, bins: int) -> NDArray[np.int64]:
    return np.clip((values - LOWEST) / (HIGHEST - LOWEST) * bins, 0, bins - 1).astype(np.int64)


def _histogram(counts: NDArray[np.int64]) -> LogHistogram:
    histogram = LogHistogram()
    histogram.counts = counts
    return histogram
