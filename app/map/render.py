"""A tile of the map: numbers read through rio-tiler, painted, encoded as PNG.

Readers stay open, some per thread: opening a file costs more than reading a tile of it. Nothing here knows of HTTP.
"""

import io
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import rasterio
from PIL import Image
from rio_tiler.colormap import cmap
from rio_tiler.errors import PointOutsideBounds, TileOutsideBounds
from rio_tiler.io import Reader
from rio_tiler.models import ImageData

from app.map.source import Channel, ClassColor, Source, file_fingerprint
from app.map.style import Paint, Style
from tiles.scenes.validity import is_picture, measured

TILE = 256
OPEN_READERS = 24  # a thread
CODES = 65534  # a score is a code from 1 to 65535; 0 is nodata

_local = threading.local()

# Directories are not searched for sidecars at each opening; decoded blocks stay in memory; remote reads are joined.
GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "VSI_CACHE": "TRUE",
}


def _reader(path: str) -> Reader:
    """This thread's open reader of a file; a file that changed on disk is opened anew."""
    readers: OrderedDict[str, tuple[str, Reader]] = _local.__dict__.setdefault("readers", OrderedDict())
    state = file_fingerprint((path,))
    kept = readers.get(path)
    if kept and kept[0] == state:
        readers.move_to_end(path)
        return kept[1]
    if kept:
        kept[1].dataset.close()
    readers[path] = (state, Reader(None, dataset=rasterio.open(path, sharing=False)))
    readers.move_to_end(path)
    while len(readers) > OPEN_READERS:
        _, (_, oldest) = readers.popitem(last=False)
        oldest.dataset.close()
    return readers[path][1]


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
    with rasterio.Env(**GDAL_OPTIONS):
        for part in source.parts:
            numbers = _read_part([part[channel] for channel in channels], z, x, y, "bilinear" if smooth else "nearest")
            if numbers is None:
                continue
            if found is None:
                found = numbers
            else:
                fill = ~found.valid & numbers.valid
                found.values[:, fill] = numbers.values[:, fill]
                found.valid[fill] = True
            if found.valid.all():
                break
    return found


def _read_part(channels: list[Channel], z: int, x: int, y: int, resampling: str) -> TileNumbers | None:
    images: list[tuple[list[int], ImageData]] = []
    for path in dict.fromkeys(channel.path for channel in channels):
        at = [number for number, channel in enumerate(channels) if channel.path == path]
        indexes = tuple(dict.fromkeys(channels[number].index for number in at))
        try:
            image = _reader(path).tile(
                x,
                y,
                z,
                indexes=indexes,
                nodata=channels[at[0]].nodata,
                resampling_method=resampling,
                reproject_method=resampling,
            )
        except TileOutsideBounds:
            return None
        images.append((at, image))
    values: np.ndarray | None = None
    valid = np.ones((TILE, TILE), dtype=bool)
    for at, image in images:
        order = {index: number for number, index in enumerate(dict.fromkeys(channels[number].index for number in at))}
        if values is None:
            values = np.zeros((len(channels), TILE, TILE), dtype=image.array.dtype if len(images) == 1 else np.float32)
        for number in at:
            values[number] = image.array.data[order[channels[number].index]]
        mask = np.ma.getmaskarray(image.array)
        valid &= measured(mask, picture=is_picture([image.array.dtype.name]))
    if values is None:
        return None
    if values.dtype.kind == "f":
        valid &= np.isfinite(values).all(axis=0)
    return TileNumbers(values, valid) if valid.any() else None


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
    """A channel's number at a point; None for nodata; the class's name where there are classes."""

    band: str
    value: float | None
    label: str | None


def read_point(source: Source, lng: float, lat: float) -> list[PointValue]:
    """Numbers of every channel at a place; nothing outside the source."""
    with rasterio.Env(**GDAL_OPTIONS):
        for part in source.parts:
            values = [_point(channel, lng, lat) for channel in part]
            if any(value is not None for value in values):
                labels = {one.value: one.name for one in source.classes}
                return [
                    PointValue(channel.name, value, labels.get(int(value)) if value is not None and labels else None)
                    for channel, value in zip(part, values, strict=True)
                ]
    return []


def _point(channel: Channel, lng: float, lat: float) -> float | None:
    try:
        found = _reader(channel.path).point(lng, lat, indexes=(channel.index,), nodata=channel.nodata)
    except PointOutsideBounds:
        return None
    value = found.array[0]
    return None if np.ma.is_masked(value) or not np.isfinite(float(value)) else float(value)
