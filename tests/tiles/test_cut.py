"""Cutting: every valid pixel exactly, filters, mixed sensors, failures, additions."""

import csv
import json
import shutil
import threading
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.shutil
import rasterio.warp
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tiles.archive.dataset import TileDataset
from tiles.archive.statistics import Meter, merge
from tiles.cutting import plan as planning
from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request
from tiles.errors import InputError, OutputError
from tiles.workers import share_out

RGB = ("red", "green", "blue")


def requests(*paths) -> list[Request]:
    return [Request(str(path)) for path in paths]


def content(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(), size=st.integers(8, 24), dtype=st.sampled_from(["uint8", "int16", "uint16", "float32", "float64"])
)
def test_cutting_then_reassembling_gives_back_every_valid_pixel(tmp_path_factory, data, size, dtype):
    folder = tmp_path_factory.mktemp("cut")
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 60), st.integers(1, 60)))
    limits = {"elements": st.floats(-1e6, 1e6, width=32)} if dtype.startswith("float") else {}
    values = data.draw(hnp.arrays(dtype, shape, fill=st.just(7), **limits))
    mask = data.draw(hnp.arrays(bool, shape[1:], fill=st.just(True)))
    tiled = data.draw(st.sampled_from([{}, {"tiled": True, "blockxsize": 16, "blockysize": 32}, {"blockysize": 3}]))
    profile = {"driver": "GTiff", "count": shape[0], "height": shape[1], "width": shape[2], "dtype": dtype, **tiled}
    grid = {"crs": "EPSG:32633", "transform": Affine(10, 0, 400000, 0, -10, 5000000)}
    with rasterio.open(folder / "a.tif", "w", **profile, **grid) as target:
        target.write(values)
        target.write_mask(mask)
    names = tuple(f"x{i}" for i in range(shape[0]))
    request = Request(str(folder / "a.tif"), band_names=names)
    wanted = CutSettings(size=size, bands=names, min_valid=0.0)
    if not mask.any():
        with pytest.raises(InputError, match="No tile"):
            cut([request], folder / "T", wanted)
        return
    cut([request], folder / "T", wanted)
    tiles = TileDataset(folder / "T")
    back, seen = np.zeros(shape, dtype), np.zeros(shape[1:], bool)
    for i, transform in enumerate(tiles.column("transform")):
        column, row = (round(v) for v in ~Affine(10, 0, 400000, 0, -10, 5000000) @ (transform[2], transform[5]))
        record = tiles.read(i)
        height, width = min(size, shape[1] - row), min(size, shape[2] - column)
        assert not record.valid[height:].any() and not record.valid[:, width:].any()
        place, inside = np.s_[row : row + height, column : column + width], record.valid[:height, :width]
        back[:, *place][:, inside] = record.values[:, :height, :width][:, inside]
        seen[place] |= inside
    np.testing.assert_array_equal(seen, mask)
    np.testing.assert_array_equal(back[:, mask], values[:, mask])


def test_what_was_decided_is_stored(write_raster, ramp, tmp_path):
    report = cut(requests(write_raster("a.tif", ramp(3, 16, 16))), tmp_path / "T", CutSettings(size=8))
    (entry,) = planning.load(tmp_path / "T").entries
    assert entry.notes == report.notes[0][1] and any("sensor 8bit" in note for note in entry.notes)


def test_tiles_are_moved_inwards_at_the_far_edges(write_raster, ramp, tmp_path):
    cut(requests(write_raster("a.tif", ramp(3, 20, 27))), tmp_path / "T", CutSettings(size=8))
    ids = [name.split("_", 1)[1] for name in TileDataset(tmp_path / "T").column("tile_id")]
    assert ids == [f"{row}_{column}" for row in (0, 8, 12) for column in (0, 8, 16, 19)]


def test_the_index_is_geoparquet_with_every_column(write_raster, ramp, tmp_path):
    path = write_raster("S2A_MSIL2A_20200223T033731.tif", ramp(3, 16, 16, "uint16"), descriptions=("B04", "B03", "B02"))
    cut([Request(str(path), label="Forest")], tmp_path / "T", CutSettings(size=8))
    frame = geopandas.read_parquet(tmp_path / "T" / "index.parquet")
    assert frame.crs is not None and len(frame) == 4
    first = frame.iloc[0]
    assert first.tile_id.endswith("_0_0") and (first.shard, first.row) == (0, 0)
    assert first.crs == "EPSG:32633" and first.gsd_m == 10 and first.valid_fraction == 1
    assert list(first["transform"]) == [10, 0, 400000, 0, -10, 5000000]
    assert (first.sensor, first.bands, first.label) == ("sentinel-2-l2a", "red,green,blue", "Forest")
    assert first.datetime == "2020-02-23T03:37:31Z" and first.source == str(path) and first.cell.count("_") == 1
    assert frame.geometry.is_valid.all()
    centre = rasterio.warp.transform("EPSG:32633", "EPSG:4326", [400040], [4999960])
    assert first.geometry.centroid.coords[0] == pytest.approx([v[0] for v in centre], abs=1e-6)


def test_an_index_of_many_parts_is_written_in_whole_row_groups(write_raster, ramp, tmp_path, monkeypatch):
    monkeypatch.setattr("tiles.cutting.plan._SMALLEST_SHARD", 4096)
    monkeypatch.setattr("tiles.archive.index._ROW_GROUP", 20)
    paths = [write_raster(f"{i}.tif", np.roll(ramp(3, 40, 40), i, axis=2)) for i in range(3)]
    cut(requests(*paths), tmp_path / "T", CutSettings(size=8))
    written = pq.ParquetFile(tmp_path / "T" / "index.parquet")
    assert [written.metadata.row_group(i).num_rows for i in range(written.num_row_groups)] == [20, 20, 20, 15]
    tiles = TileDataset(tmp_path / "T")
    assert tiles.column("source").tolist() == [str(path) for path in paths for _ in range(25)]
    assert tiles.about.shards == {0: 25, 1: 25, 2: 25} and tiles.about.sensors == {"8bit": 75}
    for part in sorted((tmp_path / "T" / "parts").glob("*.parquet")):
        assert len(pq.read_table(part)) == 25


def test_statistics_are_those_of_all_valid_pixels(write_raster, tmp_path):
    generator = np.random.default_rng(0)
    values = generator.integers(1, 12000, (3, 40, 56), np.uint16)
    values[:, :9, :9] = 0
    path = write_raster("S2A_MSIL2A_20200223T033731.tif", values, descriptions=("B04", "B03", "B02"), nodata=0)
    other = write_raster("b.tif", generator.integers(0, 256, (3, 16, 24), np.uint8), photometric="RGB")
    cut(requests(path, other), tmp_path / "T", CutSettings(size=8, min_valid=0.0))
    tiles = TileDataset(tmp_path / "T")
    batch = tiles.read_batch(range(len(tiles)))
    for band in range(3):
        pixels = batch.values[:, band][batch.valid].astype(np.float64)
        assert tiles.mean[band] == pytest.approx(pixels.mean(), rel=1e-6)
        assert tiles.std[band] == pytest.approx(pixels.std(), rel=1e-6)
        own = batch.values[3, band][batch.valid[3]].astype(np.float64)
        assert tiles.column("mean")[3, band] == pytest.approx(own.mean(), rel=1e-6)
        assert tiles.column("std")[3, band] == pytest.approx(own.std(), rel=1e-5)
    assert tiles.about.valid_pixels == batch.valid.sum()


def test_filters_on_validity_cloud_and_flatness(write_raster, ramp, tmp_path):
    for number in ("B02", "B03", "B04"):
        values = ramp(1, 16, 16, "uint16") + np.uint16(500)
        values[0, :8, 8:] = 700  # flat
        values[0, 8:, :2] = 0  # a quarter without data
        write_raster(f"S2/{number}.tif", values)
    classes = np.full((1, 16, 16), 4, np.uint8)
    classes[0, 8:, 12:] = 9
    folder = write_raster("S2/SCL.tif", classes).parent

    def kept(**filters: float) -> list[str]:
        cut(requests(folder), tmp_path / "T", CutSettings(size=8, **filters), overwrite=True)
        return [name.split("_", 1)[1] for name in TileDataset(tmp_path / "T").column("tile_id")]

    assert kept(min_valid=0.0) == ["0_0", "0_8", "8_0", "8_8"]
    np.testing.assert_allclose(TileDataset(tmp_path / "T").column("cloud"), [0, 0, 0, 0.5])
    assert kept(min_valid=0.9) == ["0_0", "0_8"]
    assert kept(min_valid=0.0, max_cloud=0.4) == ["0_0", "0_8", "8_0"]
    assert kept(min_valid=0.0, min_std=0.001) == ["0_0", "8_0", "8_8"]
    with pytest.raises(InputError, match="No tile of 24 × 24 pixels passed the filters"):
        cut(requests(folder), tmp_path / "U", CutSettings(size=24))


def test_another_gsd_is_weighed_by_area(write_raster, ramp, tmp_path):
    values = ramp(3, 32, 32)
    cut(requests(write_raster("a.tif", values, photometric="RGB")), tmp_path / "T", CutSettings(size=16, gsd_m=20.0))
    tiles = TileDataset(tmp_path / "T")
    assert len(tiles) == 1 and tiles.column("gsd_m")[0] == 20
    expected = values.reshape(3, 16, 2, 16, 2).mean((2, 4))
    np.testing.assert_allclose(tiles.read(0).values, expected, atol=0.51)


def test_several_processes_write_the_same_bytes(write_raster, ramp, tmp_path, monkeypatch):
    monkeypatch.setattr("tiles.cutting.plan._SMALLEST_SHARD", 4096)
    paths = [write_raster(f"{i}.tif", np.roll(ramp(3, 40, 40), i, axis=2)) for i in range(3)]
    cut(requests(*paths), tmp_path / "one", CutSettings(size=8), workers=1)
    hands = []
    joined = threading.Event()

    def slowed(works, do, here, done, helpers, threads):
        """Work done here waits until the helper has joined."""

        def wait_and_do(job):
            joined.wait(120)
            return here(job)

        def collect(job, receipt):
            hands.append(threading.current_thread().name)
            if hands[-1] == "helper":
                joined.set()
            done(job, receipt)

        share_out(works, do, wait_and_do, collect, helpers, threads)

    monkeypatch.setattr("tiles.cutting.work.share_out", slowed)
    cut(requests(*paths), tmp_path / "two", CutSettings(size=8), workers=2)
    assert "helper" in hands
    assert len(TileDataset(tmp_path / "one").about.shards) == 3
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_scenes_added_later_and_scenes_given_twice(write_raster, ramp, tmp_path):
    first, second = write_raster("a.tif", ramp(3, 16, 16)), write_raster("b.tif", ramp(3, 24, 16))
    (tmp_path / "copy.tif").write_bytes(first.read_bytes())
    cut(requests(first), tmp_path / "T", CutSettings(size=8))
    shard = (tmp_path / "T" / "shard-00000.npy").read_bytes()
    report = cut(requests(first, second, tmp_path / "copy.tif", second), tmp_path / "T", CutSettings(size=8))
    assert (report.added, report.tiles) == (6, 10)
    assert [text.split("/")[-1] for text in report.repeated][1] == "a.tif"  # of which copy.tif is a copy
    assert len(report.repeated) == 3
    assert (tmp_path / "T" / "shard-00000.npy").read_bytes() == shard
    again = cut(requests(first, second), tmp_path / "T", CutSettings(size=8))
    assert (again.added, again.tiles, again.seen) == (0, 10, 0)


def test_files_alike_at_both_ends_are_no_copies(write_raster, tmp_path):
    values = np.random.default_rng(0).integers(1, 255, (3, 300, 300), np.uint8)
    other = values.copy()
    other[:, 150, 150] += 1
    paths = [write_raster("a.tif", values), write_raster("b.tif", other)]
    report = cut(requests(*paths), tmp_path / "T", CutSettings(size=100))
    assert not report.repeated and report.tiles == 18


def test_equal_files_with_other_masks_or_sources_are_no_copies(write_raster, ramp, tmp_path):
    names = ("a", "b", "c")
    for name in names:
        mask = np.arange(16) < 8 if name == "c" else None
        values = ramp(3, 16, 16) + np.uint8(name == "b")
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
            write_raster(f"{name}/s.tif", values, mask=None if mask is None else np.tile(mask, (16, 1)))
        with rasterio.open(tmp_path / name / "s.tif") as file:
            rasterio.shutil.copy(file, tmp_path / name / "s.vrt", driver="VRT")
        text = (tmp_path / name / "s.vrt").read_text().split("<MaskBand>")[0]
        text = text if text.rstrip().endswith("</VRTDataset>") else f"{text}</VRTDataset>"
        (tmp_path / name / "s.vrt").write_text(text)
    assert (tmp_path / "a/s.tif").read_bytes() == (tmp_path / "c/s.tif").read_bytes()
    assert (tmp_path / "a/s.vrt").read_bytes() == (tmp_path / "b/s.vrt").read_bytes()
    for suffix, pair in (("tif", "ac"), ("vrt", "ab")):
        paths = [tmp_path / name / f"s.{suffix}" for name in pair]
        report = cut(requests(*paths), tmp_path / suffix, CutSettings(size=8, min_valid=0))
        assert not report.repeated and len(set(TileDataset(tmp_path / suffix).column("source"))) == 2


@pytest.mark.parametrize("change", ["rewritten", "added", "renamed", "other class", "zip"])
def test_changed_images_are_no_longer_what_was_cut(tmp_path, change):
    folder = tmp_path / "images"
    for number, label in enumerate(("Forest", "River")):
        (folder / label).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), 40 + number, np.uint8)).save(folder / label / "a.png")
    source = Path(shutil.make_archive(str(folder), "zip", folder)) if change == "zip" else folder
    cut(requests(source), tmp_path / "T", CutSettings(size=8, gsd_m=10.0))
    again = cut(requests(source), tmp_path / "T", CutSettings(size=8, gsd_m=10.0))
    assert (again.added, len(again.repeated)) == (0, 1)
    if change in ("rewritten", "zip"):
        Image.fromarray(np.full((8, 9, 3), 90, np.uint8)).save(folder / "River/a.png")
        if change == "zip":
            shutil.make_archive(str(folder), "zip", folder)
    elif change == "added":
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(folder / "River/b.png")
    else:
        (folder / "Lake").mkdir()
        (folder / "River/a.png").rename(folder / ("River/b.png" if change == "renamed" else "Lake/a.png"))
    with pytest.raises(OutputError, match="is not what it was when it was cut"):
        cut(requests(source), tmp_path / "T", CutSettings(size=8, gsd_m=10.0))


def test_other_settings_or_a_changed_scene_are_refused(write_raster, ramp, tmp_path):
    path = write_raster("a.tif", ramp(3, 16, 16))
    cut(requests(path), tmp_path / "T", CutSettings(size=8))
    with pytest.raises(OutputError, match="cut with other settings \\(size 8 → 16\\)"):
        cut(requests(path), tmp_path / "T", CutSettings(size=16))
    write_raster("a.tif", ramp(3, 16, 17))
    with pytest.raises(OutputError, match=r"a\.tif is not what it was"):
        cut(requests(path), tmp_path / "T", CutSettings(size=8))
    cut(requests(path), tmp_path / "T", CutSettings(size=16), overwrite=True)
    assert TileDataset(tmp_path / "T").size == 16


def test_other_peoples_folders_are_left_alone(write_raster, ramp, tmp_path):
    path = write_raster("a.tif", ramp(3, 16, 16))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds other files"):
            cut(requests(path), tmp_path / "mine", CutSettings(size=8), overwrite=overwrite)
    with pytest.raises(OutputError, match="is a file"):
        cut(requests(path), path, CutSettings(size=8))
    with pytest.raises(InputError, match="nosuch"):
        cut(requests(tmp_path / "nosuch.tif"), tmp_path / "new", CutSettings(size=8))
    assert not (tmp_path / "new").exists()


def test_the_rest_is_cut_when_a_scene_is_damaged(write_raster, tmp_path):
    generator = np.random.default_rng(0)
    good = write_raster("good.tif", generator.integers(1, 255, (3, 64, 64), np.uint8))
    bad = write_raster(
        "bad.tif", generator.integers(1, 255, (3, 64, 64), np.uint8), compress="deflate", blockysize=8, nodata=0
    )
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size * 2 // 3])
    last = write_raster("last.tif", generator.integers(1, 255, (3, 64, 64), np.uint8))
    report = cut(requests(good, bad, last, tmp_path / "gone.tif"), tmp_path / "T", CutSettings(size=16))
    assert {f.source.split("/")[-1] for f in report.failures} == {"bad.tif", "gone.tif"}
    tiles = TileDataset(tmp_path / "T")
    assert set(tiles.column("source")) == {str(good), str(last)} and len(tiles) == 32
    assert all(tiles.intact(i) for i in range(32))
    with (tmp_path / "T" / "failures.csv").open() as file:
        assert [row[0].split("/")[-1] for row in csv.reader(file)] == ["source", "gone.tif", "bad.tif"]


def test_image_folders_and_zips_are_cut_by_class(tmp_path):
    import zipfile

    generator = np.random.default_rng(0)
    for label in ("Forest", "River"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(3):
            pixels = generator.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{label}_{i}.png")
    (tmp_path / "images" / "River" / "torn.png").write_bytes(b"\x89PNG torn")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in sorted((tmp_path / "images").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "images"))
    for source in ("images", "images.zip"):
        report = cut(requests(tmp_path / source), tmp_path / f"T-{source}", CutSettings(size=64, gsd_m=10.0))
        assert len(report.failures) == 1 and "torn.png" in report.failures[0].source
        tiles = TileDataset(tmp_path / f"T-{source}")
        assert tiles.column("label").tolist() == ["Forest"] * 3 + ["River"] * 3
        assert tiles.about.labels == ("Forest", "River") and set(tiles.column("gsd_m")) == {10.0}
        last = np.asarray(Image.open(tmp_path / "images" / "River" / "River_2.png")).transpose(2, 0, 1)
        np.testing.assert_array_equal(tiles.read(5).values, last)
    with pytest.raises(InputError, match="give their pixel size in metres with --gsd"):
        cut(requests(tmp_path / "images"), tmp_path / "U", CutSettings(size=64))


def test_images_and_scenes_share_a_shard(write_raster, ramp, tmp_path):
    (tmp_path / "images" / "Forest").mkdir(parents=True)
    Image.fromarray(ramp(3, 16, 16).transpose(1, 2, 0)).save(tmp_path / "images" / "Forest" / "a.png")
    scene = write_raster("scene.tif", ramp(3, 16, 32), photometric="RGB")
    for order in ([tmp_path / "images", scene], [scene, tmp_path / "images"]):
        cut(requests(*order), tmp_path / "T", CutSettings(size=16, gsd_m=10.0), overwrite=True)
        tiles = TileDataset(tmp_path / "T")
        assert len(tiles) == 3 and set(tiles.shards) == {0}
        assert sorted(tiles.column("label").tolist(), key=str) == ["Forest", None, None]
        assert sum(cell is None for cell in tiles.column("cell")) == 1


def test_moments_merge_without_error(write_raster):
    from tiles.scenes.band import Band

    generator = np.random.default_rng(0)
    values = generator.integers(0, 65536, (200, 1, 16, 16)).astype(np.uint16)
    meter = Meter((Band("red", "", 1, "uint16", None, 1 / 2750, 0.0),))
    parts = meter.measure(values, [None] * len(values)).split()
    whole = merge(parts)
    assert merge(parts[::-1]) == whole == merge([merge(parts[:77]), merge(parts[77:])])
    unit = np.clip(values.astype(np.float64) / 2750, 0, 1)
    assert whole.mean[0] == pytest.approx(unit.mean(), rel=1e-12)
    assert whole.std[0] == pytest.approx(unit.std(), rel=1e-9)


def test_about_is_json_for_people(write_raster, ramp, tmp_path):
    cut(requests(write_raster("a.tif", ramp(3, 16, 16))), tmp_path / "T", CutSettings(size=8))
    about = json.loads((tmp_path / "T" / "tiles.json").read_text())
    assert about["tiles"] == 4 and about["bands"] == list(RGB) and about["shards"] == {"0": 4}


def test_a_dask_cluster_writes_the_same_bytes(write_raster, ramp, tmp_path, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr("tiles.cutting.plan._SMALLEST_SHARD", 4096)
    paths = [write_raster(f"{i}.tif", np.roll(ramp(3, 40, 40), i, axis=2)) for i in range(3)]
    cut(requests(*paths), tmp_path / "here", CutSettings(size=8))
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        cut(requests(*paths), tmp_path / "there", CutSettings(size=8), dask=cluster.scheduler_address)
    assert content(tmp_path / "here") == content(tmp_path / "there")
    with pytest.raises(InputError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        cut(requests(*paths), tmp_path / "U", CutSettings(size=8), dask="tcp://127.0.0.1:9")
