"""Polygons of change with area, score, dates and what each place was and became."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.sparse import coo_array

from geodino.products.regions import Regions
from geodino.products.vector import polygonize, write_vector
from tiles.writing.outputs import part_of


def write_polygons(
    mask: Path,
    score: Path,
    vector: Path,
    *,
    dates: tuple[str | None, str | None],
    min_area_m2: float = 0.0,
    classes: tuple[tuple[Path, Path], tuple[str, ...]] | None = None,
    overwrite: bool = False,
) -> None:
    """Write the connected regions of change, largest first: area in m², mean and largest score, both dates.

    Args:
        mask: change mask, 1 is change.
        score: the score it was cut from.
        vector: where the polygons go; the suffix chooses the format.
        dates: dates of the two scenes, None where unknown.
        min_area_m2: smaller polygons are left out.
        classes: class maps of both dates and the names of their classes, for what each polygon was and became.
        overwrite: replace an existing file.
    """
    part = part_of(vector, ".regions")
    try:
        with rasterio.open(mask) as file:
            regions = Regions.find(file, ignored=(0, 255), least_m2=min_area_m2)
            found = _measure(regions, score, () if classes is None else classes[0], part)
        frame = polygonize(part, drop=(0,))
    finally:
        part.unlink(missing_ok=True)
    number = frame["value"].to_numpy()
    frame["area_m2"] = regions.areas_m2[number].round(2)
    frame["score"], frame["score_max"] = found.mean[number].round(3), found.peak[number].round(3)
    frame["date_before"], frame["date_after"] = dates[0] or "", dates[1] or ""
    columns = ["area_m2", "score", "score_max", "date_before", "date_after"]
    if classes is not None:
        for column, common in zip(("from_class", "to_class"), found.commonest, strict=True):
            frame[column] = np.array(["", *classes[1]], dtype=object)[common[number]]
            columns.append(column)
    frame = frame[[*columns, "geometry"]].sort_values("area_m2", ascending=False, ignore_index=True, kind="stable")
    write_vector(frame, vector, layer="change", overwrite=overwrite)


@dataclass(frozen=True)
class _Found:
    """What rasters say of each region, that of number 0 means nothing.

    Attributes:
        mean: mean score, NaN where there is none, float64 `[N + 1]`.
        peak: largest score, NaN where there is none, float64 `[N + 1]`.
        commonest: for each class map the commonest class from 1, 0 where there is none, `[N + 1]`.
    """

    mean: NDArray[np.float64]
    peak: NDArray[np.float64]
    commonest: tuple[NDArray[np.intp], ...]


def _measure(regions: Regions, score: Path, maps: Sequence[Path], numbered: Path) -> _Found:
    """Go over the rasters once and write the numbers of the regions as a raster, int32."""
    size = len(regions) + 1
    total, peak, count = np.zeros(size), np.full(size, -np.inf), np.zeros(size, np.int64)
    seen = [_Classes(size) for _ in maps]
    profile = {"driver": "GTiff", "dtype": "int32", "count": 1, "compress": "deflate", "bigtiff": "if_safer"}
    profile |= {key: regions.source.profile[key] for key in ("width", "height", "crs", "transform")}
    with contextlib.ExitStack() as stack:
        scores, *classes = (stack.enter_context(rasterio.open(path)) for path in (score, *maps))
        out = stack.enter_context(rasterio.open(numbered, "w", **profile))
        for start, numbers in regions.rows():
            window = Window(0, start, out.width, len(numbers))
            out.write(numbers, 1, window=window)
            inside = numbers > 0
            region = numbers[inside]
            values = scores.read(1, window=window)[inside].astype(np.float64)
            known = np.isfinite(values)
            total += np.bincount(region[known], weights=values[known], minlength=size)
            count += np.bincount(region[known], minlength=size)
            np.maximum.at(peak, region[known], values[known])
            for file, tally in zip(classes, seen, strict=True):
                tally.add(region, file.read(1, window=window)[inside])
    none = count == 0
    mean = np.where(none, np.nan, total / np.maximum(count, 1))
    return _Found(mean, np.where(none, np.nan, peak), tuple(tally.commonest() for tally in seen))


class _Classes:
    """Pixels of each class in each region, as many numbers as there are classes in regions."""

    def __init__(self, regions: int) -> None:
        self._regions = regions
        self._counts = coo_array((regions, 256), dtype=np.int64).tocsr()

    def add(self, region: NDArray[np.int32], classes: NDArray[np.uint8]) -> None:
        """Count pixels by the number of their region and their class `[n]`."""
        ones = np.ones(len(region), np.int64)
        self._counts = self._counts + coo_array((ones, (region, classes)), shape=(self._regions, 256)).tocsr()

    def commonest(self) -> NDArray[np.intp]:
        """The commonest class from 1 in each region, the lower of equal ones; 0 where there is none."""
        found = self._counts.tocoo()
        region, kind = found.coords
        order = np.lexsort((kind, -found.data, region))
        order = order[kind[order] > 0]
        regions, first = np.unique(region[order], return_index=True)
        commonest = np.zeros(self._regions, np.intp)
        commonest[regions] = kind[order][first]
        return commonest
