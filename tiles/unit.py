"""Cutting one unit of work: some parts of some sources into one shard and its part of the index."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rasterio.windows import Window

from . import grid
from .cell import cells
from .errors import InputError
from .images import ImageSet
from .index import SCHEMA, table_of, write_table
from .plan import PARTS, CutSettings, Entry, Source, Unit
from .reader import SceneReader
from .scene import Scene
from .shard import ShardWriter, checksum, pack
from .statistics import Meter, Moments, merge

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
class _Tile:
    """A tile on its way into the shard."""

    values: np.ndarray
    valid: np.ndarray | None  # None: every pixel
    cloud: float | None
    window: Window


class _Cutter:
    """Filters tiles and writes them with their index rows."""

    def __init__(self, settings: CutSettings, unit: Unit, writer: ShardWriter) -> None:
        self.settings, self.unit, self.writer = settings, unit, writer
        self.rows: dict[str, list[Any]] = defaultdict(list)
        self.full = pack(np.ones((settings.size, settings.size), bool))
        self.seen = 0

    def add(self, tile: _Tile, meter: Meter, row: Mapping[str, Any]) -> Moments | None:
        """Store a tile unless a filter rejects it; its moments, or None."""
        self.seen += 1
        settings = self.settings
        share = 1.0 if tile.valid is None else float(np.count_nonzero(tile.valid)) / settings.size**2
        if share < settings.min_valid or share == 0 or (tile.cloud is not None and tile.cloud > settings.max_cloud):
            return None
        values = np.ascontiguousarray(tile.values)
        valid = None if share == 1.0 else tile.valid
        moments = meter.measure(values, valid)
        std = moments.std
        if settings.min_std > 0 and std.max() < settings.min_std:
            return None
        bits = self.full if valid is None else pack(valid)
        content = {
            **row,
            "shard": self.unit.number,
            "row": self.writer.append(values, bits),
            "valid_fraction": share,
            "mean": moments.mean.tolist(),
            "std": std.tolist(),
            "cloud": tile.cloud,
            "checksum": checksum(values, bits),
        }
        for name in SCHEMA.names:  # every column, since sources of one unit may know different things
            self.rows[name].append(content.get(name))
        return moments

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
    *,
    ahead: bool = False,
) -> Receipt:
    """Cut one unit: its shard, then its part of the index with the receipt inside.

    Args:
        folder: The tile set.
        settings: What all tiles have in common.
        unit: What to cut.
        entries: Plan entries of the unit's sources, by number.
        sources: The opened sources of the unit, by number.
        report: Called with the number of tiles looked at since the last call.
        ahead: Read in a thread of its own while tiles are written; for a process that has a core to spare.
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
                moments[number] += _cut_scene(source, entry, (first, last), cutter, report, ahead)
            except InputError as error:
                # Half a scene would be a silent loss: it goes whole, here and when the index is put together.
                cutter.keep(before)
                moments.pop(number, None)
                failures.append((number, Failure(source.source, str(error))))
    receipt = Receipt(cutter.seen, writer.records, {n: merge(m) for n, m in moments.items() if m}, tuple(failures))
    rows = cutter.rows if cutter.rows else {"tile_id": []}
    table = table_of(rows).replace_schema_metadata({_RECEIPT: json.dumps(asdict(receipt)).encode()})
    write_table(table, part_path(folder, unit.number))
    return receipt


def _cut_scene(
    scene: Scene,
    entry: Entry,
    parts: tuple[int, int],
    cutter: _Cutter,
    report: Callable[[int], None] | None,
    ahead: bool,
) -> Iterator[Moments]:
    size = cutter.settings.size
    groups = grid.row_groups(scene.height, size, scene.block_shape[0])[slice(*parts)]
    pixel_bytes = np.dtype(entry.dtype).itemsize * len(scene.bands)
    meter, locator = Meter(scene.bands), grid.Locator(scene.geobox)
    common = _common(scene, entry)
    common |= {"crs": None if scene.crs is None else str(scene.crs), "gsd_m": scene.gsd_m}
    chunks = grid.chunks(groups, scene.width, size, scene.block_shape[1], pixel_bytes)
    for chunk, tiles in _read_ahead(scene, chunks) if ahead else _read(scene, chunks):
        places = locator.locate(chunk.tiles)
        names = cells(places.longitude, places.latitude)
        for tile, wkb, cell in zip(tiles, places.wkb, names, strict=True):
            window = tile.window
            row = {
                "tile_id": f"{scene.name}-{entry.fingerprint[:8]}_{window.row_off}_{window.col_off}",
                "geometry": wkb,
                "transform": grid.tile_transform(scene.geobox, window),
                "cell": cell,
                "label": entry.request.label,
            }
            moments = cutter.add(tile, meter, common | row)
            if moments is not None:
                yield moments
        if report:
            report(len(chunk.tiles))


def _read(scene: Scene, chunks: Iterable[grid.Chunk]) -> Iterator[tuple[grid.Chunk, list[_Tile]]]:
    with scene.open() as reader:
        for chunk in chunks:
            yield chunk, _tiles(reader, chunk)


def _read_ahead(scene: Scene, chunks: Iterable[grid.Chunk]) -> Iterator[tuple[grid.Chunk, list[_Tile]]]:
    """As `_read`, one chunk ahead: GDAL decodes in a thread of its own, which alone touches the reader."""
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        reader = thread.submit(scene.open).result()
        try:
            waiting: tuple[grid.Chunk, Future[list[_Tile]]] | None = None
            for chunk in chunks:
                coming = chunk, thread.submit(_tiles, reader, chunk)
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = coming
            if waiting is not None:
                yield waiting[0], waiting[1].result()
        finally:
            thread.submit(reader.close).result()


def _common(source: Source, entry: Entry) -> dict[str, Any]:
    return {
        "scale": [band.scale for band in source.bands],
        "offset": [band.offset for band in source.bands],
        "source": source.source,
        "sensor": source.sensor,
        "bands": ",".join(source.band_names),
        "datetime": source.datetime if isinstance(source, Scene) else None,
        "gsd_m": source.gsd_m,
    }


def _tiles(reader: SceneReader, chunk: grid.Chunk) -> list[_Tile]:
    """Read a chunk once and slice its tiles out of it."""
    pixels = reader.read_dn(chunk.window)
    cloud = reader.read_cloud(chunk.window)
    whole = bool(pixels.valid.all())
    tiles = []
    for window in chunk.tiles:
        top, left = window.row_off - chunk.window.row_off, window.col_off - chunk.window.col_off
        place = np.s_[top : top + window.height, left : left + window.width]
        share = None if cloud is None else float(cloud[place].mean())
        valid = None if whole else pixels.valid[place]
        tiles.append(_Tile(pixels.values[:, place[0], place[1]], valid, share, window))
    return tiles


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
    common = _common(images, entry)
    with images.open() as reader:
        for place, member in enumerate(images.members, 1):
            try:
                image = reader.read(member)
            except InputError as error:
                failures.append((number, Failure(f"{images.source}:{member}", str(error))))
                continue
            values, valid = image.values, image.valid
            height, width = values.shape[1:]
            if valid is None:
                valid = np.ones((height, width), bool)
            pad = ((0, max(0, size - height)), (0, max(0, size - width)))
            if any(end for _, end in pad):
                values, valid = np.pad(values, ((0, 0), *pad)), np.pad(valid, pad)
            row = {"source": f"{images.source}:{member}", "label": image.label}
            for window in grid.windows(height, width, size):
                cut = np.s_[window.row_off : window.row_off + size, window.col_off : window.col_off + size]
                tile = _Tile(values[:, cut[0], cut[1]], valid[cut], None, window)
                row["tile_id"] = f"{images.name}-{entry.fingerprint[:8]}/{member}_{window.row_off}_{window.col_off}"
                moments = cutter.add(tile, meter, common | row)
                if moments is not None:
                    yield moments
            if report and place % 256 == 0:
                report(256)
