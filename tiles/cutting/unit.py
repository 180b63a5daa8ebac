"""Cutting one unit of work: some parts of some sources into one shard and its part of the index."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rasterio.windows import Window

from tiles.archive.index import SCHEMA, table_of, write_tables
from tiles.archive.shard import ShardWriter, checksum, pack
from tiles.archive.statistics import Meter, Moments, merge
from tiles.cutting import tile_grid
from tiles.cutting.plan import PARTS, CutSettings, Entry, Source, Unit
from tiles.errors import InputError
from tiles.grids import cells
from tiles.scenes.images import ImageSet
from tiles.scenes.reader import SceneReader
from tiles.scenes.scene import Scene

_RECEIPT = b"geodino"


@dataclass(frozen=True)
class Failure:
    """A source, or an image of one, that could not be read."""

    source: str
    reason: str


@dataclass(frozen=True)
class Receipt:
    """What cutting a unit gave.

    Attributes:
        seen: Tiles looked at.
        kept: Tiles stored.
        moments: Of the stored tiles, by source number.
        failures: Sources whose reading failed, by source number (as text), with what to say.
    """

    seen: int
    kept: int
    moments: dict[int, Moments]
    failures: tuple[tuple[int, Failure], ...]


def part_path(folder: Path, number: int) -> Path:
    """Where the index of a unit's tiles lies."""
    return folder / PARTS / f"part-{number:05d}.parquet"


def is_done(folder: Path, number: int) -> bool:
    """Whether a unit has been cut; its part of the index is written last."""
    return part_path(folder, number).exists()


def read_receipt(folder: Path, number: int) -> Receipt:
    """The receipt that a unit's part of the index carries."""
    content = json.loads(pq.read_schema(part_path(folder, number)).metadata[_RECEIPT])
    moments = {
        int(i): Moments(m["pixels"], tuple(m["sums"]), tuple(m["squares"])) for i, m in content["moments"].items()
    }
    failures = tuple((i, Failure(**failure)) for i, failure in content["failures"])
    return Receipt(content["seen"], content["kept"], moments, failures)


@dataclass(frozen=True)
class _Piece:
    """Pixels that were read at once, and the tiles to be cut out of them.

    Attributes:
        values: Digital numbers ``[C, H, W]``.
        valid: bool ``[H, W]``; None: every pixel.
        cloud: bool ``[H, W]``; None where no mask tells.
        origin: Row and column of the first pixel.
        windows: The tiles, all within.
    """

    values: np.ndarray
    valid: np.ndarray | None
    cloud: np.ndarray | None
    origin: tuple[int, int]
    windows: Sequence[Window]


class _Room:
    """Memory that is used again and again: several threads that ask the system for more get in each other's way."""

    def __init__(self, dtype: np.dtype) -> None:
        self.flat = np.empty(0, dtype)

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of that shape, C-contiguous, over what was taken before."""
        size = math.prod(shape)
        if self.flat.size < size:
            self.flat = np.empty(size, self.flat.dtype)
        return self.flat[:size].reshape(shape)


@dataclass(frozen=True)
class _Tile:
    """A tile that passed the filters on validity and cloud."""

    window: Window
    place: tuple[slice, slice]  # within its piece
    valid: np.ndarray | None  # None: every pixel
    share: float  # of valid pixels
    cloud: float | None


class _Cutter:
    """Filters tiles and writes them with their index rows."""

    def __init__(self, settings: CutSettings, unit: Unit, writer: ShardWriter) -> None:
        self.settings, self.unit, self.writer = settings, unit, writer
        self.rows: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        self.room = _Room(np.dtype(unit.dtype))
        self.full = pack(np.ones((settings.size, settings.size), bool))
        self.seen = 0

    def add(
        self,
        piece: _Piece,
        meter: Meter,
        common: Mapping[str, Any],
        describe: Callable[[Sequence[Window]], Mapping[str, list[Any]]],
    ) -> list[Moments]:
        """Store the tiles of a piece that no filter rejects; gives the moments of each.

        Args:
            piece: What was read.
            meter: Measures the tiles.
            common: What all of them have in the index.
            describe: What each of them has, by column.
        """
        self.seen += len(piece.windows)
        size, least = self.settings.size, self.settings.min_std
        tiles = [tile for window in piece.windows if (tile := self._pass(piece, window)) is not None]
        values = self.room.take((len(tiles), len(piece.values), size, size))
        for target, tile in zip(values, tiles, strict=True):
            np.copyto(target, piece.values[:, *tile.place])
        moments = meter.measure(values, [tile.valid for tile in tiles])
        if least > 0:
            rough = np.flatnonzero(moments.std.max(axis=1) >= least)
            tiles, values, moments = [tiles[i] for i in rough], values[rough], moments.take(rough)
        if not tiles:
            return []
        bits = np.stack([self.full if tile.valid is None else pack(tile.valid) for tile in tiles])
        first = self.writer.append(values, bits)
        own = {
            **describe([tile.window for tile in tiles]),
            "row": list(range(first, first + len(tiles))),
            "valid_fraction": [tile.share for tile in tiles],
            "mean": moments.mean.tolist(),
            "std": moments.std.tolist(),
            "cloud": [tile.cloud for tile in tiles],
            "checksum": [checksum(tile, packed) for tile, packed in zip(values, bits, strict=True)],
        }
        shared = {**common, "shard": self.unit.number}
        for name, column in self.rows.items():  # every column: sources of one unit may know different things
            column += own[name] if name in own else [shared.get(name)] * len(tiles)
        return moments.split()

    def _pass(self, piece: _Piece, window: Window) -> _Tile | None:
        """The tile of a window, None where too little of it is valid or too much is cloudy."""
        top, left = window.row_off - piece.origin[0], window.col_off - piece.origin[1]
        place = slice(top, top + window.height), slice(left, left + window.width)
        valid = None if piece.valid is None else piece.valid[place]
        share = 1.0 if valid is None else float(np.count_nonzero(valid)) / valid.size
        cloud = None if piece.cloud is None else float(piece.cloud[place].mean())
        if share < self.settings.min_valid or share == 0:
            return None
        if cloud is not None and cloud > self.settings.max_cloud:
            return None
        return _Tile(window, place, None if share == 1.0 else valid, share, cloud)

    def keep(self, records: int) -> None:
        """Forget all but the first ``records`` stored tiles."""
        self.writer.keep(records)
        for column in self.rows.values():
            del column[records:]


def cut_unit(
    folder: Path,
    settings: CutSettings,
    unit: Unit,
    entries: Mapping[int, Entry],
    sources: Mapping[int, Source],
    report: Callable[[int], None] | None = None,
) -> Receipt:
    """Cut one unit: its shard, then its part of the index with the receipt inside.

    Args:
        folder: The tile set.
        settings: What all tiles have in common.
        unit: What to cut.
        entries: Plan entries of the unit's sources, by number.
        sources: The opened sources of the unit, by number.
        report: Called with the number of tiles looked at since the last call.
    """
    moments: dict[int, list[Moments]] = defaultdict(list)
    failures: list[tuple[int, Failure]] = []
    with ShardWriter(folder, unit.number, len(settings.bands), settings.size, np.dtype(unit.dtype)) as writer:
        cutter = _Cutter(settings, unit, writer)
        for number, first, last in unit.pieces:
            source, entry = sources[number], entries[number]
            if isinstance(source, ImageSet):
                moments[number] += _cut_images(source.subset(first, last), entry, cutter, number, failures, report)
                continue
            before = writer.records
            try:
                moments[number] += _cut_scene(source, entry, (first, last), cutter, report)
            except InputError as error:
                # Half a scene would be a silent loss: it goes whole, here and when the index is put together.
                cutter.keep(before)
                moments.pop(number, None)
                failures.append((number, Failure(source.source, str(error))))
    receipt = Receipt(cutter.seen, writer.records, {n: merge(m) for n, m in moments.items() if m}, tuple(failures))
    stored = {_RECEIPT: json.dumps(asdict(receipt)).encode()}
    write_tables([table_of(cutter.rows)], part_path(folder, unit.number), stored)
    return receipt


def _cut_scene(
    scene: Scene,
    entry: Entry,
    parts: tuple[int, int],
    cutter: _Cutter,
    report: Callable[[int], None] | None,
) -> Iterator[Moments]:
    size = cutter.settings.size
    groups = tile_grid.row_groups(scene.height, size, scene.block_shape[0])[slice(*parts)]
    pixel_bytes = np.dtype(entry.dtype).itemsize * len(scene.bands)
    meter, locator = Meter(scene.bands), tile_grid.Locator(scene.geobox)
    common = _common(scene)
    common |= {"crs": None if scene.crs is None else str(scene.crs), "gsd_m": scene.gsd_m}
    common |= {"label": entry.request.label}

    def describe(windows: Sequence[Window]) -> dict[str, list[Any]]:
        places = locator.locate(windows)
        name = f"{scene.name}-{entry.fingerprint[:8]}"
        return {
            "tile_id": [f"{name}_{window.row_off}_{window.col_off}" for window in windows],
            "geometry": places.wkb,
            "transform": [tile_grid.tile_transform(scene.geobox, window) for window in windows],
            "cell": cells(places.longitude, places.latitude),
        }

    chunks = tile_grid.chunks(groups, scene.width, size, scene.block_shape[1], pixel_bytes)
    for piece in _read(scene, chunks):
        yield from cutter.add(piece, meter, common, describe)
        if report:
            report(len(piece.windows))


def _read(scene: Scene, chunks: Iterable[tile_grid.Chunk]) -> Iterator[_Piece]:
    """The pieces of a scene; the values of each are overwritten by the next."""
    with SceneReader(scene) as reader:
        room = _Room(reader.dtype)
        for chunk in chunks:
            window = chunk.window
            pixels = reader.read_dn(window, room.take((len(scene.bands), window.height, window.width)))
            valid = None if pixels.valid.all() else pixels.valid
            origin = (window.row_off, window.col_off)
            yield _Piece(pixels.values, valid, reader.read_cloud(window), origin, chunk.tiles)


def _common(source: Source) -> dict[str, Any]:
    return {
        "scale": [band.scale for band in source.bands],
        "offset": [band.offset for band in source.bands],
        "source": source.source,
        "sensor": source.sensor,
        "bands": ",".join(source.band_names),
        "datetime": source.datetime if isinstance(source, Scene) else None,
        "gsd_m": source.gsd_m,
    }


def _cut_images(
    images: ImageSet,
    entry: Entry,
    cutter: _Cutter,
    number: int,
    failures: list[tuple[int, Failure]],
    report: Callable[[int], None] | None,
) -> Iterator[Moments]:
    size = cutter.settings.size
    meter = Meter(images.bands)
    common = _common(images)
    with images.open() as reader:
        for place, member in enumerate(images.members, 1):
            try:
                image = reader.read(member)
            except InputError as error:
                failures.append((number, Failure(f"{images.source}:{member}", str(error))))
                continue
            values, valid = image.values, image.valid
            height, width = values.shape[1:]
            pad = ((0, max(0, size - height)), (0, max(0, size - width)))
            if any(end for _, end in pad):
                valid = np.pad(np.ones((height, width), bool) if valid is None else valid, pad)
                values = np.pad(values, ((0, 0), *pad))
            name = f"{images.name}-{entry.fingerprint[:8]}/{member}"

            def describe(windows: Sequence[Window], name: str = name) -> dict[str, list[Any]]:
                return {"tile_id": [f"{name}_{window.row_off}_{window.col_off}" for window in windows]}

            row = common | {"source": f"{images.source}:{member}", "label": image.label}
            piece = _Piece(values, valid, None, (0, 0), tuple(tile_grid.windows(height, width, size)))
            yield from cutter.add(piece, meter, row, describe)
            if report and place % 256 == 0:
                report(256)
