"""A tile of the map: numbers read as every other part of geodino reads them, painted, encoded as PNG.

Files stay open, some per thread: opening one costs more than reading a tile of it. Nothing here knows of HTTP.
"""

import io
import math
import os
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image
from rasterio.io import DatasetReader
from rasterio.warp import transform
from rasterio.windows import Window
from rio_tiler.colormap import cmap

from app.map.source import WEB_MERCATOR_PIXEL_M, ClassColor, Source
from app.map.style import Paint, Style
from tiles.scenes.raster import open_raster
from tiles.scenes.reader import SceneReader
from tiles.scenes.scene import Scene

TILE = 256
OPEN_FILES = 64  # a thread
EARTH_RADIUS_M = 6_378_137.0  # of Web Mercator
CODES = 65534  # a score is a code from 1 to 65535; 0 is nodata

_local = threading.local()

# Decoded blocks stay in memory; remote reads are joined.
GDAL_OPTIONS = {"GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES", "VSI_CACHE": "TRUE"}
# Sidecars beside a file count, but are not looked for on the network.
REMOTE_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


def _kept(state: str, path: str) -> DatasetReader:
    """This thread's open file of a path; where ``state`` is another, its files changed and it is opened anew."""
    kept: OrderedDict[tuple[str, str], DatasetReader] = _local.__dict__.setdefault("kept", OrderedDict())
    key = (path, state)
    if key not in kept:
        with rasterio.Env(**(REMOTE_OPTIONS if "://" in path or "/vsicurl" in path else {})):
            kept[key] = open_raster(path)
    kept.move_to_end(key)
    while len(kept) > OPEN_FILES:
        _, oldest = kept.popitem(last=False)
        oldest.close()
    return kept[key]


@dataclass(frozen=True)
class TileNumbers:
    """Numbers of a tile: values ``[C, 256, 256]`` and valid, bool ``[256, 256]``."""

    values: np.ndarray
    valid: np.ndarray


def read_tile(source: Source, channels: tuple[int, ...], z: int, x: int, y: int, *, smooth: bool) -> TileNumbers | None:
    """Numbers of a web tile; None where the source has none there.

    Args:
        source: What to read.
        channels: Channels to read, from 0.
        z: Zoom level.
        x: Column of the tile.
        y: Row of the tile.
        smooth: Bilinear resampling; False (classes) takes the nearest pixel.
    """
    found: TileNumbers | None = None
    grid = _grid(z, x, y)
    # The ground that a pixel of the tile covers: Mercator's are smaller away from the equator.
    pixel_m = abs(grid.affine.a) / math.cosh(grid.affine.f / EARTH_RADIUS_M)
    # From afar, two pixels a side are averaged into one; classes are picked from more, lest stripes vanish.
    pixel_m /= 2 if smooth else 8
    with rasterio.Env(**GDAL_OPTIONS):
        for part in source.parts:
            seen = replace(
                part,
                bands=tuple(part.bands[channel] for channel in channels),
                geobox=grid,
                resampling="bilinear" if smooth else "nearest",
            )
            with SceneReader(seen, opener=partial(_kept, _state(part)), pixel_m=pixel_m) as reader:
                pixels = reader.read_dn(Window(0, 0, TILE, TILE))
            if not pixels.valid.any():
                continue
            if found is None:
                found = TileNumbers(pixels.values, pixels.valid)
            else:
                fill = ~found.valid & pixels.valid
                found.values[:, fill] = pixels.values[:, fill]
                found.valid[fill] = True
            if found.valid.all():
                break
    return found


def _grid(z: int, x: int, y: int) -> GeoBox:
    """Pixels of a web tile."""
    side = WEB_MERCATOR_PIXEL_M / 2**z
    half = WEB_MERCATOR_PIXEL_M * TILE / 2
    left, top = x * TILE * side - half, half - y * TILE * side
    return GeoBox((TILE, TILE), Affine(side, 0, left, 0, -side, top), "EPSG:3857")


def _state(scene: Scene) -> str:
    """What tells that files of a scene, or beside them, changed since they were opened."""
    told = []
    for path in scene.paths():
        for file in (path, f"{path}.msk", f"{path}.aux.xml"):
            if os.path.exists(file):
                found = os.stat(file)
                told.append(f"{file}:{found.st_size}:{found.st_mtime_ns}")
    return ",".join(sorted(told))


def paint(numbers: TileNumbers, style: Style) -> np.ndarray:
    """Colours of a tile, uint8 ``[256, 256, 4]``; transparent where not valid."""
    painted = np.zeros((*numbers.valid.shape, 4), dtype=np.uint8)
    if style.paint is Paint.score:
        codes = encode_scores(numbers.values[0], *style.stretch[0])
        painted[..., 0], painted[..., 1] = codes >> 8, codes & 255
        painted[..., 3] = 255
    elif style.paint is Paint.rgb:
        for number, (low, high) in enumerate(style.stretch):
            painted[..., number] = stretched(numbers.values[number], low, high)
        painted[..., 3] = 255
    elif style.paint is Paint.ramp:
        table = np.array([cmap.get(style.ramp)[step] for step in range(256)], dtype=np.uint8)
        painted = table[stretched(numbers.values[0], *style.stretch[0])]
    else:
        ids = numbers.values[0] if style.paint is Paint.classes else 1 + np.argmax(numbers.values, axis=0)
        table = class_table(style.classes)
        painted = table[np.clip(ids, 0, len(table) - 1).astype(np.int64)]
    painted[~numbers.valid] = 0
    return painted


def class_table(classes: tuple[ClassColor, ...]) -> np.ndarray:
    """Colour of each class id, uint8 ``[65536 or 256, 4]``; ids that are no class are transparent."""
    table = np.zeros((65_536 if any(one.value > 255 for one in classes) else 256, 4), dtype=np.uint8)
    for one in classes:
        table[one.value] = (*one.color, 255)
    return table


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers brought from ``low`` … ``high`` to 0 … 255, uint8, same shape."""
    scaled = (values.astype(np.float64) - low) * (255.0 / max(high - low, 1e-12))
    return np.clip(np.nan_to_num(scaled), 0, 255).astype(np.uint8)


def encode_scores(scores: np.ndarray, low: float, high: float) -> np.ndarray:
    """Codes 1 … 65535 of scores, uint16; the browser's ``code`` is the same map, so that a threshold cuts the same."""
    share = np.clip((np.nan_to_num(scores).astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
    return (1 + np.rint(share * CODES)).astype(np.uint16)


def png(painted: np.ndarray) -> bytes:
    """A PNG file of ``[H, W, 4]`` uint8; quick rather than small, for the way is short."""
    # Run lengths only: on imagery a third faster than looking for repeats, and smaller.
    picture = Image.fromarray(painted, "RGBA")
    opaque = picture.convert("RGB") if painted[..., 3].min() == 255 else picture
    target = io.BytesIO()
    opaque.save(target, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return target.getvalue()


def render(source: Source, style: Style, z: int, x: int, y: int) -> bytes | None:
    """A tile as PNG, or None where it would be empty."""
    numbers = read_tile(source, style.channels, z, x, y, smooth=style.paint is not Paint.classes)
    return None if numbers is None else png(paint(numbers, style))


@dataclass(frozen=True)
class PointValue:
    """A channel's number at a point; the class's name where there are classes."""

    band: str
    value: float
    label: str | None


def read_point(source: Source, lng: float, lat: float) -> list[PointValue]:
    """Numbers of every channel at a place; nothing outside the source, or where it has no data."""
    labels = {one.value: one.name for one in source.classes}
    with rasterio.Env(**GDAL_OPTIONS):
        for part in source.parts:
            (east,), (north,) = transform("EPSG:4326", str(part.crs), [lng], [lat])
            column, row = ~part.geobox.affine @ (east, north)
            if not (0 <= column < part.width and 0 <= row < part.height):
                continue
            with SceneReader(part, opener=partial(_kept, _state(part))) as reader:
                pixels = reader.read_dn(Window(int(column), int(row), 1, 1))
            if pixels.valid.all():
                return [
                    PointValue(name, float(value), labels.get(int(value)) if labels else None)
                    for name, value in zip(part.band_names, pixels.values[:, 0, 0], strict=True)
                ]
    return []
