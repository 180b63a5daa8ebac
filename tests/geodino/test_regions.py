"""Regions of a raster and their clean-up do not depend on the bands of rows that it is read in."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rasterio.features import sieve
from scipy import ndimage

from geodino.products.regions import Regions, label
from geodino.products.sieve import merge_small_regions

LOCAL = Affine(1, 0, 0, 0, -1, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("regions")


def write(path: Path, values: np.ndarray, crs: str | None = None, transform: Affine = LOCAL) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype="uint8", crs=crs,
        transform=transform,
    ) as out:  # fmt: skip
        out.write(values, 1)
    return path


def merged(path: Path, least_m2: float, band_rows: int | None = None) -> np.ndarray:
    with rasterio.open(path) as source:
        return np.concatenate([rows for _, rows in merge_small_regions(source, least_m2, band_rows=band_rows)])


rasters = st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 4), st.integers(0, 10_000))


def drawn(shape: tuple[int, int, int, int]) -> np.ndarray:
    height, width, classes, seed = shape
    generator = np.random.default_rng(seed)
    values = generator.integers(0, classes + 1, (height, width)).astype(np.uint8)
    return ndimage.median_filter(values, int(generator.integers(1, 4)))


@given(rasters, st.integers(2, 40), st.integers(1, 30))
@settings(max_examples=300, deadline=None)
def test_small_regions_are_merged_as_the_sieve_of_the_whole_raster_does_it(
    folder: Path, shape: tuple[int, int, int, int], least: int, band_rows: int
) -> None:
    values = drawn(shape)
    assume(least < values.size)  # rasterio's refuses more
    whole = sieve(values, least, mask=values > 0, connectivity=4)
    np.testing.assert_array_equal(merged(write(folder / "a.tif", values), least, band_rows), whole)


@given(rasters, st.integers(1, 40), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_regions_are_those_of_the_whole_raster(
    folder: Path, shape: tuple[int, int, int, int], least: int, band_rows: int
) -> None:
    values = drawn(shape)
    with rasterio.open(write(folder / "b.tif", values)) as source:
        regions = Regions.find(source, least_m2=least, band_rows=band_rows)
        numbers = np.concatenate([rows for _, rows in regions.rows()])
    kept = np.zeros(values.shape, bool)
    for value in range(1, 5):
        found, count = ndimage.label(values == value)
        for number in range(1, count + 1):
            place = found == number
            if place.sum() >= least:
                kept |= place
                (own,) = np.unique(numbers[place])
                assert (numbers == own).sum() == place.sum() == regions.areas_m2[own]
                assert regions.values[own] == value
    np.testing.assert_array_equal(numbers > 0, kept)
    assert len(regions) == len(np.unique(numbers[kept]))


def test_a_region_that_bends_around_another_is_one() -> None:
    values = np.array([[1, 0, 1], [1, 2, 1], [1, 1, 1]], np.uint8)
    numbers, count = label(values)
    assert count == 2
    assert numbers[0, 0] == numbers[0, 2] != numbers[1, 1]


def test_small_regions_join_their_largest_neighbour(tmp_path: Path) -> None:
    values = np.ones((20, 20), np.uint8)
    values[5:7, 5:7], values[12:18, 12:18] = 2, 3
    cleaned = merged(write(tmp_path / "a.tif", values), 10)
    assert (cleaned[5:7, 5:7] == 1).all()
    assert (cleaned[12:18, 12:18] == 3).all()


def test_small_holes_of_nodata_stay_and_no_region_joins_nodata(tmp_path: Path) -> None:
    values = np.ones((20, 20), np.uint8)
    values[5:7, 5:7] = values[:, 12:] = 0
    values[9:11, 15:17] = 2
    np.testing.assert_array_equal(merged(write(tmp_path / "a.tif", values), 10), values)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [("EPSG:4326", Affine(0.01, 0, 15, 0, -0.1, 70)), ("EPSG:3857", Affine(20_000, 0, 0, 0, -20_000, 11_000_000))],
)
def test_what_is_small_is_measured_on_the_ground(tmp_path: Path, crs: str, transform: Affine) -> None:
    # Two squares of equal pixels: at 70 degrees north one has about a third of the ground of the other at the equator.
    values = np.ones((550, 40), np.uint8)
    values[10:14, 10:14] = values[530:534, 10:14] = 2
    path = write(tmp_path / "a.tif", values, crs, transform)
    with rasterio.open(path) as source:
        regions = Regions.find(source)
    small, large = sorted(regions.areas_m2[regions.values == 2])
    assert small < 0.5 * large
    cleaned = merged(path, (small + large) / 2)
    assert (cleaned[10:14, 10:14] == 1).all()
    assert (cleaned[530:534, 10:14] == 2).all()
