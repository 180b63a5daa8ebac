"""Areas of pixels are those of the ground, in every projection."""

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer

from geodino.products.pixel_areas import PixelAreas

GRIDS = {
    "degrees, 60 degrees tall": GeoBox((600, 40), Affine(0.1, 0, 15, 0, -0.1, 70), "EPSG:4326"),
    "degrees, past the antimeridian": GeoBox((40, 80), Affine(0.1, 0, 176, 0, -0.1, 10), "EPSG:4326"),
    "web Mercator": GeoBox((500, 40), Affine(20_000, 0, 1_500_000, 0, -20_000, 11_000_000), "EPSG:3857"),
    "UTM": GeoBox((120, 120), Affine(1000, 0, 440_000, 0, -1000, 6_000_000), "EPSG:32633"),
    "UTM, across the antimeridian": GeoBox((100, 100), Affine(1000, 0, 780_000, 0, -1000, 1_000_000), "EPSG:32660"),
    "turned": GeoBox((90, 70), Affine(-700, 500, 500_000, 500, 700, 5_000_000), "EPSG:32633"),
    "south pole": GeoBox((80, 80), Affine(5000, 0, -200_000, 0, -5000, 200_000), "EPSG:3031"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_pixel_has_the_area_that_geodesics_around_it_enclose(name: str) -> None:
    grid = GRIDS[name]
    height, width = grid.shape
    found = PixelAreas(grid).rows(0, height)
    assert found.shape == (height, width)
    back = Transformer.from_crs(str(grid.crs), "EPSG:4326", always_xy=True)
    generator = np.random.default_rng(0)
    for row, column in zip(generator.integers(0, height, 20), generator.integers(0, width, 20), strict=True):
        side = np.linspace(0, 1, 9)[:-1]
        along = np.concatenate([column + side, np.full(8, column + 1.0), column + 1 - side, np.full(8, float(column))])
        down = np.concatenate([np.full(8, float(row)), row + side, np.full(8, row + 1.0), row + 1 - side])
        lon, lat = back.transform(*(grid.affine @ (along, down)))
        truth = abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0])
        assert found[row, column] == pytest.approx(truth, rel=2e-4)


def test_rows_are_the_same_whichever_are_asked_for() -> None:
    pixels = PixelAreas(GRIDS["turned"])
    np.testing.assert_array_equal(pixels.rows(0, 90)[31:57], pixels.rows(31, 57))


def test_without_a_place_on_a_globe_pixels_have_their_nominal_area() -> None:
    assert (PixelAreas(GeoBox((3, 4), Affine(2, 0, 0, 0, -3, 0), None)).rows(0, 3) == 6).all()


def test_pixels_off_the_globe_have_no_area() -> None:
    whole = GeoBox((40, 40), Affine(400_000, 0, -8_000_000, 0, -400_000, 8_000_000), "+proj=ortho +lat_0=0 +lon_0=0")
    found = PixelAreas(whole).rows(0, 40)
    assert found[0, 0] == 0
    assert found[20, 20] == pytest.approx(400_000**2, rel=2e-2)
