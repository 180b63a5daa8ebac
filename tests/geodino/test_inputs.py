"""No output takes the place of an input, whichever command makes it and whatever --overwrite says."""

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from typer.testing import CliRunner

import geodino
from geodino.api import change_series
from geodino.cli import build
from geodino.inputs import check_not_input
from geodino.jobs.batch import run_batch
from geodino.jobs.batch_job import BatchJob
from tiles.errors import OutputError
from tiles.scenes.opening import open_scene

WORDS = {"backbone": "absent", "overwrite": True}


@pytest.fixture
def files(tmp_path):
    """Three dates, a VRT of the first, labels, and what is enough of a cube and of a model to be in the way."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", driver="GTiff", count=3, height=64, width=64, dtype="uint8",
            crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 5e6), photometric="RGB",
        ) as out:  # fmt: skip
            out.write(rng.integers(1, 255, (3, 64, 64), dtype=np.uint8))
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.vrt", driver="VRT")
    places = [shapely.Point(500_100 + 100 * i, 4_999_900) for i in range(4)]
    gpd.GeoDataFrame({"class": [1, 1, 2, 2]}, geometry=places, crs="EPSG:32633").to_file(tmp_path / "l.gpkg")
    (tmp_path / "cube.zarr").mkdir()
    (tmp_path / "i.parquet").write_text("an index")
    return tmp_path


def state(folder):
    return {path.name: path.is_file() and path.read_bytes() for path in folder.iterdir()}


def test_no_command_replaces_what_it_reads(files):
    a, b, c = (str(files / f"{name}.tif") for name in "abc")
    labels, point = files / "l.gpkg", [(500_100, 4_999_900)]
    before = state(files)
    for run, taken in (
        (lambda: geodino.features(a, a, **WORDS), "a.tif"),
        (lambda: geodino.features(files / "a.vrt", a, **WORDS), "a.tif"),
        (lambda: geodino.features(a, files / "o.zarr", quicklook=a, **WORDS), "a.tif"),
        (lambda: geodino.segment(a, a, clusters=3, **WORDS), "a.tif"),
        (lambda: geodino.segment(a, files / "o.tif", clusters=3, confidence=a, **WORDS), "a.tif"),
        (lambda: geodino.segment(a, files / "o.tif", labels=labels, vector=labels, **WORDS), "l.gpkg"),
        (
            lambda: geodino.segment(
                a, files / "cube.zarr", labels=labels, features=files / "cube.zarr", overwrite=True
            ),
            "cube",
        ),
        (lambda: geodino.change(a, b, a, **WORDS), "a.tif"),
        (lambda: geodino.change(a, b, b, **WORDS), "b.tif"),
        (lambda: geodino.change(a, b, files / "o.tif", score=b, backbone="absent"), "b.tif"),
        (lambda: geodino.change(a, b, files / "o.tif", like=labels, vector=labels, **WORDS), "l.gpkg"),
        (lambda: change_series([a, b, c], c, **WORDS), "c.tif"),
        (lambda: geodino.similar(a, a, at=point, **WORDS), "a.tif"),
        (
            lambda: geodino.similar(a, files / "i.parquet", at=point, index=files / "i.parquet", **WORDS),
            "i.parquet",
        ),
        (lambda: geodino.similar(a, labels, polygons=labels, index=files / "i.parquet", **WORDS), "l.gpkg"),
    ):
        with pytest.raises(OutputError, match=f"{taken}.* is also the input .*choose another name"):
            run()
    assert state(files) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("features", "a.tif"),
        ("segment", "a.tif", "--clusters", "3"),
        ("change", "b.tif", "a.tif"),
        ("change", "b.tif", "a.tif", "c.tif"),
        ("similar", "a.tif", "--at", "500100,4999900"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_the_commands_refuse_it_too(files, monkeypatch, arguments):
    monkeypatch.chdir(files)
    before = state(files)
    result = CliRunner().invoke(build(), [*arguments, "-o", "a.tif", "--overwrite"])
    assert isinstance(result.exception, OutputError) and "a.tif is also the input a" in str(result.exception)
    assert state(files) == before


def test_a_batch_names_the_scene_and_goes_on(files, monkeypatch):
    scenes = [str(files / "a.tif"), str(files / "b.tif")]
    made = []
    monkeypatch.setattr("geodino.jobs.batch._Run._make", lambda self, scenes, output, overwrite: made.append(output))
    before = (files / "a.tif").read_bytes()
    report = run_batch(BatchJob(scenes=scenes, output=str(files / "{name}.tif")), overwrite=True)
    assert list(report.failed) == scenes and not made and (files / "a.tif").read_bytes() == before
    assert all("is also the input" in reason for reason in report.failed.values())


def test_links_are_the_files_they_name_and_new_outputs_are_free(files):
    scene = open_scene(files / "a.tif")
    (files / "link.tif").symlink_to(files / "a.tif")
    with pytest.raises(OutputError, match=r"link\.tif is also the input"):
        check_not_input((None, files / "link.tif"), None, scene)
    check_not_input((files / "new.tif", files / "b.tif"), scene, "https://example.com/b.tif", files / "absent.gpkg")
