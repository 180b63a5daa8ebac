"""Styles and the statistics that a stretch comes from."""

import json
from pathlib import Path

import morecantile
import numpy as np
import pytest
from app_testing import landscape, write_raster

from app.map.render import paint, read_tile
from app.map.source import open_source
from app.map.style import channel_statistics, combinations, default_style, describe, rgb_style
from tiles.writing.cog import CLASSES_TAG

MERCATOR = morecantile.tms.get("WebMercatorQuad")


def tile_over(source, zoom: int) -> tuple[int, int, int]:
    west, south, east, north = source.bounds
    tile = MERCATOR.tile((west + east) / 2, (south + north) / 2, zoom)
    return tile.z, tile.x, tile.y


def test_the_stretch_comes_from_the_whole_raster_so_tiles_agree(tmp_path: Path) -> None:
    """Two tiles paint the same number the same way: nothing is stretched by a tile's own range."""
    ramp = np.broadcast_to(np.arange(1024, dtype=np.uint16) + 1, (3, 1024, 1024)).copy()
    source = open_source(write_raster(tmp_path / "ramp.tif", ramp, pixel=10.0, names=("red", "green", "blue")))
    style = default_style(source)
    seen: dict[int, set[int]] = {}
    z, x, y = tile_over(source, source.max_zoom)
    for column in (x - 1, x, x + 1):
        numbers = read_tile(source, style.channels, z, column, y, smooth=False)
        assert numbers is not None
        painted = paint(numbers, style)
        for value, color in zip(numbers.values[0][numbers.valid], painted[..., 0][numbers.valid], strict=True):
            seen.setdefault(int(value), set()).add(int(color))
    assert all(len(colors) == 1 for colors in seen.values())
    assert len(seen) > 300


def test_statistics_are_stored_and_read_back(tmp_path: Path) -> None:
    source = open_source(write_raster(tmp_path / "a.tif", landscape()))
    first = channel_statistics(source, 0, tmp_path / "cache")
    (stored,) = (tmp_path / "cache").iterdir()
    stored.write_text(stored.read_text().replace(f'"low": {first.low}', '"low": -7.0'))
    assert channel_statistics(source, 0, tmp_path / "cache").low == -7.0


def test_statistics_of_a_sample_are_those_of_numpy() -> None:
    sample = np.ma.masked_equal(np.array([0, 1, 2, 3, 4, 0]), 0)
    found = describe(sample)
    assert (found.minimum, found.maximum, found.mean, found.valid) == (1, 4, 2.5, 4 / 6)
    assert found.low == pytest.approx(np.percentile([1, 2, 3, 4], 2))
    assert sum(found.histogram) == 4
    empty = describe(np.ma.masked_all((4,)))
    assert empty.high > empty.low


def test_a_colour_table_alone_makes_classes_and_no_change_is_not_painted(tmp_path: Path) -> None:
    table = {1: (10, 20, 30, 255), 2: (200, 0, 0, 255)}
    plain = open_source(write_raster(tmp_path / "t.tif", np.ones((1, 32, 32), np.uint8), colors=table))
    assert [(one.value, one.color) for one in plain.classes] == [(1, (10, 20, 30)), (2, (200, 0, 0))]
    tag = json.dumps([[0, "no change", [0, 0, 0]], [1, "change", [255, 0, 0]]])
    changed = open_source(write_raster(tmp_path / "ch.tif", np.ones((1, 32, 32), np.uint8), tags={CLASSES_TAG: tag}))
    assert [one.name for one in default_style(changed).classes] == ["change"]


def test_band_combinations_are_offered_as_far_as_bands_exist(tmp_path: Path) -> None:
    names = ("blue", "green", "red", "nir")
    assert list(combinations(names)) == ["Natural colour", "Colour infrared (vegetation red)"]
    source = open_source(write_raster(tmp_path / "a.tif", np.ones((4, 32, 32), np.uint8), names=names))
    assert rgb_style(source, ("red", "green", "blue")).channels == (2, 1, 0)
