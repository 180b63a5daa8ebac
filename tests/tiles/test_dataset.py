"""Reading tile sets: records, batches, samplers, statistics, damage, publishing."""

import io
import json
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tiles.archive.dataset import TileDataset
from tiles.archive.histogram import Counts, describe
from tiles.archive.preview import write_previews
from tiles.archive.shard import pack, unpack
from tiles.archive.verify import verify
from tiles.archive.webdataset import export_webdataset
from tiles.cutting.cut import cut, set_split
from tiles.cutting.plan import CutSettings, Request
from tiles.errors import InputError, OutputError


@pytest.fixture
def tile_set(write_raster, tmp_path):
    generator = np.random.default_rng(0)
    values = generator.integers(1, 256, (3, 40, 50), np.uint8)
    values[:, 5:9, 5:9] = 0
    reflectance = generator.integers(1, 6000, (3, 30, 30), np.uint16)
    paths = [
        write_raster("a.tif", values, nodata=0, photometric="RGB"),
        write_raster("S2A_MSIL2A_20200223T033731.tif", reflectance, descriptions=("B04", "B03", "B02")),
    ]
    cut([Request(str(path)) for path in paths], tmp_path / "T", CutSettings(size=10, min_valid=0.5))
    return tmp_path / "T"


def test_reading_needs_neither_torch_nor_gdal():
    code = "import sys, tiles.archive.dataset; "
    code += "sys.exit(bool({'torch', 'rasterio', 'odc'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_record_is_a_view_of_the_memory_map(tile_set):
    tiles = TileDataset(tile_set)
    record = tiles.read(3)
    assert not record.values.flags.owndata and not record.values.flags.writeable
    assert record.values.shape == (3, 10, 10) and record.valid.shape == (10, 10) and record.gsd_m == 10


def test_batches_are_unit_values_in_the_order_asked_for(tile_set):
    tiles = TileDataset(tile_set)
    order = [len(tiles) - 1, 0, 7, 7]
    batch = tiles.read_batch(order)
    assert batch.values.dtype == np.float32 and batch.gsd_m.tolist() == [10] * 4
    for place, i in enumerate(order):
        record = tiles.read(i)
        scale, offset = record.scale[:, None, None], record.offset[:, None, None]
        expected = np.clip(record.values * scale + offset, 0, 1) * record.valid
        np.testing.assert_allclose(batch.values[place], expected, atol=1e-6)
        np.testing.assert_array_equal(tiles.read_unit(i).values, batch.values[place])
        np.testing.assert_array_equal(batch.valid[place], record.valid)


def test_a_dataset_travels_to_other_processes(tile_set):
    tiles = TileDataset(tile_set)
    tiles.read(0)
    again = pickle.loads(pickle.dumps(tiles))
    np.testing.assert_array_equal(again.read(5).values, tiles.read(5).values)


def test_what_is_no_tile_set_is_refused(tmp_path, tile_set):
    with pytest.raises(InputError, match=r"no finished tile set"):
        TileDataset(tmp_path / "nosuch")
    with pytest.raises(InputError, match="no column nosuch"):
        TileDataset(tile_set).column("nosuch")
    (tile_set / "tiles.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(InputError, match="of format 99"):
        TileDataset(tile_set)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_packing_validity_loses_nothing(height, width):
    valid = np.random.default_rng(height * 41 + width).random((height, width)) > 0.5
    np.testing.assert_array_equal(unpack(pack(valid), width), valid)


def test_statistics_are_exactly_those_of_sorting_all_pixels(tile_set):
    found = describe(tile_set)
    assert found == describe(tile_set, workers=2) == json.loads((tile_set / "statistics.json").read_text())
    tiles = TileDataset(tile_set)
    for band, name in enumerate(tiles.bands):
        pixels = []
        for i in range(len(tiles)):
            record = tiles.read(i)
            scale, offset = tiles.exact_units(i)
            pixels.append(np.clip(record.values[band][record.valid] * scale[band] + offset[band], 0, 1))
        whole = np.concatenate(pixels)
        for key, value in found["bands"][name]["percentiles"].items():
            assert value == pytest.approx(np.percentile(whole, float(key)), abs=1e-12)
        np.testing.assert_array_equal(found["bands"][name]["histogram"], np.histogram(whole, 256, (0, 1))[0])
        assert found["bands"][name]["mean"] == pytest.approx(whole.mean(), rel=1e-12)
        assert found["bands"][name]["std"] == pytest.approx(whole.std(), rel=1e-9)


def test_floats_are_counted_in_fine_steps():
    values = np.random.default_rng(0).random(10000).astype(np.float32) * 2 - 0.5
    counts = Counts()
    counts.add(values[:3000], 1.0, 0.0)
    counts.add(values[3000:], 1.0, 0.0)
    clipped = np.clip(values, 0, 1)
    np.testing.assert_allclose(counts.percentiles([5, 50, 95]), np.percentile(clipped, [5, 50, 95]), atol=2e-5)


def test_damage_is_found_and_named(tile_set):
    assert verify(tile_set) == [] == verify(tile_set, workers=2)
    tiles = TileDataset(tile_set)
    shard = tile_set / f"shard-{int(tiles.shards[4]):05d}.npy"
    content = bytearray(shard.read_bytes())
    content[128 + 4 * 300 + 17] ^= 1
    shard.write_bytes(content)
    (damage,) = verify(tile_set)
    assert damage.where == tiles.column("tile_id")[4] and "checksum" in damage.what
    shard.write_bytes(content[:500])
    assert "cannot be read" in verify(tile_set)[0].what
    shard.unlink()
    assert "cannot be read" in verify(tile_set)[0].what


def test_webdataset_files_hold_the_tiles(tile_set, tmp_path):
    assert export_webdataset(tile_set, tmp_path / "W", tiles_per_file=11) == len(TileDataset(tile_set))
    files = sorted((tmp_path / "W").iterdir())
    assert [file.name for file in files[:2]] == ["tiles-00000.tar", "tiles-00001.tar"]
    with tarfile.open(files[1]) as tar:
        names = tar.getnames()
        assert names[:3] == ["000000011.npy", "000000011.valid.npy", "000000011.json"]
        values = np.load(io.BytesIO(tar.extractfile(names[0]).read()))
        about = json.load(tar.extractfile(names[2]))
    tiles = TileDataset(tile_set)
    np.testing.assert_array_equal(values, tiles.read(11).values)
    assert about["tile_id"] == tiles.column("tile_id")[11] and about["bands"] == ["red", "green", "blue"]
    with pytest.raises(OutputError, match=r"holds tiles-00000\.tar already"):
        export_webdataset(tile_set, tmp_path / "W")
    before = files[0].read_bytes()
    export_webdataset(tile_set, tmp_path / "W", tiles_per_file=11, overwrite=True)
    assert files[0].read_bytes() == before
    with pytest.raises(OutputError, match="no tile in split val"):
        export_webdataset(tile_set, tmp_path / "V", split="val")


def test_pictures_are_drawn(tile_set):
    from PIL import Image

    write_previews(tile_set)
    sheet = np.asarray(Image.open(tile_set / "contact_sheet.png"))
    assert (sheet == (255, 0, 255)).all(axis=-1).any()  # invalid pixels of the first tile
    with Image.open(tile_set / "footprints.png") as footprints:
        assert footprints.size[0] > 400


def test_footprints_on_both_sides_of_the_antimeridian_are_one_place():
    from tiles.archive.preview import _centres, _panel, _places

    cut = shapely.MultiPolygon([shapely.box(179.9, 0, 180, 0.1), shapely.box(-180, 0, -179.9, 0.1)])
    shapes = np.array(
        [shapely.box(179.7, 0, 179.9, 0.1), cut, shapely.box(-179.9, 0, -179.7, 0.1), shapely.box(10, 0, 11, 1)]
    )
    assert np.abs(_centres(shapes)[:3, 0]).min() > 179
    assert [group.tolist() for group in _places(shapes)] == [[0, 1, 2], [3]]
    drawn = (np.asarray(_panel(shapes[:3], ["#1b6ca8"] * 3)) == (0x1B, 0x6C, 0xA8)).all(axis=-1)
    assert drawn[:, 100:320].any(axis=0).sum() > 100  # over the panel's middle, not at its edges


def test_splits_outlive_additions(tile_set, write_raster, ramp):
    about = set_split(tile_set, {"fractions": {"train": 0.5, "val": 0.5}, "seed": 1})
    assert about.split is not None
    before = dict(zip(TileDataset(tile_set).column("tile_id"), TileDataset(tile_set).column("split"), strict=True))
    path = write_raster("later.tif", ramp(3, 20, 20), photometric="RGB")
    cut([Request(str(path))], tile_set, CutSettings(size=10, min_valid=0.5))
    after = dict(zip(TileDataset(tile_set).column("tile_id"), TileDataset(tile_set).column("split"), strict=True))
    assert before.items() <= after.items() and None not in after.values()


def test_a_split_is_opened_by_its_name(tile_set):
    with pytest.raises(InputError, match="none yet"):
        TileDataset(tile_set, split="train")
    set_split(tile_set, {"fractions": {"train": 0.5, "val": 0.5}, "seed": 1})
    whole = TileDataset(tile_set)
    names = whole.column("split")
    part, places = TileDataset(tile_set, split=names[0]), np.flatnonzero(names == names[0])
    assert 0 < len(part) == len(places)
    assert (part.read_batch(np.arange(len(part))).values == whole.read_batch(places).values).all()
    with pytest.raises(InputError, match=f"it has: .*{names[0]}"):
        TileDataset(tile_set, split="test")
