"""Three dates or more: when each place changed for good.

A place changed for good at date k when it differs between dates k - 1 and k, and the dates from k on differ from those
before k: one odd date (a cloud, a flood, a dry year) does not last. Every pair of dates is compared, each with its own
radiometry, shift, background and threshold.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodino.change_detection.alignment import align, common_grid
from geodino.change_detection.method import Method
from geodino.change_detection.score import ScoreField
from geodino.change_detection.spectral import fit_spectral, survey
from geodino.change_detection.tokens import compare_dates
from geodino.dense.engine import Engine
from geodino.dense.store import TokenStore
from geodino.dense.stream import DenseSettings
from geodino.dense.tokens import SceneTokens, tokens_from_scene
from geodino.heads.legend import Legend
from geodino.products.tags import provenance
from tiles.errors import InputError
from tiles.progress import Progress, Share, Silent
from tiles.scenes.scene import Scene
from tiles.writing.cog import CogWriter, MapClass, check_output, part_of

NODATA = 65535
# A pair's sample for a series: there are n (n - 1) / 2 pairs, and a scene's radiometry is settled by far fewer pixels.
_SURVEY_PIXELS = 60_000
# Share of the pairs of an earlier and a later date that must differ: all but a few, since each comparison may miss.
LASTING = 0.9


@dataclass(frozen=True)
class SeriesResult:
    """What was made.

    Attributes:
        path: the map of dates.
        values: raster value of each date but the first: its year, or its number from 1 where years are not known.
        shares: share of the valid pixels that changed for good at each of them.
        notes: decisions taken, to be printed.
    """

    path: Path
    values: tuple[int, ...]
    shares: tuple[float, ...]
    notes: tuple[str, ...]


def first_lasting_change(changed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """First date at which a place changed and from which it stayed different from all that was before.

    Args:
        changed: whether dates i and j differ, `[T, T, ...]`, read for i < j.

    Returns:
        `[...]`: 1 to T - 1, or 0 where nothing lasted.
    """
    dates = changed.shape[0]
    found = np.zeros(changed.shape[2:], dtype=np.int64)
    for date in range(dates - 1, 0, -1):
        share = changed[:date, date:].mean(axis=(0, 1))
        found = np.where(changed[date - 1, date] & (share >= LASTING), date, found)
    return found


def change_series(
    scenes: list[Scene],
    output: Path,
    *,
    engine: Engine | None,
    method: Method = Method.auto,
    threshold: float | None = None,
    settings: DenseSettings | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SeriesResult:
    """Map the date of the first lasting change.

    Args:
        scenes: three dates or more, in order of time; the first one's grid is kept.
        output: uint16 COG: year (or number) of the first date of the lasting change, 0 none, 65535 nodata.
        engine: what runs the backbone; None is enough for the spectral method.
        method: which halves the scores have.
        threshold: scores above are change; None for each pair's own.
        settings: how windows are laid.
        overwrite: replace an existing file.
        progress: reporter of the share done, 0 to 1.

    Raises:
        InputError: fewer than three dates, dates out of order, or dates that do not fit each other.
    """
    if len(scenes) < 3:
        raise InputError("a series needs three dates or more; give two to `change` for a plain map")
    check_output(output, overwrite=overwrite)
    progress = progress or Silent()
    method = method.settled()
    grid = scenes[0].geobox
    for scene in scenes[1:]:
        grid = common_grid(replace(scenes[0], geobox=grid), scene)
    values, notes = _date_values(scenes)
    dates = [scene.on(grid) for scene in scenes]
    stores: list[SceneTokens] = []
    compared: list[TokenStore] = []
    settings = replace(settings or DenseSettings(), min_valid=0.0)
    if method.reads_features:
        if engine is None:
            raise InputError(f"method {method} compares features; name a backbone or take --method spectral")
        _, settings = engine.describe(settings)
        for number, date in enumerate(dates):
            span = (0.7 * number / len(dates), 0.7 * (number + 1) / len(dates))
            folder = part_of(output, f".date{number}")
            stores.append(
                tokens_from_scene(date, engine, settings, folder, overwrite=overwrite).tokens(Share(progress, *span))
            )
    fields: dict[tuple[int, int], tuple[ScoreField, float]] = {}
    for first, second in combinations(range(len(dates)), 2):
        pair = align(dates[first], scenes[second])
        spectral = fit_spectral(pair, survey(pair, pixels=_SURVEY_PIXELS)) if method.reads_bands else None
        tokens = None
        if stores:
            folder = part_of(output, f".pair{first}_{second}")
            tokens = compare_dates(pair, stores[first], stores[second], folder)
            compared.append(tokens.compared)
        field = ScoreField(pair, method, spectral, tokens)
        field.calibrate()
        limit = field.threshold().value if threshold is None else threshold
        fields[first, second] = (field, limit)
        done = len(fields) / (len(dates) * (len(dates) - 1) / 2)
        progress.update(0.7 + 0.2 * done, f"{scenes[first].name} and {scenes[second].name}")
    tags = provenance(stores[0].origin if stores else None, first=scenes[0], last=scenes[-1])
    if stores:
        tags["GEODINO_LAYERS"] = list(settings.layers) or "last"
    tags |= {"GEODINO_METHOD": method.value, "GEODINO_DATES": [scene.datetime for scene in scenes]}
    names = [scene.datetime or scene.name for scene in scenes[1:]]
    legend = Legend.of([f"changed for good by {name}" for name in names])
    classes = [MapClass(v, n, c) for v, n, c in zip(values, legend.names, legend.colors, strict=True)]
    counts = np.zeros(len(scenes), dtype=np.int64)
    lookup = np.array([0, *values], dtype=np.uint16)
    with CogWriter(
        output, grid, dtype="uint16", nodata=NODATA, classes=classes, resampling="nearest",
        descriptions=("first lasting change",), tags=tags, overwrite=overwrite,
    ) as writer:  # fmt: skip
        for row, found, valid in _lasting_rows(fields, len(dates)):
            writer.write(row, np.where(valid, lookup[found], NODATA).astype(np.uint16)[None])
            counts += np.bincount(found[valid], minlength=len(scenes))
            progress.update(0.9 + 0.1 * (row + len(found)) / grid.shape[0], "map")
    for store in stores:
        store.remove()
    for distances in compared:
        distances.remove()
    shares = tuple(float(count / max(counts.sum(), 1)) for count in counts[1:])
    return SeriesResult(output, values, shares, tuple(notes))


def _lasting_rows(
    fields: dict[tuple[int, int], tuple[ScoreField, float]], dates: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.bool_]]]:
    """First lasting change and validity, block of rows by block."""
    blocks = next(iter(fields.values()))[0].blocks()
    with contextlib.ExitStack() as stack:
        readers = {key: stack.enter_context(field.readers()) for key, (field, _) in fields.items()}
        for start, stop in blocks:
            changed: NDArray[Any] | None = None
            valid: NDArray[Any] | None = None
            for key, (field, limit) in fields.items():
                score = field.final.standardise(field.combined(readers[key], start, stop))
                if changed is None or valid is None:
                    changed = np.zeros((dates, dates, *score.shape), dtype=bool)
                    valid = np.ones(score.shape, dtype=bool)
                valid &= np.isfinite(score)
                changed[key] = score > limit
            if changed is not None and valid is not None:
                yield start, first_lasting_change(changed), valid


def _date_values(scenes: list[Scene]) -> tuple[tuple[int, ...], list[str]]:
    """Raster value of each date but the first: its year where all are known, differ and ascend."""
    years = [int(scene.datetime[:4]) if scene.datetime else None for scene in scenes]
    known = [year for year in years if year is not None]
    times = [scene.datetime for scene in scenes if scene.datetime]
    if len(times) == len(scenes) and times != sorted(times):
        raise InputError(f"the dates are not in order of time: {', '.join(times)}; give the earliest first")
    if len(known) == len(scenes) and len(set(known[1:])) == len(known) - 1:
        return tuple(known[1:]), ["values of the map are years"]
    listed = ", ".join(f"{number} = {scene.datetime or scene.name}" for number, scene in enumerate(scenes[1:], 1))
    return tuple(range(1, len(scenes))), [f"values of the map are numbers of dates: {listed}"]
