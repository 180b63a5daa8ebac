"""Pixel grids: which are the same, and the cells of the Major TOM grid, a name for every place on Earth.

Major TOM's rows follow the parallels every ``cell_km``; each row is divided along the equator's side of it into as many
equal cells as keep them about as wide (Francis and Czerkawski 2024, "Major TOM: Expandable Datasets for Earth
Observation", section 3).
"""

import math

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

_CELL_KM = 10.0
_EQUATOR_KM = 6378.137
# Grids that agree to a hundredth of a pixel at the far corner are one grid: warping would only copy.
_SAME_GRID_PIXELS = 0.01


def cell_at(longitude: np.ndarray, latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cells that hold points: rows up from the equator and columns right of Greenwich, int64 ``[N]`` each.

    Args:
        longitude: Degrees east, finite, ``[N]``; those beyond 180 go on from -180.
        latitude: Degrees north, finite, ``[N]``.
    """
    step = 180.0 / math.ceil(math.pi * _EQUATOR_KM / _CELL_KM)
    row = np.floor(latitude / step).astype(np.int64)
    around = 2 * math.pi * _EQUATOR_KM * np.cos(np.radians(row * step))
    across = np.maximum(np.ceil(np.maximum(around, 0) / _CELL_KM), 1)
    wrapped = np.mod(longitude + 180.0, 360.0) - 180.0
    return row, np.floor(wrapped / (360.0 / across)).astype(np.int64)


def cell_name(row: int, column: int) -> str:
    """Name of a cell, such as ``637U_59R`` or ``38D_378L``."""
    vertical = f"{row}U" if row >= 0 else f"{-row}D"
    return f"{vertical}_{column}R" if column >= 0 else f"{vertical}_{-column}L"


def cells(longitude: np.ndarray, latitude: np.ndarray) -> list[str | None]:
    """Names of the cells that hold points ``[N]`` in degrees; None where a coordinate is not finite."""
    finite = np.isfinite(longitude) & np.isfinite(latitude)
    rows, columns = cell_at(np.where(finite, longitude, 0.0), np.where(finite, latitude, 0.0))
    return [
        cell_name(row, column) if good else None
        for row, column, good in zip(rows.tolist(), columns.tolist(), finite.tolist(), strict=True)
    ]


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
