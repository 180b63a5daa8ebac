"""Labelled pixels of a scene from points, polygons or a raster, in any format and coordinate reference system."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioIOError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from geodino.heads.legend import Color, Legend
from tiles.errors import InputError
from tiles.writing.cog import read_classes

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

# Neighbouring pixels repeat each other: more of them from one class cost time and add nothing to a linear head.
MOST_PIXELS_PER_CLASS = 4000
_ROW_BAND = 1024
COLOR_FIELD = "color"  # of vector labels: each class's own colour, as the web map writes it
_IDENTIFIERS = {"id", "fid", "objectid", "gid", "index", "uuid", "ogc_fid"}


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


def read_labels(
    path: str | Path,
    geobox: GeoBox,
    *,
    field: str | None = None,
    most_per_class: int = MOST_PIXELS_PER_CLASS,
    seed: int = 0,
) -> Labels:
    """Read labels onto a scene's pixel grid.

    Args:
        path: anything GDAL opens as vectors (points, lines, polygons) or as a raster of class numbers.
        geobox: the scene's grid.
        field: attribute that holds the class (vectors) or None to choose it: the one text attribute that repeats, or
            else the one integer attribute that does.
        most_per_class: samples kept of each class, shared evenly among its objects, drawn with ``seed``.
        seed: seed of that draw.

    Raises:
        InputError: the file cannot be read, has no coordinate reference system, has no usable or more than one
            possible field, lies outside the scene, or holds fewer than two classes there.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    labels = _read_raster(path, geobox) if _is_raster(path) else _read_vector(path, geobox, field)
    if len(labels) == 0:
        raise InputError(f"{path} lies outside the scene; give labels that overlap it")
    labels = _without_contradictions(labels)
    present = np.unique(labels.classes)
    if len(present) < 2:
        only = labels.legend.names[int(present[0])] if len(present) else "no class"
        raise InputError(f"{path} labels only {only!r} within the scene; two classes or more are needed")
    if len(present) < len(labels.legend):
        gone = [name for index, name in enumerate(labels.legend.names) if index not in present]
        legend = Legend(tuple(labels.legend.names[i] for i in present), tuple(labels.legend.colors[i] for i in present))
        notes = (*labels.notes, f"not within the scene and left out: {', '.join(gone)}")
        classes = np.searchsorted(present, labels.classes)
        labels = Labels(labels.rows, labels.cols, classes, labels.objects, legend, notes)
    return thin(labels, most_per_class, seed)


def thin(labels: Labels, most_per_class: int, seed: int = 0) -> Labels:
    """Keep at most ``most_per_class`` samples of each class, sharing them evenly among its objects."""
    rng = np.random.default_rng(seed)
    kept = []
    for index in range(len(labels.legend)):
        members = np.flatnonzero(labels.classes == index)
        if len(members) > most_per_class:
            # Deal the objects' pixels in turn: rank within the object first, a random order inside it.
            members = rng.permutation(members)
            order = np.argsort(labels.objects[members], kind="stable")
            _, starts, counts = np.unique(labels.objects[members][order], return_index=True, return_counts=True)
            rank = np.empty(len(members), dtype=np.int64)
            rank[order] = np.arange(len(members)) - np.repeat(starts, counts)
            members = members[np.argsort(rank, kind="stable")][:most_per_class]
        kept.append(np.sort(members))
    return labels.take(np.concatenate(kept))


def _is_raster(path: Path) -> bool:
    import pyogrio

    try:
        return len(pyogrio.list_layers(path)) == 0
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError):
        pass
    try:
        with rasterio.open(path):
            return True
    except RasterioIOError as error:
        raise InputError(f"{path} can be read neither as vectors nor as a raster") from error


def _read_vector(path: Path, geobox: GeoBox, field: str | None) -> Labels:
    import geopandas as gpd
    import pandas as pd

    frame = gpd.read_file(path)
    frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)]
    if len(frame) == 0:
        raise InputError(f"{path} holds no geometry")
    name, notes = choose_field(frame, field, path)
    frame = frame[frame[name].notna()]
    if len(frame) == 0:
        raise InputError(f"field {name!r} of {path} holds no value; name the one with the class with --field")
    if geobox.crs is None:
        frame = frame.set_crs(None, allow_override=True)
        notes = (*notes, "the scene has no coordinate reference system: labels are read in its own coordinates")
    elif frame.crs is None:
        raise InputError(f"{path} has no coordinate reference system; store one in it (a .prj beside a shapefile)")
    else:
        frame = frame.to_crs(str(geobox.crs))
    values = frame[name]
    if pd.api.types.is_float_dtype(values) and (values == values.round()).all():
        values = values.astype("int64")
    codes, uniques = pd.factorize(values, sort=True)
    names = tuple(str(value) for value in uniques)
    rows, cols, classes, objects = [], [], [], []
    for number, (geometry, code) in enumerate(zip(frame.geometry, codes, strict=True)):
        row, col = _burn(geometry, geobox)
        rows.append(row)
        cols.append(col)
        classes.append(np.full(len(row), code, dtype=np.int64))
        objects.append(np.full(len(row), number, dtype=np.int64))
    return Labels(
        np.concatenate(rows), np.concatenate(cols), np.concatenate(classes), np.concatenate(objects),
        Legend.of(names, _own_colors(frame, values)), notes,
    )  # fmt: skip


def _own_colors(frame: "gpd.GeoDataFrame", values: "pd.Series[Any]") -> dict[str, Color]:
    """Colours that the labels bring along for their classes: ``#rrggbb`` in a field ``color``."""
    if COLOR_FIELD not in frame.columns:
        return {}
    pairs = zip(values, frame[COLOR_FIELD].astype(str), strict=True)
    return {
        str(value): (int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16))
        for value, text in pairs
        if re.fullmatch("#[0-9a-fA-F]{6}", text)
    }


def choose_field(frame: "gpd.GeoDataFrame", field: str | None, path: Path) -> tuple[str, tuple[str, ...]]:
    """Attribute that holds the class, and a note when it was chosen rather than given.

    Raises:
        InputError: no such attribute, none usable, or several (the sentence lists them).
    """
    columns = [str(column) for column in frame.columns if column != frame.geometry.name]
    if field is not None:
        if field in columns:
            return field, ()
        raise InputError(f"{path} has no field {field!r}; it has {', '.join(columns) or 'none at all'}")

    def repeats(column: str) -> bool:
        distinct = frame[column].nunique()
        return 2 <= distinct <= 254 and (distinct < len(frame) or len(frame) <= 10)

    usable = [column for column in columns if column.lower() not in {*_IDENTIFIERS, COLOR_FIELD} and repeats(column)]
    import pandas as pd

    texts = [c for c in usable if pd.api.types.is_string_dtype(frame[c]) or pd.api.types.is_object_dtype(frame[c])]
    numbers = [c for c in usable if pd.api.types.is_integer_dtype(frame[c]) or pd.api.types.is_bool_dtype(frame[c])]
    candidates = texts or numbers
    if len(candidates) == 1:
        others = [column for column in texts + numbers if column != candidates[0]]
        beside = f" (also there: {', '.join(others)})" if others else ""
        return candidates[0], (f"classes are read from field {candidates[0]!r}{beside}",)
    if not candidates:
        raise InputError(
            f"{path} has no field that looks like a class, with two values or more; name one with --field: "
            f"{', '.join(columns)}"
        )
    raise InputError(f"{path} has several fields that may be the class; name one with --field: {', '.join(candidates)}")


def _burn(geometry: Any, geobox: GeoBox) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels whose centre lies in a polygon, that a line touches, or that hold the point; none outside the grid."""
    transform, (height, width) = geobox.affine, geobox.shape
    inverse = ~transform
    if geometry.geom_type in ("Point", "MultiPoint"):
        points = geometry.geoms if geometry.geom_type == "MultiPoint" else (geometry,)
        places = np.array([inverse @ (point.x, point.y) for point in points])
        cols, rows = np.floor(places).astype(np.int64).T
        inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        return rows[inside], cols[inside]
    left, top, right, bottom = geometry.bounds
    corners = np.array([inverse @ corner for corner in ((left, top), (left, bottom), (right, top), (right, bottom))])
    (col0, row0), (col1, row1) = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    row0, col0, row1, col1 = max(int(row0), 0), max(int(col0), 0), min(int(row1), height), min(int(col1), width)
    if row0 >= row1 or col0 >= col1:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    rows_of, cols_of = [], []
    local = transform @ transform.translation(col0, row0)
    thick = "Line" in geometry.geom_type
    # A polygon the size of a country is burnt in bands, not at once.
    for start in range(row0, row1, _ROW_BAND):
        size = (min(_ROW_BAND, row1 - start), col1 - col0)
        band = local @ transform.translation(0, start - row0)
        row, col = np.nonzero(rasterize([geometry], out_shape=size, transform=band, all_touched=thick))
        rows_of.append(row + start)
        cols_of.append(col + col0)
    rows, cols = np.concatenate(rows_of), np.concatenate(cols_of)
    if len(rows) == 0:  # smaller than a pixel: the pixel it lies in
        return _burn(geometry.representative_point(), geobox)
    return rows.astype(np.int64), cols.astype(np.int64)


def _read_raster(path: Path, geobox: GeoBox) -> Labels:
    height, width = geobox.shape
    with rasterio.open(path) as source:
        nodata = source.nodata
        names, colors = _raster_legend(source)
        if geobox.crs is None or source.crs is None:
            if source.shape != (height, width):
                raise InputError(
                    f"{path} is {source.width} by {source.height} pixels and the scene {width} by {height}; without a "
                    "coordinate reference system in both they must be the same grid"
                )
            grid = source
        else:
            grid = WarpedVRT(
                source, crs=str(geobox.crs), transform=geobox.affine, width=width, height=height,
                resampling=rasterio.enums.Resampling.nearest, nodata=nodata if nodata is not None else 0,
            )  # fmt: skip
        empty = 0 if nodata is None else nodata
        found: list[tuple[NDArray, NDArray, NDArray]] = []
        for start in range(0, height, _ROW_BAND):
            values = grid.read(1, window=Window(0, start, width, min(_ROW_BAND, height - start)))
            row, col = np.nonzero(np.isfinite(values) & (values != empty))
            found.append((row + start, col, values[row, col]))
    rows, cols, values = (np.concatenate(part) for part in zip(*found, strict=True))
    if len(np.unique(values[:100_000])) > 254 or not np.all(values == np.round(values)):
        raise InputError(f"{path} holds continuous values, not class numbers; give a raster of classes")
    uniques, codes = np.unique(values.astype(np.int64), return_inverse=True)
    legend_names = tuple(names.get(int(value), str(int(value))) for value in uniques)
    own = {names.get(value, str(value)): color for value, color in colors.items()}
    note = f"class numbers are read from the raster, {empty:g} means no label"
    blocks = (rows // 32) * (width // 32 + 1) + cols // 32
    return Labels(
        rows.astype(np.int64), cols.astype(np.int64), codes.astype(np.int64), blocks.astype(np.int64),
        Legend.of(legend_names, own), (note,),
    )  # fmt: skip


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


def _without_contradictions(labels: Labels) -> Labels:
    """One sample a pixel; pixels that two classes claim teach nothing and are dropped."""
    key = labels.rows * (1 << 32) + labels.cols
    order = np.lexsort((labels.classes, key))
    key, classes = key[order], labels.classes[order]
    first = np.r_[True, key[1:] != key[:-1]]
    starts = np.flatnonzero(first)
    ends = np.r_[starts[1:], len(key)] - 1
    clear = classes[starts] == classes[ends]
    kept = labels.take(np.sort(order[starts[clear]]))
    dropped = int((~clear).sum())
    if dropped:
        notes = (*kept.notes, f"{dropped:,} pixels lie in objects of two classes and are left out")
        kept = Labels(kept.rows, kept.cols, kept.classes, kept.objects, kept.legend, notes)
    return kept
