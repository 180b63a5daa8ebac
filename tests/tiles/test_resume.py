"""A cut killed at any point and started again gives the bytes of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tiles.cut import cut
from tiles.dataset import TileDataset
from tiles.errors import InputError, OutputError
from tiles.plan import CutSettings, Request, locked

SCRIPT = """
import sys
from pathlib import Path
import tiles.plan, tiles.unit
tiles.plan._SMALLEST_SHARD = 8192
from tiles.cut import cut
from tiles.plan import CutSettings, Request
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


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_started_again(write_raster, tmp_path, workers, monkeypatch):
    generator = np.random.default_rng(0)
    paths = [write_raster(f"{i}.tif", generator.integers(1, 255, (3, 500, 400), np.uint8)) for i in range(4)]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr("tiles.plan._SMALLEST_SHARD", 8192)
    cut([Request(str(path)) for path in paths], tmp_path / "whole", CutSettings(size=16))
    expected = content(tmp_path / "whole")
    assert sum(name.startswith("shard") for name in expected) > 100

    folder = tmp_path / "killed"
    kills = 0
    for wanted in (10, 70):
        process = start(folder, paths, workers, script)
        while process.poll() is None and len(list((folder / "parts").glob("*.parquet"))) < wanted:
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            with pytest.raises(InputError):
                TileDataset(folder)  # a half-made tile set does not pass for a whole one
    assert kills >= 1
    assert start(folder, paths, workers, script).wait(timeout=300) == 0
    assert content(folder) == expected


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


def test_one_folder_takes_one_cut_at_a_time(write_raster, ramp, tmp_path):
    path = write_raster("a.tif", ramp(3, 16, 16))
    (tmp_path / "T").mkdir()
    with locked(tmp_path / "T"), pytest.raises(OutputError, match="Another process is cutting"):
        cut([Request(str(path))], tmp_path / "T", CutSettings(size=16))
