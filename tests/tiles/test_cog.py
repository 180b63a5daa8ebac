"""Writing COGs: valid, exact, streamed, and whole or not at all."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

from tiles.errors import OutputError
from tiles.writing.cog import CogWriter, MapClass, block_size, read_classes
from tiles.writing.outputs import check_output


def box(height, width, crs="EPSG:32633"):
    return GeoBox((height, width), Affine(10, 0, 5e5, 0, -10, 5e6), crs)


def write(path, array, step=37, crs="EPSG:32633", **options):
    with CogWriter(path, box(*array.shape[1:], crs), dtype=array.dtype, count=len(array), **options) as out:
        for row in range(0, array.shape[1], step):
            out.write(row, array[:, row : row + step])
    return path


@pytest.mark.parametrize(
    ("dtype", "nodata", "resampling"),
    [("uint8", 0, "nearest"), ("float32", np.nan, "average"), ("int8", -128, "average")],
)
def test_streamed_rows_are_a_valid_cog_with_the_same_values(tmp_path, dtype, nodata, resampling):
    array = np.random.default_rng(0).integers(0, 100, (2, 1200, 700)).astype(dtype)
    path = write(tmp_path / "out.tif", array, nodata=nodata, resampling=resampling)
    valid, errors, warnings = cog_validate(str(path), strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), array)
        assert file.crs.to_epsg() == 32633 and file.transform == Affine(10, 0, 5e5, 0, -10, 5e6)
        assert file.overviews(1) == [2, 4]
        np.testing.assert_equal(file.nodata, nodata)
    assert os.listdir(tmp_path) == ["out.tif"]


@pytest.mark.parametrize(("height", "width"), [(300, 170), (64, 65), (257, 40), (30, 20)])
def test_overviews_of_many_bands_are_every_second_row_and_column(tmp_path, height, width):
    array = np.random.default_rng(0).integers(-127, 128, (400, height, width)).astype(np.int8)
    options = {
        "nodata": -128,
        "resampling": "nearest",
        "tags": {"A": "b"},
        "descriptions": [f"f{i}" for i in range(400)],
    }
    path = write(tmp_path / "many.tif", array, **options)
    valid, errors, warnings = cog_validate(str(path), strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), array)
        assert file.tags()["A"] == "b" and file.descriptions[399] == "f399" and file.nodata == -128
        assert file.transform == Affine(10, 0, 5e5, 0, -10, 5e6) and file.crs.to_epsg() == 32633
        levels = file.overviews(1)
    expected = [2**n for n in range(1, 9) if max(height, width) > 64 * 2 ** (n - 1)]
    assert levels == expected
    for number, level in enumerate(levels):
        with rasterio.open(path, overview_level=number) as file:
            np.testing.assert_array_equal(file.read(), array[:, ::level, ::level])
    assert os.listdir(tmp_path) == ["many.tif"]


def test_overviews_average_scores_without_nodata_and_keep_classes(tmp_path):
    score = np.full((1, 1024, 1024), 4, np.float32)
    score[:, ::2, ::2] = np.nan
    score[:, 1::2, 1::2] = 7
    with rasterio.open(write(tmp_path / "s.tif", score, nodata=np.nan), overview_level=0) as file:
        np.testing.assert_allclose(file.read(), 5)
    classes = np.tile(np.array([[3, 5], [5, 5]], np.uint8), (1, 512, 512))
    with rasterio.open(write(tmp_path / "c.tif", classes, nodata=0, resampling="nearest"), overview_level=0) as file:
        assert set(np.unique(file.read())) <= {3, 5}


def test_classes_tags_and_descriptions_are_in_the_file(tmp_path):
    classes = (MapClass(1, "water", (0, 0, 255)), MapClass(2, "Wald (Ü)", (0, 128, 0)))
    path = write(
        tmp_path / "out.tif",
        np.ones((1, 40, 30), np.uint8),
        nodata=0,
        classes=classes,
        resampling="nearest",
        tags={"BACKBONE": "b", "SETTINGS": {"window": 3}},
        descriptions=("class",),
    )
    assert read_classes(path) == classes
    with rasterio.open(path) as file:
        assert file.colormap(1)[2] == (0, 128, 0, 255)
        assert file.tags()["BACKBONE"] == "b" and file.tags()["SETTINGS"] == '{"window": 3}'
        assert file.descriptions == ("class",)
    assert cog_validate(str(path))[0]


def test_a_raster_without_a_crs_keeps_none(tmp_path):
    with rasterio.open(write(tmp_path / "out.tif", np.ones((1, 40, 30), np.uint8), nodata=0, crs=None)) as file:
        assert file.crs is None and file.transform.a == 10


def test_the_same_rows_give_the_same_bytes_however_they_are_cut(tmp_path):
    array = np.random.default_rng(0).random((1, 700, 600), np.float32)
    one = write(tmp_path / "a.tif", array, nodata=np.nan, step=700).read_bytes()
    assert write(tmp_path / "b.tif", array, nodata=np.nan, step=11).read_bytes() == one


def test_many_bands_take_smaller_blocks():
    assert block_size(1, "uint8") == 512 and block_size(3, "float32") == 512
    assert block_size(384, "int8") == 64 and block_size(4096, "float32") == 64


def test_an_existing_output_is_refused_before_work_and_kept(tmp_path):
    path = tmp_path / "out.tif"
    path.write_text("mine")
    with pytest.raises(OutputError, match="overwrite"):
        CogWriter(path, box(4, 4), dtype="uint8", nodata=0)
    assert path.read_text() == "mine" and os.listdir(tmp_path) == ["out.tif"]
    write(path, np.ones((1, 4, 4), np.uint8), nodata=0, overwrite=True)
    assert rasterio.open(path).read().all()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match="absent"):
        check_output(tmp_path / "absent" / "out.tif", overwrite=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(tmp_path, error):
    with pytest.raises(error), CogWriter(tmp_path / "o.tif", box(2000, 50), dtype="uint8", nodata=0) as out:
        out.write(0, np.ones((1, 900, 50), np.uint8))
        raise error
    assert os.listdir(tmp_path) == []


def test_missing_or_misplaced_rows_are_an_error(tmp_path):
    with (
        pytest.raises(ValueError, match="10 of 20"),
        CogWriter(tmp_path / "o.tif", box(20, 5), dtype="uint8", nodata=0) as out,
    ):
        out.write(0, np.ones((1, 10, 5), np.uint8))
    with (
        pytest.raises(ValueError, match="do not follow"),
        CogWriter(tmp_path / "o.tif", box(20, 5), dtype="uint8", nodata=0) as out,
    ):
        out.write(3, np.ones((1, 10, 5), np.uint8))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("limit", [300_000, 1_500_000, 2_600_000])
def test_a_disk_that_fills_up_is_one_sentence_and_no_file(tmp_path, limit):
    """A limit on the file size stands for a full disk: GDAL meets the same failing writes, and says as little."""
    code = f"""
    import resource, signal, sys, shutil
    from collections import namedtuple
    import numpy as np
    from affine import Affine
    from odc.geo.geobox import GeoBox
    from tiles.writing.cog import CogWriter
    from tiles.errors import OutputError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    from pathlib import Path
    box = GeoBox((1500, 1500), Affine.identity(), "EPSG:32633")
    try:
        with CogWriter(Path({str(tmp_path / "o.tif")!r}), box, dtype="uint8", nodata=0) as out:
            out.write(0, np.random.default_rng(0).integers(0, 255, (1, 1500, 1500), dtype=np.uint8))
    except OutputError as error:
        print("refused:", error)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "refused:" in result.stdout and "o.tif" in result.stdout and len(result.stdout.splitlines()) == 1
    assert os.listdir(tmp_path) == []
