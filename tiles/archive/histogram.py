"""Exact histograms and percentiles of a tile set's valid pixels, merged over shards and workers.

Integers of up to 16 bits are counted number by number, so that every percentile is the one that sorting all pixels
would give. Other types are counted in 65,536 steps of [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tiles.archive.dataset import TileDataset
from tiles.archive.shard import unpack
from tiles.workers import share_out
from tiles.writing.outputs import write_json

STATISTICS_FILE = "statistics.json"
PERCENTILES = (1.0, 2.0, 5.0, 25.0, 50.0, 75.0, 95.0, 98.0, 99.0)
_STEPS = 1 << 16

# Type of the digital numbers, scale and offset: what turns a count of numbers into a count of unit values.
_Units = tuple[str, float, float]


@dataclass
class Counts:
    """Counts of digital numbers of one band, apart for every scale and type that occurs."""

    by_units: dict[_Units, np.ndarray] = field(default_factory=dict)

    def add(self, numbers: np.ndarray, scale: float, offset: float) -> None:
        """Count valid digital numbers ``[N]`` that share a scale and an offset."""
        units = (numbers.dtype.name, scale, offset)
        if numbers.dtype.kind in "iu" and numbers.dtype.itemsize <= 2:
            low = int(np.iinfo(numbers.dtype).min)
            counts = np.bincount(numbers.astype(np.int64) - low, minlength=1 << (8 * numbers.dtype.itemsize))
        else:
            unit = np.clip(numbers.astype(np.float64) * scale + offset, 0, 1)
            counts = np.bincount((unit * (_STEPS - 1)).round().astype(np.int64), minlength=_STEPS)
        self.by_units[units] = self.by_units[units] + counts if units in self.by_units else counts

    def merge(self, other: "Counts") -> None:
        """Add the counts of other pixels."""
        for units, counts in other.by_units.items():
            self.by_units[units] = self.by_units[units] + counts if units in self.by_units else counts

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit values in rising order ``[K]`` and how often each occurs ``[K]``."""
        pieces, weights = [], []
        for (dtype, scale, offset), counts in sorted(self.by_units.items()):
            kind = np.dtype(dtype)
            if kind.kind in "iu" and kind.itemsize <= 2:
                numbers = np.arange(len(counts)) + int(np.iinfo(kind).min)
                unit = np.clip(numbers * scale + offset, 0, 1)
            else:
                unit = np.arange(_STEPS) / (_STEPS - 1)
            pieces.append(unit[counts > 0])
            weights.append(counts[counts > 0])
        if not pieces:
            return np.zeros(0), np.zeros(0, np.int64)
        unit, weight = np.concatenate(pieces), np.concatenate(weights)
        order = np.argsort(unit, kind="stable")
        return unit[order], weight[order]

    def percentiles(self, wanted: Sequence[float]) -> np.ndarray:
        """Percentiles as `numpy.percentile` gives them on all pixels; NaN without pixels."""
        unit, weight = self.values()
        if not len(unit):
            return np.full(len(wanted), np.nan)
        ends = np.cumsum(weight)
        position = np.asarray(wanted, np.float64) / 100 * (ends[-1] - 1)
        below = np.floor(position).astype(np.int64)
        above = np.minimum(below + 1, ends[-1] - 1)
        low, high = (unit[np.searchsorted(ends, place, side="right")] for place in (below, above))
        return low + (high - low) * (position - below)

    def histogram(self, bins: int = 256) -> np.ndarray:
        """Pixels in equal bins of [0, 1]; the last includes 1."""
        unit, weight = self.values()
        return np.bincount(np.minimum((unit * bins).astype(np.int64), bins - 1), weights=weight, minlength=bins).astype(
            np.int64
        )


def count_tiles(path: Path, rows: np.ndarray) -> list[Counts]:
    """Count the valid pixels of some tiles, per band."""
    tiles = TileDataset(path)
    counts = [Counts() for _ in tiles.bands]
    for i in rows:
        record = tiles.read(int(i))
        scale, offset = tiles.exact_units(int(i))
        valid = unpack(tiles.raw(int(i))[1], tiles.size)
        for band, count in enumerate(counts):
            plane = record.values[band]
            count.add(plane.ravel() if valid.all() else plane[valid], float(scale[band]), float(offset[band]))
    return counts


def _count(job: tuple[Path, np.ndarray]) -> list[Counts]:
    return count_tiles(*job)


def describe(path: Path, workers: int = 1) -> dict[str, Any]:
    """Statistics of a tile set, which are also written to its ``statistics.json``.

    Returns:
        Number of tiles and valid pixels, and for every band mean, std, percentiles and a histogram of 256 bins.
    """
    tiles = TileDataset(path)
    pieces = np.array_split(np.arange(len(tiles)), max(1, min(len(tiles), workers * 8)))
    jobs = [(Path(path), rows) for rows in pieces]
    counted = [Counts() for _ in tiles.bands]

    def collect(_: object, counts: list[Counts]) -> None:
        for whole, piece in zip(counted, counts, strict=True):
            whole.merge(piece)

    share_out(jobs, _count, _count, collect, min(workers, len(jobs)) - 1)
    content: dict[str, Any] = {"tiles": len(tiles), "valid_pixels": tiles.about.valid_pixels, "bands": {}}
    for name, mean, std, counts in zip(tiles.bands, tiles.mean, tiles.std, counted, strict=True):
        found = counts.percentiles(PERCENTILES)
        content["bands"][name] = {
            "mean": float(mean),
            "std": float(std),
            "percentiles": {f"{q:g}": float(v) for q, v in zip(PERCENTILES, found, strict=True)},
            "histogram": counts.histogram().tolist(),
        }
    write_json(content, Path(path) / STATISTICS_FILE)
    return content
