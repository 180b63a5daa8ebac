"""What a batch is to do: the job file, and the products that it names."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from geodino.change_detection.null_model import check_threshold
from geodino.dense.cube import cube_type
from geodino.dense.settings import DenseSettings
from tiles.errors import InputError, OutputError
from tiles.scenes.opening import open_scene
from tiles.scenes.scene import Scene

_OF_CUBES = ("window", "halo", "layers", "batch_size", "dtype", "quicklook")
_OF_CHANGE = ("method", "threshold")


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

    @property
    def many(self) -> bool:
        """Whether it is a pattern and not a name."""
        return any(c in self.source for c in "*?[") and not os.path.exists(self.source)

    def paths(self) -> list[str]:
        """Paths that the source names, sorted, absolute; a source without wildcards stands for itself."""
        if self.many:
            return sorted(str(Path(p).absolute()) for p in glob.glob(self.source, recursive=True))
        return [str(Path(self.source).absolute()) if os.path.exists(self.source) else self.source]

    def open(self, path: str) -> Scene:
        """Open one of the paths."""
        return open_scene(path, sensor=self.sensor, band_names=self.band_names, gsd_m=self.gsd_m)


class PairSource(BaseModel):
    """Two dates of one place, or two globs whose files pair up by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: SceneSource
    after: SceneSource


@dataclass(frozen=True)
class Item:
    """One product to be made.

    Attributes:
        name: What ``{name}`` stands for.
        sources: Path and entry of its scene, or of its two dates.
        problem: Why it cannot be made, known before any work.
    """

    name: str
    sources: tuple[tuple[str, SceneSource], ...]
    problem: str | None = None

    @property
    def asked(self) -> list[tuple[str, dict[str, Any]]]:
        """Each path and what was said of it; by which name or pattern it was found does not matter."""
        return [(path, source.model_dump(exclude={"source"})) for path, source in self.sources]

    @property
    def label(self) -> str:
        """How reports call it: the path of its scene, or of its later date."""
        return self.sources[-1][0]


class BatchJob(BaseModel):
    """What a job file says; unknown keys, and keys of another task, are errors.

    Attributes:
        task: ``features``; ``segment`` with a ``model`` that ``geodino segment --save-model`` wrote; or ``change``.
        scenes: Paths, globs, or mappings with ``source``, ``sensor``, ``band_names``, ``gsd_m``; not for ``change``.
        pairs: Mappings with ``before`` and ``after``, each like a scene; for ``change``.
        output: Where each result goes; ``{name}`` stands for the scene's name, for the later one's of a pair. The
            suffix is the format.
        model: See ``task``; for ``change`` it may say from what to what.
        method: Of ``change``: ``features``, ``spectral``, ``fused`` or ``auto``.
        threshold: Of ``change``; calibrated for each pair when absent.
        backbone: What ``--backbone`` takes.
        device: Where the backbone runs.
        precision: What it computes in.
        upscale: Tokens per patch side; a model brings its own.
        window: Tokens along a window's side; by the backbone if not given.
        halo: Tokens of context on each side; by the backbone if not given.
        layers: Layers to take instead of the last; not for ``segment``.
        batch_size: Windows a pass; chosen by memory when absent.
        dtype: Number type of feature cubes.
        quicklook: Also draw each feature cube, as ``.png`` beside it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Literal["features", "segment", "change"] = "features"
    scenes: tuple[SceneSource, ...] = ()
    pairs: tuple[PairSource, ...] = ()
    output: str
    model: Path | None = None
    method: Literal["auto", "features", "spectral", "fused"] = "auto"
    threshold: float | None = None
    backbone: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    upscale: int = 1
    window: int | None = None
    halo: int | None = None
    layers: tuple[int, ...] = ()
    batch_size: int | None = None
    dtype: Literal["auto", "float16", "float32", "int8"] = "auto"
    quicklook: bool = False

    @model_validator(mode="after")
    def _fits(self) -> "BatchJob":
        wanted, other = ("pairs", "scenes") if self.task == "change" else ("scenes", "pairs")
        if not getattr(self, wanted):
            raise ValueError(f"task: {self.task} needs {wanted}")
        foreign = {
            "features": (other, "model", *_OF_CHANGE),
            "segment": (other, "upscale", *_OF_CUBES, *_OF_CHANGE),
            "change": (other, *(key for key in _OF_CUBES if key != "layers")),
        }[self.task]
        given = [key for key in foreign if key in self.model_fields_set and getattr(self, key) not in (None, ())]
        if given:
            raise ValueError(f"{' and '.join(given)} does not go with task: {self.task}")
        if self.task == "segment" and self.model is None:
            raise ValueError("task: segment needs a model, which `geodino segment --save-model` writes")
        if self.task == "change" and self.model is not None and "upscale" in self.model_fields_set:
            raise ValueError("upscale does not go with a model, which brings its own")
        if "{name}" not in self.output:
            raise ValueError("output needs {name}, such as out/{name}.zarr")
        try:
            if self.task == "features":
                cube_type(Path(self.output), self.dtype)
            elif Path(self.output).suffix.lower() not in (".tif", ".tiff"):
                raise ValueError(f"a map is a GeoTIFF: name the output .tif, not {Path(self.output).name}")
            _ = self.settings
            check_threshold(self.threshold)
        except (InputError, OutputError) as error:
            raise ValueError(str(error)) from None
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

    def items(self) -> list[Item]:
        """The products, each with an output of its own.

        Raises:
            InputError: There is none, or two would share an output.
        """
        found = list(self._pairs() if self.task == "change" else self._scenes())
        if not found:
            sources = [source.source for source in self.scenes] or [pair.after.source for pair in self.pairs]
            raise InputError(f"no scene matches {', '.join(sources)}")
        taken: dict[Path, Item] = {}
        for item in found:
            other = taken.setdefault(self.path(item), item)
            if other.asked != item.asked:
                raise InputError(
                    f"{other.label} and {item.label} would both become {self.path(item)}; put them in separate jobs"
                )
        return list(taken.values())

    def path(self, item: Item) -> Path:
        """Where a product goes."""
        return Path(self.output.replace("{name}", item.name)).absolute()

    def _scenes(self) -> Iterator[Item]:
        for source in self.scenes:
            for path in source.paths():
                yield Item(_name(path), ((path, source),))

    def _pairs(self) -> Iterator[Item]:
        for pair in self.pairs:
            before, after = pair.before.paths(), pair.after.paths()
            if not (pair.before.many or pair.after.many):
                yield Item(_name(after[0]), ((before[0], pair.before), (after[0], pair.after)))
                continue
            earlier, later = _by_name(before), _by_name(after)
            for name in sorted(earlier.keys() | later.keys()):
                if name in earlier and name in later:
                    yield Item(name, ((earlier[name], pair.before), (later[name], pair.after)))
                else:
                    alone = (earlier | later)[name]
                    missing = pair.after.source if name in earlier else pair.before.source
                    yield Item(name, ((alone, pair.after),), f"{missing} has no file of the same name")


def _by_name(paths: list[str]) -> dict[str, str]:
    """Paths by what ``{name}`` stands for.

    Raises:
        InputError: Two have one name.
    """
    found: dict[str, str] = {}
    for path in paths:
        other = found.setdefault(_name(path), path)
        if other != path:
            raise InputError(
                f"{other} and {path} have the same name, by which dates pair up; put them in separate jobs"
            )
    return found


def _name(path: str) -> str:
    name = Path(path.rstrip("/")).name
    return name if os.path.isdir(path) else Path(name).stem


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


def make_job(**words: Any) -> BatchJob:
    """A job from what a command line says.

    Raises:
        InputError: It says something that cannot be.
    """
    try:
        return BatchJob.model_validate(words)
    except ValidationError as error:
        raise InputError(first_problem(error)) from None


def first_problem(error: ValidationError) -> str:
    """The first thing that a validation found, in words."""
    found = error.errors()[0]
    where = ".".join(str(part) for part in found["loc"])
    return f"{where}: {found['msg']}" if where else found["msg"].removeprefix("Value error, ")
