"""Doing units of work: in this process, in several, or on a Dask cluster."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .errors import InputError
from .helper import share_out
from .plan import CutSettings, Entry, Source, Unit
from .progress import Progress
from .unit import Receipt, cut_unit

# Below so many bytes of tiles, starting processes takes longer than they save.
_WORTH_PROCESSES = 256 * 2**20


@dataclass(frozen=True)
class Job:
    """A unit of work with all that a worker needs to cut it; it may be sent to another process or machine."""

    folder: Path
    settings: CutSettings
    unit: Unit
    entries: dict[int, Entry]
    sources: dict[int, Source]
    threads: int = 1

    def __call__(self, report: Callable[[int], None] | None = None) -> Receipt:
        """Cut the unit."""
        return cut_unit(self.folder, self.settings, self.unit, self.entries, self.sources, report, threads=self.threads)


def _call(job: Job) -> Receipt:
    return job()


def run(jobs: list[Job], workers: int, dask: str | None, progress: Progress) -> list[Receipt]:
    """Do jobs here (``workers`` 1), in processes (0: one a core where it is worth it), or on a Dask cluster."""
    total = sum(job.unit.tiles for job in jobs) or 1
    if dask is not None:
        return _run_dask(jobs, dask, progress, total)
    cores = _cores()
    workers = max(1, min(workers or (cores if _bytes(jobs) >= _WORTH_PROCESSES else 1), len(jobs)))
    jobs = [replace(job, threads=max(1, cores // workers)) for job in jobs]
    receipts: list[Receipt] = []
    done = 0

    def report(tiles: int) -> None:
        nonlocal done
        done += tiles
        progress.update(min(1.0, done / total), f"{done} tiles")

    if workers == 1:
        return [job(report) for job in jobs]

    def collect(job: Job, receipt: Receipt) -> None:
        receipts.append(receipt)
        report(job.unit.tiles)

    share_out(jobs, _call, _call, collect, workers - 1)
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


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
