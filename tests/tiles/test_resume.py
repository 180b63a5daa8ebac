"""A cut killed at any point and started again gives the bytes of one that was not."""

import errno
import os
import signal
import subprocess
import sys
import time
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine

from tiles.archive.dataset import TileDataset
from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request
from tiles.errors import InputError, OutputError
from tiles.writing.outputs import locked_folder

SCRIPT = """
import sys
from pathlib import Path
import tiles.cutting.plan, tiles.cutting.unit
tiles.cutting.plan._SMALLEST_SHARD = 8192
from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request
folder, workers, *paths = sys.argv[1:]
if __name__ == "__main__":
    cut([Request(p) for p in paths], folder, CutSettings(size=16), workers=int(workers))
"""


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def start(folder: Path, paths: list[Path], workers: int, script: Path) -> subprocess.Popen:
    command = [sys.executable, str(script), str(folder), str(workers), *map(str, paths)]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> tuple[list[Path], dict[str, bytes]]:
    """Four scenes that make more than fifty units, and the tile set they should end as."""
    folder = tmp_path_factory.mktemp("archive")
    generator = np.random.default_rng(0)
    grid = {"crs": "EPSG:32633", "transform": Affine(10, 0, 400000, 0, -10, 5000000)}
    paths = [folder / f"{i}.tif" for i in range(4)]
    for path in paths:
        with rasterio.open(path, "w", driver="GTiff", count=3, height=250, width=400, dtype="uint8", **grid) as target:
            target.write(generator.integers(1, 255, (3, 250, 400), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiles.cutting.plan._SMALLEST_SHARD", 8192)
        cut(requests(paths), folder / "whole", CutSettings(size=16))
    expected = content(folder / "whole")
    assert sum(name.startswith("shard") for name in expected) > 100  # two files a unit
    return paths, expected


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("tiles.cutting.plan._SMALLEST_SHARD", 8192)


def requests(paths: list[Path]) -> list[Request]:
    return [Request(str(path)) for path in paths]


def stop(process: subprocess.Popen, way: str) -> None:
    """Kill all processes at once, or the first alone and leave its helpers, or press Ctrl-C."""
    if way == "kill":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL if way == "kill all" else signal.SIGINT)


@pytest.mark.parametrize(("workers", "way"), [(1, "kill all"), (2, "kill all"), (3, "kill"), (3, "ctrl-c")])
def test_stopped_and_started_again(archive, tmp_path, workers, way):
    paths, expected = archive
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folder = tmp_path / "stopped"
    stops = 0
    for wanted in (10, 40):
        process = start(folder, paths, workers, script)
        while process.poll() is None and len(list((folder / "parts").glob("*.parquet"))) < wanted:
            time.sleep(0.002)
        if process.poll() is None:
            stop(process, way)
            process.wait(timeout=60)
            stops += 1
            if way == "ctrl-c":
                assert not list(folder.rglob("*.part"))
            with pytest.raises(InputError):
                TileDataset(folder)  # a half-made tile set does not pass for a whole one
    assert stops >= 1
    assert start(folder, paths, workers, script).wait(timeout=300) == 0
    assert content(folder) == expected


def test_a_helper_that_is_killed_ends_the_cut_in_a_sentence(archive, small_shards, tmp_path):
    paths, expected = archive
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OutputError, match="A worker process was killed"):
        patch.setattr("tiles.cutting.work._call", die_in_a_helper)
        patch.setenv("CALLING_PROCESS", str(os.getpid()))
        patch.setenv("HELPER_DIES", str(tmp_path / "dies"))
        cut(requests(paths), tmp_path / "T", CutSettings(size=16), workers=2)
    cut(requests(paths), tmp_path / "T", CutSettings(size=16))
    assert content(tmp_path / "T") == expected


def die_in_a_helper(job):
    """Kill the process where it is a helper; elsewhere do the job once the helper has had its turn."""
    dies = Path(os.environ["HELPER_DIES"])
    if os.environ["CALLING_PROCESS"] != str(os.getpid()):
        dies.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    deadline = time.monotonic() + 120
    while not dies.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return job()


@pytest.mark.parametrize("room", [0, 100, 300_000])
def test_a_full_disk_leaves_what_was_finished(archive, small_shards, tmp_path, room):
    """The disk takes so many bytes more of shards, the last write only in part."""
    paths, expected = archive
    left = room

    class Full(FileIO):
        def write(self, content):
            nonlocal left
            part = memoryview(content).cast("B")[:left]
            if len(content) and not part:
                raise OSError(errno.ENOSPC, "No space left on device", self.name)
            left -= len(part)
            return super().write(part)

    with pytest.MonkeyPatch.context() as full:
        full.setattr("tiles.archive.shard.open", lambda path, mode, buffering: Full(path, "w"), raising=False)
        with pytest.raises(OSError) as caught:
            cut(requests(paths), tmp_path / "T", CutSettings(size=16))
        assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / "T").rglob("*.part"))
    for name, stored in content(tmp_path / "T").items():
        assert not name.startswith("shard") or stored == expected[name]
    cut(requests(paths), tmp_path / "T", CutSettings(size=16))
    assert content(tmp_path / "T") == expected


def test_a_half_written_shard_is_written_again(write_raster, ramp, tmp_path):
    path = write_raster("a.tif", ramp(3, 32, 32))
    cut([Request(str(path))], tmp_path / "T", CutSettings(size=16))
    expected = content(tmp_path / "T")
    (tmp_path / "T" / "parts" / "part-00000.parquet").unlink()  # killed between shard and index
    (tmp_path / "T" / "shard-00000.npy").write_bytes(b"half")
    (tmp_path / "T" / "shard-00000.npy.part").write_bytes(b"half of half")
    cut([Request(str(path))], tmp_path / "T", CutSettings(size=16))
    assert content(tmp_path / "T") == expected


def test_a_killed_cut_is_finished_even_when_other_scenes_are_given(write_raster, ramp, tmp_path):
    first, second = write_raster("a.tif", ramp(3, 32, 32)), write_raster("b.tif", ramp(3, 16, 48))
    cut([Request(str(first))], tmp_path / "T", CutSettings(size=16))
    (tmp_path / "T" / "parts" / "part-00000.parquet").unlink()
    report = cut([Request(str(second))], tmp_path / "T", CutSettings(size=16))
    assert report.tiles == 4 + 3
    (tmp_path / "T" / "parts" / "part-00000.parquet").unlink()
    write_raster("a.tif", ramp(3, 32, 33))
    with pytest.raises(OutputError, match=r"a\.tif has changed since its cut"):
        cut([Request(str(second))], tmp_path / "T", CutSettings(size=16))


def test_a_cut_is_not_finished_from_another_source_of_a_virtual_raster(write_raster, ramp, tmp_path):
    with rasterio.open(write_raster("a.tif", ramp(3, 32, 32))) as file:
        rasterio.shutil.copy(file, tmp_path / "a.vrt", driver="VRT")
    other = write_raster("b.tif", ramp(3, 16, 48))
    cut([Request(str(tmp_path / "a.vrt"))], tmp_path / "T", CutSettings(size=16))
    before = content(tmp_path / "T")
    (tmp_path / "T" / "parts" / "part-00000.parquet").unlink()
    write_raster("a.tif", ramp(3, 32, 32)[:, ::-1])
    for given, said in ((tmp_path / "a.vrt", "is not what it was"), (other, "has changed since its cut")):
        with pytest.raises(OutputError, match=rf"a\.vrt {said}"):
            cut([Request(str(given))], tmp_path / "T", CutSettings(size=16))
    write_raster("a.tif", ramp(3, 32, 32))
    cut([Request(str(tmp_path / "a.vrt"))], tmp_path / "T", CutSettings(size=16), overwrite=True)
    shards = [name for name in before if name.startswith("shard")]
    assert all((tmp_path / "T" / name).read_bytes() == before[name] for name in shards)


def test_one_folder_takes_one_cut_at_a_time(write_raster, ramp, tmp_path):
    path = write_raster("a.tif", ramp(3, 16, 16))
    (tmp_path / "T").mkdir()
    with locked_folder(tmp_path / "T"), pytest.raises(OutputError, match="Another process is writing"):
        cut([Request(str(path))], tmp_path / "T", CutSettings(size=16))
