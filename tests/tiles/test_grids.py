"""Grids: the cells of the Major TOM grid have their published names everywhere."""

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry import Point, box

from tiles.grids import cell_at, cell_name, cells, cut_at_antimeridian, turned, turns_to, union


def brute_force_cell(longitude: float, latitude: float) -> str:
    """The published construction: rows every 180 / n degrees, columns from the circumference at the row's latitude."""
    rows = int(np.ceil(np.pi * 6378.137 / 10))
    edges = [-90 + 180 * k / rows for k in range(rows + 1)]
    shifted = sorted(((edge % 180) - 90) for edge in edges[:-1])
    row = np.searchsorted(shifted, latitude, side="right") - 1
    zero = np.searchsorted(shifted, -1e-9)
    around = 2 * np.pi * 6378.137 * np.cos(np.radians(shifted[row]))
    columns = int(np.ceil(around / 10))
    west = sorted((((-180 + 360 * k / columns) % 360) - 180) for k in range(columns))
    column = np.searchsorted(west, longitude, side="right") - 1
    middle = np.searchsorted(west, -1e-9)
    vertical = f"{row - zero}U" if row >= zero else f"{zero - row}D"
    return f"{vertical}_{column - middle}R" if column >= middle else f"{vertical}_{middle - column}L"


def test_cells_are_those_of_the_published_grid():
    generator = np.random.default_rng(0)
    longitude, latitude = generator.uniform(-179.9, 179.9, 300), generator.uniform(-80, 84, 300)
    assert cells(longitude, latitude) == [brute_force_cell(x, y) for x, y in zip(longitude, latitude, strict=True)]
    assert cells(np.array([np.nan]), np.array([0.0])) == [None]


def test_cells_have_the_names_of_published_samples():
    places = {
        "282D_485L": (-25.31599, -48.10599),
        "38D_378R": (-3.40140, 34.06608),
        "433D_629L": (-38.83090, -72.47873),
        "609U_541L": (54.77998, -83.95217),
        "637U_59R": (57.22683, 9.84499),
    }
    latitude, longitude = np.array(list(places.values())).T
    assert cells(longitude, latitude) == list(places)


def test_the_antimeridian_is_one_place():
    rows, columns = cell_at(np.array([180.0, -180.0, 540.0]), np.zeros(3))
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 1
    assert cell_name(0, int(columns[0])).endswith("L")


def test_an_outline_past_the_antimeridian_is_cut_there():
    assert cut_at_antimeridian(box(170, 0, 180, 1)) == box(170, 0, 180, 1)
    assert cut_at_antimeridian(box(185, 0, 190, 1)).bounds == (-175, 0, -170, 1)
    assert cut_at_antimeridian(Point(190, 5)) == Point(-170, 5)
    parts = sorted(part.bounds for part in cut_at_antimeridian(box(170, 0, 190, 1)).geoms)
    assert parts == [(-180, 0, -170, 1), (170, 0, 180, 1)]
    whole = cut_at_antimeridian(box(0, -90, 360, 90))
    assert whole.bounds == (-180, -90, 180, 90) and whole.area == pytest.approx(360 * 180)


def test_an_outline_is_closed_up_in_the_turn_of_the_grid():
    past = GeoBox((10, 200), Affine(0.1, 0, 170, 0, -0.1, 1), "EPSG:4326")
    np.testing.assert_allclose(turns_to(past, np.array([179.0, -179.0, -178.0, 179.5])), [179, 181, 182, 179.5])
    np.testing.assert_allclose(turns_to(past, np.array([-175.0, -174.0])), [185, 186])
    world = 2 * np.pi * 6378137
    mercator = GeoBox((10, 10), Affine(1000, 0, world / 2 - 5000, 0, -1000, 0), "EPSG:3857")
    np.testing.assert_allclose(turns_to(mercator, np.array([4000 - world / 2])), [world / 2 + 4000])


def test_a_grid_is_moved_by_whole_turns_to_where_another_lies():
    past = GeoBox((10, 20), Affine(0.1, 0, 184, 0, -0.1, 1), "EPSG:4326")
    before = GeoBox((10, 20), Affine(0.1, 0, -176, 0, -0.1, 1), "EPSG:4326")
    assert turned(before, past).boundingbox.left == pytest.approx(184)
    assert turned(past, before).boundingbox.left == pytest.approx(-176)
    assert turned(past, past) is past
    utm = GeoBox((10, 20), Affine(10, 0, 500_000, 0, -10, 0), "EPSG:32601")
    assert turned(utm, past) is utm and turned(past, utm) is past
    bare = GeoBox((10, 20), Affine.identity(), None)
    assert turned(bare, bare) is bare
    assert union([before, past]).shape == (10, 20)


def test_a_union_across_the_antimeridian_does_not_go_around_the_world():
    degrees = GeoBox((100, 100), Affine(0.01, 0, 179, 0, -0.01, 10), "EPSG:4326")
    beyond = GeoBox((100, 100), Affine(1000, 0, 167_000, 0, -1000, 1_105_000), "EPSG:32601")  # from 180 degrees on
    whole = union([degrees, beyond])
    assert 150 < whole.shape[1] < 250
    assert whole.boundingbox.right == pytest.approx(180.9, abs=0.1)
