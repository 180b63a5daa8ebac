"""Scores of pixels pooled over small image objects: a roof changes as a whole.

The objects are the catchment basins of the two dates' colour gradient (watershed; Beucher and Lantuéjoul, 1979), so
their borders follow what either date shows. Pooling helps where objects are many pixels wide and hurts where they are
one or two, as at 10 to 30 m.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude, label, mean, minimum_filter, watershed_ift

# Side in pixels of the neighbourhood in which one basin begins: objects come out about this wide.
BASIN = 9
# Rows around a block that are segmented with it; basins are far smaller, so a block's own are those of the whole.
HALO = 48


def image_objects(before: NDArray, after: NDArray, valid: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number of the object each pixel belongs to, `[H, W]`, from values `[C, H, W]` of both dates."""
    strength = np.zeros(valid.shape)
    for band in np.concatenate([before, after]):
        smooth = gaussian_filter(np.where(valid, band, band[valid].mean() if valid.any() else 0), 0.7)
        strength += gaussian_gradient_magnitude(smooth, 0.7) ** 2
    strength = np.sqrt(strength)
    # A fixed unit (one grey level of 255 over a pixel), not the block's own maximum: blocks must agree.
    levels = np.clip(strength * 255 * 4, 0, 65535).astype(np.uint16)
    begins, _ = label(minimum_filter(strength, BASIN, mode="nearest") == strength)
    return watershed_ift(levels, begins.astype(np.int32))


def pool(scores: NDArray[np.float32], objects: NDArray[np.int32]) -> NDArray[np.float32]:
    """Mean score of each pixel's object `[H, W]`; NaN stays NaN and takes no part."""
    known = np.isfinite(scores)
    count = int(objects.max()) + 1
    numbers = np.where(known, objects, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.asarray(mean(np.where(known, scores, 0), np.where(known, objects, -1), np.arange(count)))
    return np.where(known, means[numbers], np.nan).astype(np.float32)
