"""Coarse scores made pixel-sharp with the image as guide.

Around every token the coarse scores are a straight-line function of the image's colour; the line, evaluated at each
pixel's own colour, moves the border to where the colour changes. He, Sun and Tang, "Guided image filtering", IEEE
TPAMI 35(6), 2013; fitting the lines on the coarse grid and interpolating only their coefficients is He and Sun,
"Fast guided filter", arXiv:1505.00996.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

FloatArray = NDArray[np.float32]

# Tokens to each side over which one line is fitted.
RADIUS = 1
# Variance of the guide below which its colour is noise rather than an edge, in squared [0, 1] units.
SMOOTHNESS = 1e-3


def token_means(values: FloatArray, valid: NDArray[np.bool_], patch: int) -> tuple[FloatArray, FloatArray]:
    """Mean colour of each token and the second moments inside it.

    Args:
        values: guide `[C, h * patch, w * patch]`, whole tokens (pad the last with invalid pixels).
        valid: `[h * patch, w * patch]`.
        patch: pixels of a token's side.

    Returns:
        Means `[C, h, w]` and second moments `[C, C, h, w]` of the valid pixels, 0 for tokens without any.
    """
    channels = len(values)
    height, width = valid.shape[0] // patch, valid.shape[1] // patch
    tiles = (values * valid).reshape(channels, height, patch, width, patch)
    share = np.maximum(valid.reshape(height, patch, width, patch).sum(axis=(1, 3)), 1).astype(np.float32)
    means = tiles.sum(axis=(2, 4)) / share
    moments = np.einsum("ahiwj,bhiwj->abhw", tiles, tiles) / share
    return means, moments


def guided_lines(
    logits: FloatArray,
    means: FloatArray,
    moments: FloatArray,
    *,
    valid: NDArray[np.bool_] | None = None,
    radius: int = RADIUS,
    smoothness: float = SMOOTHNESS,
) -> tuple[FloatArray, FloatArray]:
    """Straight lines from colour to score around every token.

    Args:
        logits: coarse scores `[K, h, w]`.
        means: mean colour `[C, h, w]`.
        moments: second moments of the colour `[C, C, h, w]`.
        valid: tokens that count `[h, w]`; None for all. The others get the lines of their neighbours.
        radius: tokens to each side in one fit.
        smoothness: ridge on the colour's covariance.

    Returns:
        Slopes `[K, C, h, w]` and offsets `[K, h, w]`: score = slopes · colour + offset.
    """
    size = 2 * radius + 1

    weight = np.ones(logits.shape[1:], np.float32) if valid is None else valid.astype(np.float32)
    total = np.maximum(_box(weight, size), 1e-6)

    def box(array: FloatArray) -> FloatArray:
        return (_box(array * weight, size) / total).astype(np.float32)

    channels = len(means)
    if channels == 0:  # nothing to follow: the scores themselves, and their mean where a token has none
        slopes = np.zeros((len(logits), 0, *logits.shape[1:]), np.float32)
        return slopes, np.where(weight > 0, logits, box(logits)).astype(np.float32)
    mean = box(means)
    covariance = box(moments) - mean[:, None] * mean[None]
    covariance = covariance + smoothness * np.eye(channels, dtype=np.float32)[:, :, None, None]
    mean_logit = box(logits)
    cross = box(logits[:, None] * means[None]) - mean_logit[:, None] * mean[None]
    slopes = np.linalg.solve(
        np.moveaxis(covariance, (0, 1), (2, 3)).astype(np.float64),
        np.moveaxis(cross, (0, 1), (3, 2)).astype(np.float64),
    )
    slopes = np.moveaxis(slopes, (3, 2), (0, 1)).astype(np.float32)
    # Each line passes through its own token's score at its own mean colour: refinement adds detail within tokens
    # and never smooths the map of tokens.
    own = logits - np.einsum("kchw,chw->khw", slopes, means)
    around = mean_logit - np.einsum("kchw,chw->khw", slopes, mean)
    return slopes, np.where(weight > 0, own, around).astype(np.float32)


def _box(array: FloatArray, size: int) -> FloatArray:
    """Mean over ``size`` by ``size`` tokens of the last two axes."""
    return uniform_filter(array, (*([0] * (array.ndim - 2)), size, size), mode="nearest")


def apply_lines(slopes: FloatArray, offsets: FloatArray, values: FloatArray) -> FloatArray:
    """Scores at pixels from lines brought to the pixel grid: `[K, C, H, W]`, `[K, H, W]` and colours `[C, H, W]`."""
    return np.einsum("kchw,chw->khw", slopes, values) + offsets
