"""Pixel grids: which are the same, and the cells of the Major TOM grid, a name for every place on Earth.

Major TOM's rows follow the parallels every ``cell_km``; each row is divided along the equator's side of it into as many
equal cells as keep them about as wide (Francis and Czerkawski 2024, "Major TOM: Expandable Datasets for Earth
Observation", section 3).
"""

import math

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

CELL_KM = 10.0
_EQUATOR_KM = 6378.137
# Grids that agree to a hundredth of a pixel at the far corner are one grid: warping would only copy.
_SAME_GRID_PIXELS = 0.01


def cells(longitude: np.ndarray, latitude: np.ndarray, cell_km: float = CELL_KM) -> list[str | None]:
    """Names of the cells that hold points, such as ``897U_171R``; None where a coordinate is not finite.

    Args:
        longitude: Degrees east, ``[N]``.
        latitude: Degrees north, ``[N]``.
        cell_km: Side of a cell in kilometres.
    """
    step = 180.0 / math.ceil(math.pi * _EQUATOR_KM / cell_km)
    finite = np.isfinite(longitude) & np.isfinite(latitude)
    row = np.floor(np.where(finite, latitude, 0.0) / step).astype(np.int64)
    around = 2 * math.pi * _EQUATOR_KM * np.cos(np.radians(row * step))
    across = np.maximum(np.ceil(np.maximum(around, 0) / cell_km), 1)
    wrapped = np.mod(np.where(finite, longitude, 0.0) + 180.0, 360.0) - 180.0
    column = np.floor(wrapped / (360.0 / across)).astype(np.int64)
    return [
        f"{_place(r, 'U', 'D')}_{_place(c, 'R', 'L')}" if good else None
        for r, c, good in zip(row.tolist(), column.tolist(), finite.tolist(), strict=True)
    ]


def _place(number: int, forth: str, back: str) -> str:
    return f"{number}{forth}" if number >= 0 else f"{-number}{back}"


def same_grid(one: GeoBox, other: GeoBox) -> bool:
    """Whether two grids have the same pixels, to a hundredth of one."""
    if one.shape != other.shape or one.crs != other.crs:
        return False
    shift: Affine = ~one.affine @ other.affine
    height, width = one.shape
    corners = ((0, 0), (width, 0), (0, height), (width, height))
    return all(
        abs(x - column) < _SAME_GRID_PIXELS and abs(y - row) < _SAME_GRID_PIXELS
        for column, row in corners
        for x, y in [shift @ (column, row)]
    )
