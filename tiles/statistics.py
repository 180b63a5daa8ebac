"""Exact streaming statistics of valid pixels.

Sums are taken over digital numbers clipped to the range that maps to [0, 1]: for integers they are exact, so that
neither the order of tiles nor the number of workers changes a mean or a standard deviation.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .band import Band


@dataclass(frozen=True)
class Moments:
    """Count, sum and sum of squares of unit values, per band.

    Attributes:
        pixels: Number of valid pixels.
        sums: Sums over them, per band.
        squares: Sums of squares, per band.
    """

    pixels: int
    sums: tuple[float, ...]
    squares: tuple[float, ...]

    @property
    def mean(self) -> np.ndarray:
        """Mean per band, float64 ``[C]``, NaN without pixels."""
        return np.array(self.sums) / self.pixels if self.pixels else np.full(len(self.sums), np.nan)

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation per band, float64 ``[C]``, NaN without pixels."""
        if not self.pixels:
            return np.full(len(self.sums), np.nan)
        return np.sqrt(np.maximum(np.array(self.squares) / self.pixels - self.mean**2, 0.0))


def merge(parts: Iterable[Moments]) -> Moments:
    """The moments of all pixels together; correctly rounded, whatever the order of the parts."""
    parts = list(parts)
    if not parts:
        return Moments(0, (), ())
    return Moments(
        sum(part.pixels for part in parts),
        tuple(math.fsum(values) for values in zip(*(part.sums for part in parts), strict=True)),
        tuple(math.fsum(values) for values in zip(*(part.squares for part in parts), strict=True)),
    )


class Meter:
    """Measures tiles that share bands (hence scale and offset)."""

    def __init__(self, bands: Sequence[Band]) -> None:
        self.bands = tuple(bands)
        self._limits = [_limits(band) for band in bands]

    def measure(self, values: np.ndarray, valid: np.ndarray | None) -> Moments:
        """Moments of one tile in unit values.

        Args:
            values: Digital numbers ``[C, H, W]``.
            valid: bool ``[H, W]``, or None where every pixel is.
        """
        pixels = int(values[0].size if valid is None else np.count_nonzero(valid))
        sums, squares = [], []
        for plane, band, (low, high) in zip(values, self.bands, self._limits, strict=True):
            first, second = _power_sums(plane if valid is None else plane[valid], low, high)
            s, o = band.scale, band.offset
            sums.append(s * first + o * pixels)
            squares.append(s * s * second + 2 * s * o * first + o * o * pixels)
        return Moments(pixels, tuple(sums), tuple(squares))


def _power_sums(numbers: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Sum and sum of squares of numbers clipped to [low, high]."""
    exact = numbers.astype(np.float64).ravel()
    if numbers.dtype.kind == "f" or low > np.iinfo(numbers.dtype).min or high < np.iinfo(numbers.dtype).max:
        np.clip(exact, low, high, out=exact)
    return float(exact.sum()), float(np.dot(exact, exact))


def _limits(band: Band) -> tuple[float, float]:
    """Digital numbers between which unit values are not clipped."""
    ends = sorted((-band.offset / band.scale, (1 - band.offset) / band.scale))
    return ends[0], ends[1]
