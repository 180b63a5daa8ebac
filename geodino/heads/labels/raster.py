"""Labels from a raster of class numbers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from geodino.heads.labels.draw import Draw, row_blocks
from geodino.heads.legend import LARGEST_CLASS, Color, Legend
from tiles.errors import InputError
from tiles.grids import turned
from tiles.scenes.raster import read_shown
from tiles.writing.cog import read_classes

_OBJECT_SIDE = 32  # pixels of a raster are objects by blocks of this side
_LARGEST_NUMBER = 2**53  # floats hold every whole number up to here


def draw_raster(path: Path, geobox: GeoBox, draw: Draw) -> tuple[Legend, tuple[str, ...]]:
    """Draw from a raster of classes, its nearest pixel at each pixel of the scene.

    No label is where the raster says nodata, by value, mask or alpha; where it declares no value, also at 0.

    Args:
        path: the raster; its first band is read.
        geobox: the scene's grid.
        draw: takes the pixels, by the index of their class in the legend.

    Returns:
        The classes within the scene, by their number, and notes.

    Raises:
        InputError: it cannot be read or laid on the scene, or holds no class numbers.
    """
    height, width = (int(n) for n in geobox.shape)
    numbers = Draw(draw.most, draw.seed)
    try:
        with rasterio.open(path) as source:
            names, colors = _raster_legend(source)
            nodata = source.nodata
            notes = _notes(path, source)
            if source.dtypes[0].startswith("complex"):
                raise _no_classes(path)
            with _on_scene(path, source, geobox) as read:
                for start, stop in row_blocks(height, width):
                    values, valid = read(Window(0, start, width, stop - start))
                    _add(numbers, start, width, values, valid, nodata, path)
    except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be laid on the scene as labels: {' '.join(str(error).split())}") from error
    places, classes, objects = numbers.sample()
    draw.add(places, np.searchsorted(numbers.classes, classes), objects)
    own = {names.get(value, str(value)): color for value, color in colors.items()}
    return Legend.of([names.get(value, str(value)) for value in numbers.classes], own), notes


def _add(
    numbers: Draw, start: int, width: int, values: NDArray, valid: NDArray[np.bool_], nodata: float | None, path: Path
) -> None:
    valid = valid & np.isfinite(values) & (values != (0 if nodata is None else nodata))
    places = np.flatnonzero(valid)
    values = values.ravel()[places]
    found = np.unique(values)
    if not np.all((found == np.round(found)) & (abs(found.astype(float)) < _LARGEST_NUMBER)):
        raise _no_classes(path)
    if len(np.union1d(found.astype(np.int64), numbers.classes)) > LARGEST_CLASS:
        raise _no_classes(path)
    places += start * width
    rows, cols = np.divmod(places, width)
    objects = (rows // _OBJECT_SIDE) * (width // _OBJECT_SIDE + 1) + cols // _OBJECT_SIDE
    numbers.add(places, values.astype(np.int64), objects)


def _no_classes(path: Path) -> InputError:
    return InputError(f"{path} holds continuous values, not class numbers; give a raster of classes")


def _notes(path: Path, source: Any) -> tuple[str, ...]:
    bands = sum(interp != ColorInterp.alpha for interp in source.colorinterp)
    notes = [
        f"class numbers are read from the raster, {0 if source.nodata is None else source.nodata:g} means no label"
    ]
    if bands > 1:
        notes.append(f"{path} has {bands} bands; the first is read")
    return tuple(notes)


@contextlib.contextmanager
def _on_scene(path: Path, source: Any, geobox: GeoBox) -> Iterator[Any]:
    """Yield what reads a window of the scene's grid: the class numbers there, and where they are valid."""
    height, width = (int(n) for n in geobox.shape)
    same = source.shape == (height, width)
    placed = geobox.crs is not None and source.crs is not None
    if not placed and not same:
        raise InputError(
            f"{path} is {source.width} by {source.height} pixels and the scene {width} by {height}; without a "
            "coordinate reference system in both they must be the same grid"
        )
    alpha = next(
        (n for n, kind in zip(source.indexes, source.colorinterp, strict=True) if kind == ColorInterp.alpha), 0
    )
    own = turned(GeoBox(source.shape, source.transform, source.crs.to_wkt()), geobox).affine if placed else None
    if own is None or (same and source.crs == geobox.crs.to_wkt() and _alike(own, geobox.affine)):
        yield lambda window: read_shown(str(path), source, 1, window=window)
        return
    # The added alpha band says where the raster has a pixel. A nodata value of the result would do so too, and GDAL
    # would change the pixels that have it by one.
    with WarpedVRT(
        source, src_transform=own, crs=geobox.crs.to_wkt(), transform=geobox.affine, width=width, height=height,
        resampling=Resampling.nearest, add_alpha=not alpha,
    ) as grid:  # fmt: skip
        last = alpha or source.count + 1
        yield lambda window: (grid.read(1, window=window), grid.read(last, window=window) > 0)


def _alike(one: Affine, other: Affine) -> bool:
    return bool(np.allclose(one[:6], other[:6], rtol=1e-12, atol=0))


def _raster_legend(source: Any) -> tuple[dict[int, str], dict[int, Color]]:
    """Category names and colours stored in a raster, where it has them."""
    known = read_classes(source.name)
    if known:
        return {c.value: c.name for c in known}, {c.value: c.color for c in known}
    try:
        table = source.colormap(1)
    except ValueError:
        table = {}
    # GDAL fills the unused rest of a table with black.
    return {}, {value: rgba[:3] for value, rgba in table.items() if value > 0 and rgba[:3] != (0, 0, 0)}
