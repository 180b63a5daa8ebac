"""Agreement of a map with reference labels, from a confusion matrix."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(truth: NDArray, predicted: NDArray, classes: int) -> NDArray[np.int64]:
    """Counts `[truth, predicted]` of class indices from 0."""
    flat = truth.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(flat.ravel(), minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Agreement:
    """Measures of one confusion matrix; classes that neither the truth nor the map holds are left out of means.

    Attributes:
        confusion: counts `[truth, predicted]`.
    """

    confusion: NDArray[np.int64]

    @property
    def overall_accuracy(self) -> float:
        """Share of samples on the diagonal."""
        return float(np.trace(self.confusion) / max(self.confusion.sum(), 1))

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class, NaN for a class that is nowhere."""
        hits = np.diag(self.confusion).astype(np.float64)
        union = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - hits
        return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1 of each class, NaN for a class that is nowhere."""
        iou = self.iou
        return 2 * iou / (1 + iou)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes present."""
        return float(np.nanmean(self.iou)) if np.isfinite(self.iou).any() else 0.0

    @property
    def kappa(self) -> float:
        """Cohen's kappa: agreement beyond chance."""
        total = max(int(self.confusion.sum()), 1)
        chance = float((self.confusion.sum(axis=0) / total) @ (self.confusion.sum(axis=1) / total))
        return (self.overall_accuracy - chance) / (1 - chance) if chance < 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain numbers for tags and files."""
        return {
            "overall_accuracy": round(self.overall_accuracy, 4),
            "mean_iou": round(self.mean_iou, 4),
            "kappa": round(self.kappa, 4),
            "f1": [None if np.isnan(value) else round(float(value), 4) for value in self.f1],
            "confusion": self.confusion.tolist(),
        }
