import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from geodino.change_detection.irmad import fit_irmad


def pair(bands: int = 4, pixels: int = 4000, changed: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two dates of correlated bands that differ by noise, and by other ground in the last ``changed`` pixels."""
    rng = np.random.default_rng(seed)
    ground = rng.normal(size=(bands, bands)) @ rng.normal(size=(bands, pixels))
    other = rng.normal(size=(bands, bands)) @ rng.normal(size=(bands, changed))
    before = ground + 0.1 * rng.normal(size=ground.shape)
    after = ground + 0.1 * rng.normal(size=ground.shape)
    after[:, pixels - changed :] = other
    return before, after


@given(
    gain=st.lists(st.floats(0.2, 5), min_size=4, max_size=4), offset=st.lists(st.floats(-3, 3), min_size=4, max_size=4)
)
@settings(max_examples=15, deadline=None)
def test_gain_and_offset_of_a_date_change_nothing(gain: list[float], offset: list[float]) -> None:
    before, after = pair()
    other = after * np.array(gain)[:, None] + np.array(offset)[:, None]
    plain = fit_irmad(before, after).chi_squared(before, after)
    shifted = fit_irmad(before, other).chi_squared(before, other)
    # The ridge on the covariance is the only part that is not exactly invariant.
    assert np.corrcoef(np.log(plain + 1), np.log(shifted + 1))[0, 1] > 0.999


def test_changed_pixels_stand_out_and_stable_ones_follow_chi_squared_up_to_a_factor() -> None:
    before, after = pair(pixels=20_000, changed=1000)
    fitted = fit_irmad(before, after)
    score = fitted.chi_squared(before, after)
    stable, changed = score[:-1000], score[-1000:]
    assert np.median(changed) > 20 * np.median(stable)
    # The reweighting prefers the quietest pixels and so shrinks the variance; the shape of the distribution remains.
    assert np.quantile(stable, 0.9) / np.median(stable) == pytest.approx(chi2.ppf(0.9, 4) / chi2.ppf(0.5, 4), rel=0.1)


def test_one_iteration_is_canonical_correlation() -> None:
    before, after = pair(bands=2, changed=0)
    fitted = fit_irmad(before, after, iterations=1)
    joint = np.cov(np.concatenate([before, after]))
    squared = np.linalg.eigvals(
        np.linalg.inv(joint[:2, :2]) @ joint[:2, 2:] @ np.linalg.inv(joint[2:, 2:]) @ joint[2:, :2]
    )
    assert fitted.correlation == pytest.approx(np.sort(np.sqrt(squared.real)), abs=1e-4)
    # Unit variance of each canonical variate, on either date.
    assert np.var(fitted.before.T @ before, axis=1) == pytest.approx(1, abs=1e-3)
    assert np.var(fitted.after.T @ after, axis=1) == pytest.approx(1, abs=1e-3)


def test_the_same_image_twice_has_no_change() -> None:
    before, _ = pair()
    score = fit_irmad(before, before).chi_squared(before, before)
    assert np.isfinite(score).all()
    assert score.max() < 0.1


def test_bands_that_repeat_each_other_are_no_obstacle() -> None:
    before, after = pair()
    before, after = np.concatenate([before, before[:1]]), np.concatenate([after, after[:1]])
    assert np.isfinite(fit_irmad(before, after).chi_squared(before, after)).all()


def test_image_shape_is_kept() -> None:
    before, after = pair()
    fitted = fit_irmad(before, after)
    image = fitted.chi_squared(before.reshape(4, 40, 100), after.reshape(4, 40, 100))
    assert image.shape == (40, 100)
    np.testing.assert_allclose(image.ravel(), fitted.chi_squared(before, after))
