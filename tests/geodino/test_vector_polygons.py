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

from geodino.products.vector import (
    areas_m2,
    check_vector_path,
    drop_small,
    drop_small_rows,
    pixels_of_area,
    polygonize,
    write_vector,
)
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


def test_small_objects_join_their_largest_neighbour() -> None:
    values = np.ones((20, 20), np.uint8)
    values[5:7, 5:7], values[12:18, 12:18] = 2, 3
    cleaned = drop_small(values, 10)
    assert (cleaned[5:7, 5:7] == 1).all()
    assert (cleaned[12:18, 12:18] == 3).all()


def test_small_holes_of_nodata_stay_and_no_object_joins_nodata() -> None:
    values = np.ones((20, 20), np.uint8)
    values[5:7, 5:7] = values[:, 12:] = 0
    values[9:11, 15:17] = 2
    np.testing.assert_array_equal(drop_small(values, 10), values)


@pytest.mark.parametrize("rows", [16, 33, 100])
def test_small_objects_are_the_same_whatever_the_bands_of_rows(tmp_path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    values = np.ones((100, 60), np.uint8)
    for _ in range(40):
        row, col, size = rng.integers(0, 95), rng.integers(0, 55), rng.integers(1, 6)
        values[row : row + size, col : col + size] = 2
    with rasterio.open(write(tmp_path / "a.tif", values)) as source:
        pieces = [piece for _, piece in drop_small_rows(source, 12, rows=rows)]
    np.testing.assert_array_equal(np.concatenate(pieces), drop_small(values, 12))


@pytest.mark.parametrize(("area", "pixels"), [(0, 1), (100, 1), (101, 2), (1000, 10)])
def test_minimum_mapping_unit_in_pixels(area: float, pixels: int) -> None:
    assert pixels_of_area(area, 100) == pixels


def test_area_is_true_where_the_projection_is_not() -> None:
    # The same ground, about 1 km squared at 60 degrees north, in three reference systems.
    ground = gpd.GeoSeries([box(500_000, 6_651_000, 501_000, 6_652_000)], crs="EPSG:32633")
    for crs in ("EPSG:32633", "EPSG:3857", "EPSG:4326"):
        frame = gpd.GeoDataFrame(geometry=ground.segmentize(50).to_crs(crs))
        assert areas_m2(frame)[0] == pytest.approx(1_000_800, rel=5e-4)  # the UTM scale factor at its central meridian


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
