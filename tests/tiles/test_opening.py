"""Opening scenes: what is decided and what is refused."""

import os

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.windows import Window

from tiles.errors import InputError
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader


def read_all(scene, dn=False):
    with SceneReader(scene) as reader:
        window = Window(0, 0, scene.width, scene.height)
        return reader.read_dn(window) if dn else reader.read(window)


def test_eight_bits_are_divided_by_255_and_colours_name_the_bands(write_raster, ramp):
    values = ramp(3, 20, 30)
    scene = open_scene(write_raster("rgb.tif", values, photometric="RGB"))
    assert (scene.height, scene.width, scene.band_names, scene.sensor) == (20, 30, ("red", "green", "blue"), "8bit")
    assert scene.gsd_m == 10
    pixels = read_all(scene)
    assert pixels.values.dtype == np.float32
    np.testing.assert_allclose(pixels.values, values / 255, rtol=1e-6)
    assert pixels.valid.all()


def test_every_decision_is_a_note(write_raster, ramp):
    scene = open_scene(write_raster("unknown.tif", ramp(3, 8, 8, "uint16")))
    text = " ".join(scene.notes)
    assert "assumed for 3 unnamed bands" in text and "stretched to 0 … 1" in text and "--sensor" in text


def test_a_folder_is_stacked_on_the_finest_grid(write_raster, ramp):
    fine = ramp(1, 8, 8, "uint16")
    for number in ("B02", "B03", "B04"):
        write_raster(f"S2/{number}.tif", fine)
    coarse = np.arange(1, 17, dtype=np.uint16).reshape(1, 4, 4) * 100
    write_raster("S2/B11.tif", coarse, transform=Affine(20, 0, 400000, 0, -20, 5000000))
    (write_raster("S2/cloud_mask.tif", ramp(1, 8, 8)).parent / "labels.shp").write_bytes(b"")
    scene = open_scene(write_raster("S2/B8A.tif", coarse, transform=Affine(20, 0, 400000, 0, -20, 5000000)).parent)
    assert scene.band_names == ("blue", "green", "red", "swir16", "nir08") and scene.gsd_m == 10
    assert any("left aside: cloud_mask.tif" in note for note in scene.notes)
    pixels = read_all(scene, dn=True)
    np.testing.assert_array_equal(pixels.values[0], fine[0])
    # Fine row 3 lies a quarter of the way from coarse row 1 to row 2; columns follow the ramp.
    expected = [600 + 100 * ((column + 0.5) / 2 - 0.5) for column in range(1, 7)]
    np.testing.assert_allclose(pixels.values[3, 3, 1:7], expected, atol=1)


@pytest.mark.parametrize(
    ("names", "sensor", "bands"),
    [
        (["T33UUP_20210101_B02_10m.jp2", "T33UUP_20210101_B04_10m.jp2", "T33UUP_20210101_B04_20m.jp2"],
         "sentinel-2-l2a", ("blue", "red")),
        (["B8A.tif", "B02.tif"], "sentinel-2-l2a", ("blue", "nir08")),
        (["LT05_L2SP_001066_19850731_20200906_02_T1_SR_B4.TIF", "LT05_L2SP_001066_19850731_20200906_02_T1_SR_B3.TIF"],
         "landsat-47-c2-l2", ("red", "nir08")),
        (["red.tif", "nir.tif"], "stretch", ("nir", "red")),
    ],
)  # fmt: skip
def test_names_of_band_files(write_raster, ramp, names, sensor, bands):
    for name in names:
        coarse = "20m" in name
        values = ramp(1, 4 if coarse else 8, 4 if coarse else 8, "uint16")
        step = 20 if coarse else 10
        folder = write_raster(f"F/{name}", values, transform=Affine(step, 0, 400000, 0, -step, 5000000)).parent
    scene = open_scene(folder)
    assert (scene.sensor, scene.band_names) == (sensor, bands)


def test_a_raster_without_reference_system_needs_its_pixel_size(write_raster, ramp):
    path = write_raster("a.tif", ramp(3, 8, 8), crs=None, transform=Affine.identity())
    with pytest.raises(InputError, match=r"a\.tif has no coordinate reference system; .*--gsd"):
        open_scene(path)
    scene = open_scene(path, gsd_m=0.5)
    assert scene.crs is None and scene.gsd_m == 0.5
    assert read_all(scene.at_gsd(1.0)).values.shape == (3, 4, 4)


def test_a_world_file_places_a_raster_without_reference_system(write_raster, ramp):
    at = Affine(2, 0, 1000, 0, -2, 2000)
    path = write_raster("a.tif", ramp(3, 8, 8), crs=None, transform=at)
    scene = open_scene(path)
    assert scene.gsd_m == 2 and scene.geobox.affine == at and any("transform is kept" in note for note in scene.notes)
    given = open_scene(path, gsd_m=3)
    assert given.gsd_m == 3 and given.geobox.affine == at
    degrees = write_raster("d.tif", ramp(3, 8, 8), crs=None, transform=Affine(1e-4, 0, 15, 0, -1e-4, 50))
    with pytest.raises(InputError, match="no metres"):
        open_scene(degrees)


VRT = """<VRTDataset rasterXSize="4" rasterYSize="4"><SRS>EPSG:32633</SRS>
<GeoTransform>400000, 10, 0, 5000000, 0, -10</GeoTransform>
<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename>
<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize("changed", ["a.tif", "a.tif.msk", "a.tif.aux.xml", "inner.vrt"])
def test_a_fingerprint_knows_every_file_that_decides_about_the_pixels(write_raster, ramp, tmp_path, changed):
    write_raster("a.tif", ramp(1, 4, 4))
    (tmp_path / "inner.vrt").write_text(VRT)
    (tmp_path / "outer.vrt").write_text(VRT.replace("a.tif", "inner.vrt"))
    names = ("a.tif",) if changed.startswith("a.tif.") else ("a.tif", "outer.vrt")
    sources = [tmp_path / name for name in names if name != changed or name == "a.tif"]
    before = {path: open_scene(path).fingerprint() for path in sources}
    if changed == "a.tif":
        write_raster("a.tif", np.concatenate([ramp(1, 4, 4)] * 2, 2))
    elif changed == "a.tif.msk":
        mask = np.zeros((4, 4), bool)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tmp_path / "a.tif", "r+") as file:
            file.write_mask(mask)
    elif changed == "a.tif.aux.xml":
        (tmp_path / changed).write_text("<PAMDataset><Metadata><MDI key='A'>1</MDI></Metadata></PAMDataset>")
    else:
        (tmp_path / changed).write_text(VRT + " ")
        before.pop(tmp_path / "a.tif", None)
    assert all(open_scene(path).fingerprint() != state for path, state in before.items())


def test_a_fingerprint_knows_the_file_of_a_part(write_raster, ramp, tmp_path):
    """Of a table of a GeoPackage, a variable of a netCDF file, and a VRT of one."""
    place = {"crs": "EPSG:4326", "transform": Affine(1e-3, 0, 10, 0, -1e-3, 50)}
    source = write_raster("a.tif", ramp(3, 32, 32), **place)
    rasterio.shutil.copy(source, tmp_path / "m.gpkg", driver="GPKG", RASTER_TABLE="NORTH", TILE_FORMAT="PNG")
    rasterio.shutil.copy(source, tmp_path / "c.nc", driver="netCDF")
    names = [f"GPKG:{tmp_path}/m.gpkg:NORTH", f"netcdf:{tmp_path}/c.nc:Band1", f'netcdf:"{tmp_path}/c.nc":Band1']
    (tmp_path / "v.vrt").write_text(VRT.replace("a.tif", "netcdf:c.nc:Band1"))
    names.append(str(tmp_path / "v.vrt"))
    before = [open_scene(name).fingerprint() for name in names]
    assert before == [open_scene(name).fingerprint() for name in names]
    for file in ("m.gpkg", "c.nc"):
        os.utime(tmp_path / file, ns=(1, 1))
    assert not set(before) & {open_scene(name).fingerprint() for name in names}


@pytest.mark.parametrize(("name", "world"), [("a.tif", "a.tfw"), ("a.tif", "a.wld"), ("a.png", "a.pgw")])
def test_a_fingerprint_knows_the_world_file(tmp_path, ramp, name, world):
    driver = "PNG" if name.endswith("png") else "GTiff"
    with rasterio.open(tmp_path / name, "w", driver=driver, count=3, height=8, width=8, dtype="uint8") as file:
        file.write(ramp(3, 8, 8))
    found = set()
    for text in ("2\n0\n0\n-2\n1001\n1999\n", "2\n0\n0\n-2\n1011\n1999\n", "2.0\n0\n0\n-2\n1011\n1999\n"):
        (tmp_path / world).write_text(text)
        scene = open_scene(tmp_path / name)
        assert scene.gsd_m == 2 and str(tmp_path / world) in scene.files()
        found.add(scene.fingerprint())
    assert len(found) == 3


def test_reading_writes_nothing_beside_the_file(write_raster, ramp, tmp_path):
    scene = open_scene(write_raster("a.tif", ramp(3, 64, 64, "uint16")))
    for seen in (scene, scene.at_gsd(20)):
        with SceneReader(seen) as reader:
            reader.read(Window(0, 0, seen.width, seen.height))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_ground_control_points_alone_are_refused(write_raster, ramp):
    path = write_raster("a.tif", ramp(1, 8, 8), crs=None, transform=Affine.identity())
    points = [GroundControlPoint(row=r, col=c, x=10 + c, y=50 - r) for r in (0, 8) for c in (0, 8)]
    with rasterio.open(path, "r+") as target:
        target.gcps = (points, rasterio.CRS.from_epsg(4326))
    with pytest.raises(InputError, match="ground control points only"):
        open_scene(path)


def test_degrees_are_measured_in_metres_at_the_centre(write_raster, ramp):
    path = write_raster("a.tif", ramp(1, 10, 10), crs="EPSG:4326", transform=Affine(1e-4, 0, 20, 0, -1e-4, 60))
    # One degree is 111.4 km along the meridian and half as much along the parallel of 60 degrees.
    assert open_scene(path).gsd_m == pytest.approx(np.sqrt(11.14 * 5.58), rel=1e-3)
    mercator = write_raster("m.tif", ramp(1, 10, 10), crs="EPSG:3857", transform=Affine(10, 0, 0, 0, -10, 8399737.9))
    assert open_scene(mercator).gsd_m == pytest.approx(5, rel=2e-2)
    feet = write_raster("f.tif", ramp(1, 10, 10), crs="EPSG:2263", transform=Affine(1, 0, 984250, 0, -1, 200000))
    assert open_scene(feet).gsd_m == pytest.approx(0.3048, rel=1e-4)


def test_missing_bands_are_named_with_those_that_exist(write_raster, ramp):
    with pytest.raises(InputError, match=r"no band called red, green; it has gray"):
        open_scene(write_raster("a.tif", ramp(1, 4, 4)), bands=["red", "green"])
    with pytest.raises(InputError, match="3 bands, but --band-names gives 2"):
        open_scene(write_raster("b.tif", ramp(3, 4, 4)), band_names=["a", "b"])
    with pytest.raises(InputError, match="No sensor is called nosuch; there are"):
        open_scene(write_raster("c.tif", ramp(3, 4, 4)), sensor="nosuch")


def test_files_that_are_no_rasters_are_named(tmp_path, write_raster, ramp):
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"missing\.tif does not exist"):
        open_scene(tmp_path / "missing.tif")
    with pytest.raises(InputError, match=r"text\.tif cannot be read as a raster"):
        open_scene(tmp_path / "text.tif")
    with pytest.raises(InputError, match="empty is a folder without rasters"):
        open_scene(tmp_path / "empty")
    write_raster("several/a.tif", ramp(3, 4, 4))
    with pytest.raises(InputError, match="holds rasters of several bands"):
        open_scene(write_raster("several/b.tif", ramp(3, 4, 4)).parent)


def test_fingerprints_change_with_file_bands_and_grid(write_raster, ramp):
    path = write_raster("a.tif", ramp(3, 8, 8))
    scene = open_scene(path)
    assert scene.fingerprint() == open_scene(path).fingerprint()
    others = [scene.select(["red"]), scene.at_gsd(20), open_scene(path, sensor="naip", band_names=["a", "b", "c"])]
    assert len({scene.fingerprint(), *(other.fingerprint() for other in others)}) == 4
    write_raster("a.tif", ramp(3, 8, 9))
    assert open_scene(path).fingerprint() != scene.fingerprint()


def test_a_safe_folder_is_stacked_from_the_finest_files(tmp_path, ramp):
    product = "S2B_MSIL2A_20230601T100559_N0509_R022_T33UUP_20230601T132222.SAFE"
    images = tmp_path / product / "GRANULE" / "L2A_T33UUP_A032557_20230601T100928" / "IMG_DATA"
    for metres, numbers in ((10, ("B02", "B03", "B04")), (20, ("B02", "B11", "SCL"))):
        (images / f"R{metres}m").mkdir(parents=True)
        side = 640 // metres
        for number in numbers:
            values = np.full((1, side, side), 5, np.uint8) if number == "SCL" else ramp(1, side, side, "uint16")
            path = images / f"R{metres}m" / f"T33UUP_20230601T100559_{number}_{metres}m.jp2"
            place = {"crs": "EPSG:32633", "transform": Affine(metres, 0, 400000, 0, -metres, 5000000)}
            profile = {"driver": "JP2OpenJPEG", "count": 1, "height": side, "width": side, "dtype": values.dtype}
            with rasterio.open(path, "w", **profile, **place, QUALITY=100, REVERSIBLE="YES") as target:
                target.write(values)
    scene = open_scene(tmp_path / product)
    assert scene.band_names == ("blue", "green", "red", "swir16") and scene.gsd_m == 10
    assert scene.sensor == "sentinel-2-l2a" and scene.datetime == "2023-06-01T10:05:59Z"
    assert any("Sentinel-2 offset -1000: processing baseline 05.09" in note for note in scene.notes)
    assert len(scene.masks) == 1 and all("_10m" in band.path for band in scene.bands[:3])
    np.testing.assert_array_equal(read_all(scene, dn=True).values[0], ramp(1, 64, 64, "uint16")[0])
