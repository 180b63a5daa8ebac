"""Reads labels of any kind onto a scene's pixel grid."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError

from geodino.heads.labels.draw import Draw
from geodino.heads.legend import Legend
from tiles.errors import InputError

# Neighbouring pixels repeat each other: more of them from one class cost time and add nothing to a linear head.
MOST_PIXELS_PER_CLASS = 4000


@dataclass(frozen=True)
class Labels:
    """Labelled pixels.

    Attributes:
        rows: pixel row of each sample in the scene's grid, int64 `[N]`.
        cols: pixel column `[N]`.
        classes: index into the legend, from 0, int64 `[N]`.
        objects: which point or polygon each sample came from (a raster: which 32-pixel block), int64 `[N]`.
        legend: names and colours.
        notes: decisions taken, to be printed.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    classes: NDArray[np.int64]
    objects: NDArray[np.int64]
    legend: Legend
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, keep: NDArray) -> "Labels":
        """Only the samples of a boolean mask or an index array."""
        return Labels(self.rows[keep], self.cols[keep], self.classes[keep], self.objects[keep], self.legend, self.notes)


@contextmanager
def _damaged_messages() -> Iterator[None]:
    """Keep libraries from printing a traceback for each of GDAL's messages that is no UTF-8, as of damaged files."""
    ignored, printed = sys.unraisablehook, sys.excepthook
    sys.unraisablehook = lambda told: None if isinstance(told.exc_value, UnicodeError) else ignored(told)
    sys.excepthook = lambda kind, *told: None if issubclass(kind, UnicodeError) else printed(kind, *told)
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = ignored, printed


@_damaged_messages()
def check_reading(labels: str | Path | None, name: str, field: str | None, layer: str | None) -> None:
    """Refuse what says how to read a file of labels where there is none.

    Args:
        labels: the file, None where none is given.
        name: the option that would give it.
        field: attribute that holds the class, or None.
        layer: layer of the file, or None.

    Raises:
        InputError: ``field`` or ``layer`` is given and ``labels`` is not.
    """
    given = [f"--{option}" for option, value in {"field": field, "layer": layer}.items() if value is not None]
    if labels is None and given:
        raise InputError(f"{' and '.join(given)} say how to read a file of labels; give --{name} or leave them out")


def read_labels(
    path: str | Path,
    geobox: GeoBox,
    *,
    field: str | None = None,
    layer: str | None = None,
    most_per_class: int = MOST_PIXELS_PER_CLASS,
    seed: int = 0,
) -> Labels:
    """Read labels onto a scene's pixel grid, in memory that the sample and the file's geometries bound.

    Args:
        path: anything GDAL opens as vectors (points, lines, polygons), a table of points, or a raster of class numbers.
        geobox: the scene's grid.
        field: attribute that holds the class (vectors) or None to choose it: the one text attribute that repeats, or
            else the one integer attribute that does.
        layer: layer of the file; None takes all of them together, where their fields agree.
        most_per_class: samples kept of each class, shared evenly among its objects, drawn with ``seed``.
        seed: seed of that draw.

    Returns:
        The samples, class by class; those of vectors object by object, and from top to bottom.

    Raises:
        InputError: the file cannot be read, has no coordinate reference system, has no usable or more than one
            possible field, has layers that do not go together, lies outside the scene, or holds fewer than two classes
            there.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist")
    draw = Draw(most_per_class, seed)
    if is_raster(path):
        if layer is not None:
            raise InputError(f"{path} is a raster, which has no layers; leave --layer out")
        from geodino.heads.labels.raster import draw_raster

        legend, notes = draw_raster(path, geobox, draw)
        of_raster = True
    else:
        from geodino.heads.labels.vector import draw_vector

        legend, notes = draw_vector(path, geobox, draw, field=field, layer=layer)
        of_raster = False
    places, classes, objects = draw.sample()
    present = draw.classes
    if not present:
        raise InputError(f"{path} lies outside the scene; give labels that overlap it")
    if len(present) < 2:
        raise InputError(
            f"{path} labels only {legend.names[present[0]]!r} within the scene; two classes or more are needed"
        )
    if len(present) < len(legend):
        gone = [name for index, name in enumerate(legend.names) if index not in present]
        legend = Legend(tuple(legend.names[i] for i in present), tuple(legend.colors[i] for i in present))
        notes = (*notes, f"not within the scene and left out: {', '.join(gone)}")
        classes = np.searchsorted(present, classes)
    order = np.lexsort((places, classes) if of_raster else (places, objects, classes))
    rows, cols = np.divmod(places[order], int(geobox.shape[1]))
    return Labels(rows, cols, classes[order], objects[order], legend, notes)


def is_raster(path: Path) -> bool:
    """Whether to read labels as a raster rather than as vectors.

    Raises:
        InputError: the file is neither.
    """
    from geodino.heads.labels.features import is_vector

    if is_vector(path):
        return False
    try:
        with rasterio.open(path):
            return True
    except (RasterioError, OSError, ValueError) as error:
        raise InputError(f"{path} can be read neither as vectors nor as a raster") from error
