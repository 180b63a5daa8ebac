"""Scores pooled over image objects: the objects follow edges and no block of rows can cut them."""

from pathlib import Path

import numpy as np
import pytest
from change_testing import OBJECT, SIZE, ground, read, truth, write
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

import geodino
from geodino.change_detection.object_pooling import HALO, image_objects, pool


@pytest.mark.parametrize("rows", [16, 50, 64])
def test_pooled_scores_do_not_depend_on_the_blocks(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geodino.change_detection.score._CALIBRATION_BLOCKS", 1000)
    tall = np.concatenate([ground(), ground(seed=3)], axis=1)
    later = tall.copy()
    later[:, *OBJECT] = ground(seed=7)[:, *OBJECT] * 0.6 + 60
    before, after = write(tmp_path / "b.tif", tall), write(tmp_path / "after.tif", later * 1.15 - 9)
    scores = []
    for step in (rows, 1000):
        monkeypatch.setattr("geodino.change_detection.score._BLOCK_ROWS", step)
        geodino.change(
            before, after, tmp_path / f"{step}.tif", score=tmp_path / f"s{step}.tif", method="spectral", objects=True
        )
        scores.append(read(tmp_path / f"s{step}.tif"))
    np.testing.assert_allclose(*scores, atol=1e-4)
    assert (read(tmp_path / "1000.tif")[: SIZE[0]][truth()] == 1).mean() > 0.8


@given(st.integers(0, 1000), st.integers(0, 140), st.integers(1, 60), st.booleans())
@settings(max_examples=60, deadline=None)
def test_objects_are_the_same_whatever_rows_are_read_around_them(seed: int, start: int, count: int, flat: bool) -> None:
    rng = np.random.default_rng(seed)
    images = gaussian_filter(rng.random((2, 2, 330, 48)), (0, 0, 2, 2)).astype(np.float32)
    images = np.round(images * 6) / 6 if flat else images
    valid = rng.random((330, 48)) > 0.02
    scores = np.where(valid, rng.normal(size=valid.shape), np.nan).astype(np.float32)
    whole = pool(scores, image_objects(*images, valid))
    top, bottom = max(start - HALO, 0), min(start + count + HALO, 330)
    part = pool(scores[top:bottom], image_objects(*images[:, :, top:bottom], valid[top:bottom], row=top))
    np.testing.assert_array_equal(part[start - top : start - top + count], whole[start : start + count])


def test_objects_are_many_pixels_of_one_side_of_an_edge() -> None:
    image = np.full((1, 90, 90), 0.2, np.float32)
    image[:, 30:60, 30:60] = 0.8
    numbers = image_objects(image, image, np.ones((90, 90), bool))
    inside = np.zeros((90, 90), bool)
    inside[30:60, 30:60] = True
    mixed = [min(inside[numbers == own].sum(), (~inside)[numbers == own].sum()) for own in np.unique(numbers)]
    assert sum(mixed) < 20  # a pixel or two at each corner, where the edge bends
    assert 10 < 90 * 90 / len(np.unique(numbers)) < 400
