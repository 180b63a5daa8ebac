"""The index of a tile set: one GeoParquet row a tile, and ``tiles.json`` about the whole."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tiles.errors import InputError
from tiles.writing.outputs import replacing, write_json

VERSION = 1
INDEX_FILE = "index.parquet"
ABOUT_FILE = "tiles.json"
_ROW_GROUP = 1 << 17

_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("tile_id", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),  # record within the shard
        ("geometry", pa.binary()),  # footprint, WKB, EPSG:4326
        ("crs", _TEXT),
        ("transform", pa.list_(pa.float64())),  # a, b, c, d, e, f of the tile's own affine
        ("gsd_m", pa.float32()),
        ("valid_fraction", pa.float32()),
        ("mean", pa.list_(pa.float64())),  # per band, unit values of valid pixels
        ("std", pa.list_(pa.float64())),
        ("scale", pa.list_(pa.float64())),  # per band: unit = clip(dn * scale + offset, 0, 1)
        ("offset", pa.list_(pa.float64())),
        ("source", _TEXT),
        ("sensor", _TEXT),
        ("bands", _TEXT),  # comma-separated, in order
        ("datetime", _TEXT),
        ("cloud", pa.float32()),  # cloudy share, null where no mask says
        ("cell", _TEXT),  # Major-TOM cell of the centre
        ("label", _TEXT),
        ("split", _TEXT),
        ("checksum", pa.uint32()),  # CRC-32 of digital numbers, then packed validity
    ]
)
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"]}},  # no crs: OGC:CRS84
}


@dataclass(frozen=True)
class About:
    """What ``tiles.json`` says about a tile set.

    Attributes:
        size: Side of a tile in pixels.
        bands: Names of the bands, in order.
        tiles: Number of tiles.
        valid_pixels: Number of valid pixels.
        mean: Per band over the valid pixels, unit values.
        std: Per band over the valid pixels, unit values.
        shards: Number of tiles in each shard, by its number.
        sensors: Number of tiles of each sensor.
        labels: Names of the classes, where tiles have labels.
        split: Settings of the split in force, or None.
        version: Of the format.
    """

    size: int
    bands: tuple[str, ...]
    tiles: int
    valid_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shards: dict[int, int]
    sensors: dict[str, int] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    split: dict[str, Any] | None = None
    version: int = VERSION


def write_tables(tables: Iterable[pa.Table], path: Path, metadata: dict[bytes, bytes] | None = None) -> None:
    """Write an index (or a part of one) as GeoParquet, under a temporary name first.

    Args:
        tables: Rows of the index's schema; of many tables few are held in memory at a time.
        path: The file.
        metadata: To be kept in the file.
    """
    schema = SCHEMA.with_metadata({**(metadata or {}), b"geo": json.dumps(_GEO).encode()})
    # Only text repeats; WKB and statistics would bloat as dictionaries.
    texts = [column.name for column in SCHEMA if pa.types.is_dictionary(column.type)]
    # As with shards, a worker whose cut was killed may be at it too.
    with (
        replacing(path, shared=True) as part,
        pq.ParquetWriter(part, schema, compression="zstd", use_dictionary=texts) as writer,
    ):
        for group in _row_groups(tables):
            writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=_ROW_GROUP)


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ``_ROW_GROUP``, the last shorter."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(map(len, held)) >= _ROW_GROUP:
            together = pa.concat_tables(held).unify_dictionaries()
            yield together.slice(0, _ROW_GROUP)
            held = [together.slice(_ROW_GROUP)]
    if sum(map(len, held)):
        yield pa.concat_tables(held).unify_dictionaries()


def table_of(rows: dict[str, list]) -> pa.Table:
    """A table of the index's schema from one list a column; absent columns are null."""
    length = len(rows["tile_id"])
    return pa.table({f.name: pa.array(rows.get(f.name, [None] * length), type=f.type) for f in SCHEMA}, schema=SCHEMA)


def read_table(folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the index of a tile set, or some of its columns."""
    path = folder / INDEX_FILE
    if not os.path.exists(path):
        raise InputError(f"{folder} is no tile set: it has no {INDEX_FILE}; make one with `geodino tile`.")
    try:
        # ParquetFile, since the data set API would look for partitions in the folder names.
        return pq.ParquetFile(path, memory_map=True).read(columns=None if columns is None else list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); cut the tile set again.") from error


def write_about(about: About, folder: Path) -> None:
    """Write ``tiles.json``."""
    write_json(asdict(about), folder / ABOUT_FILE)


def read_about(folder: Path) -> About:
    """Read ``tiles.json``.

    Raises:
        InputError: Where the folder is no finished tile set, or of a later version of the format.
    """
    path = folder / ABOUT_FILE
    if not os.path.exists(path):
        raise InputError(f"{folder} is no finished tile set: it has no {ABOUT_FILE}; run `geodino tile` on it.")
    try:
        content = json.loads(path.read_text())
        if content["version"] > VERSION:
            raise InputError(
                f"{path} is of format {content['version']}, this geodino reads up to {VERSION}; upgrade it."
            )
        content["shards"] = {int(number): tiles for number, tiles in content["shards"].items()}
        for key in ("bands", "mean", "std", "labels"):
            content[key] = tuple(content[key])
        return About(**content)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); cut the tile set again.") from error


def column_array(column: pa.ChunkedArray) -> np.ndarray:
    """A column as an array: lists of one length become ``[N, K]``, texts objects (None where null)."""
    kind = column.type
    if pa.types.is_list(kind):
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 0)
    if pa.types.is_dictionary(kind):
        coded = column.unify_dictionaries().combine_chunks()
        coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
        words = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
        return words[coded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)]
    return column.to_numpy()
