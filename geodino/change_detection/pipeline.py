"""The files of a change map: score, mask, polygons and the tags that say how they were made."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox

import geodino
from geodino.change_detection.date_tokens import plan_tokens
from geodino.change_detection.null_model import Threshold, given_threshold
from geodino.change_detection.pair import Comparison
from geodino.change_detection.score_method import Method
from geodino.dense.engine import Engine
from geodino.dense.settings import DenseSettings
from geodino.products.stac import write_item
from tiles.errors import InputError, OutputError
from tiles.progress import Progress, Share, Silent
from tiles.scenes.dates import certainly_before
from tiles.scenes.scene import Scene
from tiles.writing.cog import CogWriter, MapClass
from tiles.writing.outputs import check_output, part_of, staged

if TYPE_CHECKING:
    from geodino.change_detection.transitions import Transitions
    from geodino.heads.model_file import SegmentationModel

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
        if self.vector is not None or self.min_area_m2:
            from geodino.products.vector import check_area, check_vector_path

            check_area(self.min_area_m2)
            if self.vector is not None:
                check_vector_path(self.vector, overwrite=self.overwrite)
        check_output(self.mask, overwrite=self.overwrite)
        if self.score is not None:
            check_output(self.score, overwrite=True)


@dataclass(frozen=True)
class ChangeResult:
    """What was made.

    Attributes:
        path: the mask.
        threshold: where it came from and its expected false alarms.
        share: share of the valid pixels that changed.
        notes: decisions taken, to be printed.
        transitions: changed pixels by class before and after, None without a model.
    """

    path: Path
    threshold: Threshold
    share: float
    notes: tuple[str, ...]
    transitions: "Transitions | None" = None


@dataclass(frozen=True)
class ChangeQuestion:
    """What is asked of a pair.

    Attributes:
        method: what is compared.
        threshold: scores above are change; None for the automatic one.
        objects: pool the score over small image objects.
        like: examples of the wanted kind of change and of others, any vector format or raster.
        field: attribute of the examples that holds the class.
        layer: layer of the examples' file; None for all.
        model: a trained segmentation model that says from what to what.
        model_path: its file, for messages.
    """

    method: Method = Method.auto
    threshold: float | None = None
    objects: bool = False
    like: Path | None = None
    field: str | None = None
    layer: str | None = None
    model: "SegmentationModel | None" = None
    model_path: Path | None = None

    def identity(self) -> dict[str, Any]:
        """What a score depends on beside its inputs."""
        examples = None if self.like is None else [str(self.like), self.like.stat().st_mtime_ns, self.field]
        if examples is not None and self.layer is not None:
            examples.append(self.layer)
        return {"method": self.method.value, "objects": self.objects, "like": examples}


def change_scenes(
    before: Scene,
    after: Scene,
    outputs: ChangeOutputs,
    question: ChangeQuestion | None = None,
    *,
    engine: Engine | None = None,
    settings: DenseSettings | None = None,
    cubes: Sequence[Path] = (),
    progress: Progress | None = None,
) -> ChangeResult:
    """Map the change between two dates.

    Args:
        before: the first date, whose grid the map has.
        after: the second date.
        outputs: where the results go.
        question: method, threshold and the like.
        engine: what runs the backbone; None is enough for the spectral method without a model, and with cubes.
        settings: how windows are laid and which layers are compared; a model brings its own layers.
        cubes: tokens of both dates instead, as ``features`` made them of the dates as they are.
        progress: reporter of the share done, 0 to 1.

    Raises:
        InputError: the dates do not fit each other, the backbone or the cubes; one sentence says why and how to go on.
        OutputError: an output exists or cannot be written.
    """
    outputs.check()
    progress = progress or Silent()
    question = question or ChangeQuestion()
    question = replace(question, method=question.method.settled())
    if question.like is not None and not os.path.exists(question.like):
        raise InputError(f"{question.like} does not exist")
    tokens_of = plan_tokens((before, after), engine, _settings(question, settings or DenseSettings()), cubes)
    comparison = Comparison(
        (before, after), outputs.mask, question.method, tokens_of, question.objects,
        overwrite=outputs.overwrite, progress=Share(progress, 0, 0.9),
    )  # fmt: skip
    notes = [f"method {question.method}"]
    if certainly_before(after.datetime, before.datetime):
        notes.append(f"the dates are not in order of time: {before.datetime} is taken as before {after.datetime}")
    if question.model is not None and tokens_of is not None:
        from geodino.heads.model_file import Recipe

        recipe = Recipe.of(before, tokens_of.origin, use_pixels=False)
        notes += question.model.recipe.fit(recipe, question.model_path or Path("the model"))
    score = outputs.score or part_of(outputs.mask, ".score")
    identity = _identity(comparison, question)
    classes, transitions = None, None
    with contextlib.ExitStack() as stack:
        if outputs.score is None:
            stack.callback(part_of(outputs.mask, ".score").unlink, missing_ok=True)
        stack.enter_context(comparison)
        kept = outputs.score is not None and score.exists() and not outputs.overwrite
        if kept:
            _same_run_or_refuse(score, identity)
            notes.append(f"the score in {score} was made from these dates and settings and is taken as it is")
        with staged(outputs.mask, outputs.vector, None if kept else outputs.score) as (mask, vector, made):
            assert mask is not None
            score = made or score
            if not kept:
                notes += _write_score(comparison, question, score, identity, progress)
            limit = kept_threshold(score) if question.threshold is None else given_threshold(question.threshold)
            share = write_mask(score, mask, limit)
            if question.model is not None:
                from geodino.change_detection.transitions import class_maps, count_transitions

                maps = stack.enter_context(class_maps(question.model, comparison, outputs.mask))
                classes = maps, question.model.legend.names
                transitions = count_transitions(mask, *classes)
            if vector is not None:
                from geodino.change_detection.change_polygons import write_polygons

                write_polygons(
                    mask, score, vector, dates=(before.datetime, after.datetime),
                    min_area_m2=outputs.min_area_m2, classes=classes,
                )  # fmt: skip
            outputs.check()  # nothing has taken a name meanwhile
        compared = comparison.compared_tokens
        write_item(
            outputs.mask, {"before": before, "after": after}, None if compared is None else compared.origin.backbone,
            task="change-detection", settings=question.identity() | ({} if compared is None else compared.settings),
        )  # fmt: skip
    return ChangeResult(outputs.mask, limit, share, tuple(notes), transitions)


def _settings(question: ChangeQuestion, settings: DenseSettings) -> DenseSettings:
    """Settings of the model that says from what to what, where there is one."""
    if question.model is None:
        return settings
    recipe = question.model.recipe
    if settings.layers not in ((), recipe.layers):
        raise InputError(f"{question.model_path or 'the model'} reads layers of its own; leave --layers or --model out")
    if settings.upscale not in (1, recipe.upscale):
        raise InputError(
            f"{question.model_path or 'the model'} was trained with --upscale {recipe.upscale}; leave --upscale out"
        )
    return replace(settings, upscale=recipe.upscale, layers=recipe.layers)


def _write_score(
    comparison: Comparison, question: ChangeQuestion, path: Path, identity: str, progress: Progress
) -> list[str]:
    """Compute and write the score; returns what was decided."""
    score = comparison.compare()
    rows, threshold = score.rows(), score.threshold()
    description = "deviations above the stable background"
    notes = comparison.notes(1)
    if question.like is not None:
        from geodino.change_detection.wanted_kind import learn_kind
        from geodino.heads.labels import read_labels

        labels = read_labels(question.like, score.pair.before.geobox, field=question.field, layer=question.layer)
        notes += labels.notes
        kind = learn_kind(score, labels)
        rows, threshold = kind.rows(), kind.threshold()
        description = "log odds of the wanted kind of change"
    before, after = comparison.scenes
    tags = comparison.tags(before=before, after=after)
    tags |= {IDENTITY_TAG: identity, "GEODINO_METHOD": question.method.value, AUTO_TAG: asdict(threshold)}
    grid = score.pair.before.geobox
    with CogWriter(
        path, grid, dtype="float32", nodata=float("nan"), resampling="average", descriptions=(description,),
        tags=tags, overwrite=True,
    ) as writer:  # fmt: skip
        for piece in rows:
            writer.write(piece.row, piece.score[None])
            progress.update(0.9 + 0.1 * (piece.row + piece.score.shape[0]) / grid.shape[0], "score")
    return notes


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


def _identity(comparison: Comparison, question: ChangeQuestion) -> str:
    """Digest of everything a score depends on."""
    dates = [scene.fingerprint() for scene in comparison.scenes]
    tokens = comparison.compared_tokens
    parts = [[*dates, question.identity()], None if tokens is None else tokens.identity, geodino.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _same_run_or_refuse(path: Path, identity: str) -> None:
    found = None
    with contextlib.suppress(rasterio.errors.RasterioIOError), rasterio.open(path) as file:
        found = file.tags().get(IDENTITY_TAG)
    if found != identity:
        raise OutputError(
            f"{path} exists already and was not made from these dates and settings; choose another name or replace it "
            "with --overwrite"
        )
