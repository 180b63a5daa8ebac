"""True areas of a grid's pixels: on the ellipsoid, whatever the projection does to areas.

A pixel's corners are carried onto an equal-area projection of the grid's own ellipsoid, where a plane quadrilateral has
its area: the cylinder, on which a pixel of a grid in degrees is a rectangle and its area exact, and for other grids
nearer to a pole than to the equator the disc around it (Snyder 1987, "Map Projections: A Working Manual", sections 10
and 24).
"""

import math

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

# Pixels of each row that are measured, the rest lie between: areas change smoothly along a row.
_MEASURED = 33

FloatArray = NDArray[np.float64]


class PixelAreas:
    """Areas of a grid's pixels in square metres; without a place on a globe, in the square of the grid's own unit."""

    def __init__(self, geobox: GeoBox) -> None:
        self.geobox = geobox
        crs = None if geobox.crs is None else CRS.from_user_input(str(geobox.crs))
        globe = None if crs is None else crs.geodetic_crs
        geod = None if globe is None else globe.get_geod()
        factor = 1.0 if crs is None or not crs.axis_info else crs.axis_info[0].unit_conversion_factor or 1.0
        self._flat = abs(geobox.affine.determinant) * factor**2
        self._geod = geod
        self._radians = globe.axis_info[0].unit_conversion_factor if geod is not None and globe is not None else 0.0
        self._to_globe = None
        if geod is not None and crs is not None and not crs.is_geographic:
            self._to_globe = Transformer.from_crs(crs, globe, always_xy=True)

    @property
    def typical(self) -> float:
        """Area of the pixel at the grid's centre."""
        row = self.geobox.shape[0] // 2
        return float(self.rows(row, row + 1)[0, self.geobox.shape[1] // 2]) or self._flat

    def rows(self, start: int, stop: int) -> FloatArray:
        """Areas of the pixels of rows ``start`` to ``stop``, `[stop - start, W]`; 0 where a pixel is off the globe."""
        width = self.geobox.shape[1]
        if self._geod is None:
            return np.full((stop - start, width), self._flat)
        columns = np.unique(np.linspace(0, width - 1, min(width, _MEASURED)).round().astype(np.int64))
        lines = np.arange(start, stop + 1)[:, None]
        with np.errstate(invalid="ignore"):  # corners off the globe
            sides = [self._on_globe(columns, lines), self._on_globe(columns + 1, lines)]
            doubled = _doubled([self._cylinder(*side) for side in sides], 2 * math.pi if self._to_globe else 0.0)
            if self._to_globe is not None:
                polar = np.abs(sides[0][1][:-1]) > math.pi / 4
                doubled = np.where(polar, _doubled([self._disc(*side) for side in sides], 0.0), doubled)
        doubled *= self._geod.a**2
        measured = np.nan_to_num(np.abs(doubled) / 2, nan=0.0, posinf=0.0, neginf=0.0)
        if len(columns) == width:
            return measured
        after = np.clip(np.searchsorted(columns, np.arange(width), side="right"), 1, len(columns) - 1)
        share = (np.arange(width) - columns[after - 1]) / (columns[after] - columns[after - 1])
        return np.asarray(measured[:, after - 1] * (1 - share) + measured[:, after] * share)

    def _on_globe(self, columns: NDArray[np.int64], lines: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Longitude and latitude of pixel corners, radians, each `[lines, columns]`."""
        a = self.geobox.affine
        x, y = a.a * columns + a.b * lines + a.c, a.d * columns + a.e * lines + a.f
        if self._to_globe is not None:
            x, y = self._to_globe.transform(x, y)
        return np.asarray(x) * self._radians, np.asarray(y) * self._radians

    def _cylinder(self, longitude: FloatArray, latitude: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Places on the equal-area cylinder, in equatorial radii."""
        return longitude, self._height(np.sin(latitude))

    def _disc(self, longitude: FloatArray, latitude: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Places on the equal-area disc around the nearer pole, in equatorial radii."""
        radius = np.sqrt(np.maximum(2 * (self._height(np.ones(1)) - self._height(np.abs(np.sin(latitude)))), 0))
        return radius * np.cos(longitude), radius * np.sin(longitude)

    def _height(self, sine: FloatArray) -> FloatArray:
        """Area of the globe from the equator to a latitude, over that of the cylinder of height 1 around it."""
        assert self._geod is not None
        squared = self._geod.es
        if squared <= 0:
            return sine
        eccentricity = math.sqrt(squared)
        return np.asarray(
            (1 - squared) / 2 * (sine / (1 - squared * sine**2) + np.arctanh(eccentricity * sine) / eccentricity)
        )


def _doubled(sides: list[tuple[FloatArray, FloatArray]], turn: float) -> FloatArray:
    """Twice the areas of the quadrilaterals between the left and the right sides of pixels.

    Where the abscissa comes back after a ``turn``, differences are taken the short way round.
    """
    (x0, y0), (x1, y1) = sides
    diagonals = [x1[1:] - x0[:-1], x0[1:] - x1[:-1]]
    if turn:
        diagonals = [np.where(np.abs(d) > turn / 2, d - np.copysign(turn, d), d) for d in diagonals]
    return np.asarray(diagonals[0] * (y0[1:] - y1[:-1]) - diagonals[1] * (y1[1:] - y0[:-1]))
