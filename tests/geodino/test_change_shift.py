import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import fourier_shift, gaussian_filter

from geodino.change_detection.shift import combine_windows, phase_correlation


def scene(size: int = 96, seed: int = 0) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 1.2)


def moved(image: np.ndarray, rows: float, cols: float) -> np.ndarray:
    return np.fft.ifft2(fourier_shift(np.fft.fft2(image), (rows, cols))).real


@given(rows=st.floats(-6, 6), cols=st.floats(-6, 6))
@settings(max_examples=20, deadline=None)
def test_a_known_shift_is_found_to_a_tenth_of_a_pixel(rows: float, cols: float) -> None:
    found = phase_correlation(scene(), moved(scene(), rows, cols))
    assert found[:2] == pytest.approx((rows, cols), abs=0.1)


def test_gain_and_offset_do_not_matter() -> None:
    after = 3 * moved(scene(), 1.4, -2.2) + 7
    assert phase_correlation(scene(), after)[:2] == pytest.approx((1.4, -2.2), abs=0.1)


def test_unrelated_windows_have_no_peak() -> None:
    related = phase_correlation(scene(), moved(scene(), 1, 1))[2]
    unrelated = phase_correlation(scene(seed=1), scene(seed=2))[2]
    assert related > 5 * unrelated


def test_a_flat_window_does_not_vote() -> None:
    assert phase_correlation(np.ones((32, 32)), scene(32))[2] < 0.05


def test_the_median_of_the_windows_outvotes_a_wrong_one() -> None:
    votes = [(0.5, -0.25, 0.5), (0.45, -0.25, 0.4), (0.55, -0.3, 0.6), (0.5, -0.2, 0.5), (30.0, 12.0, 0.3)]
    shift = combine_windows(votes)
    assert (shift.rows, shift.cols) == (0.5, -0.25)
    assert shift.trusted
    assert "corrected" in shift.describe()


def test_windows_that_disagree_are_not_trusted() -> None:
    rng = np.random.default_rng(0)
    shift = combine_windows([(float(r), float(c), 0.5) for r, c in rng.uniform(-8, 8, size=(12, 2))])
    assert not shift.trusted
    assert "left as it is" in shift.describe()


def test_no_window_no_shift() -> None:
    shift = combine_windows([(3.0, 3.0, 0.0)])
    assert (shift.rows, shift.cols, shift.trusted) == (0.0, 0.0, False)
