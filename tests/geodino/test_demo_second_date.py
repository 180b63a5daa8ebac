"""The demo's second date: what the truth calls changed did change, and nothing else but light and a shift."""

import numpy as np
import pytest

from geodino.demo.second_date import make_second_date


def fields(seed: int = 0) -> np.ndarray:
    """Blocks of different ground, ``[3, 200, 200]`` uint16."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(200, 3000, (3, 10, 10)), np.ones((20, 20), int)).astype(np.uint16)


def test_without_light_and_shift_the_dates_differ_exactly_where_the_truth_says():
    before, valid = fields(), np.ones((200, 200), bool)
    made = make_second_date(
        before, valid, np.random.default_rng(1), radius_px=(8, 15), shift_px=(0, 0), gain=(1, 1), offset=(0, 0)
    )
    differs = (made.values != before).any(axis=0)
    assert made.truth.any()
    assert not differs[made.truth == 0].any()
    # A transplanted pixel may by chance equal what it covers, but a patch as a whole does not.
    assert differs[made.truth == 1].mean() > 0.8


def test_invalid_pixels_stay_as_they_were_and_are_never_transplanted():
    before, valid = fields(), np.ones((200, 200), bool)
    valid[:, :80] = False
    made = make_second_date(before, valid, np.random.default_rng(2), radius_px=(6, 10))
    assert np.array_equal(made.values[:, ~valid], before[:, ~valid])
    assert not made.truth[~valid].any()


def test_the_same_seed_makes_the_same_date():
    before, valid = fields(), np.ones((200, 200), bool)
    first, second = (make_second_date(before, valid, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.values, second.values)
    assert np.array_equal(first.truth, second.truth)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_dtype_is_kept(dtype):
    before = (fields() / 12).astype(dtype)
    made = make_second_date(before, np.ones((200, 200), bool), np.random.default_rng(4))
    assert made.values.dtype == dtype
    assert made.truth.dtype == np.uint8
