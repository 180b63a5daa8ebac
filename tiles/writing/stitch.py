"""Overlapping windows put together again without a seam, in memory that does not grow with the raster's height.

One axis at a time: windows of equal length cover ``length`` cells, neighbours overlap, and each window has a weight
per cell. The weights rise over the overlap, never reach zero, and the weights of all windows on one cell sum to one,
so that a blend of equal values is that value, at the edge of the scene too. Two axes are the outer product.

`RowBand` adds weighted windows into a rolling band of rows, which is all that is ever held; `upsample_rows` brings a
coarse grid to the pixel grid, row by row, with the values that bilinear interpolation of the whole array has.

Cells are whatever the caller blends: tokens for features, pixels for scores. No class numbers: blend scores, then
take the largest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Axis:
    """Windows of one length along one axis of a scene.

    Args:
        length: Cells of the axis.
        window: Cells of a window; a shorter axis has one window of its own length.
        overlap: Cells that neighbouring windows share; the last window shares more, since it ends where the axis ends.

    Raises:
        ValueError: The overlap leaves a window no cell of its own.
    """

    length: int
    window: int
    overlap: int

    def __post_init__(self) -> None:
        if self.length < 1 or self.window < 1 or not 0 <= 2 * self.overlap <= self.window:
            raise ValueError(
                f"windows of {self.window} cells cannot overlap by {self.overlap} over {self.length} cells"
            )

    @property
    def size(self) -> int:
        """Cells of every window: ``window``, or the whole axis where that is shorter."""
        return min(self.window, self.length)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First cell of each window, in order; every window lies inside the axis."""
        last = self.length - self.size
        return (*range(0, last, self.window - self.overlap), last)

    @cached_property
    def weights(self) -> FloatArray:
        """Blend weights ``[windows, size]``, in (0, 1]; on every cell those of all windows sum to 1.

        A squared sine over the overlap, taken at cell centres, so that its ends are above zero; flat at 1 inside and
        along the axis's own two ends, where no neighbour takes over.
        """
        rise = np.sin(np.pi / 2 * (np.arange(self.overlap) + 0.5) / max(self.overlap, 1)) ** 2
        raw = np.ones((len(self.starts), self.size))
        if len(self.starts) > 1 and self.overlap:
            raw[1:, : self.overlap] *= rise
            raw[:-1, -self.overlap :] *= rise[::-1]
        total = np.zeros(self.length)
        for start, weight in zip(self.starts, raw, strict=True):
            total[start : start + self.size] += weight
        shares = [weight / total[start : start + self.size] for start, weight in zip(self.starts, raw, strict=True)]
        return np.stack(shares).astype(np.float32)

    def touching(self, start: int, stop: int) -> range:
        """Numbers of the windows that share a cell with ``start <= cell < stop``."""
        hits = [i for i, s in enumerate(self.starts) if s < stop and s + self.size > start]
        return range(hits[0], hits[-1] + 1)

    def settled(self, number: int) -> int:
        """Cells from the axis's beginning that no window after ``number`` touches."""
        return self.starts[number + 1] if number + 1 < len(self.starts) else self.length


class RowBand:
    """A rolling band of rows into which weighted windows are added from top to bottom.

    Args:
        channels: Channels of the values.
        width: Cells of a row.
        capacity: Rows held at once: the rows of one window are enough, since finished rows leave before the next
            row of windows arrives.
        start: First row held.
    """

    def __init__(self, channels: int, width: int, capacity: int, start: int = 0) -> None:
        self.start = start
        # Channels lie together, as they come from a backbone: windows are narrow, and short rows are slow to add.
        self._sum = np.zeros((capacity, width, channels), np.float32)

    def add(self, row: int, column: int, values: FloatArray, weights: tuple[FloatArray, FloatArray]) -> None:
        """Add ``values [C, h, w]`` times the outer product of the row and column ``weights`` at a place of the scene.

        Raises:
            ValueError: The window lies above the band or reaches below it.
        """
        top = row - self.start
        _, height, width = values.shape
        if top < 0 or top + height > len(self._sum):
            raise ValueError(f"rows {row} to {row + height} are outside the band from row {self.start}")
        share = weights[0][:, None] * weights[1][None, :]
        self._sum[top : top + height, column : column + width] += np.moveaxis(values, 0, -1) * share[..., None]

    def take(self, stop: int) -> FloatArray:
        """Remove and return the rows ``[C, stop - start, width]`` above ``stop``; nothing may be added there again."""
        done = _taken(self._sum, stop - self.start)
        self.start += len(done)
        return np.moveaxis(done, -1, 0)


class MaskBand:
    """A rolling band of booleans, the same for windows that only say which cells are valid.

    Args:
        width: Cells of a row.
        capacity: Rows held at once.
        start: First row held.
    """

    def __init__(self, width: int, capacity: int, start: int = 0) -> None:
        self.start = start
        self._mask = np.zeros((capacity, width), np.bool_)

    def add(self, row: int, column: int, valid: BoolArray) -> None:
        """Set the cells of ``valid [h, w]`` at a place of the scene."""
        top = row - self.start
        if top < 0 or top + valid.shape[0] > self._mask.shape[0]:
            raise ValueError(f"rows {row} to {row + valid.shape[0]} are outside the band from row {self.start}")
        self._mask[top : top + valid.shape[0], column : column + valid.shape[1]] = valid

    def take(self, stop: int) -> BoolArray:
        """Remove and return the rows ``[stop - start, width]`` above ``stop``."""
        done = _taken(self._mask, stop - self.start)
        self.start += len(done)
        return done


def _taken(band: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Remove and return the first rows of a band; the others move up inside its memory, one allocation a scene."""
    done = band[:count].copy()
    kept = len(band) - len(done)
    band[:kept] = band[len(done) :].copy()
    band[kept:] = 0
    return done


def _neighbours(pixels: npt.NDArray[np.int64], factor: int, cells: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Return the cell before each pixel centre and the share of the cell after it, clamped at both ends."""
    position = np.maximum((pixels + 0.5) / factor - 0.5, 0)
    before = np.minimum(position.astype(np.int64), cells - 1)
    share = np.where(before + 1 < cells, position - before, 0)
    return before, share.astype(np.float32)


def upsample_rows(
    rows: Iterable[npt.NDArray[np.floating]], patch: int, height: int, width: int
) -> Iterator[tuple[int, FloatArray]]:
    """Bring rows of cells to the pixel grid, bilinearly, as they come.

    Each cell covers ``patch`` × ``patch`` pixels and stands for its centre; outside the outer centres the outer value
    holds (``align_corners=False``). The pieces put together equal the interpolation of the whole array.

    Args:
        rows: Pieces ``[K, h, ceil(width / patch)]`` from top to bottom, together ``ceil(height / patch)`` rows.
        patch: Pixels of a cell's side.
        height: Rows of the pixel grid.
        width: Columns of the pixel grid.

    Yields:
        The first pixel row and ``[K, n, width]`` float32, with ``n`` at most twice ``patch``, from top to bottom.

    Raises:
        ValueError: The pieces are not as wide as the pixel grid needs, or end before its last row.
    """
    cells = -(-height // patch)
    left, right_share = _neighbours(np.arange(width), patch, -(-width // patch))
    right = np.minimum(left + 1, -(-width // patch) - 1)
    row_before, share_after = _neighbours(np.arange(height), patch, cells)
    done, number = 0, -1
    before: FloatArray | None = None
    for piece in rows:
        if piece.shape[-1] != -(-width // patch):
            raise ValueError(f"rows of {piece.shape[-1]} cells do not fit {width} pixels of {patch} a cell")
        for line in np.moveaxis(np.asarray(piece, np.float32), 1, 0):
            number += 1
            after = line[:, left] + (line[:, right] - line[:, left]) * right_share
            # A pixel row is ready once the cell row after it is known; after the last cell row all the rest are.
            stop = height if number == cells - 1 else int(np.searchsorted(row_before, number))
            while done < stop:
                if row_before[done] == number or before is None:
                    end, base, step = stop, after, np.zeros_like(after)
                else:
                    end = min(stop, int(np.searchsorted(row_before, number)))
                    base, step = before, after - before
                yield done, base[:, None] + step[:, None] * share_after[None, done:end, None]
                done = end
            before = after
    if done < height:
        raise ValueError(f"rows ended at pixel row {done} of {height}")


def row_pieces(start: int, stop: int, step: int) -> Sequence[range]:
    """Cut rows ``start`` to ``stop`` at the multiples of ``step``."""
    cuts = [start, *range((start // step + 1) * step, stop, step), stop]
    return [range(a, b) for a, b in pairwise(cuts)]
