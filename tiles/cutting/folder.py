"""The folder of a tile set: what in it is the set's, and what is somebody else's."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from tiles.archive.index import ABOUT_FILE, INDEX_FILE
from tiles.cutting.plan import PARTS, PLAN_FILE
from tiles.cutting.unit import Failure
from tiles.errors import OutputError
from tiles.writing.outputs import check_name, replacing

FAILURES_FILE = "failures.csv"
# What a tile set consists of, and what is made of it.
_OWN = (
    "shard-*.npy", f"{INDEX_FILE}*", f"{ABOUT_FILE}*", "statistics.json", "contact_sheet.png", "footprints.png",
    "curated.*", FAILURES_FILE, f"{PLAN_FILE}*",
)  # fmt: skip


def prepare(folder: Path) -> None:
    """Make the folder, or check that a tile set may be written there."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise OutputError(f"{folder} is a file; choose a folder for the tile set.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_name(folder)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made ({error.strerror}).") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} cannot be written to.")
    content = [path for path in folder.iterdir() if path.name != ".lock"]
    if content and not (folder / PLAN_FILE).exists():
        raise OutputError(f"{folder} holds other files; choose a new or an empty folder for the tile set.")


def clear(folder: Path) -> None:
    """Remove the files of a tile set, the plan last, and nothing else."""
    remove_partial(folder)
    for pattern in (f"{PARTS}/*.parquet", *_OWN):
        for path in folder.glob(pattern):
            path.unlink()


def remove_partial(folder: Path) -> None:
    """Remove half-written files; whoever may still be writing one fails to put it in place, and nobody minds."""
    for path in [*folder.glob("*.part"), *(folder / PARTS).glob("*.part")]:
        path.unlink(missing_ok=True)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder in which nothing was put, its lock included."""
    if not os.path.isdir(folder):
        return
    if (folder / PARTS).is_dir() and not any((folder / PARTS).iterdir()):
        (folder / PARTS).rmdir()
    if not any(path.name != ".lock" for path in folder.iterdir()):
        (folder / ".lock").unlink(missing_ok=True)
        folder.rmdir()


def move_foreign(source: Path, target: Path) -> None:
    """Move what is no tile set's from one folder to another, where no such name is taken."""
    for path in source.iterdir():
        own = path.name in (PARTS, ".lock") or path.suffix == ".part" or any(map(path.match, _OWN))
        if not own and not (target / path.name).exists():
            path.rename(target / path.name)


def write_failures(folder: Path, failures: Sequence[Failure]) -> None:
    """List what could not be cut; no list where nothing failed."""
    path = folder / FAILURES_FILE
    if not failures:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as part, part.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["source", "reason"])
        rows.writerows([failure.source, failure.reason] for failure in failures)
