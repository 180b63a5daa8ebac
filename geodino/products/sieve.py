"""Small regions of a classified raster merged into their largest neighbours, as GDAL's sieve filter does it.

The raster is read three times, in bands of rows: regions and their areas, the largest neighbour of each small one, and
the result. Nothing depends on where a band ends.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodino.products.regions import Numbers, Regions


def merge_small_regions(
    source: Any, least_m2: float, *, band_rows: int | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Merge regions below an area into their largest neighbour.

    Where that is small too, its own largest neighbour is next, and so on; of equal ones the first in reading order
    counts. 0, nodata, neither joins a region nor is joined: a region that leads to no large one stays.

    Args:
        source: a raster of bytes, open for reading.
        least_m2: smallest area that stays.
        band_rows: rows that are read at once.

    Yields:
        First row and values `[n, W]` of each band.
    """
    regions = Regions.find(source, band_rows=band_rows)
    values = regions.values[_targets(regions, least_m2)]
    for start, numbers in regions.rows():
        yield start, values[numbers]


def _targets(regions: Regions, least_m2: float) -> Numbers:
    """The region that each region ends in, itself where it is large or leads to no large one, `[N + 1]`."""
    large = regions.areas_m2 >= least_m2 * (1 - 1e-9)
    itself = np.arange(len(large), dtype=np.int32)
    following = np.where(large, itself, _largest_neighbours(regions, ~large))
    for _ in range(len(large).bit_length()):  # each time twice as far along the chain of largest neighbours
        further = following[following]
        if np.array_equal(further, following):
            break
        following = further
    return np.where(large[following], following, itself).astype(np.int32)


def _largest_neighbours(regions: Regions, wanted: NDArray[np.bool_]) -> Numbers:
    """The largest neighbour of each wanted region, 0 where it touches none, `[N + 1]`."""
    best = np.zeros(len(wanted), np.int32)
    areas = regions.areas_m2.copy()
    areas[0] = -1
    above = None
    for _, numbers in regions.rows():
        one, other = _touching(numbers, above)
        above = numbers[-1]
        regions_, neighbours = np.concatenate([one, other]), np.concatenate([other, one])
        order = np.tile(np.arange(len(one)), 2)
        asked = wanted[regions_]
        regions_, neighbours, order = regions_[asked], neighbours[asked], order[asked]
        ranked = np.lexsort((order, -areas[neighbours], regions_))
        found, first = np.unique(regions_[ranked], return_index=True)
        nearest = neighbours[ranked][first]
        better = areas[nearest] > areas[best[found]]
        best[found[better]] = nearest[better]
    return best


def _touching(numbers: Numbers, above: Numbers | None) -> tuple[Numbers, Numbers]:
    """Pairs of regions that share a side of a pixel, in reading order, the upper side before the left one."""
    others = np.zeros((*numbers.shape, 2), np.int32)
    others[1:, :, 0], others[:, 1:, 1] = numbers[:-1], numbers[:, :-1]
    if above is not None:
        others[0, :, 0] = above
    here = np.broadcast_to(numbers[..., None], others.shape)
    touch = (here > 0) & (others > 0) & (here != others)
    return here[touch], others[touch]
