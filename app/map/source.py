"""What a layer of the map is made of: bands of scenes, where they lie on the Earth, and what they mean.

Scenes come in through `tiles.scenes.opening`, which names their bands; maps that geodino made (classes, scores,
changes) are read for the legend that they carry.
"""

import math
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import transform_bounds

from tiles.errors import InputError
from tiles.grids import ground_sample_distance_m
from tiles.scenes.band import Band
from tiles.scenes.opening import open_scene
from tiles.scenes.raster import inspect, open_raster, reading
from tiles.scenes.scene import Scene
from tiles.writing.cog import read_classes

WEB_MERCATOR_PIXEL_M = 156_543.033928  # side of a pixel of the one tile at zoom 0, at the equator
LAST_ZOOM = 22
THRESHOLD_TAG = "GEODINO_THRESHOLD"  # of a change map
SCORE_TAG = "GEODINO_CHANGE_IDENTITY"  # of a change score


class Meaning(StrEnum):
    """What the numbers of a layer are."""

    imagery = "imagery"
    classes = "classes"  # ids with names and colours
    score = "score"  # larger is more of something; cut at a threshold on the map
    values = "values"  # any other single quantity


@dataclass(frozen=True)
class ClassColor:
    """One class of a classified raster."""

    value: int
    name: str
    color: tuple[int, int, int]

    @classmethod
    def of(cls, value: int, name: str, color: str) -> "ClassColor":
        """From a colour as ``#rrggbb``."""
        red, green, blue = bytes.fromhex(color.removeprefix("#"))
        return cls(value, name, (red, green, blue))

    @property
    def hex(self) -> str:
        """Colour as ``#rrggbb``."""
        return "#{:02x}{:02x}{:02x}".format(*self.color)


@dataclass(frozen=True)
class Source:
    """Rasters that make one layer.

    Attributes:
        name: What people call it.
        address: What was opened: the argument of the commands that use it.
        meaning: What its numbers are.
        parts: The scenes of a mosaic, earlier on top; one part for a plain raster. Their bands are the channels.
        geobox: Grid of the first part.
        bounds: West, south, east, north in degrees.
        dtype: NumPy name of the numbers' type.
        classes: Classes, where there are some.
        threshold: Where the maker of a score cut it, if it says so.
        gsd_m: Side of a pixel in metres.
        notes: What was decided about it while opening.
        fingerprint: Changes when a file changes.
        tags: Metadata of the first file.
    """

    name: str
    address: str
    meaning: Meaning
    parts: tuple[Scene, ...]
    geobox: GeoBox
    bounds: tuple[float, float, float, float]
    dtype: str
    classes: tuple[ClassColor, ...]
    threshold: float | None
    gsd_m: float
    notes: tuple[str, ...]
    fingerprint: str
    tags: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return self.parts[0].band_names

    @property
    def max_zoom(self) -> int:
        """Zoom level of web tiles that shows each pixel at least once."""
        latitude = math.radians(min(80.0, abs(self.bounds[1] + self.bounds[3]) / 2))
        per_pixel = max(self.gsd_m, 0.01) / max(math.cos(latitude), 0.17)
        return int(np.clip(math.ceil(math.log2(WEB_MERCATOR_PIXEL_M / per_pixel)), 0, LAST_ZOOM))


def open_source(address: str | Path) -> Source:
    """Open a scene or a map for the web map; headers only.

    Raises:
        InputError: Where it cannot be shown; one sentence names the file and the way out.
    """
    text = os.fspath(address)
    classified = _open_map(text)
    source = classified if classified is not None else _of_scene(open_scene(text))
    if source.meaning is Meaning.imagery and _made_by_a_backbone(text):
        source = replace(source, meaning=Meaning.values)
    return source


def _made_by_a_backbone(path: str) -> bool:
    """Whether a raster of several bands is features or a picture of them, which no backbone should look at again."""
    if not os.path.isfile(path) or not path.lower().endswith((".tif", ".tiff")):
        return False
    return not {"GEODINO_CUBE", "GEODINO_BACKBONE"}.isdisjoint(inspect(path).tags)


def _of_scene(scene: Scene) -> Source:
    return Source(
        name=scene.name,
        address=scene.source,
        meaning=Meaning.imagery if len(scene.bands) > 1 else Meaning.values,
        parts=tuple(part for one in scene.parts or (scene,) for part in _round_the_globe(one)),
        geobox=scene.geobox,
        bounds=geographic_bounds(scene.geobox, scene.source),
        dtype=scene.bands[0].dtype,
        classes=(),
        threshold=None,
        gsd_m=scene.gsd_m,
        notes=scene.notes,
        fingerprint=scene.fingerprint(),
    )


def _round_the_globe(scene: Scene) -> tuple[Scene, ...]:
    """The scene, and where its degrees go beyond 180 once more, a turn further, where the map looks for the rest."""
    crs = scene.crs
    box = scene.geobox.extent.boundingbox
    if crs is None or not crs.geographic or -180 <= box.left <= box.right <= 180:
        return (scene,)
    turn = Affine.translation(-360 if box.right > 180 else 360, 0)
    grids = {path: inspect(path).geobox for path in scene.paths()}
    turned = {path: GeoBox(grid.shape, turn @ grid.affine, grid.crs) for path, grid in grids.items()}
    geobox = GeoBox(scene.geobox.shape, turn @ scene.geobox.affine, crs)
    return scene, replace(scene, geobox=geobox, source_grids=turned)


def _open_map(path: str) -> Source | None:
    """A raster that is a map rather than imagery: one band of classes, or of floating-point values."""
    if path.lower().endswith((".json", ".geojson")) or os.path.isdir(path):
        return None
    raster = inspect(path)
    if len(raster.data_bands) != 1 or raster.geobox.crs is None:
        return None
    with open_raster(path) as opened, reading(path):
        classes = _classes_of(opened, path)
        tags = {**opened.tags(1), **opened.tags()}
    floating = raster.dtypes[0].startswith("float")
    if not classes and not floating:
        return None

    index = raster.data_bands[0]
    name = raster.descriptions[index - 1] or ("class" if classes else "value")
    scene = Scene(
        name=raster.stem,
        source=path,
        bands=(Band(name, path, index, raster.dtypes[index - 1], raster.nodata[index - 1], 1.0, 0.0),),
        geobox=raster.geobox,
        sensor="",
        gsd_m=ground_sample_distance_m(raster.geobox),
        block_shape=raster.block_shape,
        datetime=None,
        notes=(),
        own_masks=raster.own_masks,
    )
    threshold = _number(tags.get(THRESHOLD_TAG))
    score = floating and (threshold is not None or SCORE_TAG in tags)
    return Source(
        name=raster.stem,
        address=path,
        meaning=Meaning.classes if classes else Meaning.score if score else Meaning.values,
        parts=(scene,),
        geobox=raster.geobox,
        bounds=geographic_bounds(raster.geobox, path),
        dtype=raster.dtypes[0],
        classes=classes,
        threshold=threshold,
        gsd_m=scene.gsd_m,
        notes=(),
        fingerprint=scene.fingerprint(),
        tags=tags,
    )


def _classes_of(opened: DatasetReader, path: str) -> tuple[ClassColor, ...]:
    """Names and colours of a classified raster, from geodino's tag, else from its colour table; else nothing."""
    if opened.dtypes[0] not in {"uint8", "uint16"}:
        return ()
    with suppress(ValueError, TypeError):  # a damaged tag: the colour table still says something
        tagged = read_classes(path)
        if tagged:
            return tuple(ClassColor(one.value, one.name, one.color) for one in tagged)
    try:
        table = opened.colormap(1)
    except (ValueError, RasterioError):
        return ()
    # GDAL fills a table up to 256 with black: those entries are nobody's classes.
    used = {v: color for v, color in table.items() if color[3] > 0 and v != opened.nodata and color[:3] != (0, 0, 0)}
    return tuple(ClassColor(value, f"class {value}", color[:3]) for value, color in sorted(used.items()))


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None  # somebody else's tag of that name


def threshold_of(paths: Iterable[str]) -> float | None:
    """The threshold that a change map among some files was made with."""
    for path in paths:
        if path.endswith(".tif") and Path(path).exists():
            with open_raster(path) as opened:
                found = _number(opened.tags().get(THRESHOLD_TAG))
            if found is not None:
                return found
    return None


def geographic_bounds(geobox: GeoBox, name: str) -> tuple[float, float, float, float]:
    """West, south, east, north of a grid in degrees.

    Raises:
        InputError: Where the grid cannot be laid on a map of the Earth.
    """
    if geobox.crs is None:
        raise InputError(
            f"{name} has no coordinate reference system, so it has no place on a map; georeference it first."
        )
    box = geobox.extent.boundingbox
    try:
        bounds = transform_bounds(
            str(geobox.crs), "EPSG:4326", box.left, box.bottom, box.right, box.top, densify_pts=21
        )
    except (RasterioError, ValueError) as error:
        raise InputError(
            f"{name} is on a grid ({geobox.crs}) that cannot be brought onto a map of the Earth."
        ) from error
    west, south, east, north = bounds
    if not all(math.isfinite(value) for value in bounds):
        raise InputError(f"{name} is on a grid ({geobox.crs}) that cannot be brought onto a map of the Earth.")
    if east < west:  # over the dateline
        east += 360.0
    return west, max(south, -85.05), east, min(north, 85.05)


def has_overviews(source: Source) -> bool:
    """Whether far views of the layer need not read every pixel."""
    band = source.parts[0].bands[0]
    with open_raster(band.path) as opened:
        return max(opened.shape) <= 4096 or bool(opened.overviews(band.index))
