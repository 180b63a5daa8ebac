from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import box

from geodino.products.vector import areas_m2, check_vector_path, polygonize, write_vector
from tiles.errors import OutputError


def write(path: Path, values: np.ndarray, crs: str = "EPSG:32633", side: float = 10.0) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype="uint8",
        crs=crs, transform=Affine(side, 0, 500_000, 0, -side, 5_000_000), tiled=True, blockxsize=64, blockysize=64,
    ) as out:  # fmt: skip
        out.write(values, 1)
    return path


def test_an_object_across_blocks_is_one_polygon(tmp_path: Path) -> None:
    values = np.zeros((200, 200), np.uint8)
    values[30:170, 30:170] = 1
    frame = polygonize(write(tmp_path / "a.tif", values), drop=(0,))
    assert len(frame) == 1
    assert frame.geometry[0].area == 140 * 140 * 100


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_polygons_tile_the_raster_without_gaps_and_overlaps(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    values = np.random.default_rng(seed).integers(1, 4, size=(20, 20)).astype(np.uint8)
    frame = polygonize(write(tmp_path_factory.mktemp("p") / "a.tif", values))
    assert frame.geometry.area.sum() == pytest.approx(400 * 100)
    for value in (1, 2, 3):
        assert frame[frame["value"] == value].geometry.area.sum() == pytest.approx((values == value).sum() * 100)


def test_simplified_neighbours_keep_one_common_border(tmp_path: Path) -> None:
    rows, cols = np.mgrid[:80, :80]
    values = (1 + (cols > 40 + 12 * np.sin(rows / 9))).astype(np.uint8)
    frame = polygonize(write(tmp_path / "a.tif", values), simplify_pixels=2)
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    assert frame.geometry.union_all().area == pytest.approx(80 * 80 * 100)
    plain = polygonize(tmp_path / "a.tif")
    assert shapely.get_num_coordinates(frame.geometry).sum() < 0.5 * shapely.get_num_coordinates(plain.geometry).sum()


def test_area_is_true_where_the_projection_is_not() -> None:
    # The same ground, about 1 km squared at 60 degrees north, in three reference systems.
    ground = gpd.GeoSeries([box(500_000, 6_651_000, 501_000, 6_652_000)], crs="EPSG:32633")
    for crs in ("EPSG:32633", "EPSG:3857", "EPSG:4326"):
        frame = gpd.GeoDataFrame(geometry=ground.segmentize(50).to_crs(crs))
        assert areas_m2(frame)[0] == pytest.approx(1_000_800, rel=5e-4)  # the UTM scale factor at its central meridian


@pytest.mark.parametrize(
    ("crs", "turned", "height"), [("EPSG:4326", 180, 10), ("EPSG:3857", 20_037_508.342789, 1_118_889.974858)]
)
def test_the_area_of_a_belt_around_the_globe_is_that_of_the_belt(crs: str, turned: float, height: float) -> None:
    belt = gpd.GeoDataFrame(geometry=[box(-turned, 0, turned, height)], crs=crs)
    sine, squared = np.sin(np.radians(10)), 0.0066943799901413165  # WGS 84
    authalic = (1 - squared) / 2 * (sine / (1 - squared * sine**2) + np.arctanh(squared**0.5 * sine) / squared**0.5)
    assert areas_m2(belt)[0] == pytest.approx(2 * np.pi * 6_378_137**2 * authalic, rel=1e-3)


def test_a_hole_has_no_area() -> None:
    ring = box(500_000, 0, 501_000, 1000).difference(box(500_200, 200, 500_400, 400))
    frame = gpd.GeoDataFrame(geometry=[ring], crs="EPSG:32633")
    assert areas_m2(frame)[0] == pytest.approx(960_000 * 1.0008, rel=1e-4)


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb", "shp", "parquet"])
def test_formats_keep_place_and_attributes(tmp_path: Path, suffix: str) -> None:
    values = np.zeros((40, 40), np.uint8)
    values[4:10, 4:10] = 1
    frame = polygonize(write(tmp_path / "a.tif", values), drop=(0,))
    path = tmp_path / f"out.{suffix}"
    write_vector(frame, path, layer="classes")
    found = gpd.read_parquet(path) if suffix == "parquet" else gpd.read_file(path)
    assert found.to_crs(32633).geometry[0].area == pytest.approx(3600, rel=1e-3)
    assert list(found["value"]) == [1]
    assert sorted(p.name for p in tmp_path.iterdir() if ".part" in p.name) == []


def test_geojson_is_cut_at_the_antimeridian(tmp_path: Path) -> None:
    across = box(780_000, 1_000_000, 880_000, 1_010_000)
    write_vector(gpd.GeoDataFrame(geometry=[across], crs="EPSG:32660"), tmp_path / "a.geojson", layer="change")
    outline = gpd.read_file(tmp_path / "a.geojson").geometry[0]
    halves = sorted((part.bounds[0], part.bounds[2]) for part in outline.geoms)
    assert halves == [(-180, pytest.approx(-179.54, abs=0.02)), (pytest.approx(179.55, abs=0.02), 180)]


def test_geojson_of_a_grid_that_goes_on_past_the_antimeridian_is_cut_there(tmp_path: Path) -> None:
    write_vector(gpd.GeoDataFrame(geometry=[box(179, 0, 182, 1)], crs="EPSG:4326"), tmp_path / "a.geojson", layer="a")
    outline = gpd.read_file(tmp_path / "a.geojson").geometry[0]
    assert sorted(part.bounds for part in outline.geoms) == [(-180, 0, -178, 1), (179, 0, 180, 1)]


def test_an_empty_result_is_still_a_file(tmp_path: Path) -> None:
    frame = polygonize(write(tmp_path / "a.tif", np.zeros((20, 20), np.uint8)), drop=(0,))
    write_vector(frame, tmp_path / "none.gpkg", layer="change")
    assert len(gpd.read_file(tmp_path / "none.gpkg")) == 0


@pytest.mark.parametrize(
    ("name", "message"), [("a.doc", "no known vector suffix"), ("no/a.gpkg", "does not exist"), ("b.gpkg", "exists")]
)
def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "b.gpkg").touch()
    with pytest.raises(OutputError, match=message):
        check_vector_path(tmp_path / name, overwrite=False)
