"""Which windows of a scene become tiles, how they are grouped for reading, and where they lie on Earth."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError
from rasterio.windows import Window

from tiles.grids import cut_at_antimeridian

# Tiles read together fill at most this much memory.
READ_BYTES = 8 * 1024 * 1024
# Points along each side of a footprint: a straight side on one grid is curved on another.
_SIDE_POINTS = 5


def starts(length: int, size: int) -> list[int]:
    """First pixels of the tiles along one axis.

    Tiles lie side by side from 0; the last is moved inwards so that it does not reach beyond the raster. A raster
    shorter than a tile gets one tile, which does.
    """
    if length <= size:
        return [0]
    regular = list(range(0, length - size + 1, size))
    return regular if regular[-1] + size == length else [*regular, length - size]


def count(height: int, width: int, size: int) -> int:
    """Number of tiles of a raster."""
    return len(starts(height, size)) * len(starts(width, size))


@dataclass(frozen=True)
class Chunk:
    """Tiles that are read at once.

    Attributes:
        window: What to read; it may reach beyond a raster smaller than a tile.
        tiles: The tiles' windows, all within ``window``.
    """

    window: Window
    tiles: tuple[Window, ...]


def row_groups(height: int, size: int, block_rows: int) -> list[tuple[int, ...]]:
    """First pixel rows of tile rows, grouped so that a source block belongs to one group as far as possible.

    With blocks taller than a tile, the tile rows of one row of blocks are read together, and no block is decoded twice.
    """
    together = max(1, block_rows // size)
    rows = starts(height, size)
    return [tuple(rows[i : i + together]) for i in range(0, len(rows), together)]


def windows(height: int, width: int, size: int) -> Iterator[Window]:
    """All tiles of a raster, row by row."""
    for row in starts(height, size):
        for column in starts(width, size):
            yield Window(column, row, size, size)


def chunks(
    groups: Sequence[Sequence[int]], width: int, size: int, block_columns: int, bytes_per_pixel: int
) -> Iterator[Chunk]:
    """Group the tiles of some row groups for reading: whole blocks, at most ``READ_BYTES`` at once.

    Args:
        groups: Row groups as `row_groups` gives them.
        width: Columns of the raster.
        size: Side of a tile.
        block_columns: Columns of a source block.
        bytes_per_pixel: Bytes of one pixel in all bands.
    """
    columns = starts(width, size)
    for rows in groups:
        tall = rows[-1] + size - rows[0]
        room = max(1, READ_BYTES // (tall * size * bytes_per_pixel))
        per_block = max(1, block_columns // size)
        together = max(1, room // per_block) * per_block if room > per_block else room
        for first in range(0, len(columns), together):
            part = columns[first : first + together]
            window = Window(part[0], rows[0], part[-1] + size - part[0], tall)
            yield Chunk(window, tuple(Window(column, row, size, size) for row in rows for column in part))


@dataclass(frozen=True)
class Places:
    """Where tiles lie on Earth.

    Attributes:
        wkb: Footprints in EPSG:4326 as WKB, None off Earth.
        longitude: Of the centres, degrees, NaN off Earth; ``[N]``.
        latitude: See ``longitude``.
    """

    wkb: list[bytes | None]
    longitude: np.ndarray
    latitude: np.ndarray


class Locator:
    """Places tiles of one grid on Earth."""

    def __init__(self, geobox: GeoBox) -> None:
        self.geobox = geobox
        self._to_degrees: Transformer | None = None
        self._poles: list[tuple[float, float, float]] = []
        if geobox.crs is None:
            return
        try:
            crs = CRS.from_user_input(str(geobox.crs))
            # PROJ refuses to go from one celestial body to another.
            self._to_degrees = Transformer.from_crs(crs, CRS.from_epsg(4326), always_xy=True)
            if not crs.is_geographic:
                self._find_poles()
        except (ProjError, CRSError):
            self._to_degrees = None

    def _find_poles(self) -> None:
        assert self._to_degrees is not None
        for latitude in (-90.0, 90.0):
            x, y = self._to_degrees.transform(0.0, latitude, direction="INVERSE")
            if math.isfinite(x) and math.isfinite(y):
                column, row = ~self.geobox.affine @ (x, y)
                self._poles.append((row, column, latitude))

    def locate(self, tiles: Sequence[Window]) -> Places:
        """Footprints and centres of tiles; without a CRS on Earth there are none."""
        blank = np.full(len(tiles), np.nan)
        if self._to_degrees is None or not tiles:
            return Places([None] * len(tiles), blank, blank)
        ring = _ring()
        columns = np.array([[w.col_off + u * w.width for u, _ in ring] for w in tiles])
        rows = np.array([[w.row_off + v * w.height for _, v in ring] for w in tiles])
        affine = self.geobox.affine
        x = affine.a * columns + affine.b * rows + affine.c
        y = affine.d * columns + affine.e * rows + affine.f
        longitude, latitude = (np.asarray(v) for v in self._to_degrees.transform(x, y))
        lon, lat = longitude[:, :-1], latitude[:, :-1]  # the last point is the centre
        on_earth = np.isfinite(lon).all(axis=1) & np.isfinite(lat).all(axis=1)
        pole = np.array([self._pole_within(tile) for tile in tiles])
        known = np.where(on_earth[:, None], lon, 0.0)
        beyond = np.abs(known).max(axis=1) > 180  # a grid in degrees that goes on past the antimeridian
        plain = on_earth & np.isnan(pole) & ~beyond & (np.ptp(known, axis=1) <= 180)
        wkb = np.full(len(tiles), None, object)
        wkb[plain] = shapely.to_wkb(shapely.polygons(np.stack([lon[plain], lat[plain]], axis=-1)))
        for i in np.flatnonzero(on_earth & ~plain):
            if beyond[i]:
                outline = cut_at_antimeridian(shapely.polygons(np.column_stack([lon[i], lat[i]])))
            else:
                outline = _across(lon[i], lat[i]) if np.isnan(pole[i]) else _cap(lat[i], pole[i])
            wkb[i] = shapely.to_wkb(outline)
        centre = longitude[:, -1]
        return Places(wkb.tolist(), np.where(np.abs(centre) > 180, (centre + 180) % 360 - 180, centre), latitude[:, -1])

    def _pole_within(self, tile: Window) -> float:
        """Latitude of the pole that a tile holds, NaN where it holds none."""
        for row, column, latitude in self._poles:
            if 0 <= row - tile.row_off <= tile.height and 0 <= column - tile.col_off <= tile.width:
                return latitude
        return math.nan


def _cap(latitude: np.ndarray, pole: float) -> Any:
    """The footprint of a tile that holds a pole: the whole cap."""
    edge = latitude.min() if pole > 0 else latitude.max()
    return shapely.box(-180.0, min(edge, pole), 180.0, max(edge, pole))


def _across(longitude: np.ndarray, latitude: np.ndarray) -> Any:
    """The footprint of a ring that crosses the antimeridian: drawn in 0 … 360 degrees and cut there.

    odc-geo's ``to_crs(…, wrapdateline=True)`` takes 40 to 180 ms for each such tile, more than cutting it, leaves some
    invalid where the antimeridian passes a corner, and knows nothing of poles.
    """
    whole = shapely.polygons(np.column_stack([np.where(longitude < 0, longitude + 360, longitude), latitude]))
    west = shapely.intersection(whole, shapely.box(0, -90, 180, 90))
    east = shapely.transform(shapely.intersection(whole, shapely.box(180, -90, 360, 90)), lambda p: p - [360.0, 0.0])
    parts = [p for side in (west, east) for p in shapely.get_parts(side) if p.geom_type == "Polygon"]
    return shapely.multipolygons(parts)


def _ring() -> list[tuple[float, float]]:
    """Points round the unit square, closed, and its centre at the end."""
    side = [i / (_SIDE_POINTS - 1) for i in range(_SIDE_POINTS - 1)]
    ring = (
        [(t, 0.0) for t in side]
        + [(1.0, t) for t in side]
        + [(1 - t, 1.0) for t in side]
        + [(0.0, 1 - t) for t in side]
    )
    return [*ring, ring[0], (0.5, 0.5)]


def tile_transform(geobox: GeoBox, tile: Window) -> list[float]:
    """The six numbers of a tile's affine transform, in rasterio's order."""
    a = geobox.affine
    x, y = a @ (tile.col_off, tile.row_off)
    return [a.a, a.b, x, a.d, a.e, y]
