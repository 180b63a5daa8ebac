"""Row ranges of scenes over the workers of a Dask cluster, with the bytes that one machine gives.

A task is small to describe and large to do: a scene, a range of token rows, the name of a model. The worker loads the
model once for its process, computes the range with the batches that the whole scene has, and writes pieces that no
other task touches; only the names of finished pieces come back. The client keeps the journal and puts each cube under
its name. Inputs and outputs must lie where every worker sees them under the same path.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from distributed import CancelledError, Client, as_completed, get_worker
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from geodino.backbones.backbone import Backbone
from geodino.dense.cube import PIECE_ROWS, CubeSpec, CubeWriter, pieces, write_piece
from geodino.dense.engine import arithmetic_of
from geodino.dense.settings import DenseSettings
from geodino.dense.stream import stream_tokens
from geodino.jobs.run_options import RunOptions
from tiles.errors import InputError
from tiles.scenes.scene import Scene
from tiles.workers import use_cores

# A task that fails is tried again this often: a network file that was away for a moment is there again.
_RETRIES = 2
# Tasks a worker gets of one scene: enough that the last ones end together, few enough that the rows which neighbouring
# ranges both compute stay a small share.
_TASKS_A_WORKER = 4
_MOST_PIECES = 16
# How the client says that the scheduler does not answer any more.
_LOST = (CancelledError, ClosedClientError, CommClosedError)
_one_model = threading.Lock()
T = TypeVar("T", covariant=True)


class ClusterLostError(InputError):
    """The scheduler is gone: nothing more can be done on its workers."""


@lru_cache(maxsize=1)
def _load(model: RunOptions) -> Backbone:
    """Load once a process."""
    return model.load()


class Task(Protocol[T]):
    """Work for any worker: small to describe, large to do, harmless to do twice."""

    def run(self, backbone: Backbone) -> T:
        """Do it."""
        ...


@dataclass(frozen=True)
class RowTask:
    """Rows of one cube.

    Attributes:
        scene: The scene.
        settings: How windows are laid, batch size included.
        spec: The cube.
        rows: Token rows, cut at pieces.
    """

    scene: Scene
    settings: DenseSettings
    spec: CubeSpec
    rows: range

    def run(self, backbone: Backbone) -> list[range]:
        """Compute and write; returns the finished pieces."""
        done = []
        stream = stream_tokens(self.scene, backbone, self.settings, rows=self.rows)
        for piece, features, valid in pieces(stream, self.spec):
            write_piece(self.spec, piece, features, valid)
            done.append(piece)
        return done

    def __str__(self) -> str:
        return f"{self.scene.source} (token rows {self.rows.start} to {self.rows.stop})"


def on_worker(model: RunOptions, arithmetic: str, task: Task[T]) -> T:
    """Do a task with this worker's model.

    Raises:
        InputError: This worker computes in another arithmetic, or an input is damaged.
    """
    with _one_model:  # threads of a worker share its one model and its memory
        threads = max(1, get_worker().state.nthreads)
        torch.set_num_threads(threads)
        use_cores(threads)
        backbone = _load(model)
        if arithmetic_of(backbone) != arithmetic:
            raise InputError(
                f"a worker computes in {arithmetic_of(backbone)} and another in {arithmetic}; "
                "say which with --device and --precision"
            )
        return task.run(backbone)


def _describe(model: RunOptions, settings: DenseSettings) -> tuple[str, DenseSettings]:
    with _one_model:
        backbone = _load(model)
        return arithmetic_of(backbone), settings.resolved(backbone)


class Cluster:
    """A connection to a Dask scheduler and the model that its workers run; an ``Engine``.

    Args:
        address: Scheduler, such as ``tcp://10.0.0.1:8786``.
        options: Which backbone, by name, and in what arithmetic.

    Raises:
        InputError: There is no scheduler at the address, or it has no workers; or the backbone is one that is loaded.
    """

    def __init__(self, address: str, options: RunOptions) -> None:
        name = options.backbone
        if not isinstance(name, str | Path | None):
            raise InputError("a cluster loads the backbone itself: give its name or folder")
        if name is not None and os.path.exists(name):  # it means the same in a worker's own folder
            name = Path(name).absolute()
        self.address = address
        self.model = RunOptions(None if name is None else str(name), str(options.device), str(options.precision))
        try:
            self.client = Client(address, timeout="10s", set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(f"no Dask scheduler answers at {address} ({' '.join(str(error).split())})") from None
        if not self.workers:
            self.client.close()
            raise InputError(f"the Dask scheduler at {address} has no workers; start some with: dask worker {address}")

    @property
    def workers(self) -> int:
        """Workers at this moment."""
        with self._answering():
            return len(self.client.scheduler_info(n_workers=-1)["workers"])

    def describe(self, settings: DenseSettings) -> tuple[str, DenseSettings]:
        """Ask a worker for its arithmetic, and for the settings with the batch size that it can hold."""
        with self._answering():
            return self.client.submit(_describe, self.model, settings).result()

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone here, for its hash and sizes; nothing is computed with it."""
        return replace(self.model, device="cpu", precision="fp32").load()

    def fill(self, scene: Scene, settings: DenseSettings, writer: CubeWriter) -> Iterator[float]:
        """Make the rows that a cube lacks; see ``geodino.dense.engine.Engine``.

        Raises:
            InputError: As there; or workers died again and again on the same rows.
        """
        arithmetic, _ = self.describe(settings)
        tasks = [
            RowTask(scene, settings, writer.spec, rows)
            for rows in split(writer.missing(), self.workers * _TASKS_A_WORKER)
        ]
        every = writer.parts.pieces
        for finished in self.run(tasks, arithmetic):
            for piece in finished:
                writer.parts.mark(piece)
            yield sum(writer.parts.finished(piece) for piece in every) / len(every)

    def run(self, tasks: Sequence[Task[T]], arithmetic: str) -> Iterator[T]:
        """Do tasks on the workers; yields results as they come.

        Args:
            tasks: The tasks.
            arithmetic: What the model must compute in, lest the bytes differ.

        Raises:
            InputError: A task failed again and again, or workers died of it.
            ClusterLostError: The scheduler is gone.
        """
        submit = partial(self.client.submit, on_worker, self.model, arithmetic, pure=False, retries=_RETRIES)
        with self._answering():
            futures = {submit(task): task for task in tasks}
            try:
                for future in as_completed(list(futures), loop=self.client.loop):
                    try:
                        yield future.result()
                    except KilledWorker:
                        raise InputError(
                            f"workers died repeatedly on {futures[future]}, most likely for want of memory: "
                            "give them more, or take a smaller --batch-size"
                        ) from None
            finally:
                with suppress(*_LOST):
                    self.client.cancel(list(futures))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Say in one sentence that the scheduler is gone."""
        try:
            yield
        except _LOST:
            raise ClusterLostError(
                f"the Dask scheduler at {self.address} is gone; start it and workers, then run the same command again"
            ) from None

    def close(self) -> None:
        """Disconnect; the cluster stays."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def split(runs: list[range], tasks: int) -> list[range]:
    """Cut runs of rows into about ``tasks`` ranges of whole pieces, in order."""
    total = sum(-(-len(run) // PIECE_ROWS) for run in runs)
    step = PIECE_ROWS * min(_MOST_PIECES, max(1, total // max(1, tasks)))
    return [range(start, min(start + step, run.stop)) for run in runs for start in range(run.start, run.stop, step)]
