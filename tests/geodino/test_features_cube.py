"""Feature cubes: they open in one line with CRS and coordinates, keep nodata, and are resumed to the same bytes."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import rasterio.shutil
import rioxarray
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox
from PIL import Image
from pystac.validation.local_validator import LocalValidator
from rio_cogeo.cogeo import cog_validate
from typer.testing import CliRunner

import geodino
from geodino.backbones.backbone import untrained_backbone
from geodino.cli import build
from geodino.dense.cube import CubeSpec, pieces
from geodino.dense.cube_reader import open_cube
from geodino.dense.engine import LocalEngine
from geodino.dense.extraction import Extraction
from geodino.dense.int8 import decode_int8, encode_int8
from geodino.dense.quicklook import PcaColours
from geodino.dense.settings import DenseSettings
from geodino.dense.stream import TokenRows, stream_tokens
from tiles.errors import InputError, OutputError
from tiles.scenes.dates import interval
from tiles.scenes.opening import open_scene

RGB = ["red", "green", "blue"]


def component_error(values):
    """The bound that the module's docstring gives for a component."""
    return (np.sqrt(np.abs(values)) + 1 / 510) / 127.5


def vector_error(channels):
    """The bound that it gives for a unit vector."""
    return channels**0.25 / 127.5 + channels**0.5 / 65025


@pytest.fixture(scope="module")
def backbone():
    return untrained_backbone("vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, precision="fp32")


def write(path, array, **profile):
    _, height, width = array.shape
    profile = {"transform": Affine(10, 0, 5e5, 0, -10, 5e6), "crs": "EPSG:32633", "dtype": array.dtype} | profile
    with rasterio.open(path, "w", driver="GTiff", count=len(array), height=height, width=width, **profile) as out:
        out.write(array)
    return path


@pytest.fixture
def scene(tmp_path):
    array = np.random.default_rng(0).integers(1, 256, (3, 1100, 180), dtype=np.uint8)
    array[:, 64:192, 96:160] = 0
    return open_scene(write(tmp_path / "scene.tif", array, nodata=0), band_names=RGB)


SMALL = DenseSettings(window=8, halo=1, batch_size=4)


def digest(path):
    found = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        found.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return found.hexdigest()


def whole(scene, backbone):
    rows = list(stream_tokens(scene, backbone, SMALL))
    features = np.concatenate([r.features for r in rows], axis=1)
    features[:, ~np.concatenate([r.valid for r in rows])] = np.nan
    return features


unit_floats = st.floats(-1, 1, width=32)


@given(arrays(np.float32, (5, 2, 3), elements=unit_floats))
def test_the_byte_code_is_within_its_bound(values):
    back = decode_int8(encode_int8(values, np.ones((2, 3), bool)))
    assert (np.abs(back - values) <= component_error(values) + 1e-7).all()
    np.testing.assert_array_equal(np.sign(back)[back != 0], np.sign(values)[back != 0])


@given(st.integers(0, 2**31), st.sampled_from([3, 64, 384, 1024]))
def test_the_code_turns_unit_vectors_by_no_more_than_stated(seed, channels):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((channels, 1, 4)).astype(np.float32) ** rng.integers(1, 4)
    values /= np.linalg.norm(values, axis=0)
    back = decode_int8(encode_int8(values, np.ones((1, 4), bool)))
    assert np.linalg.norm(back - values, axis=0).max() <= vector_error(channels)


def test_the_code_keeps_nodata():
    codes = encode_int8(np.ones((2, 1, 2), np.float32), np.array([[True, False]]))
    assert codes[:, 0, 1].tolist() == [-128, -128] and codes[0, 0, 0] == 127
    assert np.isnan(decode_int8(codes)[:, 0, 1]).all()


@given(st.integers(1, 300), st.lists(st.integers(1, 70), min_size=1, max_size=12))
def test_rows_are_cut_into_pieces_without_loss(total, heights):
    column = np.arange(total, dtype=np.float32)[None, :, None]
    rows, at = [], 0
    for height in [*heights, total]:
        stop = min(at + height, total)
        if stop > at:
            rows.append(TokenRows(at, column[:, at:stop], np.ones((stop - at, 1), bool), np.ones((0, 1), bool)))
        at = stop
    spec = CubeSpec(Path("f.zarr"), GeoBox((total, 1), Affine.identity(), None), 1, "float16", {})
    got = list(pieces(iter(rows), spec))
    assert [row for piece, _, _ in got for row in piece] == list(range(total))
    assert all(piece.start % 64 == 0 for piece, _, _ in got)
    np.testing.assert_array_equal(np.concatenate([f for _, f, _ in got], axis=1), column)


def test_zarr_opens_in_one_line_with_crs_and_coordinates(scene, backbone, tmp_path, recwarn):
    geodino.features(scene, tmp_path / "f.zarr", backbone=backbone, settings=SMALL)
    cube = xr.open_zarr(tmp_path / "f.zarr").features
    assert not [w for w in recwarn if "consolidated" in str(w.message)]
    assert cube.dims == ("feature", "y", "x") and cube.shape == (64, 69, 12) and cube.dtype == np.float16
    assert cube.rio.crs.to_epsg() == 32633 and cube.rio.transform() == Affine(160, 0, 5e5, 0, -160, 5e6)
    assert cube.x[0] == 5e5 + 80 and cube.y[0] == 5e6 - 80
    np.testing.assert_allclose(cube.values, whole(scene, backbone), atol=6e-4)
    meta = json.loads((tmp_path / "f.zarr" / "features" / "zarr.json").read_text())
    assert meta["zarr_format"] == 3 and meta["codecs"][0]["name"] == "sharding_indexed"
    attributes = xr.open_zarr(tmp_path / "f.zarr").attrs
    assert attributes["geodino_backbone_hash"] == backbone.hash
    assert attributes["geodino_normalization"]["mean"] == list(backbone.normalization.mean)


def test_tif_is_a_valid_cog_that_opens_in_one_line(scene, backbone, tmp_path):
    geodino.features(scene, tmp_path / "f.tif", backbone=backbone, settings=SMALL)
    assert cog_validate(str(tmp_path / "f.tif"))[0]
    codes = rioxarray.open_rasterio(tmp_path / "f.tif")
    assert codes.dtype == np.int8 and codes.shape == (64, 69, 12) and codes.rio.crs.to_epsg() == 32633
    assert codes.rio.nodata == -128
    expected = whole(scene, backbone)
    decoded = open_cube(tmp_path / "f.tif").values
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(expected))
    assert np.nanmax(np.linalg.norm(decoded - expected, axis=0)) <= vector_error(64)
    with rasterio.open(tmp_path / "f.tif") as file:
        assert file.tags()["GEODINO_BACKBONE_HASH"] == backbone.hash and "127.5" in file.tags()["GEODINO_CODE"]


def test_float32_is_exact_in_both(scene, backbone, tmp_path):
    expected = whole(scene, backbone)
    for name in ("f.zarr", "f.tif"):
        cube = geodino.features(scene, tmp_path / name, backbone=backbone, settings=SMALL, dtype="float32")
        np.testing.assert_array_equal(cube.values, expected)


def test_a_raster_without_a_crs_gives_a_cube_without_one(backbone, tmp_path):
    path = write(tmp_path / "s.tif", np.full((3, 64, 64), 7, np.uint8), crs=None)
    scene = open_scene(path, band_names=RGB, gsd_m=2.0)
    for name in ("f.zarr", "f.tif"):
        cube = geodino.features(scene, tmp_path / name, backbone=backbone, settings=SMALL)
        assert cube.rio.crs is None and cube.rio.transform().a == 160  # 16 pixels of the file's own 10 units
    item = json.loads((tmp_path / "f.zarr.stac.json").read_text())
    assert item["geometry"] is None and item["properties"]["proj:code"] is None


@pytest.mark.parametrize("name", ["f.zarr", "f.tif"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(scene, backbone, tmp_path, monkeypatch, name):
    once = Extraction.plan(scene, LocalEngine(backbone), tmp_path / ("once" + name), SMALL)
    once.run()
    plan = Extraction.plan(scene, LocalEngine(backbone), tmp_path / name, SMALL)
    seen = []

    class Stop:
        def update(self, done, note=""):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan.run(progress=Stop())
    assert not (tmp_path / name).exists()

    def spy(*args, rows=None, **options):
        seen.append(rows)
        return stream_tokens(*args, rows=rows, **options)

    monkeypatch.setattr("geodino.dense.engine.stream_tokens", spy)
    plan.run()
    assert seen == [range(64, 69)]  # the first piece is not made again
    assert digest(tmp_path / name) == digest(tmp_path / ("once" + name))
    assert not list(tmp_path.glob("*.part"))


def test_an_unfinished_run_with_other_settings_is_refused_and_kept(scene, backbone, tmp_path):
    class Stop:
        def update(self, done, note=""):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Extraction.plan(scene, LocalEngine(backbone), tmp_path / "f.zarr", SMALL).run(progress=Stop())
    other = Extraction.plan(
        scene, LocalEngine(backbone), tmp_path / "f.zarr", DenseSettings(window=12, halo=1, batch_size=4)
    )
    with pytest.raises(InputError, match="settings"):
        other.run()
    assert (tmp_path / "f.zarr.part").is_dir()
    other.run(overwrite=True)
    assert open_cube(tmp_path / "f.zarr").shape == (64, 69, 12)


def test_a_changed_input_is_refused(scene, backbone, tmp_path):
    class Stop:
        def update(self, done, note=""):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Extraction.plan(scene, LocalEngine(backbone), tmp_path / "f.zarr", SMALL).run(progress=Stop())
    os.utime(tmp_path / "scene.tif", (1, 1))
    again = open_scene(tmp_path / "scene.tif", band_names=RGB)
    with pytest.raises(InputError, match="scene"):
        Extraction.plan(again, LocalEngine(backbone), tmp_path / "f.zarr", SMALL).run()


def test_a_changed_source_of_a_virtual_raster_is_refused(scene, backbone, tmp_path):
    class Stop:
        def update(self, done, note=""):
            raise KeyboardInterrupt

    def run(**options):
        again = open_scene(tmp_path / "scene.vrt", band_names=RGB)
        return geodino.features(again, tmp_path / "f.tif", backbone=backbone, settings=SMALL, **options)

    with rasterio.open(tmp_path / "scene.tif") as file:
        rasterio.shutil.copy(file, tmp_path / "scene.vrt", driver="VRT")
        values = file.read()
    with pytest.raises(KeyboardInterrupt):
        run(progress=Stop())
    with rasterio.open(tmp_path / "scene.tif", "r+") as file:
        file.write(values[:, ::-1])
    with pytest.raises(InputError, match=r"f\.tif\.part holds an unfinished run with another scene"):
        run()
    assert not (tmp_path / "f.tif").exists()
    run(overwrite=True)
    other = open_scene(tmp_path / "scene.tif", band_names=RGB)
    geodino.features(other, tmp_path / "whole.tif", backbone=backbone, settings=SMALL)
    with rasterio.open(tmp_path / "f.tif") as made, rasterio.open(tmp_path / "whole.tif") as whole:
        np.testing.assert_array_equal(made.read(), whole.read())


def test_existing_outputs_are_refused_before_the_scene_is_read(backbone, tmp_path):
    (tmp_path / "f.tif").write_text("mine")
    with pytest.raises(OutputError, match="overwrite"):
        geodino.features("absent.tif", tmp_path / "f.tif", backbone=backbone)
    assert (tmp_path / "f.tif").read_text() == "mine"


@pytest.mark.parametrize(("name", "dtype"), [("f.png", "auto"), ("f.tif", "float16"), ("f.zarr", "int8")])
def test_formats_that_cannot_be_are_refused(backbone, tmp_path, name, dtype):
    with pytest.raises(OutputError, match="neither Zarr nor GeoTIFF" if dtype == "auto" else f"not {dtype}"):
        geodino.features("absent.tif", tmp_path / name, backbone=backbone, dtype=dtype)


def test_a_cube_and_its_quicklook_need_two_names_and_a_picture_a_known_one(backbone, tmp_path):
    for picture, says in (("f.tif", "name them apart"), ("q.jpg", r"\.png or a \.tif")):
        with pytest.raises(InputError, match=says):
            geodino.features("absent.tif", tmp_path / "f.tif", backbone=backbone, quicklook=tmp_path / picture)


def test_a_quicklook_that_alone_is_missing_is_made_from_the_same_cube_only(scene, backbone, tmp_path, monkeypatch):
    words = {"backbone": backbone, "settings": SMALL, "quicklook": tmp_path / "q.png"}
    for name in ("f.tif", "f.zarr"):
        geodino.features(scene, tmp_path / name, **words)
        drawn, cube = digest(tmp_path / "q.png"), digest(tmp_path / name)
        (tmp_path / "q.png").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(Extraction, "run", lambda *args, **options: pytest.fail("the cube is made again"))
            geodino.features(scene, tmp_path / name, **words)
        assert (digest(tmp_path / "q.png"), digest(tmp_path / name)) == (drawn, cube)
        with pytest.raises(OutputError, match="exists already"):
            geodino.features(scene, tmp_path / name, **words)
        (tmp_path / "q.png").unlink()
        with pytest.raises(OutputError, match=f"{name} exists already, made from other inputs or settings"):
            geodino.features(scene, tmp_path / name, **words | {"settings": DenseSettings(window=12, halo=1)})
        (tmp_path / f"{name}.part").mkdir()  # the item may then be that of a cube to come
        with pytest.raises(OutputError, match="--overwrite"):
            geodino.features(scene, tmp_path / name, **words)
        (tmp_path / f"{name}.part").rmdir()
    (tmp_path / "f.tif.stac.json").unlink()
    with pytest.raises(OutputError, match="--overwrite"):
        geodino.features(scene, tmp_path / "f.tif", **words)
    assert not (tmp_path / "q.png").exists()


def test_a_scene_without_a_valid_pixel_has_no_quicklook(backbone, tmp_path):
    scene = open_scene(write(tmp_path / "s.tif", np.zeros((3, 64, 64), np.uint8), nodata=0), band_names=RGB)
    with pytest.raises(InputError, match="no valid token"):
        geodino.features(scene, tmp_path / "f.tif", backbone=backbone, settings=SMALL, quicklook=tmp_path / "q.png")
    assert np.isnan(open_cube(tmp_path / "f.tif").values).all()


def test_what_only_has_the_name_of_a_cube_is_refused(scene, tmp_path):
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "text.zarr").write_text("no store")
    (tmp_path / "empty.zarr").mkdir()
    xr.Dataset({"other": ("x", [1.0])}).to_zarr(tmp_path / "other.zarr", consolidated=False)
    for name in ("text.tif", "text.zarr", "empty.zarr", "other.zarr", "scene.tif"):
        with pytest.raises(InputError, match=f"{name} is no feature cube"):
            open_cube(tmp_path / name)
    with pytest.raises(InputError, match=r"absent\.zarr does not exist"):
        open_cube(tmp_path / "absent.zarr")


def test_layers_on_the_command_line_are_numbers(scene, tmp_path):
    result = CliRunner().invoke(build(), ["features", scene.source, "-o", str(tmp_path / "f.tif"), "--layers", "last"])
    assert isinstance(result.exception, InputError) and "not 'last'" in str(result.exception)


def test_a_loaded_backbone_cannot_go_to_a_cluster(scene, backbone, tmp_path):
    with pytest.raises(InputError, match="give its name or folder"):
        geodino.features(scene, tmp_path / "f.zarr", backbone=backbone, dask="tcp://127.0.0.1:1")


def test_a_scene_with_too_few_bands_is_one_sentence(backbone, tmp_path):
    write(tmp_path / "s.tif", np.ones((2, 64, 64), np.uint8))
    scene = open_scene(tmp_path / "s.tif", band_names=["red", "green"])
    with pytest.raises(InputError, match="blue"):
        geodino.features(scene, tmp_path / "f.tif", backbone=backbone)


def test_each_cube_has_a_stac_item(scene, backbone, tmp_path):
    geodino.features(scene, tmp_path / "f.tif", backbone=backbone, settings=SMALL)
    path = tmp_path / "f.tif.stac.json"
    item = pystac.Item.from_file(path)
    found = json.loads(path.read_text())
    problems = list(LocalValidator().item_validator().iter_errors(found))
    assert not problems, problems
    properties = found["properties"]
    assert properties["proj:code"] == "EPSG:32633" and properties["proj:shape"] == [69, 12]
    assert properties["mlm:architecture"] == "vit_small_patch16_dinov3"
    assert properties["mlm:hyperparameters"]["weights_sha256"] == backbone.hash
    assert properties["processing:software"] == {"geodino": geodino.__version__}
    asset = item.assets["product"]
    assert asset.href == "./f.tif" and asset.extra_fields["raster:spatial_resolution"] == 160
    assert (asset.extra_fields["data_type"], asset.extra_fields["nodata"]) == ("int8", -128)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("1985", "1985-01-01T00:00:00", "1985-12-31T23:59:59"),
        ("2020-12", "2020-12-01T00:00:00", "2020-12-31T23:59:59"),
        ("2020-02-29", "2020-02-29T00:00:00", "2020-02-29T23:59:59"),
        ("2020-02-23T03:27:39Z", "2020-02-23T03:27:39", "2020-02-23T03:27:39"),
    ],
)
def test_dates_of_any_precision_become_the_interval_they_mean(text, start, end):
    assert [when.strftime("%Y-%m-%dT%H:%M:%S") for when in interval(text)] == [start, end]


def test_the_quicklook_shows_nodata_as_transparent(scene, backbone, tmp_path):
    geodino.features(scene, tmp_path / "f.tif", backbone=backbone, settings=SMALL, quicklook=tmp_path / "q.png")
    picture = np.asarray(Image.open(tmp_path / "q.png"))
    enlarged = picture.shape[0] // 69
    expected = ~np.isnan(open_cube(tmp_path / "f.tif").values[0])
    np.testing.assert_array_equal(picture[::enlarged, ::enlarged, 3] > 0, expected)
    geodino.features(scene, tmp_path / "f.zarr", backbone=backbone, settings=SMALL, quicklook=tmp_path / "q.tif")
    with rasterio.open(tmp_path / "q.tif") as file:
        assert file.count == 3 and file.nodata == 0
        np.testing.assert_array_equal(file.read(1) > 0, expected)


def test_principal_components_are_exact_and_their_signs_fixed():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((500, 6)).astype(np.float32) * [9, 5, 3, 1, 0.5, 0.1]
    colours = PcaColours.fit(samples.astype(np.float32))
    np.testing.assert_allclose(np.abs(colours.components[:, :3]), np.eye(3), atol=0.1)
    assert (colours.components.max(1) > 0.9).all()
    painted = colours.paint(samples.T[:, :, None].astype(np.float32), np.ones((500, 1), bool))
    assert painted.min() == 1 and painted.max() == 255


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_loses_nothing(scene, tmp_path):
    """A limit on the size of files stands for a full disk."""
    code = f"""
import resource, signal
from geodino.backbones.backbone import untrained_backbone
from geodino.dense.stream import DenseSettings
from tiles.errors import OutputError
from tiles.scenes.opening import open_scene
import geodino
backbone = untrained_backbone("vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, precision="fp32")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))
scene = open_scene({str(tmp_path / "scene.tif")!r}, band_names={RGB})
for name in ("f.zarr", "f.tif"):
    try:
        output = {str(tmp_path)!r} + "/" + name
        geodino.features(scene, output, backbone=backbone, settings=DenseSettings(window=8, halo=1))
    except OutputError as error:
        print("refused:", error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.count("refused:") == 2 and len(result.stdout.splitlines()) == 2
    assert not (tmp_path / "f.zarr").exists() and not (tmp_path / "f.tif").exists()
