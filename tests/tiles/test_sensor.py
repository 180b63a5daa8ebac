"""Units: digital numbers to reflectance to [0, 1]."""

import numpy as np
import pytest
from PIL import Image
from rasterio.windows import Window

from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader
from tiles.scenes.sensor import INFRARED_MAX, SENSORS, VISIBLE_MAX, band_id, common_name, to_display


def unit(sensor: str, band: str, dn: float) -> float:
    scale, shift = SENSORS[sensor].to_unit(band)
    return float(np.clip(dn * scale + shift, 0, 1))


def test_reflectance_ends_at_the_display_range():
    assert unit("sentinel-2-l2a", "red", 2750) == pytest.approx(1.0)
    assert unit("sentinel-2-l2a", "nir", 2750) == pytest.approx(0.5)
    scale, shift = to_display("red", 1e-4, -0.1)
    assert 3750 * scale + shift == pytest.approx(1.0)
    assert unit("landsat-89-c2-l2", "green", 0.2 / 2.75e-5 + 1000) == pytest.approx(0.0275 / VISIBLE_MAX)
    assert unit("landsat-89-c2-l1", "nir08", 5000 + 5000) == pytest.approx(0.1 / INFRARED_MAX)
    assert unit("planetscope-sr", "blue", 1375) == pytest.approx(0.5)
    assert unit("maxar-11bit", "red", 2047) == pytest.approx(1.0)
    assert unit("naip", "nir", 255) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Red", "red"),
        ("Near Infrared", "nir"),
        ("SR_B4", None),
        ("red_edge_2", "rededge075"),
        ("SWIR1", "swir16"),
        ("b1", None),
    ],
)
def test_common_names(text, name):
    assert common_name(text) == name


@pytest.mark.parametrize(
    ("text", "identifier"),
    [("T33_B8A_20m", "B8A"), ("LC08_SR_B4", "B4"), ("B02", "B02"), ("AB02", None), ("b11", "B11")],
)
def test_band_identifiers(text, identifier):
    assert band_id(text) == identifier


@pytest.mark.parametrize(
    ("name", "tags", "offset"),
    [
        ("S2A_MSIL2A_20200223T033731_N0214_R061_T48QUE_B04.tif", {}, 0.0),
        ("S2A_MSIL2A_20200223T033731_N0500_R061_T48QUE_B04.tif", {}, -0.1),  # reprocessed: the baseline rules
        ("S2B_20220801_T33UUP_B04.tif", {}, -0.1),
        ("S2B_20220101_T33UUP_B04.tif", {}, 0.0),
        ("S2B_T33UUP_B04.tif", {"PROCESSING_BASELINE": "05.09"}, -0.1),
    ],
)
def test_the_offset_of_baseline_0400(write_raster, ramp, name, tags, offset):
    path = write_raster(name, ramp(1, 4, 4, "uint16"), descriptions=("B04",), tags=tags)
    scene = open_scene(path)
    assert scene.sensor == "sentinel-2-l2a" and scene.band_names == ("red",)
    assert scene.bands[0].offset == pytest.approx(offset / VISIBLE_MAX)
    assert any(note.startswith("Sentinel-2 offset") for note in scene.notes)


def test_stated_scale_and_offset_make_reflectance(write_raster, ramp):
    path = write_raster("a.tif", ramp(3, 4, 4, "uint16"), scales=(1e-4, 1e-4, 1e-4), photometric="RGB")
    scene = open_scene(path)
    assert scene.sensor == "reflectance" and scene.bands[0].scale == pytest.approx(1e-4 / VISIBLE_MAX)


def test_unknown_units_get_one_stretch_over_the_whole_scene(write_raster):
    values = np.arange(100 * 100, dtype=np.float32).reshape(1, 100, 100) - 300
    scene = open_scene(write_raster("a.tif", values))
    low, high = np.percentile(values, (2, 98))
    band = scene.bands[0]
    assert low * band.scale + band.offset == pytest.approx(0, abs=1e-6)
    assert high * band.scale + band.offset == pytest.approx(1, abs=1e-6)


def test_eight_bit_renditions_of_reflectance_are_display_values(write_raster, ramp):
    scene = open_scene(write_raster("S2A_MSIL2A_20200223T033731_x.tif", ramp(3, 4, 4)), sensor="sentinel-2-l2a")
    assert scene.bands[0].scale == pytest.approx(1 / 255)
    assert any("8-bit values cannot be" in note for note in scene.notes)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["AnnualCrop_1", "Pasture_300", "SeaLake_3000"])
def test_display_range_reproduces_the_published_rgb(real_data, name):
    folder = real_data / "scenes" / "eurosat_ms_rgb_twins"
    scene = open_scene(folder / f"EuroSAT_MS_{name}.tif", bands=["red", "green", "blue"])
    assert scene.sensor == "sentinel-2-l1c"
    with SceneReader(scene) as reader:
        ours = reader.read(Window(0, 0, 64, 64)).values * 255
    published = np.asarray(Image.open(folder / f"EuroSAT_RGB_{name}.jpg")).transpose(2, 0, 1)
    # JPEG leaves an error of one or two grey levels; a display range 10 % off would leave five and more.
    assert np.abs(ours - published).mean() < 2.0
