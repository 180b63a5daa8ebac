"""Whatever fails while a command replaces an output, the old or the new one is there, whole; run again, it is right.

A failure is injected at one call after the other of the doors to files: opening and reading a raster, writing rows or
arrays, giving a file its name, and a disk that is full there; and a process is killed at some touch of its files.
"""

import errno
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from batch_testing import write_scene
from rasterio.errors import RasterioIOError
from typer.testing import CliRunner

from geodino.cli import build
from tiles.scenes.reader import SceneReader
from tiles.writing.tiled import TiledRows

FULL = OSError(errno.ENOSPC, "No space left on device")
UNREADABLE = RasterioIOError("a block cannot be read")
DOORS = (
    (rasterio, "open", RasterioIOError("it cannot be opened")),
    (SceneReader, "read", UNREADABLE),
    (TiledRows, "write", FULL),
    (np, "save", FULL),
    (os, "mkdir", FULL),
    (os, "replace", FULL),
    (os, "rename", OSError(errno.EIO, "Input/output error")),
)
PLACE = "500200,4999800"
# What makes an old output, what makes its successor from other settings, and what of it is the product.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "tile": ("tile a.tif -o out/T --size 32 --workers 1", "tile a.tif -o out/T --size 16 --workers 1", "T/*"),
    "features-tif": ("features a.tif -o out/f.tif --dtype float32", "features a.tif -o out/f.tif", "f.tif"),
    "features-zarr": ("features a.tif -o out/f.zarr --dtype float32", "features a.tif -o out/f.zarr", "f.zarr/*"),
    "segment": (
        "segment a.tif -o out/m.tif --clusters 2 --confidence out/c.tif --vector out/v.geojson",
        "segment a.tif -o out/m.tif --clusters 3 --confidence out/c.tif --vector out/v.geojson",
        "*",
    ),
    "change": (
        "change a.tif b.tif -o out/d.tif --score out/s.tif --threshold 1",
        "change a.tif b.tif -o out/d.tif --score out/s.tif --threshold 2 --method features",
        "*",
    ),
    "series": (
        "change a.tif b.tif c.tif -o out/y.tif --threshold 1 --method features",
        "change a.tif b.tif c.tif -o out/y.tif --threshold 2 --method features",
        "*",
    ),
    "similar": (f"similar a.tif --at {PLACE} -o out/s.tif", "similar a.tif --at 500400,4999800 -o out/s.tif", "*"),
    "index": ("index a.tif -o out/i.parquet --tokens 2", "index a.tif -o out/i.parquet --tokens 4", "*"),
    "batch": (
        "batch a.tif b.tif -o out/{name}.tif --precision bf16",
        "batch a.tif b.tif -o out/{name}.tif --precision fp32",
        "*",
    ),
}


@pytest.fixture
def place(tmp_path, run_folder, monkeypatch):
    """A folder of three scenes, which is the current one, and a way to run a command in it."""
    for number, name in enumerate("abc"):
        ground = np.random.default_rng(0).integers(60, 120, (3, 96, 96), dtype=np.uint8)
        ground[:, 16 * number : 16 * number + 32, 40:80] += 20 * number
        write_scene(tmp_path / f"{name}.tif", ground)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, tmp_path / "backbone")
    return tmp_path


def words(line: str) -> list[str]:
    return line.split() + ([] if line.startswith("tile") else ["--backbone", "backbone"]) + ["--overwrite"]


def run(line: str) -> bool:
    """Whether a command ends well; one that does not says why, in an error of its own."""
    result = CliRunner().invoke(build(), words(line))
    return result.exit_code == 0


def kept(folder: Path) -> dict[str, bytes]:
    """Every file but the record of a batch, which grows."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: content for name, content in found.items() if not name.startswith("geodino-batch")}


def restore(folder: Path, old: dict[str, bytes], journal: bytes | None) -> None:
    shutil.rmtree(folder)
    for name, content in old.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if journal is not None:
        (folder / "geodino-batch.jsonl").write_bytes(journal)


def product(found: dict[str, bytes], pattern: str) -> dict[str, bytes]:
    """What a reader of the output takes: neither what describes it nor what is unfinished beside it."""
    own = {name: content for name, content in found.items() if Path(name.split("/")[0]).match(pattern.split("/")[0])}
    beside = (".part", ".stac.json", ".png", ".lock")
    return {
        name: content
        for name, content in own.items()
        if not name.endswith(beside) and not any(part.endswith(".part") for part in Path(name).parts)
    }


class Doors:
    """Counts the calls of all doors, and has one of them fail."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls, self.fails = 0, 0
        for owner, name, error in DOORS:
            patch.setattr(owner, name, self._watched(getattr(owner, name), error))

    def _watched(self, original: Callable, error: Exception) -> Callable:
        def call(*arguments, **options):
            self.calls += 1
            if self.calls == self.fails:
                raise error
            return original(*arguments, **options)

        return call


def both_outputs(command: str, folder: Path) -> tuple[dict[str, bytes], dict[str, bytes], bytes | None]:
    """What lies there after the first command, and after the second where nothing fails."""
    first, second, _ = COMMANDS[command]
    assert run(first)
    old = kept(folder)
    record = folder / "geodino-batch.jsonl"
    journal = record.read_bytes() if record.exists() else None
    assert run(second)
    new = kept(folder)
    assert old != new
    return old, new, journal


def check_whole(command: str, found: dict[str, bytes], old: dict[str, bytes], new: dict[str, bytes]) -> None:
    pattern = COMMANDS[command][2]
    there, before, after = (product(files, pattern) for files in (found, old, new))
    if pattern.endswith("/*"):  # a folder is one output
        assert there in (before, after)
    else:
        assert there.keys() == before.keys()
        assert all(there[name] in (before[name], after[name]) for name in there)


def check_failures(command: str, folder: Path, points: Callable[[int], list[int]]) -> None:
    old, new, journal = both_outputs(command, folder)
    _, second, _ = COMMANDS[command]
    with pytest.MonkeyPatch.context() as patch:
        doors = Doors(patch)
        restore(folder, old, journal)
        doors.calls = 0
        assert run(second)
        total = doors.calls
        assert total > 3 and kept(folder) == new
        for point in points(total):
            restore(folder, old, journal)
            doors.calls, doors.fails = 0, point
            run(second)  # some failures do no harm, such as that of a look at what is there
            check_whole(command, kept(folder), old, new)
            assert not list(folder.rglob("*.lock")), point
            doors.fails = 0
            assert run(second), point
            assert kept(folder) == new, point


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "series"])  # which takes long
def test_a_failure_anywhere_loses_nothing(place, command):
    check_failures(command, place / "out", lambda total: [total // 2, total - 1][command == "change" :])


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_failure_everywhere_loses_nothing(place, command):
    check_failures(command, place / "out", lambda total: list(range(1, total + 1, max(1, total // 20))))


# Runs a command and dies by SIGKILL, tidying nothing up, before its n-th touch of a file in a folder. Text and not a
# function, since a child process cannot import this file.
RUN_UNTIL = """
import os, signal, sys
from geodino.cli import build

TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree")
os.chdir(folder)

def touch(event, arguments):
    global left
    if event in TOUCHES and str(arguments[0]).startswith((out, "out")):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(touch)
try:
    build()(words)
except SystemExit as end:
    sys.exit(end.code)
"""


def check_kills(command: str, place: Path, first: int, growth: float) -> None:
    """Each child dies some touches of its files later than the one before, until one comes to the end."""
    folder = place / "out"
    old, new, journal = both_outputs(command, folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["geodino.jobs.batch", "geodino.api", "zarr", "rioxarray", "timm"])
    touches, kills = first, 0
    while True:
        restore(folder, old, journal)
        given = {"words": words(COMMANDS[command][1]), "folder": str(place), "out": str(folder), "left": touches}
        child = context.Process(target=exec, args=(RUN_UNTIL, given))
        child.start()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        check_whole(command, kept(folder), old, new)
        assert run(COMMANDS[command][1]), touches
        assert kept(folder) == new, touches
        if child.exitcode == 0:
            break
        kills, touches = kills + 1, int(touches * growth) + 1
    assert kills


@pytest.mark.parametrize("command", ["tile", "features-zarr"])
def test_a_kill_loses_nothing(place, command):
    check_kills(command, place, 12, 4)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_anywhere_loses_nothing(place, command):
    check_kills(command, place, 2, 1.2)
