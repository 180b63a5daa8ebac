"""Doing units of work: in this process, in several, or on a Dask cluster."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiles.cutting.plan import CutSettings, Entry, Source, Unit
from tiles.cutting.unit import Receipt, cut_unit
from tiles.errors import InputError
from tiles.progress import Progress
from tiles.workers import cores, share_out

# Below so many bytes of tiles, starting processes takes longer than they save.
_WORTH_PROCESSES = 256 * 2**20
# GDAL and NumPy leave Python to other threads while they work; more threads than this wait for it.
_THREADS = 4


@dataclass(frozen=True)
class Job:
    """A unit of work with all that a worker needs to cut it; it may be sent to another process or machine."""

    folder: Path
    settings: CutSettings
    unit: Unit
    entries: dict[int, Entry]
    sources: dict[int, Source]

    def __call__(self, report: Callable[[int], None] | None = None) -> Receipt:
        """Cut the unit."""
        return cut_unit(self.folder, self.settings, self.unit, self.entries, self.sources, report)


def _call(job: Job) -> Receipt:
    return job()


def run(jobs: list[Job], workers: int, dask: str | None, progress: Progress) -> list[Receipt]:
    """Do jobs here (``workers`` 1), in processes (0: one a core where it is worth it), or on a Dask cluster.

    One process cuts in several threads, each of several processes in one.
    """
    total = sum(job.unit.tiles for job in jobs) or 1
    if dask is not None:
        return _run_dask(jobs, dask, progress, total)
    available = cores()
    if not workers:
        workers = available if available > _THREADS and _bytes(jobs) >= _WORTH_PROCESSES else 1
    receipts: list[Receipt] = []
    done = 0

    def collect(job: Job, receipt: Receipt) -> None:
        nonlocal done
        receipts.append(receipt)
        done += job.unit.tiles
        progress.update(min(1.0, done / total), f"{done} tiles")

    helpers = min(workers, len(jobs)) - 1
    threads = min(available, _THREADS, len(jobs)) - 1 if workers == 1 else 0
    share_out(jobs, _call, _call, collect, max(0, helpers), max(0, threads))
    return receipts


def _run_dask(jobs: list[Job], address: str, progress: Progress, total: int) -> list[Receipt]:
    from distributed import Client, as_completed

    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"No Dask scheduler answers at {address} ({error}).") from error
    receipts, done = [], 0
    with client, client.as_current():
        futures = client.map(_call, jobs, pure=False, retries=2)
        tiles = {future.key: job.unit.tiles for future, job in zip(futures, jobs, strict=True)}
        for future, receipt in as_completed(futures, with_results=True):
            receipts.append(receipt)
            done += tiles[future.key]
            progress.update(done / total, f"{done} tiles")
    return receipts


def _bytes(jobs: Iterable[Job]) -> int:
    return sum(
        job.unit.tiles * len(job.settings.bands) * job.settings.size**2 * np.dtype(job.unit.dtype).itemsize
        for job in jobs
    )
