"""Reads vector labels of any format into one table of geometries and attributes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from odc.geo.geobox import GeoBox

from geodino.heads.labels.points_table import find_columns, points_of
from tiles.errors import InputError

if TYPE_CHECKING:
    import geopandas as gpd
    from shapely.geometry.base import BaseGeometry


def is_vector(path: Path) -> bool:
    """Whether the file is a table of points, or GDAL finds a layer of features in it."""
    import pyogrio

    if find_columns(path) is not None:
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again when the file is read
            return len(pyogrio.list_layers(path)) > 0
    except (RuntimeError, ValueError, OSError):  # pyogrio's are runtime errors
        return False


def read_features(path: Path, geobox: GeoBox, layer: str | None) -> tuple["gpd.GeoDataFrame", list[str]]:
    """Read a file's features that have a geometry.

    Args:
        path: anything GDAL opens as vectors, or a table of points.
        geobox: the scene's grid, for the coordinates of a table.
        layer: the layer to read; None reads all of them, where their fields agree.

    Returns:
        One table, in the reference system of its first layer, two-dimensional, and notes.

    Raises:
        InputError: nothing can be read, or it is not clear which layer is meant.
    """
    notes: list[str] = []
    columns = find_columns(path)
    if columns is not None and layer is not None:
        raise InputError(f"{path} is a table, which has no layers; leave --layer out")
    with _one_sentence(path, notes):
        frame = _read_layers(path, layer, notes) if columns is None else points_of(path, columns, geobox, notes)
    present = ~(frame.geometry.isna() | frame.geometry.is_empty)
    if not present.any():
        raise InputError(f"{path} holds no geometry")
    gone = int((~present).sum())
    if gone:
        notes.append(f"{gone:,} labels have no geometry and are left out")
    frame = frame[present]
    readable = [_is_readable(geometry) for geometry in frame.geometry]
    if not all(readable):
        notes.append(f"{len(readable) - sum(readable):,} labels are collections with curves and are left out")
    if not any(readable):
        raise InputError(f"{path} holds curves in collections only; convert them to straight lines")
    return frame[readable].reset_index(drop=True), notes


def _is_readable(geometry: "BaseGeometry") -> bool:
    """Whether its coordinates can be read; GDAL makes straight lines of curves, but not within collections."""
    import shapely

    if geometry.geom_type != "GeometryCollection":
        return True
    try:
        shapely.get_coordinates(geometry)
    except shapely.errors.ShapelyError:
        return False
    return True


def _read_layers(path: Path, layer: str | None, notes: list[str]) -> "gpd.GeoDataFrame":
    import geopandas as gpd
    import pandas as pd
    import pyogrio

    layers = pyogrio.list_layers(path)
    names = [str(name) for name, kind in layers if kind is not None] or [str(name) for name, _ in layers]
    listed = ", ".join(names)
    if layer is not None:
        if layer not in names:
            raise InputError(f"{path} has no layer {layer!r}; it has {listed}")
        names = [layer]
    frames = [pyogrio.read_dataframe(path, layer=name, force_2d=True, on_invalid="warn") for name in names]
    if not all(isinstance(frame, gpd.GeoDataFrame) for frame in frames):
        raise InputError(f"{path} holds no geometry; a table of points needs columns lon and lat, or x and y")
    filled = [(name, frame) for name, frame in zip(names, frames, strict=True) if len(frame)]
    if len(filled) < 2:
        return filled[0][1] if filled else frames[0]
    first = filled[0][1]
    agree = all(set(frame.columns) == set(first.columns) for _, frame in filled)
    placed = {frame.crs is None for _, frame in filled}
    if not agree or len(placed) > 1:
        raise InputError(f"{path} has several layers that do not go together; name one with --layer: {listed}")
    notes.append(f"the layers {', '.join(name for name, _ in filled)} are read together; --layer takes one of them")
    crs = first.crs
    moved = [frame if crs is None or frame.crs == crs else frame.to_crs(crs) for _, frame in filled]
    return gpd.GeoDataFrame(pd.concat(moved, ignore_index=True), geometry=first.geometry.name, crs=crs)


@contextmanager
def _one_sentence(path: Path, notes: list[str]) -> Iterator[None]:
    """Turn errors of the libraries that read vectors into one sentence, and their warnings into notes."""
    from shapely.errors import ShapelyError

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            yield
        # pyogrio's and pyproj's are runtime errors; a text in another encoding, a broken number or date a value error
        except (RuntimeError, ValueError, TypeError, OSError, ShapelyError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(f"{path} cannot be read as labels: {reason}; mend it or convert it to .gpkg") from error
    said = [one for one in told if not issubclass(one.category, (DeprecationWarning, FutureWarning))]
    notes += [f"{path.name}: {text}" for text in dict.fromkeys(" ".join(str(one.message).split()) for one in said)]
