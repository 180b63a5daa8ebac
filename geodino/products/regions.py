"""Connected regions of a classified raster, whole whatever bands of rows it is read in.

Each band is labelled by itself; regions that meet at the line between two bands are joined afterwards (connected
components of the pieces). Memory grows with the regions that are kept and not with the raster.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geodino.products.pixel_areas import PixelAreas

# Pixels of a band: a few hundred megabytes while it is labelled.
_BAND_PIXELS = 1 << 22
# Areas are summed in whole parts of a pixel, so that no order of adding matters.
_PARTS = 1 << 20

Numbers = NDArray[np.int32]


def label(values: NDArray[np.uint8]) -> tuple[Numbers, int]:
    """Number the 4-connected regions of equal values other than 0.

    Args:
        values: `[H, W]`.

    Returns:
        Numbers from 1 on, 0 where the value is 0, `[H, W]`; and how many there are.
    """
    begins = np.ones(values.shape, dtype=bool)
    begins[:, 1:] = values[:, 1:] != values[:, :-1]
    runs = np.cumsum(begins, dtype=np.int32).reshape(values.shape) - 1  # rows are ordered, so runs never share a row
    meet = values[1:] == values[:-1]
    # Two runs that lie one above the other touch first where either of them begins.
    meet &= begins[1:] | begins[:-1]
    joined = _joined(runs[:-1][meet], runs[1:][meet], int(runs[-1, -1]) + 1)
    empty = values[begins] == 0
    seen, numbers = np.unique(joined[~empty], return_inverse=True)
    of_run = np.zeros(len(joined), np.int32)
    of_run[~empty] = numbers + 1
    return of_run[runs], len(seen)


def _joined(one: NDArray[np.int32], other: NDArray[np.int32], count: int) -> Numbers:
    """Component `[count]` of each node of a graph."""
    links = coo_array((np.ones(len(one)), (one, other)), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], np.int32)


@dataclass(frozen=True)
class _Band:
    """Rows of the raster and which of its own regions have a number in the whole.

    Attributes:
        start: first row.
        stop: row after the last.
        labels: own labels that are kept, ascending.
        numbers: their numbers in the whole, 0 for none.
    """

    start: int
    stop: int
    labels: Numbers
    numbers: Numbers


@dataclass(frozen=True)
class Regions:
    """The 4-connected regions of equal values of an open raster's first band, numbered from 1.

    Attributes:
        source: the raster, open for reading.
        ignored: values that belong to no region.
        areas_m2: area of each region, that of number 0 is 0, float64 `[N + 1]`.
        values: value of each region, uint8 `[N + 1]`.
    """

    source: Any
    ignored: tuple[int, ...]
    areas_m2: NDArray[np.float64]
    values: NDArray[np.uint8]
    _bands: tuple[_Band, ...]

    @classmethod
    def find(
        cls, source: Any, *, ignored: tuple[int, ...] = (0,), least_m2: float = 0.0, band_rows: int | None = None
    ) -> "Regions":
        """Read the raster once and keep the regions from an area on.

        Args:
            source: a raster of bytes, open for reading.
            ignored: values that belong to no region.
            least_m2: smallest area of a region.
            band_rows: rows that are read at once.
        """
        pixels = PixelAreas(GeoBox.from_rio(source))
        part = pixels.typical / _PARTS
        step = band_rows or max(16, _BAND_PIXELS // source.width)
        bands: list[_Band] = []
        areas: list[NDArray[np.float64]] = [np.zeros(0)]
        values: list[NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
        upper, lower = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]  # pieces that meet between two bands
        count, above_values, above = 0, None, None
        for start in range(0, source.height, step):
            stop = min(start + step, source.height)
            here = _read(source, start, stop, ignored)
            numbers, found = label(here)
            area = np.bincount(
                numbers.ravel(), weights=np.rint(pixels.rows(start, stop) / part).ravel(), minlength=found + 1
            )
            kept = area * part >= least_m2 * (1 - 1e-9)
            kept[numbers[0]] = kept[numbers[-1]] = True  # more of these may lie in another band
            kept[0] = False
            labels = np.flatnonzero(kept).astype(np.int32)
            pieces = np.zeros(found + 1, np.int32)
            pieces[labels] = np.arange(count, count + len(labels))
            value = np.zeros(found + 1, np.uint8)
            value[numbers.ravel()] = here.ravel()
            areas.append(np.asarray(area[labels], np.float64))
            values.append(value[labels])
            if above is not None:
                meet = (here[0] > 0) & (here[0] == above_values)
                upper.append(above[meet])
                lower.append(pieces[numbers[0]][meet])
            bands.append(_Band(start, stop, labels, pieces[labels]))
            above_values, above = here[-1].copy(), pieces[numbers[-1]]
            count += len(labels)
        joined = _joined(np.concatenate(upper), np.concatenate(lower), count) if count else np.zeros(0, np.int32)
        whole = np.bincount(joined, weights=np.concatenate(areas))
        large = whole * part >= least_m2 * (1 - 1e-9)
        number = np.where(large, np.cumsum(large), 0).astype(np.int32)
        of_region = np.zeros(int(large.sum()) + 1, np.uint8)
        of_region[number[joined]] = np.concatenate(values)
        of_region[0] = 0
        bands = [_Band(b.start, b.stop, b.labels, number[joined[b.numbers]]) for b in bands]
        return cls(source, ignored, np.concatenate([[0.0], whole[large] * part]), of_region, tuple(bands))

    def __len__(self) -> int:
        return len(self.areas_m2) - 1

    def rows(self) -> Iterator[tuple[int, Numbers]]:
        """First row and numbers `[n, W]` of the raster's bands, 0 for no region; reads the raster once more."""
        for band in self._bands:
            numbers, found = label(_read(self.source, band.start, band.stop, self.ignored))
            of_label = np.zeros(found + 1, np.int32)
            of_label[band.labels] = band.numbers
            yield band.start, of_label[numbers]


def _read(source: Any, start: int, stop: int, ignored: tuple[int, ...]) -> NDArray[np.uint8]:
    """Values of rows of the first band, 0 for those that belong to no region."""
    values: NDArray[np.uint8] = source.read(1, window=Window(0, start, source.width, stop - start))
    return np.where(np.isin(values, ignored), 0, values).astype(np.uint8)
