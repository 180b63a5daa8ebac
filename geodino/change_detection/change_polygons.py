"""Polygons of change with area, score, dates and what each place was and became."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.features import geometry_window, rasterize

from geodino.products.vector import areas_m2, polygonize, write_vector


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
    frame = polygonize(mask, drop=(0, 255))
    frame["area_m2"] = areas_m2(frame).round(2)
    frame = frame[frame["area_m2"] >= min_area_m2].reset_index(drop=True)
    scores = np.array([_mean_and_peak(values) for values in _inside(frame, score)], np.float64).reshape(-1, 2).round(3)
    frame["score"], frame["score_max"] = scores.T
    frame["date_before"], frame["date_after"] = dates[0] or "", dates[1] or ""
    columns = ["area_m2", "score", "score_max", "date_before", "date_after"]
    if classes is not None:
        maps, names = classes
        for column, path in zip(("from_class", "to_class"), maps, strict=True):
            frame[column] = [_majority(values, names) for values in _inside(frame, path)]
            columns.append(column)
    frame = frame[[*columns, "geometry"]].sort_values("area_m2", ascending=False, ignore_index=True)
    write_vector(frame, vector, layer="change", overwrite=overwrite)


def _inside(frame: gpd.GeoDataFrame, raster: Path) -> Iterator[NDArray[Any]]:
    """Values of a raster inside each polygon, read window by window."""
    with rasterio.open(raster) as file:
        for polygon in frame.geometry:
            window = geometry_window(file, [polygon])
            values = file.read(1, window=window)
            inside = rasterize([polygon], out_shape=values.shape, transform=file.window_transform(window)) == 1
            yield values[inside]


def _mean_and_peak(scores: NDArray[np.float32]) -> tuple[float, float]:
    known = scores[np.isfinite(scores)]
    return (known.mean(), known.max()) if known.size else (np.nan, np.nan)


def _majority(classes: NDArray[np.uint8], names: tuple[str, ...]) -> str:
    """The commonest class, from 1; empty where there is none."""
    counts = np.bincount(classes, minlength=len(names) + 1)[1:]
    return names[int(counts.argmax())] if counts.any() else ""
