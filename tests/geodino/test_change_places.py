"""Where changes lie and how large they are: the antimeridian, degrees, Mercator."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from change_testing import SIZE, ground, read, second_date, truth, write

import geodino
from geodino.change_detection.alignment import common_grid
from geodino.change_detection.change_polygons import write_polygons
from geodino.change_detection.transitions import count_transitions
from geodino.products.vector import areas_m2
from tiles.scenes.opening import open_scene


def test_two_dates_meet_beyond_180_degrees(tmp_path: Path) -> None:
    degrees = Affine(1e-4, 0, 179.993, 0, -1e-4, 10.008)
    before = write(tmp_path / "b.tif", ground(), transform=degrees, crs="EPSG:4326")
    later = second_date(ground())
    utm = tmp_path / "a.tif"
    with rasterio.open(write(tmp_path / "degrees.tif", later, transform=degrees, crs="EPSG:4326")) as source:
        from rasterio.vrt import WarpedVRT
        from rasterio.warp import Resampling

        with WarpedVRT(source, crs="EPSG:32601", resampling=Resampling.cubic, nodata=0) as vrt:
            profile = {**vrt.profile, "driver": "GTiff", "nodata": 0}
            for key in ("blockxsize", "blockysize", "tiled"):
                profile.pop(key, None)
            with rasterio.open(utm, "w", **profile) as out:
                out.write(vrt.read())
    assert tuple(common_grid(open_scene(before), open_scene(utm)).shape) == SIZE
    geodino.change(before, utm, tmp_path / "c.tif", method="spectral")
    found = read(tmp_path / "c.tif")
    assert (found != 255).mean() > 0.95
    assert (found[truth()] == 1).mean() > 0.8


@pytest.mark.parametrize(
    ("crs", "transform"),
    [("EPSG:4326", Affine(1e-4, 0, 15, 0, -1e-4, 60)), ("EPSG:3857", Affine(20, 0, 1_669_792, 0, -20, 8_399_737))],
)
def test_areas_of_change_are_those_of_the_ground(tmp_path: Path, crs: str, transform: Affine) -> None:
    before = write(tmp_path / "b.tif", ground(), transform=transform, crs=crs)
    later = second_date(ground())
    later[:, 20:34, 150:170] = later[:, 20:34, 150:170] * 0.5 + 120
    after = write(tmp_path / "after.tif", later, transform=transform, crs=crs)
    geodino.change(before, after, tmp_path / "c.tif", vector=tmp_path / "v.gpkg", method="spectral")
    frame = gpd.read_file(tmp_path / "v.gpkg")
    np.testing.assert_allclose(frame["area_m2"], areas_m2(frame), rtol=1e-4)
    assert frame["area_m2"].is_monotonic_decreasing
    least = float(frame["area_m2"].iloc[1])
    geodino.change(
        before, after, tmp_path / "d.tif", vector=tmp_path / "w.gpkg", method="spectral", min_area_m2=least - 0.01
    )
    large = gpd.read_file(tmp_path / "w.gpkg")
    assert large["area_m2"].tolist() == frame[frame["area_m2"] >= least]["area_m2"].tolist()


def raster(path: Path, values: np.ndarray, transform: Affine, crs: str | None) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype=values.dtype, crs=crs,
        transform=transform,
    ) as out:  # fmt: skip
        out.write(values, 1)
    return path


def test_transitions_are_measured_where_they_happened(tmp_path: Path) -> None:
    mask, first, second = np.zeros((600, 8), np.uint8), np.full((600, 8), 1, np.uint8), np.full((600, 8), 2, np.uint8)
    mask[:10] = mask[-10:] = 1  # as many pixels at 60 degrees north as at the equator
    first[-300:], second[-300:] = 2, 1
    grid = Affine(0.1, 0, 15, 0, -0.1, 60)
    paths = [raster(tmp_path / f"{n}.tif", v, grid, "EPSG:4326") for n, v in enumerate((mask, first, second))]
    found = count_transitions(paths[0], (paths[1], paths[2]), ("a", "b"))
    assert found.counts.tolist() == [[0, 80], [80, 0]]
    assert found.areas_m2[0, 1] / found.areas_m2[1, 0] == pytest.approx(0.51, abs=0.01)  # cos 59.5 by cos 0.5
    assert found.areas_m2[1, 0] == pytest.approx(80 * 11_132 * 11_057, rel=1e-3)
    assert found.describe()[0].startswith("b → a")


def test_numbers_of_polygons_are_those_of_their_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((90, 70)) < 0.55).astype(np.uint8)
    values[:, 40:43] = 255
    score = rng.normal(size=values.shape).astype(np.float32)
    score[values == 255] = np.nan
    kinds = [rng.integers(0, 4, values.shape).astype(np.uint8) for _ in range(2)]
    grid = Affine(2, 0, 0, 0, -2, 0)
    paths = [raster(tmp_path / f"{n}.tif", v, grid, None) for n, v in enumerate((values, score, *kinds))]
    write_polygons(
        paths[0], paths[1], tmp_path / "v.gpkg", dates=(None, "2020-01-01"), min_area_m2=24,
        classes=((paths[2], paths[3]), ("x", "y", "z")),
    )  # fmt: skip
    frame = gpd.read_file(tmp_path / "v.gpkg")
    assert frame["area_m2"].min() == 24
    np.testing.assert_allclose(frame["area_m2"], frame.geometry.area)
    for row in frame.itertuples():
        inside = rasterio.features.geometry_mask([row.geometry], values.shape, grid, invert=True)
        assert (values[inside] == 1).all()
        assert row.score == pytest.approx(score[inside].mean(), abs=1e-3)
        assert row.score_max == pytest.approx(score[inside].max(), abs=1e-3)
        for name, kind in zip((row.from_class, row.to_class), kinds, strict=True):
            counts = np.bincount(kind[inside], minlength=4)[1:]
            assert name == ("x", "y", "z")[int(counts.argmax())]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".gpkg", *[".tif"] * 4]


def test_no_change_is_an_empty_file(tmp_path: Path) -> None:
    nothing = raster(tmp_path / "a.tif", np.zeros((20, 20), np.uint8), Affine(2, 0, 0, 0, -2, 0), None)
    write_polygons(nothing, nothing, tmp_path / "v.gpkg", dates=(None, None))
    assert len(gpd.read_file(tmp_path / "v.gpkg")) == 0
