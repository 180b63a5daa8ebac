"""Exact streaming statistics of valid pixels.

Sums are taken over digital numbers clipped to the range that maps to [0, 1]: for integers they are exact, so that
neither the order of tiles nor the number of workers changes a mean or a standard deviation.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

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
    """Measures tiles that share bands (hence scale, offset and type)."""

    def __init__(self, bands: Sequence[Band]) -> None:
        self.scale = np.array([band.scale for band in bands])
        self.offset = np.array([band.offset for band in bands])
        # Digital numbers between which unit values are not clipped.
        ends = np.sort(np.stack([-self.offset / self.scale, (1 - self.offset) / self.scale]), axis=0)
        self.low, self.high = ends[0], ends[1]

    def measure(self, values: np.ndarray, valid: np.ndarray | None) -> Moments:
        """Moments of one tile in unit values.

        Args:
            values: Digital numbers ``[C, H, W]``.
            valid: bool ``[H, W]``, or None where every pixel is.
        """
        pixels = int(values[0].size if valid is None else np.count_nonzero(valid))
        first, second = self._power_sums(values, valid)
        s, o = self.scale, self.offset
        sums = s * first + o * pixels
        squares = s * s * second + 2 * s * o * first + o * o * pixels
        return Moments(pixels, tuple(sums.tolist()), tuple(squares.tolist()))

    def _power_sums(self, values: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the numbers, and of their squares, clipped to what maps into [0, 1]; float64 ``[C]`` each."""
        bytes_only = values.dtype == np.uint8 and values.shape[2] <= _EXACT_BYTES
        numbers: np.ndarray = values.astype(np.float32 if bytes_only else np.float64)
        if valid is not None and values.dtype.kind == "f":
            numbers[:, ~valid] = 0  # NaN times 0 is NaN
        least, most = _range(values.dtype)
        for plane, low, high in zip(numbers, self.low, self.high, strict=True):
            # Most tiles need no clipping, and looking is cheaper; bytes shown as they are need not even that.
            if (most > high and plane.max() > high) or (least < low and plane.min() < low):
                np.clip(plane, low, high, out=plane)
        if valid is not None:
            numbers *= valid
        rows, squares = np.einsum("crw->cr", numbers), np.linalg.vecdot(numbers, numbers)
        return rows.sum(axis=1, dtype=np.float64), squares.sum(axis=1, dtype=np.float64)


# The squares of so many bytes add up to less than 2**24, which float32 holds exactly.
_EXACT_BYTES = 256


@cache
def _range(dtype: np.dtype) -> tuple[float, float]:
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return float(limits.min), float(limits.max)
