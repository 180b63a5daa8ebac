"""Doing units of work: in this process, in several, or on a Dask cluster."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from .errors import InputError
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

    def __call__(self, report: Callable[[int], None] | None = None, *, ahead: bool = False) -> Receipt:
        """Cut the unit."""
        return cut_unit(self.folder, self.settings, self.unit, self.entries, self.sources, report, ahead=ahead)


def _call(job: Job) -> Receipt:
    return job()


def run(jobs: list[Job], workers: int, dask: str | None, progress: Progress) -> list[Receipt]:
    """Do jobs here (``workers`` 1), in processes (0: one a core where it is worth it), or on a Dask cluster."""
    total = sum(job.unit.tiles for job in jobs) or 1
    if dask is not None:
        return _run_dask(jobs, dask, progress, total)
    workers = workers or (_cores() if _bytes(jobs) >= _WORTH_PROCESSES else 1)
    done = 0
    if min(workers, len(jobs)) <= 1:

        def report(tiles: int) -> None:
            nonlocal done
            done += tiles
            progress.update(min(1.0, done / total), f"{done} tiles")

        return [job(report, ahead=_cores() > 1) for job in jobs]
    with _pool(min(workers, len(jobs))) as pool:
        return list(_gather(((pool.submit(_call, job), job) for job in jobs), 2 * workers, progress, total))


def _gather(
    submitted: Iterator[tuple[Future[Receipt], Job]], ahead: int, progress: Progress, total: int
) -> Iterator[Receipt]:
    """Results as they come, with few jobs submitted ahead so that a plan of a million units stays small."""
    running: dict[Future[Receipt], int] = {}
    done = 0
    more = True
    while running or more:
        while more and len(running) < ahead:
            try:
                future, job = next(submitted)
                running[future] = job.unit.tiles
            except StopIteration:
                more = False
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            done += running.pop(future)
            progress.update(done / total, f"{done} tiles")
            yield future.result()


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    # Forking a process in which GDAL and Arrow run threads can deadlock; a fork server starts clean.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("forkserver"))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


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
