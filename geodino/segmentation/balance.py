"""How much tokens and pixels each have to say, decided on the labels themselves.

With a backbone that knows the ground the tokens carry a map; with one that has never seen such a scene, or for classes
that are a matter of colour, they are noise beside the bands. A small cross-validation over the labels weighs the two
blocks of features before the head is fitted on all of them.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from geodino.segmentation.heads import BlockScale, LinearHead, blend, fit_logistic, fit_prototypes
from geodino.segmentation.validation import spatial_folds

FloatArray = NDArray[np.float32]
Scales = tuple[BlockScale, BlockScale]

# Share of the prototypes' scores in a head trained on labels: they steady the regression where labels are few and
# hardly move it where they are many, because the regression's own scores grow with the evidence.
PROTOTYPE_SHARE = 0.3
# Weights of tokens against pixels that are tried; the first is kept where the labels cannot tell.
CANDIDATES = (0.5, 1.0, 0.1)
# Labels that the choice is made on: more cost time and hardly change it.
_MOST_SAMPLES = 1500
# A later candidate must be better by this much: the choice itself is made on few labels and is noisy.
_MARGIN = 0.005


def fit_head(tokens: FloatArray, spectra: FloatArray, classes: NDArray[np.int64], scales: Scales) -> LinearHead:
    """Logistic regression steadied by prototypes: the head of every map from labels."""
    logistic = fit_logistic(tokens, spectra, classes, scales)
    return blend(logistic, fit_prototypes(tokens, spectra, classes, scales), PROTOTYPE_SHARE)


def balance(
    tokens: FloatArray, spectra: FloatArray, classes: NDArray[np.int64], groups: NDArray[np.int64], scales: Scales
) -> tuple[Scales, float]:
    """Weigh the two blocks by cross-validated mean recall.

    Args:
        tokens: token features at the labels `[N, D]`.
        spectra: pixel features there `[N, P]`; with P = 0 there is nothing to weigh.
        classes: class indices from 0 `[N]`.
        groups: spatial group of each label `[N]`.
        scales: scaling of the two blocks to equal weight.

    Returns:
        The scales with the tokens' weight in them, and that weight.
    """
    if not tokens.shape[1] or not spectra.shape[1]:
        return scales, 1.0
    picked = np.random.default_rng(0).permutation(len(classes))[:_MOST_SAMPLES]
    if len(np.unique(classes[picked])) < len(np.unique(classes)):
        picked = np.arange(len(classes))
    tokens, spectra, classes, groups = tokens[picked], spectra[picked], classes[picked], groups[picked]
    folds = spatial_folds(classes, groups)
    fewest = int(np.bincount(classes).min())
    if not folds and fewest >= 2:
        splitter = StratifiedKFold(min(5, fewest), shuffle=True, random_state=0)
        folds = list(splitter.split(tokens, classes))
    best, chosen = -1.0, CANDIDATES[0]
    for weight in CANDIDATES if folds else ():
        trial = _weighed(scales, weight)
        right, total = np.zeros(classes.max() + 1), np.zeros(classes.max() + 1)
        for train, test in folds:
            head = fit_head(tokens[train], spectra[train], classes[train], trial)
            hit = head.logits(tokens[test], spectra[test]).argmax(axis=1) == classes[test]
            right += np.bincount(classes[test], weights=hit, minlength=len(right))
            total += np.bincount(classes[test], minlength=len(right))
        recall = float(np.mean(right[total > 0] / total[total > 0]))
        if recall > best + _MARGIN:
            best, chosen = recall, weight
    return _weighed(scales, chosen), chosen


def _weighed(scales: Scales, weight: float) -> Scales:
    return BlockScale(scales[0].mean, (scales[0].scale / weight).astype(np.float32)), scales[1]
