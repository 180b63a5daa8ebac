"""Outputs appear whole or not at all, take no input's place, and are written by one process at a time."""

import multiprocessing

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from tiles.errors import OutputError
from tiles.scenes.opening import open_scene
from tiles.writing.cog import CogWriter
from tiles.writing.outputs import (
    check_not_input,
    check_output,
    locked,
    locked_folder,
    replace_folder,
    replacing,
    staged,
    write_json,
)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("durable", [False, True])
def test_a_file_appears_when_it_is_whole(tmp_path, shared, durable):
    target = tmp_path / "out.txt"
    with replacing(target, shared=shared, durable=durable) as part:
        part.write_text("new")
        assert not target.exists() and part.name.startswith("out.txt") and part.suffix == ".part"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"] and target.read_text() == "new"


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "out.json"
    write_json({"a": 1}, target)
    with pytest.raises(RuntimeError), replacing(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"] and target.read_text() == '{\n "a": 1\n}\n'


def hold(target, held, release):
    with (locked_folder if target.is_dir() else locked)(target):
        held.set()
        release.wait(60)


@pytest.mark.parametrize("folder", [False, True])
def test_one_process_writes_an_output_at_a_time(tmp_path, folder):
    target = tmp_path / "out"
    if folder:
        target.mkdir()
    spawn = multiprocessing.get_context("spawn")
    held, release = spawn.Event(), spawn.Event()
    other = spawn.Process(target=hold, args=(target, held, release))
    other.start()
    assert held.wait(60)
    lock = locked_folder if folder else locked
    with pytest.raises(OutputError, match=r"Another process is writing .*out"), lock(target):
        raise AssertionError
    release.set()
    other.join()
    with lock(target):
        pass
    assert not list(tmp_path.rglob("*lock"))


def test_the_lock_of_a_process_that_died_is_free(tmp_path):
    target = tmp_path / "out"
    spawn = multiprocessing.get_context("spawn")
    held, never = spawn.Event(), spawn.Event()
    other = spawn.Process(target=hold, args=(target, held, never))
    other.start()
    assert held.wait(60)
    other.kill()
    other.join()
    assert (tmp_path / ".out.lock").exists()
    with locked(target, None):
        pass
    assert not list(tmp_path.iterdir())


def test_several_outputs_appear_together(tmp_path):
    first, second = tmp_path / "a.tif", tmp_path / "b.shp"
    first.write_text("old")
    with staged(first, None, second) as (one, none, two):
        assert none is None and (one.name, two.name) == ("a.tif", "b.shp")
        one.write_text("new")
        two.write_text("shapes")
        two.with_suffix(".dbf").write_text("table")
        assert first.read_text() == "old" and not second.exists()
    assert first.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "b.dbf", "b.shp"]


def test_of_several_outputs_none_is_replaced_when_one_fails(tmp_path):
    (tmp_path / "a.tif").write_text("old")
    with pytest.raises(RuntimeError), staged(tmp_path / "a.tif", tmp_path / "b.gpkg") as (one, _):
        one.write_text("new")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"] and (tmp_path / "a.tif").read_text() == "old"


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr("tiles.writing.outputs._exchange", lambda one, other: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").touch()
    left = replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["new.txt"]
    assert left is not None and [path.name for path in left.iterdir()] == ["old.txt"]
    assert replace_folder(left, tmp_path / "free") is None and (tmp_path / "free" / "old.txt").exists()


def test_outputs_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "a.tif").touch()
    check_output(tmp_path / "a.tif", overwrite=True)
    with pytest.raises(OutputError, match=r"a\.tif exists already"):
        check_output(tmp_path / "a.tif", overwrite=False)
    with pytest.raises(OutputError, match="does not exist; make it first"):
        check_output(tmp_path / "absent" / "a.tif", overwrite=False)


def test_links_are_the_files_they_name_and_new_outputs_are_free(tmp_path, write_raster, ramp):
    write_raster("b.tif", ramp(3, 16, 16))
    scene = open_scene(write_raster("a.tif", ramp(3, 16, 16)))
    (tmp_path / "link.tif").symlink_to(tmp_path / "a.tif")
    with pytest.raises(OutputError, match=r"link\.tif is also the input a"):
        check_not_input((None, tmp_path / "link.tif"), None, scene)
    outputs = (tmp_path / "new.tif", tmp_path / "b.tif")
    check_not_input(outputs, scene, "https://example.com/b.tif", tmp_path / "absent.gpkg")
    assert np.array_equal(sorted(scene.files()), [str(tmp_path / "a.tif")] * 2)


@pytest.mark.parametrize("name", ["m" * 246 + ".tif", "m" * 300, "é" * 110 + ".tif"])
def test_a_name_that_leaves_no_room_for_what_lies_beside_the_output_is_refused(tmp_path, name):
    with pytest.raises(OutputError, match=r"is \d+ bytes long, and the file system of .* leaves room for \d+"):
        check_output(tmp_path / name, overwrite=True)


def test_the_longest_name_has_room_for_what_lies_beside_it(tmp_path, ramp):
    path = tmp_path / ("m" * 195 + ".tif")
    check_output(path, overwrite=False)
    (tmp_path / f"{path.name}{'-half' * 9}.part").touch()
    grid = GeoBox((16, 16), Affine(10, 0, 500_000, 0, -10, 4_000_400), "EPSG:32618")
    with CogWriter(
        path.with_name(f"{path.name}.classes_before.part"), grid, dtype="uint8", nodata=0, resampling="nearest"
    ) as out:
        out.write(0, np.ones((1, 16, 16), np.uint8))
