"""Seeded splits into training, validation and test images: by class, and by place where places are known.

Neighbouring images are alike; where coordinates exist, whole blocks of ground go to one side, so that a test image has
no training image around the corner (Roberts et al. 2017, "Cross-validation strategies for data with structure").
"""

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from geodino.evaluation.dataset import ImageSet

FOLDS = 5
BLOCK_KM = 10.0
KM_PER_DEGREE = 111.2


@dataclass(frozen=True)
class Split:
    """Which image is for what: indices into the data set, each ascending, together every image once.

    Attributes:
        train: Fits the classifiers.
        val: Chooses their strength; then joins ``train``.
        test: Is only ever predicted.
        kind: ``official``, ``spatial`` or ``random``.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    kind: str

    @property
    def fit(self) -> np.ndarray:
        """Training and validation images together, ascending."""
        return np.sort(np.concatenate([self.train, self.val]))


def split(images: ImageSet, seed: int = 0) -> Split:
    """Split a data set 60/20/20, the same way for the same seed.

    The authors' own split is kept where there is one. Otherwise images are dealt to five folds, balanced by class
    and, where every image has a position, whole blocks of 10 km at a time.
    """
    if images.official is not None:
        parts = {name: np.flatnonzero(images.official == name) for name in ("train", "val", "test")}
        if not len(parts["val"]):  # some data sets have no validation part: a fifth of the training images serve
            inner = _folds(_strata(images)[parts["train"]], None, seed)
            parts["val"], parts["train"] = parts["train"][inner == 0], parts["train"][inner != 0]
        return Split(**parts, kind="official")
    strata = _strata(images)
    blocks = _blocks(images.positions)
    fold = _folds(strata, blocks, seed)
    kind = "random" if blocks is None else "spatial"
    return Split(np.flatnonzero(fold > 1), np.flatnonzero(fold == 1), np.flatnonzero(fold == 0), kind)


def _strata(images: ImageSet) -> np.ndarray:
    """What to balance the folds by: the class; nothing where images have masks."""
    return np.zeros(len(images), np.int64) if images.labels is None else images.labels


def _blocks(positions: np.ndarray | None) -> np.ndarray | None:
    """Number of the block of ground under each image; None where it is not known for all, or is too few."""
    if positions is None or np.isnan(positions).any():
        return None
    step = BLOCK_KM / KM_PER_DEGREE
    row = np.floor(positions[:, 1] / step)
    # a degree of longitude shrinks towards the poles: the row's own latitude keeps blocks square
    width = step / np.maximum(np.cos(np.radians(row * step)), 0.01)
    column = np.floor(positions[:, 0] / width)
    _, block = np.unique(np.stack([row, column], 1), axis=0, return_inverse=True)
    return block.ravel() if block.max() + 1 >= 2 * FOLDS else None


def _folds(strata: np.ndarray, blocks: np.ndarray | None, seed: int) -> np.ndarray:
    fold = np.empty(len(strata), np.int64)
    dealer = (StratifiedKFold if blocks is None else StratifiedGroupKFold)(FOLDS, shuffle=True, random_state=seed)
    for number, (_, members) in enumerate(dealer.split(np.zeros(len(strata)), strata, blocks)):
        fold[members] = number
    return fold
