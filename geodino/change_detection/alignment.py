"""Two dates on one pixel grid: the first date's, cut to where both have pixels."""

from dataclasses import dataclass, replace

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from geodino.change_detection.radiometry import RadiometricFit
from geodino.change_detection.shift import Shift, combine_windows, phase_correlation
from tiles.errors import InputError
from tiles.scenes.band import Band
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
class Pair:
    """Two scenes on one grid.

    Attributes:
        before: the first date.
        after: the second date, seen on the first date's grid.
        remaining_shift: displacement in pixels that may be left between them.
        jitter: what is left of it at a typical place, pixels: the windows' scatter, or more where that is not known.
        notes: decisions taken, to be printed.
    """

    before: Scene
    after: Scene
    remaining_shift: float
    jitter: float
    notes: tuple[str, ...]

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that both dates have, in the first date's order."""
        return tuple(name for name in self.before.band_names if name in self.after.band_names)


def common_grid(before: Scene, after: Scene) -> GeoBox:
    """The pixels of the first date's grid that the second date's outline touches.

    Raises:
        InputError: one raster has no coordinate reference system and the other has, or they do not overlap.
    """
    grid, other = before.geobox, after.geobox
    if (grid.crs is None) != (other.crs is None):
        without = before.source if grid.crs is None else after.source
        raise InputError(f"{without} has no coordinate reference system and the other date has; give it one")
    height, width = other.shape
    along = np.linspace(0, 1, _EDGE_POINTS)
    cols = np.concatenate([along * width, along * width, np.zeros(_EDGE_POINTS), np.full(_EDGE_POINTS, width)])
    rows = np.concatenate([np.zeros(_EDGE_POINTS), np.full(_EDGE_POINTS, height), along * height, along * height])
    x, y = _apply(other.affine, cols, rows)
    if grid.crs is not None and grid.crs != other.crs:
        transformer = pyproj.Transformer.from_crs(other.crs.to_wkt(), grid.crs.to_wkt(), always_xy=True)
        x, y = transformer.transform(x, y)
        seen = np.isfinite(x) & np.isfinite(y)
        x, y = x[seen], y[seen]
    if len(x):
        cols, rows = _apply(~grid.affine, x, y)
        # Rounding of coordinates must not add a row of nothing.
        left, right = max(int(np.floor(cols.min() + 1e-3)), 0), min(int(np.ceil(cols.max() - 1e-3)), grid.shape[1])
        top, bottom = max(int(np.floor(rows.min() + 1e-3)), 0), min(int(np.ceil(rows.max() - 1e-3)), grid.shape[0])
        if left < right and top < bottom:
            return grid[top:bottom, left:right]
    raise InputError(f"{before.source} and {after.source} do not overlap; give two dates of the same place")


def align(before: Scene, after: Scene, *, correct_shift: bool = True) -> Pair:
    """Bring two dates onto one grid, with the residual shift between them taken out where it can be trusted.

    Args:
        before: the first date, whose grid is kept.
        after: the second date; any coordinate reference system, resolution and extent that overlaps.
        correct_shift: apply a trusted shift; False only reports it.

    Raises:
        InputError: the dates do not overlap, or share no band.
    """
    grid = common_grid(before, after)
    notes = []
    ratio = before.gsd_m / after.gsd_m
    resampling = "average" if ratio >= _FINER else "cubic"
    if ratio <= 1 / _FINER:
        notes.append(
            f"{after.name} is {1 / ratio:.1f} times coarser than {before.name}: what is smaller than its pixels looks "
            "like change; put it first to compare on its grid"
        )
    pair = Pair(before.on(grid), after.on(grid, resampling), _UNTRUSTED_SHIFT, _UNTRUSTED_JITTER, ())
    if not pair.bands:
        raise InputError(
            f"{before.source} ({', '.join(before.band_names)}) and {after.source} ({', '.join(after.band_names)}) "
            "share no band; name the bands with --band-names"
        )
    shift = measure_shift(pair)
    if shift.trusted and max(abs(shift.rows), abs(shift.cols)) < _SMALLEST_SHIFT:
        notes.append(f"no residual shift (below {_SMALLEST_SHIFT} px)")
    else:
        notes.append(shift.describe())
        if shift.trusted and correct_shift:
            moved = GeoBox(grid.shape, grid.affine @ Affine.translation(shift.cols, shift.rows), grid.crs)
            # Read on a grid that lies where the second date's pixels are; its windows are the common grid's windows.
            pair = replace(pair, after=after.on(moved, resampling))
    if shift.trusted and correct_shift:
        jitter = float(np.hypot(_SMALLEST_JITTER, shift.scatter))
        return replace(pair, remaining_shift=_TRUSTED_SHIFT, jitter=jitter, notes=tuple(notes))
    return replace(pair, notes=tuple(notes))


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


def normalised(scene: Scene, bands: tuple[str, ...], fit: RadiometricFit) -> Scene:
    """The scene with each fitted band's map to [0, 1] followed by its line."""
    lines = dict(zip(bands, zip(fit.gain, fit.offset, strict=True), strict=True))

    def follow(band: Band) -> Band:
        gain, offset = lines.get(band.name, (1.0, 0.0))
        return replace(band, scale=gain * band.scale, offset=gain * band.offset + offset)

    return replace(scene, bands=tuple(follow(band) for band in scene.bands))


def _apply(affine: Affine, cols: NDArray, rows: NDArray) -> tuple[NDArray, NDArray]:
    return affine.a * cols + affine.b * rows + affine.c, affine.d * cols + affine.e * rows + affine.f
