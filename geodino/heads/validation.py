"""How good a map is likely to be, measured on labels it has not seen.

Neighbouring pixels are alike, so a random split flatters (Roberts et al., "Cross-validation strategies for data with
temporal, spatial, hierarchical, or phylogenetic structure", Ecography 40, 2017). Whole objects, and objects that lie
close together, stay on one side of every split.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geodino.heads.legend import Legend
from geodino.heads.metrics import Agreement, confusion_matrix

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

MOST_FOLDS = 5
# Blocks across the labelled extent's longer side; objects in one block are never split between folds.
_BLOCKS = 16

Predictor = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def spatial_blocks(rows: NDArray[np.int64], cols: NDArray[np.int64], objects: NDArray[np.int64]) -> NDArray[np.int64]:
    """Group of each sample: objects that share a block of the scene are one group `[N]`.

    Args:
        rows: pixel rows `[N]`.
        cols: pixel columns `[N]`.
        objects: object of each sample `[N]`.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    side = max(int(np.ptp(rows)), int(np.ptp(cols)), _BLOCKS) // _BLOCKS
    cells = np.unique((rows // side) * (int(cols.max()) // side + 1) + cols // side, return_inverse=True)[1]
    things = np.unique(objects, return_inverse=True)[1]
    count = int(things.max()) + 1
    size = count + int(cells.max()) + 1
    links = coo_matrix((np.ones(len(things)), (things, count + cells)), shape=(size, size))
    return connected_components(links, directed=False)[1][things].astype(np.int64)


def spatial_folds(
    classes: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 0
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Splits `(train, test)` that keep groups whole.

    A class whose labels lie in one group only cannot be tested: its group is in every training set and in no test set.
    Empty when fewer than two classes can be tested.

    Args:
        classes: class of each sample `[N]`.
        groups: spatial group of each sample `[N]`.
        seed: seed of the shuffle.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    lonely = [index for index in np.unique(classes) if len(np.unique(groups[classes == index])) < 2]
    always = np.isin(groups, np.unique(groups[np.isin(classes, lonely)]))
    open_to_test = np.flatnonzero(~always)
    spread = [
        len(np.unique(groups[open_to_test][classes[open_to_test] == i])) for i in np.unique(classes[open_to_test])
    ]
    if len(spread) < 2 or max(spread) < 2:
        return []
    # As many folds as the class in most places has, up to five: a rarer class is absent from some folds' tests.
    splitter = StratifiedGroupKFold(min(MOST_FOLDS, max(spread)), shuffle=True, random_state=seed)
    known = len(np.unique(classes))
    folds = []
    with warnings.catch_warnings():
        # That a rarer class is absent from some folds' tests is meant, and scikit-learn warns of it.
        warnings.filterwarnings("ignore", message="The least populated class in y")
        splits = list(splitter.split(open_to_test, classes[open_to_test], groups[open_to_test]))
    for train, test in splits:
        members = np.concatenate([open_to_test[train], np.flatnonzero(always)])
        if len(np.unique(classes[members])) == known and len(test):
            folds.append((np.sort(members), open_to_test[test]))
    return folds


@dataclass(frozen=True)
class Validation:
    """Result of a spatially blocked cross-validation.

    Attributes:
        legend: the classes.
        ours: agreement of the head.
        forest: agreement of a random forest on the pixels' bands, same labels and folds.
        folds: how many splits.
        groups: how many spatial groups the labels fall into.
    """

    legend: Legend
    ours: Agreement
    forest: Agreement
    folds: int
    groups: int

    def describe(self) -> list[str]:
        """Lines of a plain-text report."""
        width = max(5, *(len(name) for name in self.legend.names))
        lines = [
            f"spatially blocked cross-validation, {self.folds} folds over {self.groups} groups of labels:",
            f"{'':{width}}  {'this map':>9}  {'pixel forest':>12}",
        ]
        for title, measure in (("overall accuracy", "overall_accuracy"), ("mIoU", "mean_iou"), ("kappa", "kappa")):
            lines.append(f"{title:{width}}  {getattr(self.ours, measure):9.3f}  {getattr(self.forest, measure):12.3f}")
        tested = self.ours.confusion.sum(axis=1) > 0
        for name, ours, forest, known in zip(self.legend.names, self.ours.f1, self.forest.f1, tested, strict=True):
            figures = f"{ours:9.3f}  {forest:12.3f}   (F1)" if known else "not tested: its labels lie in a single place"
            lines.append(f"{name:{width}}  {figures}")
        lines.append("confusion (rows: label, columns: map):")
        cells = max(len(str(int(self.ours.confusion.max()))), 4)
        for name, row in zip(self.legend.names, self.ours.confusion, strict=True):
            lines.append(f"{name:{width}}  " + " ".join(f"{int(value):{cells}d}" for value in row))
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain numbers for tags and model files."""
        return {
            "folds": self.folds,
            "groups": self.groups,
            "classes": list(self.legend.names),
            "map": self.ours.to_json(),
            "pixel_forest": self.forest.to_json(),
        }


def cross_validate(
    legend: Legend,
    classes: NDArray[np.int64],
    groups: NDArray[np.int64],
    fit: Callable[[NDArray[np.int64]], Predictor],
    pixels: NDArray[np.float32],
    *,
    seed: int = 0,
) -> Validation | None:
    """Fit and score on spatially separate samples.

    Args:
        legend: the classes.
        classes: class of each sample `[N]`.
        groups: spatial group of each sample `[N]`.
        fit: takes the indices of training samples and gives a function from sample indices to classes.
        pixels: band values of the samples `[N, C]`, for the random forest beside it.
        seed: seed of folds and forest.

    Returns:
        None when nothing independent is left to test on: fewer than two classes have labels in two places.
    """
    folds = spatial_folds(classes, groups, seed)
    if not folds:
        return None
    count = len(legend)
    ours = np.zeros((count, count), dtype=np.int64)
    forest = np.zeros((count, count), dtype=np.int64)
    for train, test in folds:
        ours += confusion_matrix(classes[test], fit(train)(test), count)
        trees = pixel_forest(pixels[train], classes[train], seed)
        forest += confusion_matrix(classes[test], trees.predict(pixels[test]), count)
    return Validation(legend, Agreement(ours), Agreement(forest), len(folds), len(np.unique(groups)))


def pixel_forest(pixels: NDArray, classes: NDArray, seed: int = 0) -> "RandomForestClassifier":
    """The usual floor: a random forest on the bands of single pixels, classes weighing the same."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(200, class_weight="balanced", random_state=seed, n_jobs=-1).fit(pixels, classes)
