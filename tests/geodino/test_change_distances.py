"""What is no change: edges of a pair that was shifted by part of a pixel, and rims of what did change."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter, shift

from geodino.change_detection.irmad import fit_irmad
from geodino.change_detection.null_model import LogHistogram, automatic_threshold, fit_background, log_distance
from geodino.change_detection.radiometry import RadiometricFit
from geodino.change_detection.spectral_distance import SpectralModel
from geodino.change_detection.token_distance import TokenChange

SIDE = 240


def streets(seed: int = 0) -> np.ndarray:
    """Flat ground cut by sharp bright lines, `[3, H, W]` in [0, 1]."""
    rng = np.random.default_rng(seed)
    ground = 0.3 + 0.03 * np.stack([gaussian_filter(rng.normal(size=(SIDE, SIDE)), 6) * 20 for _ in range(3)])
    for line in rng.integers(4, SIDE - 4, 14):
        ground[:, line : line + 2] += 0.35
        ground[:, :, line : line + 3] += 0.3
    return ground.clip(0, 1)


def scored(before: np.ndarray, after: np.ndarray, jitter: float) -> tuple[np.ndarray, float]:
    """Score of a pair and its automatic threshold."""
    flat = before.reshape(3, -1), after.reshape(3, -1)
    model = SpectralModel(("red", "green", "blue"), fit_irmad(*flat), RadiometricFit((1,) * 3, (0,) * 3, 1))
    valid = np.ones(before.shape[1:], bool)
    logs = log_distance(model.measure(before.astype(np.float32), after.astype(np.float32), valid, jitter)[0])
    histogram = LogHistogram()
    histogram.add(logs)
    background = fit_background(histogram)
    limit = automatic_threshold(histogram, background, spread=background.spread).value
    return background.standardise(logs), limit


def second_date(first: np.ndarray, *, moved: tuple[float, float], seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    there = np.stack([shift(band, moved, order=3, mode="nearest") for band in first])
    return np.stack([shift(band, [-m for m in moved], order=1, mode="nearest") for band in there]) * 1.1 + rng.normal(
        0, 0.004, first.shape
    )


def test_edges_that_resampling_blurred_are_no_change() -> None:
    first = streets()
    second = second_date(first, moved=(0.4, -0.3))
    blind, limit = scored(first, second, 0.0)
    score, limit = scored(first, second, 0.1)
    assert (score > limit).mean() < 0.02
    assert (score > limit).mean() < (blind > 3.09).mean()


def test_a_change_is_found_to_its_border_and_not_beyond() -> None:
    first = streets()
    second = second_date(first, moved=(0.4, -0.3))
    changed = np.zeros((SIDE, SIDE), bool)
    changed[100:130, 60:100] = True
    second[:, changed] = 0.9 - second[:, changed]
    score, limit = scored(first, second, 0.1)
    assert (score[changed] > limit).mean() > 0.95
    rim = binary_dilation(changed, iterations=6) & ~binary_dilation(changed, iterations=2)
    assert (score[rim] > limit).mean() < 0.1


def test_an_edge_of_one_date_only_is_change() -> None:
    rng = np.random.default_rng(2)
    first = np.full((3, SIDE, SIDE), 0.3) + rng.normal(0, 0.004, (3, SIDE, SIDE))
    second = np.full((3, SIDE, SIDE), 0.3) + rng.normal(0, 0.004, (3, SIDE, SIDE))
    second[:, 100:103, 40:200] += 0.05
    score, limit = scored(first, second, 0.5)
    assert (score[101, 45:195] > limit).mean() > 0.95


@pytest.mark.parametrize("tolerance", [0.0, 0.25, 1.0])
def test_the_displaced_distance_is_that_of_displaced_copies(tolerance: float) -> None:
    rng = np.random.default_rng(3)
    before, after = (rng.normal(size=(5, 6, 7)).astype(np.float32) for _ in range(2))
    change = TokenChange(np.zeros((2, 5), np.float32), 1, tolerance)
    found = change.distances(before, after, np.ones((6, 7), bool))[0, 0]

    def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
        return (one * other).sum(axis=0) / lengths

    one, other = (date / np.linalg.norm(date, axis=0) for date in (before, after))
    best = cosine(one, other)
    for axis in (1, 2):
        for step in (1, -1):
            index = np.clip(np.arange(one.shape[axis]) + step, 0, one.shape[axis] - 1)
            for still, moved in ((one, other), (other, one)):
                mixed = (1 - tolerance) * moved + tolerance * np.take(moved, index, axis=axis)
                best = np.maximum(best, cosine(still, mixed))
    np.testing.assert_allclose(found, 1 - best, atol=1e-5)


def test_texture_is_the_distance_of_neighbours_in_the_calmer_date() -> None:
    rng = np.random.default_rng(4)
    calm, rough = np.ones((4, 5, 6), np.float32), rng.normal(size=(4, 5, 6)).astype(np.float32)
    change = TokenChange(np.zeros((2, 4), np.float32), 1, 0.1)
    assert change.distances(calm, rough, np.ones((5, 6), bool))[1, 0].max() < 1e-5
    unit = rough / np.linalg.norm(rough, axis=0)
    found = change.distances(rough, rough, np.ones((5, 6), bool))[1, 0]
    around = [1 - (unit[:, 2, 3] * unit[:, r, c]).sum() for r, c in ((1, 3), (3, 3), (2, 2), (2, 4))]
    assert found[2, 3] == pytest.approx(np.mean(around), abs=1e-5)
