"""Checking a tile set on disk against its index."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiles.archive.dataset import TileDataset
from tiles.errors import InputError
from tiles.progress import Progress, Silent
from tiles.workers import share_out


@dataclass(frozen=True)
class Damage:
    """Something wrong with a tile set: a shard that cannot be read, or a tile that is not what was cut."""

    where: str
    what: str


def verify(path: Path, workers: int = 1, progress: Progress | None = None) -> list[Damage]:
    """Check every shard's shape and every tile's checksum.

    Raises:
        InputError: Where the folder is no finished tile set.
    """
    tiles = TileDataset(path)
    jobs = [(Path(path), number) for number in tiles.about.shards]
    found: dict[int, list[Damage]] = {}
    bar = progress or Silent()

    def collect(job: tuple[Path, int], damages: list[Damage]) -> None:
        found[job[1]] = damages
        bar.update(len(found) / len(jobs), f"{len(found)} shards")

    share_out(jobs, _verify_shard, _verify_shard, collect, min(workers, len(jobs)) - 1)
    return [damage for _, damages in sorted(found.items()) for damage in damages]


def _verify_shard(job: tuple[Path, int]) -> list[Damage]:
    path, number = job
    tiles = TileDataset(path)
    rows = np.flatnonzero(tiles.shards == number)
    try:
        first, _ = tiles.raw(int(rows[0]))
    except (InputError, IndexError) as error:
        return [Damage(f"shard {number}", str(error))]
    if first.shape != (len(tiles.bands), tiles.size, tiles.size):
        return [Damage(f"shard {number}", f"holds tiles of shape {first.shape}")]
    names = tiles.column("tile_id")
    damages = []
    for i in rows:
        try:
            intact = tiles.intact(int(i))
        except IndexError:
            damages.append(Damage(str(names[i]), f"is missing from shard {number}"))
            continue
        if not intact:
            damages.append(Damage(str(names[i]), f"has another checksum than when it was cut (shard {number})"))
    return damages
