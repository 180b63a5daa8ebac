import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from geodino.change_detection.null_model import (
    Background,
    LogHistogram,
    automatic_threshold,
    fit_background,
    given_threshold,
    log_distance,
)


def histogram(distance: np.ndarray) -> LogHistogram:
    found = LogHistogram()
    found.add(log_distance(distance))
    return found


@given(centre=st.floats(-4, 4), spread=st.floats(0.1, 1.0), changed=st.floats(0, 0.3))
@settings(max_examples=25, deadline=None)
def test_the_background_is_found_under_change(centre: float, spread: float, changed: float) -> None:
    rng = np.random.default_rng(0)
    stable = np.exp(rng.normal(centre, spread, 20_000))
    tail = np.exp(rng.normal(centre + 6 * spread, spread, int(changed * 20_000)))
    found = fit_background(histogram(np.concatenate([stable, tail])))
    assert found.centre == pytest.approx(centre, abs=0.35 * spread)
    assert found.spread == pytest.approx(spread, rel=0.3)


def test_false_alarms_are_as_promised_without_change() -> None:
    logs = np.random.default_rng(1).normal(-1, 0.3, 400_000)
    counted = histogram(np.exp(logs))
    background = fit_background(counted)
    threshold = automatic_threshold(counted, background, spread=0.3, false_alarm_rate=0.01)
    assert 0.004 < (background.standardise(logs) > threshold.value).mean() < 0.025
    assert threshold.false_alarm_rate == 0.01
    assert "100 stable pixels" in threshold.rule


def test_change_far_out_moves_the_threshold_between_the_classes() -> None:
    rng = np.random.default_rng(4)
    counted = histogram(np.exp(np.concatenate([rng.normal(0, 0.3, 90_000), rng.normal(4, 0.3, 10_000)])))
    background = fit_background(counted)
    threshold = automatic_threshold(counted, background)
    assert 1.5 < threshold.value * background.spread + background.centre < 3
    assert threshold.false_alarm_rate < 1e-3
    assert "class of change" in threshold.rule


def test_where_hardly_anything_is_stable_no_rate_is_promised() -> None:
    rng = np.random.default_rng(5)
    counted = histogram(np.exp(rng.uniform(-1.5, 2.0, 100_000)))
    background = fit_background(counted)
    threshold = automatic_threshold(counted, background, spread=background.spread)
    assert np.isnan(threshold.false_alarm_rate)
    found = (rng.uniform(-1.5, 2.0, 100_000) - background.centre) / background.spread > threshold.value
    assert 0.1 < found.mean() < 0.5


def test_otsu_goes_in_the_middle_of_a_gap_and_survives_a_single_value() -> None:
    one, two = np.full(500, 0.1), np.full(500, 30.0)
    counted = histogram(np.concatenate([one, two]))
    background = Background(float(np.log(0.1)), 0.5)
    limit = automatic_threshold(counted, background).value * 0.5 + np.log(0.1)
    assert np.log(0.1) + 1 < limit < np.log(30) - 1
    assert np.isfinite(automatic_threshold(histogram(one), background).value)


def test_scores_do_not_depend_on_the_unit_of_the_distance() -> None:
    distance = np.exp(np.random.default_rng(2).normal(0, 0.4, 50_000))
    one = fit_background(histogram(distance)).standardise(log_distance(distance))
    other = fit_background(histogram(distance * 50)).standardise(log_distance(distance * 50))
    np.testing.assert_allclose(one, other, atol=0.15)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_blocks_of_any_size_give_one_histogram(sizes: list[int]) -> None:
    values = np.exp(np.random.default_rng(3).normal(size=sum(sizes)))
    parts = LogHistogram()
    for part in np.split(values, np.cumsum(sizes)[:-1]):
        parts.add(log_distance(part))
    np.testing.assert_array_equal(parts.counts, histogram(values).counts)


def test_nodata_stays_nodata_and_zero_is_finite() -> None:
    distance = np.array([np.nan, 0.0, 1.0])
    score = fit_background(histogram(distance)).standardise(log_distance(distance))
    assert np.isnan(score[0])
    assert np.isfinite(score[1:]).all()


def test_mostly_identical_pixels_leave_the_changed_ones_standing_out() -> None:
    distance = np.concatenate([np.zeros(9000), np.full(1000, 0.4)])
    score = fit_background(histogram(distance)).standardise(log_distance(distance))
    assert (score[:9000] < 3).all()
    assert (score[9000:] > 10).all()


def test_an_empty_scene_has_a_background_of_its_own() -> None:
    assert fit_background(LogHistogram()).spread == 1.0


def test_a_given_threshold_says_what_it_implies() -> None:
    assert given_threshold(2.0).false_alarm_rate == pytest.approx(norm.sf(2.0))
