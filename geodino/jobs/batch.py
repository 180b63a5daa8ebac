"""Many scenes in one run: a job file or globs, a journal, and a report of what could not be done.

A scene is finished when the journal says so under a key made of the scene's fingerprint, the model and the settings; a
job started again does only the rest, and goes on inside a scene where it was cut off. A scene that cannot be done is
reported, whatever the error, and the others go on; a full disk or a lost scheduler stops everything, for no other scene
would fare better.
"""

import hashlib
import json
import os
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rasterio.errors import RasterioError

import geodino
from geodino.dense.engine import Engine
from geodino.dense.extraction import Extraction, draw
from geodino.dense.quicklook import check_quicklook
from geodino.jobs.batch_job import BatchJob, Item
from geodino.jobs.cluster import Cluster, ClusterLostError
from geodino.jobs.map_task import MapTask
from geodino.jobs.run_options import RunOptions
from geodino.products.stac import item_path
from tiles.errors import InputError, OutputError
from tiles.progress import Progress, Silent
from tiles.scenes.scene import Scene
from tiles.writing.journal import Journal
from tiles.writing.outputs import DiskFullError, check_not_input, check_output, is_full, locked

# Errors that say themselves what is wrong with an input; any other is worth a traceback.
_FORESEEN = (InputError, OutputError, OSError, RasterioError, MemoryError)


@dataclass
class BatchReport:
    """How a batch ended.

    Attributes:
        made: Outputs made now.
        kept: Outputs that an earlier run had made.
        failed: One sentence for each source that could not be done.
        tracebacks: For each of these that failed as no check foresaw, where it did.
    """

    made: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    tracebacks: dict[str, str] = field(default_factory=dict)

    def fail(self, label: str, error: Exception) -> None:
        """Record why a source could not be done."""
        self.failed[label] = sentence(error)
        if not isinstance(error, _FORESEEN):
            self.tracebacks[label] = "".join(traceback.format_exception(error))


def run_batch(
    job: BatchJob,
    *,
    journal: Path | None = None,
    dask: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> BatchReport:
    """Run a job, or what is left of it.

    Args:
        job: The job.
        journal: Where finished scenes are recorded; ``geodino-batch.jsonl`` in the folder of the outputs when None.
        dask: Address of a Dask scheduler: ranges of rows of feature cubes, and whole maps, are spread over its workers.
        overwrite: See ``RunOptions``; outputs that this very job made are kept.
        progress: Is told the share of scenes done, 0 to 1.
        say: Gets one line for each scene.

    Raises:
        InputError: The job names no scene, two scenes would share an output, the folder of the outputs or the journal
            cannot be made, or the model cannot be loaded or has no such layers.
        DiskFullError: There is no space left.
        ClusterLostError: The scheduler is gone.
    """
    progress, say = progress or Silent(), say or (lambda line: None)
    items = job.items()
    folder = Path(job.output.split("{name}")[0] + "x").absolute().parent
    journal = journal or folder / "geodino-batch.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} of the outputs cannot be made: {error.strerror}") from None
    check_output(journal, overwrite=True)
    options = RunOptions(job.backbone, job.device, job.precision, dask, overwrite)
    report = BatchReport()
    with locked(journal), options.engine() as engine:
        run = _Run(job, Journal(journal, {"kind": "batch"}), engine, overwrite)
        with ThreadPoolExecutor(run.at_once) as pool:
            futures = {pool.submit(run.item, item): item for item in items}
            try:
                for number, future in enumerate(as_completed(futures), 1):
                    label = futures[future].label
                    try:
                        output, made = future.result()
                        (report.made if made else report.kept).append(output)
                        say(f"{'made' if made else 'kept'}  {output}")
                    except Exception as error:  # whatever it is, it is this source's, unless it stops all
                        stop_if_hopeless(error)
                        report.fail(label, error)
                        say(f"FAILED  {label}: {report.failed[label]}")
                    progress.update(number / len(futures))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return report


class _Run:
    """One product after another: what they share."""

    def __init__(self, job: BatchJob, journal: Journal, engine: Engine, overwrite: bool) -> None:
        if job.model is not None:
            job = job.model_copy(update={"model": job.model.absolute()})  # the same file in a worker's own folder
        self.model_hash = None if job.model is None else file_hash(job.model)
        self.job, self.journal, self.engine, self.overwrite = job, journal, engine, overwrite
        self.weights, (self.arithmetic, self.settings) = engine.backbone.hash, engine.describe(job.settings)

    @property
    def at_once(self) -> int:
        """Products under way at one time.

        On a cluster several cubes, so that the last ranges of one never leave workers idle; and for every worker a map,
        which is one task.
        """
        if not isinstance(self.engine, Cluster):
            return 1
        return 2 + self.engine.workers // 4 if self.job.task == "features" else 1 + self.engine.workers

    def item(self, item: Item) -> tuple[Path, bool]:
        """Do one product; returns where it is and whether it was made now."""
        if item.problem is not None:
            raise InputError(item.problem)
        output = self.job.path(item)
        scenes = tuple(source.open(path) for path, source in item.sources)
        picture = output.with_suffix(".png") if self.job.quicklook else None
        check_not_input((output, picture), *scenes)
        with locked(output, picture):
            return self._finish(scenes, output, picture)

    def _finish(self, scenes: tuple[Scene, ...], output: Path, picture: Path | None) -> tuple[Path, bool]:
        """Do what is left of one product."""
        key = self._key(scenes, output)
        if output.exists() and f"done {key}" in self.journal.done:
            return output, False
        begun = self.journal.done.get(f"begun {key}")
        # A kill after the last rename leaves a whole output of a scene that was begun: it was made by this very key,
        # unless something lay there before.
        ours = output.exists() and begun is not None and not begun["replaces"]
        if output.exists() and begun is None and not self.overwrite:
            raise InputError(
                f"{output} exists already, made from other inputs or settings; replace it with --overwrite"
            )
        if begun is None:
            self.journal.mark(f"begun {key}", output=str(output), replaces=output.exists())
        if not (ours and item_path(output).exists()):
            self._make(scenes, output, overwrite=self.overwrite or ours)
        if picture is not None:
            check_quicklook(picture, overwrite=True)
            draw(output, picture, overwrite=True)
        self.journal.mark(f"done {key}", output=str(output))
        return output, True

    def _make(self, scenes: tuple[Scene, ...], output: Path, *, overwrite: bool) -> None:
        if self.job.task != "features":
            check_output(output, overwrite=overwrite)
            task = MapTask(self.job, scenes, output, overwrite)
            if isinstance(self.engine, Cluster):
                list(self.engine.run([task], self.arithmetic))
            else:
                task.run(self.engine.backbone)
        else:
            plan = Extraction.plan(scenes[0], self.engine, output, self.settings, dtype=self.job.dtype)
            plan.run(overwrite=overwrite)

    def _key(self, scenes: tuple[Scene, ...], output: Path) -> str:
        what: dict[str, Any] = {
            "scenes": [scene.fingerprint() for scene in scenes],
            "task": self.job.task,
            "backbone": self.weights,
            "arithmetic": self.arithmetic,
            "settings": self.settings.identity(),
            "dtype": self.job.dtype,
            "change": [self.job.method, self.job.threshold],
            "output": str(output),
            "version": geodino.__version__,
        }
        if self.model_hash is not None:
            what["model"] = self.model_hash
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def stop_if_hopeless(error: Exception) -> None:
    """Raise an error after which no other source would fare better.

    Raises:
        DiskFullError: There is no space left.
        ClusterLostError: The scheduler is gone.
    """
    if isinstance(error, ClusterLostError | DiskFullError):
        raise error
    if is_full(error):
        raise DiskFullError(f"no space left on the disk ({error}); free some and run the same command again") from error


def sentence(error: Exception) -> str:
    """An error in one line, with its kind where no check foresaw it."""
    text, kind = " ".join(str(error).split()), type(error).__name__
    if isinstance(error, _FORESEEN):
        return text or kind
    return f"{kind}: {text}" if text else kind


def file_hash(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def template(output: str) -> str:
    """An output template; a folder gets ``{name}.zarr`` in it."""
    return os.path.join(output, "{name}.zarr") if "{name}" not in output else output
