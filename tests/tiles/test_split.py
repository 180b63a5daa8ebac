"""Splits that share no place."""

import itertools

import numpy as np
import pytest
import shapely

from tiles.archive.index import table_of
from tiles.archive.split import BORDER, assign, settings, splits_of
from tiles.grids import cells


def index(boxes: list[tuple[float, float, float, float]]):
    centres = np.array([((w + e) / 2, (s + n) / 2) for w, s, e, n in boxes])
    return table_of(
        {
            "tile_id": [f"t{i}" for i in range(len(boxes))],
            "geometry": [shapely.to_wkb(shapely.box(*box)) for box in boxes],
            "cell": cells(centres[:, 0], centres[:, 1]),
        }
    )


def test_no_place_lies_in_two_splits():
    generator = np.random.default_rng(1)
    west, south = generator.uniform(10, 11.5, 600), generator.uniform(45, 46.5, 600)
    size = generator.uniform(0.002, 0.25, 600)  # from far smaller than a cell to far larger
    boxes = [(w, s, w + d, s + d) for w, s, d in zip(west, south, size, strict=True)]
    found = splits_of(index(boxes), settings({"train": 0.7, "val": 0.2, "test": 0.1}, seed=3))
    assert {"train", "val", "test", BORDER} == set(found)
    shapes = np.array([shapely.box(*box) for box in boxes])
    ground = {name: shapely.union_all(shapes[np.array(found) == name]) for name in ("train", "val", "test")}
    for one, other in itertools.combinations(ground.values(), 2):
        assert one.intersection(other).area < 1e-12


def test_shares_are_kept_and_seeds_differ():
    grid = [(x / 8, y / 8, x / 8 + 0.001, y / 8 + 0.001) for x in range(60) for y in range(60)]
    found = splits_of(index(grid), settings({"train": 0.8, "val": 0.2}))
    assert found.count("train") / (len(found) - found.count(BORDER)) == pytest.approx(0.8, abs=0.03)
    assert found != splits_of(index(grid), settings({"train": 0.8, "val": 0.2}, seed=1))


def test_tiles_without_a_place_are_drawn_one_by_one():
    table = table_of({"tile_id": [f"image{i}" for i in range(1000)]})
    found = splits_of(table, settings({"train": 0.9, "val": 0.1}))
    assert found.count("val") == pytest.approx(100, abs=30) and BORDER not in found
    assert assign(table, None).column("split").null_count == 1000


def test_shares_add_up_to_one():
    with pytest.raises(ValueError, match="add up to 1"):
        settings({"train": 0.8, "val": 0.1})
