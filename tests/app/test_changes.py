"""A score cut at a threshold: polygons, likeness of changes, the map as a file."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from app_testing import blocks, cube_of, write_raster
from shapely.geometry import box

from app.map.source import Meaning, open_source
from app.map.style import Paint, default_style
from app.work.changes import change_vectors, polygons, write_change_map
from app.work.changes import likeness as change_likeness
from tiles.writing.cog import read_classes


def score_raster(folder: Path) -> Path:
    """Two places above 1: 4 x 5 and 3 x 3 pixels of 10 m, and one single pixel."""
    score = np.zeros((64, 64), np.float32)
    score[10:14, 20:25] = 3.0
    score[40:43, 50:53] = 2.0
    score[0, 0] = 9.0
    score[:, 60:] = np.nan
    return write_raster(folder / "score.tif", score, nodata=float("nan"))


def test_polygons_have_the_area_and_the_mean_score_of_their_pixels(tmp_path: Path) -> None:
    found = polygons(score_raster(tmp_path), 1.0, least_pixels=4)
    assert list(found.frame["score"]) == [3.0, 2.0]
    assert list(found.frame["area_m2"]) == pytest.approx([2000.0, 900.0], rel=1e-3)  # on the ellipsoid
    assert found.frame.geometry.iloc[0].bounds == (500_200.0, 4_999_860.0, 500_250.0, 4_999_900.0)
    assert len(polygons(score_raster(tmp_path), 2.5, least_pixels=4).frame) == 1
    assert len(polygons(score_raster(tmp_path), 100.0).frame) == 0


def test_the_map_at_a_threshold_is_whole_and_says_its_threshold(tmp_path: Path) -> None:
    path = write_change_map(score_raster(tmp_path), 2.5, tmp_path / "out.tif")
    with rasterio.open(path) as source:
        values = source.read(1)
        assert source.tags()["GEODINO_THRESHOLD"] == "2.5"
        assert source.nodata == 255
    assert (values == 1).sum() == 4 * 5 + 1
    assert (values == 255).sum() == 64 * 4
    assert [one.name for one in read_classes(path)] == ["no change", "change"]


def test_changes_are_compared_by_what_changed_in_them() -> None:
    """Two polygons where kind 0 became kind 2, one where 0 became 1: the like ones find each other."""
    features, _ = blocks()
    before = cube_of(np.repeat(features[:, :, :1], 18, axis=2))
    after = cube_of(features)
    corners = [(14, 2), (15, 8), (8, 4)]
    frame = geopandas.GeoDataFrame(
        geometry=[
            box(500_000 + 160 * c, 5_000_000 - 160 * (r + 2), 500_000 + 160 * (c + 2), 5_000_000 - 160 * r)
            for c, r in corners
        ],
        crs=32631,
    )
    vectors = change_vectors(before, after, frame)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)
    like = change_likeness(vectors, [0], [])
    assert like[1] > 0.9 > like[2]
    assert change_likeness(vectors, [0], [1])[1] == pytest.approx(like[1] - 1, abs=1e-3)


def test_a_score_knows_that_it_is_one(tmp_path: Path) -> None:
    source = open_source(score_raster(tmp_path))
    assert source.meaning is Meaning.values
    assert default_style(source).paint is Paint.ramp
