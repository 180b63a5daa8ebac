"""Checking a tile set on disk against its index."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from .dataset import TileDataset
from .errors import InputError
from .progress import Progress, Silent


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
    found: list[Damage] = []
    bar = progress or Silent()

    def collect(results: Iterator[list[Damage]]) -> None:
        for done, damages in enumerate(results, 1):
            found.extend(damages)
            bar.update(done / len(jobs), f"{done} shards")

    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
            collect(pool.map(_verify_shard, jobs))
    else:
        collect(map(_verify_shard, jobs))
    return found


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
