"""Damaged files: each is an error that names it or is read as GDAL reads it; none stops the rest.

The files are cut in a process of their own, so that a crash inside GDAL would be seen as one.
"""

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.errors import RasterioError

from tiles.archive.dataset import TileDataset

SCRIPT = """
import sys
from pathlib import Path
from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request
folder = Path(sys.argv[1])
cut([Request(str(p)) for p in sorted(folder.glob("*.tif"))], sys.argv[2], CutSettings(size=16, min_valid=0.0))
"""
HEADERS = [
    {"compress": "deflate", "blockysize": 8},
    {"compress": "lzw", "tiled": True, "blockxsize": 16, "blockysize": 16},
    {"blockysize": 8},
    {"compress": "deflate", "BIGTIFF": "YES", "interleave": "band"},
]


def write_originals(folder: Path) -> list[bytes]:
    values = np.random.default_rng(0).integers(1, 255, (3, 40, 48), np.uint8)
    contents = []
    for number, options in enumerate(HEADERS):
        path = folder / f"good_{number}.tif"
        profile = {"driver": "GTiff", "count": 3, "height": 40, "width": 48, "dtype": "uint8", "photometric": "RGB"}
        place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 400000 + 1000 * number, 0, -10, 5000000)}
        with rasterio.open(path, "w", **profile, **place, nodata=0, **options) as target:
            target.write(values + np.uint8(number))
        contents.append(path.read_bytes())
    return contents


def damaged(original: bytes, kind: str, generator: np.random.Generator) -> bytes:
    """A truncated, bit-flipped or lying copy."""
    content = bytearray(original)
    if kind == "truncated":
        return bytes(content[: int(generator.integers(0, len(content)))])
    if kind == "flipped":
        for place in generator.integers(0, len(content), int(generator.integers(1, 8))):
            content[place] ^= 1 << int(generator.integers(0, 8))
        return bytes(content)
    # Overwrite the value of a tag in the first directory: sizes, offsets, types and counts that are lies.
    big = content[2] == 43
    directory = int.from_bytes(content[8:16], "little") if big else int.from_bytes(content[4:8], "little")
    head, entry, value = (8, 20, 12) if big else (2, 12, 8)
    count = int.from_bytes(content[directory : directory + head], "little")
    chosen = directory + head + int(generator.integers(0, count)) * entry
    field = int(generator.choice([0, 2, 4, value]))
    lie = int(generator.choice([0, 1, 7, 255, 65535, 2**31 - 1, 2**32 - 1, int(generator.integers(0, 2**32))]))
    content[chosen + field : chosen + field + 4] = lie.to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_damaged_files(tmp_path, count):
    archive = tmp_path / "archive"
    archive.mkdir()
    originals = write_originals(archive)
    generator = np.random.default_rng(count)
    for number in range(count):
        kind = ("truncated", "flipped", "lying")[number % 3]
        original = originals[number % len(originals)]
        content = original
        while content == original:  # a lie may happen to be the truth
            content = damaged(original, kind, generator)
        (archive / f"bad_{number:04d}_{kind}.tif").write_bytes(content)

    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", SCRIPT, str(archive), str(tmp_path / "T")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    with (tmp_path / "T" / "failures.csv").open() as file:
        failures = {row["source"]: row["reason"] for row in csv.DictReader(file)}
    for source, reason in failures.items():
        assert "bad_" in source and Path(source).name in reason and "\n" not in reason
    tiles = TileDataset(tmp_path / "T")
    sources = tiles.column("source")
    read = set(sources)
    assert {str(path) for path in archive.glob("good_*.tif")} <= read
    assert not read & failures.keys()
    transforms = tiles.column("transform")
    for source in sorted(read):
        with rasterio.open(source) as raster:
            whole = raster.read()  # what GDAL can read in full, without an error
            inverse = ~raster.transform
        for i in np.flatnonzero(sources == source):
            column, row = (round(v) for v in inverse @ (transforms[i][2], transforms[i][5]))
            record = tiles.read(int(i))
            part = whole[:3, row : row + 16, column : column + 16]
            inside = record.valid[: part.shape[1], : part.shape[2]]
            np.testing.assert_array_equal(
                record.values[:, : part.shape[1], : part.shape[2]][:, inside], part[:, inside]
            )
    # Whatever GDAL itself cannot read must be among the failures.
    for path in archive.glob("bad_*.tif"):
        try:
            with rasterio.open(path) as raster:
                raster.read()
        except (RasterioError, ValueError, MemoryError):
            assert str(path) not in read
    outcome = Counter("failed" if str(path) in failures else "read" for path in archive.glob("bad_*.tif"))
    assert outcome["failed"] > count // 4
