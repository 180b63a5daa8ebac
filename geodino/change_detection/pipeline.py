"""A change map of two dates of any size: alignment, radiometry, distances, threshold, files."""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from geodino.backbone import Backbone
from geodino.change_detection.alignment import Pair, align, normalised
from geodino.change_detection.background import Threshold, given_threshold
from geodino.change_detection.deep import fit_token_change
from geodino.change_detection.field import ScoreField, TokenHalf, token_half
from geodino.change_detection.method import Method
from geodino.change_detection.objects import write_objects
from geodino.change_detection.spectral import SpectralModel, fit_spectral, survey
from geodino.dense import DenseSettings, feature_dim, stream_tokens, token_grid
from geodino.polygons import check_vector_path
from geodino.provenance import provenance
from geodino.token_store import TokenStore
from tiles.cog import CogWriter, MapClass, check_output, part_of
from tiles.errors import InputError, OutputError
from tiles.progress import Progress, Silent
from tiles.scene import Scene

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
            OutputError: one of them exists or has no folder.
        """
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
    """

    path: Path
    method: Method
    threshold: Threshold
    share: float
    notes: tuple[str, ...]


def change_scenes(
    before: Scene,
    after: Scene,
    outputs: ChangeOutputs,
    *,
    backbone: Backbone | None,
    method: Method = Method.auto,
    threshold: float | None = None,
    settings: DenseSettings | None = None,
    progress: Progress | None = None,
) -> ChangeResult:
    """Map the change between two dates.

    Args:
        before: the first date, whose grid the map has.
        after: the second date.
        outputs: where the results go.
        backbone: the model; None is enough for the spectral method.
        method: which halves the score has.
        threshold: scores above are change; None for the automatic one.
        settings: how windows are laid.
        progress: reporter of the share done, 0 to 1.

    Raises:
        InputError: the dates do not fit each other or the backbone; one sentence says why and how to go on.
        OutputError: an output exists or cannot be written.
    """
    outputs.check()
    progress = progress or Silent()
    method = method.settled(before.gsd_m)
    settings = replace(settings or DenseSettings(), min_valid=0.0)
    identity = _identity(before, after, backbone if method.reads_features else None, method, settings)
    notes = [f"method {method}"]
    score_path = outputs.score or part_of(outputs.mask, ".score")
    if outputs.score is not None and outputs.score.exists() and not outputs.overwrite:
        _same_run_or_refuse(outputs.score, identity)
        notes.append(f"the score in {outputs.score} was made from these dates and settings and is taken as it is")
    else:
        tags = provenance(backbone if method.reads_features else None, before=before, after=after)
        tags |= {IDENTITY_TAG: identity, "GEODINO_METHOD": method.value}
        notes += _write_score(
            score_path, before, after, backbone, method, settings, outputs, tags, progress
        )  # fmt: skip
    try:
        limit = kept_threshold(score_path) if threshold is None else given_threshold(threshold)
        share = write_mask(score_path, outputs.mask, limit, overwrite=outputs.overwrite)
        if outputs.vector is not None:
            dates = (before.datetime, after.datetime)
            write_objects(
                outputs.mask, score_path, outputs.vector, dates=dates, min_area_m2=outputs.min_area_m2,
                overwrite=outputs.overwrite,
            )  # fmt: skip
    finally:
        if outputs.score is None:
            score_path.unlink(missing_ok=True)
    return ChangeResult(outputs.mask, method, limit, share, tuple(notes))


def _write_score(
    path: Path,
    before: Scene,
    after: Scene,
    backbone: Backbone | None,
    method: Method,
    settings: DenseSettings,
    outputs: ChangeOutputs,
    tags: dict[str, Any],
    progress: Progress,
) -> list[str]:
    pair = align(before, after)
    notes = list(pair.notes)
    sample = survey(pair)
    spectral = fit_spectral(pair, sample)
    notes.append(spectral.radiometry.describe(spectral.bands))
    stores: list[TokenStore] = []
    tokens = None
    if method.reads_features:
        if backbone is None:
            raise InputError(f"method {method} compares features; name a backbone or take --method spectral")
        settings = settings.resolved(backbone)
        tokens, stores = fill_tokens(pair, spectral, backbone, settings, outputs, progress)
    field = ScoreField(pair, method, spectral if method.reads_bands else None, tokens)
    field.calibrate()
    tags |= {AUTO_TAG: asdict(field.threshold())}
    with CogWriter(
        path, pair.before.geobox, dtype="float32", nodata=float("nan"), resampling="average",
        descriptions=("deviations above the stable background",), tags=tags, overwrite=True,
    ) as writer:  # fmt: skip
        for rows in field.rows():
            writer.write(rows.row, rows.score[None])
            progress.update(0.9 + 0.1 * (rows.row + rows.score.shape[0]) / pair.before.height, "score")
    for store in stores:
        store.remove()
    return notes


def fill_tokens(
    pair: Pair,
    spectral: SpectralModel,
    backbone: Backbone,
    settings: DenseSettings,
    outputs: ChangeOutputs,
    progress: Progress,
) -> tuple[TokenHalf, list[TokenStore]]:
    """Run the backbone over both dates, the second in the radiometry of the first."""
    scenes = (pair.before, normalised(pair.after, spectral.bands, spectral.radiometry))
    stores = []
    for number, (name, scene) in enumerate(zip(("before", "after"), scenes, strict=True)):
        chosen = scene.select(backbone.bands)
        grid = token_grid(chosen, backbone, settings)
        store = TokenStore.open(
            part_of(outputs.mask, f".{name}"),
            {"scene": chosen.fingerprint(), "backbone": backbone.hash, "settings": settings.identity()},
            rows=grid.rows,
            columns=grid.columns,
            channels=feature_dim(backbone, settings),
            restart=outputs.overwrite,
        )
        if store.done < grid.rows:
            for piece in stream_tokens(chosen, backbone, settings, rows=range(store.done, grid.rows)):
                store.write(piece.row, piece.features, piece.valid)
                progress.update(0.9 * (number + store.done / grid.rows) / 2, f"features of {scene.name}")
        stores.append(store)
    tolerance = pair.remaining_shift / grid.pixels
    change = fit_token_change(*stores, layers=max(1, len(settings.layers)), tolerance=tolerance)
    return token_half(stores[0], stores[1], change, grid.pixels), stores


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
    import odc.geo.geobox

    changed = valid = 0
    with rasterio.open(score) as file:
        geobox = odc.geo.geobox.GeoBox(file.shape, file.transform, None if file.crs is None else file.crs.to_wkt())
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


def _identity(before: Scene, after: Scene, backbone: Backbone | None, method: Method, settings: DenseSettings) -> str:
    """Digest of everything a score depends on."""
    parts = [before.fingerprint(), after.fingerprint(), method.value, None if backbone is None else backbone.hash]
    dense = settings.identity() if backbone is not None else None
    return hashlib.sha256(json.dumps([parts, dense]).encode()).hexdigest()[:32]


def _same_run_or_refuse(path: Path, identity: str) -> None:
    found = None
    with contextlib.suppress(rasterio.errors.RasterioIOError), rasterio.open(path) as file:
        found = file.tags().get(IDENTITY_TAG)
    if found != identity:
        raise OutputError(
            f"{path} exists already and was not made from these dates and settings; choose another name or replace it "
            "with --overwrite"
        )
