"""The order in which units are settled: what is stated, floats, the sensor table; and each decision is a note."""

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.windows import Window

from tiles.errors import InputError
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader

RGB = ("B04", "B03", "B02")


def reflectance(scene) -> np.ndarray:
    """Reflectance of each band's middle pixel."""
    with SceneReader(scene) as reader:
        values = reader.read(Window(0, 0, scene.width, scene.height)).values
    tops = [0.275 if name in ("red", "green", "blue") else 0.55 for name in scene.band_names]
    return values[:, scene.height // 2, scene.width // 2] * np.array(tops)


def flat(values, dtype, side=8) -> np.ndarray:
    return np.repeat(np.array(values, dtype), side * side).reshape(len(values), side, side)


def test_floats_of_a_sensor_are_reflectance(write_raster):
    scene = open_scene(write_raster("a.tif", flat([0.1, 0.2, 0.05], np.float32), descriptions=RGB))
    assert scene.sensor == "sentinel-2-l2a"
    np.testing.assert_allclose(reflectance(scene), [0.1, 0.2, 0.05], rtol=1e-5)
    assert any("taken as reflectance as they are" in note for note in scene.notes)


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ([1000, 2000, 500], "too large for reflectance, taken as sentinel-2-l2a digital numbers"),
        ([10, 20, 5], "reflectance in percent"),
    ],
)
def test_floats_that_cannot_be_reflectance_are_said(write_raster, values, note):
    scene = open_scene(write_raster("S2_20200601.tif", flat(values, np.float32), descriptions=RGB))
    np.testing.assert_allclose(reflectance(scene), [0.1, 0.2, 0.05], rtol=1e-5)
    assert any(note in text for text in scene.notes)


def test_floats_of_named_bands_are_reflectance_and_of_unknown_ones_stretched(write_raster):
    values = flat([0.1, 0.2, 0.05], np.float32)
    assert open_scene(write_raster("a.tif", values, descriptions=("red", "green", "blue"))).sensor == "reflectance"
    assert open_scene(write_raster("b.tif", values)).sensor == "stretch"
    large = open_scene(write_raster("c.tif", values * 1e4, descriptions=("red", "green", "blue")))
    assert large.sensor == "stretch" and any("which is no reflectance" in note for note in large.notes)


def test_floats_of_an_eight_bit_sensor_are_display_values(write_raster):
    name = "m_4709963_se_14_1_20090818.tif"
    for top, note in ((1.0, "as they are"), (255.0, "divided by 255")):
        scene = open_scene(write_raster(name, flat([0.2 * top, 0.4 * top, 0.6 * top, 0.8 * top], np.float32)))
        with SceneReader(scene) as reader:
            found = reader.read(Window(0, 0, 1, 1)).values[:, 0, 0]
        np.testing.assert_allclose(found, [0.2, 0.4, 0.6, 0.8], rtol=1e-5)
        assert scene.sensor == "naip" and any(note in text for text in scene.notes)
    wide = open_scene(write_raster(name, flat([200, 400, 600, 800], np.uint16)))
    assert wide.sensor == "stretch" and any("more than 8 bits" in note for note in wide.notes)


@pytest.mark.parametrize("offset", [0.0, -0.1])
def test_a_stated_scale_and_offset_beat_the_date(write_raster, offset):
    path = write_raster("S2B_20230601_T33UUP.tif", flat([2000, 2000, 2000], np.uint16), descriptions=RGB)
    with rasterio.open(path, "r+") as target:
        target.scales, target.offsets = (1e-4,) * 3, (offset,) * 3
    scene = open_scene(path)
    np.testing.assert_allclose(reflectance(scene), 0.2 + offset, rtol=1e-4)
    assert any(note.startswith("Sentinel-2 offset") and "stated" in note for note in scene.notes)


def test_what_some_bands_state_holds_for_them(write_raster):
    path = write_raster("S2B_20230601_T33UUP.tif", flat([2000, 2000, 2000], np.uint16), descriptions=RGB)
    with rasterio.open(path, "r+") as target:
        target.scales = (1e-4, 1.0, 1.0)
    scene = open_scene(path)
    np.testing.assert_allclose(reflectance(scene), [0.2, 0.1, 0.1], rtol=1e-4)
    assert any("none: stated" in note and note.endswith("(red)") for note in scene.notes)
    assert any("-1000: acquired 2023-06-01 (green, blue)" in note for note in scene.notes)


@pytest.mark.parametrize("name", ["COPERNICUS_S2_SR_HARMONIZED_20230601.tif", "S2_SR_HARMONIZED/20230601.tif"])
def test_harmonized_exports_keep_their_numbers(write_raster, name):
    names = ("B2", "B3", "B4", "B8", "B8A", "B11", "B12")
    scene = open_scene(write_raster(name, flat([1000] * 7, np.uint16), descriptions=names))
    assert scene.band_names == ("blue", "green", "red", "nir", "nir08", "swir16", "swir22")
    np.testing.assert_allclose(reflectance(scene), 0.1, rtol=1e-5)
    assert "Sentinel-2 offset none: the name says that it is harmonized" in scene.notes


@pytest.mark.parametrize(
    ("name", "names", "value", "metres", "sensor"),
    [
        ("a.tif", ("B2", "B3", "B4", "B8"), 1200, 10, "sentinel-2-l2a"),
        ("b.tif", ("B2", "B3", "B4"), 1200, 10, "sentinel-2-l2a"),
        ("c.tif", ("B2", "B3", "B4", "B8A"), 1200, 30, "sentinel-2-l2a"),
        ("d.tif", ("B2", "B3", "B4", "B5", "B6", "B7"), 9000, 30, "stretch"),  # Landsat's
        ("e.tif", ("B2", "B3", "B4", "B8"), 9000, 15, "stretch"),  # Landsat's with its panchromatic band
        ("S2_SR_mosaic.tif", ("B2", "B3", "B4"), 9000, 30, "sentinel-2-l2a"),
        ("g.tif", ("SR_B2", "SR_B3", "SR_B4"), 9000, 30, "stretch"),
    ],
)
def test_names_without_zeros_are_told_apart_by_signs(write_raster, name, names, value, metres, sensor):
    place = Affine(metres, 0, 400000, 0, -metres, 5000000)
    values = flat([value] * len(names), np.uint16) + np.arange(64, dtype=np.uint16).reshape(8, 8)
    scene = open_scene(write_raster(name, values, descriptions=names, transform=place))
    assert scene.sensor == sensor
    if sensor != "stretch":
        assert scene.band_names[:3] == ("blue", "green", "red")
        assert any("by its" in note and "B2, B3, B4" in note for note in scene.notes)
    elif names[0] == "B2":
        assert any("may be Sentinel-2's or Landsat's" in note for note in scene.notes)


def test_a_given_sensor_understands_names_without_zeros(write_raster):
    values = flat([9000] * 3, np.uint16)
    path = write_raster("a.tif", values, descriptions=("B3", "B4", "B5"))
    assert open_scene(path, sensor="sentinel-2-l2a").band_names == ("green", "red", "rededge071")
    assert open_scene(path, sensor="landsat-89-c2-l2").band_names == ("green", "red", "nir08")


def test_a_file_for_each_band_from_earth_engine(write_raster):
    for band in ("B2", "B3", "B4", "B8"):
        folder = write_raster(f"export/mine.{band}.tif", flat([1500], np.uint16)).parent
    scene = open_scene(folder)
    assert scene.sensor == "sentinel-2-l2a" and scene.band_names == ("blue", "green", "red", "nir")


def test_harmonized_landsat_has_landsats_bands(write_raster):
    for band in ("B02", "B04", "B05"):
        name = f"H/HLS.L30.T33UUP.2020153T100559.v2.0.{band}.tif"
        folder = write_raster(name, flat([2000], np.int16), nodata=-9999, scales=(1e-4,)).parent
    scene = open_scene(folder)
    assert scene.band_names == ("blue", "red", "nir08") and scene.datetime == "2020-06-01T10:05:59Z"
    np.testing.assert_allclose(reflectance(scene), 0.2, rtol=1e-4)


METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info><Product_Info>
    <PRODUCT_START_TIME>2019-06-01T10:05:59.024Z</PRODUCT_START_TIME>
    <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE></Product_Info>
  <Product_Image_Characteristics><QUANTIFICATION_VALUES_LIST>
    <BOA_QUANTIFICATION_VALUE unit="none">{quantification}</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>
    {offsets}</Product_Image_Characteristics></n1:General_Info></n1:Level-2A_User_Product>"""
OFFSETS = '<BOA_ADD_OFFSET band_id="1">-1000</BOA_ADD_OFFSET><BOA_ADD_OFFSET band_id="3">0</BOA_ADD_OFFSET>'


@pytest.fixture
def product(tmp_path, write_raster):
    """A product whose name says baseline 02.14, with metadata of its own."""

    def make(text: str):
        top = "S2A_MSIL2A_20190601T100559_N0214_R022_T33UUP_20190601T132222.SAFE"
        for band in ("B02", "B04"):
            name = f"{top}/GRANULE/L2A_T33UUP/IMG_DATA/R10m/T33UUP_20190601T100559_{band}_10m.tif"
            file = write_raster(name, flat([3000], np.uint16))
        (tmp_path / top / "MTD_MSIL2A.xml").write_text(text)
        return tmp_path / top, file

    return make


@pytest.mark.parametrize(
    ("baseline", "quantification", "offsets", "blue", "red"),
    [
        ("05.10", "10000", OFFSETS, 0.2, 0.3),  # reprocessed, and each band by what is stated for it
        ("05.10", "10000", "", 0.2, 0.2),
        ("02.14", "10000", "", 0.3, 0.3),
        ("02.14", "20000", "", 0.15, 0.15),
    ],
)
def test_a_products_own_metadata_beat_names_and_dates(product, baseline, quantification, offsets, blue, red):
    folder, file = product(METADATA.format(baseline=baseline, quantification=quantification, offsets=offsets))
    scene = open_scene(folder)
    np.testing.assert_allclose(reflectance(scene.select(["blue", "red"])), np.clip([blue, red], 0, 0.275), rtol=1e-4)
    assert any("MTD_MSIL2A.xml" in note for note in scene.notes) and scene.datetime == "2019-06-01T10:05:59Z"
    np.testing.assert_allclose(reflectance(open_scene(file)), [min(red, 0.275)], rtol=1e-4)


@pytest.mark.parametrize("text", ["<broken", METADATA.format(baseline="05.10", quantification="none", offsets="")])
def test_metadata_that_cannot_be_read_are_said(product, text):
    scene = open_scene(product(text)[0])
    assert any("MTD_MSIL2A.xml cannot be read" in note for note in scene.notes)
    assert "Sentinel-2 offset none: processing baseline 02.14" in scene.notes


def test_a_product_without_a_level_in_its_name_takes_that_of_its_metadata(write_raster):
    for band in ("B02", "B04"):
        folder = write_raster(f"P/{band}.tif", flat([3000], np.uint16)).parent
    (folder / "MTD_MSIL1C.xml").write_text("<P><PROCESSING_BASELINE>02.09</PROCESSING_BASELINE></P>")
    assert open_scene(folder).sensor == "sentinel-2-l1c"


def test_parts_of_a_file_open_by_the_names_that_the_refusal_gives(tmp_path, write_raster, ramp):
    source = write_raster("a.tif", ramp(3, 32, 32), crs="EPSG:4326", transform=Affine(1e-3, 0, 10, 0, -1e-3, 50))
    path = tmp_path / "maps.gpkg"
    for table in ("north", "south"):
        more = {"APPEND_SUBDATASET": "YES"} if path.exists() else {}
        rasterio.shutil.copy(source, path, driver="GPKG", RASTER_TABLE=table, TILE_FORMAT="PNG", **more)
    with pytest.raises(InputError, match="name one of its parts: ") as error:
        open_scene(path)
    names = str(error.value).split("parts: ")[1].rstrip(".").split(", ")
    assert [open_scene(name).name.lower() for name in names] == ["maps_north", "maps_south"]
    with pytest.raises(InputError, match=r"none\.gpkg"):
        open_scene(f"GPKG:{tmp_path}/none.gpkg:north")


def test_variables_of_a_netcdf_file_open(tmp_path, write_raster):
    values = np.arange(2 * 64, dtype=np.int16).reshape(2, 8, 8) + 1
    path = tmp_path / "cube_20200601.nc"
    rasterio.shutil.copy(write_raster("a.tif", values), path, driver="netCDF")
    with pytest.raises(InputError, match="name one of its parts: ") as error:
        open_scene(path)
    names = str(error.value).split("parts: ")[1].rstrip(".").split(", ")
    for name, plane in zip((names[1], f"netcdf:{path}:Band2"), (values[1], values[1]), strict=True):
        scene = open_scene(name)
        assert scene.name == "cube_20200601_Band2" and scene.datetime == "2020-06-01"
        with SceneReader(scene) as reader:
            np.testing.assert_array_equal(reader.read_dn(Window(0, 0, 8, 8)).values[0], plane)


def test_the_first_of_several_pages_is_said(tmp_path, write_raster, ramp):
    source = write_raster("a.tif", ramp(3, 8, 8), photometric="RGB")
    path = tmp_path / "pages.tif"
    for more in ({}, {"APPEND_SUBDATASET": "YES"}):
        rasterio.shutil.copy(source, path, driver="GTiff", **more)
    scene = open_scene(path)
    assert any("the file holds 2 rasters, of which the first is read" in note for note in scene.notes)
    assert open_scene(f"GTIFF_DIR:2:{path}").name == "pages_2"
