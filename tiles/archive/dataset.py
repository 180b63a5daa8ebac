"""Random access to the tiles of a tile set; imports neither torch nor GDAL, so that a thin training node can read."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tiles.archive.index import column_array, read_about, read_table
from tiles.archive.selection import read_kept
from tiles.archive.shard import checksum, open_shard, unpack
from tiles.errors import InputError
from tiles.scenes.band import Pixels, to_unit

# Maps that stay open; each costs two file handles.
_OPEN_SHARDS = 256


@dataclass(frozen=True)
class TileRecord:
    """One tile as stored.

    Attributes:
        values: Digital numbers ``[C, H, W]``, a read-only view of the memory map.
        valid: bool ``[H, W]``.
        scale: float32 ``[C]``; unit value = ``clip(dn * scale + offset, 0, 1)``.
        offset: float32 ``[C]``.
        gsd_m: Ground sample distance in metres.
    """

    values: np.ndarray
    valid: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    gsd_m: float


@dataclass(frozen=True)
class TileBatch:
    """Some tiles in unit values.

    Attributes:
        values: float32 ``[N, C, H, W]`` in [0, 1], 0 where invalid.
        valid: bool ``[N, H, W]``.
        gsd_m: float32 ``[N]``, metres.
    """

    values: np.ndarray
    valid: np.ndarray
    gsd_m: np.ndarray


class TileDataset:
    """A tile set on disk.

    Opening reads ``tiles.json`` and two integer columns; everything else is read when asked for. The object may be
    sent to other processes: they map the shards anew.

    Args:
        path: Folder that ``geodino tile`` wrote, or the ``curated.parquet`` that ``geodino curate`` put into one: then
            only the tiles it kept are seen.
        split: Only the tiles that ``geodino tiles split`` gave this name; all without.

    Raises:
        InputError: Where the folder is no finished tile set, or no tile has that split.
    """

    def __init__(self, path: str | Path, split: str | None = None) -> None:
        selection = Path(path) if Path(path).suffix == ".parquet" else None
        self.path = Path(path) if selection is None else selection.parent
        self.about = read_about(self.path)
        table = read_table(self.path, ["shard", "row"])
        self._shard = column_array(table.column("shard"))
        self._row = column_array(table.column("row"))
        if len(self._shard) != self.about.tiles:
            raise InputError(f"{self.path} is half-way through an interrupted cut; run the same `geodino tile` again.")
        self._chosen: np.ndarray | None = None
        if selection is not None:
            self._chosen = read_kept(selection, len(self._shard))
        if split is not None:
            member = np.flatnonzero(self._named(split))
            self._chosen = member if self._chosen is None else np.intersect1d(self._chosen, member)
        if self._chosen is not None:
            self._shard, self._row = self._shard[self._chosen], self._row[self._chosen]
        self._maps: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def _named(self, split: str) -> np.ndarray:
        """Which tiles of the whole set are of a split, bool ``[N]``."""
        names = column_array(read_table(self.path, ["split"]).column("split"))
        found = names == split
        if not found.any():
            known = ", ".join(sorted({str(name) for name in names if isinstance(name, str)})) or "none yet"
            raise InputError(
                f"{self.path} has no tiles of the split {split} (it has: {known}); make it with `geodino tiles split`."
            )
        return found

    def __len__(self) -> int:
        return len(self._shard)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in order."""
        return self.about.bands

    @property
    def size(self) -> int:
        """Side of a tile in pixels."""
        return self.about.size

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        if self._chosen is None:
            return np.array(self.about.mean), np.array(self.about.std)
        weight, mean, std = (self.column(name).astype(np.float64) for name in ("valid_fraction", "mean", "std"))
        weight = weight[:, None] / weight.sum()
        whole = (weight * mean).sum(axis=0)
        return whole, np.sqrt((weight * (std**2 + (mean - whole) ** 2)).sum(axis=0))

    @property
    def mean(self) -> np.ndarray:
        """Mean of the valid pixels per band, unit values, float64 ``[C]``."""
        return self._moments[0]

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of the valid pixels per band, unit values, float64 ``[C]``."""
        return self._moments[1]

    def column(self, name: str) -> np.ndarray:
        """A column of the index: ``[N]``, or ``[N, K]`` for lists.

        Raises:
            InputError: Where the index has no such column.
        """
        try:
            return self._columns(name)[0]
        except KeyError:
            raise InputError(f"The index of {self.path} has no column {name}.") from None

    def _columns(self, *names: str) -> list[np.ndarray]:
        table = read_table(self.path, names)
        columns = [column_array(table.column(name)) for name in names]
        return columns if self._chosen is None else [column[self._chosen] for column in columns]

    @property
    def shards(self) -> np.ndarray:
        """Number of the shard that each tile lies in, int32 ``[N]``."""
        return self._shard

    @cached_property
    def _exact_units(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scale, offset, gsd_m = self._columns("scale", "offset", "gsd_m")
        return scale, offset, gsd_m

    @cached_property
    def _units(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scale, offset, gsd_m = (values.astype(np.float32) for values in self._exact_units)
        return scale, offset, gsd_m

    def exact_units(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and offset of tile ``i`` in float64 ``[C]``, as the index holds them."""
        return self._exact_units[0][i], self._exact_units[1][i]

    @cached_property
    def _checksums(self) -> np.ndarray:
        return self._columns("checksum")[0]

    def _map(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        found = self._maps.get(number)
        if found is None:
            try:
                found = open_shard(self.path, number)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"Shard {number} of {self.path} cannot be read ({error}); cut the tile set again."
                ) from error
            self._maps[number] = found
            if len(self._maps) > _OPEN_SHARDS:
                self._maps.popitem(last=False)
        return found

    def raw(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Views of the memory maps: digital numbers ``[C, H, W]`` and packed validity ``[H, ceil(W / 8)]``."""
        values, bits = self._map(int(self._shard[i]))
        row = int(self._row[i])
        return values[row], bits[row]

    def read(self, i: int) -> TileRecord:
        """Tile ``i`` as stored."""
        values, bits = self.raw(i)
        scale, offset, gsd_m = self._units
        return TileRecord(values, unpack(bits, self.size), scale[i], offset[i], float(gsd_m[i]))

    def read_unit(self, i: int) -> Pixels:
        """Tile ``i`` in unit values."""
        batch = self.read_batch([i])
        return Pixels(batch.values[0], batch.valid[0])

    def read_batch(self, indices: Sequence[int] | np.ndarray) -> TileBatch:
        """Tiles in unit values, in the order of ``indices``."""
        scale, offset, gsd_m = self._units
        chosen = np.asarray(indices, dtype=np.int64)
        side = self.size
        values = np.empty((len(chosen), len(self.bands), side, side), np.float32)
        valid = np.empty((len(chosen), side, side), bool)
        for place, i in enumerate(chosen):
            stored, bits = self.raw(int(i))
            valid[place] = unpack(bits, side)
            to_unit(stored, valid[place], scale[i], offset[i], out=values[place])
        return TileBatch(values, valid, gsd_m[chosen])

    def intact(self, i: int) -> bool:
        """Whether tile ``i`` still has the checksum it was cut with."""
        values, bits = self.raw(i)
        return checksum(np.ascontiguousarray(values), np.ascontiguousarray(bits)) == int(self._checksums[i])

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_maps": OrderedDict()}
