"""Dates on one pixel grid: the first date's, cut to where all have pixels."""

from dataclasses import dataclass

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from geodino.change_detection.shift import Shift, combine_windows, phase_correlation
from tiles.errors import InputError
from tiles.grids import turn_of, turned, turns_to
from tiles.scenes.reader import SceneReader
from tiles.scenes.scene import Scene

# Points along each side of a raster when its outline is carried into another projection, where it may be curved.
_EDGE_POINTS = 33
# A date finer by this factor is averaged onto the common grid instead of interpolated: pixels in between would be lost.
_FINER = 1.5
_SHIFT_SIDE = 256
_SHIFT_WINDOWS = 7
# Below this a shift is not worth resampling the image once more.
_SMALLEST_SHIFT = 0.05
# What may be left, in pixels: where windows agree, their own scatter; elsewhere what orthorectified pairs differ by.
_TRUSTED_SHIFT = 0.5
_UNTRUSTED_SHIFT = 2.0
# What is left at a typical place of a pair whose windows agree perfectly (a shift is measured to a twentieth of a
# pixel, terrain and sensors add to that), and of one whose windows do not agree, in pixels.
_SMALLEST_JITTER = 0.1
_UNTRUSTED_JITTER = 0.5


@dataclass(frozen=True)
class AlignedDate:
    """One date on the pixel grid of the first.

    Attributes:
        scene: the date, read on that grid.
        shift: rows and columns of displacement against the first date that were taken out, pixels.
        remaining_shift: displacement in pixels that may be left.
        jitter: what is left of it at a typical place, pixels: the windows' scatter, or more where that is not known.
        notes: decisions taken, to be printed.
    """

    scene: Scene
    shift: tuple[float, float] = (0.0, 0.0)
    remaining_shift: float = 0.0
    jitter: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two scenes on one grid.

    Attributes:
        before: the first date.
        after: the second date, seen on the first date's grid.
        shift: rows and columns of displacement between them that were taken out, pixels.
        remaining_shift: displacement in pixels that may be left between them.
        jitter: what is left of it at a typical place, pixels.
    """

    before: Scene
    after: Scene
    shift: tuple[float, float] = (0.0, 0.0)
    remaining_shift: float = 0.0
    jitter: float = 0.0

    @classmethod
    def of(cls, before: AlignedDate, after: AlignedDate) -> "Pair":
        """Two dates that were both aligned to the first; what may be left of either adds up."""
        shift = (after.shift[0] - before.shift[0], after.shift[1] - before.shift[1])
        remaining = max(before.remaining_shift, after.remaining_shift)
        return cls(before.scene, after.scene, shift, remaining, float(np.hypot(before.jitter, after.jitter)))

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that both dates have, in the first date's order."""
        return tuple(name for name in self.before.band_names if name in self.after.band_names)


def common_grid(first: Scene, *others: Scene) -> GeoBox:
    """The pixels of the first date's grid that the outlines of all others touch.

    Raises:
        InputError: one raster has no coordinate reference system and another has, or they do not overlap.
    """
    grid = first.geobox
    for other in others:
        grid = _touched(grid, first, other)
    return grid


def _touched(grid: GeoBox, first: Scene, after: Scene) -> GeoBox:
    other = turned(after.geobox, grid)
    if (grid.crs is None) != (other.crs is None):
        without = first.source if grid.crs is None else after.source
        raise InputError(f"{without} has no coordinate reference system and the other date has; give it one")
    height, width = other.shape
    along = np.linspace(0, 1, _EDGE_POINTS)
    none, back = np.zeros(_EDGE_POINTS), 1 - along
    cols = np.concatenate([along * width, none + width, back * width, none])
    rows = np.concatenate([none, along * height, none + height, back * height])
    x, y = _apply(other.affine, cols, rows)
    if grid.crs is not None and grid.crs != other.crs:
        transformer = pyproj.Transformer.from_crs(other.crs.to_wkt(), grid.crs.to_wkt(), always_xy=True)
        x, y = transformer.transform(x, y)
        seen = np.isfinite(x) & np.isfinite(y)
        x, y = _turns_within(grid, turns_to(grid, x[seen]), y[seen])
    if len(x):
        cols, rows = _apply(~grid.affine, x, y)
        # Rounding of coordinates must not add a row of nothing.
        left, right = max(int(np.floor(cols.min() + 1e-3)), 0), min(int(np.ceil(cols.max() - 1e-3)), grid.shape[1])
        top, bottom = max(int(np.floor(rows.min() + 1e-3)), 0), min(int(np.ceil(rows.max() - 1e-3)), grid.shape[0])
        if left < right and top < bottom:
            return grid[top:bottom, left:right]
    raise InputError(f"{first.source} and {after.source} do not overlap; give dates of one place")


def _turns_within(grid: GeoBox, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """An outline in all turns of the globe in which it overlaps a grid, where it may end and begin."""
    turn, box = turn_of(grid), grid.boundingbox
    if not turn or not len(x):
        return x, y
    moved = [x + turn * number for number in (-1, 0, 1)]
    kept = [side for side in moved if side.max() > box.left and side.min() < box.right]
    return (np.concatenate(kept), np.tile(y, len(kept))) if kept else (x, y)


def align(first: Scene, other: Scene) -> AlignedDate:
    """Bring a date onto the grid of the first, with the shift between them taken out where it can be trusted.

    Args:
        first: the first date on the grid that is kept.
        other: the date; any coordinate reference system and resolution, and an extent that overlaps.

    Raises:
        InputError: the dates share no band.
    """
    grid = first.geobox
    notes = []
    ratio = first.gsd_m / other.gsd_m
    resampling = "average" if ratio >= _FINER else "cubic"
    if ratio <= 1 / _FINER:
        notes.append(
            f"{other.name} is {1 / ratio:.1f} times coarser than {first.name}: what is smaller than its pixels looks "
            "like change; put it first to compare on its grid"
        )
    pair = Pair(first, other.on(grid, resampling))
    if not pair.bands:
        raise InputError(
            f"{first.source} ({', '.join(first.band_names)}) and {other.source} ({', '.join(other.band_names)}) "
            "share no band; name the bands with --band-names"
        )
    shift = measure_shift(pair)
    still = shift.trusted and max(abs(shift.rows), abs(shift.cols)) < _SMALLEST_SHIFT
    notes.append(f"no residual shift (below {_SMALLEST_SHIFT} px)" if still else shift.describe())
    if not shift.trusted:
        return AlignedDate(pair.after, (0.0, 0.0), _UNTRUSTED_SHIFT, _UNTRUSTED_JITTER, tuple(notes))
    jitter = float(np.hypot(_SMALLEST_JITTER, shift.scatter))
    if still:
        return AlignedDate(pair.after, (0.0, 0.0), _TRUSTED_SHIFT, jitter, tuple(notes))
    moved = GeoBox(grid.shape, grid.affine @ Affine.translation(shift.cols, shift.rows), grid.crs)
    # Read on a grid that lies where the date's own pixels are; its windows are the common grid's windows.
    return AlignedDate(other.on(moved, resampling), (shift.rows, shift.cols), _TRUSTED_SHIFT, jitter, tuple(notes))


def measure_shift(pair: Pair) -> Shift:
    """Shift of the second date against the first, from windows spread over the scene."""
    height, width = pair.before.height, pair.before.width
    side = min(_SHIFT_SIDE, height // 2, width // 2)
    if side < 16:
        return combine_windows([])
    votes = []
    before, after = pair.before.select(pair.bands), pair.after.select(pair.bands)
    with SceneReader(before) as first, SceneReader(after) as second:
        for top in np.unique(np.linspace(0, height - side, min(_SHIFT_WINDOWS, 2 * height // side)).astype(int)):
            for left in np.unique(np.linspace(0, width - side, min(_SHIFT_WINDOWS, 2 * width // side)).astype(int)):
                window = Window(int(left), int(top), side, side)
                one, other = first.read(window), second.read(window)
                valid = one.valid & other.valid
                if valid.mean() >= 0.9:
                    votes.append(phase_correlation(_gray(one.values, valid), _gray(other.values, valid)))
    return combine_windows(votes)


def _gray(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean over bands, each by its own deviation; nodata at the mean."""
    image = np.zeros(valid.shape)
    for band in values:
        seen = band[valid]
        deviation = float(seen.std())
        if deviation > 0:
            image += np.where(valid, (band - seen.mean()) / deviation, 0)
    return image


def _apply(affine: Affine, cols: NDArray, rows: NDArray) -> tuple[NDArray, NDArray]:
    return affine.a * cols + affine.b * rows + affine.c, affine.d * cols + affine.e * rows + affine.f
