"""What is made of features within a second: colours, likeness, classes; by hand and by brute force."""

import numpy as np
import pytest
from app_testing import blocks, cube_of
from hypothesis import given, settings
from hypothesis import strategies as st

from app.work.live_maps import NOTHING, LabelledTokens, classify, likeness, pca
from geodino.heads.labels import Labels
from geodino.heads.legend import Legend
from tiles.errors import InputError


@settings(max_examples=20)
@given(st.integers(0, 100))
def test_likeness_is_the_cosine_to_the_nearest_wanted_less_the_nearest_unwanted(seed: int) -> None:
    features, _ = blocks(seed)
    cube = cube_of(features)
    rng = np.random.default_rng(seed)
    more = [(int(rng.integers(12)), int(rng.integers(18))) for _ in range(2)]
    less = [(int(rng.integers(12)), int(rng.integers(18)))]
    found = likeness(cube, more, less)
    unit = cube.tokens.astype(np.float64).reshape(12, 18, -1)
    for row, column in [(0, 0), (5, 9), (11, 17)]:
        token = unit[row, column]
        expected = max(token @ unit[place] for place in more) - max(token @ unit[place] for place in less)
        assert found[row, column] == pytest.approx(expected, abs=1e-5)


def test_a_click_where_there_is_no_data_is_refused() -> None:
    valid = np.ones((12, 18), bool)
    valid[0] = False
    cube = cube_of(blocks()[0], valid)
    with pytest.raises(InputError, match="no data"):
        likeness(cube, [(0, 0)])
    assert np.isnan(likeness(cube, [(1, 1)])[0]).all()


def test_principal_components_colour_the_kinds_apart() -> None:
    features, kind = blocks()
    colors = pca(cube_of(features)).astype(float)
    assert colors.shape == (3, 12, 18)
    assert colors.min() >= 1
    means = [colors[:, kind == one].mean(axis=1) for one in range(3)]
    assert min(np.linalg.norm(means[a] - means[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 50


def test_a_live_map_finds_the_kinds_from_two_examples_each() -> None:
    features, kind = blocks()
    rows, cols = np.array([1, 10, 1, 10, 1, 10]), np.array([2, 3, 8, 9, 14, 15])
    labels = Labels(rows, cols, np.array([0, 0, 1, 1, 2, 2]), np.arange(6), Legend.of(["a", "b", "c"]))
    learned = LabelledTokens.on(cube_of(features), labels)
    made = classify(cube_of(features), learned)
    assert (made.probabilities.argmax(axis=0) == kind).all()
    assert made.confidence.max() <= 100
    agreement = learned.cross_validate()
    assert agreement is not None and agreement.overall_accuracy == 1.0


def test_a_class_without_data_is_dropped_and_nodata_stays_nodata() -> None:
    features, _ = blocks()
    valid = np.ones((12, 18), bool)
    valid[:, 12:] = False
    labels = Labels(np.array([1, 1, 1]), np.array([2, 8, 14]), np.arange(3), np.arange(3), Legend.of(["a", "b", "c"]))
    learned = LabelledTokens.on(cube_of(features, valid), labels)
    made = classify(cube_of(features, valid), learned)
    assert learned.labels.legend.names == ("a", "b")
    assert (made.probabilities[:, :, 12:] == NOTHING).all()
    one = Labels(np.array([1, 1]), np.array([2, 14]), np.arange(2), np.arange(2), Legend.of(["a", "c"]))
    with pytest.raises(InputError, match="Two classes"):
        LabelledTokens.on(cube_of(features, valid), one)
