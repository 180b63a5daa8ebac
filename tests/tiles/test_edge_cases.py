"""Every file of the edge-case collection is read rightly or refused in a sentence."""

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.windows import Window

from tiles.archive.dataset import TileDataset
from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request
from tiles.cutting.tile_grid import Locator, windows
from tiles.errors import InputError
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader

pytestmark = pytest.mark.real_data

# File -> bands, ground sample distance in metres, share of valid pixels.
READABLE = {
    "GA4886_VanderfordGlacier_2022_EGM2008_64m-epsg3031.cog": (("depth",), 65.02, 0.0706),
    "RGB.byte.tif": (("red", "green", "blue"), 300.04, 0.6746),
    "cog.tif": (("gray",), 100.01, 1.0),
    "cog_dateline.tif": (("gray",), 100.01, 1.0),
    "cog_fullearth.tif": (("gray",), 92454, None),
    "cog_nodata.tif": (("gray",), 100.01, None),
    "cog_nodata_nan.tif": (("gamma0_vv",), 200, 0.4888),
    "cog_nonearth.tif": (("ir-9680",), 282, None),
    "cog_rgb_mask.tif": (("red", "green", "blue"), 0.15, 0.9692),
    "cog_rgba.tif": (("red", "green", "blue"), 0.15, 0.8870),
    "cog_scale.tif": (("b1", "b2"), 428.9, None),
    "cog_scale_epsg4326.tif": (("b1", "b2"), 436.2, None),
    "inverted_lat.tif": (("gray",), 55473, None),
    "mosaic_cog1.tif": (("red", "green", "blue"), 300.04, None),
    "mosaic_cog2.tif": (("red", "green", "blue"), 300.04, None),
    "nocog.tif": (("gray",), 100.01, 1.0),
    "utm.tif": (("gray",), 141.5, 1.0),
}
REFUSED = {
    "cog_gcps.tif": "ground control points only",
    "no_geo.jpg": "no coordinate reference system; give its pixel size in metres with --gsd",
    "stac.json": "STAC item JQT-123456789: .* cannot be read",
}


def test_every_file_has_its_test(real_data):
    assert {path.name for path in (real_data / "edge_cases").iterdir()} == READABLE.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", READABLE)
def test_readable(real_data, name):
    bands, gsd_m, share = READABLE[name]
    path = real_data / "edge_cases" / name
    scene = open_scene(path)
    assert scene.band_names == bands
    assert scene.gsd_m == pytest.approx(gsd_m, rel=1e-3)
    with SceneReader(scene) as reader:
        pixels = reader.read(Window(0, 0, scene.width, scene.height))
    with rasterio.open(path) as source:
        raw = source.read(list(range(1, len(bands) + 1)))
        masks = source.read_masks(list(range(1, len(bands) + 1))) > 0
    # In an 8-bit picture only a pixel without any band is nodata; else one missing band makes a pixel invalid.
    expected = masks.any(axis=0) if raw.dtype == np.uint8 else masks.all(axis=0)
    if raw.dtype.kind == "f":
        expected &= np.isfinite(raw).all(axis=0)
    np.testing.assert_array_equal(pixels.valid, expected)
    if share is not None:
        assert pixels.valid.mean() == pytest.approx(share, abs=1e-3)
    assert np.isfinite(pixels.values).all() and pixels.values.min() >= 0 and pixels.values.max() <= 1


@pytest.mark.parametrize("name", REFUSED)
def test_refused(real_data, name):
    with pytest.raises(InputError, match=REFUSED[name]) as error:
        open_scene(real_data / "edge_cases" / name)
    assert "\n" not in str(error.value)


def test_control_points_and_bare_pixels_are_read_with_a_pixel_size(real_data):
    for name in ("cog_gcps.tif", "no_geo.jpg"):
        scene = open_scene(real_data / "edge_cases" / name, gsd_m=10)
        with SceneReader(scene) as reader:
            assert reader.read(Window(0, 0, 64, 64)).valid.all()


@pytest.mark.parametrize("name", [name for name in READABLE if name != "cog_nonearth.tif"])
def test_footprints_lie_on_earth(real_data, name):
    scene = open_scene(real_data / "edge_cases" / name)
    places = Locator(scene.geobox).locate(list(windows(scene.height, scene.width, 256)))
    for footprint in places.wkb:
        shape = shapely.from_wkb(footprint)
        west, south, east, north = shapely.bounds(shape)
        assert shape.is_valid and -180 <= west <= east <= 180 and -90.0001 <= south <= north <= 90.0001
        if name != "cog_fullearth.tif" and name != "inverted_lat.tif":
            assert all(np.ptp(shapely.get_coordinates(part)[:, 0]) < 30 for part in shapely.get_parts(shape))


def test_a_footprint_across_the_antimeridian_has_two_parts(real_data):
    scene = open_scene(real_data / "edge_cases" / "cog_dateline.tif")
    places = Locator(scene.geobox).locate(list(windows(scene.height, scene.width, 256)))
    kinds = {shapely.from_wkb(footprint).geom_type for footprint in places.wkb}
    assert kinds == {"Polygon", "MultiPolygon"}


def test_another_world_has_tiles_without_a_place(real_data, tmp_path):
    request = Request(str(real_data / "edge_cases" / "cog_nonearth.tif"))
    cut([request], tmp_path / "T", CutSettings(size=64, bands=("ir-9680",)))
    tiles = TileDataset(tmp_path / "T")
    assert len(tiles) == 11
    assert set(tiles.column("geometry")) == {None} and set(tiles.column("cell")) == {None}
    assert tiles.column("gsd_m")[0] == 282


def test_all_of_them_at_once(real_data, tmp_path):
    files = sorted((real_data / "edge_cases").iterdir())
    report = cut([Request(str(path)) for path in files], tmp_path / "T", CutSettings(size=64, min_valid=0.5))
    assert {f.source.rsplit("/", 1)[1] for f in report.failures} >= REFUSED.keys()
    assert {s.rsplit("/", 1)[1] for s in TileDataset(tmp_path / "T").column("source")} == {
        name for name, (bands, *_) in READABLE.items() if bands == ("red", "green", "blue")
    }
    assert (tmp_path / "T" / "failures.csv").read_text().count("has no band called red") == 12


def test_inverted_latitude_keeps_its_orientation(real_data):
    scene = open_scene(real_data / "edge_cases" / "inverted_lat.tif")
    assert scene.geobox.affine.e > 0
    places = Locator(scene.geobox).locate([Window(0, 0, 64, 64)])
    assert places.latitude[0] == pytest.approx(-90 + 16)


def test_stretches_ignore_nodata(real_data):
    with pytest.raises(InputError):
        open_scene(real_data / "edge_cases" / "cog_nodata.tif", bands=["red"])
    notes = open_scene(real_data / "edge_cases" / "cog_nodata.tif").notes
    assert any("gray: 2720 … 6896" in note for note in notes)
