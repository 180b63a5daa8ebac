"""Labels from points, lines and polygons."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize

from geodino.heads.labels.class_field import choose_field, classify
from geodino.heads.labels.draw import Draw, row_blocks
from geodino.heads.labels.features import read_features
from geodino.heads.labels.projecting import on_scene
from geodino.heads.legend import Legend
from tiles.errors import InputError

if TYPE_CHECKING:
    import geopandas as gpd

_NONE = np.iinfo(np.int32).max


def draw_vector(
    path: Path, geobox: GeoBox, draw: Draw, *, field: str | None, layer: str | None
) -> tuple[Legend, tuple[str, ...]]:
    """Draw from the pixels that points, lines and polygons label.

    Pixels that two classes claim teach nothing and are left out; one that two objects of a class claim is the first's.

    Args:
        path: the file.
        geobox: the scene's grid.
        draw: takes the pixels, by the index of their class in the legend.
        field: attribute that holds the class; None chooses it.
        layer: layer to read; None takes all.

    Returns:
        All the classes of the file, and notes.

    Raises:
        InputError: see ``read_labels``.
    """
    frame, notes = read_features(path, geobox, layer)
    name, chosen = choose_field(frame, field, path)
    frame, codes, legend, left_out = classify(frame, name, path)
    geometries, projected = on_scene(frame, geobox, path)
    torn = _draw_geometries(geometries, codes.astype(np.int16), geobox, draw)
    if torn and not draw.classes:
        raise InputError(
            f"every pixel that {path} labels lies in objects of two classes; give labels that do not overlap"
        )
    notes += [*chosen, *left_out, *projected]
    if torn:
        notes.append(f"{torn:,} pixels lie in objects of two classes and are left out")
    return legend, tuple(notes)


def _draw_geometries(geometries: "gpd.GeoSeries", codes: NDArray[np.int16], geobox: GeoBox, draw: Draw) -> int:
    """Draw block by block of the scene; returns how many pixels two classes claim."""
    height, width = (int(n) for n in geobox.shape)
    points, shapes = _split(geometries, geobox)
    first_row = np.array([shape.row0 for shape in shapes], dtype=np.int64)
    end_row = np.array([shape.row1 for shape in shapes], dtype=np.int64)
    torn = 0
    for start, stop in row_blocks(height, width):
        here = (points.rows >= start) & (points.rows < stop)
        meeting = np.flatnonzero((first_row < stop) & (end_row > start))
        if not here.any() and not len(meeting):
            continue
        size = (stop - start) * width
        owner = np.full(size, _NONE, dtype=np.int32)  # the first object that claims a pixel
        least, most = np.full(size, np.iinfo(np.int16).max, np.int16), np.full(size, -1, np.int16)
        places = (points.rows[here] - start) * width + points.cols[here]
        numbers = points.numbers[here]
        np.minimum.at(owner, places, numbers)
        np.minimum.at(least, places, codes[numbers])
        np.maximum.at(most, places, codes[numbers])
        for shape in (shapes[number] for number in meeting):
            places = shape.burn(geobox, start, stop)
            code = codes[shape.number]
            owner[places] = np.minimum(owner[places], shape.number)
            least[places] = np.minimum(least[places], code)
            most[places] = np.maximum(most[places], code)
        claimed = owner != _NONE
        clear = claimed & (least == most)
        torn += int(claimed.sum()) - int(clear.sum())
        places = np.flatnonzero(clear)
        draw.add(places + start * width, least[places], owner[places])
    return torn


@dataclass(frozen=True)
class _Points:
    """Pixels of points: the number of each one's object (int32), its row and its column (int64), `[N]`."""

    numbers: NDArray[np.int32]
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]


@dataclass(frozen=True)
class _Shape:
    """A line or polygon, and the rows and columns of the grid that it may label."""

    number: int
    geometry: Any
    row0: int
    row1: int
    col0: int
    col1: int

    def burn(self, geobox: GeoBox, start: int, stop: int) -> NDArray[np.int64]:
        """Places, counted from row ``start``, of its pixels before ``stop``.

        Those whose centre lies in a polygon, or that a line touches; the pixel that a shape lies in where it holds no
        centre and does not reach beyond these rows.
        """
        top, bottom = max(self.row0, start), min(self.row1, stop)
        transform = geobox.affine @ geobox.affine.translation(self.col0, top)
        found = rasterize(
            [self.geometry], out_shape=(bottom - top, self.col1 - self.col0), transform=transform,
            all_touched="Line" in self.geometry.geom_type, dtype="uint8",
        )  # fmt: skip
        rows, cols = np.divmod(np.flatnonzero(found), found.shape[1])
        if not len(rows) and start <= self.row0 and self.row1 <= stop:
            point = self.geometry.representative_point()
            col, row = np.floor(~transform @ (point.x, point.y)).astype(np.int64)
            inside = 0 <= row < found.shape[0] and 0 <= col < found.shape[1]
            rows, cols = np.array([[row], [col]] if inside else [[], []], dtype=np.int64)
        return (rows + top - start) * int(geobox.shape[1]) + cols + self.col0


def _split(geometries: "gpd.GeoSeries", geobox: GeoBox) -> tuple[_Points, list[_Shape]]:
    """Points, and shapes that label a pixel; a shape too small for that labels the pixel it lies in."""
    height, width = (int(n) for n in geobox.shape)
    inverse = ~geobox.affine
    numbers: list[int] = []
    places: list[tuple[float, float]] = []
    shapes = []
    for number, geometry in enumerate(geometries):
        for part in parts_of(geometry):
            if part.geom_type in ("Point", "MultiPoint"):
                points = part.geoms if part.geom_type == "MultiPoint" else (part,)
                places += [inverse @ (point.x, point.y) for point in points]
                numbers += [number] * (len(places) - len(numbers))
                continue
            left, low, right, high = part.bounds
            corners = [inverse @ corner for corner in ((left, low), (left, high), (right, low), (right, high))]
            (col0, row0), (col1, row1) = np.floor(np.min(corners, axis=0)), np.ceil(np.max(corners, axis=0))
            row0, col0, row1, col1 = max(row0, 0), max(col0, 0), min(row1, height), min(col1, width)
            if row0 >= row1 or col0 >= col1:
                continue
            shape = _Shape(number, part, int(row0), int(row1), int(col0), int(col1))
            if _holds_pixels(shape, geobox):
                shapes.append(shape)
            else:
                point = part.representative_point()
                places.append(inverse @ (point.x, point.y))
                numbers.append(number)
    cols, rows = np.floor(np.array(places, dtype=float).reshape(-1, 2)).T
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    held = np.array(numbers, dtype=np.int32)[inside]
    return _Points(held, rows[inside].astype(np.int64), cols[inside].astype(np.int64)), shapes


def _holds_pixels(shape: _Shape, geobox: GeoBox) -> bool:
    """Whether it holds a pixel in any block; within a single one it sees to that itself."""
    height, width = (int(n) for n in geobox.shape)
    if shape.row1 <= next(row_blocks(height, width, shape.row0))[1]:
        return True
    blocks = row_blocks(shape.row1, width, shape.row0)
    return any(len(shape.burn(geobox, start, stop)) for start, stop in blocks)


def parts_of(geometry: Any) -> Iterator[Any]:
    """A geometry, or those in a collection."""
    if geometry.geom_type == "GeometryCollection":
        for part in geometry.geoms:
            yield from parts_of(part)
    elif not geometry.is_empty:
        yield geometry
