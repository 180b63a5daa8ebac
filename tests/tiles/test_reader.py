"""Reading scenes: which pixels are valid, and what other grids, warps and damage give."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from tiles.errors import InputError
from tiles.scenes.mosaic import mosaic
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader


def read_all(scene, dn=False):
    with SceneReader(scene) as reader:
        window = Window(0, 0, scene.width, scene.height)
        return reader.read_dn(window) if dn else reader.read(window)


def test_windows_may_reach_beyond_the_scene_where_nothing_is_valid(write_raster, ramp):
    values = ramp(1, 6, 5)
    scene = open_scene(write_raster("a.tif", values))
    with SceneReader(scene) as reader:
        pixels = reader.read_dn(Window(-2, 3, 9, 6))
        nothing = reader.read(Window(50, 50, 4, 4))
    expected = np.zeros((6, 9), bool)
    expected[:3, 2:7] = True
    np.testing.assert_array_equal(pixels.valid, expected)
    np.testing.assert_array_equal(pixels.values[0, :3, 2:7], values[0, 3:])
    assert not nothing.valid.any() and (nothing.values == 0).all()


def test_nodata_of_any_selected_band_makes_a_pixel_invalid(write_raster, ramp):
    values = ramp(3, 4, 4).astype(np.uint16)
    values[2, 1, 1] = 0
    names = ["red", "green", "blue"]
    scene = open_scene(write_raster("a.tif", values, nodata=0), sensor="planetscope-sr", band_names=names)
    assert not read_all(scene).valid[1, 1]
    assert read_all(scene).values[:, 1, 1].tolist() == [0, 0, 0]
    assert read_all(scene.select(["red", "green"])).valid.all()


def test_in_an_8_bit_picture_only_nodata_in_every_band_is_nodata(write_raster, ramp):
    values = np.maximum(ramp(3, 6, 6), 1)
    values[2, 1, 1] = 0  # dark water, clipped in one band
    values[:, 4, 4] = 0
    scene = open_scene(write_raster("a.tif", values, nodata=0, photometric="RGB"))
    expected = np.ones((6, 6), bool)
    expected[4, 4] = False
    np.testing.assert_array_equal(read_all(scene).valid, expected)
    warped = read_all(scene.on(scene.geobox.translate_pix(1, 0), "nearest")).valid
    np.testing.assert_array_equal(warped[:, :-1], expected[:, 1:])


def test_nan_and_infinity_are_invalid(write_raster):
    values = np.full((1, 3, 3), 0.5, np.float32)
    values[0, 0, 0], values[0, 2, 2] = np.nan, np.inf
    pixels = read_all(open_scene(write_raster("a.tif", values), sensor="reflectance"))
    assert pixels.valid.sum() == 7 and np.isfinite(pixels.values).all()


def test_alpha_is_validity_and_no_band(write_raster, ramp):
    values = np.concatenate([ramp(3, 4, 4), np.full((1, 4, 4), 255, np.uint8)])
    values[3, 0] = 0
    scene = open_scene(write_raster("a.tif", values, photometric="RGB", alpha="YES"))
    assert scene.band_names == ("red", "green", "blue")
    assert not read_all(scene).valid[0].any() and read_all(scene).valid[1:].all()


@pytest.mark.parametrize("gsd", [10, 5, 20])
@pytest.mark.parametrize("nodata", [None, 7])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_alpha_counts_whatever_its_type_and_size_and_beside_nodata(write_raster, ramp, dtype, nodata, gsd):
    most = 1 if dtype == "float32" else np.iinfo(dtype).max
    for opacity in {1, most}:
        values = np.full((3, 8, 8), 100, dtype)
        values[1] = values[1] + 1
        values[2] = opacity
        values[:2, :2], values[2, 2:4] = 7, 0
        path = write_raster("a.tif", values, nodata=nodata, descriptions=("red", "green", "a"))
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha]
        scene = open_scene(path, sensor="8bit" if dtype == "uint8" else "reflectance").at_gsd(gsd)
        expected = np.ones((8, 8), bool)
        expected[2:4] = False
        if nodata is not None:
            expected[:2] = False
        expected = {5: expected.repeat(2, 0).repeat(2, 1), 10: expected, 20: expected[::2, ::2]}[gsd]
        for bands in (("red", "green"), ("green",)):
            pixels = read_all(scene.select(bands), dn=True)
            np.testing.assert_array_equal(pixels.valid, expected)
            if nodata is not None:
                assert (pixels.values[-1][expected] == 101).all()


@pytest.mark.parametrize("gsd", [10, 5, 20])
@pytest.mark.parametrize("kind", ["internal", "external", "alpha"])
@pytest.mark.parametrize("side", [10, 30])
def test_the_mask_of_one_file_counts_whichever_bands_of_the_folder_are_chosen(write_raster, kind, side, gsd):
    """The masked band is on the grid of the others, or on a coarser one."""
    for name in ("B02", "B03", "B04"):
        write_raster(f"S2/{name}.tif", np.full((1, 12, 12), 1000, np.uint16))
    rows, at = 120 // side, Affine(side, 0, 400000, 0, -side, 5000000)
    mask = np.ones((rows, rows), bool)
    mask[: rows // 2] = False
    values = np.full((1, rows, rows), 1000, np.uint16)
    if kind == "alpha":
        values = np.stack([values[0], mask.astype(np.uint16)])
        folder = write_raster("S2/B08.tif", values, transform=at, alpha="YES").parent
    else:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal"):
            folder = write_raster("S2/B08.tif", values, transform=at, mask=mask).parent
    scene = open_scene(folder)
    assert any("B08.tif" in note and "counts for all bands" in note for note in scene.notes)
    whole = read_all(scene.at_gsd(gsd)).valid
    assert not whole[: len(whole) // 2 - 2].any() and whole[len(whole) // 2 + 2 :].all()
    for bands in (["red", "green", "blue"], ["green"], ["nir"]):
        np.testing.assert_array_equal(read_all(scene.select(bands).at_gsd(gsd)).valid, whole)


@pytest.mark.parametrize("internal", [True, False])
def test_internal_and_sidecar_masks_are_validity(write_raster, ramp, internal):
    mask = np.ones((4, 4), bool)
    mask[:, 3] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write_raster("a.tif", ramp(2, 4, 4), mask=mask)
    assert Path(f"{path}.msk").exists() is not internal
    np.testing.assert_array_equal(read_all(open_scene(path)).valid, mask)


def test_an_explicit_mask_on_another_grid_is_laid_on_the_scene(write_raster, ramp):
    scene_path = write_raster("a.tif", ramp(1, 8, 8))
    mask = np.ones((1, 4, 4), np.uint8)
    mask[0, :2] = 0  # the upper half, in pixels twice as large
    mask_path = write_raster("m.tif", mask, transform=Affine(20, 0, 400000, 0, -20, 5000000))
    valid = read_all(open_scene(scene_path, mask=mask_path)).valid
    assert not valid[:4].any() and valid[4:].all()


def test_scene_classification_hides_cloud_and_reports_it(write_raster, ramp):
    for number in ("B02", "B03", "B04"):
        write_raster(f"S2/{number}.tif", ramp(1, 8, 8, "uint16") + np.uint16(1000))
    classes = np.full((1, 4, 4), 4, np.uint8)
    classes[0, 0, 0], classes[0, 3, 3] = 9, 1  # cloud of high probability; defective
    folder = write_raster("S2/SCL.tif", classes, transform=Affine(20, 0, 400000, 0, -20, 5000000)).parent
    scene = open_scene(folder)
    assert scene.sensor == "sentinel-2-l2a"
    valid = read_all(scene).valid
    assert not valid[:2, :2].any() and not valid[6:, 6:].any() and valid.sum() == 56
    with SceneReader(scene) as reader:
        cloud = reader.read_cloud(Window(0, 0, 8, 8))
    assert cloud[:2, :2].all() and cloud.sum() == 4


def test_landsat_quality_bits_hide_fill_and_cloud(write_raster, ramp):
    stem = "LC08_L2SP_001066_20200831_20200906_02_T1"
    for number in (2, 3, 4):
        write_raster(f"L/{stem}_SR_B{number}.TIF", ramp(1, 4, 4, "uint16") + np.uint16(9000))
    quality = np.full((1, 4, 4), 21824, np.uint16)  # clear
    quality[0, 0, 0], quality[0, 1, 1], quality[0, 2, 2] = 1, 22280, 23888  # fill, cloud, cloud shadow
    scene = open_scene(write_raster(f"L/{stem}_QA_PIXEL.TIF", quality).parent)
    assert scene.band_names == ("blue", "green", "red") and scene.sensor == "landsat-89-c2-l2"
    assert scene.datetime == "2020-08-31"
    invalid = np.argwhere(~read_all(scene).valid).tolist()
    assert invalid == [[0, 0], [1, 1], [2, 2]]


def test_another_grid_is_read_through_a_warp(write_raster, ramp):
    values = ramp(2, 12, 12)
    scene = open_scene(write_raster("a.tif", values, nodata=0))
    moved = GeoBox((6, 7), scene.geobox.affine @ Affine.translation(3, 2), scene.crs)
    np.testing.assert_array_equal(read_all(scene.on(moved), dn=True).values, values[:, 2:8, 3:10])
    assert scene.on(scene.geobox) is scene


def test_shrinking_weighs_by_area_and_takes_valid_pixels_only(write_raster):
    values = np.zeros((1, 4, 6), np.uint16)
    values[0] = np.arange(1, 25).reshape(4, 6) * 10
    values[0, 0, 0] = 0
    scene = open_scene(write_raster("a.tif", values, nodata=0), sensor="planetscope-sr", band_names=["red"]).at_gsd(20)
    pixels = read_all(scene, dn=True)
    blocks = values[0].reshape(2, 2, 3, 2).astype(float)
    expected = blocks.sum((1, 3)) / (blocks > 0).sum((1, 3))
    assert pixels.values.shape == (1, 2, 3) and pixels.valid.all()
    np.testing.assert_allclose(pixels.values[0], expected, atol=0.51)


def picture_zeros() -> tuple[np.ndarray, np.ndarray]:
    """Dark water clipped in one band, and a border clipped in all; with what is measured."""
    values = np.full((4, 12, 12), 60, np.uint8)
    values[:, :, 8:] = 0
    values[3, :, 2:4] = 0
    values[:3, :, 4:6] = 0
    valid = np.ones((12, 12), bool)
    valid[:, 8:] = False
    return values, valid


@pytest.mark.parametrize("grid", ["native", "finer", "coarser"])
@pytest.mark.parametrize("chosen", [["red", "green", "blue", "nir"], ["red", "green", "blue"], ["nir"]])
@pytest.mark.parametrize("packaging", ["file", "folder"])
def test_a_picture_has_the_same_valid_pixels_by_every_packaging_and_choice(write_raster, packaging, chosen, grid):
    values, valid = picture_zeros()
    names = ["red", "green", "blue", "nir"]
    if packaging == "file":
        scene = open_scene(write_raster("a.tif", values, nodata=0, descriptions=tuple(names)))
    else:
        for name, plane in zip(names, values, strict=True):
            folder = write_raster(f"s/{name}.tif", plane[None], nodata=0).parent
        scene = open_scene(folder)
    scene = scene.select(chosen)
    if grid != "native":
        scene = scene.at_gsd(5 if grid == "finer" else 20)
        valid = np.repeat(np.repeat(valid, 2, 0), 2, 1) if grid == "finer" else valid[::2, ::2]
    pixels = read_all(scene, dn=True)
    np.testing.assert_array_equal(pixels.valid, valid)
    # The border is not mixed into the ground beside it.
    beside = {"native": 7, "finer": 15, "coarser": 3}[grid]
    assert (pixels.values[:, :, beside] == 60).all()


def test_each_band_is_warped_with_its_own_nodata(write_raster):
    values = np.full((3, 24, 24), 1000, np.uint16)
    marks = (0, 65535, 9999)
    for number, (name, mark) in enumerate(zip(("B02", "B03", "B04"), marks, strict=True)):
        values[number, 8 * number + 2 : 8 * number + 6, 6:12] = mark
        folder = write_raster(f"S2/{name}.tif", values[number][None], nodata=mark).parent
    for gsd in (4, 17):
        pixels = read_all(open_scene(folder, sensor="reflectance").at_gsd(gsd), dn=True)
        assert pixels.valid.mean() > 0.5
        assert (pixels.values[:, pixels.valid] == 1000).all()


def test_near_infrared_tagged_as_alpha_is_a_measurement(write_raster):
    values = np.full((4, 64, 64), 90, np.uint8)
    values[3, :, 32:] = 0  # water
    path = write_raster("m_3807762_nw_18_060_20180815.tif", values)
    with rasterio.open(path) as file:
        assert file.colorinterp[3].name == "alpha"
    scene = open_scene(path)
    assert scene.band_names == ("red", "green", "blue", "nir") and any("measurement" in note for note in scene.notes)
    for seen in (scene, scene.select(["red", "green", "blue"]), scene.at_gsd(4), scene.at_gsd(17)):
        assert read_all(seen).valid.all()


@pytest.mark.parametrize(
    ("fourth", "names", "measurement"),
    [
        ("opacity", None, False),
        ("ones", None, False),
        ("opacity", ["r", "g", "b", "n"], True),
        ("opacity", ["r", "g", "b"], False),
        ("spread", None, True),
        ("spread", ["r", "g", "b"], False),
    ],
)
def test_an_alpha_band_is_opacity_unless_its_values_or_names_say_otherwise(write_raster, fourth, names, measurement):
    values = np.full((4, 64, 64), 90, np.uint8)
    values[3] = 1 if fourth == "ones" else 255
    values[3, :, :16] = 0
    if fourth == "spread":
        values[3, :, 16:] = np.arange(48) + 60
    scene = open_scene(write_raster("a.tif", values, photometric="RGB", alpha="YES"), band_names=names)
    assert len(scene.bands) == (4 if measurement else 3)
    assert any("alpha" in note for note in scene.notes)
    assert read_all(scene).valid.mean() == (1.0 if measurement else 0.75)


def test_cloud_over_a_mosaic_is_the_cloud_of_its_tiles(write_raster, ramp):
    scenes = []
    for number, east in enumerate((400000, 400080)):
        at = Affine(10, 0, east, 0, -10, 5000000)
        for name in ("B02", "B03", "B04"):
            write_raster(f"S2_{number}/{name}.tif", ramp(1, 8, 8, "uint16") + np.uint16(1000), transform=at)
        classes = np.full((1, 8, 8), 4, np.uint8)
        classes[0, :4] = 9
        scenes.append(open_scene(write_raster(f"S2_{number}/SCL.tif", classes, transform=at).parent))
    with SceneReader(mosaic(scenes, name="both", source="both")) as reader:
        cloud = reader.read_cloud(Window(0, 0, 16, 8))
    assert cloud[:4].all() and not cloud[4:].any()


def test_clear_ground_below_another_tiles_cloud_is_no_cloud(write_raster, ramp):
    scenes = []
    for number in range(2):
        for name in ("B02", "B03", "B04"):
            write_raster(f"S2_{number}/{name}.tif", ramp(1, 8, 8, "uint16") + np.uint16(1000))
        classes = np.full((1, 8, 8), 4, np.uint8)
        classes[0, :4, 4 * number :] = 9
        scenes.append(open_scene(write_raster(f"S2_{number}/SCL.tif", classes).parent))
    with SceneReader(mosaic(scenes, name="both", source="both")) as reader:
        cloud, valid = reader.read_cloud(Window(0, 0, 8, 8)), reader.read(Window(0, 0, 8, 8)).valid
    np.testing.assert_array_equal(cloud, ~valid)
    assert cloud[:4, 4:].all() and cloud.sum() == 16


@pytest.mark.parametrize(("scene_crs", "mask_crs"), [(None, None), (None, "EPSG:32633"), ("EPSG:32633", None)])
def test_a_mask_without_common_reference_system_is_laid_pixel_by_pixel(write_raster, ramp, scene_crs, mask_crs):
    path = write_raster("a.tif", ramp(3, 8, 8), crs=scene_crs)
    mask = np.ones((1, 8, 8), np.uint8)
    mask[0, :, :4] = 0
    scene = open_scene(path, gsd_m=10, mask=write_raster("m.tif", mask, crs=mask_crs))
    np.testing.assert_array_equal(read_all(scene).valid, mask[0] > 0)
    assert read_all(scene.at_gsd(5)).valid.mean() == 0.5
    assert any("pixel by pixel" in note for note in scene.notes)
    with pytest.raises(InputError, match="cannot be laid on"):
        open_scene(path, gsd_m=10, mask=write_raster("n.tif", mask[:, 1:], crs=mask_crs))


@pytest.mark.parametrize(
    "transform",
    [Affine(10, 0, 400000, 0, -10, 5000000) @ Affine.rotation(30), Affine(10, 0, 400000, 0, 10, 5000000)],
    ids=["rotated", "south-up"],
)
def test_rotated_and_south_up_grids_are_read_as_they_are(write_raster, ramp, transform):
    values = ramp(1, 8, 8)
    scene = open_scene(write_raster("a.tif", values, transform=transform))
    assert scene.gsd_m == pytest.approx(10)
    np.testing.assert_array_equal(read_all(scene, dn=True).values, values)


@pytest.mark.parametrize("value", [0, 255])
def test_fill_round_a_scene_is_nodata_even_when_the_file_does_not_say_so(write_raster, ramp, value):
    values = np.clip(ramp(3, 40, 40), 2, 240)
    values[:, :10] = value
    values[0, 30, 30] = value  # one band that saturates is still a measurement
    path = write_raster("a.tif", values, photometric="RGB")
    scene = open_scene(path)
    assert any("undeclared nodata" in note for note in scene.notes)
    valid = read_all(scene).valid
    assert not valid[:10].any() and valid[10:].all()
    plain = open_scene(write_raster("b.tif", np.clip(values, 1, 254), photometric="RGB"))
    assert read_all(plain).valid.all()


def test_a_truncated_file_is_named_while_reading(write_raster, ramp, tmp_path):
    whole = write_raster("a.tif", ramp(3, 256, 256), compress="deflate").read_bytes()
    path = tmp_path / "cut.tif"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.tif"):
        read_all(open_scene(path))


RANGE_SERVER = """
import http.server, os, sys

class Ranges(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        path = self.translate_path(self.path)
        if not os.path.isfile(path):
            return self.send_error(404)
        content = open(path, "rb").read()
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last or len(content) - 1) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_a_raster_is_read_by_url(write_raster, ramp, tmp_path):
    values = ramp(3, 32, 32)
    write_raster("remote.tif", values, photometric="RGB")
    # In a process of its own: GDAL opens files without letting other threads of this one run.
    command = [sys.executable, "-c", RANGE_SERVER]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=quiet, text=True) as server:
        try:
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            np.testing.assert_array_equal(read_all(open_scene(f"{url}/remote.tif"), dn=True).values, values)
            with pytest.raises(InputError, match=r"none\.tif cannot be read"):
                open_scene(f"{url}/none.tif")
        finally:
            server.kill()
