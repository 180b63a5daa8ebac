"""Pixel grids: which are the same, what they cover, their ground sample distance; and the Major TOM grid's cells.

Major TOM's rows follow the parallels every ``cell_km``; each row is divided along the equator's side of it into as many
equal cells as keep them about as wide (Francis and Czerkawski 2024, "Major TOM: Expandable Datasets for Earth
Observation", section 3).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

_CELL_KM = 10.0
_EQUATOR_KM = 6378.137
# Grids that agree to a hundredth of a pixel at the far corner are one grid: warping would only copy.
_SAME_GRID_PIXELS = 0.01
# Degrees that rounding may carry a grid past the antimeridian.
_SAME_DEGREE = 1e-9


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


def union(grids: Sequence[GeoBox]) -> GeoBox:
    """The first grid extended over all, which have reference systems; partly covered pixels count."""
    first = grids[0]
    back = ~first.affine
    corners = []
    for grid in grids:
        grid = turned(grid, first)
        extent = (
            grid.extent if grid.crs == first.crs else grid.extent.to_crs(first.crs, resolution=grid.resolution.x * 64)
        )
        x, y = np.array(extent.exterior.points).T
        if grid.crs != first.crs:
            x = turns_to(first, x)
        corners += [back @ point for point in zip(x.tolist(), y.tolist(), strict=True)]
    left, top = (_whole(min(values)) for values in zip(*corners, strict=True))
    right, bottom = (-_whole(min(-v for v in values)) for values in zip(*corners, strict=True))
    return GeoBox((bottom - top, right - left), first.affine @ Affine.translation(left, top), first.crs)


def _whole(value: float) -> int:
    """The whole pixel at or before a coordinate, forgiving a thousandth of a pixel."""
    return int((value + 1e-3) // 1)


def aligned(one: GeoBox, other: GeoBox) -> bool:
    """Whether the pixels of one grid are pixels of the other, in whichever turn of the globe."""
    if one.crs != other.crs:
        return False
    shift = ~other.affine @ turned(one, other).affine
    linear = abs(shift.a - 1) + abs(shift.e - 1) + abs(shift.b) + abs(shift.d)
    return linear < 1e-9 and abs(shift.c - round(shift.c)) < 1e-2 and abs(shift.f - round(shift.f)) < 1e-2


def turns_to(geobox: GeoBox, x: np.ndarray) -> np.ndarray:
    """Abscissas of an outline in the grid's reference system, in the turn of the globe that the grid lies in.

    Beyond the antimeridian a projection goes on from its other end, and a grid may go on past it: an outline that
    crosses it is closed up, and moved by whole turns to where its middle is nearest to the grid's.

    Args:
        geobox: A grid in degrees or in a Mercator projection; others have no turns and keep ``x`` as it is.
        x: Of the outline's points in order, ``[N]``.
    """
    turn = turn_of(geobox)
    if not turn or not len(x):
        return x
    closed = np.unwrap(x, period=turn)
    middle = (geobox.boundingbox.left + geobox.boundingbox.right) / 2
    return np.asarray(closed - turn * np.round(((closed.min() + closed.max()) / 2 - middle) / turn))


def turned(grid: GeoBox, target: GeoBox) -> GeoBox:
    """A grid moved by whole turns of the globe to where its middle is nearest to that of one in the same system.

    Grids in degrees may begin at -175 and at 185 for the same ground. One in another reference system comes back as
    it is.
    """
    turn = turn_of(target) if grid.crs == target.crs else 0.0
    one, other = grid.boundingbox, target.boundingbox
    turns = round((one.left + one.right - other.left - other.right) / 2 / turn) if turn else 0
    return GeoBox(grid.shape, Affine.translation(-turn * turns, 0) @ grid.affine, grid.crs) if turns else grid


def turn_of(geobox: GeoBox) -> float:
    """Length of a turn of the globe along a grid's abscissa; 0 where the projection knows none."""
    if geobox.crs is None:
        return 0.0
    crs = CRS.from_user_input(str(geobox.crs))
    unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    if crs.is_geographic:
        return 2 * math.pi / (unit or math.pi / 180)
    if not _is_mercator(crs) or crs.geodetic_crs is None:
        return 0.0
    back = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    middle, _ = back.transform(0.0, 0.0)
    ends = back.transform([middle, middle + 90.0], [0.0, 0.0], direction="INVERSE")[0]
    return 4 * abs(float(ends[1] - ends[0]))


def cut_at_antimeridian(outline: Any) -> Any:
    """A shape in longitude and latitude that may go on past 180 degrees: cut there, each part in its place.

    Args:
        outline: Any shapely geometry; one that lies within 180 degrees comes back as it is.
    """
    if outline is None or outline.is_empty:
        return outline
    west, _, east, _ = outline.bounds
    if west >= -180 - _SAME_DEGREE and east <= 180 + _SAME_DEGREE:
        return outline
    parts: list[Any] = []
    for turn in range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360)):
        strip = shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)
        found = shapely.get_parts(shapely.intersection(outline, strip))
        kept = found[shapely.get_dimensions(found) == shapely.get_dimensions(outline)]
        points = shapely.get_coordinates(kept) - [360.0 * turn, 0.0]
        parts += list(shapely.set_coordinates(shapely.force_2d(kept), points))
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)


def ground_sample_distance_m(geobox: GeoBox) -> float:
    """Side in metres of the square that has the area of the pixel at the grid's centre.

    Projected grids state it, but for Mercator's, whose scale grows with latitude; there and on grids in degrees it
    is measured on the CRS's own ellipsoid (so a pixel on Europa is measured on Europa).
    """
    affine: Affine = geobox.affine
    side = math.sqrt(abs(affine.determinant))
    if geobox.crs is None:
        return side
    crs = CRS.from_user_input(str(geobox.crs))
    if _is_mercator(crs):
        measured = _measured_side_m(geobox, crs)
        if measured:
            return measured
    if crs.is_geographic:
        return _measured_side_m(geobox, crs) or side * 111_195.0
    factor = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    return side * (factor or 1.0)


def _is_mercator(crs: CRS) -> bool:
    operation = crs.coordinate_operation.method_name.lower() if crs.coordinate_operation else ""
    return bool(
        crs.is_projected and "mercator" in operation and "transverse" not in operation and "oblique" not in operation
    )


def _measured_side_m(geobox: GeoBox, crs: CRS) -> float | None:
    row, column = geobox.shape[0] / 2, geobox.shape[1] / 2
    corners = [geobox.affine @ point for point in _pixel_corners(row, column)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    if not crs.is_geographic and crs.geodetic_crs is not None:
        try:
            xs, ys = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(xs, ys)
        except ProjError:
            return None
    geod: Geod | None = crs.get_geod()
    if geod is None:
        return None
    area, _ = geod.polygon_area_perimeter(xs, ys)
    return math.sqrt(abs(area)) or None


def _pixel_corners(row: float, column: float) -> list[tuple[float, float]]:
    return [(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1)]


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
