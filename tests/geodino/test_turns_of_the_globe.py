"""The same ground counted as -175 and as 185 degrees: dates, mosaics, labels, places and pictures meet."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from shapely.geometry import Point, Polygon, box

from geodino.change_detection.alignment import align, common_grid
from geodino.heads.labels import Labels, read_labels
from geodino.retrieval.likeness import Query, read_polygons
from tiles.errors import InputError
from tiles.scenes.mosaic import mosaic
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader

GRID = GeoBox((40, 60), Affine(0.01, 0, 184.8, 0, -0.01, 10), "EPSG:4326")
VALUES = np.random.default_rng(0).integers(1, 255, (3, 40, 60), dtype=np.uint8)


def scene(path: Path, west: float, values: np.ndarray = VALUES) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=values.shape[1], width=values.shape[2], dtype="uint8",
        crs="EPSG:4326", transform=Affine(0.01, 0, west, 0, -0.01, 10), photometric="RGB",
    ) as out:  # fmt: skip
        out.write(values)
    return path


@pytest.mark.parametrize(("one", "other"), [(184.8, -175.2), (-175.2, 184.8)])
def test_dates_a_turn_apart_lie_on_one_grid(tmp_path: Path, one: float, other: float) -> None:
    first, second = (open_scene(scene(tmp_path / f"{n}.tif", west)) for n, west in enumerate((one, other)))
    assert common_grid(first, second).shape == (40, 60)
    with SceneReader(align(first, second).scene) as reader:
        pixels = reader.read_dn(Window(0, 0, 60, 40))
    assert pixels.valid.all()
    np.testing.assert_array_equal(pixels.values, VALUES)


def test_a_mosaic_across_the_antimeridian_is_no_wider_than_its_scenes(tmp_path: Path) -> None:
    parts = [scene(tmp_path / "w.tif", 179.4), scene(tmp_path / "e.tif", -180.0)]
    whole = mosaic([open_scene(part) for part in parts], name="m", source="m")
    assert whole.geobox.shape == (40, 120)
    with SceneReader(whole) as reader:
        pixels = reader.read_dn(Window(0, 0, 120, 40))
    assert pixels.valid.all()
    np.testing.assert_array_equal(pixels.values, np.concatenate([VALUES, VALUES], axis=2))


def labelled(labels: Labels) -> dict[str, set[tuple[int, int]]]:
    names = [labels.legend.names[code] for code in labels.classes]
    return {
        name: {(int(r), int(c)) for r, c, n in zip(labels.rows, labels.cols, names, strict=True) if n == name}
        for name in labels.legend.names
    }


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_labels_lie_where_they_are_in_any_turn(tmp_path: Path, crs: str) -> None:
    """A polygon within, one that spans the globe, and a point."""
    belt = box(-179.9, 9.9, 179.9, 9.92)
    shapes = [box(-175.2, 9.95, -175.1, 10), belt, Point(-175.195, 9.605)]
    frame = gpd.GeoDataFrame({"class": ["field", "belt", "tree"]}, geometry=shapes, crs="EPSG:4326").to_crs(crs)
    frame.to_file(tmp_path / "l.gpkg")
    found = labelled(read_labels(tmp_path / "l.gpkg", GRID))
    assert found["field"] == {(row, col) for row in range(5) for col in range(10)}
    assert found["belt"] == {(row, col) for row in (8, 9) for col in range(60)}
    assert found["tree"] == {(39, 0)}


def test_labels_beyond_180_degrees_lie_on_a_scene_within(tmp_path: Path) -> None:
    grid = GeoBox((40, 60), Affine(0.01, 0, -175.2, 0, -0.01, 10), "EPSG:4326")
    shapes = [box(184.8, 9.95, 184.9, 10), Point(184.805, 9.605)]
    gpd.GeoDataFrame({"class": ["a", "b"]}, geometry=shapes, crs="EPSG:4326").to_file(tmp_path / "l.gpkg")
    assert {name: len(places) for name, places in labelled(read_labels(tmp_path / "l.gpkg", grid)).items()} == {
        "a": 50, "b": 1,
    }  # fmt: skip


@pytest.mark.parametrize("step", [0.01, 0.02])
def test_a_raster_of_labels_lies_where_it_is(tmp_path: Path, step: float) -> None:
    classes = np.repeat(np.array([[1, 2]], np.uint8), round(0.3 / step), axis=1).repeat(round(0.4 / step), axis=0)
    with rasterio.open(
        tmp_path / "l.tif", "w", driver="GTiff", count=1, height=classes.shape[0], width=classes.shape[1],
        dtype="uint8", crs="EPSG:4326", transform=Affine(step, 0, -175.2, 0, -step, 10),
    ) as out:  # fmt: skip
        out.write(classes, 1)
    labels = read_labels(tmp_path / "l.tif", GRID)
    assert len(labels) == 40 * 60
    assert (labels.classes == (labels.cols >= 30)).all()


def test_places_and_polygons_to_look_for_are_found(tmp_path: Path) -> None:
    Query(points=((-175.1, 9.9), (184.9, 9.9))).check(GRID)
    Query(points=((-175.1, 9.9),), crs="EPSG:4326").check(GRID)
    with pytest.raises(InputError, match="outside"):
        Query(points=((-174.0, 9.9),)).check(GRID)
    path = tmp_path / "p.gpkg"
    gpd.GeoSeries([box(-175.2, 9.95, -175.1, 10)], crs="EPSG:4326").to_file(path)
    Query(polygons=path).check(GRID)
    assert all(isinstance(shape, Polygon) for shape in read_polygons(path, GRID)[0])


def test_the_demo_takes_dates_a_turn_apart_for_a_pair(tmp_path: Path) -> None:
    from geodino.demo.flow import _overlap

    here, again, far = (
        open_scene(scene(tmp_path / f"{n}.tif", west)) for n, west in enumerate((184.8, -175.2, -170.0))
    )
    assert _overlap(here, again) and not _overlap(here, far)
