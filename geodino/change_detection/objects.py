"""Polygons of change with area, score and dates."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.features import geometry_window, rasterize

from geodino.change_detection.transitions import majority_classes
from geodino.products.vector import areas_m2, polygonize, write_vector


def write_objects(
    mask: Path,
    score: Path,
    vector: Path,
    *,
    dates: tuple[str | None, str | None],
    min_area_m2: float = 0.0,
    classes: tuple[Path, Path, tuple[str, ...]] | None = None,
    overwrite: bool = False,
) -> gpd.GeoDataFrame:
    """Write the connected regions of change.

    Args:
        mask: change mask, 1 is change.
        score: the score it was cut from.
        vector: where the polygons go; the suffix chooses the format.
        dates: dates of the two scenes, None where unknown.
        min_area_m2: smaller polygons are left out.
        classes: class maps of both dates and the names of their classes, for what each polygon was and became.
        overwrite: replace an existing file.

    Returns:
        The polygons, largest first: area in m², mean and largest score, both dates and, with classes, from and to.
    """
    frame = polygonize(mask, drop=(0, 255))
    frame["area_m2"] = areas_m2(frame).round(2)
    frame = frame[frame["area_m2"] >= min_area_m2].reset_index(drop=True)
    mean, peak = zonal_scores(frame, score)
    frame["score"], frame["score_max"] = mean.round(3), peak.round(3)
    frame["date_before"], frame["date_after"] = dates[0] or "", dates[1] or ""
    columns = ["area_m2", "score", "score_max", "date_before", "date_after"]
    if classes is not None:
        before, after, names = classes
        frame["from_class"], frame["to_class"] = (majority_classes(frame, path, names) for path in (before, after))
        columns += ["from_class", "to_class"]
    frame = frame[[*columns, "geometry"]].sort_values("area_m2", ascending=False, ignore_index=True)
    write_vector(frame, vector, layer="change", overwrite=overwrite)
    return frame


def zonal_scores(frame: gpd.GeoDataFrame, raster: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and largest value of a raster inside each polygon, read window by window."""
    mean, peak = np.full(len(frame), np.nan), np.full(len(frame), np.nan)
    with rasterio.open(raster) as file:
        for number, polygon in enumerate(frame.geometry):
            window = geometry_window(file, [polygon])
            values = file.read(1, window=window)
            inside = rasterize([polygon], out_shape=values.shape, transform=file.window_transform(window)) == 1
            inside &= np.isfinite(values)
            if inside.any():
                mean[number], peak[number] = values[inside].mean(), values[inside].max()
    return mean, peak
