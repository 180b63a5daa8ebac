import numpy as np
import pytest

from geodino.change_detection.radiometry import fit_radiometry


def test_the_line_between_two_dates_is_recovered_despite_change() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.1, 0.6, size=(2, 5000))
    after = (before - np.array([[0.05], [-0.02]])) / np.array([[1.2], [0.8]])
    stable = np.ones(5000)
    after[:, :1000], stable[:1000] = rng.uniform(size=(2, 1000)), 0
    fit = fit_radiometry(before, after, stable)
    assert fit.gain == pytest.approx((1.2, 0.8), rel=1e-6)
    assert fit.offset == pytest.approx((0.05, -0.02), abs=1e-6)
    assert "red ×1.20+0.050" in fit.describe(("red", "nir"))


def test_noise_on_both_dates_does_not_flatten_the_line() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(0.3, 0.1, size=(1, 100_000))
    before, after = truth + rng.normal(0, 0.04, truth.shape), truth + rng.normal(0, 0.04, truth.shape)
    assert fit_radiometry(before, after, np.ones(100_000)).gain[0] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("stable", [np.zeros(500), np.r_[np.ones(20), np.zeros(480)]])
def test_too_few_stable_pixels_leave_the_date_as_it_is(stable: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    fit = fit_radiometry(rng.uniform(size=(1, 500)), rng.uniform(size=(1, 500)), stable)
    assert (fit.gain, fit.offset) == ((1.0,), (0.0,))


def test_a_line_nobody_would_believe_is_refused() -> None:
    values = np.random.default_rng(3).uniform(size=(1, 500))
    assert fit_radiometry(values, values / 100, np.ones(500)).gain == (1.0,)
