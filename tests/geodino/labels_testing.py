"""A small grid and what labels it, which the tests of labels share."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry import box

from geodino.heads.labels import Labels

GRID = GeoBox((40, 60), Affine(10, 0, 500_000, 0, -10, 4_000_400), "EPSG:32618")


def place(row: float, col: float) -> tuple[float, float]:
    """Coordinates of a pixel's centre."""
    return GRID.affine @ (col + 0.5, row + 0.5)


def square(row: int, col: int, rows: int, cols: int) -> object:
    """Polygon over whole pixels."""
    left, top = GRID.affine @ (col, row)
    right, bottom = GRID.affine @ (col + cols, row + rows)
    return box(left, bottom, right, top)


def write(
    path: Path, geometry: list, crs: str | None = "EPSG:32618", layer: str | None = None, **columns: list
) -> Path:
    """A vector file of geometries in the grid's coordinates, brought to another reference system."""
    frame = gpd.GeoDataFrame(columns, geometry=geometry, crs="EPSG:32618")
    frame = frame.set_crs(None, allow_override=True) if crs is None else frame.to_crs(crs)
    frame.to_file(path, layer=layer)
    return path


def raster(path: Path, values: np.ndarray, nodata: float | None = None, crs: str | None = "EPSG:32618") -> Path:
    """A raster of class numbers on the grid."""
    profile = {"driver": "GTiff", "height": values.shape[0], "width": values.shape[1], "count": 1}
    with rasterio.open(
        path, "w", **profile, dtype=values.dtype, nodata=nodata, crs=crs, transform=GRID.affine if crs else None
    ) as out:
        out.write(values, 1)
    return path


def found(labels: Labels) -> set[tuple[int, int, str]]:
    """Row, column and class of each labelled pixel."""
    names = (labels.legend.names[code] for code in labels.classes)
    return set(zip(labels.rows.tolist(), labels.cols.tolist(), names, strict=True))
