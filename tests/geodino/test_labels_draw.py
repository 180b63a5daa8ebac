"""The sample is drawn while pixels come by: it depends on the seed and the places alone, and memory on its size."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from labels_testing import raster
from odc.geo.geobox import GeoBox
from shapely.geometry import Point, box

from geodino.heads.labels import draw as drawing
from geodino.heads.labels import read_labels
from geodino.heads.labels.draw import Draw, chance_of


def drawn(draw: Draw) -> list[tuple[int, int, int]]:
    return sorted(zip(*(part.tolist() for part in draw.sample()), strict=True))


def test_a_class_is_shared_evenly_among_its_objects() -> None:
    draw = Draw(50)
    objects = np.repeat([0, 1, 2], [1000, 10, 1000])
    draw.add(np.arange(2010), np.zeros(2010, int), objects)
    assert np.bincount(draw.sample()[2]).tolist() == [20, 10, 20]


def test_a_class_below_the_limit_is_kept_whole() -> None:
    draw = Draw(50)
    draw.add(np.arange(50), np.full(50, 3), np.arange(50))
    draw.add(np.arange(50, 60), np.full(10, 9), np.zeros(10))
    assert draw.classes == [3, 9]
    assert drawn(draw) == [(n, 3, n) for n in range(50)] + [(n, 9, 0) for n in range(50, 60)]


def test_the_sample_is_the_one_of_all_pixels_at_once_however_they_come() -> None:
    generator = np.random.default_rng(3)
    places = generator.permutation(5000)
    classes = generator.integers(0, 3, 5000)
    objects = (places // 64) * (places % 7 > 0)
    wanted = []
    for value in range(3):
        here = np.flatnonzero(classes == value)
        chance = chance_of(places[here], 7)
        rank = [int((chance[objects[here] == objects[n]] < c).sum()) for n, c in zip(here, chance, strict=True)]
        order = sorted(range(len(here)), key=lambda n: (rank[n], chance[n]))[:100]
        wanted += [(int(places[here[n]]), value, int(objects[here[n]])) for n in order]
    for pieces in (1, 3, 50, 700):
        draw = Draw(100, seed=7)
        for piece in np.array_split(generator.permutation(5000), pieces):
            draw.add(places[piece], classes[piece], objects[piece])
        assert drawn(draw) == sorted(wanted)


def test_another_seed_draws_others_and_no_part_of_an_object_is_preferred() -> None:
    samples = []
    for seed in (0, 1):
        draw = Draw(1000, seed)
        draw.add(np.arange(100_000), np.zeros(100_000, int), np.zeros(100_000, int))
        samples.append(draw.sample()[0])
    assert 0 < len(np.intersect1d(*samples)) < 40  # ten by chance
    tenths = np.bincount(samples[0] // 10_000, minlength=10)
    assert tenths.min() > 60
    assert tenths.max() < 145


LARGE = GeoBox((1500, 2000), Affine(10, 0, 500_000, 0, -10, 4_015_000), "EPSG:32618")


def large_labels(folder: Path, kind: str) -> Path:
    if kind == "raster":
        values = np.ones(LARGE.shape, np.uint8)
        values[:, 700:] = 2
        path = raster(folder / "l.tif", values)
        import rasterio

        with rasterio.open(path, "r+") as file:
            file.transform = LARGE.affine
        return path
    import geopandas as gpd

    left, bottom, right, top = LARGE.boundingbox.bbox
    country = box(left - 1e5, bottom - 1e5, right - 5000, top + 1e5).union(Point(left - 2e5, bottom).buffer(1.5e5, 4))
    sliver = box(left + 15001, bottom, left + 15002, top)  # over every block, and no pixel's centre
    others = [box(right - 3000, bottom, right, top), Point(right - 4005, top - 105)]
    shapes = gpd.GeoDataFrame(
        {"kind": ["land", "sea", "isle", "sliver"]}, geometry=[country, *others, sliver], crs=32618
    )
    shapes = shapes.iloc[:3] if kind == "plain" else shapes
    shapes.to_file(folder / "l.gpkg")
    return folder / "l.gpkg"


@pytest.mark.parametrize("kind", ["raster", "polygons"])
def test_the_sample_does_not_depend_on_the_block_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, found = large_labels(tmp_path, kind), []
    for pixels in (1 << 15, 100_003, 1 << 22):
        monkeypatch.setattr(drawing, "BLOCK_PIXELS", pixels)
        labels = read_labels(path, LARGE, most_per_class=300)
        found.append((labels.rows, labels.cols, labels.classes, labels.objects, labels.legend))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two) if isinstance(one, np.ndarray) else None
        assert other[4] == found[0][4]


@pytest.mark.parametrize("kind", ["raster", "plain"])
def test_memory_is_bounded_by_block_and_sample_not_by_the_labelled_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Three million labelled pixels: their places alone would be 24 MB as int64."""
    path = large_labels(tmp_path, kind)
    monkeypatch.setattr(drawing, "BLOCK_PIXELS", 1 << 15)
    read_labels(path, LARGE, most_per_class=300)  # modules are imported
    tracemalloc.start()
    try:
        labels = read_labels(path, LARGE, most_per_class=300)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.bincount(labels.classes).max() == 300
    assert peak < 6e6
