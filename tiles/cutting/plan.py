"""What is to be cut into a tile set, decided before cutting and kept beside it.

A plan lists sources and *units of work*: each unit writes one shard and nothing else, so that units can be done in
any order, by any number of workers, and again after an interruption, with the same bytes.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from tiles.cutting import tile_grid
from tiles.errors import OutputError
from tiles.scenes.images import ImageSet
from tiles.scenes.raster import files_of
from tiles.scenes.scene import Scene
from tiles.writing.outputs import write_json

PLAN_FILE = "plan.json"
PARTS = "parts"
_SMALLEST_SHARD, _LARGEST_SHARD = 32 * 2**20, 512 * 2**20
# A cut is divided into about so many units at least, so that workers have something to share.
_UNITS = 64

Source = Scene | ImageSet


@dataclass(frozen=True)
class CutSettings:
    """What every tile of a set has in common.

    Attributes:
        size: Side of a tile in pixels.
        bands: Names of the bands, in order.
        gsd_m: Ground sample distance to bring scenes to; None keeps each scene's own.
        min_valid: Least share of valid pixels.
        max_cloud: Largest share of cloudy pixels, where a mask tells.
        min_std: Least standard deviation of unit values, in the band that varies most; 0 keeps flat tiles.
    """

    size: int = 256
    bands: tuple[str, ...] = ("red", "green", "blue")
    gsd_m: float | None = None
    min_valid: float = 0.9
    max_cloud: float = 1.0
    min_std: float = 0.0


@dataclass(frozen=True)
class Request:
    """How a source was asked for, enough to open it again."""

    source: str
    sensor: str | None = None
    band_names: tuple[str, ...] | None = None
    mask: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Entry:
    """A source in the plan.

    Attributes:
        request: How to open it.
        fingerprint: Of the opened source.
        content: Digest of size, head and tail of its files, to notice copies.
        dtype: NumPy name of its digital numbers' type.
        tiles: Number of tiles before filtering (for images: of images).
        parts: Groups of tile rows (for images: images) to be shared out.
        notes: What was decided about sensor, bands and units.
    """

    request: Request
    fingerprint: str
    content: str
    dtype: str
    tiles: int
    parts: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unit:
    """Work that makes one shard: parts ``first`` to ``last`` (exclusive) of some sources."""

    number: int
    dtype: str
    pieces: tuple[tuple[int, int, int], ...]
    tiles: int


@dataclass(frozen=True)
class Plan:
    """Settings, sources and units of a tile set."""

    settings: CutSettings
    entries: tuple[Entry, ...] = ()
    units: tuple[Unit, ...] = ()
    split: dict | None = field(default=None)

    def save(self, folder: Path) -> None:
        """Write beside the shards, under a temporary name first."""
        write_json(asdict(self), folder / PLAN_FILE)

    def extended(self, new: list[tuple[Entry, Source]]) -> "Plan":
        """The plan with more sources, and units for them after those that exist."""
        entries = [*self.entries, *(entry for entry, _ in new)]
        sizes = {i: _part_sizes(source, self.settings.size) for i, (_, source) in enumerate(new, len(self.entries))}
        units = _units(entries, sizes, self.settings, len(self.units))
        return replace(self, entries=tuple(entries), units=(*self.units, *units))


def load(folder: Path) -> Plan | None:
    """The plan of a tile set, None where there is none."""
    path = folder / PLAN_FILE
    if not os.path.exists(path):
        return None
    try:
        content = json.loads(path.read_text())
        settings = content["settings"] | {"bands": tuple(content["settings"]["bands"])}
        entries = []
        for entry in content["entries"]:
            request = entry["request"]
            names = request["band_names"]
            request = Request(**(request | {"band_names": None if names is None else tuple(names)}))
            entries.append(Entry(**(entry | {"request": request, "notes": tuple(entry.get("notes", ()))})))
        units = [Unit(**(unit | {"pieces": tuple(tuple(p) for p in unit["pieces"])})) for unit in content["units"]]
        return Plan(CutSettings(**settings), tuple(entries), tuple(units), content.get("split"))
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{path} is damaged ({error}); choose another folder or --overwrite.") from error


def entry_of(request: Request, source: Source, size: int) -> Entry:
    """Describe an opened source."""
    parts = _part_sizes(source, size)
    if isinstance(source, Scene):
        dtype = np.result_type(*(np.dtype(band.dtype) for band in source.bands)).name
        return Entry(request, source.fingerprint(), _content(source), dtype, sum(parts), len(parts), source.notes)
    text = json.dumps([*source.state(), source.gsd_m, source.band_names, source.members])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Entry(request, fingerprint, "", source.dtype, sum(parts), len(parts), source.notes)


def _part_sizes(source: Source, size: int) -> list[int]:
    """Tiles in each part that can be shared out: groups of tile rows of a scene, single images of a set."""
    if isinstance(source, ImageSet):
        return [1] * len(source.members)
    across = len(tile_grid.starts(source.width, size))
    return [len(rows) * across for rows in tile_grid.row_groups(source.height, size, source.block_shape[0])]


def _units(
    entries: list[Entry], sizes: dict[int, list[int]], settings: CutSettings, first_number: int
) -> Iterator[Unit]:
    def tile_bytes(entry: Entry) -> int:
        return len(settings.bands) * settings.size**2 * np.dtype(entry.dtype).itemsize

    total = sum(sum(parts) * tile_bytes(entries[i]) for i, parts in sizes.items())
    target = min(max(total // _UNITS, _SMALLEST_SHARD), _LARGEST_SHARD)
    number, dtype, tiles, filled = first_number, "", 0, 0
    pieces: list[tuple[int, int, int]] = []
    for i, parts in sizes.items():
        entry = entries[i]
        first = 0
        for part, part_tiles in enumerate(parts):
            cost = part_tiles * tile_bytes(entry)
            if (pieces or part > first) and (entry.dtype != dtype or filled + cost > target):
                if part > first:
                    pieces.append((i, first, part))
                yield Unit(number, dtype, tuple(pieces), tiles)
                number, pieces, tiles, filled, first = number + 1, [], 0, 0, part
            dtype = entry.dtype
            tiles += part_tiles
            filled += cost
        if len(parts) > first:
            pieces.append((i, first, len(parts)))
    if pieces:
        yield Unit(number, dtype, tuple(pieces), tiles)


def _files(scene: Scene) -> list[str]:
    """The files that decide about a scene's pixels: of its bands in order, then of masks and parts, with sidecars."""
    paths = dict.fromkeys([*(band.path for band in scene.bands), *scene.paths()])
    found = [file for path in paths for file in files_of(path)]
    return list(dict.fromkeys([*found, *(file for part in scene.parts for file in _files(part))]))


def _content(scene: Scene) -> str:
    """Digest of size, head and tail of a scene's local files; empty where one is remote."""
    digest = hashlib.sha256()
    for band in scene.bands:
        digest.update(f"{band.index} {band.scale!r} {band.offset!r} ".encode())
    for path in map(Path, _files(scene)):
        if not path.is_file():
            return ""
        size = path.stat().st_size
        digest.update(f"{size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(65536))
            file.seek(max(0, size - 65536))
            digest.update(file.read())
    return digest.hexdigest()[:32]


def same_content(one: Scene, other: Scene) -> bool:
    """Whether two scenes' files hold the same bytes, read in full."""

    def digest(scene: Scene) -> bytes:
        whole = hashlib.sha256()
        for path in _files(scene):
            with open(path, "rb") as file:
                for block in iter(lambda: file.read(1 << 22), b""):
                    whole.update(block)
        return whole.digest()

    return digest(one) == digest(other)
