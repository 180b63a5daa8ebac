"""Damaged and random files: each is an error that names it or is read as GDAL reads it; none stops the rest.

The files are read in a process of their own, so that a crash inside GDAL would be seen as one.
"""

import csv
import json
import subprocess
import sys
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
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


# Opens each file and reads two windows: what comes of it is a line of JSON, "read" or a sentence or what went wrong.
READ = """
import json, resource, signal, sys, warnings
from pathlib import Path
import numpy as np, rasterio
from rasterio.windows import Window
from tiles.errors import InputError
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader

def late(*_):
    raise TimeoutError("hangs")

def outcome(path):
    try:
        scene = open_scene(path)
    except InputError as error:
        if "--gsd" not in str(error):
            raise
        scene = open_scene(path, gsd_m=10)
    with SceneReader(scene) as reader:
        for window in (Window(0, 0, min(32, scene.width), min(32, scene.height)), Window(-3, scene.height - 2, 9, 7)):
            pixels, numbers = reader.read(window), reader.read_dn(window)
            assert np.isfinite(pixels.values).all() and (pixels.values >= 0).all() and (pixels.values <= 1).all()
            if window.col_off == 0 and "damaged" not in path:  # GDAL reads some damage differently each time
                with rasterio.open(path) as file:
                    raw = file.read([band.index for band in scene.bands], window=window)
                assert np.array_equal(numbers.values[:, numbers.valid], raw[:, numbers.valid]), "wrong values"
    assert scene.notes
    return "read"

warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
signal.signal(signal.SIGALRM, late)
for path in sorted(Path(sys.argv[1]).iterdir()):
    if path.suffix in (".msk", ".tfw", ".xml"):
        continue
    signal.alarm(60)
    try:
        found = outcome(str(path))
    except InputError as error:
        found = f"refused: {error}"
    except BaseException as error:
        found = f"BROKEN {type(error).__name__}: {error}"
    signal.alarm(0)
    print(json.dumps([path.name, found]), flush=True)
"""
NAMES = [
    "S2A_MSIL2A_20210431T100559_N0500_R022_T33UUP", "S2B_20230601_T33UUP", "S2_SR_HARMONIZED", "x_2021-02-30",
    "2021-13",
    "LC08_L2SP_001066_20200229_20200906_02_T1", "LT05_L1TP_001066_19850731_20200906_02_T1",
    "m_3807762_nw_18_060_20180815",
    "20200601_AnalyticMS_SR", "WV02_x", "HDF5", "image", "netcdf_x", "0000", "9999", "a b (1) #2", "ü",
]  # fmt: skip
BANDS = [
    "B1", "B2", "B3", "B4", "B8", "B8A", "B02", "B03", "B04", "B12", "B99", "SR_B4", "red", "green", "blue", "Near IR",
    "",
    "x" * 400, "B", "8A", "ä\t;", "nan",
]  # fmt: skip
TEXTS = ["2021:02:30 10:00:00", "2020-06-01", "20210431", "0000:00:00 00:00:00", "99", "nan", "-1000", "", "1e999"]
TAGS = ["TIFFTAG_DATETIME", "ACQUISITION_DATE", "DATE", "PROCESSING_BASELINE", "BOA_ADD_OFFSET", "QUANTIFICATION_VALUE"]
NUMBERS = [0.0, 1.0, 1e-4, 2.75e-5, -0.1, -0.2, 0.01, 1e300, -1e300, float("nan"), float("inf")]
TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64", "complex64"]
SYSTEMS = [None, "EPSG:32633", "EPSG:4326", "EPSG:3857", "EPSG:3031", "EPSG:2263", 'LOCAL_CS["x",UNIT["m",1]]']


def random_values(shape: tuple[int, int, int], dtype: str, generator: np.random.Generator) -> np.ndarray:
    unit = generator.random(shape)
    kind = np.dtype(dtype).kind
    if kind in "iu":
        top = np.iinfo(dtype).max
        low = generator.choice([0, np.iinfo(dtype).min // 2])
        spread = generator.choice([1, 200, 10_000, top * 0.99])
        return np.clip(unit * spread + low, low, top * 0.99).astype(dtype)
    values = (unit * generator.choice([0.3, 1, 60, 255, 1e4, 1e30]) - generator.choice([0, 0.5])).astype(dtype)
    odd = generator.random(shape) < generator.choice([0, 0.2, 1], p=[0.6, 0.3, 0.1])
    values[odd] = generator.choice([np.nan, np.inf, -np.inf])
    return values


def random_transform(generator: np.random.Generator) -> Affine:
    a, e = generator.choice([10, 20, 1e-4, 1e-12, 0, 1e12, 300]), generator.choice([-10, 10, -1e-4, 0, -20, -1e15])
    shear = generator.choice([0, 0, 0, 3, 1e9])
    west, north = generator.choice([0, 15, 400_000, 179.9999, -1e20]), generator.choice([0, 50, 5_000_000, 95, 1e300])
    return Affine(a, shear, west, shear, e, north)


def write_random(folder: Path, number: int, generator: np.random.Generator) -> None:
    """One raster of random kind; every third is damaged afterwards."""
    suffix = generator.choice([".tif", ".png", ".vrt"], p=[0.85, 0.1, 0.05])
    path = folder / f"{generator.choice(NAMES)}_{number:04d}{suffix}"
    if suffix == ".vrt":
        wide, high = generator.choice([0, -1, 7, 2**31 - 1, 10**12], 2)
        system = generator.choice(["", "EPSG:32633", "nonsense"])
        path.write_text(
            f'<VRTDataset rasterXSize="{wide}" rasterYSize="{high}"><SRS>{system}</SRS>'
            f"<GeoTransform>{generator.choice(['0,1,0,0,0,-1', 'nan,nan', '1e999,1,0,0,0,-1'])}</GeoTransform>"
            f'<VRTRasterBand dataType="{generator.choice(["Byte", "Float32", "Nothing"])}" band="1"></VRTRasterBand>'
            "</VRTDataset>"
        )
        return
    png = suffix == ".png"
    dtype = "uint8" if png else str(generator.choice(TYPES))
    count = int(generator.choice([1, 3, 4]) if png else generator.choice([1, 2, 3, 4, 6, 12, 13]))
    high, wide = (int(n) for n in generator.choice([1, 2, 17, 40, 70], 2))
    profile: dict[str, object] = {
        "crs": SYSTEMS[generator.integers(len(SYSTEMS))],
        "transform": random_transform(generator),
    }
    if not png:
        profile |= {"compress": str(generator.choice(["none", "deflate", "lzw"])), "tiled": bool(generator.integers(2))}
        profile |= {"blockxsize": 16, "blockysize": 16}
    profile |= {"driver": "PNG" if png else "GTiff", "count": count, "height": high, "width": wide, "dtype": dtype}
    odd = (ValueError, RasterioError, OverflowError, TypeError)  # what cannot be written so is written less odd
    with suppress(*odd), rasterio.open(path, "w", **profile) as target:
        target.write(random_values((count, high, wide), dtype, generator))
        if generator.integers(2):
            target.nodata = generator.choice([0, 255, -9999, np.nan, 1e300, 0.5])
    if not path.exists():
        path.write_bytes(generator.bytes(int(generator.integers(0, 3000))))
    with suppress(*odd), rasterio.open(path, "r+") as target:
        if generator.integers(2):
            names = generator.choice(BANDS, target.count)
            target.descriptions = tuple(str(name) for name in names)
        target.update_tags(**{str(generator.choice(TAGS)): str(generator.choice(TEXTS)) for _ in range(3)})
        if generator.random() < 0.3:
            target.scales = tuple(generator.choice(NUMBERS, target.count))
            target.offsets = tuple(generator.choice(NUMBERS, target.count))
        if generator.random() < 0.2:
            target.colorinterp = [ColorInterp(int(n)) for n in generator.integers(0, 8, target.count)]
        if generator.random() < 0.2:
            target.write_mask(generator.random((target.height, target.width)) < 0.5)
    if generator.random() < 0.1:
        path.with_suffix(".tfw").write_text(str(generator.choice(["1\n0\n", "nan\n" * 6, "10\n0\n0\n-10\n0\n0\n"])))
    if generator.random() < 0.1:
        aux = path.with_name(f"{path.name}.aux.xml")
        aux.write_text(str(generator.choice(["<PAMDataset>", "", "<PAMDataset><SRS>x</SRS></PAMDataset>"])))
    if number % 3 == 0 and not png and path.stat().st_size > 300:
        kind = ("truncated", "flipped", "lying")[number // 3 % 3]
        content = path.read_bytes()
        with suppress(IndexError, ValueError, OverflowError):
            path.write_bytes(damaged(content, kind, generator))
        path.rename(path.with_stem(f"{path.stem}_damaged"))


@pytest.mark.parametrize("count", [90, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_rasters_end_in_values_or_one_sentence(tmp_path, count):
    archive = tmp_path / "archive"
    archive.mkdir()
    generator = np.random.default_rng(19)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd files are the point
        for number in range(count):
            write_random(archive, number, generator)
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", READ, str(archive)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000, check=False)
    outcomes = dict(json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 0 and len(outcomes) == count, done.stderr[-2000:]
    kinds = Counter(text.split()[0] for text in outcomes.values())
    print(f"{count} random rasters: {kinds}")
    broken = [f"{name}: {text}" for name, text in outcomes.items() if text.startswith("BROKEN")]
    assert not broken, "\n".join(broken)
    assert not [text for text in outcomes.values() if "\n" in text]
    assert kinds["read"] > count // 4 and kinds["refused:"] > count // 10
