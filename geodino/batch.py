"""Many scenes in one run: a job file or globs, a journal, and a report of what could not be done.

A scene is finished when the journal says so under a key made of the scene's fingerprint, the model and the settings; a
job started again does only the rest, and goes on inside a scene where it was cut off. A scene that cannot be read is
reported and the others go on; a full disk stops everything, for no other scene would fare better.
"""

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rasterio.errors import RasterioError

import geodino
from geodino.backbone import Backbone
from geodino.cluster import Cluster, ModelSpec
from geodino.cube import cube_type
from geodino.dense import DenseSettings
from geodino.extraction import Extraction, arithmetic_of, draw
from geodino.quicklook import check_quicklook
from tiles.cog import DiskFullError, check_output
from tiles.errors import InputError
from tiles.journal import Journal
from tiles.progress import Progress, Silent
from tiles.scene import Scene, open_scene


class SceneSource(BaseModel):
    """One entry of a job's scenes: a path or glob, and what its files do not say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    sensor: str | None = None
    band_names: tuple[str, ...] | None = None
    gsd_m: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"source": value} if isinstance(value, str) else value

    def paths(self) -> list[str]:
        """Paths that the source names, sorted, absolute; a source without wildcards stands for itself."""
        if any(c in self.source for c in "*?[") and not Path(self.source).exists():
            return sorted(str(Path(p).absolute()) for p in glob.glob(self.source, recursive=True))
        return [str(Path(self.source).absolute()) if Path(self.source).exists() else self.source]


class BatchJob(BaseModel):
    """What a job file says; unknown keys are errors.

    Attributes:
        scenes: Paths, globs, or mappings with ``source``, ``sensor``, ``band_names``, ``gsd_m``.
        output: Where each result goes; ``{name}`` stands for the scene's name. The suffix is the format.
        task: ``features``, or ``segment`` with a ``model`` that ``geodino segment --save-model`` wrote.
        model: See ``task``.
        backbone: What ``--backbone`` takes.
        device: Where the backbone runs.
        precision: What it computes in.
        window: Tokens along a window's side.
        halo: Tokens of context on each side.
        upscale: Tokens per patch side.
        layers: Layers to concatenate instead of the last.
        batch_size: Windows a pass; chosen by memory when absent.
        dtype: Number type of feature cubes.
        quicklook: Also draw each feature cube, as ``.png`` beside it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenes: tuple[SceneSource, ...] = Field(min_length=1)
    output: str
    task: Literal["features", "segment"] = "features"
    model: str | None = None
    backbone: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    window: int = 36
    halo: int = 2
    upscale: int = 1
    layers: tuple[int, ...] = ()
    batch_size: int | None = None
    dtype: Literal["auto", "float16", "float32", "int8"] = "auto"
    quicklook: bool = False

    @model_validator(mode="after")
    def _fits(self) -> "BatchJob":
        if "{name}" not in self.output:
            raise ValueError("output needs {name}, such as out/{name}.zarr")
        if (self.task == "segment") != (self.model is not None):
            raise ValueError("model belongs to task: segment, and that task needs one")
        return self

    @property
    def settings(self) -> DenseSettings:
        """How windows are laid."""
        return DenseSettings(
            window=self.window,
            halo=self.halo,
            upscale=self.upscale,
            layers=self.layers,
            batch_size=self.batch_size,
        )


@dataclass
class BatchReport:
    """How a batch ended.

    Attributes:
        made: Outputs made now.
        kept: Outputs that an earlier run had made.
        failed: One sentence for each source that could not be done.
    """

    made: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def read_job(path: Path) -> BatchJob:
    """Read a job file; relative paths in it are relative to the current folder.

    Raises:
        InputError: It is missing, is no YAML, or says something unknown; the sentence names it.
    """
    try:
        return BatchJob.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first thing that a validation found, in words."""
    found = error.errors()[0]
    return f"{'.'.join(str(part) for part in found['loc']) or 'the job'}: {found['msg']}"


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
        dask: Address of a Dask scheduler; scenes and row ranges are spread over its workers.
        overwrite: Replace outputs that were made otherwise.
        progress: Is told the share of scenes done, 0 to 1.
        say: Gets one line for each scene.

    Raises:
        InputError: The job names no scene, two scenes would share an output, or the model cannot be loaded.
        DiskFullError: There is no space left.
    """
    progress, say = progress or Silent(), say or (lambda line: None)
    sources = [(path, source) for source in job.scenes for path in source.paths()]
    if not sources:
        raise InputError(f"no scene matches {', '.join(source.source for source in job.scenes)}")
    folder = Path(job.output.split("{name}")[0] + "x").absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    spec = ModelSpec.of(job.backbone, job.device, job.precision)
    report = BatchReport()
    with Cluster(dask, spec) if dask else nullcontext() as cluster:
        run = _Run(job, Journal(journal or folder / "geodino-batch.jsonl", {"kind": "batch"}), spec, cluster, overwrite)
        # On a cluster several scenes are under way, so that the last ranges of one never leave workers idle.
        with ThreadPoolExecutor(1 if cluster is None else 2 + cluster.workers // 4) as pool:
            futures = {pool.submit(run.scene, path, source): path for path, source in run.distinct(sources)}
            try:
                for number, future in enumerate(as_completed(futures), 1):
                    path = futures[future]
                    try:
                        output, made = future.result()
                        (report.made if made else report.kept).append(output)
                        say(f"{'made' if made else 'kept'}  {output}")
                    except DiskFullError:
                        raise
                    except (InputError, OSError, RasterioError, MemoryError) as error:
                        report.failed[path] = " ".join(str(error).split()) or type(error).__name__
                        say(f"FAILED  {path}: {report.failed[path]}")
                    progress.update(number / len(futures))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return report


class _Run:
    """One scene after another: what they share."""

    def __init__(
        self, job: BatchJob, journal: Journal, spec: ModelSpec, cluster: Cluster | None, overwrite: bool
    ) -> None:
        self.job, self.journal, self.spec, self.cluster, self.overwrite = job, journal, spec, cluster, overwrite
        self.settings = job.settings
        self.backbone: Backbone = spec.load() if cluster is None else cluster.local
        self.arithmetic = arithmetic_of(self.backbone)
        if cluster is not None:
            self.arithmetic, self.settings = cluster.describe(self.settings)

    def distinct(self, sources: list[tuple[str, SceneSource]]) -> Iterator[tuple[str, SceneSource]]:
        """The sources, once it is certain that no two share an output."""
        taken: dict[Path, str] = {}
        for path, _ in sources:
            other = taken.setdefault(self.output(path), path)
            if other != path:
                raise InputError(f"{other} and {path} would both become {self.output(path)}; put them in separate jobs")
        return iter(dict(sources).items())

    def output(self, path: str) -> Path:
        """Where the result of a source goes."""
        name = Path(path.rstrip("/")).name
        return Path(self.job.output.format(name=name if Path(path).is_dir() else Path(name).stem)).absolute()

    def scene(self, path: str, source: SceneSource) -> tuple[Path, bool]:
        """Do one scene; returns its output and whether it was made now."""
        output = self.output(path)
        if self.job.task == "features":
            cube_type(output, self.job.dtype)
        scene = open_scene(path, sensor=source.sensor, band_names=source.band_names, gsd_m=source.gsd_m)
        key = self._key(scene, output)
        if output.exists() and f"done {key}" in self.journal.done:
            return output, False
        begun = self.journal.done.get(f"begun {key}")
        # A kill after the last rename leaves a whole output of a scene that was begun: it was made by this very key,
        # unless something lay there before.
        whole = output.exists() and begun is not None and not begun["replaces"]
        if output.exists() and begun is None and not self.overwrite:
            raise InputError(
                f"{output} exists already, made from other inputs or settings; replace it with --overwrite"
            )
        if begun is None:
            self.journal.mark(f"begun {key}", output=str(output), replaces=output.exists())
        if not whole:
            self._make(scene, output)
        if self.job.quicklook and self.job.task == "features":
            picture = output.with_suffix(".png")
            check_quicklook(picture, overwrite=True)
            draw(output, picture, overwrite=True)
        self.journal.mark(f"done {key}", output=str(output))
        return output, True

    def _make(self, scene: Scene, output: Path) -> None:
        if self.job.task == "segment":
            from geodino.api import segment

            check_output(output, overwrite=self.overwrite)
            segment(scene, output, model=self.job.model, backbone=self.backbone, overwrite=self.overwrite)
        elif self.cluster is not None:
            self.cluster.extract(scene, output, self.settings, self.job.dtype, overwrite=self.overwrite)
        else:
            plan = Extraction.plan(scene, self.backbone, output, self.settings, dtype=self.job.dtype)
            plan.run(overwrite=self.overwrite)

    def _key(self, scene: Scene, output: Path) -> str:
        what: dict[str, Any] = {
            "scene": scene.fingerprint(),
            "task": self.job.task,
            "backbone": self.backbone.hash,
            "arithmetic": self.arithmetic,
            "settings": self.settings.resolved(self.backbone).identity(),
            "dtype": self.job.dtype,
            "output": str(output),
            "version": geodino.__version__,
        }
        if self.job.model is not None:
            what["model"] = hashlib.sha256(Path(self.job.model).read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def template(output: str) -> str:
    """An output template; a folder gets ``{name}.zarr`` in it."""
    return os.path.join(output, "{name}.zarr") if "{name}" not in output else output
