"""Exact streaming statistics of valid pixels.

Sums are taken over digital numbers clipped to the range that maps to [0, 1]: for integers they are exact, so that
neither the order of tiles nor the number of workers changes a mean or a standard deviation.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tiles.scenes.band import Band


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


@dataclass(frozen=True)
class TileMoments:
    """Moments of each of some tiles.

    Attributes:
        pixels: Number of valid pixels, int64 ``[N]``.
        sums: Sums of unit values over them, float64 ``[N, C]``.
        squares: Sums of squares, float64 ``[N, C]``.
    """

    pixels: np.ndarray
    sums: np.ndarray
    squares: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean per tile and band, float64 ``[N, C]``."""
        return self.sums / self.pixels[:, None]

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation per tile and band, float64 ``[N, C]``."""
        return np.sqrt(np.maximum(self.squares / self.pixels[:, None] - self.mean**2, 0.0))

    def take(self, chosen: np.ndarray) -> "TileMoments":
        """The moments of some of the tiles, by number or by bool ``[N]``."""
        return TileMoments(self.pixels[chosen], self.sums[chosen], self.squares[chosen])

    def split(self) -> list[Moments]:
        """One `Moments` a tile."""
        rows = zip(self.pixels.tolist(), self.sums.tolist(), self.squares.tolist(), strict=True)
        return [Moments(pixels, tuple(sums), tuple(squares)) for pixels, sums, squares in rows]


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

    def measure(self, values: np.ndarray, valid: Sequence[np.ndarray | None]) -> TileMoments:
        """Moments of tiles in unit values.

        Args:
            values: Digital numbers ``[N, C, H, W]``.
            valid: For each tile bool ``[H, W]``, or None where every pixel is.
        """
        count, bands, height, width = values.shape
        bytes_only = values.dtype == np.uint8 and width <= _EXACT_BYTES
        dtype = np.float32 if bytes_only else np.float64
        # One plane at a time, which stays in the cache of a core; rows first, whose sums are exact.
        numbers, ones = np.empty((height, width), dtype), np.ones(width, dtype)
        rows, squared = (np.empty((count, bands, height), dtype) for _ in range(2))
        for i, mask in enumerate(valid):
            for c in range(bands):
                self._copy_clipped(values[i, c], mask, c, numbers)
                np.vecdot(numbers, ones, out=rows[i, c])
                np.vecdot(numbers, numbers, out=squared[i, c])
        first, second = (part.sum(axis=-1, dtype=np.float64) for part in (rows, squared))
        pixels = np.array([height * width if mask is None else np.count_nonzero(mask) for mask in valid], np.int64)
        s, o, n = self.scale, self.offset, pixels[:, None]
        return TileMoments(pixels, s * first + o * n, s * s * second + 2 * s * o * first + o * o * n)

    def _copy_clipped(self, plane: np.ndarray, mask: np.ndarray | None, band: int, numbers: np.ndarray) -> None:
        """Copy a band of a tile, clipped to what maps into [0, 1], and 0 where it is not valid."""
        low, high = self.low[band], self.high[band]
        np.copyto(numbers, plane)
        if mask is not None and plane.dtype.kind == "f":
            numbers[~mask] = 0  # NaN times 0 is NaN
        looked_at = numbers if plane.dtype.kind == "f" else plane
        least, most = _range(plane.dtype)
        # Most tiles need no clipping, and looking is cheaper; bytes shown as they are need not even that.
        if (most > high and looked_at.max() > high) or (least < low and looked_at.min() < low):
            np.clip(numbers, low, high, out=numbers)
        if mask is not None:
            np.multiply(numbers, mask, out=numbers)


# The squares of so many bytes add up to less than 2**24, which float32 holds exactly.
_EXACT_BYTES = 256


@cache
def _range(dtype: np.dtype) -> tuple[float, float]:
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return float(limits.min), float(limits.max)
