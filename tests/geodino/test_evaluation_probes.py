"""The maths of probes and intervals, against scikit-learn, brute force and numbers by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from geodino.evaluation.dataset import IGNORE
from geodino.evaluation.intervals import accuracy, iou_of_sums, mean_iou
from geodino.evaluation.linear import fit, sweep
from geodino.evaluation.segmentation import class_shares, confusion, predict_pixels


def blobs(count=200, width=6, classes=3, seed=0, spread=1.5):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width))
    labels = rng.integers(0, classes, count)
    return (centres[labels] + spread * rng.normal(size=(count, width))).astype(np.float32), labels


@pytest.mark.parametrize("c", [0.01, 1.0, 30.0])
def test_the_fit_is_scikit_learns_logistic_regression(c):
    features, labels = blobs()
    scale = (features - features.mean(0)) / features.std(0)
    expected = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(scale, labels)
    (probe,) = fit(features, labels, 3, (c,))
    ours = torch.as_tensor(features) @ probe.weight.T + probe.bias
    np.testing.assert_allclose(ours.softmax(1), expected.predict_proba(scale), atol=2e-3)


def test_a_warm_start_changes_nothing():
    features, labels = blobs()
    swept = fit(features, labels, 3, (0.01, 0.1, 1.0))[-1]
    (alone,) = fit(features, labels, 3, (1.0,))
    torch.testing.assert_close(swept.weight, alone.weight, atol=5e-3, rtol=0)


def test_scale_and_constant_features_do_not_matter():
    features, labels = blobs()
    changed = np.hstack([features * 1000 + 7, np.full((len(features), 1), 3.0, np.float32)])
    a, b = fit(features, labels, 3, (1.0,))[0], fit(changed, labels, 3, (1.0,))[0]
    assert (a.predict(features) == b.predict(changed)).all()
    assert (b.weight[:, -1] == 0).all()


def test_shares_that_are_certain_are_labels():
    features, labels = blobs()
    a, b = fit(features, labels, 3, (1.0,))[0], fit(features, np.eye(3)[labels], 3, (1.0,))[0]
    torch.testing.assert_close(a.weight, b.weight)


def test_c_is_chosen_on_validation_and_the_last_fit_sees_both():
    features, labels = blobs(400, spread=3.0)
    train, val = np.arange(100), np.arange(100, 300)
    probe = sweep(features, labels, train, val, 3, cs=(1e-4, 1e-2, 1.0))
    scores = {c: (fit(features[train], labels[train], 3, (c,))[0].predict(features[val]) == labels[val]).mean()
              for c in (1e-4, 1e-2, 1.0)}  # fmt: skip
    assert scores[probe.c] == max(scores.values())
    both = np.concatenate([train, val])
    torch.testing.assert_close(probe.weight, fit(features[both], labels[both], 3, (probe.c,))[0].weight)


def test_the_interval_of_a_coin_is_the_binomials():
    labels = np.zeros(1000, int)
    predicted = np.where(np.arange(1000) < 700, 0, 1)
    found = accuracy(predicted, labels)
    assert found.value == 0.7
    half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert abs(found.low - (0.7 - half)) < 0.006 and abs(found.high - (0.7 + half)) < 0.006


def test_no_doubt_no_width_and_one_seed_one_interval():
    assert accuracy(np.ones(9), np.ones(9)) == accuracy(np.ones(9), np.ones(9), seed=4)
    predicted, labels = np.arange(50) % 3, np.arange(50) % 2
    assert accuracy(predicted, labels, 1) == accuracy(predicted, labels, 1)
    assert accuracy(predicted, labels, 1) != accuracy(predicted, labels, 2)


def test_mean_iou_by_hand():
    # truth 0: 6 right, 2 taken for 1; truth 1: 1 taken for 0, 3 right; class 2 never occurs
    matrix = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert iou_of_sums(matrix[None].astype(float))[0] == pytest.approx((6 / 9 + 3 / 6) / 2)
    interval = mean_iou(np.stack([matrix, matrix]))
    assert interval.value == pytest.approx(interval.low) == pytest.approx(interval.high)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(4, 20),
    width=st.integers(4, 20),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_class_shares_are_brute_force_counts(height, width, rows, columns, seed):
    mask = np.random.default_rng(seed).integers(-1, 3, (height, width))
    shares = class_shares(mask, (rows, columns), 3)
    counts = np.zeros((rows, columns, 3))
    for y in range(height):
        for x in range(width):
            if mask[y, x] != IGNORE:
                counts[int((y + 0.5) * rows / height), int((x + 0.5) * columns / width), mask[y, x]] += 1
    totals = counts.sum(-1, keepdims=True)
    np.testing.assert_allclose(shares, np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0))


def test_confusion_counts_labelled_pixels_only():
    mask = np.array([[0, 1, IGNORE], [1, 1, 0]])
    predicted = np.array([[0, 0, 1], [1, 1, 1]])
    assert confusion(mask, predicted, 2).tolist() == [[1, 1], [1, 2]]


def test_pixels_take_the_class_of_their_cell_where_cells_are_sure():
    logits = torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]]])  # [2, 1, 2]: left is 0, right is 1
    assert predict_pixels(logits, (2, 6)).tolist() == [[0, 0, 0, 1, 1, 1]] * 2
