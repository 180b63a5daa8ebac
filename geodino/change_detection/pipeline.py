"""A change map of two dates of any size: alignment, radiometry, distances, threshold, files."""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox

import geodino
from geodino.backbones.backbone import Backbone
from geodino.change_detection.alignment import Pair, align, normalised
from geodino.change_detection.method import Method
from geodino.change_detection.null_model import Threshold, given_threshold
from geodino.change_detection.objects import write_objects
from geodino.change_detection.score import ScoreField, TokenHalf
from geodino.change_detection.spectral import SpectralModel, fit_spectral, survey
from geodino.change_detection.tokens import compare_dates
from geodino.change_detection.transitions import Transitions, classify_dates, count_transitions
from geodino.change_detection.wanted_kind import learn_kind
from geodino.dense.engine import Engine
from geodino.dense.stream import DenseSettings
from geodino.dense.tokens import Origin, SceneTokens, tokens_from_scene
from geodino.heads.labels import read_labels
from geodino.heads.model_file import Recipe, SegmentationModel
from geodino.products.stac import write_item
from geodino.products.tags import provenance
from geodino.products.vector import check_area, check_vector_path
from tiles.errors import InputError, OutputError
from tiles.progress import Progress, Share, Silent
from tiles.scenes.scene import Scene
from tiles.writing.cog import CogWriter, MapClass, check_output, part_of

CLASSES = (MapClass(0, "no change", (235, 235, 235)), MapClass(1, "change", (213, 45, 20)))
NODATA = 255
IDENTITY_TAG = "GEODINO_CHANGE_IDENTITY"
AUTO_TAG = "GEODINO_AUTO_THRESHOLD"


@dataclass(frozen=True)
class ChangeOutputs:
    """Where the results go.

    Attributes:
        mask: 0 no change, 1 change, 255 nodata, uint8 COG.
        score: deviations above the stable background, float32 COG; None for none.
        vector: polygons of change; None for none.
        min_area_m2: polygons below this area are left out.
        overwrite: replace existing files.
    """

    mask: Path
    score: Path | None = None
    vector: Path | None = None
    min_area_m2: float = 0.0
    overwrite: bool = False

    def check(self) -> None:
        """Refuse outputs that cannot be written, before any work; a score that exists may be one to go on from.

        Raises:
            InputError: the smallest area is none.
            OutputError: one of them exists or has no folder.
        """
        check_area(self.min_area_m2)
        check_output(self.mask, overwrite=self.overwrite)
        if self.score is not None:
            check_output(self.score, overwrite=True)
        if self.vector is not None:
            check_vector_path(self.vector, overwrite=self.overwrite)


@dataclass(frozen=True)
class ChangeResult:
    """What was made.

    Attributes:
        path: the mask.
        method: which halves the score has.
        threshold: where it came from and its expected false alarms.
        share: share of the valid pixels that changed.
        notes: decisions taken, to be printed.
        transitions: changed pixels by class before and after, None without a model.
    """

    path: Path
    method: Method
    threshold: Threshold
    share: float
    notes: tuple[str, ...]
    transitions: Transitions | None = None


@dataclass(frozen=True)
class ChangeQuestion:
    """What is asked of a pair.

    Attributes:
        method: which halves the score has.
        threshold: scores above are change; None for the automatic one.
        objects: pool the score over small image objects.
        like: examples of the wanted kind of change and of others, any vector format or raster.
        field: attribute of the examples that holds the class.
        model: a trained segmentation model that says from what to what.
        model_path: its file, for messages.
    """

    method: Method = Method.auto
    threshold: float | None = None
    objects: bool = False
    like: Path | None = None
    field: str | None = None
    model: SegmentationModel | None = None
    model_path: Path | None = None

    def identity(self) -> dict[str, Any]:
        """What a score depends on beside its inputs."""
        examples = None if self.like is None else [str(self.like), self.like.stat().st_mtime_ns, self.field]
        return {"method": self.method.value, "objects": self.objects, "like": examples}


def change_scenes(
    before: Scene,
    after: Scene,
    outputs: ChangeOutputs,
    question: ChangeQuestion | None = None,
    *,
    engine: Engine | None,
    settings: DenseSettings | None = None,
    progress: Progress | None = None,
) -> ChangeResult:
    """Map the change between two dates.

    Args:
        before: the first date, whose grid the map has.
        after: the second date.
        outputs: where the results go.
        question: method, threshold and the like.
        engine: what runs the backbone; None is enough for the spectral method without a model.
        settings: how windows are laid and which layers are compared; a model brings its own layers.
        progress: reporter of the share done, 0 to 1.

    Raises:
        InputError: the dates do not fit each other or the backbone; one sentence says why and how to go on.
        OutputError: an output exists or cannot be written.
    """
    outputs.check()
    progress = progress or Silent()
    question = question or ChangeQuestion()
    question = replace(question, method=question.method.settled())
    method = question.method
    if question.like is not None and not question.like.exists():
        raise InputError(f"{question.like} does not exist")
    settings = replace(settings or DenseSettings(), min_valid=0.0)
    notes = [f"method {method}"]
    backbone = None if engine is None else engine.backbone
    arithmetic = ""
    if engine is not None:
        arithmetic, settings = engine.describe(settings)
    elif method.reads_features or question.model is not None:
        raise InputError(f"method {method} compares features; name a backbone or take --method spectral")
    if question.model is not None and backbone is not None:
        if settings.layers not in ((), question.model.recipe.layers):
            raise InputError(
                f"{question.model_path or 'the model'} reads layers of its own; leave --layers or --model out"
            )
        settings = replace(settings, upscale=question.model.recipe.upscale, layers=question.model.recipe.layers)
        recipe = Recipe.of(before, Origin.of(backbone, settings), use_pixels=False)
        notes += question.model.recipe.fit(recipe, question.model_path or Path("the model"))
    identity = _identity(before, after, backbone if method.reads_features else None, arithmetic, question, settings)
    score_path = outputs.score or part_of(outputs.mask, ".score")
    kept = outputs.score is not None and outputs.score.exists() and not outputs.overwrite
    run = _Run(before, after, outputs, question, engine, settings, progress, notes)
    transitions = None
    try:
        if kept:
            _same_run_or_refuse(score_path, identity)
            run.notes.append(f"the score in {score_path} was made from these dates and settings and is taken as it is")
        else:
            run.write_score(score_path, identity)
        limit = kept_threshold(score_path) if question.threshold is None else given_threshold(question.threshold)
        share = write_mask(score_path, outputs.mask, limit, overwrite=outputs.overwrite)
        maps = run.class_maps() if question.model is not None else None
        names = question.model.legend.names if question.model is not None else ()
        if maps is not None:
            transitions = count_transitions(outputs.mask, maps, names, before.gsd_m**2)
        if outputs.vector is not None:
            write_objects(
                outputs.mask, score_path, outputs.vector, dates=(before.datetime, after.datetime),
                min_area_m2=outputs.min_area_m2, classes=None if maps is None else (*maps, names),
                overwrite=outputs.overwrite,
            )  # fmt: skip
    finally:
        if outputs.score is None:
            score_path.unlink(missing_ok=True)
        for path in (part_of(outputs.mask, ".classes_before"), part_of(outputs.mask, ".classes_after")):
            path.unlink(missing_ok=True)
    run.remove_tokens()
    write_item(
        outputs.mask, {"before": before, "after": after}, backbone if method.reads_features else None,
        task="change-detection",
        settings=question.identity() | (settings.identity() if method.reads_features else {}),
    )  # fmt: skip
    return ChangeResult(outputs.mask, method, limit, share, tuple(run.notes), transitions)


@dataclass
class _Run:
    """One run: what is computed once and used by several outputs."""

    before: Scene
    after: Scene
    outputs: ChangeOutputs
    question: ChangeQuestion
    engine: Engine | None
    settings: DenseSettings
    progress: Progress
    notes: list[str]
    tokens: TokenHalf | None = None

    @cached_property
    def pair(self) -> Pair:
        """Both dates on one grid."""
        pair = align(self.before, self.after)
        self.notes += pair.notes
        return pair

    @cached_property
    def spectral(self) -> SpectralModel:
        """IR-MAD and radiometry."""
        spectral = fit_spectral(self.pair, survey(self.pair))
        self.notes.append(spectral.radiometry.describe(spectral.bands))
        return spectral

    @cached_property
    def dates(self) -> tuple[Scene, Scene]:
        """Both dates on one grid and in the radiometry of the first."""
        return self.pair.before, normalised(self.pair.after, self.spectral.bands, self.spectral.radiometry)

    @cached_property
    def stores(self) -> tuple[SceneTokens, SceneTokens]:
        """Both dates' tokens."""
        assert self.engine is not None
        filled = [
            tokens_from_scene(
                scene, self.engine, self.settings, part_of(self.outputs.mask, f".{name}"),
                overwrite=self.outputs.overwrite,
            ).tokens(Share(self.progress, *span))
            for name, scene, span in zip(("before", "after"), self.dates, ((0, 0.45), (0.45, 0.9)), strict=True)
        ]  # fmt: skip
        return filled[0], filled[1]

    def write_score(self, path: Path, identity: str) -> None:
        """Compute and write the score."""
        method = self.question.method
        tokens = None
        if method.reads_features:
            folder = part_of(self.outputs.mask, ".compared")
            tokens = self.tokens = compare_dates(self.pair, *self.stores, folder)
        spectral = self.spectral if method.reads_bands else None
        field = ScoreField(self.pair, method, spectral, tokens, objects=self.question.objects)
        field.calibrate()
        rows, threshold = field.rows(), field.threshold()
        description = "deviations above the stable background"
        if self.question.like is not None:
            labels = read_labels(self.question.like, self.pair.before.geobox, field=self.question.field)
            self.notes += labels.notes
            kind = learn_kind(field, labels)
            rows, threshold = kind.rows(), kind.threshold()
            description = "log odds of the wanted kind of change"
        backbone = self.engine.backbone if self.engine and method.reads_features else None
        tags = provenance(backbone, before=self.before, after=self.after)
        if method.reads_features:
            tags["GEODINO_LAYERS"] = list(self.settings.layers) or "last"
        tags |= {IDENTITY_TAG: identity, "GEODINO_METHOD": method.value, AUTO_TAG: asdict(threshold)}
        grid = self.pair.before.geobox
        with CogWriter(
            path, grid, dtype="float32", nodata=float("nan"), resampling="average", descriptions=(description,),
            tags=tags, overwrite=True,
        ) as writer:  # fmt: skip
            for piece in rows:
                writer.write(piece.row, piece.score[None])
                self.progress.update(0.9 + 0.1 * (piece.row + piece.score.shape[0]) / grid.shape[0], "score")

    def class_maps(self) -> tuple[Path, Path]:
        """Class map of each date by the model that was given."""
        assert self.question.model is not None
        return classify_dates(self.question.model, self.dates, self.stores, self.outputs.mask)

    def remove_tokens(self) -> None:
        """Delete the tokens: everything made of them is in place."""
        if self.tokens is not None:
            self.tokens.compared.remove()
        if "stores" in self.__dict__:
            for store in self.stores:
                store.remove()


def kept_threshold(score: Path) -> Threshold:
    """The automatic threshold that was calibrated when a score was made."""
    with rasterio.open(score) as file:
        text = file.tags().get(AUTO_TAG)
    if text is None:
        raise InputError(f"{score} holds no calibrated threshold; give a number with --threshold")
    return Threshold(**json.loads(text))


def write_mask(score: Path, mask: Path, threshold: Threshold, *, overwrite: bool = False) -> float:
    """Cut a score at a threshold.

    Args:
        score: a score raster, NaN nodata.
        mask: where the mask goes: 0 no change, 1 change, 255 nodata.
        threshold: scores above are change.
        overwrite: replace an existing mask.

    Returns:
        Share of the valid pixels that changed.
    """
    changed = valid = 0
    with rasterio.open(score) as file:
        geobox = GeoBox(file.shape, file.transform, None if file.crs is None else file.crs.to_wkt())
        tags = {key: value for key, value in file.tags().items() if key.startswith("GEODINO_")}
        tags |= {
            "GEODINO_THRESHOLD": f"{threshold.value:.6g}",
            "GEODINO_THRESHOLD_RULE": threshold.rule,
            "GEODINO_FALSE_ALARM_RATE": f"{threshold.false_alarm_rate:.3g}",
        }
        with CogWriter(
            mask, geobox, dtype="uint8", nodata=NODATA, classes=CLASSES, resampling="nearest",
            descriptions=("change",), tags=tags, overwrite=overwrite,
        ) as writer:  # fmt: skip
            for start in range(0, file.height, 512):
                rows = min(512, file.height - start)
                values = file.read(1, window=((start, start + rows), (0, file.width)))
                known = np.isfinite(values)
                found = known & (values > threshold.value)
                writer.write(start, np.where(known, found, NODATA).astype(np.uint8)[None])
                changed, valid = changed + int(found.sum()), valid + int(known.sum())
    return changed / max(valid, 1)


def _identity(
    before: Scene,
    after: Scene,
    backbone: Backbone | None,
    arithmetic: str,
    question: ChangeQuestion,
    settings: DenseSettings,
) -> str:
    """Digest of everything a score depends on."""
    parts = [before.fingerprint(), after.fingerprint(), question.identity()]
    model = None if backbone is None else [backbone.hash, arithmetic, settings.identity()]
    return hashlib.sha256(json.dumps([parts, model, geodino.__version__]).encode()).hexdigest()[:32]


def _same_run_or_refuse(path: Path, identity: str) -> None:
    found = None
    with contextlib.suppress(rasterio.errors.RasterioIOError), rasterio.open(path) as file:
        found = file.tags().get(IDENTITY_TAG)
    if found != identity:
        raise OutputError(
            f"{path} exists already and was not made from these dates and settings; choose another name or replace it "
            "with --overwrite"
        )
