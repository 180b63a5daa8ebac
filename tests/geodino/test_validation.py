import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, jaccard_score

from geodino.heads.legend import Legend
from geodino.heads.metrics import Agreement, confusion_matrix
from geodino.heads.validation import cross_validate, spatial_blocks, spatial_folds


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_measures_are_scikit_learns(seed: int) -> None:
    truth, found = np.random.default_rng(seed).integers(0, 4, size=(2, 60))
    agreement = Agreement(confusion_matrix(truth, found, 4))
    labels = range(4)
    assert agreement.overall_accuracy == pytest.approx(accuracy_score(truth, found))
    assert agreement.kappa == pytest.approx(cohen_kappa_score(truth, found))
    assert agreement.f1 == pytest.approx(f1_score(truth, found, average=None, labels=labels, zero_division=0))
    assert agreement.iou == pytest.approx(jaccard_score(truth, found, average=None, labels=labels, zero_division=0))


def test_a_class_that_is_nowhere_counts_in_no_mean() -> None:
    agreement = Agreement(confusion_matrix(np.array([0, 0, 1]), np.array([0, 0, 1]), 3))
    assert agreement.mean_iou == 1
    assert np.isnan(agreement.f1[2])


@given(st.integers(0, 500))
@settings(max_examples=20, deadline=None)
def test_objects_and_neighbours_never_straddle_a_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    objects = rng.integers(0, 30, size=300)
    rows, cols = rng.integers(0, 900, size=30)[objects], rng.integers(0, 900, size=30)[objects]
    groups = spatial_blocks(rows, cols, objects)
    for thing in range(30):
        assert len(np.unique(groups[objects == thing])) <= 1
    for train, test in spatial_folds(objects % 3, groups):
        assert not set(groups[train]) & set(groups[test])


def test_touching_objects_are_one_group_and_far_ones_are_not() -> None:
    rows = np.array([0, 2, 500, 501])
    groups = spatial_blocks(rows, rows, np.array([0, 1, 2, 3]))
    assert groups[0] == groups[1] != groups[2] == groups[3]


def test_a_class_in_one_place_cannot_be_validated() -> None:
    assert spatial_folds(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2])) == []


def test_a_class_in_one_place_is_learned_from_and_left_out_of_the_test() -> None:
    classes = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    folds = spatial_folds(classes, np.array([0, 1, 2, 3, 4, 5, 6, 6]))
    assert folds
    for train, test in folds:
        assert {6, 7} <= set(train)
        assert 2 not in classes[test]


def test_the_report_holds_both_maps_and_every_class() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 200)
    groups = np.tile(np.arange(10), 40)
    pixels = (classes[:, None] + 0.3 * rng.normal(size=(400, 3))).astype(np.float32)

    def fit(train: np.ndarray) -> object:
        middle = pixels[train].mean()
        return lambda test: (pixels[test].mean(axis=1) > middle).astype(np.int64)

    found = cross_validate(Legend.of(("land", "water")), classes, groups, fit, pixels)
    assert found is not None
    assert found.ours.overall_accuracy > 0.9
    assert found.forest.overall_accuracy > 0.9
    assert found.ours.confusion.sum() == 400
    text = "\n".join(found.describe())
    for part in ("5 folds over 10 groups", "land", "water", "mIoU", "pixel forest", "confusion"):
        assert part in text
