"""Inputs are judged before work, outputs are one process's, and what a run goes on from goes last."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from batch_testing import job, make_scenes, write_scene
from change_testing import ground, second_date, write
from PIL import Image
from typer.testing import CliRunner

import geodino
from geodino.cli import build
from geodino.dense.engine import LocalEngine
from geodino.dense.extraction import Extraction
from geodino.jobs.batch import run_batch
from geodino.jobs.batch_job import BatchJob
from tiles.errors import InputError, OutputError
from tiles.scenes.opening import open_scene
from tiles.writing.outputs import locked, locked_folder

INSIDE = (500_200, 4_999_800)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A scene whose lower half is nodata."""
    array = np.random.default_rng(0).integers(1, 255, (3, 96, 96), dtype=np.uint8)
    array[:, 48:] = 0
    write_scene(tmp_path / "a.tif", array)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.nodata = 0
    return tmp_path / "a.tif"


@pytest.fixture
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object, **options: object) -> None:
        raise AssertionError("tokens were made")

    monkeypatch.setattr(Extraction, "fill", fill)


def test_similar_judges_its_question_before_it_makes_tokens(tmp_path, scene, backbone, no_tokens):
    away = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 100, 100)], crs="EPSG:32633")
    away.to_file(tmp_path / "away.geojson")
    for asked, says in (
        ({"at": [(0, 0)]}, "outside the scene"),
        ({"at": [INSIDE], "crs": "EPSG:4326"}, "outside the scene"),
        ({"at": [INSIDE], "polygons": tmp_path / "away.geojson"}, "no polygon of"),
        ({"at": [INSIDE], "polygons": tmp_path / "absent.geojson"}, "does not exist"),
    ):
        with pytest.raises(InputError, match=says):
            geodino.similar(scene, tmp_path / "s.tif", **asked, backbone=backbone)
    with pytest.raises(InputError, match="does not exist"):
        geodino.similar(scene, tmp_path / "s.gpkg", at=[INSIDE], index=tmp_path / "i.parquet", backbone=backbone)
    assert {path.name for path in tmp_path.iterdir()} == {"a.tif", "away.geojson"}


def test_a_refusal_after_the_tokens_leaves_them_to_the_next_question(tmp_path, scene, backbone, monkeypatch):
    missing, original = [], LocalEngine.fill

    def fill(self, scene, settings, writer):
        missing.append(writer.missing())
        return original(self, scene, settings, writer)

    monkeypatch.setattr(LocalEngine, "fill", fill)
    with pytest.raises(InputError, match="lies on nodata"):
        geodino.similar(scene, tmp_path / "s.tif", at=[(500_200, 4_999_100)], backbone=backbone)
    assert (tmp_path / "s.tif.tokens.part").is_dir()
    geodino.similar(scene, tmp_path / "s.tif", at=[INSIDE], backbone=backbone)
    assert missing[0] and not missing[1]
    assert {path.name for path in tmp_path.iterdir()} == {"a.tif", "s.tif", "s.tif.stac.json"}


def test_segment_keeps_its_tokens_until_all_is_written(tmp_path, scene, backbone, monkeypatch):
    def fails(*_: object, **options: object) -> None:
        raise OutputError("no space left on the disk for the item")

    with monkeypatch.context() as patch:
        patch.setattr("geodino.dense.tokens.write_item", fails)
        with pytest.raises(OutputError):
            geodino.segment(scene, tmp_path / "m.tif", clusters=2, backbone=backbone)
    assert (tmp_path / "m.tif.tokens.part").is_dir()
    geodino.segment(scene, tmp_path / "m.tif", clusters=2, backbone=backbone, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"a.tif", "m.tif", "m.tif.stac.json"}


def test_of_several_outputs_the_old_ones_stay_where_one_cannot_be_made(tmp_path, scene, backbone, monkeypatch):
    outputs = {"confidence": tmp_path / "c.tif", "vector": tmp_path / "v.geojson"}
    geodino.segment(scene, tmp_path / "m.tif", clusters=2, **outputs, backbone=backbone)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(*_: object, **options: object) -> None:
        raise OutputError("no space left on the disk for v.geojson")

    monkeypatch.setattr("geodino.products.vector.write_vector", fails)
    with pytest.raises(OutputError):
        geodino.segment(scene, tmp_path / "m.tif", clusters=3, **outputs, backbone=backbone, overwrite=True)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("command", ["features", "segment", "change", "series", "similar", "index"])
def test_a_second_writer_gets_one_sentence(tmp_path, backbone, run_folder, command):
    first = ground()
    dates = [write(tmp_path / f"{n}.tif", second_date(first, changed=n > 0)) for n in range(3)]
    output = tmp_path / {"features": "o.zarr", "index": "o.parquet"}.get(command, "o.tif")
    before = {path.name for path in tmp_path.iterdir()}
    calls = {
        "features": lambda: geodino.features(dates[0], output, backbone=backbone),
        "segment": lambda: geodino.segment(dates[0], output, clusters=2, backbone=backbone),
        "change": lambda: geodino.change(dates[0], dates[1], output, backbone=backbone),
        "series": lambda: geodino.change_series(dates, output, backbone=backbone),
        "similar": lambda: geodino.similar(dates[0], output, at=[(500_200, 4_001_800)], backbone=backbone),
        "index": lambda: CliRunner().invoke(
            build(),
            ["index", str(dates[0]), "-o", str(output), "--backbone", str(run_folder)],
            standalone_mode=False,
            catch_exceptions=False,
        ),
    }
    with locked(output), pytest.raises(OutputError, match=r"Another process is writing .*; wait for it"):
        calls[command]()
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", ["curate", "eval", "eval --json", "export folder", "export file"])
def test_a_second_writer_of_a_folder_or_file_gets_one_sentence(tmp_path, run_folder, command):
    make_scenes(tmp_path / "in", 1)
    cli, output = CliRunner(), tmp_path / ("o.onnx" if command == "export file" else "o")

    def run(*arguments: object) -> None:
        cli.invoke(build(), [*map(str, arguments)], standalone_mode=False, catch_exceptions=False)

    held = locked(output)
    if command == "curate":
        run("tile", tmp_path / "in" / "s0.tif", "-o", output, "--size", 32)
        held = locked_folder(output)
    elif command.startswith("eval"):
        for name in ("a", "b"):
            (tmp_path / "data" / name).mkdir(parents=True)
            for number in range(10):
                Image.new("RGB", (16, 16), (number, 9, 9)).save(tmp_path / "data" / name / f"{number}.png")
        output.mkdir()
        held = locked(tmp_path / "r.json") if "json" in command else locked_folder(output)
    arguments = {
        "curate": ("curate", output, "--backbone", run_folder),
        "eval": ("eval", run_folder, tmp_path / "data", "-o", output, "--json", tmp_path / "r.json"),
        "export": ("export", run_folder, "-o", output, "--size", 32),
    }[command.split()[0]]
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with held, pytest.raises(OutputError, match=r"Another process is writing .*; wait for it"):
        run(*arguments)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_words_about_labels_without_labels_are_refused(tmp_path, scene):
    for words in ({"field": "class"}, {"layer": "north"}):
        with pytest.raises(InputError, match=f"--{next(iter(words))} say.* --labels"):
            geodino.segment(scene, tmp_path / "m.tif", clusters=3, backbone="absent", **words)
        with pytest.raises(InputError, match=f"--{next(iter(words))} say.* --like"):
            geodino.change(scene, scene, tmp_path / "m.tif", backbone="absent", **words)


def test_a_series_takes_away_what_a_longer_one_left(tmp_path, backbone):
    first = ground()
    dates = [write(tmp_path / f"{n}.tif", second_date(first, changed=n > 0)) for n in range(3)]
    (tmp_path / "y.tif.date4.part").mkdir()
    (tmp_path / "y.tif.distances3_4.part").touch()
    (tmp_path / "other.tif.date4.part").mkdir()
    geodino.change_series(dates, tmp_path / "y.tif", backbone=backbone)
    assert sorted(path.name for path in tmp_path.glob("*.part")) == ["other.tif.date4.part"]


def test_an_error_that_nobody_foresaw_is_one_scenes(tmp_path, run_folder, monkeypatch):
    make_scenes(tmp_path / "in", 3)
    lines = []

    def opened(path, **options):
        if path.endswith("s1.tif"):
            raise TypeError("a date of no calendar")
        return open_scene(path, **options)

    monkeypatch.setattr("geodino.jobs.batch_job.open_scene", opened)
    report = run_batch(job(tmp_path, run_folder), say=lines.append)
    label = str(tmp_path / "in" / "s1.tif")
    assert [path.name for path in report.made] == ["s0.tif", "s2.tif"]
    assert report.failed == {label: "TypeError: a date of no calendar"}
    assert "in opened" in report.tracebacks[label] and f"FAILED  {label}: TypeError: a date of no calendar" in lines


def test_the_record_of_a_batch_is_one_process_s(tmp_path, run_folder):
    make_scenes(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out" / "geodino-batch.jsonl"), pytest.raises(OutputError, match="Another process"):
        run_batch(job(tmp_path, run_folder))
    with locked(tmp_path / "out" / "s0.tif"):
        report = run_batch(job(tmp_path, run_folder))
    assert ["Another process" in reason for reason in report.failed.values()] == [True]
    assert not run_batch(job(tmp_path, run_folder)).failed


def test_dates_of_one_name_are_refused_before_any_work(tmp_path):
    for folder in ("2019", "2021/north", "2021/south"):
        (tmp_path / folder).mkdir(parents=True)
        make_scenes(tmp_path / folder, 1)
    words = {"task": "change", "output": str(tmp_path / "out" / "{name}.tif")}
    globs = {"before": str(tmp_path / "2019" / "*.tif"), "after": str(tmp_path / "2021" / "*" / "*.tif")}
    with pytest.raises(InputError, match=r"north/s0\.tif and .*south/s0\.tif have the same name"):
        BatchJob(pairs=[globs], **words).items()
    named = [
        {"before": str(tmp_path / "2019" / "s0.tif"), "after": str(tmp_path / "2021" / side / "s0.tif")}
        for side in ("north", "south")
    ]
    with pytest.raises(InputError, match="would both become"):
        BatchJob(pairs=named, **words).items()
    twice = [str(tmp_path / "2019" / "s0.tif"), {"source": str(tmp_path / "2019" / "s0.tif"), "gsd_m": 5}]
    with pytest.raises(InputError, match="would both become"):
        BatchJob(scenes=twice, output=words["output"]).items()
