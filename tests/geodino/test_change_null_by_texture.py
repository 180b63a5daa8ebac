import numpy as np
import pytest

from geodino.change_detection.null_by_texture import TextureHistogram, fit_textured
from geodino.change_detection.null_model import LogHistogram, fit_background


def calm_and_rough(count: int = 40_000, rise: float = 0.8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log distances without change that rise by ``rise`` with every unit of log texture."""
    rng = np.random.default_rng(seed)
    textures = rng.uniform(-6, 0, count)
    return rise * textures + rng.normal(0, 0.3, count), textures


def fitted(logs: np.ndarray, textures: np.ndarray) -> np.ndarray:
    histogram = TextureHistogram()
    histogram.add(logs, textures)
    return fit_textured(histogram).standardise(logs, textures)


def test_rough_ground_is_no_change() -> None:
    logs, textures = calm_and_rough()
    score = fitted(logs, textures)
    assert (score[textures > -1] > 3.09).mean() < 0.01
    plain = LogHistogram()
    plain.add(logs)
    spread = fit_background(plain).spread
    assert spread > 0.6  # what a background for all textures makes of it
    assert np.corrcoef(logs, textures)[0, 1] > 0.9
    assert np.corrcoef(score, textures)[0, 1] < 0.4


def test_change_stands_out_from_ground_of_its_own_texture() -> None:
    logs, textures = calm_and_rough()
    changed = np.arange(len(logs)) % 20 == 0
    score = fitted(logs + 2.5 * changed, textures)
    assert np.quantile(score[changed], 0.05) > np.quantile(score[~changed], 0.99)


def test_where_texture_explains_nothing_nothing_is_taken_off() -> None:
    rng = np.random.default_rng(1)
    logs, textures = rng.normal(0, 0.3, 40_000), rng.uniform(-6, 0, 40_000)
    histogram = TextureHistogram()
    histogram.add(logs, textures)
    found = fit_textured(histogram)
    assert found.slope < 0.02
    assert found.rest.spread == pytest.approx(0.3, rel=0.15)


def test_blocks_of_any_size_give_one_histogram() -> None:
    logs, textures = calm_and_rough(3000)
    whole, parts = TextureHistogram(), TextureHistogram()
    whole.add(logs, textures)
    for piece in np.array_split(np.arange(3000), 7):
        parts.add(logs[piece], textures[piece])
    np.testing.assert_array_equal(whole.counts, parts.counts)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_few_places_have_one_background(count: int) -> None:
    logs, textures = calm_and_rough(count)
    assert np.isfinite(fitted(logs, textures)).all()


def test_a_texture_that_is_mostly_change_does_not_become_its_own_background() -> None:
    rng = np.random.default_rng(6)
    textures = rng.uniform(-6, 0, 60_000)
    changed = (textures > -1.5) & (textures < -1.0) & (rng.random(60_000) < 0.8)
    score = fitted(rng.normal(0, 0.3, 60_000) + 3 * changed, textures)
    assert (score[changed] > 3.09).mean() > 0.99


def test_the_background_never_rises_faster_than_texture() -> None:
    logs, textures = calm_and_rough(rise=3.0)
    histogram = TextureHistogram()
    histogram.add(logs, textures)
    assert fit_textured(histogram).slope <= 1
