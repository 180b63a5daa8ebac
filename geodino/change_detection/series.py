"""Three dates or more: when each place changed for good.

A place changed for good at date k when it differs between dates k - 1 and k, and the dates from k on differ from those
before k: one odd date (a cloud, a flood, a dry year) does not last. Every date is brought to the grid and the light of
the first, and every pair of dates is compared as `pair` does it, with a background and a threshold of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geodino.change_detection.date_tokens import plan_tokens
from geodino.change_detection.pair import Comparison
from geodino.change_detection.score import PairScore, Readers, each_block
from geodino.change_detection.score_method import Method
from geodino.dense.engine import Engine
from geodino.dense.settings import DenseSettings
from geodino.heads.legend import Legend
from tiles.errors import InputError
from tiles.progress import Progress, Share, Silent
from tiles.scenes.dates import certainly_before, year_of
from tiles.scenes.scene import Scene
from tiles.writing.cog import CogWriter, MapClass
from tiles.writing.outputs import check_output

NODATA = 65535
# Pixels that light and stable background are measured on: there are n (n - 1) / 2 pairs, and far fewer than the map of
# a single pair takes settle them.
_SAMPLE = 60_000
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
    scenes: Sequence[Scene],
    output: Path,
    *,
    method: Method = Method.auto,
    threshold: float | None = None,
    engine: Engine | None = None,
    settings: DenseSettings | None = None,
    cubes: Sequence[Path] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SeriesResult:
    """Map the date of the first lasting change.

    Args:
        scenes: three dates or more, in order of time; the first one's grid is kept.
        output: uint16 COG: year (or number) of the first date of the lasting change, 0 none, 65535 nodata.
        method: what is compared.
        threshold: scores above are change; None for each pair's own.
        engine: what runs the backbone; None is enough for the spectral method, and with cubes.
        settings: how windows are laid.
        cubes: tokens of each date instead, as ``features`` made them of the dates as they are.
        overwrite: replace an existing file.
        progress: reporter of the share done, 0 to 1.

    Raises:
        InputError: fewer than three dates, dates out of order, or dates that do not fit each other.
        OutputError: the output exists or cannot be written.
    """
    if len(scenes) < 3:
        raise InputError("a series needs three dates or more; give two to `change` for a plain map")
    check_output(output, overwrite=overwrite)
    progress = progress or Silent()
    values, notes = _date_values(scenes)
    comparison = Comparison(
        scenes, output, method.settled(), plan_tokens(scenes, engine, settings or DenseSettings(), cubes),
        sample=_SAMPLE, overwrite=overwrite, progress=Share(progress, 0, 0.7),
    )  # fmt: skip
    tags = comparison.tags(first=scenes[0], last=scenes[-1])
    tags |= {"GEODINO_METHOD": comparison.method.value, "GEODINO_DATES": [scene.datetime for scene in scenes]}
    legend = Legend.of([f"changed for good by {scene.datetime or scene.name}" for scene in scenes[1:]])
    classes = [MapClass(v, n, c) for v, n, c in zip(values, legend.names, legend.colors, strict=True)]
    counts = np.zeros(len(scenes), dtype=np.int64)
    lookup = np.array([0, *values], dtype=np.uint16)
    with comparison:
        scores: dict[tuple[int, int], PairScore] = {}
        pairs = list(combinations(range(len(scenes)), 2))
        for pair in pairs:
            scores[pair] = comparison.compare(*pair)
            progress.update(0.7 + 0.2 * len(scores) / len(pairs), " and ".join(scenes[date].name for date in pair))
        for number, scene in enumerate(scenes[1:], 1):
            notes += [f"{scene.name}: {note}" for note in comparison.notes(number)]
        grid = comparison.dates[0].scene.geobox
        with CogWriter(
            output, grid, dtype="uint16", nodata=NODATA, classes=classes, resampling="nearest",
            descriptions=("first lasting change",), tags=tags, overwrite=overwrite,
        ) as writer:  # fmt: skip
            for row, found, valid in _lasting_rows(scores, len(scenes), threshold):
                writer.write(row, np.where(valid, lookup[found], NODATA).astype(np.uint16)[None])
                counts += np.bincount(found[valid], minlength=len(scenes))
                progress.update(0.9 + 0.1 * (row + len(found)) / grid.shape[0], "map")
    shares = tuple(float(count / max(counts.sum(), 1)) for count in counts[1:])
    return SeriesResult(output, values, shares, tuple(notes))


def _lasting_rows(
    scores: dict[tuple[int, int], PairScore], dates: int, threshold: float | None
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.bool_]]]:
    """First row, first lasting change `[n, width]` and validity of each block of rows."""
    limits = {pair: score.threshold().value if threshold is None else threshold for pair, score in scores.items()}

    def lasting(readers: Readers, start: int, stop: int) -> tuple[int, NDArray[np.int64], NDArray[np.bool_]]:
        width = scores[0, 1].pair.before.width
        changed = np.zeros((dates, dates, stop - start, width), dtype=bool)
        valid = np.ones((stop - start, width), dtype=bool)
        for pair, score in scores.items():
            found = score.read(readers, start, stop)
            valid &= np.isfinite(found)
            changed[pair] = found > limits[pair]
        return start, first_lasting_change(changed), valid

    return each_block(lasting, scores[0, 1].blocks(), [score.pair for score in scores.values()])


def _date_values(scenes: Sequence[Scene]) -> tuple[tuple[int, ...], list[str]]:
    """Raster value of each date but the first: its year where all are known, differ and ascend."""
    known = [year for scene in scenes if (year := year_of(scene.datetime)) is not None]
    if any(certainly_before(later.datetime, earlier.datetime) for earlier, later in combinations(scenes, 2)):
        times = ", ".join(scene.datetime or scene.name for scene in scenes)
        raise InputError(f"the dates are not in order of time: {times}; give the earliest first")
    notes = [
        f"{one.datetime} and {other.datetime} may be either way round: taken in the order given"
        for one, other in pairwise(scenes)
        if one.datetime and other.datetime and not certainly_before(one.datetime, other.datetime)
    ]
    if len(known) == len(scenes) and len(set(known[1:])) == len(known) - 1:
        return tuple(known[1:]), ["values of the map are years", *notes]
    listed = ", ".join(f"{number} = {scene.datetime or scene.name}" for number, scene in enumerate(scenes[1:], 1))
    return tuple(range(1, len(scenes))), [f"values of the map are numbers of dates: {listed}", *notes]
