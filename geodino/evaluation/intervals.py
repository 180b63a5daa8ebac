"""Bootstrap confidence intervals over test images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A measured value with the interval that holds 95 % of its bootstrap resamples."""

    value: float
    low: float
    high: float


def bootstrap(per_image: np.ndarray, metric: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> Interval:
    """Percentile bootstrap of a metric that is a function of a sum over images.

    Args:
        per_image: What each image adds ``[N, ...]``: 0 or 1 for accuracy, a confusion matrix for mIoU.
        metric: Maps sums ``[R, ...]`` to values ``[R]``; a sum is over as many images as there are.
        seed: Seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    count = len(per_image)
    flat = per_image.reshape(count, -1).astype(np.float64)
    # how often each image is drawn, instead of the draws themselves: a resample is then one row of a product
    weights = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
    sums = (weights @ flat).reshape(RESAMPLES, *per_image.shape[1:])
    low, high = np.percentile(metric(sums), [2.5, 97.5])
    whole = flat.sum(0).reshape(1, *per_image.shape[1:])
    return Interval(float(metric(whole)[0]), float(low), float(high))


def accuracy(predicted: np.ndarray, labels: np.ndarray, seed: int = 0) -> Interval:
    """Share of images classified rightly, in [0, 1]."""
    correct = (np.asarray(predicted) == np.asarray(labels)).astype(np.float64)
    return bootstrap(correct, lambda sums: sums / len(correct), seed)


def mean_iou(confusions: np.ndarray, seed: int = 0) -> Interval:
    """Mean intersection over union of the classes that occur, in [0, 1].

    Args:
        confusions: Pixels of class ``t`` predicted as ``p``, an image ``[N, T, P]``.
        seed: Seed of the resampling.
    """
    return bootstrap(confusions, iou_of_sums, seed)


def iou_of_sums(confusion: np.ndarray) -> np.ndarray:
    """Mean IoU ``[R]`` of confusion matrices ``[R, K, K]``; a class in neither truth nor prediction does not count."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    union = confusion.sum(-1) + confusion.sum(-2) - hit
    present = union > 0
    iou = np.where(present, hit / np.where(present, union, 1), 0)
    return iou.sum(-1) / np.maximum(present.sum(-1), 1)
