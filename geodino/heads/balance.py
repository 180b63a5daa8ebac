"""How much tokens and pixels each have to say, decided on the labels themselves.

With a backbone that knows the ground the tokens carry a map; with one that has never seen such a scene, or for classes
that are a matter of colour, they are noise beside the bands. The weight of the tokens is the one with which labels
are foretold best from labels of other places.
"""

import numpy as np
from numpy.typing import NDArray

from geodino.heads.linear import BlockScale, LinearHead, blend, fit_logistic, fit_prototypes

FloatArray = NDArray[np.float32]
Scales = tuple[BlockScale, BlockScale]

# Share of the prototypes' scores in a head trained on labels: they steady the regression where labels are few and
# hardly move it where they are many, because the regression's own scores grow with the evidence.
PROTOTYPE_SHARE = 0.1
# Weights of tokens against pixels that are tried; the first is kept where the labels cannot tell.
CANDIDATES = (0.1, 0.3, 1.0)
# Ridges tried with each weight, in units of a block's expected squared length.
_RIDGES = (0.03, 0.1, 0.3)
# Labels that the choice is made on: more cost time and hardly change it.
_MOST_SAMPLES = 1500
# Error by which another weight than the first must be better: the choice is made on few labels and is noisy.
_MARGIN = 0.95


def fit_head(tokens: FloatArray, spectra: FloatArray, classes: NDArray[np.int64], scales: Scales) -> LinearHead:
    """Logistic regression steadied by prototypes: the head of every map from labels."""
    logistic = fit_logistic(tokens, spectra, classes, scales)
    return blend(logistic, fit_prototypes(tokens, spectra, classes, scales), PROTOTYPE_SHARE)


def balance(
    tokens: FloatArray, spectra: FloatArray, classes: NDArray[np.int64], groups: NDArray[np.int64], scales: Scales
) -> tuple[Scales, float]:
    """Weigh the two blocks by the error of a ridge regression on places that were left out of it.

    Args:
        tokens: token features at the labels `[N, D]`.
        spectra: pixel features there `[N, P]`; with P = 0 there is nothing to weigh.
        classes: class indices from 0 `[N]`.
        groups: spatial group of each label `[N]`; a group is left out whole.
        scales: scaling of the two blocks to equal weight.

    Returns:
        The scales with the tokens' weight in them, and that weight.
    """
    if not tokens.shape[1] or not spectra.shape[1]:
        return scales, 1.0
    picked = np.random.default_rng(0).permutation(len(classes))[:_MOST_SAMPLES]
    classes, groups = classes[picked], groups[picked]
    chosen = CANDIDATES[0]
    if len(np.unique(groups)) > len(np.unique(classes)) > 1:
        own = [
            scale.apply(block[picked]).astype(np.float64)
            for scale, block in zip(scales, (tokens, spectra), strict=True)
        ]
        gram = [block @ block.T for block in own]
        truth = np.eye(int(classes.max()) + 1)[classes]
        error = {
            weight: min(left_out_error(weight**2 * gram[0] + gram[1], truth, groups, ridge) for ridge in _RIDGES)
            for weight in CANDIDATES
        }
        best = min(error, key=lambda weight: error[weight])
        if error[best] < _MARGIN * error[chosen]:
            chosen = best
    return _weighed(scales, chosen), chosen


def left_out_error(
    gram: NDArray[np.float64], truth: NDArray[np.float64], groups: NDArray[np.int64], ridge: float
) -> float:
    """Squared error of kernel ridge regression at each group when trained without it, in closed form.

    With ``A = gram + ridge I`` the residual of a group that was left out is ``(A⁻¹)_gg⁻¹ (A⁻¹ y)_g``: one inverse
    serves every group (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section 5.4.2).

    Args:
        gram: inner products of the samples `[N, N]`.
        truth: targets `[N, K]`.
        groups: group of each sample `[N]`.
        ridge: penalty, above 0.
    """
    centred = truth - truth.mean(axis=0)
    inverse = np.linalg.inv(gram + ridge * np.eye(len(gram)))
    weights = inverse @ centred
    total = 0.0
    for group in np.unique(groups):
        here = np.flatnonzero(groups == group)
        total += float((np.linalg.solve(inverse[np.ix_(here, here)], weights[here]) ** 2).sum())
    return total


def _weighed(scales: Scales, weight: float) -> Scales:
    return BlockScale(scales[0].mean, (scales[0].scale / weight).astype(np.float32)), scales[1]
