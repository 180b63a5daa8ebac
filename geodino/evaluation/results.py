"""Results and the tables that people read: JSON, CSV and Markdown of the same rows."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas

from tiles.writing.outputs import replacing


@dataclass(frozen=True)
class Result:
    """One number with everything needed to repeat it.

    Attributes:
        model: Name of the backbone or floor.
        floor: Whether it is a floor.
        key: Identity of its features (weights, precision, normalisation).
        dataset: Name of the data set.
        fingerprint: Identity of its images and labels.
        protocol: ``knn``, ``linear`` or ``segmentation``.
        metric: ``accuracy`` or ``mIoU``.
        setting: What distinguishes rows of one protocol, such as ``k=5``, or what validation chose, such as ``C=0.1``.
        value: The number, in [0, 1].
        low: Lower end of the bootstrap 95 % interval over test images.
        high: Upper end.
        train: Training images.
        val: Validation images.
        test: Test images.
        split: ``official``, ``spatial`` or ``random``.
        size: Side in pixels that images were brought to.
        seed: Seed of split, sample and bootstrap.
    """

    model: str
    floor: bool
    key: str
    dataset: str
    fingerprint: str
    protocol: str
    metric: str
    setting: str
    value: float
    low: float
    high: float
    train: int
    val: int
    test: int
    split: str
    size: int
    seed: int


def to_json(results: Sequence[Result]) -> str:
    """All results as a JSON list."""
    return json.dumps([asdict(result) for result in results], indent=2) + "\n"


def from_json(text: str) -> list[Result]:
    """Read what ``to_json`` wrote."""
    return [Result(**row) for row in json.loads(text)]


def to_csv(results: Sequence[Result]) -> str:
    """All results as CSV, one a line."""
    return pandas.DataFrame(map(asdict, results), columns=[f.name for f in fields(Result)]).to_csv(index=False)


def to_markdown(results: Sequence[Result]) -> str:
    """A table for people: a line a model, a column a measurement, floors last, per cent with their 95 % intervals."""
    columns: dict[tuple[str, str], str] = {}
    cells: dict[str, dict[tuple[str, str], Result]] = {}
    for result in results:
        what = f"kNN-{result.setting.removeprefix('k=')}" if result.protocol == "knn" else result.protocol
        column = (result.dataset, what)
        columns.setdefault(
            column, f"{result.dataset} {what} ({result.metric}, {result.test} test, {result.split} split)"
        )
        cells.setdefault(result.model, {})[column] = result
    floor = {result.model: result.floor for result in results}
    lines = [
        "| model | px | " + " | ".join(columns.values()) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for model in sorted(cells, key=lambda name: floor[name]):  # stable: the order of measuring within each kind
        row = cells[model]
        sizes = "/".join(str(size) for size in sorted({result.size for result in row.values()}))
        texts = [_cell(row.get(column)) for column in columns]
        lines.append(f"| {model}{' (floor)' if floor[model] else ''} | {sizes} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def _cell(result: Result | None) -> str:
    if result is None:
        return ""
    return f"{100 * result.value:.1f} [{100 * result.low:.1f}, {100 * result.high:.1f}]"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(text)
